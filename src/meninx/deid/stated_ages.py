"""Ages that numbers state in content items: found by value and unit, however these are written.

A content item holds its number in a Measured Value Sequence (structured reports) or by itself (acquisition
and protocol contexts, modifiers). The same number has many legal spellings: ``95``, ``+95.0``, ``9.5E1``, a
floating-point value, a fraction; years or months; a UCUM code, or a local code with the meaning ``years``.
All of them are read as a length of time in years.

Which numbers are ages:

- those of a concept that is listed as an age;
- those of a concept whose meaning speaks of an age, unless the unit measures something else than time;
- those in a unit of time, whatever their concept is. An image's header states no other time of 90 years.

Gestational ages, ages of bones and ages by ultrasound are none by their concept.
"""

from __future__ import annotations

import itertools
import math
import re
import struct
import unicodedata
from collections.abc import Iterator, Set
from dataclasses import replace
from enum import StrEnum
from typing import NamedTuple

from meninx.deid.coded_entries import (
    CODE_MEANING,
    CODE_VALUE,
    CODING_SCHEME,
    LONG_CODE_VALUE,
    canonical_code,
    code_texts,
    dummy_code,
    is_ucum,
    published_meanings,
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
LISTED_AGES = frozenset(
    {("DCM", "121033"), ("SCT", "397669002"), ("SCT", "424144002"), ("LN", "30525-0"), ("LN", "29553-5"),
     ("LN", "21612-7"), ("LN", "63900-5"), ("LN", "35659-2"), ("LN", "30972-4")}
)  # fmt: skip
_AGE = re.compile(
    r"(?<!gestational )(?<!fetal )(?<!menstrual )(?<!ultrasound )(?<!bone )(?<!skeletal )"
    r"\bage\b(?! corrected)"
    r"|\b(?:alter|lebensalter|patientenalter|âge|edad|età|leeftijd)\b",
    re.IGNORECASE,
)
_DAY = 1 / 365.25
_UCUM = {
    "a": 1.0, "a_j": 1.0, "a_g": 1.0, "a_t": 1.0, "mo": 1 / 12, "mo_j": 1 / 12, "mo_g": 1 / 12,
    "mo_s": 1 / 12, "wk": 7 * _DAY, "d": _DAY, "h": _DAY / 24, "min": _DAY / 1440, "s": _DAY / 86400,
}  # fmt: skip
_PREFIXED = re.compile(r"(?!Pa)(da|[hkMGTPEdcmunp])([as])")  # Pa is pascal
_PREFIXES = {"da": 10.0, "h": 1e2, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
             "d": 0.1, "c": 1e-2, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12}  # fmt: skip
_TERM = re.compile(r"(?:10[*^](?P<ten>[+-]?[0-9]{1,2})|(?P<factor>[0-9]{1,9})|(?P<unit>[A-Za-z_]+)1?)")
_CODES = {("SCT", "258707000"): 1.0, ("SCT", "258706009"): 1 / 12, ("SCT", "258705008"): 7 * _DAY,
          ("SCT", "258703001"): _DAY, ("SCT", "258702006"): _DAY / 24, ("NCIt", "C29848"): 1.0,
          ("NCIt", "C29846"): 1 / 12, ("NCIt", "C29844"): 7 * _DAY, ("NCIt", "C25301"): _DAY}  # fmt: skip
_WORDS = {
    1.0: "a ann anns annum anno annos anni an ans année années anos ano año años y yr yrs yo year years jahr "
    "jahre jahren lebensjahr lebensjahre j jaar jaren år rok roky lat let лет год года 歳 岁 年",
    10.0: "decade decades dekade dekaden",
    1 / 12: "mo mos mon month months monat monate monaten mois mes meses mese mesi maand maanden",
    7 * _DAY: "wk wks week weeks woche wochen semaine semaines semana semanas weken",
    _DAY: "d day days tag tage tagen jour jours día días dia dias dag dagen",
    _DAY / 24: "h hr hrs hour hours stunde stunden heure heures",
    _DAY / 1440: "min mins minute minutes minuten",
    _DAY / 86400: "s sec secs second seconds sekunde sekunden",
}
_LENGTHS = {word: years for years, words in _WORDS.items() for word in words.split()}
_AMBIGUOUS = frozenset({"a", "j", "d", "h", "s"})  # as codes of a local scheme
_FILLERS = frozenset({"of", "in", "the", "age", "old", "life", "completed", "aged", "patient", "alter"})
_AGE_WORDS = frozenset({"age", "aged", "alter", "edad", "old", "yo"})
_TOKEN = re.compile(r"[0-9]{1,20}(?:[.,][0-9]{1,9})?|[^\W\d_]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_LONGEST = 64  # characters of a number; the standard allows 16
_FORMATS = {"FD": "d", "FL": "f", "SL": "i", "UL": "I", "SS": "h", "US": "H", "SV": "q", "UV": "Q"}
_ROUNDING = 1 - 1e-9  # 1080 months are 90 years, in whatever order the factors are multiplied


class UnitKind(StrEnum):
    """What is known of the unit of a number."""

    NONE = "none"
    """There is none, or it is the unity."""
    TIME = "time"
    """It is a length of time."""
    OTHER = "other"
    """It measures something else."""
    DISPUTED = "disputed"
    """Its code or its meaning is a length of time, and the other is another one or something else."""
    UNKNOWN = "unknown"
    """No table knows it."""


class Unit(NamedTuple):
    """A unit, and how many years it is; unknown units count as a year, so that the number is not missed."""

    kind: UnitKind
    years: float = 1.0


class _Bounds(NamedTuple):
    """What no number may state: a higher age in years, or a year of birth."""

    max_age: int
    birth_years: frozenset[float]


def limited(
    item: list[Element],
    encodings: tuple[str, ...],
    *,
    little: bool,
    max_age: int,
    birth_days: Set[str] = frozenset(),
) -> list[Element]:
    """Return the elements of an item or a data set without an age above ``max_age`` in its own numbers.

    Sequences other than the Measured Value Sequence are not entered.

    Guarantee: whatever the spelling of number and unit, a number that states an age of ``max_age + 1`` years
        or more is replaced by ``max_age + 1`` years in the same unit, or removed if the unit is no known unit
        of time. A number that cannot be read is removed if its concept is an age. So is a code's
        meaning that states such an age. Nothing else changes.

    Args:
        item: the elements.
        encodings: character sets in force.
        little: byte order of binary numbers.
        max_age: highest age that stays, in years.
        birth_days: birth dates as ``YYYYMMDD``; a number without another unit than years that is the year of
            one is removed, too.
    """
    if not any(element.tag in _STATING for element in item):
        return item
    by_concept = _concept(item, encodings)
    bounds = _Bounds(max_age, frozenset(float(day[:4]) for day in birth_days))
    found: list[Element] = []
    for element in item:
        if element.tag == MEASURED and element.items:
            inside = (_limited(one, by_concept, encodings, little, bounds) for one in element.items)
            found.append(replace(element, items=[one for one in inside if one]))
        elif element.tag == CODE and by_concept:
            found.append(
                replace(
                    element, items=[_limited_code(one, encodings, max_age) for one in element.items or ()]
                )
            )
        elif element.tag == CODE_MEANING and states_age_above(
            decode(bytes(element.value), encodings), max_age
        ):
            found.append(replace(element, value=REMOVED.encode() + b" "))
        else:
            found.append(element)
    return _limited(found, by_concept, encodings, little, bounds)


def highest(elements: list[Element], encodings: tuple[str, ...], *, little: bool) -> float:
    """Return the highest age in years that a content item states, at any depth; 0 when none does.

    What cannot be read does not count.
    """
    return max(_ages(elements, encodings, little), default=0.0)


def _ages(elements: list[Element], encodings: tuple[str, ...], little: bool) -> Iterator[float]:
    """Yield the ages of all items; frames hold no content items and are left out."""
    encodings = _declared(elements, encodings)
    if any(element.tag in _HOLDERS for element in elements):
        by_concept = _concept(elements, encodings)
        inside = (element.items or () for element in elements if element.tag == MEASURED)
        for holder in (elements, *(one for items in inside for one in items)):
            unit = _unit(holder, encodings)
            if _is_age(by_concept, unit):
                ages = (abs(number) * unit.years for number in _numbers(holder, encodings, little))
                yield from (age / _ROUNDING for age in ages if not math.isnan(age))
    for element in elements:
        if element.items and element.tag not in _FRAMES:
            for item in element.items:
                yield from _ages(item, encodings, little)


def _limited(
    holder: list[Element], by_concept: str, encodings: tuple[str, ...], little: bool, bounds: _Bounds
) -> list[Element]:
    """Return the elements of what holds a number, with the age limited or the number removed."""
    if not any(element.tag in NUMBERS for element in holder):
        return holder
    encodings = _declared(holder, encodings)
    unit = _unit(holder, encodings)
    numbers = list(_numbers(holder, encodings, little))
    born = unit.kind != UnitKind.OTHER and not bounds.birth_years.isdisjoint(numbers)
    if not (born or _is_age(by_concept, unit)):
        return holder
    ages, max_age = [abs(number) * unit.years for number in numbers], bounds.max_age
    unread = bool(by_concept) and any(map(math.isnan, ages))
    if not (unread or born) and not any(age >= (max_age + 1) * _ROUNDING for age in ages):
        return holder
    rest = [element for element in holder if element.tag not in NUMBERS]
    if unread or born or unit.kind not in (UnitKind.TIME, UnitKind.NONE):
        return [element for element in rest if element.tag != UNITS]
    number = (max_age + 1) / unit.years
    value = (f"{round(number):d}" if 90 <= number < 1e12 else f"{number:.4g}").encode()
    return [*rest, Element(NUMBER, "DS", value + b" " * (len(value) % 2))]


def states_age_above(text: str, max_age: int) -> bool:
    """Return whether a short text states an age above the limit in digits.

    >>> states_age_above("95 years", 89), states_age_above("aged 95", 89), states_age_above("95 ms", 89)
    (True, True, False)
    """
    tokens = _TOKEN.findall(unicodedata.normalize("NFKC", text[:1024]).casefold())
    about_age = not _AGE_WORDS.isdisjoint(tokens)
    for token, following in itertools.pairwise([*tokens, ""]):
        if token[0].isdecimal():
            unit = _LENGTHS.get(following, 1.0 if about_age else 0.0)
            if float(token.replace(",", ".")) * unit >= (max_age + 1) * _ROUNDING:
                return True
    return False


def _limited_code(entry: list[Element], encodings: tuple[str, ...], max_age: int) -> list[Element]:
    """Return the code of an age, or a dummy if no table knows it and a number above the limit is in it."""
    text = code_texts(entry, _declared(entry, encodings))
    short = [text[tag] for tag in (CODE_VALUE, LONG_CODE_VALUE) if len(text.get(tag, "9999")) <= 3]
    spelled = (*short, text.get(CODE_MEANING, ""))
    stated = any(states_age_above(f"age {value}", max_age) for value in spelled)
    return dummy_code() if stated and not _published(text) else entry


def _is_age(by_concept: str, unit: Unit) -> bool:
    return (
        by_concept == "listed"
        or unit.kind in (UnitKind.TIME, UnitKind.DISPUTED)
        or (by_concept == "named" and unit.kind != UnitKind.OTHER)
    )


def _concept(item: list[Element], encodings: tuple[str, ...]) -> str:
    """Return ``listed`` of a concept that is an age, ``named`` where a meaning says so, else nothing."""
    entries = (entry for element in item if element.tag == CONCEPT_NAME for entry in element.items or ())
    texts = [code_texts(entry, _declared(entry, encodings)) for entry in entries]
    if any(_code(text) in LISTED_AGES for text in texts):
        return "listed"
    meanings = (meaning for text in texts for meaning in (text.get(CODE_MEANING, ""), *_published(text)))
    return "named" if any(map(_AGE.search, meanings)) else ""


def _code(text: dict[int, str]) -> tuple[str, str]:
    scheme = re.sub(r"\s*\[.*\]$", "", text.get(CODING_SCHEME, "").strip())
    return canonical_code(scheme, (text.get(CODE_VALUE) or text.get(LONG_CODE_VALUE, "")).strip())


def _published(text: dict[int, str]) -> tuple[str, ...]:
    return published_meanings(*_code(text))


def _declared(elements: list[Element], encodings: tuple[str, ...]) -> tuple[str, ...]:
    """Return the character sets that an item declares, or those outside."""
    for element in elements:
        if element.tag == CHARSET_TAG:
            encodings = encodings_of(bytes(element.value))
    return encodings


def _unit(holder: list[Element], encodings: tuple[str, ...]) -> Unit:
    """Return the unit of the number in an item."""
    entries = [entry for element in holder if element.tag == UNITS for entry in element.items or ()]
    units = {unit_of(code_texts(entry, _declared(entry, encodings))) for entry in entries}
    if len(units) > 1:
        return Unit(UnitKind.UNKNOWN, max(unit.years for unit in units))
    return units.pop() if units else Unit(UnitKind.NONE)


def unit_of(text: dict[int, str]) -> Unit:
    """Return the unit that a code names.

    Args:
        text: tag -> text of the code, see :func:`meninx.deid.coded_entries.code_texts`.

    >>> unit_of({CODING_SCHEME: "UCUM", CODE_VALUE: "10.a"})
    Unit(kind=<UnitKind.TIME: 'time'>, years=10.0)
    >>> unit_of({CODING_SCHEME: "99HOSP", CODE_VALUE: "99Y", CODE_MEANING: "years"}).years
    1.0
    >>> unit_of({CODING_SCHEME: "UCUM", CODE_VALUE: "mm"}).kind
    <UnitKind.OTHER: 'other'>
    """
    scheme, code = _code(text)
    known = scheme == "UCUM" and is_ucum(code)
    unity = not code or (known and not re.sub(r"\{[^{}]*\}|[1()]", "", code))
    other = not unity and (known or bool(_published(text)))
    by_code = _ucum_years(code) if scheme == "UCUM" else _CODES.get((scheme, code))
    if by_code is None and not known:
        named = _published(text) or ((code,) if code.casefold() not in _AMBIGUOUS else ())
        by_code = next(filter(None, map(_spoken, named)), None)
    by_meaning = _spoken(text.get(CODE_MEANING, ""))
    lengths = [length for length in (by_code, by_meaning) if length is not None]
    if not lengths:
        plain = UnitKind.OTHER if other else UnitKind.UNKNOWN
        return Unit(UnitKind.NONE if unity else plain)
    agree = math.isclose(lengths[0], lengths[-1]) and not (other and by_code is None)
    return Unit(UnitKind.TIME if agree else UnitKind.DISPUTED, max(lengths))


def _ucum_years(code: str) -> float | None:
    """Return a UCUM code in years; None if it is no plain time. Annotations may name the unit of a count."""
    notes = re.findall(r"\{([^{}]*)\}", code)
    plain = re.sub(r"\{[^{}]*\}|[()]", "", code)
    years, power = 1.0, 0
    for sign, term in re.findall(r"([./]?)([^./]+)", plain):
        found = _TERM.fullmatch(term)
        if found is None:
            return None
        factor = float(found["factor"] or 1) * 10.0 ** int(found["ten"] or 0)
        if found["unit"]:
            length = _atom_years(found["unit"])
            if length is None:
                return None
            factor *= length
        power += bool(found["unit"]) * (-1 if sign == "/" else 1)
        years = years / factor if sign == "/" and factor else years * factor
    if power == 1:
        return years
    counted = [length for length in map(_spoken, notes) if length is not None]
    return counted[0] * years if power == 0 and counted else None


def _atom_years(unit: str) -> float | None:
    if unit in _UCUM:
        return _UCUM[unit]
    prefixed = _PREFIXED.fullmatch(unit)
    return _PREFIXES[prefixed[1]] * _UCUM[prefixed[2]] if prefixed else None


def _spoken(text: str) -> float | None:
    """Return the length in years of the unit that words name, None if they do not name one unit of time."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"\(\w{1,2}\)", "", text.casefold()[:64]))
    lengths = {_LENGTHS.get(word) for word in words if word not in _FILLERS}
    return lengths.pop() if len(lengths) == 1 else None


def _numbers(holder: list[Element], encodings: tuple[str, ...], little: bool) -> Iterator[float]:
    """Yield the numbers of an item in every form that it has; NaN for one that cannot be read."""
    over: list[float] = []
    under: list[float] = []
    for element in holder:
        if element.tag == NUMBER:
            text = decode(bytes(element.value), encodings).replace("\0", "")
            yield from map(_decimal, filter(str.strip, text.split("\\")))
        elif element.tag == FLOATING:
            yield from _binary(element, little)
        elif element.tag == NUMERATOR:
            over += _binary(element, little)
        elif element.tag == DENOMINATOR:
            under += _binary(element, little)
    for place, number in enumerate(over):
        below = under[min(place, len(under) - 1)] if under else 1.0
        yield number / below if below else math.nan


def _decimal(text: str) -> float:
    """Return a decimal string as a number: infinite if it is too large, NaN if it is none."""
    fits = len(text) <= _LONGEST and _NUMBER.fullmatch(text.strip(" "))
    return float(text) if fits else math.nan


def _binary(element: Element, little: bool) -> list[float]:
    """Return the numbers of a binary value by its VR, or by that of the standard where it is bytes."""
    form = _FORMATS.get(element.vr) or _FORMATS[standard_vr(element.tag)]
    value, size = bytes(element.value), struct.calcsize(form)
    if len(value) % size:
        return [math.nan]
    return [float(number) for (number,) in struct.iter_unpack(("<" if little else ">") + form, value)]
