"""Collection of refusals and warnings with the cases that they concern."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from meninx.core.artifacts import Noticed
from meninx.core.errors import DataError, expected

LISTED = 20  # number of cases listed for each reason


@dataclass
class Remarks:
    """Kinds of remarks, each with its cases and the numbers of one case as an example, without pixels."""

    counts: Counter[str] = field(default_factory=Counter)
    cases: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, case_id: str, example: str = "") -> None:
        """Count one remark."""
        self.counts[kind] += 1
        if len(self.cases[kind]) < LISTED:
            self.cases[kind].append(case_id)
        self.examples.setdefault(kind, example)

    @property
    def count(self) -> int:
        """Number of all remarks."""
        return sum(self.counts.values())

    def to_table(self) -> dict[str, Noticed]:
        """Return a map from kind to number and cases, sorted by kind."""
        return {
            kind: Noticed(count=count, cases=tuple(self.cases[kind]), example=self.examples[kind])
            for kind, count in sorted(self.counts.items())
        }


@dataclass
class Refusals(Remarks):
    """Reasons why images have no prediction.

    Attributes:
        strict: whether the first refusal stops the work.
        every: identifier, reason and details of every refused image, in order of occurrence.
    """

    strict: bool = False
    every: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, kind: str, case_id: str, example: str = "") -> None:
        """Count one refusal.

        Raises:
            DataError: ``strict`` is set.
        """
        super().add(kind, case_id, example)
        self.every.append((case_id, kind, example))
        if self.strict:
            got = f"{kind}: {example}" if example else kind
            fix = "mend it, or run without strict to leave it out"
            raise DataError(expected("an image that can be predicted", got=got, where=case_id, fix=fix))
