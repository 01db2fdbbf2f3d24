"""Ages that numbers state in content items: found by value and unit, however these are written.

A content item holds its number in a Measured Value Sequence (structured reports) or by itself (acquisition
and protocol contexts, modifiers). The same number has many legal spellings: ``95``, ``+95.0``, ``9.5E1``, a
floating-point value, a fraction; years or months; a UCUM code, or a local code with the meaning ``years``.
All of them are read as a length of time in years.

Which numbers are ages:

- those of a concept that is listed as an age;
- those of a concept whose meaning speaks of an age, unless the unit measures something else than time;
- those in a unit of time, whatever their concept is. An image's header states no other time of 90 years.

Gestational ages, ages of bones, ages by ultrasound and percentiles for an age are none by their concept.
The cells of a table are treated by :mod:`meninx.deid.tabulated_ages`.
"""

from __future__ import annotations

import itertools
import math
import re
import struct
import unicodedata
from collections.abc import Iterable, Iterator, Set
from dataclasses import replace
from typing import NamedTuple

from meninx.deid.changed_numbers import Changes
from meninx.deid.coded_entries import CODE_MEANING, CODE_VALUE, LONG_CODE_VALUE, code_texts, dummy_code
from meninx.deid.units_of_time import (
    LENGTHS,
    LISTED_AGES,
    Unit,
    UnitKind,
    code_of,
    published_of,
    speaks_of_age,
    unit_of,
)
from meninx.deid.wording.text import REMOVED
from meninx.dicomfile.charset import CHARSET_TAG, decode, encodings_of
from meninx.dicomfile.elements import Element, standard_vr

