"""Events of a study while it runs: who is connected, what each round did, what each site spent and refused.

The coordinator writes them about all sites, a site writes them about itself. They are for people who watch
(:mod:`.study_status`); a study resumes from its own state and never from this file.

>>> import tempfile
>>> events = StudyEvents(Path(tempfile.mkdtemp()) / "events.jsonl")
>>> with events.writing() as emit:
...     emit(SiteConnected(site="east"))
...     emit(UpdateUploaded(site="east", round=0, attempt=0, sent=4_100_000))
>>> [type(event).__name__ for event in events.read()]
['SiteConnected', 'UpdateUploaded']

Text and numbers may come from a site. An event holds text on one line, without control and direction
characters and with at most :data:`LONGEST_TEXT` characters. Whoever shows it still escapes it. An integer out
of range becomes the nearest one that a reader accepts, so whatever is written can be read.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec

from meninx.core import files, names, plain
from meninx.core.journal import Journal

FILE = "events.jsonl"
LONGEST_TEXT = 500
MOST_ITEMS = 1024
"""Names or metrics in one event; further ones are left out."""
MOST_BYTES = 64 << 20
"""Length of a file of events up to which events are added; later ones are shown and not kept."""
_LARGEST = 1 << 53  # what JSON carries exactly everywhere

Count = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]
Amount = Annotated[float, msgspec.Meta(ge=0)]


class AbortReason(StrEnum):
    """Why a round gave no model; without a name or a number of a site, so every site may see it."""

    BELOW_QUORUM = "fewer sites than the quorum"
    NO_AGREEMENT = "the sites did not agree on the survivors"
    NOT_REVEALED = "the sum could not be opened"
    SUM_REFUSED = "the sum was refused"
    INTERRUPTED = "the coordinator was interrupted"
    OTHER = "another reason"


class StudyOutcome(StrEnum):
    """How a study ended."""

    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="event"):
    """Base of every event.

    Attributes:
        time: seconds since 1970, by the clock of the machine that writes.
    """

    time: Amount = msgspec.field(default_factory=time.time)

    def __post_init__(self) -> None:
        """Clean text, bring integers into the range that a reader accepts, and refuse what is not finite."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            numbers = value.values() if isinstance(value, dict) else (value,)
            if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
                raise ValueError(f"{name} is not finite")
            cleaned = _cleaned(value)
            if cleaned is not value:
                msgspec.structs.force_setattr(self, name, cleaned)


class StudyTerms(Event, frozen=True, kw_only=True, tag="study_terms"):
    """What a process that serves a study, or takes part in it, knows of the study before the first round.

    Attributes:
        study: name of the study.
        sites: every enrolled site.
        rounds: rounds with a model that a run needs.
        quorum: fewest sites whose updates a round needs; 0 where it is not known.
        aggregation: how updates are protected, in words.
        private: the study asks for differential privacy.
        epsilon: asked per patient; None without privacy, or where the study sets the noise.
        delta: of this epsilon; None where each site takes its own.
    """

    study: str
    sites: tuple[str, ...]
    rounds: Count
    quorum: Count = 0
    aggregation: str = ""
    private: bool = False
    epsilon: Amount | None = None
    delta: Amount | None = None


class StudyStarted(Event, frozen=True, kw_only=True, tag="study_started"):
    """A run of the study starts or goes on after a stop.

    Attributes:
        study: name of the study.
        run: identifier of the run; it stays the same when a stopped run goes on.
        sites: every enrolled site.
        rounds: rounds with a model that the run needs.
        quorum: fewest sites whose updates a round needs; 0 where it is not known.
        aggregation: how updates are protected, in words.
        connected: sites that are connected already.
    """

    study: str
    run: str
    sites: tuple[str, ...]
    rounds: Count
    quorum: Count = 0
    aggregation: str = ""
    connected: tuple[str, ...] = ()


class SiteConnected(Event, frozen=True, kw_only=True, tag="site_connected"):
    """A site is connected."""

    site: str


class SiteLost(Event, frozen=True, kw_only=True, tag="site_lost"):
    """A site is no longer connected, or did not answer within its time."""

    site: str
    reason: str = ""


