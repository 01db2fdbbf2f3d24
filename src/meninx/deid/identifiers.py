"""The identifiers in the header of one file, and the search for them in texts and raw bytes.

These are searched (short and common strings would raise false alarms):

* names: every part of every person name with three letters or more (two, when they are not Latin), also
  without accents, and whole names; placeholder words ("anonymous", "patient", ...) are left out;
* identifiers (``number`` in ``tables/identifying.csv``: patient, accession, admission, order, serial numbers,
  ...): four characters or more with a digit among them, or six letters; digits are matched as whole numbers,
  never inside longer ones or decimals, and fewer than six never as a DS or IS value;
* dates: every DA and DT value in the usual ways of writing a day, except days that the output holds on
  purpose;
* UIDs: every instance UID of ten characters or more, except kept ones;
* addresses and institutions (``phrase`` in the same table) and e-mail addresses: whole values and their parts
  of six characters or more.

A value that the profile keeps on purpose (by an option or override) is not searched.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from pydicom.datadict import keyword_for_tag

from meninx.deid import dates
from meninx.deid.identity.pseudonyms import is_registered
from meninx.deid.profile import canonical, read_table, rows
from meninx.deid.raw_search import Kind, RawSearch, raw_search
from meninx.deid.text_search import TextSearch, text_search, unaccented
from meninx.deid.wording.text import CORE_WORDS
from meninx.dicomfile.charset import CHARSET_TAG, UNDECODED, decode, encodings_of
from meninx.dicomfile.elements import PIXEL_DATA, Element, standard_vr
from meninx.dicomfile.file_part import Sliceable

UID = re.compile(r"(?<![0-9.])[0-9]+(?:\.[0-9]+)+")


_KINDS: dict[str, str] = {row["keyword"]: row["kind"] for row in read_table("identifying.csv")}
CLASS_UIDS = frozenset({"TransferSyntaxUID", "ContextUID", "MappingResourceUID", "ImplementationClassUID"})
PLACEHOLDERS: frozenset[str] = frozenset(row["word"] for row in read_table("common_words.csv"))
_LETTERS = re.compile(r"[^\W\d_]+")
_PARTS = re.compile(r"[\^=\s,;.\-_/()\\\"']+")
_BETWEEN = re.compile(rb"[\0-/:-@\[-`{-\x7f]+")  # words of bytes: all but ASCII letters and digits
_SHORTEST_WORD = 5  # bytes; the search in raw bytes finds no shorter one
_EMAIL = re.compile(rb"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")


def is_class_uid(keyword: str) -> bool:
    """Return whether an attribute's UID names a class, a syntax or a coding scheme, and never an instance."""
    return keyword in CLASS_UIDS or keyword.endswith("ClassUID")


