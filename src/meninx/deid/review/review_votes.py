"""Votes of reviewers about layouts, and the decisions that follow from them.

Votes are only added, never changed: taking a vote back is a line of its own. So the file says who decided
what and when, and the decisions can be derived from it again.

    >>> mask = LayoutMask("ACME", "Sono 1", 768, 1024, (Box(10, 5, 210, 25),))
    >>> vote = Vote("2026-11-28T12:00:00+00:00", "Anna", mask.digest, VoteKind.ACCEPT, mask)
    >>> [one.choice for one in decisions([vote])]
    [<ReviewChoice.ACCEPT: 'accept'>]
    >>> state_of([vote], two_person=True).stage
    <VoteStage.WAITING: 'waits for a second reviewer'>

With two persons a layout is decided when at least two reviewers made the same choice and nobody's vote
differs. Hand-drawn boxes are never equal, so what one of them wants filled is filled: of two that redact more
the boxes of both, of two that keep text only what both keep stays. A layout with votes and without agreement
is a decision of its own, :attr:`~meninx.deid.review.layouts.ReviewChoice.UNDECIDED`, which keeps its images
out. Alone, the latest vote decides.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from meninx.core import plain
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.deid.review.layouts import (
    MOST_BOXES,
    LayoutDecision,
    LayoutMask,
    ReviewChoice,
    check_boxes,
    with_boxes,
)
from meninx.imaging.ocr import Box

VOTES = "review_votes.jsonl"
MOST_VOTES = 200_000
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")
_NAME = re.compile("[0-9a-f]{12}")
_LONGEST_NAME = 60


class VoteKind(StrEnum):
    """What a line of the votes says: a choice, or that the reviewer's last one about the layout is undone."""

    ACCEPT = "accept"
    REDACT = "redact"
    KEEP = "keep"
    QUARANTINE = "quarantine"
    UNDO = "undo"


class VoteStage(StrEnum):
    """How far a layout is."""

    OPEN = "open"
    WAITING = "waits for a second reviewer"
    DIFFERENT = "reviewers differ"
    DECIDED = "decided"


@dataclass(frozen=True)
class Vote:
    """One line of ``private/review_votes.jsonl``.

    Attributes:
        time: in UTC, to the second.
        reviewer: who voted.
        layout: short name of the layout.
        kind: the choice, or ``undo``.
        mask: of the first image of the layout.
        boxes: to redact besides, or to keep; in a fixed order.
        two_person: the review needs two persons.
    """

    time: str
    reviewer: str
    layout: str
    kind: VoteKind
    mask: LayoutMask
    boxes: tuple[Box, ...] = ()
    two_person: bool = False

    def __post_init__(self) -> None:
        if not (_TIME.fullmatch(self.time) and _NAME.fullmatch(self.layout)):
            raise ValueError("no vote")
        if reviewer_name(self.reviewer) != self.reviewer:
            raise ValueError("no name")
        check_boxes(self.boxes, self.mask.rows, self.mask.columns)
        if self.kind != VoteKind.UNDO:
            self.decision([self.reviewer])  # refuses boxes that the choice does not take
        elif self.boxes:
            raise ValueError("boxes of an undone vote")

    @property
    def person(self) -> str:
        """The reviewer, however the name was typed: see :func:`person`."""
        return person(self.reviewer)

    def decision(self, reviewers: Iterable[str]) -> LayoutDecision:
        """Return the decision that this vote alone would make."""
        choice, words = ReviewChoice(str(self.kind)), "; ".join(reviewers)
        return LayoutDecision(self.layout, choice, self.mask, self.boxes, words)

    def agrees(self, other: Vote) -> bool:
        """Return whether two votes make the same decision."""
        return (self.kind, set(self.boxes)) == (other.kind, set(other.boxes))


@dataclass(frozen=True)
class LayoutState:
    """How one layout stands.

    Attributes:
        stage: how far it is.
        standing: the last vote of each reviewer that was not undone, the latest last.
    """

    stage: VoteStage
    standing: tuple[Vote, ...] = ()

    def of(self, person: str) -> Vote | None:
        """Return the standing vote of one reviewer."""
        return next((vote for vote in self.standing if vote.person == person), None)


