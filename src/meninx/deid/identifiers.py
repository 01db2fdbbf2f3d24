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
from meninx.deid.elements import PIXEL_DATA, Element, standard_vr
from meninx.deid.profile import read_table
from meninx.deid.pseudonyms import is_registered
from meninx.deid.text import CHARSET_TAG, VOCABULARY, decode, encoded, encodings_of

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
    2. Pairs of neighbouring bytes are looked up in a table of the pairs that occur in any identifier. An
       identifier of five bytes or more begins only where four such pairs follow each other.
    3. At these places the identifiers are compared, and a pattern decides whether one stands alone.

    Args:
        patterns: identifier in lower case -> what must not stand around it; the pattern matches where the
            identifier begins.
    """

    def __init__(self, patterns: Mapping[bytes, bytes]) -> None:
        self.patterns = patterns

    def found_in(self, content: bytes | memoryview, uids: frozenset[bytes]) -> bool:
        """Return whether one of the identifiers, or of these UIDs, occurs in ``content`` in any case."""
        around = {uid: _AROUND_UID + re.escape(uid) + _BEHIND_UID for uid in uids}
        return any(
            _compiled(pattern).match(content, at)
            for at, needle in self._places(content, (*self.patterns, *uids))
            for pattern in (self.patterns.get(needle), around.get(needle))
            if pattern is not None
        )

    def spelled_in(self, content: bytes | memoryview, uids: frozenset[bytes]) -> bool:
        """Return whether an identifier of six bytes or more occurs, whatever stands around it.

        For coded data, in which a letter or a digit beside an identifier means nothing.
        """
        needles = tuple(needle for needle in (*self.patterns, *uids) if len(needle) >= 6)
        return any(True for _ in self._places(content, needles))

    def _places(self, content: bytes | memoryview, needles: tuple[bytes, ...]) -> Iterator[tuple[int, bytes]]:
        """Yield where identifiers stand, in any case, whatever stands around them."""
        longest = max(map(len, needles), default=0)
        if not longest:
            return
        pairs = _pairs_of(needles)
        by_start: dict[bytes, list[bytes]] = {}
        for needle in needles:
            by_start.setdefault(needle[:_LEAST], []).append(needle)
        view = memoryview(content)
        for start in range(0, len(view), _WINDOW):
            window = view[start : start + _WINDOW + longest]
            if _may_be_text(window):
                for at in _candidates(window, pairs):
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


def _may_be_text(window: memoryview) -> bool:
    """Return whether two bytes beside each other can both be text, which control characters are not."""
    whole = len(window) & ~7
    every = int(np.bitwise_or.reduce(np.frombuffer(window[:whole], dtype="<u8"), initial=0))
    every |= int.from_bytes(window[whole:], "little")
    low, high = every & 0x00FF00FF00FF00FF, every >> 8 & 0x00FF00FF00FF00FF
    quiet = 0x00E000E000E000E0  # the bits that a control character, below 32, does not have
    return bool(low & quiet and high & quiet)


def _candidates(window: memoryview, pairs: npt.NDArray[np.bool_]) -> list[int]:
    """Return where four pairs of :func:`_pairs_of` follow each other."""
    if len(window) < _LEAST:
        return []
    even, odd = (
        np.frombuffer(window[shift : shift + ((len(window) - shift) & ~1)], dtype="<u2") for shift in (0, 1)
    )
    fits = np.zeros(len(window) - 1, dtype=np.bool_)
    fits[0::2], fits[1::2] = pairs[even], pairs[odd]
    twice = fits[:-1] & fits[1:]
    found: list[int] = np.flatnonzero(twice[:-2] & twice[2:]).tolist()
    return found


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


def _may_be_time(number: str) -> bool:
    """Return whether six digits may also be a time of day; in raw bytes the two look the same."""
    return len(number) == 6 and dates.is_tm(number)


def _day_patterns(day: str) -> list[str]:
    year, month, date = day[:4], day[4:6], day[6:]
    orders = [(year, month, date), (date, month, year), (month, date, year)]
    return [rf"(?<!\d){a}[-./ ]?{b}[-./ ]?{c}(?!\d)" for a, b, c in orders]


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
            squeezed = re.sub(r"[\s\-./()]+", "", text)
            if len(squeezed) >= 6 and squeezed != text:
                self.numbers.add(squeezed)

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
            (other.names, other.numbers, other.days, other.uids, other.phrases),
            strict=False,
        )
        if not any(own & legitimate for own, legitimate in pairs):
            return self
        return Identifiers(
            self.names - other.names,
            self.numbers - other.numbers,
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
        if self._pattern is None:
            return False
        folded = text.casefold()
        return bool(
            self._pattern.search(folded) or (not folded.isascii() and self._pattern.search(_plain(folded)))
        )

    def found_in_bytes(self, content: bytes | memoryview) -> bool:
        """Return whether a longer identifier occurs in raw bytes, in any character set of the file."""
        return self._raw.found_in(content, self._uid_bytes)

    def spelled_in_coded(self, content: bytes | memoryview) -> bool:
        """Return whether an identifier of six bytes or more occurs in compressed data, also within a word."""
        return self._raw.spelled_in(content, self._uid_bytes)

    def spelled_by(self, number: str) -> bool:
        """Return whether one DS or IS value is an identifier of six digits or more, or a day.

        Shorter ones mean nothing.
        """
        digits = number.strip(" \0+-")
        return (len(digits) >= 6 and digits in self.numbers) or digits in self.days

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
    for element, text in strings(elements, encodings, found.encodings):
        _collect(kept if keeps(element.tag, element.vr) else found, element.tag, element.vr, text)
    return found.without(kept), kept


def strings(
    elements: list[Element], encodings: tuple[str, ...], seen: set[str]
) -> Iterator[tuple[Element, str]]:
    """Yield every element that is not a sequence with its decoded text, every depth.

    Pixel data is left out.
    """
    for element in elements:
        if element.tag == CHARSET_TAG:
            encodings = encodings_of(bytes(element.value))
            seen.update(encodings)
    for element in elements:
        if element.items is not None:
            for item in element.items:
                yield from strings(item, encodings, seen)
        elif element.tag not in PIXEL_DATA and element.value:
            yield element, decode(bytes(element.value), encodings)


def _collect(found: Identifiers, tag: int, vr: str, text: str) -> None:
    values = [value for value in text.replace("\0", "").split("\\") if value.strip()]
    keyword, vrs = keyword_of(tag), {vr, standard_vr(tag)}
    if "PN" in vrs:
        _each(found.add_name, values)
    elif vrs & {"DA", "DT"}:
        _each(found.add_day, values)
    elif "UI" in vrs and not is_class_uid(keyword):
        found.uids |= {
            uid.strip() for uid in values if len(uid.strip()) >= 10 and not is_registered(uid.strip())
        }
    elif _KINDS.get(keyword) == "number":
        _each(found.add_number, values)
    elif _KINDS.get(keyword) == "phrase":
        found.add_phrase(text.replace("\0", ""))
    elif vr not in _BULK:
        found.phrases |= {
            mail.decode("ascii").casefold() for mail in _EMAIL.findall(text.encode("utf-8", "replace"))
        }


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
    return all(word in VOCABULARY or word in PLACEHOLDERS for word in _LETTERS.findall(text.casefold()))


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