CONCEPT_NAME, MEASURED, UNITS, CODE = 0x0040A043, 0x0040A300, 0x004008EA, 0x0040A168
NUMBER, FLOATING, NUMERATOR, DENOMINATOR = 0x0040A30A, 0x0040A161, 0x0040A162, 0x0040A163
NUMBERS = frozenset({NUMBER, FLOATING, NUMERATOR, DENOMINATOR})
_HOLDERS = NUMBERS | {MEASURED}
_STATING = _HOLDERS | {CODE, CODE_MEANING}
_FRAMES = frozenset({0x52009229, 0x52009230})
_AGE_WORDS = frozenset({"age", "aged", "alter", "edad", "old", "yo"})
_TOKEN = re.compile(r"[0-9]{1,20}(?:[.,][0-9]{1,9})?|[^\W\d_]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_LONGEST = 64  # characters of a number; the standard allows 16
_FORMATS = {"FD": "d", "FL": "f", "SL": "i", "UL": "I", "SS": "h", "US": "H", "SV": "q", "UV": "Q"}
_OLDEST = 250.0  # years; more is no age
_ROUNDING = 1 - 1e-9  # 1080 months are 90 years, in whatever order the factors are multiplied


class AgeBounds(NamedTuple):
    """What no number may state: a higher age in years, or a year of birth."""

    max_age: int
    birth_years: frozenset[float]

    @classmethod
    def of(cls, max_age: int, birth_days: Set[str]) -> AgeBounds:
        """Return the bounds for a highest age and birth dates as ``YYYYMMDD``."""
        return cls(max_age, frozenset(float(day[:4]) for day in birth_days))

    def exceeded_by(self, age: float) -> bool:
        """Return whether an age in years is above the highest one."""
        return age >= (self.max_age + 1) * _ROUNDING

    def tell_birth(self, unit: Unit, numbers: Iterable[float]) -> bool:
        """Return whether a plain number, or one in a unit that nothing knows, is a year of birth."""
        plain = unit.kind in (UnitKind.NONE, UnitKind.UNKNOWN)
        return plain and not self.birth_years.isdisjoint(numbers)


def limited(
    item: list[Element],
    encodings: tuple[str, ...],
    *,
    little: bool,
    max_age: int,
    birth_days: Set[str] = frozenset(),
    changes: Changes | None = None,
) -> list[Element]:
    """Return the elements of an item or a data set without an age above ``max_age`` in its own numbers.

    Sequences other than the Measured Value Sequence are not entered.

    Guarantee: whatever the spelling of number and unit, a number that states an age of ``max_age + 1`` years
        or more is replaced by ``max_age + 1`` years in the same unit, or removed if the unit is no known unit
        of time, or if it is more than 250 years and its concept is not listed. A number that cannot be read
        is removed if its concept is an age. So is a code's meaning that states such an age, unless it is
        published for the code. Nothing else changes.

    Args:
        item: the elements.
        encodings: character sets in force.
        little: byte order of binary numbers.
        max_age: highest age that stays, in years.
        birth_days: birth dates as ``YYYYMMDD``; a plain number that is the year of one is removed, too, and
            so is one in a unit that nothing knows. Times and physical units stay.
        changes: what was removed or capped is noted here.
    """
    if not any(element.tag in _STATING for element in item):
        return item
    by_concept = concept_kind(item, encodings)
    bounds = AgeBounds.of(max_age, birth_days)
    changes = Changes() if changes is None else changes
    found: list[Element] = []
    for element in item:
        if element.tag == MEASURED and element.items:
            inside = (_limited(one, by_concept, encodings, little, bounds, changes) for one in element.items)
            found.append(replace(element, items=[one for one in inside if one]))
        elif element.tag == CODE and by_concept:
            found.append(
                replace(element, items=[limited_code(one, encodings, max_age) for one in element.items or ()])
            )
        elif element.tag == CODE_MEANING and _meaning_tells_age(item, encodings, max_age):
            found.append(replace(element, value=REMOVED.encode() + b" "))
        else:
            found.append(element)
    return _limited(found, by_concept, encodings, little, bounds, changes)


def highest(elements: list[Element], encodings: tuple[str, ...], *, little: bool) -> float:
    """Return the highest age in years that a content item states, at any depth; 0 when none does.

    What cannot be read does not count.
    """
    return max(_ages(elements, encodings, little), default=0.0)


def _ages(elements: list[Element], encodings: tuple[str, ...], little: bool) -> Iterator[float]:
    """Yield the ages of all items; frames hold no content items and are left out."""
    encodings = declared(elements, encodings)
    if any(element.tag in _HOLDERS for element in elements):
        by_concept = concept_kind(elements, encodings)
        inside = (element.items or () for element in elements if element.tag == MEASURED)
        for holder in (elements, *(one for items in inside for one in items)):
            unit = unit_in(holder, encodings)
            if is_age(by_concept, unit):
                yield from years_of(_numbers(holder, encodings, little), unit)
    for element in elements:
        if element.items and element.tag not in _FRAMES:
            for item in element.items:
                yield from _ages(item, encodings, little)


def years_of(numbers: Iterable[float], unit: Unit) -> Iterator[float]:
    """Yield numbers in years, rounded up a little; those that cannot be read are left out."""
    ages = (abs(number) * unit.years for number in numbers)
    yield from (age / _ROUNDING for age in ages if not math.isnan(age))


def _limited(
    holder: list[Element],
    by_concept: str,
    encodings: tuple[str, ...],
    little: bool,
    bounds: AgeBounds,
    changes: Changes,
) -> list[Element]:
    """Return the elements of what holds a number, with the age limited or the number removed."""
    if not any(element.tag in NUMBERS for element in holder):
        return holder
    encodings = declared(holder, encodings)
    unit = unit_in(holder, encodings)
    numbers = list(_numbers(holder, encodings, little))
    born = bounds.tell_birth(unit, numbers)
    if not (born or is_age(by_concept, unit)):
        return holder
    ages = [abs(number) * unit.years for number in numbers]
    unread = bool(by_concept) and any(map(math.isnan, ages))
    if not (unread or born) and not any(map(bounds.exceeded_by, ages)):
        return holder
    # A calendar year is no age either: 90 in its place would be a wrong number.
    none = by_concept != "listed" and max(ages) > _OLDEST
    if unread or born or none or unit.kind not in (UnitKind.TIME, UnitKind.NONE):
        return changes.removing(holder, NUMBERS | {UNITS})
    number = (bounds.max_age + 1) / unit.years
    value = (f"{round(number):d}" if 90 <= number < 1e12 else f"{number:.4g}").encode()
    capped = Element(NUMBER, "DS", value + b" " * (len(value) % 2))
    changes.capped[id(capped)] = capped
    rest = changes.removing(holder, NUMBERS - {NUMBER})
    return [*(element for element in rest if element.tag != NUMBER), capped]


def states_age_above(text: str, max_age: int) -> bool:
    """Return whether a short text states an age above the limit in digits.

    >>> states_age_above("95 years", 89), states_age_above("aged 95", 89), states_age_above("95 ms", 89)
    (True, True, False)
    """
    tokens = _TOKEN.findall(unicodedata.normalize("NFKC", text[:1024]).casefold())
    about_age = not _AGE_WORDS.isdisjoint(tokens)
    for token, following in itertools.pairwise([*tokens, ""]):
        if token[0].isdecimal():
            unit = LENGTHS.get(following, 1.0 if about_age else 0.0)
            if float(token.replace(",", ".")) * unit >= (max_age + 1) * _ROUNDING:
                return True
    return False


def _meaning_tells_age(entry: list[Element], encodings: tuple[str, ...], max_age: int) -> bool:
    """Return whether the meaning of a code states an age above the limit, and is not its published one."""
    text = code_texts(entry, encodings)
    meaning = text.get(CODE_MEANING, "")
    if not states_age_above(meaning, max_age):
        return False
    return meaning.casefold() not in (published.casefold() for published in published_of(text))


def limited_code(entry: list[Element], encodings: tuple[str, ...], max_age: int) -> list[Element]:
    """Return the code of an age, or a dummy if no table knows it and a number above the limit is in it."""
    text = code_texts(entry, declared(entry, encodings))
    short = [text[tag] for tag in (CODE_VALUE, LONG_CODE_VALUE) if len(text.get(tag, "9999")) <= 3]
    spelled = (*short, text.get(CODE_MEANING, ""))
    stated = any(states_age_above(f"age {value}", max_age) for value in spelled)
    return dummy_code() if stated and not published_of(text) else entry


def is_age(by_concept: str, unit: Unit) -> bool:
    """Return whether a number is an age, by :func:`concept_kind` and its unit."""
    return (
        by_concept == "listed"
        or unit.kind in (UnitKind.TIME, UnitKind.DISPUTED)
        or (by_concept == "named" and unit.kind != UnitKind.OTHER)
    )


def concept_kind(item: list[Element], encodings: tuple[str, ...]) -> str:
    """Return ``listed`` of a concept that is an age, ``named`` where a meaning says so, else nothing."""
    entries = (entry for element in item if element.tag == CONCEPT_NAME for entry in element.items or ())
    texts = [code_texts(entry, declared(entry, encodings)) for entry in entries]
    if any(code_of(text) in LISTED_AGES for text in texts):
        return "listed"
    meanings = (meaning for text in texts for meaning in (text.get(CODE_MEANING, ""), *published_of(text)))
    return "named" if any(map(speaks_of_age, meanings)) else ""


def declared(elements: list[Element], encodings: tuple[str, ...]) -> tuple[str, ...]:
    """Return the character sets that an item declares, or those outside."""
    for element in elements:
        if element.tag == CHARSET_TAG:
            encodings = encodings_of(bytes(element.value))
    return encodings


def unit_in(holder: list[Element], encodings: tuple[str, ...]) -> Unit:
    """Return the unit of the number in an item."""
    return joined(units_in(holder, encodings))


def units_in(holder: list[Element], encodings: tuple[str, ...]) -> frozenset[Unit]:
    """Return every unit that an item names."""
    entries = [entry for element in holder if element.tag == UNITS for entry in element.items or ()]
    return frozenset(unit_of(code_texts(entry, declared(entry, encodings))) for entry in entries)


def joined(units: frozenset[Unit]) -> Unit:
    """Return the unit of a number for which several are named; it is disputed if one of them is a time."""
    if len(units) < 2:
        return next(iter(units), Unit(UnitKind.NONE))
    timed = any(unit.kind in (UnitKind.TIME, UnitKind.DISPUTED) for unit in units)
    return Unit(UnitKind.DISPUTED if timed else UnitKind.UNKNOWN, max(unit.years for unit in units))


def _numbers(holder: list[Element], encodings: tuple[str, ...], little: bool) -> Iterator[float]:
    """Yield the numbers of an item in every form that it has; NaN for one that cannot be read."""
    over: list[float] = []
    under: list[float] = []
    for element in holder:
        if element.tag == NUMBER:
            text = decode(bytes(element.value), encodings).replace("\0", "")
            yield from map(decimal_number, filter(str.strip, text.split("\\")))
        elif element.tag == FLOATING:
            yield from binary_numbers(element, little)
        elif element.tag == NUMERATOR:
            over += binary_numbers(element, little)
        elif element.tag == DENOMINATOR:
            under += binary_numbers(element, little)
    for place, number in enumerate(over):
        below = under[min(place, len(under) - 1)] if under else 1.0
        yield number / below if below else math.nan


def decimal_number(text: str) -> float:
    """Return a decimal string as a number: infinite if it is too large, NaN if it is none."""
    fits = len(text) <= _LONGEST and _NUMBER.fullmatch(text.strip(" "))
    return float(text) if fits else math.nan


def binary_numbers(element: Element, little: bool) -> list[float]:
    """Return the numbers of a binary value by its VR, or by that of the standard where it is bytes."""
    form = _FORMATS.get(element.vr) or _FORMATS[standard_vr(element.tag)]
    value, size = bytes(element.value), struct.calcsize(form)
    if len(value) % size:
        return [math.nan]
    return [float(number) for (number,) in struct.iter_unpack(("<" if little else ">") + form, value)]
