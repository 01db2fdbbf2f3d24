"""Status of a study: one frozen value, computed from its events, for terminal, page, JSON and Prometheus.

>>> from meninx.federated.events import RoundOpened, StudyStarted, UpdateUploaded
>>> events = [
...     StudyStarted(study="chest", run="a1", sites=("east", "north", "west"), rounds=20),
...     RoundOpened(round=0, attempt=0, members=("east", "north")),
...     UpdateUploaded(site="north", round=0, attempt=0, sent=4_100_000),
... ]
>>> [(site.name, site.up, site.numbers.sent) for site in status_of(events).sites]
[('east', True, 0), ('north', True, 4100000), ('west', False, 0)]

A site sees its own numbers alone:

>>> [(site.name, site.up, site.numbers is None) for site in view_of("east", events).sites]
[('east', True, False), ('north', True, True), ('west', False, True)]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import msgspec

from meninx.core.errors import UsageError, problem
from meninx.federated import event_words
from meninx.federated import events as kinds
from meninx.federated.events import AbortReason, AnyEvent, StudyOutcome

ETA_ROUNDS = 5  # accepted rounds whose times the estimate of the end uses
ROUNDS_KEPT = 30  # attempts at rounds in the status
ENTRIES_KEPT = 60  # sentences in the history
REFUSALS_KEPT = 20  # per site


class StudyPhase(StrEnum):
    """What a study does now."""

    NOT_STARTED = "not started"
    WAITING = "waiting for sites"
    ROUND_RUNNING = "round running"
    BETWEEN_ROUNDS = "between rounds"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


class SiteStep(StrEnum):
    """How far a site is in the current round."""

    IDLE = "no round"
    TRAINING = "training"
    UPLOADED = "uploaded"
    AGREED = "survivors signed"
    REVEALED = "secrets opened"


class AttemptResult(StrEnum):
    """How an attempt at a round ended."""

    RUNNING = "running"
    ACCEPTED = "accepted"
    ABORTED = "no model"
    UNKNOWN = "not known here"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What a site did not do.

    Attributes:
        time: seconds since 1970.
        reason: in the words of the site.
        code: exit code of its error.
        final: the site takes no further part in this run.
    """

    time: float
    reason: str
    code: int
    final: bool


@dataclass(frozen=True, kw_only=True)
class EpsilonLeft:
    """Privacy budget of a site's patients in this study.

    Attributes:
        epsilon: spent so far per patient, over all runs of the study.
        delta: delta of this epsilon.
        limit: epsilon over all runs at which the site stops; None where it is not known.
        left: what is left of the limit, not below 0; None where the limit is not known.
    """

    epsilon: float
    delta: float
    limit: float | None
    left: float | None


@dataclass(frozen=True, kw_only=True)
class SiteNumbers:
    """What one site sees about itself, and the coordinator about every site.

    Attributes:
        step: how far it is in the current round.
        sent: bytes that left the site.
        sent_now: bytes that left it in the current or latest round.
        rounds: accepted rounds that hold its update.
        missed: accepted rounds without it.
        budget: its privacy budget; None without differential privacy.
        refusals: the latest ones, oldest first.
        refused: number of all refusals.
        recomputed: rounds whose sum the site computed again with the same result.
        differing: rounds whose sum was another one at the site.
        recomputed_share: share of the elements that it computed the last time; None before.
        withdrawn: it refused for good and takes no further part in this run.
        released: it released the model in its own run folder.
        lost_reason: why it is not connected; empty while it is.
    """

    step: SiteStep = SiteStep.IDLE
    sent: int = 0
    sent_now: int = 0
    rounds: int = 0
    missed: int = 0
    budget: EpsilonLeft | None = None
    refusals: tuple[Refusal, ...] = ()
    refused: int = 0
    recomputed: int = 0
    differing: int = 0
    recomputed_share: float | None = None
    withdrawn: bool = False
    released: bool = False
    lost_reason: str = ""


@dataclass(frozen=True, kw_only=True)
class SiteStatus:
    """A site as the viewer sees it.

    Attributes:
        name: name of the site.
        up: it is connected.
        numbers: None where the viewer may see only name and connection.
    """

    name: str
    up: bool
    numbers: SiteNumbers | None


