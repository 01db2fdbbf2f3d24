"""Content items of structured reports and acquisition contexts: each is treated by its concept name.

The same attributes (Text Value, Date, Person Name, ...) hold a finding in one content item and the patient's
birth date in another, so the table of attributes cannot decide on them. Table E.3.4-1 lists the concept names
that matter, each with the value type it is used with. What it does not list keeps numbers, codes, and texts
that the text cleaner leaves. Names, UIDs and dates of unlisted concepts follow the table of attributes.

An item whose concept must go is removed with its value. Where it has items below it, or where other items
refer to positions in the tree, the item stays with a dummy value instead. Numbers and coded findings below it
are then not lost, and references keep pointing to the right place.

References:
    DICOM PS3.15, edition 2026d, Annex E.3.4 and Table E.3.4-1 (``tables/structured_content.csv``).
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from meninx.core.value_caches import cached
from meninx.deid.coded_entries import (
    CODE_MEANING,
    CODE_VALUE,
    CODING_SCHEME,
    LONG_CODE_VALUE,
    canonical_code,
    code_texts,
    published_meanings,
)
from meninx.deid.dates import parse
from meninx.deid.options import Option
from meninx.deid.profile import read_table
from meninx.deid.stated_ages import MEASURED, NUMBERS
from meninx.deid.units_of_time import LISTED_AGES, words_of
from meninx.dicomfile.charset import decode
from meninx.dicomfile.elements import Element

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meninx.deid.actions import FileContext

CONCEPT_NAME, CONTENT, POSITIONS = 0x0040A043, 0x0040A730, 0x0040DB73
TEXT, PERSON_NAME, DATE_TIME, DATE = 0x0040A160, 0x0040A123, 0x0040A120, 0x0040A121
CODE, VALUE_TYPE, BIRTH_DATE = 0x0040A168, 0x0040A040, 0x00100030
_FRAMES = frozenset({0x52009229, 0x52009230})
# The attribute that holds the value, by value type.
VALUES = {
    TEXT: ("TEXT",),
    PERSON_NAME: ("PNAME",),
    0x0040A124: ("UIDREF",),
    DATE_TIME: ("DATETIME",),
    DATE: ("DATE",),
    0x0040A122: ("TIME",),
    MEASURED: ("NUM",),
    CODE: ("CODE",),
    0x00081199: ("IMAGE", "COMPOSITE", "WAVEFORM"),
    CONTENT: ("CONTAINER",),
}
VALUES |= dict.fromkeys(NUMBERS, ("NUM",))  # an item outside a report holds its number itself
_OF_BIRTH = NUMBERS | {DATE_TIME, DATE, TEXT, MEASURED}
_NOT_AS_TEXT = NUMBERS | {CONTENT, MEASURED, CODE}
SUBJECT_NAME, SUBJECT_ID = ("DCM", "121029"), ("DCM", "121030")
SUBJECT_BIRTH, SUBJECT_AGE = ("DCM", "121031"), ("DCM", "121033")
# Concepts that say when the patient was born, besides the one in the table.
_BIRTH_DATES = frozenset(
    {
        SUBJECT_BIRTH,
        ("LN", "21112-8"),
        ("LN", "57722-1"),
        ("SCT", "184099003"),
        ("SCT", "3950001"),
        ("LN", "80904-6"),
    }
)
_BORN = re.compile(
    r"\b(?:date of birth|year of birth|birth ?date|birth ?year|birthday|(?:patient|pat)?(?:dob|yob)"
    r"|(?:patient|pat|subject)birth(?:date|year)|geburts ?(?:datum|tag|jahr)"
    r"|jahrgang|geboorte(?:datum|jaar)|(?:date|année) de naissance|(?:fecha|año) de nacimiento"
    r"|(?:data|anno) di nascita|(?:data|ano) de nascimento)\b|^(?:born|geb|geboren) ?(?:on|am|in)?$"
)
_SUBJECT_AGE = re.compile(
    r"(?:(?:subject|patient|pat)s?(?: s)? ?)?(?:age|alter|âge|edad|età|leeftijd)|patienten ?alter"
)


class Treatment(StrEnum):
    """What happens to the value of one content item."""

    REMOVED = "removed"
    """The item goes."""
    DUMMY = "dummy"
    """The item stays with a value that says nothing."""
    AS_LISTED = "as-listed"
    """The table of attributes decides, as for every other element."""
    KEPT = "kept"
    """The value stays, less the identifiers in it."""
    CLEANED = "cleaned"
    """A text is reduced, a date or time is shifted."""


class ContentRow(NamedTuple):
    """One row of Table E.3.4-1."""

    basic: str
    cells: dict[Option, str]


@lru_cache(maxsize=1)
def table() -> dict[tuple[str, str, str], ContentRow]:
    """Return (coding scheme, code, value type) -> row of Table E.3.4-1."""
    return {
        (row["scheme"], row["code"], row["value_type"]): ContentRow(
            row["basic"], {item: row[item.column] for item in Option if row.get(item.column)}
        )
        for row in read_table("structured_content.csv")
    }


@lru_cache(maxsize=1)
def _by_code() -> dict[tuple[str, str], dict[str, ContentRow]]:
    """Return (scheme, code) -> value type -> row; version marks of a scheme are ignored."""
    found: dict[tuple[str, str], dict[str, ContentRow]] = {}
    for (scheme, code, kind), row in table().items():
        found.setdefault(_canonical(scheme, code), {})[kind] = row
    return found


def _canonical(scheme: str, code: str) -> tuple[str, str]:
    return canonical_code(re.sub(r"\s*\[.*\]$", "", scheme.strip()), code.strip())


def concept_of(item: list[Element], encodings: tuple[str, ...]) -> tuple[str, str] | None:
    """Return scheme and code of an item's concept name, both empty if it has no code; None without a name.

    Other codes of the subject's age and birth date, and local codes that mean them, are those of the table.
    """
    for element in item:
        if element.tag == CONCEPT_NAME and element.items:
            text = code_texts(element.items[0], encodings)
            code = text.get(CODE_VALUE) or text.get(LONG_CODE_VALUE, "")
            concept = _canonical(text.get(CODING_SCHEME, ""), code)
            meanings = [
                " ".join(words_of(meaning))
                for meaning in (text.get(CODE_MEANING, ""), *published_meanings(*concept))
            ]
            if concept in LISTED_AGES or any(map(_SUBJECT_AGE.fullmatch, meanings)):
                return SUBJECT_AGE
            return SUBJECT_BIRTH if concept in _BIRTH_DATES or any(map(_BORN.search, meanings)) else concept
    return None


@cached(maxsize=4096)
def treatment(concept: tuple[str, str], tag: int, options: frozenset[Option], kind: str = "") -> Treatment:
    """Return what happens to the value of a content item.

    Args:
        concept: scheme and code of the concept name.
        tag: the attribute that holds the value, one of :data:`VALUES`.
        options: in force.
        kind: the value type that the item states; one attribute may hold several.
    """
    concept = _canonical(*concept)
    if concept in _BIRTH_DATES and tag in _OF_BIRTH:
        return Treatment.REMOVED
    rows = _by_code().get(concept, {})
    kinds = sorted(VALUES[tag], key=lambda name: name != kind)
    row = next((rows[name] for name in kinds if name in rows), None)
    if row is None:
        return _of_another_type(tag, rows)
    chosen = {row.cells.get(option, "") for option in options}
    if "C" in chosen:
        return Treatment.CLEANED
    if "K" in chosen:
        return Treatment.KEPT
    return Treatment.DUMMY if "D" in row.basic else Treatment.REMOVED


def _of_another_type(tag: int, rows: dict[str, ContentRow]) -> Treatment:
    """Return what happens to a listed concept with a value type that the table does not give it.

    A name or number that the table removes as a text identifies in a coded or dated form as well.
    """
    if not rows or tag in _NOT_AS_TEXT:
        return Treatment.AS_LISTED
    strict = [row for row in rows.values() if not row.cells]
    return Treatment.DUMMY if strict else Treatment.AS_LISTED


def value_type(item: list[Element]) -> str:
    """Return the value type that a content item states, or an empty string."""
    return next((bytes(e.value).decode("latin-1").strip(" \0") for e in item if e.tag == VALUE_TYPE), "")


def is_removed(item: list[Element], encodings: tuple[str, ...], context: FileContext) -> bool:
    """Return whether a content item goes whole: its concept must go and nothing depends on its place."""
    concept = concept_of(item, encodings)
    if concept is None or context.positions_matter:
        return False
    tags, kind = {element.tag for element in item}, value_type(item)
    wanted = [
        treatment(concept, tag, context.profile.options, kind)
        for tag in tags & VALUES.keys()
        if tag != CONTENT
    ]
    container = tags & VALUES.keys() <= {CONTENT}
    if container:
        return CONTENT in tags and treatment(concept, CONTENT, context.profile.options) == Treatment.REMOVED
    return CONTENT not in tags and Treatment.REMOVED in wanted


def refers_to_positions(elements: list[Element]) -> bool:
    """Return whether any content item refers to another one by its position in the tree."""
    return any(
        element.tag == POSITIONS
        or (element.tag == CONTENT and any(map(refers_to_positions, element.items or ())))
        for element in elements
    )


def replacement(concept: tuple[str, str], tag: int, context: FileContext) -> str:
    """Return the text that stands for a removed text, name or UID; empty where a plain dummy serves.

    The patient's name and ID become the pseudonym, as in the header.
    """
    if concept in (SUBJECT_NAME, SUBJECT_ID) and tag in (PERSON_NAME, TEXT):
        return context.patient.pseudonym
    return ""


def birth_days(elements: list[Element], encodings: tuple[str, ...]) -> frozenset[str]:
    """Return the birth dates of the header and of content items, at any depth, as ``YYYYMMDD``."""
    values = [element for element in elements if element.tag == BIRTH_DATE]
    for item in _content_items(elements):
        about_birth = concept_of(item, encodings) == SUBJECT_BIRTH
        values += [e for e in item if e.tag == BIRTH_DATE or (about_birth and e.tag in (DATE_TIME, DATE))]
    found = (parse(decode(bytes(element.value), encodings)) for element in values if element.items is None)
    return frozenset(day.strftime("%Y%m%d").rjust(8, "0") for day in found if day is not None)


def _content_items(elements: list[Element]) -> Iterator[list[Element]]:
    """Yield the items of every sequence at every depth; frames hold no content items and are left out."""
    for element in elements:
        if element.items and element.tag not in _FRAMES:
            for item in element.items:
                yield item
                yield from _content_items(item)
