"""Units of time, and concepts that are ages: what a code and its meaning say of a number.

Concepts and units are read in any spelling: ``Patient_Age``, ``PatientAge``, ``AGE_YRS``, ``Y/O`` and
``years at scan`` are the words ``patient age``, ``age yrs``, ``yo`` and ``years at scan``.
"""

from __future__ import annotations

import math
import re
import unicodedata
from enum import StrEnum
from typing import NamedTuple

from meninx.deid.coded_entries import (
    CODE_MEANING,
    CODE_VALUE,
    CODING_SCHEME,
    LONG_CODE_VALUE,
    canonical_code,
    is_ucum,
    published_meanings,
)

LISTED_AGES = frozenset(
    {("DCM", "121033"), ("SCT", "397669002"), ("SCT", "424144002"), ("LN", "30525-0"), ("LN", "29553-5"),
     ("LN", "21612-7"), ("LN", "63900-5"), ("LN", "35659-2"), ("LN", "30972-4")}
)  # fmt: skip
_AGE = re.compile(
    r"\b(?:ages?|aged|alter|lebensalter|patientenalter|lebensjahre?|âge|edad|età|leeftijd|yo"
    r"|(?:patient|subject|pat)age|year of life)\b"
)
_IN_YEARS = re.compile(r"\b(?:years|yrs|jahren?|années|años|anos|anni|jaren)\b")
# Comparisons of a value with those of an age; other ages, which are left out of a text.
_COMPARED = re.compile(r"\b(?:percentiles?|centiles?|perzentilen?|[zt] ?scores?|ratios?|quotients?)\b")
_OTHER_AGE = re.compile(
    r"\b(?:(?:gestational|fetal|menstrual|ultrasound|bone|skeletal) ages?|age (?:adjusted|corrected|matched)"
    r"|(?:adjusted|corrected) for age)\b"
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
LENGTHS = {word: years for years, words in _WORDS.items() for word in words.split()}
_AMBIGUOUS = frozenset({"a", "j", "d", "h", "s"})  # as codes of a local scheme
# As a meaning beside a code that is a valid unit of something else: "J" is the joule, and "A" the ampere.
_ABBREVIATIONS = frozenset(word for word in LENGTHS if len(word) < 3) - {"yr", "yo"}
_LONG_WORDS = frozenset(word for word in LENGTHS if len(word) > 3) | {"yrs", "yo"}  # among unknown words
_FILLERS = frozenset({"of", "in", "the", "age", "old", "life", "completed", "aged", "patient", "alter"})
_YEARS_OLD = re.compile(r"(?<![^\W\d_])[yY][\W_]?[oO](?![^\W\d_])")
_HUMP = re.compile(r"(?<=[a-zß-ÿ])(?=[A-ZÀ-Þ])|(?<=[A-Z])(?=[A-Z][a-z])")
_PER = re.compile(r"(?:/|\b(?:per|pro|par|por)\b)\s*[0-9]*\s*([^\W\d_]+)")
_OTHER_UNIT = re.compile(
    r"(?:milli|centi|deci|kilo|mega|giga|micro|nano|hecto)?(?:met(?:er|re)|gram|lit(?:er|re)|hertz|volt"
    r"|ampere|gray|becquerel|curie|sievert|joule|watt|newton|pascal|tesla|mole|ohm|electronvolt)s?"
    r"|(?:milli|micro|nano)se[ck]und(?:en?)?|(?:milli|micro|nano)seconds?|[mµμu]secs?|inch(?:es)?|degrees?"
    r"|kelvin|celsius|percent|pixels?|voxels?|beats?|counts?|packs?|persons?|cigarettes?|revolutions?"
    r"|mm|cm|dm|km|mg|kg|ug|ml|dl|hz|khz|mhz|mgy|cgy|gy|gycm|msv|bq|kbq|mbq|gbq|mci|mas|kv|kvp|hu|bpm|mmhg"
)
_UNIT = r"[numckdhMGµμ]?(?:Gy|Sv|Bq|Ci|Hz|eV|Pa|mol|Vp?|As?|W|J|m|g|l|L|s|T|min|h)"
_SYMBOLS = re.compile(
    rf"{_UNIT}(?:[-+]?[23]|[²³])?(?:[-*·./^ ]?(?:{_UNIT}(?:[-+]?[23]|[²³])?|[23²³])){{0,3}}"
)


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
    SPELLED = "spelled"
    """No table knows its code, but it is spelled as a physical unit, such as ``mGycm``."""
    UNKNOWN = "unknown"
    """Nothing knows it."""


class Unit(NamedTuple):
    """A unit, and how many years it is; unknown units count as a year, so that the number is not missed."""

    kind: UnitKind
    years: float = 1.0


def code_of(text: dict[int, str]) -> tuple[str, str]:
    """Return scheme and value under which the tables list the code of an item."""
    scheme = re.sub(r"\s*\[.*\]$", "", text.get(CODING_SCHEME, "").strip())
    return canonical_code(scheme, (text.get(CODE_VALUE) or text.get(LONG_CODE_VALUE, "")).strip())


def published_of(text: dict[int, str]) -> tuple[str, ...]:
    """Return the published meanings of the code of an item."""
    return published_meanings(*code_of(text))


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
    scheme, code = code_of(text)
    known = scheme == "UCUM" and is_ucum(code)
    unity = not code or (known and not re.sub(r"\{[^{}]*\}|[1()]", "", code))
    other = not unity and (known or bool(published_of(text)))
    by_code = _ucum_years(code) if scheme == "UCUM" else _CODES.get((scheme, code))
    if by_code is None and not known:
        named = published_of(text) or ((code,) if code.casefold() not in _AMBIGUOUS else ())
        by_code = next(filter(None, map(_spoken, named)), None)
    meaning = text.get(CODE_MEANING, "")
    by_meaning = None if other and by_code is None and _abbreviates(meaning, code) else _spoken(meaning)
    lengths = [length for length in (by_code, by_meaning) if length is not None]
    if not lengths:
        if other or unity:
            return Unit(UnitKind.OTHER if other else UnitKind.NONE)
        return Unit(UnitKind.SPELLED if _is_physical(meaning) or _is_physical(code) else UnitKind.UNKNOWN)
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


def _abbreviates(meaning: str, code: str) -> bool:
    """Return whether the meaning of a valid unit is its code again, or too short for a word of time."""
    words = words_of(meaning)
    return meaning.casefold() == code.casefold() or not (set(words) & LENGTHS.keys()) - _ABBREVIATIONS


def _is_physical(text: str) -> bool:
    """Return whether a text spells a unit of something that is measured, as ``mGycm`` or ``cubic mm``."""
    symbols = len(text) > 1 and (_SYMBOLS.fullmatch(text) or is_ucum(re.sub(r"\{[^{}]*\}", "", text)))
    return bool(symbols) or any(map(_OTHER_UNIT.fullmatch, words_of(text)))


def words_of(text: str) -> list[str]:
    """Return the words of a text in small letters, however they are joined.

    >>> words_of("Patient_Age"), words_of("AgeAtScan"), words_of("95 y.o.")
    (['patient', 'age'], ['age', 'at', 'scan'], ['yo'])
    """
    plain = _YEARS_OLD.sub(" yo ", unicodedata.normalize("NFKC", text[:1024]))
    return re.findall(r"[^\W\d_]+", _HUMP.sub(" ", plain).casefold())


def speaks_of_age(text: str) -> bool:
    """Return whether the meaning of a concept names an age of a person, or a number of years.

    >>> speaks_of_age("AGE_YRS"), speaks_of_age("Years old"), speaks_of_age("BMI percentile for age")
    (True, True, False)
    """
    words = words_of(text)
    plain = _OTHER_AGE.sub("", " ".join(words))
    if _COMPARED.search(plain):
        return False
    if "old" in words and all(word in _FILLERS or word in LENGTHS or word == "how" for word in words):
        return True
    in_years = _IN_YEARS.search(plain) and not any(map(_OTHER_UNIT.fullmatch, words))
    return bool(_AGE.search(plain) or in_years)


def _spoken(text: str) -> float | None:
    """Return the length in years of the unit that words name, None if they do not name a time.

    Words that no table knows do not matter beside a word of time; units of something else do.
    """
    text = re.sub(r"\(\w{1,2}\)", "", text[:64])
    words = words_of(text)
    lengths = {LENGTHS.get(word) for word in words if word not in _FILLERS}
    if len(lengths) == 1:
        return lengths.pop()
    rates = _PER.findall(_YEARS_OLD.sub(" yo ", text).casefold())
    if any(word in LENGTHS for word in rates) or any(map(_OTHER_UNIT.fullmatch, words)):
        return None
    return max((LENGTHS[word] for word in words if word in _LONG_WORDS), default=None)
