"""Where a known identifier stands in one DICOM file: every value of every element is searched.

How certain a hit is depends on what the value is. A text is searched for everything. A valid number, UID,
date or time is compared as a whole and in its parts, because its digits can be an identifier by chance. A
value that has not the form of its VR is a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np

from meninx.deid import dates
from meninx.deid.actions import STRINGS, plain_number
from meninx.deid.identifiers import Identifiers, is_class_uid, is_common, keyword_of
from meninx.deid.identity.pseudonyms import is_registered
from meninx.deid.options import Option
from meninx.deid.profile import canonical, rows
from meninx.deid.raw_search import ByteKind
from meninx.deid.text_in_bytes import is_texty
from meninx.deid.wording.terms import is_term
from meninx.dicomfile.charset import exact
from meninx.dicomfile.file_part import Piece
from meninx.dicomfile.instance import Instance
from meninx.verify import dicom_checks
from meninx.verify.dicom_checks import Place
from meninx.verify.dicom_findings import FileFinding
from meninx.verify.known_values import CERTAIN, CHANCE, KnownValues, days_in
from meninx.verify.person_evidence import BIRTH_DATE

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)+")
_DIGITS = re.compile(r"[0-9]{6,}")
_FRACTION = re.compile(r"(?<=\.)[0-9]{6}")
_LONG = 8  # digits of a number that does not stand in a time, a UID or a binary number by chance
_BINARY = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "UV": "u8", "SV": "i8", "FL": "f4", "FD": "f8"}
_MOST_NUMBERS = 64  # of one binary value; a longer one is a table or a curve
_FURTHEST = timedelta(days=11 * 366)  # a shifted date that may be the birth date of a child by chance
_VALID: dict[str, Callable[[str], bool]] = {
    "DS": lambda text: bool(_NUMBER.fullmatch(text)),
    "IS": lambda text: bool(_NUMBER.fullmatch(text)),
    "UI": lambda text: bool(_UID.fullmatch(text)),
    "TM": dates.is_tm,
    "AS": lambda text: dates.years(text) is not None,
    "DA": lambda text: bool(dates.shift_da(text, 0)),
    "DT": lambda text: bool(dates.shift_dt(text, 0)),
}
"""VR -> whether a value has its form."""


@dataclass(frozen=True)
class OwnPatient:
    """Whose file it is, if the original is known.

    Attributes:
        own: identifiers of the person.
        birth: birth date as ``YYYYMMDD``; empty if unknown.
        days: days of the original file's study, series, acquisition and content.
        never_kept: identifiers that no option of the standard keeps, such as the PatientID.
    """

    own: Identifiers
    birth: str = ""
    days: tuple[str, ...] = ()
    never_kept: Identifiers = field(default_factory=Identifiers)

    def may_be_born_on_a_new_date(self) -> bool:
        """Return whether a shifted or kept date of the person can be the birth date by chance."""
        born = dates.parse(self.birth)
        others = (dates.parse(day) for day in self.own.days - {self.birth})
        return self.birth in self.days or any(_soon_after(born, day) for day in others)


def _soon_after(born: date | None, day: date | None) -> bool:
    return born is not None and day is not None and born <= day <= born + _FURTHEST


class IdentifierPlaces:
    """The search in one file: of its own patient in any spelling, of the others certainly.

    Args:
        one: the file.
        known: identifiers of everybody.
        person: whose file it is.
    """

    def __init__(self, one: Instance, known: KnownValues, person: OwnPatient) -> None:
        self._one, self._known, self._person = one, known, person
        self._options = dicom_checks.declared_options(one)
        self._places = list(dicom_checks.places(one.elements, one.encodings))
        own = person.own
        shown = {day for place in self._places for day in _days_shown(place)}
        names = {name for name in own.names if not is_common(name)}
        self._whole = Identifiers(names, own.numbers, set(), own.uids, own.phrases, own.encodings)
        never = person.never_kept
        self._never_kept = Identifiers(
            names=names, numbers=never.numbers, phrases=never.phrases, encodings=own.encodings
        )
        self._days = Identifiers(days=(own.days - shown) | ({person.birth} - {""}))
        self._own_numbers = own.numbers - own.days
        self._digits = Identifiers(numbers=own.numbers, days=self._days.days)

    def findings(self) -> Iterator[FileFinding]:
        """Yield where an identifier stands in the data set; the pixel data is left out."""
        for place in self._places:
            if not dicom_checks.is_method_code(place):
                yield from self._in_place(place)

    def in_bytes(self, value: bytes, place: str, *, vr: str = "") -> Iterator[FileFinding]:
        """Yield whether bytes outside of the data set hold an identifier.

        Args:
            value: the bytes.
            place: where they stand.
            vr: of an element of the file meta information.
        """
        text = value.decode("latin-1") if is_texty(value) else ""
        hit = self._known.hit(text) if text else ""
        certain = hit == CERTAIN or self.in_raw(value, ByteKind.TEXT)
        if text and not certain:
            certain = self._whole.found_in(text) or self._days.found_in(text)
        if vr == "UI" and not certain:
            hit = max(hit, *(self._in_uid_parts(part) for part in _parts(text)), key=_WEIGHTS.index)
            certain = hit == CERTAIN
        if certain:
            yield FileFinding("identifier-in-bytes", place)
        elif hit:
            yield FileFinding("identifier-by-chance", place)

    def in_raw(self, value: Piece, kind: ByteKind, *, kept: bool = False) -> bool:
        """Return whether raw bytes hold an identifier; in those that an option keeps, one that none keeps."""
        if kept:
            return self._never_kept.found_in_bytes(value, kind)
        if self._person.own.found_in_bytes(value, kind):
            return True
        return self._known.raw.found_in(value, frozenset(), kind=kind)

    def _in_place(self, place: Place) -> Iterator[FileFinding]:
        vr, keyword = place.element.vr.split(" or ")[0], keyword_of(place.element.tag)
        kept = _kept_on_purpose(place.element.tag, self._options)
        if vr == "UI" and not kept and not is_class_uid(keyword) and self._holds_uid(place.text):
            yield FileFinding("uid-unchanged", place.path)
            return
        if vr in _VALID:
            valid = [part for part in _parts(place.text) if _VALID[vr](part)]
            text = "\\".join(part for part in _parts(place.text) if not _VALID[vr](part))
            hits = {self._in_valid(part, vr, place) for part in valid} | {self._in_text(text, "", vr, kept)}
        elif vr in STRINGS:
            hits = {self._in_text(place.text, keyword, vr, kept)}
        else:  # a number may have the bytes of a text
            hits = {self._in_text(text, keyword, vr, kept) for text in _texts_of(place)}
            hits |= set(map(self._in_number, _binary(place, little=self._one.encoding.little)))
        no_text = vr not in _VALID and vr not in STRINGS
        if no_text and self.in_raw(place.element.value, ByteKind.BYTES, kept=kept):
            yield FileFinding("identifier-in-bytes", place.path)
        hit = max(hits | {""}, key=_WEIGHTS.index)
        if hit:
            yield FileFinding("identifier" if hit == CERTAIN else "identifier-by-chance", place.path)

    def _holds_uid(self, text: str) -> bool:
        return any(part in self._known.values.uids and not is_registered(part) for part in _parts(text))

    def _in_text(self, text: str, keyword: str, vr: str, kept: bool) -> str:
        """Return how certainly a text holds an identifier; empty for not at all."""
        if vr == "CS":
            text = "\\".join(value for value in text.split("\\") if not is_term(value.strip(" \0"), keyword))
        if not text:
            return ""
        own = self._never_kept if kept else self._whole
        if own.found_in(text) or self._days.found_in(text) or own.spelled_apart_in(text):
            return CERTAIN
        hit = self._known.hit(text)
        if not kept or not hit:
            return hit
        # An option keeps the attribute: of others, only a name in it is too much.
        named = KnownValues(Identifiers(names=self._known.values.names)).hit(text)
        return CERTAIN if hit == named == CERTAIN else ""

    def _in_valid(self, value: str, vr: str, place: Place) -> str:
        """Return the same of a number, UID, age, time or date that has the form of its VR."""
        if vr in ("DS", "IS"):
            ways = {value, plain_number(value)}
            spelled = any(self._digits.spelled_by(way) or self._known.spelled_by(way) for way in ways)
            return CERTAIN if spelled else ""
        if vr == "UI":
            return "" if value in self._known.values.uids else self._in_uid_parts(value)
        born = self._is_birth(value, vr, place) if vr in ("DA", "DT") else ""
        runs = {*_DIGITS.findall(value), re.sub(r"\D", "", value)}
        if vr == "TM":  # six digits that are a time of day: many archives number procedures by the time
            runs = {run for run in runs if len(run) >= _LONG} | set(_FRACTION.findall(value))
        if vr == "DA":  # eight digits that are a day: another patient's number is so by chance
            return born or (CHANCE if runs & self._own_numbers else "")
        everybody = self._known.values.numbers
        numbers = [run for run in runs if run in self._own_numbers or run in everybody]
        return max(born, _weight(numbers), key=_WEIGHTS.index)

    def _is_birth(self, value: str, vr: str, place: Place) -> str:
        """Return how certainly a date is the person's birth date, by itself and not as a date of the file."""
        day = re.sub(r"\D", "", value)[:8]
        compared = place.top and place.element.tag == BIRTH_DATE  # by the check of unchanged dates
        if not self._person.birth or day != self._person.birth or compared:
            return ""
        if not self._person.may_be_born_on_a_new_date():
            return CERTAIN
        return "" if Option.RETAIN_FULL_DATES in self._options else CHANCE

    def _in_uid_parts(self, uid: str) -> str:
        """Return the same of the components of a UID: numbers and days of the person, long numbers of all."""
        if is_registered(uid):
            return ""
        parts = {part for part in uid.split(".") if len(part) >= 6}
        days = {part[:8] for part in parts if len(part) in (8, 14)}
        if parts & self._person.own.numbers or days & self._days.days:
            return CERTAIN
        return CHANCE if any(len(part) >= _LONG for part in parts & self._known.values.numbers) else ""

    def _in_number(self, number: str) -> str:
        """Return the same of a binary number."""
        if len(number) >= 6 and self._digits.spelled_by(number):
            return _weight([number])
        return CHANCE if len(number) >= _LONG and self._known.spelled_by(number) else ""