class SitesAwaited(Event, frozen=True, kw_only=True, tag="sites_awaited"):
    """The study waits until enough sites are connected.

    Attributes:
        connected: sites that are.
        needed: sites that a round needs.
    """

    connected: Count
    needed: Count


class RoundOpened(Event, frozen=True, kw_only=True, tag="round_opened"):
    """The connected sites train from the model of the last accepted round.

    Attributes:
        round: number of the round, from 0.
        attempt: number of the attempt at this round, from 0.
        members: the sites of this attempt (U0).
    """

    round: Count
    attempt: Count
    members: tuple[str, ...]


class UpdateUploaded(Event, frozen=True, kw_only=True, tag="update_uploaded"):
    """The contribution of a site to a round arrived.

    Attributes:
        sent: bytes that left the site for it.
    """

    site: str
    round: Count
    attempt: Count
    sent: Count


class SurvivorsAgreed(Event, frozen=True, kw_only=True, tag="survivors_agreed"):
    """A site signed the survivors of a round.

    Attributes:
        sent: bytes that left the site for it.
    """

    site: str
    round: Count
    attempt: Count
    sent: Count


class SecretsRevealed(Event, frozen=True, kw_only=True, tag="secrets_revealed"):
    """A site opened the secrets of a round.

    Attributes:
        sent: bytes that left the site for it.
    """

    site: str
    round: Count
    attempt: Count
    sent: Count


class RoundAccepted(Event, frozen=True, kw_only=True, tag="round_accepted"):
    """The round gave a new model.

    Attributes:
        survivors: the sites whose updates it holds (U1); empty where the writer does not know them.
        metrics: means over all survivors, e.g. the training loss; nothing of one site.
    """

    round: Count
    attempt: Count
    survivors: tuple[str, ...]
    metrics: dict[str, float] = {}


class RoundAborted(Event, frozen=True, kw_only=True, tag="round_aborted"):
    """The round gave no model; the next one starts from the same model.

    Attributes:
        reason: what every site may see.
        detail: names and numbers, for the coordinator only.
    """

    round: Count
    attempt: Count
    reason: AbortReason
    detail: str = ""


class UpdatesClipped(Event, frozen=True, kw_only=True, tag="updates_clipped"):
    """Elements of the updates of a round were cut to the clip of the study.

    Attributes:
        share: share of the elements of all sites, or of the one site, in [0, 1].
        site: whose update, in the log of this site; empty in the coordinator's.
        elements: number of elements of this site's update that were cut.
    """

    round: Count
    share: Annotated[float, msgspec.Meta(ge=0, le=1)]
    site: str = ""
    elements: Count = 0


class SumsDiffer(Event, frozen=True, kw_only=True, tag="sums_differ"):
    """The participants of two rounds differ by one site, so the difference of the two sums tells about it.

    Attributes:
        site: the one.
        earlier: number of the earlier round.
    """

    site: str
    round: Count
    earlier: Count


class SiteRefused(Event, frozen=True, kw_only=True, tag="site_refused"):
    """A site did not do what was asked.

    Attributes:
        reason: the words of the site.
        code: exit code of its error (``meninx.core.errors``).
        final: the site takes no further part in this run.
    """

    site: str
    reason: str
    code: Count = 2
    final: bool = False


class SumRecomputed(Event, frozen=True, kw_only=True, tag="sum_recomputed"):
    """A site computed the sum of a round again.

    Attributes:
        share: share of the elements that it computed, in [0, 1].
        matches: its elements equal those of the coordinator.
    """

    site: str
    round: Count
    share: Annotated[float, msgspec.Meta(ge=0, le=1)]
    matches: bool


class SumUnchecked(Event, frozen=True, kw_only=True, tag="sum_unchecked"):
    """No site is asked to compute the sum of a round again.

    Attributes:
        reason: why.
    """

    round: Count
    reason: str


class ModelUnchecked(Event, frozen=True, kw_only=True, tag="model_unchecked"):
    """A site could not check that the model it got is what the sums lead to.

    Attributes:
        reason: why.
    """

    site: str
    round: Count
    reason: str


