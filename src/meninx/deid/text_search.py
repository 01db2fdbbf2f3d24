"""The search for identifiers in decoded text.

A file has some seventy texts and some eighty things to look for, and most texts are the same in all files of
a series. One search serves all files with the same identifiers, and it remembers the texts that it has seen.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cached_property, lru_cache

_MOST_KNOWN, _LONGEST_KNOWN = 512, 256  # texts that a search remembers; characters of the longest of them


class TextSearch:
    """Identifiers in text, in any case, with or without accents. UIDs of instances are not among them.

    Args:
        names: parts of names, casefolded.
        numbers: identifiers, casefolded.
        days: dates as ``YYYYMMDD``.
        phrases: addresses, institutions, whole names, casefolded.
        uids: those that are no numbers between dots.
    """

    def __init__(
        self,
        names: frozenset[str],
        numbers: frozenset[str],
        days: frozenset[str],
        phrases: frozenset[str],
        uids: frozenset[str],
    ) -> None:
        self._parts = (names, numbers, days, phrases, uids)
        self._known: dict[str, bool] = {}
        self._years = {day[2:4] for day in days}  # the century is optional
        ways = [(name, _name_pattern(name)) for name in names]
        ways += [(number, number_pattern(number)) for number in numbers]
        ways += [(phrase.split()[0], _phrase_pattern(phrase)) for phrase in phrases if phrase.split()]
        ways += [(uid.casefold(), _uid_pattern(uid)) for uid in uids]
        # A piece that is in each text that the pattern matches, and the pattern. Few pieces are in a text.
        self._ways = tuple(ways)
        self._compiled: dict[str, re.Pattern[str]] = {}

    @cached_property
    def pattern(self) -> re.Pattern[str] | None:
        """The pattern of the identifiers in casefolded text; None when there are none."""
        return _text_pattern(*self._parts)

    def found_in(self, text: str) -> bool:
        """Return whether any identifier occurs in ``text``."""
        known = self._known.get(text)
        if known is None:
            folded = text.casefold()
            known = self._occurs(folded) or (not folded.isascii() and self._occurs(unaccented(folded)))
            if len(text) <= _LONGEST_KNOWN:
                if len(self._known) >= _MOST_KNOWN:
                    self._known.clear()
                self._known[text] = known
        return known

    def _occurs(self, folded: str) -> bool:
        """Return whether a pattern matches; one is tried only when a piece of its identifier is there."""
        if any(piece in folded and self._of(way).search(folded) for piece, way in self._ways):
            return True
        return any(year in folded for year in self._years) and bool(self._day_pattern.search(folded))

    def _of(self, pattern: str) -> re.Pattern[str]:
        """Return the compiled pattern; those that are never tried are never compiled."""
        return self._compiled.get(pattern) or self._compiled.setdefault(pattern, re.compile(pattern))

    @cached_property
    def _day_pattern(self) -> re.Pattern[str]:
        return re.compile(
            "|".join(pattern for day in sorted(self._parts[2]) for pattern in _day_patterns(day))
        )

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
        folded = unaccented(text)
        starts, ends, at = set(), set(), 0
        for run in re.findall(r"[a-z]+", folded):
            starts.add(at)
            at += len(run)
            ends.add(at)
        joined = "".join(re.findall(r"[a-z]", folded))
        return any(found.start() in starts and found.end() in ends for found in names.finditer(joined))

    @cached_property
    def _apart(self) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
        names, numbers, days = self._parts[:3]
        letters = {re.sub(r"[^a-z]", "", name) for name in names if name.isascii()}
        digits = {number for number in numbers if number.isascii() and number.isdigit() and len(number) >= 6}
        return _any_of(word for word in letters if len(word) >= 5), _any_of(digits | days)


@lru_cache(maxsize=64)
def text_search(
    names: frozenset[str],
    numbers: frozenset[str],
    days: frozenset[str],
    phrases: frozenset[str],
    uids: frozenset[str],
) -> TextSearch:
    """Return the search for these identifiers, the same one for all files that hold them."""
    return TextSearch(names, numbers, days, phrases, uids)


def _text_pattern(
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
    choices += map(_phrase_pattern, phrases)
    choices += [pattern for day in days for pattern in _day_patterns(day)]
    choices += map(_uid_pattern, uids)
    return re.compile("|".join(sorted(choices, key=lambda item: (-len(item), item)))) if choices else None


def _name_pattern(name: str) -> str:
    """Return a pattern: long names match inside words too, short ones only as a word."""
    return (
        re.escape(name)
        if len(name) >= 5 or not name.isascii()
        else rf"(?<![^\W\d_]){re.escape(name)}(?![^\W\d_])"
    )


def _phrase_pattern(phrase: str) -> str:
    return re.escape(phrase).replace(r"\ ", r"\s+")


def _uid_pattern(uid: str) -> str:
    return rf"(?<![\d.]){re.escape(uid.casefold())}(?!\d|\.\d)"


def number_pattern(number: str) -> str:
    """Return a pattern: digits match as a whole number only, short identifiers as a whole word only."""
    before, after = r"(?<![0-9])(?<![0-9]\.)", r"(?![0-9])(?!\.[0-9])"
    if len(number) < 6:
        before, after = r"(?<![0-9a-z])(?<![0-9]\.)", r"(?![0-9a-z])(?!\.[0-9])"
    return (
        (before if number[0].isalnum() else "") + re.escape(number) + (after if number[-1].isalnum() else "")
    )


MONTHS = (
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
    name = rf"(?:{MONTHS[int(month) - 1]})[^\W\d_]*"
    between = r"(?:st|nd|rd|th)?[-./_, ]*"
    patterns += [
        rf"(?<!\d){d}{between}{name}{between}{years}(?!\d)",
        rf"{name}{between}{d}{between}{year}(?!\d)",
        rf"(?<!\d){year}{between}{name}{between}{d}(?!\d)",
    ]
    return patterns


def _any_of(words: Iterable[str]) -> re.Pattern[str] | None:
    choices = sorted(words, key=lambda word: (-len(word), word))
    return re.compile("|".join(map(re.escape, choices))) if choices else None


def unaccented(text: str) -> str:
    """Return ``text`` without accents."""
    return "".join(
        sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign)
    ).casefold()
