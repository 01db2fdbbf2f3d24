"""One number of an audit, in the one form that pages, thresholds and dossiers read.

    >>> found = Finding(
    ...     key=key_of("membership", "rmia", "tpr@fpr=0.01"), line="measured", n=120, colour="amber",
    ...     words="The attack finds 14 % of the patients that took part, at 1 % false alarms.",
    ...     value=0.14, low=0.12, high=0.16, null=0.01, bound=0.3,
    ... )
    >>> found.is_exact, found.label()
    (False, '0.14 (0.12 to 0.16), n = 120 patients')

Every part of an audit offers ``findings(record) -> tuple[Finding, ...]`` beside the code that makes its
record. A finding checks itself, also when it is read from a file: numbers are finite and lie within their
interval, a missing number carries its reason, and no text claims what an audit cannot show.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from meninx.core import names
from meninx.core.errors import DataError, expected, problem

GUARANTEED, MEASURED, IMPLEMENTATION = "guaranteed", "measured", "implementation"
LINES = (GUARANTEED, MEASURED, IMPLEMENTATION)
"""The three lines of a verdict, which are never mixed."""
COLOURS = ("green", "amber", "red", "grey")
"""Of a finding: from nothing found to a broken promise; grey where nothing can be said."""
LONGEST_TEXT = 600
MOST_FINDINGS = 5_000
_KEY = re.compile(r"[a-z0-9][a-z0-9_+.@=-]*(/[a-z0-9][a-z0-9_+.@=-]*){1,5}")
_SLUG = re.compile(r"[^a-z0-9_+.@=-]+")
_QUOTED = re.compile("“[^“”]*”")
_CLAIM = re.compile(
    r"anonym|\bsafe(ly|ty|r|st)?\b|\b(un|non-?)identifiable\b|privacy[- ]preserving", re.IGNORECASE
)
_WRONG_NUMBER = "finite numbers with low <= value <= high"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One number of an audit with what it rests on.

    Attributes:
        key: stable name of the number, parts separated by slashes, e.g. ``membership/rmia/tpr@fpr=0.01``.
        line: ``guaranteed``, ``measured`` or ``implementation``.
        words: one sentence in plain words; a name from data stands in it as :func:`named` gives it.
        value: the number; None where there is none.
        low: lower end of its interval; equal to the value for an exact number; None with the value, and for
            an upper limit.
        high: upper end; likewise; None for a lower limit.
        n: how many patients, canaries or trials it rests on; 0 for a number that rests on no sample.
        null: what guessing or an attack on nothing gives; None where that has no meaning.
        bound: the largest value that the guarantee allows; None without a guarantee.
        colour: ``green``, ``amber``, ``red`` or ``grey``.
        reason: why there is no number, or why the colour.
        counted: what ``n`` counts.
        group: the part of the key that names a group of patients, e.g. ``sex=f``; empty where there is none.

    Raises:
        DataError: a field contradicts these rules; names the key and never quotes a text.
    """

    key: str
    line: str
    words: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    null: float | None
    bound: float | None
    colour: str
    reason: str = ""
    counted: str = "patients"
    group: str = ""

    def __post_init__(self) -> None:
        """Refuse a finding that contradicts itself or claims too much."""
        if len(self.key) > names.LONGEST or not _KEY.fullmatch(self.key):
            raise DataError(problem("the key of a finding has another form than part/name", where="findings"))
        if self.line not in LINES or self.colour not in COLOURS:
            what = f"the line is none of {', '.join(LINES)}, or the colour none of {', '.join(COLOURS)}"
            raise DataError(problem(what, where=self.key))
        if self.n < 0 or not self.counted.isidentifier():
            raise DataError(problem("n is no number of patients, canaries or trials", where=self.key))
        if self.group and self.group not in self.key.split("/"):
            raise DataError(problem("the group is no part of the key", where=self.key))
        self._check_numbers()
        for text in (self.words, self.reason):
            check_text(text, where=self.key)
        if not self.words:
            raise DataError(problem("a finding needs a sentence", where=self.key))

    def _check_numbers(self) -> None:
        low, value, high = self.low, self.value, self.high
        if any(
            item is not None and not math.isfinite(item) for item in (low, value, high, self.null, self.bound)
        ):
            raise DataError(expected(_WRONG_NUMBER, got="one that is not finite", where=self.key))
        if value is None:
            if low is not None or high is not None:
                raise DataError(expected(_WRONG_NUMBER, got="an interval alone", where=self.key))
            if not self.reason or self.colour == "green":
                what = "a finding without a number needs a reason, and is not green"
                raise DataError(problem(what, where=self.key))
            return
        if low is None and high is None:
            raise DataError(expected(_WRONG_NUMBER, got="no interval", where=self.key))
        if not (value if low is None else low) <= value <= (value if high is None else high):
            raise DataError(expected(_WRONG_NUMBER, got="numbers in the wrong order", where=self.key))
        if self.n == 0 and not self.is_exact:
            rule = "the size of the sample that an interval rests on"
            raise DataError(expected(rule, got=0, where=self.key))

    @property
    def is_exact(self) -> bool:
        """Whether the number has no interval because it was computed, not estimated."""
        return self.value is not None and self.low == self.value == self.high

    def label(self) -> str:
        """Return the number with its interval and sample, or why there is none."""
        if self.value is None:
            return self.reason
        if self.is_exact and not self.n:
            return f"{self.value:.3g} (exact)"
        return f"{self.value:.3g} ({self.interval()}), n = {self.n:,} {self.counted}"

    def interval(self) -> str:
        """Return the interval in words, ``exact``, or which kind of limit the number is."""
        if self.value is None:
            return ""
        if self.low is None or self.high is None:
            return "upper limit" if self.low is None else "lower limit"
        return "exact" if self.is_exact and not self.n else f"{self.low:.3g} to {self.high:.3g}"


