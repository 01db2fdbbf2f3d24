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
from meninx.deid.text_search import MONTHS

CERTAIN, CHANCE = "certain", "chance"
_RUN = re.compile(r"[^\W\d_]+")
_HUMP = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])")
_TOKEN = re.compile(r"[^\s\\^=,;:()\[\]{}\"'<>|]+")
_ALNUM = re.compile(r"[^\W_]+")
_DIGITS = re.compile(r"[0-9]{6,}")
_DATE = re.compile(r"(?<![0-9])([0-9]{4}|[0-9]{2})[-./ ]?([0-9]{2})[-./ ]?([0-9]{4}|[0-9]{2})(?![0-9])")
_SEPARATORS = re.compile(r"[\s\-./()_:#+]+")
_SHORT_DAY = re.compile(r"(?<![0-9.])([0-9]{1,2})[-./_ ]([0-9]{1,2})[-./_ ]([0-9]{4}|[0-9]{2})(?![0-9.])")
_MONTH_NAMES = tuple(re.compile(names) for names in MONTHS)
_NAME, _GAP = rf"(?P<month>(?:{'|'.join(MONTHS)})[^\W\d_]*)", r"(?:st|nd|rd|th)?[-./_, ]{0,3}"
_DAY, _YEAR = r"(?<![0-9])(?P<day>[0-9]{1,2})", r"(?P<year>[0-9]{4}|[0-9]{2})(?![0-9])"
_NAMED_DAYS = (
    re.compile(f"{_DAY}{_GAP}{_NAME}{_GAP}{_YEAR}"),
    re.compile(f"{_NAME}{_GAP}(?P<day>[0-9]{{1,2}}){_GAP}(?P<year>[0-9]{{4}})(?![0-9])"),
    re.compile(f"(?<![0-9])(?P<year>[0-9]{{4}}){_GAP}{_NAME}{_GAP}(?P<day>[0-9]{{1,2}})(?![0-9])"),
)
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "æ": "ae"})
_INSIDE = 6  # letters of a name that is found inside a longer run
_MOST_TEXT = 1 << 16  # characters of one value in which names are searched inside of words


@dataclass
class KnownValues:
    """Identifiers of many people.

    Attributes:
        values: all of them.
        births: the days that are birth dates, or stand on a list; a path without dates does not hold one.
    """

    values: Identifiers = field(default_factory=Identifiers)
    births: set[str] = field(default_factory=set)

    def add(self, more: Identifiers) -> None:
        """Add the identifiers of one file or list."""
        for name in ("names", "numbers", "days", "uids", "phrases", "encodings", "undecoded"):
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
        text = text if text.isascii() else unicodedata.normalize("NFC", text)
        hits = set(itertools.chain(self._uids(text), self._phrases(text), self._numbers(text)))
        hits |= {*self._names(text, prose=prose), *self._days(text)}
        return next((word for word in (CERTAIN, CHANCE) if word in hits), "")

    def spelled_by(self, number: str) -> bool:
        """Return whether one DS or IS value is an identifier of six digits or more."""
        digits = number.strip(" \0+-")
        return len(digits) >= 6 and bool({digits, digits.lstrip("0")} & self._all_numbers)

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
        # Six bytes beyond ASCII are as rare by chance as eight letters.
        undecoded = {word: re.escape(word) for word in values.undecoded if len(word) >= 6}
        return RawSearch({**found.patterns, **undecoded})

    def _uids(self, text: str) -> Iterator[str]:
        if self.values.uids and any(uid in self.values.uids for uid in UID.findall(text)):
            yield CERTAIN

    def _numbers(self, text: str) -> Iterator[str]:
        folded = text.casefold()
        tokens = {token.strip("._-/#") for token in _TOKEN.findall(folded)} | {folded.strip(" \0")}
        runs = {*_ALNUM.findall(folded), *_DIGITS.findall(folded)}
        squeezed = {_SEPARATORS.sub("", part) for part in (*tokens, folded) if len(part) <= 64}
        shortened = {run.lstrip("0") for run in runs if run[0] == "0" and run.isdigit()}  # padded numbers
        for found in (tokens | runs | squeezed | {one for one in shortened if len(one) >= 6}) & (
            self._all_numbers
        ):
            yield CERTAIN if len(found) >= 6 else CHANCE

    @cached_property
    def _all_numbers(self) -> frozenset[str]:
        """The numbers, and those that are padded without their zeros."""
        bare = {one.lstrip("0") for one in self.values.numbers if one[0] == "0" and one.isdigit()}
        return frozenset(self.values.numbers | {one for one in bare if len(one) >= 6})

    @cached_property
    def _all_names(self) -> frozenset[str]:
        """The names, and those with umlauts spelled with two letters."""
        return frozenset(self.values.names | {_spelled_out(name) for name in self.values.names})

    def _names(self, text: str, *, prose: bool) -> Iterator[str]:
        if not self.values.names:
            return
        for run in _RUN.findall(text):
            for piece in {run, *_HUMP.split(run)}:
                for way in {piece.casefold(), _plain(piece), _spelled_out(piece)} & self._all_names:
                    short = len(way) < 4 and way.isascii()
                    yield CHANCE if short or is_common(way) or (prose and piece.islower()) else CERTAIN
            if prose and run.islower():
                continue
            for folded in {_plain(run), _spelled_out(run)}:
                if len(folded) > _INSIDE and len(text) <= _MOST_TEXT and not is_common(folded):
                    yield from self._inside(folded)

    def _inside(self, run: str) -> Iterator[str]:
        for length in self._lengths:
            for start in range(len(run) - length + 1):
                if run[start : start + length] in self._all_names:
                    yield CERTAIN
                    return

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        return tuple(sorted({len(name) for name in self._all_names if _INSIDE <= len(name) <= 40}))

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
        if self.values.days and (days_in(text) | _days_spelled_in(text)) & self.values.days:
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


def _days_spelled_in(text: str) -> set[str]:
    """Return every day that a text may mean in a short form or with the name of a month.

    >>> sorted(_days_spelled_in("12 Apr 1931, 3.4.31"))
    ['19310304', '19310403', '19310412', '20310304', '20310403']
    """
    found = set()
    for a, b, year in _SHORT_DAY.findall(text):
        found |= {(one, month, day) for one in _years(year) for day, month in ((a, b), (b, a))}
    for pattern in _NAMED_DAYS:
        for hit in pattern.finditer(text.casefold()):
            month = next(number for number, known in enumerate(_MONTH_NAMES, 1) if known.match(hit["month"]))
            found |= {(one, str(month), hit["day"]) for one in _years(hit["year"])}
    return {f"{year}{int(month):02}{int(day):02}" for year, month, day in found}


def _years(year: str) -> tuple[str, ...]:
    return (year,) if len(year) == 4 else (f"19{year}", f"20{year}")


def _spelled_out(text: str) -> str:
    """Return ``text`` casefolded, with two letters for an umlaut, as in machine-readable papers."""
    return _plain(text.casefold().translate(_UMLAUTS))


def _plain(text: str) -> str:
    """Return ``text`` without accents, casefolded."""
    parts: Iterable[str] = unicodedata.normalize("NFKD", text)
    return "".join(sign for sign in parts if not unicodedata.combining(sign)).casefold()