@dataclass(frozen=True, kw_only=True)
class RoundAttempt:
    """One attempt at a round.

    Attributes:
        round: number of the round, from 0.
        attempt: number of the attempt, from 0.
        started: seconds since 1970.
        members: number of sites that were asked to train.
        result: how it ended.
        seconds: how long it took; None while it runs.
        survivors: number of sites in the new model.
        reason: why there is no model; None otherwise.
        metrics: means over all survivors.
    """

    round: int
    attempt: int
    started: float
    members: int
    result: AttemptResult = AttemptResult.RUNNING
    seconds: float | None = None
    survivors: int = 0
    reason: AbortReason | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StatusEntry:
    """One event in words.

    Attributes:
        time: seconds since 1970.
        text: the sentence; text of a site inside, so it is escaped where it is shown.
        warns: a person should look at it.
    """

    time: float
    text: str
    warns: bool


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """A study as the viewer sees it.

    Attributes:
        study: name of the study.
        run: identifier of its latest run; rounds and numbers are of this run, budgets of all runs.
        viewer: the site that looks; None for the coordinator, who sees all.
        phase: what the study does now.
        quorum: fewest sites whose updates a round needs; 0 where it is not known.
        aggregation: how updates are protected, in words; empty where it is not known.
        terms: what the study asks; None where it is not known.
        rounds_planned: rounds of the whole study.
        rounds_accepted: rounds that gave a model.
        attempts_aborted: attempts at rounds that gave none.
        sites: every enrolled site, by name.
        rounds: the latest attempts at rounds, oldest first.
        history: the latest events, oldest first, without the small steps of each site.
        seconds_per_round: cost of an accepted round lately, failed attempts included; None before the first.
        expected_end: when the last round may be over, seconds since 1970; None when it cannot be estimated.
        started: when the run started first, seconds since 1970; None before.
        updated: time of the last event, seconds since 1970; None before.
    """

    study: str
    run: str
    viewer: str | None
    phase: StudyPhase
    quorum: int
    aggregation: str
    terms: kinds.StudyTerms | None
    rounds_planned: int
    rounds_accepted: int
    attempts_aborted: int
    sites: tuple[SiteStatus, ...]
    rounds: tuple[RoundAttempt, ...]
    history: tuple[StatusEntry, ...]
    seconds_per_round: float | None
    expected_end: float | None
    started: float | None
    updated: float | None

    @property
    def current(self) -> RoundAttempt | None:
        """The latest attempt at a round; None before the first."""
        return self.rounds[-1] if self.rounds else None

    @property
    def over(self) -> bool:
        """Whether the study finished, failed or was stopped."""
        return self.phase in (StudyPhase.FINISHED, StudyPhase.STOPPED, StudyPhase.FAILED)


def status_of(events: Iterable[AnyEvent]) -> StudyStatus:
    """Return the status of a study as its coordinator sees it."""
    fold = StatusFold()
    for event in events:
        fold.add(event)
    return fold.status()


def view_of(site: str, events: Iterable[AnyEvent]) -> StudyStatus:
    """Return the status of a study as one site may see it.

    Guarantee:
        The result does not depend on an event of another site, except that each other site's name is shown
        with whether it is connected. Events of the whole study count without their details for the
        coordinator. Events are left out before anything is computed, so nothing can be derived from them.

    Args:
        site: name of the site.
        events: events as the coordinator or the site writes them.

    Raises:
        UsageError: the study has no site of this name.
    """
    fold = StatusFold(site)
    for event in events:
        fold.add(event)
    status = fold.status()
    if site not in {one.name for one in status.sites}:
        raise UsageError(problem("the study has no site of this name", where="site"))
    return status


def _visible(viewer: str, event: AnyEvent) -> AnyEvent | None:
    """Return what a site may see of an event."""
    if isinstance(event, kinds.RoundAborted):
        return msgspec.structs.replace(event, detail="")
    if isinstance(event, kinds.StudyEnded):
        return msgspec.structs.replace(event, reason="")
    if getattr(event, "site", viewer) == viewer or isinstance(event, kinds.SiteConnected):
        return event
    return msgspec.structs.replace(event, reason="") if isinstance(event, kinds.SiteLost) else None


