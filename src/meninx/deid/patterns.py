"""Identifiers as patterns over text and over raw bytes.

The files of a series share all but their UIDs, so patterns are compiled once for them and UIDs are looked up
in a set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from meninx.deid import dates
from meninx.deid.charsets import encoded

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

    A regular expression over all identifiers takes some 300 ns a byte. Here a table says which bytes occur in
    an identifier at all; only where four such bytes stand in a row is each identifier looked for as plain
    bytes, and only where one is found does its pattern decide whether it stands alone.

    Args:
        patterns: identifier in lower case -> what must not stand around it; the pattern matches where the
            identifier begins.
    """

    def __init__(self, patterns: Mapping[bytes, bytes]) -> None:
        self.patterns = patterns
        self.alphabet = np.zeros(256, dtype=np.bool_)
        for needle in (*patterns, b"0123456789."):
            for byte in {*needle, *needle.upper()}:
                self.alphabet[byte] = True

    def found_in(self, content: bytes | memoryview, uids: frozenset[bytes]) -> bool:
        """Return whether one of the identifiers, or of these UIDs, occurs in ``content`` in any case."""
        longest = max(map(len, (*self.patterns, *uids)), default=0)
        return any(
            self._found_in_window(content, start, bytes(content[start : start + _WINDOW + longest]), uids)
            for start in range(0, len(content), _WINDOW)
            if longest
        )

    def _found_in_window(
        self, content: bytes | memoryview, start: int, window: bytes, uids: frozenset[bytes]
    ) -> bool:
        if len(window) > 64 and not self._may_hold(window):
            return False
        lower = window.lower()
        return any(
            _stands(content, start, lower, needle, around) for needle, around in self.patterns.items()
        ) or any(
            _stands(content, start, lower, uid, _AROUND_UID + re.escape(uid) + _BEHIND_UID) for uid in uids
        )

    def _may_hold(self, window: bytes) -> bool:
        fits = self.alphabet[np.frombuffer(window, dtype=np.uint8)]
        pairs = fits[:-1] & fits[1:]
        return bool((pairs[:-2] & pairs[2:]).any())


_WINDOW = 1 << 18
_AROUND_UID, _BEHIND_UID = rb"(?<![0-9.])", rb"(?![0-9])(?!\.[0-9])"


def _stands(content: bytes | memoryview, start: int, lower: bytes, needle: bytes, pattern: bytes) -> bool:
    at = lower.find(needle)
    while at >= 0:
        if _compiled(pattern).match(content, start + at):
            return True
        at = lower.find(needle, at + 1)
    return False


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
    """Return the search for the longer identifiers in raw bytes, in every character set of the file (``declared``)."""
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
    """Return whether six digits may as well be a time of day; raw bytes do not say which."""
    return len(number) == 6 and dates.is_tm(number)


def _day_patterns(day: str) -> list[str]:
    year, month, date = day[:4], day[4:6], day[6:]
    orders = [(year, month, date), (date, month, year), (month, date, year)]
    return [rf"(?<!\d){a}[-./ ]?{b}[-./ ]?{c}(?!\d)" for a, b, c in orders]
