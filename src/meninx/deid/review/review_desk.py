"""The review of one clean folder: its layouts, the votes about them, and the table of decisions.

    with opened(Path("clean"), reviewer="Anna") as desk:
        desk.vote(0, VoteKind.ACCEPT)      # private/review_votes.jsonl, private/decisions.csv

The folder is locked as long as the review is open, so that neither a run of ``meninx deid`` nor a second
review changes it meanwhile. Every vote is on the disk before the next one.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from meninx.core import artifacts, workspace
from meninx.core.artifacts import DeidRecord
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.journal import Appender, Journal
from meninx.core.result import Result, command
from meninx.core.summaries import not_searched, number_of, unsearched
from meninx.deid.escrow import escrow_file
from meninx.deid.review import review_votes
from meninx.deid.review.layouts import (
    DECISIONS,
    LAYOUTS,
    LayoutDecision,
    LayoutMask,
    TextLayout,
    read_decisions,
    read_layouts,
    write_decisions,
)
from meninx.deid.review.review_votes import (
    MOST_VOTES,
    VOTES,
    LayoutState,
    Vote,
    VoteKind,
    VoteStage,
    by_layout,
    decisions,
    last_of,
    read_vote,
    reviewer_name,
    state_of,
)
from meninx.imaging.ocr import Box

STAGE = "deid"  # the stage whose folders are reviewed


@dataclass(frozen=True, kw_only=True)
class ReviewResult(Result):
    """How a review stands.

    Attributes:
        layouts: layouts of the folder.
        decided: layouts with a decision.
        waiting: layouts that wait for a second reviewer.
        different: layouts about which reviewers differ.
        open: layouts without a vote.
        images: images of all layouts.
        images_decided: images of the decided layouts.
        images_undecided: images of layouts on which not enough reviewers agree; the decisions keep them out.
        not_searched: images of the folder whose pixels were not searched, so that no layout shows them.
        may_show_text: images among these that may show text by their header.
        votes: votes of this session, undone ones included.
        decisions: the table of decisions.
        rerun: the command that applies them.
    """

    layouts: int
    decided: int
    waiting: int
    different: int
    open: int
    images: int
    images_decided: int
    images_undecided: int
    not_searched: int
    may_show_text: int
    votes: int
    decisions: Path
    rerun: str

    @property
    def outside(self) -> str:
        """Which images no layout shows, in a sentence; empty if every image was searched."""
        if self.may_show_text:
            return f"NOT part of this review: {unsearched(self.may_show_text)}; look at private/review.html"
        if self.not_searched:
            every = self.images + self.not_searched
            return f"NOT part of this review: {not_searched(every - self.not_searched, every)}"
        return ""

    def summary(self) -> str:
        """Return the result in a few lines for people."""
        lines = [
            f"{self.decided:,} of {number_of(self.layouts, 'layout')} decided "
            f"({self.images_decided:,} of {number_of(self.images, 'image')}), "
            f"{number_of(self.votes, 'vote')} in this session"
        ]
        if self.outside:
            lines.append(self.outside)
        if self.waiting:
            lines.append(number_of(self.waiting, "layout waits", "layouts wait") + " for a second reviewer")
        if self.different:
            lines.append(
                f"{number_of(self.different, 'layout')} on which reviewers differ; the page shows all votes, "
                "and each can be changed"
            )
        if self.images_undecided:
            lines.append(
                f"until two persons agree, the decisions keep {number_of(self.images_undecided, 'image')} out"
            )
        if self.open:
            lines.append(
                f"{number_of(self.open, 'layout')} without a vote: the images stay as the search left them"
            )
        if self.decided:
            lines.append(f"apply the decisions, with all settings of the first run: {self.rerun}")
        return "\n".join(lines)


class ReviewDesk:
    """Layouts, votes and decisions of a folder that this process has locked; made by :func:`opened`.

    It may be used by several threads.

    Attributes:
        root: the folder.
        layouts: of the run, in the order of the list.
        reviewer: who votes here.
        two_person: whether a layout needs two reviewers.
        rerun: the command that applies the decisions.
        record: what the run says of the folder.
    """

    def __init__(
        self, root: Path, layouts: Sequence[TextLayout], votes: Sequence[Vote], adder: Appender, *,
        reviewer: str, two_person: bool, rerun: str, record: DeidRecord,
    ) -> None:  # fmt: skip
        self.record = record
        self.root, self.layouts, self.reviewer, self.rerun = root, tuple(layouts), reviewer, rerun
        self.two_person = two_person
        self._adder, self._votes, self._lock = adder, list(votes), threading.Lock()
        self._before = len(votes)
        self._masks = self._known_masks()

    def _known_masks(self) -> list[tuple[str, LayoutMask]]:
        """Return name and mask under which votes about each layout are kept.

        A layout that another delivery made up of other first images goes on with its earlier votes.
        """
        first = {name: own[0].mask for name, own in by_layout(self._votes).items()}
        found = []
        for layout in self.layouts:
            same = next((name for name, mask in first.items() if mask.matches(layout.mask)), layout.layout)
            name = layout.layout if layout.layout in first else same
            found.append((name, first.get(name, layout.mask)))
        return found

    @property
    def person(self) -> str:
        """The reviewer, however the name was typed."""
        return review_votes.person(self.reviewer)

    def mask(self, index: int) -> LayoutMask:
        """Return the boxes about which is voted."""
        return self._masks[index][1]

    def states(self) -> list[LayoutState]:
        """Return how each layout stands."""
        with self._lock:
            groups = by_layout(self._votes)
        return [state_of(groups.get(name, ()), two_person=self.two_person) for name, _ in self._masks]

    def vote(self, index: int, kind: VoteKind, boxes: Sequence[Box] = ()) -> None:
        """Add a vote of the reviewer and write the decisions.

        Args:
            index: of the layout.
            kind: a choice.
            boxes: to redact besides, or to keep.

        Raises:
            UsageError: the choice takes no such boxes.
            StorageError: the disk refused; nothing is decided.
        """
        name, mask = self._masks[index]
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        places = tuple(sorted(set(boxes)))
        try:
            vote = Vote(now, self.reviewer, name, kind, mask, places, self.two_person)
        except (ValueError, TypeError):
            fix = "give boxes inside the picture to redact, or some of the layout's boxes to keep"
            got = f"other ones with {kind}"
            raise UsageError(expected("the boxes of the choice", got=got, where="boxes", fix=fix)) from None
        with self._lock:
            self._add(vote)

    def undo(self) -> int | None:
        """Take the reviewer's latest vote back, and return the index of its layout; None without one.

        Raises:
            StorageError: the disk refused.
        """
        with self._lock:
            last = last_of(self._votes, self.person)
            if last is None:
                return None
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            self._add(Vote(now, self.reviewer, last.layout, VoteKind.UNDO, last.mask, (), self.two_person))
        names = [name for name, _ in self._masks]
        return names.index(last.layout) if last.layout in names else None

    def _add(self, vote: Vote) -> None:
        if len(self._votes) >= MOST_VOTES:
            raise UsageError(problem("there are too many votes", where=VOTES, fix="move the file away"))
        self._adder.add(asdict(vote))
        self._votes.append(vote)
        write_decisions(
            self.root / workspace.PRIVATE / DECISIONS, decisions(self._votes, two_person=self.two_person)
        )

    def next_open(self, after: int) -> int | None:
        """Return the next layout that needs a vote of this reviewer, from an index on and around."""
        states, count = self.states(), len(self.layouts)
        for step in range(1, count + 1):
            index = (after + step) % count
            state = states[index]
            if state.stage != VoteStage.DECIDED and state.of(self.person) is None:
                return index
        return None

    def next_different(self, after: int) -> int | None:
        """Return the next layout on which reviewers differ, from an index on and around."""
        stages, count = [state.stage for state in self.states()], len(self.layouts)
        around = ((after + step) % count for step in range(1, count + 1))
        return next((index for index in around if stages[index] == VoteStage.DIFFERENT), None)

    def result(self) -> ReviewResult:
        """Return how the review stands."""
        states = self.states()
        sizes = [layout.instances for layout in self.layouts]
        stages = [state.stage for state in states]

        def images_of(*wanted: VoteStage) -> int:
            return sum(size for size, stage in zip(sizes, stages, strict=True) if stage in wanted)

        return ReviewResult(
            out=self.root,
            layouts=len(self.layouts),
            decided=stages.count(VoteStage.DECIDED),
            waiting=stages.count(VoteStage.WAITING),
            different=stages.count(VoteStage.DIFFERENT),
            open=stages.count(VoteStage.OPEN),
            images=sum(sizes),
            images_decided=images_of(VoteStage.DECIDED),
            not_searched=max((self.record.images or 0) - self.record.pixels_searched, 0),
            may_show_text=self.record.burned_in_unknown,
            images_undecided=images_of(VoteStage.WAITING, VoteStage.DIFFERENT),
            votes=len(self._votes) - self._before,
            decisions=self.root / workspace.PRIVATE / DECISIONS,
            rerun=self.rerun,
        )


@contextmanager
def opened(
    clean: Path, *, reviewer: str, two_person: bool = False, source: Path | None = None
) -> Iterator[ReviewDesk]:
    """Lock a clean folder for a review.

    Args:
        clean: output folder of ``meninx deid``.
        reviewer: who votes.
        two_person: a decision needs two reviewers.
        source: folder of the originals, for the command that applies the decisions.

    Raises:
        UsageError: this is no finished folder of that stage, or a sealed one, an earlier review needs two
            persons, or there is a table of decisions that does not follow from its votes.
        DataError: the list of layouts or the votes are damaged.
        RunLocked: another process writes to the folder, or reviews it.
        StorageError: the disk refused.
    """
    name = reviewer_name(reviewer)
    if not workspace.is_complete(clean) or (workspace.read_marker(clean) or _NONE).stage != STAGE:
        fix = "give the output folder of a finished run of meninx deid"
        raise UsageError(problem("this is no clean folder", where=clean.name, fix=fix))
    workspace.refuse_links(clean)
    private = clean / workspace.PRIVATE
    record = artifacts.require(
        clean, DeidRecord, fix="give the output folder of a finished run of meninx deid"
    )
    with workspace.locked(clean):
        _refuse_sealed(private)
        found = read_layouts(private / LAYOUTS)
        journal = Journal(private / VOTES)
        votes = _read(journal)
        if any(vote.two_person for vote in votes) and not two_person:
            fix = "give --two-person"
            raise UsageError(problem("this review needs two persons", where=VOTES, fix=fix))
        _refuse_other_decisions(private / DECISIONS, votes)
        with journal.appending(durable=True) as adder:
            yield ReviewDesk(
                clean, found, votes, adder, reviewer=name, two_person=two_person,
                rerun=_rerun(clean, source, record.site), record=record,
            )  # fmt: skip


_NONE = workspace.Marker(stage="none")


def _read(journal: Journal) -> list[Vote]:
    votes: list[Vote] = []
    for table in journal.tables():
        if len(votes) == MOST_VOTES:
            raise DataError(problem("there are too many votes", where=VOTES, fix="move the file away"))
        votes.append(read_vote(table))
    return votes


def _refuse_other_decisions(path: Path, votes: list[Vote]) -> None:
    """Refuse a table that somebody else wrote, which the next vote would replace.

    A review that was killed between a vote and the table leaves the table of one vote less.
    """
    if not path.exists():
        return
    there = list(read_decisions(path))
    ways: list[list[LayoutDecision]] = [
        decisions(votes[:count], two_person=two_person)
        for count in {len(votes), max(len(votes) - 1, 0)}
        for two_person in (False, True)
    ]
    if there not in ways:
        fix = "move it away, or give it to meninx deid --decisions from its new place"
        raise UsageError(
            problem("the table of decisions does not follow from the votes", where=DECISIONS, fix=fix)
        )


def _refuse_sealed(private: Path) -> None:
    """Refuse a folder whose lists an escrow has replaced."""
    if (private / escrow_file.NAME).is_file() and not (private / LAYOUTS).exists():
        what, fix = (
            "the folder is sealed, and its list of layouts was removed",
            "review a folder before it is",
        )
        fix += " sealed: run meninx deid without --escrow-only into another one"
        raise UsageError(problem(what, where=private.parent.name, fix=fix))


def _rerun(clean: Path, source: Path | None, site: str) -> str:
    """Return the command that applies the decisions, as far as the folder says it."""
    words = ["deid", source or "ARCHIVE", clean, "--key", "KEY", "--site", site]
    table = clean / workspace.PRIVATE / DECISIONS
    return command(*words, "--decisions", table, "--overwrite").strip("`")
