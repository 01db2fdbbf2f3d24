"""Conditions that fail an audit: ``tpr@fpr=0.01 > 0.05``, read by a grammar of three words.

A condition is the end of a finding's key, an operator and a number. It is met when a finding with such a key
satisfies it, and also when such a finding has no number or its control failed: what was not measured cannot
pass.

    >>> parse("tpr@fpr=0.01 > 0.05")
    Condition(key='tpr@fpr=0.01', operator='>', number=0.05)
    >>> parse("rmia/auc>=60%").number
    0.6
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from meninx.core.errors import ConfigError, UsageError, expected, problem
from meninx.core.findings import Finding

LONGEST = 200
_FORM = re.compile(r"\s*([A-Za-z0-9_+.@=/-]{1,150})\s*(>=|<=|>|<)\s*([0-9.eE+-]{1,24})\s*(%?)\s*")
_RULES: Final = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_SHOWN = 40


@dataclass(frozen=True)
class Condition:
    """One condition.

    Attributes:
        key: the end of a finding's key, from a slash on.
        operator: ``>``, ``>=``, ``<`` or ``<=``.
        number: what the finding's value is compared with.
    """

    key: str
    operator: str
    number: float

    def __str__(self) -> str:
        """Return the condition as it is written."""
        return f"{self.key} {self.operator} {self.number:g}"

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
        ConfigError: it is not of the form ``key > number``.
    """
    match = _FORM.fullmatch(text) if len(text) <= LONGEST else None
    number = _number(match[3]) if match else None
    if match is None or number is None:
        rule = "a condition such as 'tpr@fpr=0.01 > 0.05', with one of > >= < <="
        raise ConfigError(expected(rule, got=repr(text[:60]), where="fail-if"))
    return Condition(match[1].lower(), match[2], number / 100 if match[4] else number)


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
            if found.value is None or found.colour == "grey":
                sentences.append(f"{condition}: {found.key} has no number that counts ({found.reason})")
            elif condition.is_met(found.value):
                sentences.append(f"{condition}: {found.key} is {found.label()}")
        sentences += [
            f"{condition}: {key} has no number ({why})"
            for key, why in missing.items()
            if condition.may_name(key)
        ]
    return tuple(sentences)


def refuse_unknown(
    conditions: Iterable[Condition], findings: Sequence[Finding], missing: Mapping[str, str]
) -> None:
    """Refuse conditions that name no finding of an audit.

    Raises:
        UsageError: lists the keys that there are.
    """
    refuse_unnamed(conditions, {*(found.key for found in findings), *missing})


def refuse_unnamed(conditions: Iterable[Condition], patterns: Iterable[str]) -> None:
    """Refuse conditions that name no key of some patterns, e.g. before anything slow.

    Raises:
        UsageError: lists the patterns that there are.
    """
    keys = sorted(set(patterns))
    for condition in conditions:
        if not any(condition.may_name(key) for key in keys):
            shown = ", ".join(keys[:_SHOWN]) + (" and more" if len(keys) > _SHOWN else "")
            fix = f"name one of {shown}, or the end of one from a slash on"
            raise UsageError(problem(f"no finding is called {condition.key}", where="fail-if", fix=fix))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