def check_text(text: str, *, where: str) -> None:
    """Refuse a text that a page must not show beside an audit's numbers.

    Args:
        text: a sentence of the program's own; names from data stand in it as :func:`named` gives them.
        where: key of the finding.

    Raises:
        DataError: too long, not one printable line, or it claims that data or a model is anonymous or safe.
    """
    if len(text) > LONGEST_TEXT or names.printable(text, hidden="") != text:
        what = f"a text is longer than {LONGEST_TEXT} characters, or not one printable line"
        raise DataError(problem(what, where=where))
    if claims_too_much(text):
        fix = "say what was measured and what was not tested"
        raise DataError(problem("a text claims more than an audit can show", where=where, fix=fix))


def claims_too_much(text: str) -> bool:
    """Return whether a text says that data or a model is anonymous or safe; names in “ ” do not count.

    >>> claims_too_much("The model is safe."), claims_too_much("site “Safe Harbor”: AUC 0.5")
    (True, False)
    """
    return _CLAIM.search(_QUOTED.sub("", text)) is not None


def named(text: str, *, longest: int = 60) -> str:
    """Return a name that comes from data, as a sentence of a finding may hold it.

    >>> named("Ward “3”")
    '“Ward 3”'
    """
    plain = names.printable(text).replace("“", "").replace("”", "").strip()
    return f"“{plain[:longest]}”"


def key_of(*parts: str) -> str:
    """Return a key from its parts; other characters than those of a key become dashes.

    >>> key_of("attributes", "Patient Sex", "advantage")
    'attributes/patient-sex/advantage'
    """
    return "/".join(_SLUG.sub("-", part.lower()).strip("-_+.@=")[:60] or "unnamed" for part in parts)


def worst_colour(found: Iterable[str]) -> str:
    """Return the most serious of some colours: red, then amber, then green; grey where nothing else is there.

    >>> worst_colour(["green", "grey", "amber"]), worst_colour(["green", "grey"]), worst_colour([])
    ('amber', 'green', 'grey')
    """
    there = set(found)
    return next((colour for colour in ("red", "amber", "green") if colour in there), "grey")
