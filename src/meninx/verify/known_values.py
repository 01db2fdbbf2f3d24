"""The search for many people's identifiers at once, with sets instead of one pattern per person.

A value of one archive can stand in a file of another patient by chance: a surname that is a word, a ward of
four letters, a day. The search therefore says of every hit whether it is certain:

* certain: a UID; an address or a whole name of six characters; a number of six characters or more; a name of
  four letters or more that is no word of the vocabulary;
* by chance: shorter numbers and names, names that are words of the vocabulary, and every day.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from meninx.deid.identifiers import UID, Identifiers, is_common
from meninx.deid.raw_search import RawSearch, raw_search

CERTAIN, CHANCE = "certain", "chance"
_RUN = re.compile(r"[^\W\d_]+")
_HUMP = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])")
_TOKEN = re.compile(r"[^\s\\^=,;:()\[\]{}\"'<>|]+")
_ALNUM = re.compile(r"[^\W_]+")
_DIGITS = re.compile(r"[0-9]{6,}")
_DATE = re.compile(r"(?<![0-9])([0-9]{4}|[0-9]{2})[-./ ]?([0-9]{2})[-./ ]?([0-9]{4}|[0-9]{2})(?![0-9])")
_SEPARATORS = re.compile(r"[\s\-./()_:#+]+")
_INSIDE = 6  # letters of a name that is found inside a longer run
_MOST_TEXT = 1 << 16  # characters of one value in which names are searched inside of words


@dataclass
class KnownValues:
    """Identifiers of many people.

    Attributes:
        values: all of them.
    """

    values: Identifiers = field(default_factory=Identifiers)

    def add(self, more: Identifiers) -> None:
        """Add the identifiers of one file or list."""
        for name in ("names", "numbers", "days", "uids", "phrases", "encodings"):
            getattr(self.values, name).update(getattr(more, name))

    def __bool__(self) -> bool:
        """Whether there is anything to search for."""
        return bool(self.count)

    @property
    def count(self) -> int:
        """Number of distinct values."""
        parts = (self.values.names, self.values.numbers, self.values.days, self.values.uids)
        return sum(map(len, parts)) + len(self.values.phrases)

    def hit(self, text: str, *, prose: bool = False) -> str:
        """Return ``certain`` or ``chance`` if a text holds an identifier, an empty string otherwise.

        Args:
            text: a value of an attribute, or a line.
            prose: it is a line of running text, in which a word in lower case is a name by chance.
        """
        hits = set(itertools.chain(self._uids(text), self._phrases(text), self._numbers(text)))
        hits |= {*self._names(text, prose=prose), *self._days(text)}
        return next((word for word in (CERTAIN, CHANCE) if word in hits), "")

    def spelled_by(self, number: str) -> bool:
        """Return whether one DS or IS value is an identifier of six digits or more."""
        digits = number.strip(" \0+-")
        return len(digits) >= 6 and digits in self.values.numbers

    @cached_property
    def raw(self) -> RawSearch:
        """The search in bytes: of whole names, addresses, UIDs and numbers of eight characters or more."""
        values = self.values
        names = frozenset(name for name in values.names if len(name) >= 8 and not is_common(name))
        numbers = frozenset(number for number in values.numbers if len(number) >= 8)
        phrases = frozenset(phrase for phrase in values.phrases if len(phrase) >= 8)
        found = raw_search(
            names, numbers, frozenset(), phrases, frozenset(values.uids), frozenset(values.encodings)
        )
        return found

    def _uids(self, text: str) -> Iterator[str]:
        if self.values.uids and any(uid in self.values.uids for uid in UID.findall(text)):
            yield CERTAIN

    def _numbers(self, text: str) -> Iterator[str]:
        folded = text.casefold()
        tokens = {token.strip("._-/#") for token in _TOKEN.findall(folded)} | {folded.strip(" \0")}
        runs = {*_ALNUM.findall(folded), *_DIGITS.findall(folded)}
        squeezed = {_SEPARATORS.sub("", part) for part in (*tokens, folded) if len(part) <= 64}
        for found in (tokens | runs | squeezed) & self.values.numbers:
            yield CERTAIN if len(found) >= 6 else CHANCE

    def _names(self, text: str, *, prose: bool) -> Iterator[str]:
        if not self.values.names:
            return
        for run in _RUN.findall(text):
            for piece in {run, *_HUMP.split(run)}:
                for way in {piece.casefold(), _plain(piece)} & self.values.names:
                    short = len(way) < 4 and way.isascii()
                    yield CHANCE if short or is_common(way) or (prose and piece.islower()) else CERTAIN
            if prose and run.islower():
                continue
            folded = _plain(run)
            if len(folded) > _INSIDE and len(text) <= _MOST_TEXT and not is_common(folded):
                yield from self._inside(folded)

    def _inside(self, run: str) -> Iterator[str]:
        for length in self._lengths:
            for start in range(len(run) - length + 1):
                if run[start : start + length] in self.values.names:
                    yield CERTAIN
                    return

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        return tuple(sorted({len(name) for name in self.values.names if _INSIDE <= len(name) <= 40}))

    def _phrases(self, text: str) -> Iterator[str]:
        folded = " ".join(text.casefold().split())
        for first in {*_ALNUM.findall(folded)} & self._by_first.keys():
            if any(phrase in folded for phrase in self._by_first[first]):
                yield CERTAIN
                return

    @cached_property
    def _by_first(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {}
        for phrase in self.values.phrases:
            words = _ALNUM.findall(phrase)
            if words:
                found.setdefault(words[0], []).append(" ".join(phrase.split()))
        return {first: tuple(phrases) for first, phrases in found.items()}

    def _days(self, text: str) -> Iterator[str]:
        if self.values.days and days_in(text) & self.values.days:
            yield CHANCE


def days_in(text: str) -> set[str]:
    """Return every day, as ``YYYYMMDD``, that eight digits in a text may mean, in any usual order.

    >>> sorted(days_in("born 14.03.1957, seen 1990-01-02"))
    ['19570314', '19900102']
    """
    found = set()
    for a, b, c in _DATE.findall(text):
        if len(a) == 4 and len(c) == 2:
            found.add(a + b + c)
        elif len(a) == 2 and len(c) == 4:
            found |= {c + b + a, c + a + b}
    return {day for day in found if "01" <= day[4:6] <= "12" and "01" <= day[6:] <= "31"}


def _plain(text: str) -> str:
    """Return ``text`` without accents, casefolded."""
    parts: Iterable[str] = unicodedata.normalize("NFKD", text)
    return "".join(sign for sign in parts if not unicodedata.combining(sign)).casefold()