_WEIGHTS = ("", CHANCE, CERTAIN)


def _weight(numbers: Iterable[str]) -> str:
    """Return how certain numbers are that stand in digits of another meaning."""
    longest = max(map(len, numbers), default=0)
    if longest >= _LONG:
        return CERTAIN
    return CHANCE if longest else ""


def _parts(text: str) -> list[str]:
    return [part.strip(" \0") for part in text.split("\\")]


def _days_shown(place: Place) -> set[str]:
    """Return the days of a date attribute, which a text may name, too."""
    return days_in(place.text[:8]) if place.element.vr in ("DA", "DT") else set()


def _texts_of(place: Place) -> set[str]:
    """Return bytes that look like text, as Latin-1, as UTF-8, and in the character sets of the file."""
    value = bytes(place.element.value)
    if not is_texty(value[:4096]):
        return set()
    declared = exact(value.strip(b" \0"), place.encodings)
    return {value.decode("latin-1"), value.decode("utf-8", "replace"), declared or ""} - {""}


def _binary(place: Place, *, little: bool) -> Iterator[str]:
    """Yield the whole numbers of a binary value."""
    kind = _BINARY.get(place.element.vr.split(" or ")[0])
    value = place.element.value
    if kind is None or len(value) % int(kind[1]) or len(value) > _MOST_NUMBERS * int(kind[1]):
        return
    found = np.frombuffer(bytes(value), dtype=("<" if little else ">") + kind)
    yield from (str(abs(int(number))) for number in found if np.isfinite(number) and number == int(number))


def _kept_on_purpose(tag: int, options: frozenset[Option]) -> bool:
    """Return whether an option that the file declares keeps this attribute as it was."""
    row = rows().get(canonical(tag))
    return row is not None and any(row.cells.get(option) == "K" for option in options)
