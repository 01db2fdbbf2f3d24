"""What the decisions of reviewers did in a run, as counts that name nobody."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from meninx.core.review_words import NOT_REVIEWED
from meninx.core.summaries import ReviewCounts
from meninx.deid.review.layouts import LayoutDecision, ReviewChoice, TextLayout, decision_for
from meninx.deid.review.review_votes import person


def tallied(layouts: Iterable[TextLayout], decisions: Sequence[LayoutDecision]) -> ReviewCounts:
    """Return what decisions did to the layouts of a run to which they were applied.

    Every choice has a number, also 0, so that nobody has to guess what was not counted.

    Args:
        layouts: of the run, with the decision that was applied to each.
        decisions: the table.
    """
    choices = [*map(str, ReviewChoice), NOT_REVIEWED]
    counted, images = dict.fromkeys(choices, 0), dict.fromkeys(choices, 0)
    persons: Counter[int] = Counter()
    by_device: dict[tuple[str, str, int, int], list[LayoutDecision]] = defaultdict(list)
    for one in decisions:
        by_device[one.mask.device].append(one)
    used: set[int] = set()
    for layout in layouts:
        near = by_device.get(layout.mask.device, [])
        choice = layout.decision or NOT_REVIEWED
        counted[choice] += 1
        images[choice] += layout.instances
        used |= {id(one) for one in near if one.mask.matches(layout.mask)}
        decision = decision_for(near, layout.mask)
        if decision is not None and choice not in (ReviewChoice.UNDECIDED, NOT_REVIEWED):
            persons[_number_of_persons(decision)] += 1
    return ReviewCounts(
        layouts=counted, images=images, persons=dict(sorted(persons.items())),
        decisions=len(decisions), unused=sum(id(one) not in used for one in decisions),
    )  # fmt: skip


def _number_of_persons(decision: LayoutDecision) -> int:
    return len({person(name) for name in decision.reviewers.split(";") if name.strip()})
