"""Coded entries: which code values are published, and which meanings they may keep.

A code (value, scheme and meaning) is cleaned as one thing, because its meaning can be checked against the
published one. A code that no table knows stays only if its form is that of its scheme, with check digits
where the scheme has them, and if it spells no identifier of the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from meninx.deid.identity.pseudonyms import is_registered
from meninx.deid.options import Option
from meninx.deid.profile import read_table
from meninx.deid.wording.terms import is_harmless
from meninx.deid.wording.text import REMOVED, clean_text
from meninx.dicomfile.charset import decode
from meninx.dicomfile.elements import Element

if TYPE_CHECKING:
    from meninx.deid.actions import FileContext

CODE_VALUE, CODING_SCHEME, SCHEME_VERSION, CODE_MEANING, LONG_CODE_VALUE, URN_CODE_VALUE = (
    0x00080100,
    0x00080102,
    0x00080103,
    0x00080104,
    0x00080119,
    0x00080120,
)
CODE_TAGS = frozenset(
    {CODE_VALUE, CODING_SCHEME, SCHEME_VERSION, CODE_MEANING, LONG_CODE_VALUE, URN_CODE_VALUE}
)
LOCAL_SCHEME = "99MENINX"
_SYNONYMS = {"SNM3": "SRT", "99SDM": "SRT", "SNOMED-CT": "SCT"}
# Schemes that are not here keep codes of the tables only.
_SHAPES = {
    "SCT": re.compile(r"[1-9][0-9]{2,14}(?:00|10)[0-9]"),  # before the check digit, 00 or 10 mark a concept
    "SRT": re.compile(r"[A-Z][0-9A-Z]?-[0-9A-F]{5}"),
    "LN": re.compile(r"[0-9]{1,5}-[0-9]"),
    "I10": re.compile(r"[A-Z][0-9][0-9AB](?:\.[0-9A-Z]{1,4})?"),
    "I9": re.compile(r"[0-9]{3}(?:\.[0-9]{1,2})?"),
    "I9C": re.compile(r"[0-9]{2,3}(?:\.[0-9]{1,2})?"),
    "ICDO3": re.compile(r"[0-9]{4}/[0-9]|C[0-9]{2}(?:\.[0-9])?"),
    "NCIt": re.compile(r"C[0-9]{4,6}"),
    "UMLS": re.compile(r"C[0-9]{7}"),
    "RADLEX": re.compile(r"RID[0-9]{1,5}"),
    "FMA": re.compile(r"[0-9]{4,6}"),
    "MSH": re.compile(r"D[0-9]{6}|D[0-9]{9}"),
    "ATC": re.compile(r"[A-Z][0-9]{2}[A-Z]{2}[0-9]{2}"),
    "NEU": re.compile(r"[0-9]{1,4}"),
    "BARI": re.compile(r"[0-9]{1,3}[a-z]?"),
    "ISO3166_1": re.compile(r"[A-Z]{2}|USA|GBR|DEU|FRA|ESP|ITA|NLD|JPN|CHN|KOR|CAN|AUS"),
    "ISO639_1": re.compile(r"[a-z]{2}"),
    "ISO639_2": re.compile(
        "eng|deu|ger|fra|fre|spa|ita|nld|dut|por|pol|rus|jpn|zho|chi|kor|ara|swe|dan|nor|fin"
    ),
    "RFC3066": re.compile(r"[a-z]{2}(?:-[A-Z]{2})?"),
    "IETF4646": re.compile(r"[a-z]{2}(?:-[A-Z]{2})?"),
}
_UNITS = """
    m s g rad K C cd mol sr Hz N Pa J W A V F Ohm S Wb T H lm lx Bq Gy Sv l L ar t bar u eV pc deg gon
    min h d wk mo a mo_s a_j a_g Ci R RAD REM erg dyn P St Ky bit By Bd cal B Np kat U Torr [in_i]
    [ft_i] [yd_i] [lb_av] [oz_av] [degF] Cel [pH] [iU] [IU] [arb'U] [pi] [hnsf'U] [HU] [ppm] [ppb]
    [diop] [p'diop] [c] [e] [m_e] [h] [k] [g] [lbf_av] [psi] m[H2O] m[Hg] [Ch] [drp] [APL'U] [PFU]
    [CFU] %[slope] dB B[SPL] B[V] B[uV] B[mV] eq osm mho lb diop ppm [mi_i] [nmi_i] [PRU] [wood'U]
    [100]g [100]ml [mesh_i]
"""
_UCUM_ATOMS = frozenset(_UNITS.split())
_UCUM_PREFIXES = ("da", "Y", "Z", "E", "P", "T", "G", "M", "k", "h", "d", "c", "m", "u", "n", "p", "f", "a")
_UCUM_TERM = re.compile(
    r"(?P<unit>[A-Za-z%'_\[\]][A-Za-z0-9%'_\[\]]*?)?(?P<power>[+-]?[0-9])?(?P<note>\{[^{}]{1,24}\})?"
)
_UCUM_NOTES = frozenset(
    {"counts", "propcounts", "Particles", "Tissue", "WetWeight", "SUVbsa", "SUVbw", "SUVibw", "SUVlbm"}
)
_UCUM_NUMBER = re.compile(r"1|10|100|1000|10[*^][+-]?[0-9]{1,2}")
_VERSION = re.compile(r"[vV]?[0-9]{1,4}(?:[._-][0-9]{1,2})?[a-z]?")
PUBLISHED_SCHEMES: frozenset[str] = frozenset(row["designator"] for row in read_table("coding_schemes.csv"))


def clean_code(item: list[Element], encodings: tuple[str, ...], context: FileContext) -> dict[int, Element]:
    """Return the elements that take the place of the code value, scheme, version and meaning of one item.

    Args:
        item: elements of a sequence item; without any of these attributes the result is empty.
        encodings: character sets in force.
        context: of the file.
    """
    text = code_texts(item, encodings)
    if not text:
        return {}
    values = [tag for tag in (CODE_VALUE, LONG_CODE_VALUE, URN_CODE_VALUE) if text.get(tag)]
    scheme = text.get(CODING_SCHEME, "")
    if all(_is_published(scheme, text[tag], context) for tag in values) and (
        scheme in PUBLISHED_SCHEMES or not scheme
    ):
        known = bool(values)
        new = {tag: text[tag] for tag in (*values, CODING_SCHEME) if tag in text}
        version = text.get(SCHEME_VERSION, "")
        if _VERSION.fullmatch(version) and not context.found.found_in(version):
            new[SCHEME_VERSION] = version
    else:
        known = False
        pseudonyms = context.resolver.pseudonyms
        new = {tag: pseudonyms.identifier("CodeValue", f"{scheme}/{text[tag]}") for tag in values}
        if CODING_SCHEME in text:
            new[CODING_SCHEME] = LOCAL_SCHEME
    if CODE_MEANING in text:
        new[CODE_MEANING] = _meaning(text, values, context, code_stays=known)
    return {tag: _code_element(tag, value) for tag, value in new.items()}


def code_texts(item: list[Element], encodings: tuple[str, ...]) -> dict[int, str]:
    """Return tag -> text of the code value, scheme, version and meaning of an item; without padding."""
    return {
        e.tag: decode(bytes(e.value), encodings).strip(" \0")
        for e in item
        if e.tag in CODE_TAGS and e.items is None
    }


def dummy_code() -> list[Element]:
    """Return an item that stands for a removed code."""
    return [
        _code_element(CODE_VALUE, REMOVED),
        _code_element(CODING_SCHEME, LOCAL_SCHEME),
        _code_element(CODE_MEANING, REMOVED),
    ]


def canonical_code(scheme: str, value: str) -> tuple[str, str]:
    """Return scheme and value under which the tables list a code; SNOMED's older codes become numbers.

    >>> canonical_code("SRT", "T-04000")
    ('SCT', '76752008')
    """
    name = _SYNONYMS.get(scheme, scheme)
    if name == "SRT" and value in _snomed_numbers():
        return "SCT", _snomed_numbers()[value]
    return name, value


def published_meanings(scheme: str, value: str) -> tuple[str, ...]:
    """Return the published meanings of a code, shortest first; none when the tables do not know it."""
    return _published().get(canonical_code(scheme, value), ())


def _is_published(scheme: str, value: str, context: FileContext) -> bool:
    if scheme not in PUBLISHED_SCHEMES:
        return False
    if published_meanings(scheme, value):
        return True
    return has_form_of(_SYNONYMS.get(scheme, scheme), value) and not context.found.found_in(value)


def has_form_of(scheme: str, value: str) -> bool:
    """Return whether a value that no table knows has the form of a code of this scheme.

    >>> has_form_of("UCUM", "mm[Hg]"), has_form_of("UCUM", "Quentinsso")
    (True, False)
    >>> has_form_of("LN", "2345-7"), has_form_of("LN", "2345-6"), has_form_of("DCM", "551234")
    (True, False, False)
    """
    if scheme == "UCUM":
        return is_ucum(value)
    if scheme == "DCMUID":
        return is_registered(value)
    shape = _SHAPES.get(scheme)
    if shape is None or not shape.fullmatch(value):
        return False
    if scheme == "SCT":
        return _verhoeff(value)
    return scheme != "LN" or _luhn(value.replace("-", ""))


def is_ucum(value: str) -> bool:
    """Return whether a value follows the grammar of UCUM: known units, prefixes, powers, annotations.

    An annotation (``{counts}``) may hold harmless words only.
    """
    if not value or len(value) > 32:
        return False
    flat = value.replace("(", "").replace(")", "")
    if not flat.strip("./"):
        return False
    return all(
        _is_ucum_term(term) for term in re.split(r"[./](?![^{]*\})", flat) if term or flat != f"/{term}"
    )


def _is_ucum_term(term: str) -> bool:
    if not term:
        return True
    if _UCUM_NUMBER.fullmatch(term):
        return True
    found = _UCUM_TERM.fullmatch(term)
    if not found:
        return False
    unit, note = found["unit"] or "", found["note"] or ""
    if note and note[1:-1] not in _UCUM_NOTES and not is_harmless(note[1:-1]):
        return False
    if not unit:
        return bool(note) and not found["power"]
    return (
        unit in _UCUM_ATOMS
        or unit == "%"
        or any(unit.startswith(prefix) and unit[len(prefix) :] in _UCUM_ATOMS for prefix in _UCUM_PREFIXES)
    )


_D5 = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_PERMUTATIONS = (
    "0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415",
    "7046913258",
)  # fmt: skip


def _verhoeff(digits: str) -> bool:
    """Return whether the last digit is the check digit of the others by Verhoeff's method."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        check = int(_D5[check][int(_PERMUTATIONS[place % 8][int(digit)])])
    return check == 0


def _luhn(digits: str) -> bool:
    """Return whether the last digit is the check digit of the others by the mod-10 method of LOINC."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) * (1 + place % 2)
        total += number - 9 if number > 9 else number
    return total % 10 == 0


def _meaning(text: Mapping[int, str], values: list[int], context: FileContext, *, code_stays: bool) -> str:
    """Return the meaning if it is published or harmless, else the published one, else its known words.

    The meaning of a UCUM unit may be its code, or another expression of UCUM.
    A meaning is never replaced by another one of the same code while it can stay. Where the code stays and no
    table knows it, a part of its meaning could be another meaning: it is whole, or it is removed.
    """
    original = text[CODE_MEANING]
    unit = text[values[0]] if values and code_stays and text.get(CODING_SCHEME) == "UCUM" else ""
    if is_ucum(unit) and (original.casefold() == unit.casefold() or is_ucum(original)):
        return REMOVED if context.found.found_in(original) else original
    published = published_meanings(text.get(CODING_SCHEME, ""), text[values[0]]) if values else ()
    cleaning = Option.CLEAN_DESCRIPTORS in context.profile.options
    if published:
        known = original.casefold() in (meaning.casefold() for meaning in published)
        stays = known or (cleaning and is_harmless(original))
        meaning = original if stays and not context.found.found_in(original) else published[0][:64]
        return REMOVED if context.found.found_in(meaning) else meaning
    if not cleaning:
        return REMOVED
    if is_harmless(original) and not context.found.found_in(original):
        return original
    if code_stays:
        return REMOVED
    words = clean_text(original, limit=64, identifies=context.found.found_in)
    return REMOVED if not words or context.found.spelled_apart_in(original) else words


def _code_element(tag: int, text: str) -> Element:
    vr = {CODE_MEANING: "LO", LONG_CODE_VALUE: "UC", URN_CODE_VALUE: "UR"}.get(tag, "SH")
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
