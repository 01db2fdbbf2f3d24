"""The search for identifiers in raw bytes, fast enough for every byte of the pixels."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, auto

import numpy as np
import numpy.typing as npt

from meninx.core.value_caches import cached
from meninx.deid import dates
from meninx.deid.text_search import number_pattern
from meninx.dicomfile.charset import encoded
from meninx.dicomfile.file_part import FilePart, Sliceable


class ByteKind(Enum):
    """What raw bytes are."""

    TEXT = auto()
    BYTES = auto()  # a value of the header that is no text, in which UTF-16 is searched as well
    SAMPLES = auto()  # plain pixels
    CODED = auto()  # compressed pixels

    def longest(self, needle: bytes) -> float:
        """Return below which number of bytes an identifier counts whatever stands around it.

        Up to there it is expected by chance in less than one of a thousand contents. Compressed data has 256
        values that are about equally frequent (a letter has two). The values of plain pixels lie close
        together, so that a grey area may have 40 values, the letters among them, and a dark one 15, the
        digits among them. One of two different bytes (``000100``) never counts so.
        """
        if self is ByteKind.TEXT or len(set(needle)) <= 2:
            return 0
        values = (256, 128) if self is ByteKind.CODED else (15, 40)
        return 1e-3 * float(values[not needle.isdigit()]) ** len(needle)


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
        self._last: tuple[frozenset[bytes], _Needles] | None = None

    def found_in(self, content: Sliceable, uids: frozenset[bytes], *, kind: ByteKind = ByteKind.TEXT) -> bool:
        """Return whether one of the identifiers, or of these UIDs, occurs in ``content`` in any case.

        In text, an identifier has to stand alone. In what is no text, a letter or a digit beside it means
        nothing, so it counts wherever it stands, unless the content is so long that it would be there by
        chance (:meth:`ByteKind.longest`); then it has to stand alone as well.

        Args:
            content: the bytes.
            uids: UIDs, which differ from file to file.
            kind: what the bytes are.
        """
        for at, needle in _places(content, self._needles(uids), wide=kind is ByteKind.BYTES):
            if len(content) < kind.longest(needle):
                return True
            if at < 0:
                continue
            ways = [self.patterns[needle]] if needle in self.patterns else []
            if needle in uids:
                ways.append(_AROUND_UID + re.escape(needle) + _BEHIND_UID)
            if any(_stands(content, at, len(needle), pattern) for pattern in ways):
                return True
        return False

    def _needles(self, uids: frozenset[bytes]) -> _Needles:
        """Return what is searched; header and pixels of a file have the same UIDs."""
        if self._last is None or self._last[0] != uids:
            self._last = uids, _Needles((*self.patterns, *uids))
        return self._last[1]


class _Needles:
    """Identifiers in lower case with the tables by which places for them are found.

    Attributes:
        longest: bytes of the longest one; 0 without any.
        by_start: their first bytes -> length -> identifiers; a list from a user may hold very many.
        pairs: table of :func:`_pairs_of`.
        starts: table of :func:`_starts_of`.
    """

    def __init__(self, needles: tuple[bytes, ...]) -> None:
        self.longest = max(map(len, needles), default=0)
        self.by_start: dict[bytes, dict[int, set[bytes]]] = {}
        for needle in needles:
            self.by_start.setdefault(needle[:_LEAST], {}).setdefault(len(needle), set()).add(needle)
        self.pairs, self.starts = _pairs_of(needles), _starts_of(self.by_start)


def _places(content: Sliceable, needles: _Needles, *, wide: bool) -> Iterator[tuple[int, bytes]]:
    """Yield where identifiers stand, in any case, whatever stands around them.

    Args:
        content: the bytes.
        needles: the identifiers.
        wide: yield those in UTF-16, too, with -1 as their place.
    """
    longest = needles.longest
    if not longest:
        return
    view = memoryview(content) if isinstance(content, bytes) else content
    for start in range(0, len(view), _WINDOW):
        part = view[start : start + _WINDOW + longest * (1 + wide)]
        window = memoryview(bytes(part) if isinstance(part, FilePart) else part)
        for at, needle in _places_within(window, needles):
            yield start + at, needle
        for narrow in _narrowed(window) if wide and len(window) >= 2 * _LEAST else ():
            for _, needle in _places_within(narrow, needles):
                yield -1, needle


def _places_within(window: memoryview, needles: _Needles) -> Iterator[tuple[int, bytes]]:
    if not _may_be_text(window):
        return
    for at in _candidates(window, needles.pairs, needles.starts):
        head = bytes(window[at : at + needles.longest]).lower()
        for length, group in needles.by_start.get(head[:_LEAST], {}).items():
            if head[:length] in group:
                yield at, head[:length]


def _narrowed(window: memoryview) -> Iterator[memoryview]:
    """Yield the Latin letters of UTF-16 in both orders, from an even and an odd place; others become 0xFF."""
    for shift in (0, 1):
        even = window[shift : shift + (len(window) - shift & ~1)]
        for order in ("<u2", ">u2"):
            words = np.frombuffer(even, dtype=order)
            yield memoryview(np.minimum(words, 0xFF).astype(np.uint8))


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


@cached(maxsize=256)
def _compiled(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.IGNORECASE)


@cached(maxsize=128)
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
        forms = (name, name.upper(), name.capitalize())
        ways = {way for form in forms for way in (*encoded(form, encodings), *_in_utf_16(form))}
        before, after = (rb"(?<![A-Za-z])", rb"(?![A-Za-z])") if name.isascii() else (b"", b"")
        patterns |= {way.lower(): before + re.escape(way) + after for way in ways if len(way) >= 5}
    long = (
        number for number in numbers if len(number) >= 6 and number.isascii() and not _may_be_time(number)
    )
    patterns |= {number.encode().lower(): number_pattern(number).encode() for number in long}
    for way in itertools.chain.from_iterable(map(_written_days, days)):
        patterns[way] = rb"(?<!\d)" + re.escape(way) + rb"(?!\d)"
    patterns |= {uid.encode().lower(): re.escape(uid.encode()) for uid in uids if uid.isascii()}
    return RawSearch({needle: patterns[needle] for needle in sorted(patterns)})


def _written_days(day: str) -> Iterator[bytes]:
    """Yield how a day, ``YYYYMMDD``, is written with four digits for the year."""
    year, month, date = day[:-4], day[-4:-2], day[-2:]
    for join in ("", ".", "/", "-"):
        for order in ((year, month, date), (date, month, year), (month, date, year)):
            yield join.join(order).encode()


def _in_utf_16(name: str) -> Iterator[bytes]:
    """Yield a name of letters that are not Latin in UTF-16; Latin ones have zeros (:func:`_narrowed`)."""
    for encoding in ("utf-16-le", "utf-16-be"):
        way = name.encode(encoding, "ignore")
        if 0 not in way:
            yield way


def _may_be_time(number: str) -> bool:
    """Return whether six digits may also be a time of day; in raw bytes the two look the same."""
    return len(number) == 6 and dates.is_tm(number)
