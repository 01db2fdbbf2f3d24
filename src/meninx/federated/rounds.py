"""The coordinator's rounds: ask the sites to train, add up what they give, make the next common model.

One :class:`Coordinator` goes through a study over an :class:`.exchange.Exchange`, whatever carries it. Every
transition is in :class:`.study_state.StudyState` before it takes effect, so :meth:`Coordinator.run` goes on
with a study that was killed at any moment::

    hello, meet ─▶ train ─▶ agree ─▶ reveal ─▶ sum ─▶ check ─▶ accept ─▶ next round … ─▶ finish
                     └────────┴────────┴─────────────────┴──▶ abort: same model, next round

With fewer survivors than the quorum nothing is revealed and the model stays. The next attempt at the same
round costs no training: the sites contribute the same updates. Once sites were asked to agree on survivors,
the round number is used up. After a failure the next round begins with the same model, and the sites train
anew, because one update in two sums of different sites would show the update of the site in which the sums
differ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from meninx.core import names
from meninx.core.errors import (
    ConfigError,
    DataError,
    Interrupted,
    MeninxError,
    PrivacyRefusal,
    StorageError,
    problem,
)
from meninx.federated import events, messages
from meninx.federated.aggregation_methods import AnnouncementCheck, RoundSides
from meninx.federated.aggregators import RoundSide
from meninx.federated.config import WAITING_MINUTES
from meninx.federated.contribution import RoundSum, beginning
from meninx.federated.events import AbortReason, AnyEvent, Emit, StudyOutcome
from meninx.federated.exchange import Exchange
from meninx.federated.messages import Position, Reply, Request
from meninx.federated.strategies import Strategy
from meninx.federated.study_state import Round, RoundPhase, Stage, StudyState
from meninx.federated.vector import to_bytes

ANSWER_SECONDS = 120.0
"""Time for an answer that needs no training."""
SLOWEST_LINE = 125_000.0
"""Bytes per second at which a long message has to arrive: 1 Mbit/s."""
TRAIN_SECONDS = 7 * 24 * 3600.0
"""Time limit of a round for which the study sets none. A site that disappears is given up much sooner."""
RETURN_SECONDS = 45.0
"""Longest wait for sites without a connection before the last model is given out."""
UPLOAD_SECONDS = 600.0
"""Time beyond that of the training, for saving, masking and the way back."""
MOST_ABORTS = 10
"""Rounds that may fail one after the other before the coordinator gives up; it can be resumed."""
MOST_WORDS = 500
"""Characters of a site's reason that are kept."""
MOST_ANNOUNCED = 1 << 24
"""Bytes of the keys of one site."""
_POLL = 1.0
_VISIBLE_CUT = 1e-3  # share of cut values above which a person should know
_SENT: Mapping[str, Callable[..., AnyEvent]] = {
    "upload": events.UpdateUploaded,
    "agreement": events.SurvivorsAgreed,
    "reveal": events.SecretsRevealed,
}
"""Kind of what a site sent -> the event that says so."""


@dataclass(frozen=True)
class Terms:
    """What the coordinator has to know of a study.

    Attributes:
        sites: names of all sites of the signed roster, sorted.
        quorum: fewest survivors of a round.
        strategy: the algorithm.
        round_seconds: time after which a site stops training; 0 for no limit.
        waiting_seconds: seconds after which the coordinator stops waiting for a quorum.
        checks: sites compute the sum again before a round is accepted.
    """

    sites: tuple[str, ...]
    quorum: int
    strategy: Strategy
    round_seconds: float = 0.0
    waiting_seconds: float = 60 * WAITING_MINUTES
    checks: bool = True


