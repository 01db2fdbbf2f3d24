"""What is noticed of images on the way: reasons and warnings with the cases that they concern."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from meninx.core.artifacts import Noticed
from meninx.core.errors import DataError, expected

LISTED = 20  # cases listed of each reason


@dataclass
class Remarks:
    """Kinds of remarks, each with its cases; numbers of one case stand in an example, never its pixels."""

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
        """Return kind -> how often and where, sorted by kind."""
        return {
            kind: Noticed(count=count, cases=tuple(self.cases[kind]), example=self.examples[kind])
            for kind, count in sorted(self.counts.items())
        }


@dataclass
class Refusals(Remarks):
    """Reasons for which images have no prediction.

    Attributes:
        strict: whether the first one stops the work.
        every: identifier, reason and details of every image, in the order in which they were met.
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
