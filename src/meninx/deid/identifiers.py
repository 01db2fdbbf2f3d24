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

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from pydicom.datadict import keyword_for_tag

from meninx.deid import dates
from meninx.deid.identity.pseudonyms import is_registered
from meninx.deid.profile import read_table
from meninx.deid.wording.text import CORE_WORDS
from meninx.dicomfile.charset import CHARSET_TAG, decode, encoded, encodings_of
from meninx.dicomfile.elements import PIXEL_DATA, Element, standard_vr
from meninx.dicomfile.file_part import FilePart, Sliceable

UID = re.compile(r"(?<![0-9.])[0-9]+(?:\.[0-9]+)+")


@lru_cache(maxsize=128)
def text_pattern(
    names: frozenset[str],
    numbers: frozenset[str],
    days: frozenset[str],
    phrases: frozenset[str],
    uids: frozenset[str],
) -> re.Pattern[str] | None:
    """Return the pattern of identifiers in casefolded text.

    Args:
        names: parts of names.
        numbers: identifiers.
        days: dates as ``YYYYMMDD``.
        phrases: addresses, institutions, whole names.
        uids: those that are no numbers between dots; the others are looked up by :data:`UID`.
    """
    choices = [*map(_name_pattern, names), *map(number_pattern, numbers)]
    choices += [re.escape(phrase).replace(r"\ ", r"\s+") for phrase in phrases]
    choices += [pattern for day in days for pattern in _day_patterns(day)]
    choices += [rf"(?<![\d.]){re.escape(uid.casefold())}(?!\d|\.\d)" for uid in uids]
    return re.compile("|".join(sorted(choices, key=lambda item: (-len(item), item)))) if choices else None


class RawSearch:
    """Identifiers in raw bytes, fast enough for every byte of the pixels.

    Searching each identifier on its own takes a few nanoseconds per byte. The search therefore has three
    steps, each for a window of :data:`_WINDOW` bytes:

    1. Two bytes beside each other have to be text. In pixels of 16 bits of which 13 are used, the high byte
       is no text, which the bitwise sum of the window shows.
    2. The pair of bytes at every fourth place is looked up in a table of the pairs that occur in any
       identifier. One of five bytes or more covers such a place wherever it begins.
    3. Around these places the identifiers are compared, and a pattern decides whether one stands alone.

    Args:
        patterns: identifier in lower case -> what must not stand around it; the pattern matches where the
            identifier begins.
    """

    def __init__(self, patterns: Mapping[bytes, bytes]) -> None:
        self.patterns = patterns

    def found_in(self, content: Sliceable, uids: frozenset[bytes], *, coded: bool = False) -> bool:
        """Return whether one of the identifiers, or of these UIDs, occurs in ``content`` in any case.

        Args:
            content: the bytes.
            uids: UIDs, which differ from file to file.
            coded: the bytes are compressed data, in which a letter or a digit beside an identifier means
                nothing; one of six bytes or more counts whatever stands around it.
        """
        for at, needle in self._places(content, (*self.patterns, *uids)):
            if coded and len(needle) >= 6:
                return True
            ways = [self.patterns[needle]] if needle in self.patterns else []
            if needle in uids:
                ways.append(_AROUND_UID + re.escape(needle) + _BEHIND_UID)
            if any(_stands(content, at, len(needle), pattern) for pattern in ways):
                return True
        return False

    def _places(self, content: Sliceable, needles: tuple[bytes, ...]) -> Iterator[tuple[int, bytes]]:
        """Yield where identifiers stand, in any case, whatever stands around them."""
        longest = max(map(len, needles), default=0)
        if not longest:
            return
        by_start: dict[bytes, list[bytes]] = {}
        for needle in needles:
            by_start.setdefault(needle[:_LEAST], []).append(needle)
        pairs, starts = _pairs_of(needles), _starts_of(by_start)
        view = memoryview(content) if isinstance(content, bytes) else content
        for start in range(0, len(view), _WINDOW):
            part = view[start : start + _WINDOW + longest]
            window = memoryview(bytes(part) if isinstance(part, FilePart) else part)
            if _may_be_text(window):
                for at in _candidates(window, pairs, starts):
                    head = bytes(window[at : at + longest]).lower()
                    for needle in by_start.get(head[:_LEAST], ()):
                        if head.startswith(needle):
                            yield start + at, needle


_LEAST = 5  # bytes of the shortest identifier that is searched in raw bytes