@dataclass
class Identifiers:
    """Everything to look for, collected from one original file.

    Attributes:
        names: parts of names, casefolded.
        numbers: identifiers, casefolded.
        days: dates as ``YYYYMMDD``.
        uids: instance UIDs.
        phrases: addresses, institutions, e-mail addresses and their longer parts, casefolded.
        encodings: character sets that the file declares at any depth.
        undecoded: words of names, identifiers and addresses that do not decode, as bytes in lower case.
    """

    names: set[str] = field(default_factory=set)
    numbers: set[str] = field(default_factory=set)
    days: set[str] = field(default_factory=set)
    uids: set[str] = field(default_factory=set)
    phrases: set[str] = field(default_factory=set)
    encodings: set[str] = field(default_factory=set)
    undecoded: set[bytes] = field(default_factory=set)

    def add_name(self, value: str) -> None:
        """Add the parts of a person name, and the whole of it."""
        for group in value.split("="):
            whole = " ".join(part for part in _PARTS.split(group) if part)
            if len(whole) >= 6 and " " in whole and not is_common(whole):
                self.phrases |= {whole.casefold(), whole.replace(" ", "^").casefold()}
            for part in _PARTS.split(group):
                letters = part.strip().casefold()
                if _is_name(letters):
                    self.names |= {letters, unaccented(letters)}

    def add_number(self, value: str) -> None:
        """Add an identifier if it is long enough to differ from ordinary numbers and words."""
        text = value.strip(" \0").casefold()
        digits = sum(sign.isdigit() for sign in text)
        if (len(text) >= 4 and digits) or (len(text) >= 6 and not is_common(text)):
            self.numbers.add(text)
            squeezed = re.sub(r"[\s\-./()_:#+]+", "", text)
            cores = {squeezed, re.sub(r"\D+", "", text, flags=re.ASCII), *re.findall(r"[0-9]{6,}", text)}
            self.numbers |= {
                core for core in cores if len(core) >= 6 and not (core.isalpha() and is_common(core))
            }

    def add_phrase(self, value: str) -> None:
        """Add an address-like value and its parts of six characters or more."""
        for part in [value, *re.split(r"[\^,;\r\n\\]+", value)]:
            text = " ".join(part.split()).casefold()
            if len(text) >= 6 and not is_common(text):
                self.phrases.add(text)

    def add_day(self, value: str) -> None:
        """Add the day of a DA or DT value."""
        for side in value.split("-") if len(value) > 10 else [value]:
            day = dates.parse(side) if len(side.strip()) >= 8 else None
            if day is not None:
                self.days.add(day.strftime("%Y%m%d").rjust(8, "0"))

    def without(self, other: Identifiers) -> Identifiers:
        """Return these identifiers less those that the output holds legitimately."""
        pairs = zip(
            vars(self).values(),
            (other.names, other.numbers | other.days, other.days, other.uids, other.phrases),
            strict=False,
        )
        if not any(own & legitimate for own, legitimate in pairs):
            return self
        return Identifiers(
            self.names - other.names,
            self.numbers - other.numbers - other.days,
            self.days - other.days,
            self.uids - other.uids,
            self.phrases - other.phrases,
            self.encodings,
            self.undecoded,
        )

    @cached_property
    def _parts(self) -> tuple[frozenset[str], ...]:
        odd = {uid for uid in self.uids if not UID.fullmatch(uid)}
        return tuple(map(frozenset, (self.names, self.numbers, self.days, self.phrases, odd)))

    @cached_property
    def _texts(self) -> TextSearch:
        return text_search(*self._parts)

    @cached_property
    def _raw(self) -> RawSearch:
        names, numbers, days, phrases, uids = self._parts
        return raw_search(names, numbers, days, phrases, uids, frozenset(self.encodings))

    @cached_property
    def _uid_bytes(self) -> frozenset[bytes]:
        """What is searched in bytes as it is and differs from file to file: UIDs, undecoded words."""
        return frozenset(uid.encode() for uid in self.uids if uid.isascii()) | self.undecoded

    def found_in(self, text: str) -> bool:
        """Return whether any identifier occurs in ``text``, in any case, with or without accents."""
        if "." in text and self.uids and any(uid in self.uids for uid in UID.findall(text)):
            return True
        return bool(text) and self._texts.found_in(text)

    def found_in_bytes(self, content: Sliceable, kind: Kind = Kind.TEXT) -> bool:
        """Return whether a longer identifier occurs in raw bytes, in any character set of the file.

        Where the bytes are no text, it may be part of a word or a number (:meth:`RawSearch.found_in`).
        """
        return self._raw.found_in(content, self._uid_bytes, kind=kind)

    def spelled_by(self, number: str) -> bool:
        """Return whether one DS or IS value is an identifier of six digits or more, or a day.

        Shorter ones mean nothing.
        """
        digits = number.strip(" \0+-")
        whole = re.sub(r"\.0*$", "", digits).lstrip("0")
        ways = {digits, whole, digits.replace(".", "")}
        return any((len(way) >= 6 and way in self.numbers) or way in self.days for way in ways)

    def spelled_apart_in(self, text: str) -> bool:
        """Return whether a value spells an identifier in pieces: :meth:`TextSearch.spelled_apart_in`."""
        return self._texts.spelled_apart_in(text)

    def removed_from(self, text: str) -> str:
        """Return ``text`` without the words that hold an identifier."""
        if not self.found_in(text):
            return text
        folded = text.casefold()
        pattern = self._texts.pattern
        if pattern is None or len(folded) != len(text) or not folded.isascii():
            kept = " ".join(word for word in text.split() if not self.found_in(word))
            return "" if self.found_in(kept) else kept
        kept = " ".join(_cut(text, [match.span() for match in pattern.finditer(folded)]).split())
        if self.found_in(kept):
            kept = " ".join(word for word in kept.split() if not self.found_in(word))
        return "" if self.found_in(kept) else kept


def collect(
    elements: list[Element],
    encodings: tuple[str, ...] = ("iso8859",),
    keeps: Callable[[int, str], bool] = lambda tag, vr: False,
) -> tuple[Identifiers, Identifiers]:
    """Return the identifiers of a data set that must go, and those that the profile keeps on purpose.

    Args:
        elements: the original data set; every depth is read, private elements with a VR included.
        encodings: character sets in force.
        keeps: whether the profile keeps an attribute (tag, VR) as it is.
    """
    found, kept = Identifiers(), Identifiers()
    _collect_all(elements, encodings, keeps, found, kept)
    return found.without(kept), kept


def _collect_all(
    elements: list[Element],
    encodings: tuple[str, ...],
    keeps: Callable[[int, str], bool],
    found: Identifiers,
    kept: Identifiers,
) -> None:
    """Add the identifiers of every depth; without :func:`_valued`, for speed."""
    for element in elements:
        if element.tag == CHARSET_TAG:
            encodings = encodings_of(bytes(element.value))
            found.encodings.update(encodings)
    for element in elements:
        tag, vr, value = element.tag, element.vr, element.value
        if element.items is not None:
            for item in element.items:
                _collect_all(item, encodings, keeps, found, kept)
        elif len(value) and tag not in PIXEL_DATA:
            kind = _kind(tag, vr)
            if kind == "bulk" or (kind == "text" and b"@" not in bytes(value)):
                continue  # most elements: nothing of them is an identifier
            text = decode(bytes(value), encodings)
            _collect(kept if keeps(tag, vr) else found, kind, text)
            if UNDECODED in text and kind in _ABOUT_A_PERSON and not keeps(tag, vr):
                found.undecoded |= _undecoded_words(bytes(value))