class StatusFold:
    """Computes a status, one event after the other.

    Args:
        viewer: the site that looks; None for the coordinator, who sees all.
    """

    def __init__(self, viewer: str | None = None) -> None:
        self._viewer = viewer
        self._history: deque[StatusEntry] = deque(maxlen=ENTRIES_KEPT)
        self._last: float | None = None
        self._terms: kinds.StudyTerms | None = None
        self._numbers: dict[str, SiteNumbers] = {}
        self._begin(None)

    def _begin(self, start: kinds.StudyStarted | None) -> None:
        """Forget the run before; history and budgets go on."""
        self._start = start
        self._first = start.time if start else None
        self._phase = StudyPhase.NOT_STARTED
        self._up: dict[str, bool] = {}
        self._numbers = {site: SiteNumbers(budget=n.budget) for site, n in self._numbers.items() if n.budget}
        self._attempts: deque[RoundAttempt] = deque(maxlen=ROUNDS_KEPT)
        self._cost = 0.0  # seconds of attempts since the last accepted round
        self._costs: deque[float] = deque(maxlen=ETA_ROUNDS)
        self._accepted: set[int] = set()
        self._aborted = 0

    @property
    def over(self) -> bool:
        """Whether the study finished, failed or was stopped."""
        return self._phase in _ENDED.values()

    def add(self, event: AnyEvent) -> None:
        """Take the next event into account, as far as the viewer may see it."""
        shown = event if self._viewer is None else _visible(self._viewer, event)
        if shown is None:
            return
        site = getattr(shown, "site", None)
        of_all = isinstance(shown, kinds.UpdatesClipped) and not site  # the coordinator's number of all sites
        if site is not None and not of_all:
            self._know(site)
        _RULES[type(shown)](self, shown)
        self._last = shown.time
        if self._viewer in (None, site or self._viewer) and not isinstance(shown, _STEPS):
            text, warns = event_words.sentence(shown), event_words.warns(shown)
            if isinstance(shown, kinds.SiteLost) and self.over:
                warns = False  # sites leave a study that is over
            self._history.append(StatusEntry(time=shown.time, text=text, warns=warns))

    def status(self) -> StudyStatus:
        """Return the status after the events so far."""
        start, known = self._start, self._start or self._terms
        each = sum(self._costs) / len(self._costs) if self._costs else None
        return StudyStatus(
            study=known.study if known else "",
            run=start.run if start else "",
            viewer=self._viewer,
            phase=self._phase,
            quorum=known.quorum if known else 0,
            aggregation=known.aggregation if known else "",
            terms=self._terms,
            rounds_planned=known.rounds if known else 0,
            rounds_accepted=len(self._accepted),
            attempts_aborted=self._aborted,
            sites=tuple(self._site(name) for name in sorted(self._up)),
            rounds=tuple(self._attempts),
            history=tuple(self._history),
            seconds_per_round=each,
            expected_end=self._expected_end(each),
            started=self._first,
            updated=self._last,
        )

    def _site(self, name: str) -> SiteStatus:
        shown = self._viewer in (None, name)
        left = self._viewer is not None and self.over  # no news reaches the site then
        return SiteStatus(
            name=name, up=self._up[name] and not left, numbers=self._numbers[name] if shown else None
        )

    def _expected_end(self, each: float | None) -> float | None:
        left = (self._start.rounds if self._start else 0) - len(self._accepted)
        running = self._phase in (StudyPhase.ROUND_RUNNING, StudyPhase.BETWEEN_ROUNDS)
        if each is None or left <= 0 or not running or self._last is None:
            return None
        began = self._attempts[-1].started if self._phase is StudyPhase.ROUND_RUNNING else self._last
        return max(began + each * left, self._last)

    def _know(self, site: str) -> None:
        self._up.setdefault(site, False)
        self._numbers.setdefault(site, SiteNumbers())

    def _change(self, site: str, **changes: Any) -> None:
        self._numbers[site] = replace(self._numbers[site], **changes)

    def _learned(self, event: kinds.StudyTerms) -> None:
        """Take up what a process knows that begins; who is connected it learns afterwards."""
        self._terms = event
        for site in event.sites:
            self._know(site)
        self._up = dict.fromkeys(self._up, False)

    def _study_started(self, event: kinds.StudyStarted) -> None:
        if self._start is None or event.run != self._start.run:
            self._begin(event)
        self._interrupt(event.time)
        self._start, self._phase = event, StudyPhase.WAITING
        for site in event.sites:
            self._know(site)
        for site in self._numbers:
            self._change(site, withdrawn=False)
        self._up = {site: site in event.connected for site in self._up}

    def _connected(self, event: kinds.SiteConnected) -> None:
        self._connect(event.site)

    def _connect(self, site: str) -> None:
        self._up[site] = True
        self._change(site, lost_reason="")

    def _lost(self, event: kinds.SiteLost) -> None:
        self._up[event.site] = False
        if event.site == self._viewer:  # without a connection it knows nothing of the others
            self._up = dict.fromkeys(self._up, False)
        self._change(event.site, lost_reason=event.reason)

    def _awaited(self, event: kinds.SitesAwaited) -> None:
        self._phase = StudyPhase.WAITING

    def _round_opened(self, event: kinds.RoundOpened) -> None:
        self._interrupt(event.time)
        self._phase = StudyPhase.ROUND_RUNNING
        last = self._attempts[-1] if self._attempts else None
        if last is not None and (last.round, last.attempt) == (event.round, event.attempt):
            self._attempts.pop()  # a process that was started again opens the same attempt again
            self._aborted -= last.result is AttemptResult.ABORTED
        self._attempts.append(
            RoundAttempt(
                round=event.round, attempt=event.attempt, started=event.time, members=len(event.members)
            )
        )
        for site in event.members:
            self._know(site)
            self._connect(site)
        for site in self._numbers:
            step = SiteStep.TRAINING if site in event.members else SiteStep.IDLE
            self._change(site, step=step, sent_now=0)

    def _uploaded(self, event: kinds.UpdateUploaded) -> None:
        self._sent(event, SiteStep.UPLOADED)

    def _agreed(self, event: kinds.SurvivorsAgreed) -> None:
        self._sent(event, SiteStep.AGREED)

    def _revealed(self, event: kinds.SecretsRevealed) -> None:
        self._sent(event, SiteStep.REVEALED)

    def _sent(
        self, event: kinds.UpdateUploaded | kinds.SurvivorsAgreed | kinds.SecretsRevealed, step: SiteStep
    ) -> None:
        before = self._numbers[event.site]
        self._change(
            event.site, step=step, sent=before.sent + event.sent, sent_now=before.sent_now + event.sent
        )

    def _round_accepted(self, event: kinds.RoundAccepted) -> None:
        if event.round in self._accepted:  # a coordinator that goes on may report its last decision again
            return
        self._reopen(event)
        self._accepted.add(event.round)
        self._end_attempt(
            event.time, AttemptResult.ACCEPTED, survivors=len(event.survivors), metrics=event.metrics
        )
        for site in event.survivors:
            self._know(site)
        for site, numbers in self._numbers.items() if event.survivors else ():
            if site in event.survivors:
                self._change(site, rounds=numbers.rounds + 1)
            else:
                self._change(site, missed=numbers.missed + 1)

    def _reopen(self, event: kinds.RoundAccepted) -> None:
        """Make the attempt of the event the running one, also when a stop has closed it."""
        last = self._attempts[-1] if self._attempts else None
        if last is not None and (last.round, last.attempt) == (event.round, event.attempt):
            if last.result in (AttemptResult.ABORTED, AttemptResult.UNKNOWN):
                self._aborted -= last.result is AttemptResult.ABORTED
                self._cost -= last.seconds or 0.0
                self._attempts[-1] = replace(last, result=AttemptResult.RUNNING, reason=None)
        elif last is None or last.result is not AttemptResult.RUNNING:
            self._attempts.append(
                RoundAttempt(
                    round=event.round,
                    attempt=event.attempt,
                    started=event.time,
                    members=len(event.survivors),
                )
            )

    def _round_aborted(self, event: kinds.RoundAborted) -> None:
        self._end_attempt(event.time, AttemptResult.ABORTED, reason=event.reason)

    def _interrupt(self, now: float) -> None:
        """Close the attempt that runs: its writer stopped. A site that stopped did not hear how it ended."""
        if self._viewer is None:
            self._end_attempt(now, AttemptResult.ABORTED, reason=AbortReason.INTERRUPTED)
        else:
            self._end_attempt(now, AttemptResult.UNKNOWN)

    def _end_attempt(self, now: float, result: AttemptResult, **changes: Any) -> None:
        """Close the attempt that runs; nothing when none does."""
        if not self._attempts or self._attempts[-1].result is not AttemptResult.RUNNING:
            return
        running = self._attempts[-1]
        seconds = max(now - running.started, 0.0)
        self._attempts[-1] = replace(running, result=result, seconds=seconds, **changes)
        self._phase = StudyPhase.BETWEEN_ROUNDS
        self._cost += seconds
        for site in self._numbers:
            self._change(site, step=SiteStep.IDLE)
        if result is AttemptResult.ACCEPTED:
            self._costs.append(self._cost)
            self._cost = 0.0
        self._aborted += result is AttemptResult.ABORTED

    def _refused(self, event: kinds.SiteRefused) -> None:
        before = self._numbers[event.site]
        refusal = Refusal(time=event.time, reason=event.reason, code=event.code, final=event.final)
        self._change(
            event.site,
            refusals=(*before.refusals, refusal)[-REFUSALS_KEPT:],
            refused=before.refused + 1,
            withdrawn=before.withdrawn or event.final,
        )

    def _recomputed(self, event: kinds.SumRecomputed) -> None:
        before = self._numbers[event.site]
        counts = (
            {"recomputed": before.recomputed + 1} if event.matches else {"differing": before.differing + 1}
        )
        self._change(event.site, recomputed_share=event.share, **counts)

    def _spent(self, event: kinds.EpsilonSpent) -> None:
        left = None if event.limit is None else max(event.limit - event.epsilon, 0.0)
        budget = EpsilonLeft(epsilon=event.epsilon, delta=event.delta, limit=event.limit, left=left)
        self._change(event.site, budget=budget)

    def _released(self, event: kinds.ModelReleased) -> None:
        self._change(event.site, released=True)

    def _ended(self, event: kinds.StudyEnded) -> None:
        self._end_attempt(event.time, AttemptResult.ABORTED, reason=AbortReason.INTERRUPTED)
        self._phase = _ENDED[event.outcome]

    def _only_noted(self, event: AnyEvent) -> None:
        """Change nothing: the event appears in the history."""


