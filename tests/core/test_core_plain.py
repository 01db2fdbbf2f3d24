"""One conversion to plain values, and errors that name the field and never the value."""

import json
import math
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from meninx.core import plain
from meninx.core.errors import DataError


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    BIG = 2


class Plain(Enum):
    A = "a"


@dataclass(frozen=True, kw_only=True)
class Inner:
    place: Path
    colour: Colour = Colour.RED


@dataclass(frozen=True, kw_only=True)
class Outer:
    number: int
    values: tuple[float, ...] = ()
    inner: Inner | None = None
    table: dict[str, int] | None = None


def test_everything_that_stages_hold_becomes_plain():
    value = {
        "path": Path("a/b"),
        "enum": [Colour.RED, Size.BIG, Plain.A],
        "numpy": [np.float32(0.5), np.int64(3), np.bool_(True), np.str_("x"), np.float64("nan")],
        "array": np.array([[1.0, math.inf]]),
        "nan": (math.nan, -math.inf, 1.5),
        1: "integer key",
        Colour.RED: "enum key",
        "inner": Inner(place=Path("x")),
        "set": {"one"},
        "view": MappingProxyType({"a": math.inf}),
        "none": None,
    }
    assert plain.to_plain(value) == {
        "path": str(Path("a/b")),
        "enum": ["red", 2, "a"],
        "numpy": [0.5, 3, True, "x", None],
        "array": [[1.0, None]],
        "nan": [None, None, 1.5],
        "1": "integer key",
        "red": "enum key",
        "inner": {"place": "x", "colour": "red"},
        "set": ["one"],
        "view": {"a": None},
        "none": None,
    }
    assert json.loads(plain.to_json(value)) == plain.to_plain(value)


def test_what_has_no_plain_form_is_a_bug_that_is_said():
    with pytest.raises(NotImplementedError, match="object"):
        plain.to_plain({"x": object()})


def test_a_record_comes_back_typed():
    value = Outer(number=1, values=(0.5, 2.0), inner=Inner(place=Path("a")), table={"a": 1})
    assert plain.from_json(plain.to_json(value), Outer, where="x") == value
    assert plain.from_plain(plain.to_plain(value), Outer, where="x") == value


SECRET = "Meier^Anna"


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ({"number": SECRET}, "number"),
        ({"number": 1.5}, "number"),
        ({"number": 1, "values": SECRET}, "values"),
        ({"number": 1, "values": [SECRET]}, "values"),
        ({"number": 1, "inner": {"place": "x", "colour": SECRET}}, "colour"),
        ({"number": 1, "inner": {"place": 5}}, "place"),
        ({"number": 1, "table": {SECRET: SECRET}}, "table"),
        ({"values": []}, "number"),
        ([SECRET], ""),
        (SECRET, ""),
    ],
)
def test_a_wrong_type_names_the_field_and_no_value(table: object, field: str):
    for read in (
        lambda: plain.from_json(json.dumps(table), Outer, where="f.json"),
        lambda: plain.from_plain(table, Outer, where="f.json"),
    ):
        with pytest.raises(DataError, match=r"f\.json") as caught:
            read()
        assert field in str(caught.value)
        assert SECRET not in str(caught.value)
    with pytest.raises(DataError) as caught:
        plain.from_plain(SECRET, Colour, where="f.json")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"NaN",
        b'{"number": NaN}',
        b'{"number": 1e999}',
        b"[" * 200_000,
        b'{"number": ' + b"9" * 5000 + b"}",
        b'"\\ud800"',
        '{"number": 1, "table": {"Meier": "x"}}'.encode("utf-16"),
    ],
)
def test_foreign_content_is_a_data_error_that_names_the_file(content: bytes):
    for kind in (Outer, dict[str, object]):
        with pytest.raises(DataError, match=r"f\.json"):
            plain.from_json(content, kind, where="f.json")


def test_deep_tables_are_a_data_error():
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    try:
        with pytest.raises(DataError, match=r"f\.json"):
            plain.from_plain(deep, Outer, where="f.json")
    finally:
        while deep:  # unmade from the outside: taking it apart in one go is deep, too
            deep = deep["a"]  # type: ignore[assignment]


def test_a_kind_of_text_is_text():
    class Name(str):
        __slots__ = ()

    assert plain.to_plain({"uid": Name("1.2.3")}) == {"uid": "1.2.3"}