class RecordReceived(Event, frozen=True, kw_only=True, tag="record_received"):
    """A site got its copy of the study's record from the coordinator, beside its released run.

    Attributes:
        record: SHA-256 of the bytes that the coordinator sent.
    """

    site: str
    record: str


class EpsilonSpent(Event, frozen=True, kw_only=True, tag="epsilon_spent"):
    """What this study has spent so far per patient of a site, by the ledgers of the site.

    A site writes it when it opens its run and after each round, the coordinator once at the end of a run.

    Attributes:
        epsilon: over all runs of the study at this site, not the part of one round or run.
        delta: its delta.
        limit: epsilon over all runs at which the site stops: at the end of the plan of this run, or
            ``max_epsilon`` of the policy if that is lower; None where the writer does not know it.
    """

    site: str
    epsilon: Amount
    delta: Amount
    limit: Amount | None = None


class ModelReleased(Event, frozen=True, kw_only=True, tag="model_released"):
    """A site measured the last model and released it in its own run folder."""

    site: str


class StudyEnded(Event, frozen=True, kw_only=True, tag="study_ended"):
    """The study is over, or stopped until somebody resumes it.

    Attributes:
        outcome: what every site may see.
        reason: in words, for the coordinator only.
    """

    outcome: StudyOutcome
    reason: str = ""


AnyEvent: TypeAlias = (
    StudyTerms
    | StudyStarted
    | SiteConnected
    | SiteLost
    | SitesAwaited
    | RoundOpened
    | UpdateUploaded
    | SurvivorsAgreed
    | SecretsRevealed
    | RoundAccepted
    | RoundAborted
    | UpdatesClipped
    | SumsDiffer
    | SiteRefused
    | SumRecomputed
    | ModelUnchecked
    | SumUnchecked
    | RecordReceived
    | EpsilonSpent
    | ModelReleased
    | StudyEnded
)
Emit: TypeAlias = Callable[[AnyEvent], None]


def ignore(event: AnyEvent) -> None:
    """Return without doing anything: for a study that nobody watches."""


class StudyEvents:
    """The events of a study in one append-only file, readable by its owner only.

    Args:
        path: the file; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)

    @property
    def path(self) -> Path:
        """The file."""
        return self._journal.path

    @contextmanager
    def writing(self) -> Iterator[Emit]:
        """Yield a function that appends one event; several threads may call it.

        Raises:
            StorageError: the disk refused.
        """
        lock = threading.Lock()
        with self._journal.appending() as lines:

            def emit(event: AnyEvent) -> None:
                with lock:
                    if self.path.stat().st_size < MOST_BYTES:
                        lines.add(msgspec.to_builtins(event))

            yield emit

    def set_aside(self) -> Path:
        """Rename a damaged file, so that a new one begins, and return its new path.

        Raises:
            StorageError: the disk refused.
        """
        target = self.path.with_name(f"{self.path.stem}-damaged-{time.time_ns()}.jsonl")
        try:
            return self.path.rename(target)
        except OSError as error:
            raise files.storage_error(error, self.path) from error

    def read(self) -> Iterator[AnyEvent]:
        """Yield the events in the order of writing; a torn last line is left out.

        Raises:
            DataError: a line is no event of this version, or the file is damaged before its end.
        """
        for number, table in enumerate(self._journal.tables(), start=1):
            where = f"{self.path.name}, line {number}"
            yield plain.from_plain(table, AnyEvent, where=where)  # type: ignore[arg-type]  # a union is no class


def _cleaned(value: Any) -> Any:
    """Return text, or texts, and counts as an event holds them; anything else as it is."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if 0 <= value <= _LARGEST else min(max(value, 0), _LARGEST)
    if isinstance(value, str) and not isinstance(value, StrEnum):
        line = names.printable(" ".join(value[: 4 * LONGEST_TEXT].split()))
        return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 1]}…"
    if isinstance(value, tuple):
        return tuple(_cleaned(item) for item in value[:MOST_ITEMS])
    if isinstance(value, dict):
        return {_cleaned(name): item for name, item in list(value.items())[:MOST_ITEMS]}
    return value