_STEPS = (kinds.SurvivorsAgreed, kinds.SecretsRevealed, kinds.EpsilonSpent)  # in the numbers of the site
_ENDED = {
    StudyOutcome.FINISHED: StudyPhase.FINISHED,
    StudyOutcome.STOPPED: StudyPhase.STOPPED,
    StudyOutcome.FAILED: StudyPhase.FAILED,
}
_RULES: dict[type, Callable[[StatusFold, Any], None]] = {
    kinds.StudyTerms: StatusFold._learned,
    kinds.StudyStarted: StatusFold._study_started,
    kinds.SiteConnected: StatusFold._connected,
    kinds.SiteLost: StatusFold._lost,
    kinds.SitesAwaited: StatusFold._awaited,
    kinds.RoundOpened: StatusFold._round_opened,
    kinds.UpdateUploaded: StatusFold._uploaded,
    kinds.SurvivorsAgreed: StatusFold._agreed,
    kinds.SecretsRevealed: StatusFold._revealed,
    kinds.RoundAccepted: StatusFold._round_accepted,
    kinds.RoundAborted: StatusFold._round_aborted,
    kinds.UpdatesClipped: StatusFold._only_noted,
    kinds.SumsDiffer: StatusFold._only_noted,
    kinds.SiteRefused: StatusFold._refused,
    kinds.SumRecomputed: StatusFold._recomputed,
    kinds.ModelUnchecked: StatusFold._only_noted,
    kinds.SumUnchecked: StatusFold._only_noted,
    kinds.RecordReceived: StatusFold._only_noted,
    kinds.EpsilonSpent: StatusFold._spent,
    kinds.ModelReleased: StatusFold._released,
    kinds.StudyEnded: StatusFold._ended,
}