class Coordinator:
    """Goes through the rounds of a study.

    Args:
        terms: of the study.
        state: on disk; new or resumed.
        exchange: carries requests and replies.
        sides: makes the coordinator's side of the aggregation.
        announcing: raises when the keys that a site announced are not acceptable.
        emit: takes events.
        aggregation: how updates are protected, in words, for the events.
        stop: asked between requests; true ends the run, which can be resumed.
    """

    def __init__(
        self,
        terms: Terms,
        state: StudyState,
        exchange: Exchange,
        sides: RoundSides,
        *,
        announcing: AnnouncementCheck = lambda announced, run: None,
        emit: Emit = events.ignore,
        aggregation: str = "",
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.terms, self.state, self.exchange = terms, state, exchange
        self._sides, self._emit, self._stop, self._aggregation = sides, emit, stop, aggregation
        self._announcing = announcing
        self._began = 0.0
        self._reasons: dict[str, str] = {}  # why sites did not do what was asked last

    def run(self) -> None:
        """Go through the study to its end; one that was begun before goes on where it was.

        Raises:
            DataError: too few sites came, or too many rounds failed. The study can be resumed.
            Interrupted: somebody stopped it; likewise.
            StorageError: the state cannot be written.
        """
        state, terms = self.state, self.terms
        self._emit(
            events.StudyStarted(
                study=state.header.study, run=state.header.run, sites=terms.sites, quorum=terms.quorum,
                rounds=terms.strategy.turns(terms.sites), aggregation=self._aggregation,
                connected=tuple(sorted(self.exchange.present())),
            )
        )  # fmt: skip
        try:
            if state.stage is Stage.MEETING:
                self._meet()
                state.enter(Stage.ROUNDS)
            if state.stage is Stage.ROUNDS:
                self._rounds()
                self._refuse_untrained()
                state.enter(Stage.FINISHING)
            if state.stage is Stage.FINISHING:
                self._refuse_untrained()
                self._wait_for_return()
                self._finish()
                state.enter(Stage.FINISHED)
        except MeninxError as error:
            outcome = StudyOutcome.STOPPED if isinstance(error, Interrupted) else StudyOutcome.FAILED
            self._emit(events.StudyEnded(outcome=outcome, reason=str(error)))
            raise
        self._emit(events.StudyEnded(outcome=StudyOutcome.FINISHED))

    # who takes part

    def _meet(self) -> None:
        """Collect the keys of all sites that come in time."""
        self._wait_for(self.terms.sites)
        known = self.state.announced()
        asked = [name for name in self.terms.sites if name in self.exchange.present() and name not in known]
        hello = messages.Hello(at=self._at(self.state.next_number))
        unfit: dict[str, str] = {}
        for name, reply in self._ask(dict.fromkeys(asked, hello), ANSWER_SECONDS).items():
            if not isinstance(reply, messages.Greeting):
                self._refused(name, reply)
                continue
            try:
                self._check_layout(reply)
                self._check_keys(name, reply.announcement)
            except MeninxError as error:
                unfit[name] = self._reasons[name] = f"not accepted: {error}"
                self._emit(events.SiteRefused(site=name, reason=unfit[name], code=error.exit_code))
                continue
            self.state.announce(name, reply.announcement)
            self._emit(events.SiteConnected(site=name))
        needed = max(self.terms.quorum, min(2, len(self.terms.sites)))  # also where nothing is added up
        if len(self.state.announced()) < needed:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._reasons.items())
            what = f"fewer than {needed} sites announced keys"
            raise DataError(problem(f"{what} ({reasons})" if reasons else what, where="study"))
        for name, reason in unfit.items():  # it is known now who takes part
            self.state.leave(name, names.printable(reason)[:MOST_WORDS])

    def _check_layout(self, greeting: messages.Greeting) -> None:
        """Refuse a site whose network has other weights than the study's, or the same in another order."""
        if greeting.layout != self.state.header.layout:
            what = "the weights of the site's network have another layout than those of the study"
            fix = "install the same versions of meninx, MONAI and packages with networks at all sites"
            raise ConfigError(problem(what, where=greeting.site, fix=fix))

    def _check_keys(self, site: str, announcement: bytes) -> None:
        """Refuse keys of a site that the other sites would refuse, and the whole run with them."""
        if len(announcement) > MOST_ANNOUNCED:
            raise DataError(problem("the keys are too long", where=site))
        self._announcing({**self.state.announced(), site: announcement}, self.state.header.run)

    def _introduce(self) -> None:
        """Give the keys of all to the sites that do not have them yet. The keys of a run never change."""
        known, met = self.state.announced(), self.state.met()
        asked = [name for name in self._able() if name not in met]
        papers = tuple(known[name] for name in sorted(known))
        request = messages.Meet(at=self._at(self.state.next_number), announcements=papers)
        for name, reply in self._ask(dict.fromkeys(asked, request), ANSWER_SECONDS).items():
            if isinstance(reply, messages.Done):
                self.state.meet(name)
            else:
                self._refused(name, reply)

    def _able(self) -> tuple[str, ...]:
        """Return the sites that are here, gave keys, and did not leave."""
        here, left, known = self.exchange.present(), self.state.left(), self.state.announced()
        return tuple(name for name in self.terms.sites if name in here & known.keys() and name not in left)

    def _wait_for(self, sites: Sequence[str]) -> None:
        """Wait until all of some sites are connected, or a quorum of them and half of the time is over."""
        end = time.monotonic() + self.terms.waiting_seconds
        half = end - self.terms.waiting_seconds / 2
        told = False
        while True:
            here = self.exchange.present()
            missing = [name for name in sites if name not in here]
            if not missing or (len(sites) - len(missing) >= self.terms.quorum and time.monotonic() >= half):
                return
            self._wait(end, told, len(sites) - len(missing), len(sites))
            told = True

    def _wait_for_return(self) -> None:
        """Wait a little for sites without the last model; one that is not here gets none before a resume."""
        awaited = self.state.announced().keys() - self.state.finished().keys() - self.state.left().keys()
        end = time.monotonic() + min(RETURN_SECONDS, self.terms.waiting_seconds / 2)
        while awaited - self.exchange.present() and time.monotonic() < end:
            self._refuse_stopped()
            time.sleep(_POLL)

    def _wait_for_quorum(self, needed: Sequence[str], count: int) -> None:
        """Wait until so many of some sites can take part.

        Raises:
            DataError: so many cannot come any more, or the time is over.
        """
        end, told = time.monotonic() + self.terms.waiting_seconds, False
        while True:
            able = [name for name in needed if name in self._able()]
            if len(able) >= count:
                return
            left = self.state.left()
            if sum(name not in left for name in needed) < count:
                reasons = "; ".join(f"{name}: {reason}" for name, reason in left.items())
                what = f"fewer than {count} sites are left ({reasons})"
                raise DataError(problem(what, where="study", fix="begin a new run"))
            self._wait(end, told, len(able), count)
            told = True

    def _wait(self, end: float, told: bool, connected: int, needed: int) -> None:
        if not told:
            self._emit(events.SitesAwaited(connected=connected, needed=needed))
        if time.monotonic() >= end:
            raise DataError(problem("too few sites came", where="study", fix="resume when they are there"))
        self._refuse_stopped()
        time.sleep(_POLL)

    # rounds

    def _rounds(self) -> None:
        terms, failed = self.terms, 0
        total = terms.strategy.turns(terms.sites)
        while self.state.position < total:
            self._refuse_stopped()
            self._began = time.monotonic()
            now = self.state.at_hand() or self._begun()
            done = now if now.phase.over else self._round(now)
            failed = 0 if done.phase is RoundPhase.ACCEPTED else failed + 1
            if failed >= MOST_ABORTS:
                what = f"{failed} rounds failed one after the other; the last: {done.words}"
                raise DataError(problem(what, where="study", fix="resume when the sites are ready"))

    def _refuse_untrained(self) -> None:
        """Refuse to end a study without one accepted round: its model is the one that it began with."""
        if not any(one.phase is RoundPhase.ACCEPTED for one in self.state.rounds()):
            last = self.state.rounds()[-1:]
            what = f"no round was accepted{f'; the last: {last[0].words}' if last else ''}"
            fix = "begin a new run when the sites are ready"
            raise DataError(problem(what, where="study", fix=fix))

    def _begun(self) -> Round:
        """Write down the next round and return it."""
        members = self._members(self.state.position)
        now = self.state.begin_round(members)
        if not members:  # of cyclic transfer: the turn of a site that is not there is passed over
            return self._abort(now, AbortReason.BELOW_QUORUM, "the site whose turn it is has no connection")
        self._emit(events.RoundOpened(round=now.number, attempt=0, members=members))
        return now

    def _members(self, position: int) -> tuple[str, ...]:
        """Return the sites that are asked now, once there is a quorum of them."""
        turn = self.terms.strategy.turn(position, self.terms.sites)
        if self.terms.strategy.adds_up:
            self._wait_for_quorum(turn.sites, self.terms.quorum)
        self._introduce()
        met = self.state.met()
        return tuple(name for name in turn.sites if name in self._able() and name in met)

    def _round(self, now: Round) -> Round:
        """Bring a round to its end, or to the end of an attempt, from wherever it stands."""
        try:
            side = self._side_of(now)
            if now.phase is RoundPhase.TRAINING:
                now = self._train(now, side)
            if now.phase is RoundPhase.AGREEING:
                now = self._agree(now, side)
            if now.phase is RoundPhase.REVEALING:
                now = self._reveal(now, side)
            if now.phase is RoundPhase.CHECKING:
                now = self._check(now, side)
            total = side.total() if now.survivors and not now.phase.over else None
        except StorageError:
            raise
        except MeninxError as error:
            stands = self.state.at_hand()
            if stands is None or isinstance(error, Interrupted):
                raise
            return self._abort(stands, AbortReason.SUM_REFUSED, str(error))
        if total is not None:
            return self._accept(now, total)
        return now if now.phase.over else self._again(now, len(side.survivors))

    def _side_of(self, now: Round) -> RoundSide:
        """Return the side of the aggregation with all that was kept of the round."""
        at, state = self._at(now), self.state
        request = self._training(now)
        begun = beginning(request.model, request.until, request.horizon)
        side = self._sides(at, now.members, state.announced(), begun)
        for site, upload in state.papers(now, "upload").items():
            side.receive(site, upload)
        for site, agreement in state.papers(now, "agreement").items():
            side.accept_agreement(site, agreement)
        for site, opened in state.papers(now, "reveal").items():
            side.accept_reveal(site, opened)
        return side

    def _training(self, now: Round) -> messages.Train:
        """Return what the members of a round are asked."""
        turn = self.terms.strategy.turn(now.position, self.terms.sites)
        _, model = self.state.model()
        return messages.Train(
            at=self._at(now), members=now.members, model=to_bytes(model.weights), until=turn.until,
            horizon=turn.horizon, seconds=self.terms.round_seconds,
        )  # fmt: skip

    def _train(self, now: Round, side: RoundSide) -> Round:
        """Collect the updates, and go on when there are enough; survivors are named only then."""
        request = self._training(now)
        self._reasons.clear()
        seconds = self.terms.round_seconds or TRAIN_SECONDS
        asked = [name for name in now.members if name not in side.survivors]
        replies = self._ask(dict.fromkeys(asked, request), seconds + UPLOAD_SECONDS)
        for name in asked:
            reply = replies.get(name)
            if isinstance(reply, messages.Uploaded) and reply.at == request.at:
                self._take(now, "upload", name, reply.upload, side.receive)
            else:
                self._missing(now, name, reply)
        needed = len(now.members) if side.needs_all else self.terms.quorum
        if not self.terms.strategy.adds_up:
            needed = 1
        if len(side.survivors) < needed:
            return now
        self._warn_of_difference(now, side.survivors)
        if not side.agrees:
            return msgspec.structs.replace(now, survivors=side.survivors)
        return self.state.advance(now, RoundPhase.AGREEING, survivors=side.survivors)

    def _again(self, now: Round, updates: int) -> Round:
        """Begin another attempt at a round that has too few updates; a turn is passed over instead."""
        by_reason: dict[str, list[str]] = {}
        for site in now.members:
            if site in self._reasons:
                by_reason.setdefault(self._reasons[site], []).append(site)
        reasons = [f"{', '.join(sites)}: {reason}" for reason, sites in by_reason.items()]
        words = "; ".join([f"{updates} of {len(now.members)} sites gave an update", *reasons])
        if not self.terms.strategy.adds_up:
            return self._abort(now, AbortReason.BELOW_QUORUM, words)
        self._emit(
            events.RoundAborted(
                round=now.number, attempt=now.attempt, reason=AbortReason.BELOW_QUORUM, detail=words
            )
        )
        again = self.state.retry(now, self._members(now.position), words)
        self._emit(events.RoundOpened(round=now.number, attempt=again.attempt, members=again.members))
        return again

    def _agree(self, now: Round, side: RoundSide) -> Round:
        """Collect signatures of a quorum over the survivors."""
        known = self.state.papers(now, "agreement")
        request = messages.Agree(at=self._at(now), survivors=now.survivors)
        asked = [name for name in now.survivors if name not in known]
        replies = self._ask(dict.fromkeys(asked, request), ANSWER_SECONDS)
        for name in asked:
            reply = replies.get(name)
            if isinstance(reply, messages.Agreed):
                self._take(now, "agreement", name, reply.agreement, side.accept_agreement)
            else:
                self._missing(now, name, reply)
        if not side.agreements:
            return self._abort(now, AbortReason.NO_AGREEMENT)
        return self.state.advance(now, RoundPhase.REVEALING)

    def _reveal(self, now: Round, side: RoundSide) -> Round:
        """Collect the secrets that open the sum; those of lost sites from the others."""
        for again in (False, True):
            if side.complete:
                break
            known = {} if again else self.state.papers(now, "reveal")
            requests = {
                name: messages.Reveal(
                    at=self._at(now), agreements=side.agreements, lost=side.enclosed(name, again=again)
                )
                for name in now.survivors
                if name not in known
            }
            replies = self._ask(requests, ANSWER_SECONDS)
            for name in requests:
                reply = replies.get(name)
                if isinstance(reply, messages.Revealed):
                    self._take(now, "reveal", name, reply.reveal, side.accept_reveal)
                else:
                    self._missing(now, name, reply)
        if not side.complete:
            return self._abort(now, AbortReason.NOT_REVEALED)
        return self.state.advance(now, RoundPhase.CHECKING, opened=True)

    def _check(self, now: Round, side: RoundSide) -> Round:
        """Let the sites compute the sum again.

        The word of one site is no proof, so the coordinator verifies its own transcript. If that fails, or
        fewer sites than the quorum confirm the sum after one denied it, the round is aborted. Sites that
        signed the sum itself are not asked again.
        """
        if side.confirmed:
            for name in side.confirmed:
                self._emit(events.SumRecomputed(site=name, round=now.number, share=1.0, matches=True))
            return msgspec.structs.replace(now, checked=dict.fromkeys(side.confirmed, 1.0))
        transcript, total = side.published()
        if not self.terms.checks or not transcript:
            reason = "the uploads are too large to send to every site" if side.recomputes else ""
            if reason:
                self._emit(events.SumUnchecked(round=now.number, reason=reason))
            return msgspec.structs.replace(now, unchecked=reason)
        request = messages.Recompute(at=self._at(now), transcript=transcript, total=total)
        checked, wrong = dict(now.checked), list(now.mismatches)
        arriving = (len(transcript) + len(total)) / SLOWEST_LINE
        replies = self._ask(dict.fromkeys(now.survivors, request), ANSWER_SECONDS + arriving)
        for name in now.survivors:
            reply = replies.get(name)
            if not isinstance(reply, messages.Recomputed) or not 0 < reply.share <= 1:
                self._missing(now, name, reply)
                continue
            self._emit(
                events.SumRecomputed(site=name, round=now.number, share=reply.share, matches=reply.matches)
            )
            if reply.matches:
                checked[name] = reply.share
            else:
                wrong.append(name)
        changed = msgspec.structs.replace(now, checked=checked, mismatches=tuple(wrong))
        if wrong and (len(checked) < self.terms.quorum or not side.verified(transcript, total)):
            return self._abort(changed, AbortReason.SUM_REFUSED, f"the sum differs at {', '.join(wrong)}")
        return changed

    def _accept(self, now: Round, total: RoundSum) -> Round:
        _, before = self.state.model()
        after = self.terms.strategy.apply(before, total)
        loss = total.loss if math.isfinite(total.loss) else None
        received = sum(len(item) for item in self.state.papers(now, "upload").values())
        done = self.state.accept(
            now, after, survivors=now.survivors, units=total.units, loss=loss, cut=total.cut,
            short=total.short, opened=True, unchecked=now.unchecked, checked=now.checked,
            mismatches=now.mismatches, received=received, seconds=time.monotonic() - self._began,
        )  # fmt: skip
        if total.cut > _VISIBLE_CUT:
            self._emit(events.UpdatesClipped(round=now.number, share=total.cut))
        metrics = {} if loss is None else {"loss": loss}
        self._emit(
            events.RoundAccepted(
                round=now.number, attempt=now.attempt, survivors=now.survivors, metrics=metrics
            )
        )
        return done

    def _abort(self, now: Round, reason: AbortReason, detail: str = "") -> Round:
        seconds = time.monotonic() - self._began
        words = f"{reason} ({detail})" if detail else str(reason)
        done = self.state.abort(now, words, checked=now.checked, mismatches=now.mismatches, seconds=seconds)
        self._emit(events.RoundAborted(round=now.number, attempt=now.attempt, reason=reason, detail=detail))
        return done

    def _warn_of_difference(self, now: Round, survivors: Sequence[str]) -> None:
        """Warn when one site more or less takes part than in the last sum, or in another one of this model.

        A sum that was opened counts, whether or not it was accepted.
        """
        if not self.terms.strategy.adds_up:
            return
        opened = [item for item in self.state.rounds() if item.opened and item.number != now.number]
        for before in opened:
            if before is not opened[-1] and before.model != now.model:
                continue
            differing = set(before.survivors) ^ set(survivors)
            if len(differing) == 1:
                (site,) = differing  # the difference of the sums comes close to the update of this site
                self._emit(events.SumsDiffer(site=site, round=now.number, earlier=before.number))

    # the end

    def _finish(self) -> None:
        """Give the last model to all sites that can take it."""
        _, model = self.state.model()
        request = messages.Finish(at=self._at(self.state.next_number), model=to_bytes(model.weights))
        waiting = [name for name in self._able() if name not in self.state.finished()]
        for name, reply in self._ask(dict.fromkeys(waiting, request), TRAIN_SECONDS).items():
            if isinstance(reply, messages.Finished) and _plausible(reply):
                self.state.finish(name, reply.epsilon)
                if reply.spent is not None and reply.delta is not None:
                    self._emit(events.EpsilonSpent(site=name, epsilon=reply.spent, delta=reply.delta))
                self._emit(events.ModelReleased(site=name))
            else:
                self._refused(name, reply)

    def conclude(self, record: Callable[[str], bytes]) -> None:
        """Give the record of the finished study to the connected sites that released the model.

        Args:
            record: from the name of a site to the record as that site may see it.
        """
        here = sorted(self.state.finished().keys() & self.exchange.present())
        at = self._at(self.state.next_number)
        requests = {name: messages.Conclude(at=at, record=record(name)) for name in here}
        for name, reply in self._ask(requests, ANSWER_SECONDS).items():
            if not isinstance(reply, messages.Done):
                self._refused(name, reply)

    # helpers

    def _take(
        self, now: Round, kind: str, site: str, content: bytes, accept: Callable[[str, bytes], None]
    ) -> None:
        """Take what a site sent in, and keep it; refuse what the aggregation does not accept."""
        try:
            accept(site, content)
        except (DataError, PrivacyRefusal) as error:
            self._emit(events.SiteRefused(site=site, reason=f"not accepted: {error}", code=error.exit_code))
            return
        self.state.keep(now, kind, site, content)
        self._emit(_SENT[kind](site=site, round=now.number, attempt=now.attempt, sent=len(content)))

    def _missing(self, now: Round, site: str, reply: Reply | None) -> None:
        """Write down why a site did not do what was asked."""
        if reply is None:
            self._reasons[site] = "no answer"
            self._emit(events.SiteLost(site=site, reason=f"no answer in round {now.number + 1}"))
        else:
            self._refused(site, reply)

    def _refused(self, site: str, reply: Reply) -> None:
        if not isinstance(reply, messages.Declined):
            self._reasons[site] = "it answered another question"
            self._emit(events.SiteRefused(site=site, reason=self._reasons[site], code=3))
            return
        self._reasons[site] = names.printable(reply.reason)[:MOST_WORDS]
        if reply.final:
            self.state.leave(site, self._reasons[site])
        self._emit(
            events.SiteRefused(site=site, reason=reply.reason, code=max(0, reply.code), final=reply.final)
        )

    def _ask(self, requests: Mapping[str, Request], within: float) -> Mapping[str, Reply]:
        self._refuse_stopped()
        return self.exchange.ask(requests, within=within) if requests else {}

    def _at(self, now: Round | int) -> Position:
        header = self.state.header
        return header.at(now) if isinstance(now, int) else header.at(now.number, now.attempt)

    def _refuse_stopped(self) -> None:
        if self._stop():
            raise Interrupted("the study was stopped; go on with resume")


def _plausible(reply: messages.Finished) -> bool:
    """Return whether a site can have spent this."""
    stated = [value for value in (reply.epsilon, reply.spent, reply.delta) if value is not None]
    return all(math.isfinite(value) and value >= 0 for value in stated)