def _undecoded_words(value: bytes) -> set[bytes]:
    """Return the words of a value beyond ASCII that are long enough to be searched in raw bytes."""
    words = (word.lower() for word in _BETWEEN.split(value))
    return {word for word in words if len(word) >= _SHORTEST_WORD and not word.isascii()}


def strings(
    elements: list[Element], encodings: tuple[str, ...], seen: set[str]
) -> Iterator[tuple[Element, str]]:
    """Yield every element that is not a sequence with its decoded text, every depth.

    Pixel data is left out.
    """
    for element, own in _valued(elements, encodings, seen):
        yield element, decode(bytes(element.value), own)


def _valued(
    elements: list[Element], encodings: tuple[str, ...], seen: set[str]
) -> Iterator[tuple[Element, tuple[str, ...]]]:
    """Yield every element that is not a sequence, at every depth, with the character sets in force."""
    for element in elements:
        if element.tag == CHARSET_TAG:
            encodings = encodings_of(bytes(element.value))
            seen.update(encodings)
    for element in elements:
        if element.items is not None:
            for item in element.items:
                yield from _valued(item, encodings, seen)
        elif element.tag not in PIXEL_DATA and element.value:
            yield element, encodings


def _collect(found: Identifiers, kind: str, text: str) -> None:
    if kind in ("name", "day", "uid", "number"):
        values = [value for value in text.replace("\0", "").split("\\") if value.strip()]
        if kind == "uid":
            uids = (uid.strip() for uid in values)
            found.uids |= {uid for uid in uids if len(uid) >= 10 and not is_registered(uid)}
        else:
            _each({"name": found.add_name, "day": found.add_day, "number": found.add_number}[kind], values)
    elif kind == "phrase":
        found.add_phrase(text.replace("\0", ""))
    elif kind == "text":
        found.phrases |= {
            mail.decode("ascii").casefold() for mail in _EMAIL.findall(text.encode("utf-8", "replace"))
        }


@lru_cache(maxsize=16384)
def _kind(tag: int, vr: str) -> str:
    """Return what an attribute holds: name, day, uid, number, phrase, text, or bulk (never an identifier)."""
    keyword, vrs = keyword_of(tag), {vr, standard_vr(tag)}
    if "PN" in vrs:
        return "name"
    if vrs & {"DA", "DT"}:
        return "day"
    if "UI" in vrs and not is_class_uid(keyword):
        return "uid"
    return _KINDS.get(keyword) or ("bulk" if vr in _BULK else "text")


_ABOUT_A_PERSON = frozenset({"name", "number", "phrase"})
_WHO_OF_OTHER_KINDS = frozenset(
    {
        "PatientBirthDate", "PatientBirthTime", "PatientComments", "OtherPatientIDsSequence", "NameToUse",
        "NameToUseComment", "IdentifyingComments", "ScheduledPatientInstitutionResidence", "CameraOwnerName",
        "TopicAuthor", "AddressTrial", "TelephoneNumberTrial", "BarcodeValue", "GPSLatitude", "GPSLongitude",
    }
)  # fmt: skip


def names_somebody(tag: int) -> bool:
    """Return whether an attribute holds a name, an ID or an address that no option of the standard keeps.

    Those that an option keeps are of the device or the institution, such as StationName. Descriptions, dates
    and UIDs are of other kinds; the birth date, and texts such as comments on the patient, count, too.

    >>> names_somebody(0x00100010), names_somebody(0x00081010), names_somebody(0x00081030)
    (True, False, False)
    """
    row = rows().get(canonical(tag))
    if (row.keyword if row is not None else keyword_of(tag)) in _WHO_OF_OTHER_KINDS:
        return True
    if row is not None and "K" in row.cells.values():
        return False
    return _kind(tag, row.vr if row is not None else standard_vr(tag)) in _ABOUT_A_PERSON


_BULK = frozenset({"OB", "OW", "OF", "OD", "OL", "OV", "US", "SS", "UL", "SL", "FL", "FD", "AT", "SV", "UV"})


@lru_cache(maxsize=16384)
def keyword_of(tag: int) -> str:
    """Return the keyword of a public attribute, empty for a private or unknown one."""
    return "" if tag >> 16 & 1 else keyword_for_tag(tag)


def _each(add: Callable[[str], None], values: Iterable[str]) -> None:
    for value in values:
        add(value)


def is_common(text: str) -> bool:
    """Return whether a text consists of vocabulary and placeholder words only."""
    return all(word in CORE_WORDS or word in PLACEHOLDERS for word in _LETTERS.findall(text.casefold()))


def _is_name(letters: str) -> bool:
    if letters in PLACEHOLDERS or not letters:
        return False
    latin = letters[0].isascii() or "LATIN" in unicodedata.name(letters[0], "")
    return sum(sign.isalpha() for sign in letters) >= (3 if latin else 2)


def _cut(text: str, spans: list[tuple[int, int]]) -> str:
    for start, end in reversed(spans):
        text = text[:start] + " " + text[end:]
    return text
