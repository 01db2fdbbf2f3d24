"""Conditions that fail an audit: ``tpr@fpr=0.01 > 0.05``, read by a grammar of three words.

A condition is the end of a finding's key, an operator and a number. It is met when a finding with such a key
satisfies it, and also when such a finding has no number or its control failed: what was not measured cannot
pass. The estimate is compared, unless the condition names an end of its interval:

    >>> parse("tpr@fpr=0.01 > 0.05")
    Condition(key='tpr@fpr=0.01', operator='>', number=0.05, of=<ComparedNumber.ESTIMATE: 'estimate'>)
    >>> parse("upper(rmia/auc)>=60%")
    Condition(key='rmia/auc', operator='>=', number=0.6, of=<ComparedNumber.UPPER: 'upper'>)

``upper(key) > x`` fails unless the interval excludes a larger value, and is the stricter question.
``lower(key) > x`` fails only where chance does not explain it.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final

from meninx.core.errors import ConfigError, UsageError, expected, problem
from meninx.core.findings import Finding
from meninx.metrics.verdict_rule import is_silenced

LONGEST = 200
_KEY = r"[A-Za-z0-9_+.@=/-]{1,150}"
_FORM = re.compile(
    rf"\s*(?:([A-Za-z_]{{1,20}})\(\s*({_KEY})\s*\)|({_KEY}))\s*(>=|<=|>|<)\s*([0-9.eE+-]{{1,24}})\s*(%?)\s*"
)
_RULES: Final = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_SHOWN = 40


class ComparedNumber(StrEnum):
    """Which number of a finding is compared."""

    ESTIMATE = "estimate"
    LOWER = "lower"
    UPPER = "upper"


SPELLINGS = ("key > number", "lower(key) > number", "upper(key) > number")
"""The forms of a condition: the estimate, the lower and the upper end of the interval."""
_NAMES: Final = {
    ComparedNumber.ESTIMATE: "estimate",
    ComparedNumber.LOWER: "lower end",
    ComparedNumber.UPPER: "upper end",
}


@dataclass(frozen=True)
class Condition:
    """One condition.

    Attributes:
        key: the end of a finding's key, from a slash on.
        operator: ``>``, ``>=``, ``<`` or ``<=``.
        number: what the finding's number is compared with.
        of: which number of the finding: the estimate, or an end of its interval.
    """

    key: str
    operator: str
    number: float
    of: ComparedNumber = ComparedNumber.ESTIMATE

    def __str__(self) -> str:
        """Return the condition as it is written."""
        written = self.key if self.of == ComparedNumber.ESTIMATE else f"{self.of}({self.key})"
        return f"{written} {self.operator} {self.number:g}"

    def compared(self, found: Finding) -> float | None:
        """Return the number of a finding that is compared; None where it has no such number.

        An exact number has no interval, and a limit has no other end.
        """
        if self.of == ComparedNumber.ESTIMATE:
            return found.value
        if found.is_exact and not found.n:
            return None
        return found.low if self.of == ComparedNumber.LOWER else found.high

    def names(self, key: str) -> bool:
        """Return whether a finding's key ends with this condition's."""
        return key == self.key or key.endswith(f"/{self.key}")

    def may_name(self, pattern: str) -> bool:
        """Return whether a key of a pattern ends with this condition's; ``*`` stands for part of a name.

        >>> parse("sex/embedding/advantage > 0.1").may_name("attributes/*/*/advantage")
        True
        """
        wanted, known = self.key.split("/"), pattern.split("/")
        pairs = zip(reversed(wanted), reversed(known), strict=False)
        return len(wanted) <= len(known) and all(fnmatchcase(mine, other) for mine, other in pairs)

    def is_met(self, value: float) -> bool:
        """Return whether a value satisfies the condition."""
        return bool(_RULES[self.operator](value, self.number))


def parse(text: str) -> Condition:
    """Return a condition from its text.

    Raises:
        ConfigError: it has none of the forms of :data:`SPELLINGS`.
    """
    match = _FORM.fullmatch(text) if len(text) <= LONGEST else None
    number = _number(match[5]) if match else None
    if match is None or number is None:
        rule = f"a condition such as 'tpr@fpr=0.01 > 0.05': {', '.join(SPELLINGS)}, with one of > >= < <="
        raise ConfigError(expected(rule, got=repr(text[:60]), where="fail-if"))
    if match[1] not in (None, ComparedNumber.LOWER, ComparedNumber.UPPER):
        rule = f"one of {', '.join(SPELLINGS)}"
        raise ConfigError(expected(rule, got=f"{match[1]}(key)", where="fail-if"))
    key, of = match[2] or match[3], match[1] or ComparedNumber.ESTIMATE
    return Condition(key.lower(), match[4], number / 100 if match[6] else number, ComparedNumber(of))


def met(
    conditions: Iterable[Condition], findings: Sequence[Finding], missing: Mapping[str, str]
) -> tuple[str, ...]:
    """Return a sentence for every finding that meets a condition, or that has no number to compare.

    Args:
        conditions: what fails the audit.
        findings: of all parts.
        missing: keys of findings that a part would have given, or their patterns -> why it was not done.

    The number of a group counts as missing only where a condition names the group: many groups are small.
    """
    sentences = []
    for condition in conditions:
        for found in (item for item in findings if condition.names(item.key)):
            if found.value is None and found.group and found.group not in condition.key.split("/"):
                continue
            number = condition.compared(found)
            if not _counts(found):
                sentences.append(f"{condition}: {found.key} has no number that counts ({found.reason})")
            elif number is None:
                sentences.append(f"{condition}: {found.key} has no {_NAMES[condition.of]} ({found.label()})")
            elif condition.is_met(number):
                which = f"the {_NAMES[condition.of]} {number:.4g} was compared"
                sentences.append(f"{condition}: {found.key} is {found.label()}; {which}")
        sentences += [
            f"{condition}: {key} has no number ({why})"
            for key, why in missing.items()
            if condition.may_name(key)
        ]
    return tuple(sentences)


def _counts(found: Finding) -> bool:
    """Return whether a finding has a number to compare.

    That of a group is grey where it is above chance and was not corrected for the number of groups.
    """
    uncorrected = bool(found.group) and not is_silenced(found.reason)
    return found.value is not None and (found.colour != "grey" or uncorrected)


def refuse_unknown(
    conditions: Iterable[Condition], findings: Sequence[Finding], missing: Mapping[str, str]
) -> None:
    """Refuse conditions that name no finding of an audit, or an end of an interval where there is none.

    Raises:
        UsageError: lists the keys that there are, or names the finding without an interval.
    """
    known = tuple(conditions)
    refuse_unnamed(known, {*(found.key for found in findings), *missing})
    for condition in known:
        for found in (item for item in findings if condition.names(item.key) and item.value is not None):
            if condition.compared(found) is None:
                raise _without_interval(condition, found.key, found.interval())


def refuse_unnamed(
    conditions: Iterable[Condition], patterns: Iterable[str], *, one_sided: Mapping[str, str] | None = None
) -> None:
    """Refuse conditions that cannot be answered, e.g. before anything slow.

    Args:
        conditions: what fails the audit.
        patterns: keys that there are; ``*`` stands for part of a name.
        one_sided: pattern of a key -> ``exact``, or the only limit that its number is.

    Raises:
        UsageError: one names no key, and the patterns are listed; or an end of an interval that a number
            does not have.
    """
    keys = sorted(set(patterns))
    for condition in conditions:
        for key, kind in (one_sided or {}).items():
            lacks = condition.of != ComparedNumber.ESTIMATE and kind != f"{condition.of} limit"
            if lacks and condition.may_name(key):
                raise _without_interval(condition, key, kind)
        if not any(condition.may_name(key) for key in keys):
            shown = ", ".join(keys[:_SHOWN]) + (" and more" if len(keys) > _SHOWN else "")
            fix = f"name one of {shown}, or the end of one from a slash on"
            raise UsageError(problem(f"no finding is called {condition.key}", where="fail-if", fix=fix))


def _without_interval(condition: Condition, key: str, kind: str) -> UsageError:
    form = kind if kind == "exact" else f"a {kind}"
    what = f"{condition.of}({condition.key}) has no number: {key} is {form} and has no interval"
    fix = f"write {condition.key} {condition.operator} {condition.number:g}"
    return UsageError(problem(what, where="fail-if", fix=fix))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
