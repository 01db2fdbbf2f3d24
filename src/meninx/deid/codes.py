"""Coded entries: published codes stay with their published meaning, a hospital's own codes become pseudonyms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from meninx.deid.actions import Context
from meninx.deid.charsets import decode
from meninx.deid.elements import Element
from meninx.deid.iod import read_table
from meninx.deid.options import Option
from meninx.deid.text import REMOVED, TextContext, clean_text

VALUE, SCHEME, VERSION, MEANING, LONG_VALUE, URN_VALUE = (
    0x00080100,
    0x00080102,
    0x00080103,
    0x00080104,
    0x00080119,
    0x00080120,
)
TAGS = frozenset({VALUE, SCHEME, VERSION, MEANING, LONG_VALUE, URN_VALUE})
LOCAL_SCHEME = "99MENINX"
_DEFAULT_SHAPE = re.compile(r"[A-Z]{0,4}[-.]?[0-9][0-9A-F.-]{0,11}")
_SHAPES = {
    "SCT": re.compile(r"[0-9]{6,18}"),
    "SRT": re.compile(r"[A-Z][0-9A-Z]?-[0-9A-F]{3,6}"),
    "LN": re.compile(r"[0-9]{1,7}-[0-9]"),
    "DCM": re.compile(r"[0-9]{6}"),
    "UCUM": re.compile(r"[A-Za-z0-9{}\[\]/.*%'^-]{1,10}"),
}
_SYNONYMS = {"SNM3": "SRT", "99SDM": "SRT", "SNOMED-CT": "SCT"}
PUBLISHED: frozenset[str] = frozenset(row["designator"] for row in read_table("coding_schemes.csv"))


def clean_code(item: list[Element], encodings: tuple[str, ...], context: Context) -> dict[int, Element]:
    """Return the elements that take the place of the code value, scheme, version and meaning of one item.

    Args:
        item: elements of a sequence item; without any of these attributes the result is empty.
        encodings: character sets in force.
        context: of the file.
    """
    text = {
        e.tag: decode(bytes(e.value), encodings).strip(" \0")
        for e in item
        if e.tag in TAGS and e.items is None
    }
    if not text:
        return {}
    values = [tag for tag in (VALUE, LONG_VALUE, URN_VALUE) if text.get(tag)]
    scheme = text.get(SCHEME, "")
    if all(_is_published(scheme, text[tag], context) for tag in values) and (
        scheme in PUBLISHED or not scheme
    ):
        new = {tag: text[tag] for tag in (*values, SCHEME) if tag in text}
        if re.fullmatch(r"[0-9.vV_-]{1,16}", text.get(VERSION, "")):
            new[VERSION] = text[VERSION]
    else:
        pseudonyms = context.resolver.pseudonyms
        new = {tag: pseudonyms.identifier("CodeValue", f"{scheme}/{text[tag]}") for tag in values}
        if SCHEME in text:
            new[SCHEME] = LOCAL_SCHEME
    if MEANING in text:
        new[MEANING] = _meaning(text, values, context)
    return {tag: _element(tag, value) for tag, value in new.items()}


def dummy_code() -> list[Element]:
    """Return an item that says that a code was removed."""
    return [_element(VALUE, REMOVED), _element(SCHEME, LOCAL_SCHEME), _element(MEANING, REMOVED)]


def published_meanings(scheme: str, value: str) -> tuple[str, ...]:
    """Return the published meanings of a code, shortest first; none when the tables do not know it."""
    name = _SYNONYMS.get(scheme, scheme)
    if name == "SRT":
        name, value = "SCT", _snomed_numbers().get(value, value)
    return _published().get((name, value), ())


def _is_published(scheme: str, value: str, context: Context) -> bool:
    if scheme not in PUBLISHED:
        return False
    if published_meanings(scheme, value):
        return True
    shape = _SHAPES.get(_SYNONYMS.get(scheme, scheme), _DEFAULT_SHAPE)
    return bool(shape.fullmatch(value)) and not context.found.found_in(value)


def _meaning(text: Mapping[int, str], values: list[int], context: Context) -> str:
    """Return the meaning as it is when it is the published one, else the published one, else its harmless words."""
    original = text[MEANING]
    published = published_meanings(text.get(SCHEME, ""), text[values[0]]) if values else ()
    if published:
        known = original.casefold() in (meaning.casefold() for meaning in published)
        meaning = original if known else published[0][:64]
        return REMOVED if context.found.found_in(meaning) else meaning
    if Option.CLEAN_DESCRIPTORS not in context.profile.options:
        return REMOVED
    return context.found.removed_from(clean_text(original, TextContext("CodeMeaning", "LO"))) or REMOVED


def _element(tag: int, text: str) -> Element:
    vr = {MEANING: "LO", LONG_VALUE: "UC", URN_VALUE: "UR"}.get(tag, "SH")
    value = text.encode("ascii", "replace")
    return Element(tag, vr, value + b" " * (len(value) % 2))


@lru_cache(maxsize=1)
def _published() -> dict[tuple[str, str], tuple[str, ...]]:
    from pydicom.sr._concepts_dict import concepts  # half a second: only when a code is met

    table: Mapping[str, Mapping[str, Mapping[str, tuple[str, list[int]]]]] = concepts  # type: ignore[assignment]
    meanings: dict[tuple[str, str], set[str]] = {}
    for scheme, names in table.items():
        for codes in names.values():
            for value, entry in codes.items():
                meanings.setdefault((scheme, value), set()).add(entry[0])
    return {
        code: tuple(sorted(found, key=lambda text: (len(text), text))) for code, found in meanings.items()
    }


@lru_cache(maxsize=1)
def _snomed_numbers() -> dict[str, str]:
    from pydicom.sr._snomed_dict import mapping

    return dict(mapping["SRT"])