def _pairs_of(needles: tuple[bytes, ...]) -> npt.NDArray[np.bool_]:
    """Return a table of 65,536 pairs of bytes, the first one low: those that occur in an identifier."""
    table = np.zeros((256, 256), dtype=np.bool_)  # second byte, first byte
    joined = b"\0".join(needles)
    ways = [np.frombuffer(text, dtype=np.uint8) for text in (joined, joined.upper())]
    for first, second in itertools.product(ways, ways):
        table[second[1:], first[:-1]] = True
    table[0] = table[:, 0] = False  # the separator
    return table.reshape(-1)


def _stands(content: Sliceable, at: int, length: int, pattern: bytes) -> bool:
    """Return whether an identifier stands alone; a pattern looks at two bytes before and behind it."""
    first = max(0, at - 2)
    return bool(_compiled(pattern).match(bytes(content[first : at + length + 2]), at - first))


def _may_be_text(window: memoryview) -> bool:
    """Return whether two bytes beside each other can both be text, which control characters are not."""
    whole = len(window) & ~7
    every = int(np.bitwise_or.reduce(np.frombuffer(window[:whole], dtype="<u8"), initial=0))
    every |= int.from_bytes(window[whole:], "little")
    low, high = every & 0x00FF00FF00FF00FF, every >> 8 & 0x00FF00FF00FF00FF
    quiet = 0x00E000E000E000E0  # the bits that a control character, below 32, does not have
    return bool(low & quiet and high & quiet)


def _starts_of(by_start: Iterable[bytes]) -> npt.NDArray[np.bool_]:
    """Return a table of 65,536 numbers: those of the first four bytes of the identifiers."""
    words = np.array([int.from_bytes(start[:4], "little") for start in by_start], dtype=np.uint32)
    table = np.zeros(1 << 16, dtype=np.bool_)
    table[_number_of(words)] = True
    return table


