"""Whatever a file holds, paths stay below their folder, and records come back as they were.

Names have no effect where they are shown.
"""

import json
import math
import tempfile
from contextlib import nullcontext
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meninx.core import artifacts, files, integrity, names, plain
from meninx.core.errors import DataError, MeninxError, expected
from meninx.core.journal import Journal

HOSTILE = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="./\\:~ a\0\n\u2028\ud800C", max_size=20),
    st.lists(st.sampled_from(["..", ".", "a", "out", "in", "", "~", "C:", "\\", "nul"]), max_size=6).map(
        "/".join
    ),
)
RECORDS = (
    artifacts.RunRecord,
    artifacts.DataRecord,
    artifacts.Members,
    artifacts.Lineage,
    artifacts.PrivacyRecord,
    artifacts.EvaluationRecord,
    artifacts.ComparisonRecord,
    artifacts.DeidRecord,
    artifacts.PrepareRecord,
    artifacts.SweepRecord,
)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names") / "root"
    (folder / "in").mkdir(parents=True)
    (folder / "out").symlink_to("..")
    return folder


@given(name=HOSTILE)
def test_a_path_from_a_file_lies_below_its_folder(root: Path, name: str):
    try:
        path = files.below(root, name, where="x")
    except DataError:
        return
    assert path.resolve() != root.resolve()
    assert path.resolve().is_relative_to(root.resolve())
    assert path.is_relative_to(root)


@given(st.text(max_size=300))
def test_a_name_that_passes_is_one_line_of_plain_text(name: str):
    if names.problem(name):
        return
    assert all(character.isprintable() or character.isspace() for character in name)
    assert len(name.splitlines()) == 1
    assert name[0] not in "$@%="
    assert len(name) <= names.LONGEST


@given(st.lists(st.text(max_size=6), max_size=5))
def test_a_refused_name_is_not_quoted(every: list[str]):
    wrong = [number for number, name in enumerate(every, start=1) if names.problem(name)]
    with pytest.raises(DataError) if wrong else nullcontext() as caught:
        names.check(every, what="label", where="table.csv")
    if wrong:
        assert str(caught.value) == str(_refusal(wrong[0], every[wrong[0] - 1]))


def _refusal(number: int, name: str) -> DataError:
    """Return the error with the words of :func:`names.problem`, which are a few fixed ones."""
    found = names.problem(name)
    assert found in {names.problem(example) for example in ("", "$x", "\u200b" * 3, "x" * 256, "a#b")}
    fix = "rename it in the source table and prepare again"
    return DataError(expected(f"a plain name for label {number}", got=found, where="table.csv", fix=fix))


@given(st.text(alphabet="=+-@|!\t\r\n＝0123456789.e ax", max_size=8))
def test_a_cell_begins_no_formula(text: str):
    cell = names.csv_cell(text)
    assert cell in (text, f"'{text}")
    if cell == text and text[:1] and text[0] in "=+-@\t\r\n＝":
        float(text)


@given(st.text(max_size=30))
def test_markdown_is_one_line_in_which_every_sign_is_quoted(text: str):
    shown = names.markdown(text)
    assert len(shown.splitlines()) <= 1
    bare = shown.replace("\\\\", "")
    for sign in "`*_{}[]<>()#+!|~$&@":
        assert bare.count(sign) == bare.count(f"\\{sign}")


def _strategy(hint: Any) -> st.SearchStrategy[Any]:
    """Return values of a field's type."""
    if hint is Any:
        return PLAIN
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return st.one_of(*map(_strategy, inner))
    if origin is tuple:
        if len(inner) == 2 and inner[1] is ...:
            return st.lists(_strategy(inner[0]), max_size=2).map(tuple)
        return st.tuples(*map(_strategy, inner))
    if origin is dict:
        keys = st.integers(0, 9) if inner[0] is int else st.text(max_size=5)
        return st.dictionaries(keys, _strategy(inner[1]), max_size=2)
    simple = {
        str: st.text(max_size=8),
        int: st.integers(0, 2),
        float: st.floats(allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
        NoneType: st.none(),
        artifacts.RunState: st.sampled_from(artifacts.RunState),
    }
    return simple[hint] if hint in simple else _records(hint)


def _records(kind: type) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind)
    if kind is artifacts.Lineage:
        del hints["parents"]
    return st.builds(kind, **{name: _strategy(hint) for name, hint in hints.items()})


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_comes_back_as_it_was_written(kind: type):
    @settings(max_examples=15, deadline=None)
    @given(_records(kind))
    def check(record: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = artifacts.write(Path(folder), record)
            assert artifacts.read(Path(folder), kind) == record
            assert path == Path(folder) / artifacts.place(kind)

    check()


@pytest.mark.parametrize("kind", RECORDS)
def test_any_other_content_is_a_data_error_that_names_the_file(kind: type):
    @settings(max_examples=25, deadline=None)
    @given(st.one_of(st.binary(max_size=30), PLAIN.map(lambda value: json.dumps(value).encode())))
    def check(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / artifacts.place(kind)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            try:
                artifacts.read(Path(folder), kind)
            except DataError as error:
                message = str(error)
            else:
                return
            assert path.name in message

    check()


@settings(deadline=None, max_examples=15)
@given(st.lists(st.dictionaries(st.text(max_size=5), PLAIN, max_size=3), max_size=4))
def test_a_journal_keeps_every_whole_line_at_every_cut(tables: list[dict[str, Any]]):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        with Journal(path).appending() as lines:
            for table in tables:
                lines.add(table)
        whole = path.read_bytes() if tables else b""
        for cut in range(0, len(whole), max(1, len(whole) // 20)):
            path.write_bytes(whole[:cut])
            kept = whole[:cut].count(b"\n")
            assert list(Journal(path).tables()) == tables[:kept]
            with Journal(path).appending() as lines:
                lines.add({"after": 1})
            assert list(Journal(path).tables()) == [*tables[:kept], {"after": 1}]


@given(st.text(max_size=200))
def test_a_hostile_list_of_digests_is_read_or_refused(text: str):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / integrity.CHECKSUMS).write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            found = integrity.damage(root)
        except MeninxError:
            return
        assert all(files.below(root, name, where="x") for name in found.missing)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(HOSTILE, st.just("0" * 64), max_size=4))
def test_what_is_written_as_a_list_is_read_back(digests: dict[str, str]):
    with tempfile.TemporaryDirectory() as folder:
        try:
            own = integrity.write(Path(folder), digests)
        except DataError:
            return
        found = integrity.read(Path(folder))
        assert found == digests
        assert own == integrity.digest_of(Path(folder))


@given(st.floats() | st.lists(st.floats(), max_size=3))
def test_a_number_that_is_not_finite_is_null(value: float | list[float]):
    many = value if isinstance(value, list) else [value]
    found = json.loads(plain.to_json({"x": value}), parse_constant=lambda _: pytest.fail("no JSON number"))[
        "x"
    ]
    for number, back in zip(many, found if isinstance(value, list) else [found], strict=True):
        assert back == number if math.isfinite(number) else back is None
