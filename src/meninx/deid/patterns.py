"""Identifiers as patterns over text and over raw bytes.

The files of a series share all but their UIDs, so patterns are compiled once for them and UIDs are looked up in a set.
"""

from __future__ import annotations

import re
from functools import lru_cache

from meninx.deid import dates
from meninx.deid.charsets import encoded

UID = re.compile(r"(?<![0-9.])[0-9]+(?:\.[0-9]+)+")
UID_BYTES = re.compile(UID.pattern.encode())


@lru_cache(maxsize=128)
def text_pattern(
    names: frozenset[str], numbers: frozenset[str], days: frozenset[str], phrases: frozenset[str], uids: frozenset[str]
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


@lru_cache(maxsize=128)
def raw_pattern(
    names: frozenset[str],
    numbers: frozenset[str],
    days: frozenset[str],
    phrases: frozenset[str],
    uids: frozenset[str],
    declared: frozenset[str],
) -> re.Pattern[bytes] | None:
    """Return the pattern of the longer identifiers in raw bytes, in every character set of the file (``declared``)."""
    choices: set[bytes] = set()
    encodings = tuple(sorted(declared)) or ("iso8859",)
    for name in names:
        ways = {way for form in (name, name.upper(), name.capitalize()) for way in encoded(form, encodings)}
        before, after = (rb"(?<![A-Za-z])", rb"(?![A-Za-z])") if name.isascii() else (b"", b"")
        choices |= {before + re.escape(way) + after for way in ways if len(way) >= 5}
    for phrase in phrases:
        choices |= {re.escape(way) for way in encoded(phrase, encodings) if len(way) >= 6}
    long = (number for number in numbers if len(number) >= 6 and number.isascii() and not _may_be_time(number))
    choices |= {number_pattern(number).encode() for number in long}
    choices |= {re.escape(uid.encode()) for uid in uids if uid.isascii()}
    choices |= {rb"(?<!\d)" + day.encode() + rb"(?!\d)" for day in days}
    return re.compile(b"|".join(sorted(choices)), re.IGNORECASE) if choices else None


def _name_pattern(name: str) -> str:
    """Return a pattern: long names match inside words too, short ones only as a word."""
    return re.escape(name) if len(name) >= 5 or not name.isascii() else rf"(?<![^\W\d_]){re.escape(name)}(?![^\W\d_])"


def number_pattern(number: str) -> str:
    """Return a pattern: digits match as a whole number only, short identifiers as a whole word only."""
    before, after = r"(?<![0-9])(?<![0-9]\.)", r"(?![0-9])(?!\.[0-9])"
    if len(number) < 6:
        before, after = r"(?<![0-9a-z])(?<![0-9]\.)", r"(?![0-9a-z])(?!\.[0-9])"
    return (before if number[0].isalnum() else "") + re.escape(number) + (after if number[-1].isalnum() else "")


def _may_be_time(number: str) -> bool:
    """Return whether six digits may as well be a time of day; raw bytes do not say which."""
    return len(number) == 6 and dates.is_tm(number)


def _day_patterns(day: str) -> list[str]:
    year, month, date = day[:4], day[4:6], day[6:]
    orders = [(year, month, date), (date, month, year), (month, date, year)]
    return [rf"(?<!\d){a}[-./ ]?{b}[-./ ]?{c}(?!\d)" for a, b, c in orders]