def _number_of(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return a number below 65,536 for each group of four bytes, the same for both cases of a letter."""
    return (words | np.uint32(0x20202020)) * np.uint32(0x9E3779B1) >> np.uint32(16)


def _candidates(window: memoryview, pairs: npt.NDArray[np.bool_], starts: npt.NDArray[np.bool_]) -> list[int]:
    """Return where an identifier may begin; every place where one begins is among them.

    Args:
        window: the bytes.
        pairs: table of :func:`_pairs_of`.
        starts: table of :func:`_starts_of`.
    """
    size = len(window)
    if size < _LEAST:
        return []
    even = np.frombuffer(window[: size & ~1], dtype="<u2")
    at = np.flatnonzero(pairs.take(even[::2]))
    if not len(at):
        return []
    words = np.frombuffer(bytes(4) + window[: size & ~3] + bytes(window[size & ~3 :]).ljust(4, b"\0"), "<u4")
    before, here = words[at], words[at + 1]
    found: list[int] = (at[starts.take(_number_of(here))] * 4).tolist()
    for back in (1, 2, 3):  # an identifier that begins this many bytes before the place
        word = before >> np.uint32(32 - 8 * back) | here << np.uint32(8 * back)
        found += (at[starts.take(_number_of(word))] * 4 - back).tolist()
    return sorted(place for place in found if place >= 0)


_WINDOW = 1 << 18
_AROUND_UID, _BEHIND_UID = rb"(?<![0-9.])", rb"(?![0-9])(?!\.[0-9])"


@lru_cache(maxsize=256)
def _compiled(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.IGNORECASE)


@lru_cache(maxsize=128)
def raw_search(
    names: frozenset[str],
    numbers: frozenset[str],
    days: frozenset[str],
    phrases: frozenset[str],
    uids: frozenset[str],
    declared: frozenset[str],
) -> RawSearch:
    """Return the search for the longer identifiers in raw bytes, in every character set in ``declared``."""
    patterns: dict[bytes, bytes] = {}
    encodings = tuple(sorted(declared)) or ("iso8859",)
    for phrase in phrases:
        patterns |= {way.lower(): re.escape(way) for way in encoded(phrase, encodings) if len(way) >= 6}
    for name in names:
        ways = {way for form in (name, name.upper(), name.capitalize()) for way in encoded(form, encodings)}
        before, after = (rb"(?<![A-Za-z])", rb"(?![A-Za-z])") if name.isascii() else (b"", b"")
        patterns |= {way.lower(): before + re.escape(way) + after for way in ways if len(way) >= 5}
    long = (
        number for number in numbers if len(number) >= 6 and number.isascii() and not _may_be_time(number)
    )
    patterns |= {number.encode().lower(): number_pattern(number).encode() for number in long}
    patterns |= {day.encode(): rb"(?<!\d)" + day.encode() + rb"(?!\d)" for day in days}
    patterns |= {uid.encode().lower(): re.escape(uid.encode()) for uid in uids if uid.isascii()}
    return RawSearch({needle: patterns[needle] for needle in sorted(patterns)})


def _name_pattern(name: str) -> str:
    """Return a pattern: long names match inside words too, short ones only as a word."""
    return (
        re.escape(name)
        if len(name) >= 5 or not name.isascii()
        else rf"(?<![^\W\d_]){re.escape(name)}(?![^\W\d_])"
    )


def number_pattern(number: str) -> str:
    """Return a pattern: digits match as a whole number only, short identifiers as a whole word only."""
    before, after = r"(?<![0-9])(?<![0-9]\.)", r"(?![0-9])(?!\.[0-9])"
    if len(number) < 6:
        before, after = r"(?<![0-9a-z])(?<![0-9]\.)", r"(?![0-9a-z])(?!\.[0-9])"
    return (
        (before if number[0].isalnum() else "") + re.escape(number) + (after if number[-1].isalnum() else "")
    )


def _any_of(words: Iterable[str]) -> re.Pattern[str] | None:
    choices = sorted(words, key=lambda word: (-len(word), word))
    return re.compile("|".join(map(re.escape, choices))) if choices else None


def _may_be_time(number: str) -> bool:
    """Return whether six digits may also be a time of day; in raw bytes the two look the same."""
    return len(number) == 6 and dates.is_tm(number)


_MONTHS = (
    "jan", "feb|fév|fev", "mar|mär|mrz", "apr|avr|abr", "may|mai|mag", "jun|juin|giu", "jul|juil|lug",
    "aug|aoû|aou|ago", "sep|set", "oct|okt|ott", "nov", "dec|dez|déc|dic",
)  # fmt: skip


def _day_patterns(day: str) -> list[str]:
    """Return the patterns of a day in casefolded text: digits in any order, short forms, names of months."""
    year, month, date = day[:4], day[4:6], day[6:]
    orders = [(year, month, date), (date, month, year), (month, date, year)]
    patterns = [rf"(?<!\d){a}[-./ ]?{b}[-./ ]?{c}(?!\d)" for a, b, c in orders]
    # Without leading zeros or century only with separators: the digits alone are ordinary numbers.
    m, d, years = f"0?{int(month)}", f"0?{int(date)}", f"(?:{year[:2]})?{year[2:]}"
    patterns += [rf"(?<![\d.]){a}[-./_ ]{b}[-./_ ]{years}(?![\d.])" for a, b in ((d, m), (m, d))]
    name = rf"(?:{_MONTHS[int(month) - 1]})[^\W\d_]*"
    between = r"(?:st|nd|rd|th)?[-./_, ]*"
    patterns += [
        rf"(?<!\d){d}{between}{name}{between}{years}(?!\d)",
        rf"{name}{between}{d}{between}{year}(?!\d)",
        rf"(?<!\d){year}{between}{name}{between}{d}(?!\d)",
    ]
    return patterns


_KINDS: dict[str, str] = {row["keyword"]: row["kind"] for row in read_table("identifying.csv")}
CLASS_UIDS = frozenset({"TransferSyntaxUID", "ContextUID", "MappingResourceUID", "ImplementationClassUID"})
PLACEHOLDERS: frozenset[str] = frozenset(row["word"] for row in read_table("common_words.csv"))
_LETTERS = re.compile(r"[^\W\d_]+")
_PARTS = re.compile(r"[\^=\s,;.\-_/()\\\"']+")
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
    """

    names: set[str] = field(default_factory=set)
    numbers: set[str] = field(default_factory=set)
    days: set[str] = field(default_factory=set)
    uids: set[str] = field(default_factory=set)
    phrases: set[str] = field(default_factory=set)
    encodings: set[str] = field(default_factory=set)

    def add_name(self, value: str) -> None:
        """Add the parts of a person name, and the whole of it."""
        for group in value.split("="):
            whole = " ".join(part for part in _PARTS.split(group) if part)
            if len(whole) >= 6 and " " in whole and not is_common(whole):
                self.phrases |= {whole.casefold(), whole.replace(" ", "^").casefold()}
            for part in _PARTS.split(group):
                letters = part.strip().casefold()
                if _is_name(letters):
                    self.names |= {letters, _plain(letters)}

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
        )

    @cached_property
    def _parts(self) -> tuple[frozenset[str], ...]:
        odd = {uid for uid in self.uids if not UID.fullmatch(uid)}
        return tuple(map(frozenset, (self.names, self.numbers, self.days, self.phrases, odd)))

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return text_pattern(*self._parts)

    @cached_property
    def _raw(self) -> RawSearch:
        return raw_search(*self._parts, frozenset(self.encodings))

    @cached_property
    def _uid_bytes(self) -> frozenset[bytes]:
        return frozenset(uid.encode() for uid in self.uids if uid.isascii())

    def found_in(self, text: str) -> bool:
        """Return whether any identifier occurs in ``text``, in any case, with or without accents."""
        if not text:
            return False
        if self.uids and any(uid in self.uids for uid in UID.findall(text)):
            return True
        folded = text.casefold()
        return self._occurs(folded) or (not folded.isascii() and self._occurs(_plain(folded)))

    def _occurs(self, folded: str) -> bool:
        """Return whether the pattern matches; it is compiled only when a piece of an identifier is there."""
        if not any(piece in folded for piece in self._pieces):
            return False
        return self._pattern is not None and bool(self._pattern.search(folded))

    @cached_property
    def _pieces(self) -> tuple[str, ...]:
        """One piece of every identifier that is in each text that the pattern matches."""
        names, numbers, days, phrases, odd = self._parts
        years = {day[2:4] for day in days}  # the century is optional
        words = {phrase.split()[0] for phrase in phrases if phrase.split()}
        return (*names, *numbers, *years, *words, *(uid.casefold() for uid in odd))

    def found_in_bytes(self, content: Sliceable, *, coded: bool = False) -> bool:
        """Return whether a longer identifier occurs in raw bytes, in any character set of the file.

        In coded data, one of six bytes or more also counts within a word or a number.
        """
        return self._raw.found_in(content, self._uid_bytes, coded=coded)

    def spelled_by(self, number: str) -> bool:
        """Return whether one DS or IS value is an identifier of six digits or more, or a day.

        Shorter ones mean nothing.
        """
        digits = number.strip(" \0+-")
        whole = re.sub(r"\.0*$", "", digits).lstrip("0")
        ways = {digits, whole, digits.replace(".", "")}
        return any((len(way) >= 6 and way in self.numbers) or way in self.days for way in ways)

    @cached_property
    def _apart(self) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
        letters = {re.sub(r"[^a-z]", "", name) for name in self.names if name.isascii()}
        digits = {
            number for number in self.numbers if number.isascii() and number.isdigit() and len(number) >= 6
        }
        return _any_of(word for word in letters if len(word) >= 5), _any_of(digits | self.days)

    def spelled_apart_in(self, text: str) -> bool:
        """Return whether letters or digits of one value spell an identifier in pieces (``D R A C U``).

        Names of five letters and more and identifiers of six digits and more count; the pieces of a name are
        groups of letters, of which the name uses up each one that it touches.
        """
        names, digits = self._apart
        if digits is not None and digits.search("".join(re.findall(r"[0-9]", text))):
            return True
        if names is None:
            return False
        folded = _plain(text)
        starts, ends, at = set(), set(), 0
        for run in re.findall(r"[a-z]+", folded):
            starts.add(at)
            at += len(run)
            ends.add(at)
        joined = "".join(re.findall(r"[a-z]", folded))
        return any(found.start() in starts and found.end() in ends for found in names.finditer(joined))

    def removed_from(self, text: str) -> str:
        """Return ``text`` without the words that hold an identifier."""
        if not self.found_in(text):
            return text
        folded = text.casefold()
        if self._pattern is None or len(folded) != len(text) or not folded.isascii():
            kept = " ".join(word for word in text.split() if not self.found_in(word))
            return "" if self.found_in(kept) else kept
        kept = " ".join(_cut(text, [match.span() for match in self._pattern.finditer(folded)]).split())
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
    for element, own in _valued(elements, encodings, found.encodings):
        kind = _kind(element.tag, element.vr)
        value = bytes(element.value)
        if kind == "bulk" or (kind == "text" and b"@" not in value):
            continue  # most elements: nothing of them is an identifier
        _collect(kept if keeps(element.tag, element.vr) else found, kind, decode(value, own))
    return found.without(kept), kept


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


def _plain(text: str) -> str:
    """Return ``text`` without accents."""
    return "".join(
        sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign)
    ).casefold()


def _cut(text: str, spans: list[tuple[int, int]]) -> str:
    for start, end in reversed(spans):
        text = text[:start] + " " + text[end:]
    return text