def reviewer_name(text: str) -> str:
    """Return a reviewer's name as it is written into the votes.

    Raises:
        UsageError: it is empty, too long, or holds a sign that cannot be printed or separates names.
    """
    name = " ".join(text.split())
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable() or ";" in name:
        rule = f"a name of 1 to {_LONGEST_NAME} printable characters without a semicolon"
        raise UsageError(expected(rule, got="one of other signs", where="reviewer"))
    return name


def person(name: str) -> str:
    """Return who a name stands for, however it was typed: two spellings are no two persons.

    >>> person("Anna  Müller") == person("anna mu\u0308ller")
    True
    """
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def read_vote(table: Any) -> Vote:
    """Return the vote of one line.

    Raises:
        DataError: a field is missing, or no vote of this program has it.
    """
    try:
        return plain.from_plain(table, Vote, where=VOTES)
    except (DataError, UsageError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise DataError(problem("a line is no vote", where=VOTES, fix="move the file away")) from error


def state_of(votes: Iterable[Vote], *, two_person: bool) -> LayoutState:
    """Return how a layout stands.

    Args:
        votes: about this layout, in order.
        two_person: whether one vote is not enough.
    """
    stacks: dict[str, list[tuple[int, Vote]]] = {}
    for number, vote in enumerate(votes):
        stack = stacks.setdefault(vote.person, [])
        if vote.kind != VoteKind.UNDO:
            stack.append((number, vote))
        elif stack:
            stack.pop()
    tops = sorted((stack[-1] for stack in stacks.values() if stack), key=lambda pair: pair[0])
    standing = tuple(vote for _, vote in tops)
    if not standing:
        return LayoutState(VoteStage.OPEN)
    if not two_person:
        return LayoutState(VoteStage.DECIDED, standing)
    if agreed(standing) is None:
        return LayoutState(VoteStage.DIFFERENT, standing)
    return LayoutState(VoteStage.DECIDED if len(standing) > 1 else VoteStage.WAITING, standing)


def agreed(standing: Sequence[Vote]) -> LayoutDecision | None:
    """Return the decision that follows from the votes of several reviewers; None if they differ.

    Guarantee: every pixel that one of them wants filled is filled. The order of the votes does not matter.

    Args:
        standing: one vote of each reviewer about one layout, at least one.
    """
    kinds, sets = {vote.kind for vote in standing}, [set(vote.boxes) for vote in standing]
    if len(kinds) > 1:
        return None
    keeps = VoteKind.KEEP in kinds
    boxes = tuple(sorted(set.intersection(*sets) if keeps else set.union(*sets)))
    if keeps and not boxes:
        return None
    if len(boxes) > MOST_BOXES:
        boxes = with_boxes((), boxes)
    return replace(standing[0].decision(_names(standing)), chosen=boxes)


def _names(standing: Iterable[Vote]) -> list[str]:
    return sorted({vote.reviewer for vote in standing})


def by_layout(votes: Iterable[Vote]) -> dict[str, list[Vote]]:
    """Return the votes of each layout, in order."""
    found: dict[str, list[Vote]] = {}
    for vote in votes:
        found.setdefault(vote.layout, []).append(vote)
    return found


def last_of(votes: Sequence[Vote], person: str) -> Vote | None:
    """Return the latest vote of a reviewer that was not undone."""
    found: list[Vote] = []
    for vote in votes:
        if vote.person != person:
            continue
        if vote.kind != VoteKind.UNDO:
            found.append(vote)
            continue
        at = next((i for i in reversed(range(len(found))) if found[i].layout == vote.layout), None)
        if at is not None:
            del found[at]
    return found[-1] if found else None


def decisions(votes: Sequence[Vote], *, two_person: bool = False) -> list[LayoutDecision]:
    """Return the decisions that follow from votes, in the order of the names of the layouts.

    Guarantee: with two persons every decision has the votes of two reviewers and no vote against it; a layout
        with other votes is undecided. Times do not matter, so the same votes give the same table.
    """
    found = []
    for layout, own in sorted(by_layout(votes).items()):
        state = state_of(own, two_person=two_person)
        if not state.standing:
            continue
        latest = state.standing[-1]
        if not two_person:
            found.append(latest.decision(_names(vote for vote in state.standing if vote.agrees(latest))))
            continue
        decision = agreed(state.standing) if state.stage == VoteStage.DECIDED else None
        reviewers = "; ".join(_names(state.standing))
        found.append(
            decision or LayoutDecision(layout, ReviewChoice.UNDECIDED, latest.mask, reviewers=reviewers)
        )
    return found
