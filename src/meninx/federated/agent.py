"""SiteAgent: a site's end of a study. It answers each request with the site's own training and aggregation.

It is the same object in one process (``simulate``), behind Flower and behind the mailbox::

    agent = SiteAgent("north", config, data, out, study="chest", part=part, sides=sides)
    reply = agent.handle(request)

What it promises lies on the disk of the site before it answers: the run folder holds weights, ledger and the
round at hand. A request that is asked again is answered the same way.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor, nn

from meninx.core import artifacts
from meninx.core.artifacts import RunRecord, StudyPart
from meninx.core.errors import (
    ConfigError,
    DataError,
    Interrupted,
    MeninxError,
    PrivacyRefusal,
    expected,
    problem,
)
from meninx.core.manifest import Manifest
from meninx.core.progress import SILENT, Progress
from meninx.core.run import Run
from meninx.core.workspace import PRIVATE
from meninx.federated import events, messages, study_record
from meninx.federated.aggregation_methods import SiteSides
from meninx.federated.aggregators import SiteSide
from meninx.federated.config import AggregationConfig
from meninx.federated.contribution import Contribution, beginning
from meninx.federated.events import AnyEvent, Emit
from meninx.federated.first_model import first_model
from meninx.federated.messages import Position, Reply, Request
from meninx.federated.site_budget import StudySpending
from meninx.federated.site_rounds import SiteRounds, stretch
from meninx.federated.strategies import Turn
from meninx.federated.vector import Vector, from_bytes, model_digest
from meninx.federated.weight_layout import WeightLayout
from meninx.learn import finetune
from meninx.learn.hooks import Hook
from meninx.learn.trainer import never
from meninx.privacy.plan import Plan
from meninx.train import in_rounds, planning
from meninx.train.config import TrainConfig
from meninx.train.in_rounds import RunInRounds
from meninx.train.stage import TrainResult

Admission = Callable[[TrainConfig, Manifest, Path | None], object]
"""From settings, dataset and the run folder that goes on, None for a new one; raises where a site says no."""
Account = Callable[[Plan, Run], StudySpending]
"""From the plan and the folder of the open run to what the study has spent at the site over all its runs."""


class SiteAgent:
    """One site of a study.

    Args:
        name: of the site.
        config: the study's training settings, with the site's own device.
        source: the site's prepared dataset.
        out: folder of the site's runs.
        study: name of the study.
        part: makes the record of the site's part, from the identifier of the run of the study.
        sides: makes the site's side of the aggregation.
        aggregation: of the signed terms.
        rounds: the rounds of the signed terms, which the site checks itself.
        local: prefixes of weights that stay at the site.
        hooks: listeners of the trainer, e.g. the pull of FedProx.
        admit: asked before the site's run is opened; raises PrivacyRefusal when the site does not allow it.
        opened: called with the folder of a new run before its first step.
        discarding: called with the folder of a run without a step before the folder is removed.
        account: states what the study has spent at the site; by default what this run has spent.
        emit: takes events about this site.
        progress: shows steps and loss.
        stop: asked after each step; true interrupts the training.

    Attributes:
        name: of the site.
        result: of the released run; None before the end.
        spending: of the study at this site when the run was released; None before, and without privacy.
    """

    def __init__(
        self,
        name: str,
        config: TrainConfig,
        source: Path,
        out: Path,
        *,
        study: str,
        part: Callable[[str], StudyPart],
        sides: SiteSides,
        aggregation: AggregationConfig,
        rounds: SiteRounds,
        local: tuple[str, ...] = (),
        hooks: tuple[Hook, ...] = (),
        admit: Admission = lambda config, data, resumed: None,
        opened: Callable[[Path], None] = lambda run: None,
        discarding: Callable[[Path], None] = lambda run: None,
        account: Account | None = None,
        emit: Emit = events.ignore,
        progress: Progress = SILENT,
        stop: Callable[[], bool] = never,
    ) -> None:
        self.name = name
        self.result: TrainResult | None = None
        self.spending: StudySpending | None = None
        self._config, self._source, self._out, self._study = config, source, out, study
        self._part, self._sides, self._rounds = part, sides, rounds
        self._aggregation = aggregation
        self._local, self._hooks = local, hooks
        self._admit, self._began, self._account, self._emit = admit, opened, account, emit
        self._progress, self._stop, self._discarding = progress, stop, discarding
        self._training_refused = False
        self._released = ""  # SHA-256 of the common weights of the released run
        self._stack, self._run_of = ExitStack(), ""
        self._run: RunInRounds | None = None
        self._side: SiteSide | None = None
        self._layout: WeightLayout | None = None

    def handle(self, request: Request) -> Reply:
        """Return the reply to a request.

        Raises:
            Interrupted: the user stopped the site; its state is saved.
        """
        self._training_refused = False
        try:
            return self._answered(request)
        except Interrupted:
            raise
        except MeninxError as error:
            # a guard of the site's own training says no for good; one of the aggregation to this request
            final = isinstance(error, PrivacyRefusal) and self._training_refused
            reply = messages.Declined(site=self.name, reason=str(error), code=error.exit_code, final=final)
            self._emit(
                events.SiteRefused(site=self.name, reason=reply.reason, code=reply.code, final=reply.final)
            )
            return reply

    def close(self) -> None:
        """Leave the run folder to others; a later request takes it up again."""
        self._stack.close()
        self._stack, self._run, self._side, self._layout, self._run_of = ExitStack(), None, None, None, ""

    def forget(self) -> None:
        """Remove the secrets of the aggregation: the run of the study is over."""
        if self._side is not None:
            self._side.finish()

    @property
    def run_folder(self) -> Path | None:
        """The run folder of this site; None before the first round."""
        return self._run.run.root if self._run is not None else None

    def _answered(self, request: Request) -> Reply:
        at = request.at
        if at.study != self._study:
            raise DataError(problem(f"the request is not of study {self._study}", where="request"))
        match request:
            case messages.Hello():
                self._refuse_more_units()
                announced = self._side_of(at).announce()
                layout = self._planned_layout().digest
                return messages.Greeting(site=self.name, announcement=announced, layout=layout)
            case messages.Meet():
                self._side_of(at).meet(request.announcements)
                return messages.Done(site=self.name)
            case messages.Train():
                return self._train(request)
            case messages.Agree():
                return self._agree(request)
            case messages.Reveal():
                return self._reveal(request)
            case messages.Recompute():
                return self._recompute(request)
            case messages.Finish():
                return self._finish(request)
            case messages.Conclude():
                return self._conclude(request)

    def _refuse_more_units(self) -> None:
        """Refuse a study whose bound of units is below the units of this site.

        Raises:
            ConfigError: likewise; it names a power of two, not the number of patients.
        """
        if not self._aggregation.secure:
            return
        units = planning.units_of(self._config, Manifest.read(self._source))
        most = self._aggregation.most_units
        if units > most:
            fix = f"set max_units = {self._aggregation.bound_for(units)} in [aggregation] of the study"
            what = f"the site has more units than the {most:,} that the study allows"
            raise ConfigError(problem(what, where="aggregation", fix=fix))

    def _sent(self, kind: Callable[..., AnyEvent], at: Position, content: bytes) -> None:
        self._emit(kind(site=self.name, round=at.round, attempt=at.attempt, sent=len(content)))

    def _agree(self, request: messages.Agree) -> Reply:
        at = request.at
        signature = self._side_of(at).agree(at, request.survivors)
        folder = self._folder(at)
        for site, earlier in self._rounds.signed(folder, at, request.survivors) if folder else ():
            self._emit(events.SumsDiffer(site=site, round=at.round, earlier=earlier))
        self._sent(events.SurvivorsAgreed, at, signature)
        return messages.Agreed(site=self.name, agreement=signature)

    def _reveal(self, request: messages.Reveal) -> Reply:
        at, side = request.at, self._side_of(request.at)
        opened = side.reveal(at, request.agreements, request.lost)
        if side.opens_sum:
            self._note_sum(at, side, opened)
        self._sent(events.SecretsRevealed, at, opened)
        return messages.Revealed(site=self.name, reveal=opened)

    def _recompute(self, request: messages.Recompute) -> Reply:
        at, side = request.at, self._side_of(request.at)
        share, matches = side.check(at, request.transcript, request.total)
        self._note_sum(at, side, request.total if matches else b"")
        self._emit(events.SumRecomputed(site=self.name, round=at.round, share=share, matches=matches))
        return messages.Recomputed(site=self.name, share=share, matches=matches)

    def _note_sum(self, at: Position, side: SiteSide, total: bytes) -> None:
        """Write down the model that a sum leads to; none after a wrong sum."""
        folder = self._folder(at)
        if folder is None:
            return
        try:
            found = side.decoded(total) if total else None
        except DataError:
            self._rounds.voided(folder, at)
        else:
            self._rounds.computed(folder, at, found)

    def _train(self, request: messages.Train) -> Reply:
        if self.name not in request.members:
            raise DataError(problem("the site is not a member of this round", where="request"))
        if not 0 < request.until <= request.horizon:
            rule = f"0 < until <= {request.horizon}"
            raise DataError(expected(rule, got=request.until, where="request"))
        at = request.at
        position, turn = self._rounds.turn(request, self.name)
        self._emit(events.RoundOpened(round=at.round, attempt=at.attempt, members=request.members))
        self._side_of(at).check_round(at, request.members)  # before steps are taken that nobody could add up
        self._training_refused = True
        given = self._trained(request, position, turn)
        self._training_refused = False
        upload = self._side_of(at).upload(at, request.members, given)
        reply = messages.Uploaded(site=self.name, at=at, upload=upload)
        self._sent(events.UpdateUploaded, at, upload)
        return reply

    def _trained(self, request: messages.Train, position: int, turn: Turn) -> Contribution:
        """Train and return the change of the common weights."""
        run = self._opened(request.at, request.model)
        layout = self._layout_of(run)
        model = from_bytes(request.model, layout.size)
        self._note_unchecked(request.at, self._rounds.begin(run.run.private, request.at, position, model))
        common = self._common(layout, model, run)
        since, share = stretch(turn)
        for hook in self._hooks:
            hook.on_common_weights(common)
        trained = run.train(
            lambda: layout.unflatten(model, run.weights()),
            number=request.at.round,
            name=model_digest(model),
            since=since,
            share=share,
            seconds=request.seconds,
            stop=self._stop,
        )
        self._emit_spent(run)
        loss = math.nan if run.private else trained.loss
        begun = beginning(request.model, request.until, request.horizon)
        update = layout.flatten(run.weights()) - model
        given = Contribution(update, run.units, loss, begun, short=trained.short)
        if cut := given.beyond(self._aggregation.clip):
            self._emit(
                events.UpdatesClipped(
                    round=request.at.round, share=cut / update.size, site=self.name, elements=cut
                )
            )
        return given

    def _note_unchecked(self, at: Position, reason: str) -> None:
        """Emit why the site could not check a model, where the aggregation lets sites check it."""
        if reason and self._side_of(at).knows_sum:
            self._emit(events.ModelUnchecked(site=self.name, round=at.round, reason=reason))

    def _emit_spent(self, run: RunInRounds) -> None:
        """Emit what the study has spent so far; an accounting takes a moment, so only for a watcher."""
        if run.plan is None or self._emit is events.ignore:
            return
        spent = self._spent(run, run.plan)
        self._emit(
            events.EpsilonSpent(
                site=self.name, epsilon=spent.epsilon, delta=run.plan.delta, limit=spent.limit
            )
        )

    def _spent(self, run: RunInRounds, plan: Plan) -> StudySpending:
        """Return what the study has spent at this site."""
        if self._account is None:
            return StudySpending(epsilon=run.epsilon or 0.0)
        return self._account(plan, run.run)

    def _finish(self, request: messages.Finish) -> Reply:
        run = self._opened(request.at)
        name = hashlib.sha256(request.model).hexdigest()
        whole: Mapping[str, Tensor] = {}
        if not run.closed:
            layout = self._layout_of(run)
            model = from_bytes(request.model, layout.size)
            self._note_unchecked(request.at, self._rounds.finish(run.run.private, request.at, model))
            whole = layout.unflatten(model, run.weights())
        self.result = run.finish(whole, name=name)
        self._released = name
        self._emit(events.ModelReleased(site=self.name))
        self.forget()
        if run.plan is None or self.result.privacy is None:
            return messages.Finished(site=self.name)
        self.spending = self._spent(run, run.plan)
        return messages.Finished(
            site=self.name,
            epsilon=self.result.privacy.epsilon,
            spent=self.spending.epsilon,
            delta=run.plan.delta,
        )

    def _conclude(self, request: messages.Conclude) -> Reply:
        """Keep the coordinator's record of the study beside the released run."""
        part = self._part(request.at.run)
        run = self.run_folder or find_run(self._out, part)
        if run is None:
            raise DataError(problem("the site took part in no round", where="request"))
        artifacts.write(run, study_record.received(request.record, part, self._released))
        digest = hashlib.sha256(request.record).hexdigest()
        self._emit(events.RecordReceived(site=self.name, record=digest))
        return messages.Done(site=self.name)

    @staticmethod
    def _common(layout: WeightLayout, model: Vector, run: RunInRounds) -> dict[str, Tensor]:
        """Return the common weights by name, without those that stay at the site."""
        whole = layout.unflatten(model, run.weights())
        return {name: value for name, value in whole.items() if name not in layout.local}

    def _side_of(self, at: Position) -> SiteSide:
        """Return the side of the aggregation of a run of the study."""
        if self._side is None or self._run_of != at.run:
            self.close()
            self._side, self._run_of = self._sides(at.run), at.run
        return self._side

    def _opened(self, at: Position, model: bytes | None = None) -> RunInRounds:
        """Return the site's run of a run of the study.

        Args:
            at: of the request.
            model: common weights with which a new run begins; None makes no run.

        Raises:
            DataError: the model does not fit, or there is no run and no model.
            PrivacyRefusal: the site does not allow the run.
        """
        self._side_of(at)
        if self._run is None:
            part = self._part(at.run)
            resumed = find_run(self._out, part)
            if resumed is None and model is None:
                fix = "train a round first"
                raise DataError(problem("the site took part in no round", where="request", fix=fix))
            self._admit(self._config, Manifest.read(self._source), resumed)
            removed: list[Path] = []

            def discarding(run: Path) -> None:
                self._discarding(run)
                removed.append(run)

            self._run = self._stack.enter_context(
                in_rounds.opened(
                    self._config,
                    self._source,
                    self._out,
                    study=part,
                    resume=resumed,
                    hooks=self._hooks,
                    progress=self._progress,
                    fits=lambda network: from_bytes(
                        model or b"", self._common_of(network, self._config).size
                    ),
                    discarding=discarding,
                )
            )
            if resumed is None or removed:  # a new folder can have the name of the removed one
                self._began(self._run.run.root)
            self._emit_spent(self._run)
        return self._run

    def _folder(self, at: Position) -> Path | None:
        """Return the private folder of the site's run; None before its first round."""
        run = self.run_folder or find_run(self._out, self._part(at.run))
        return run / PRIVATE if run is not None else None

    def _planned_layout(self) -> WeightLayout:
        """Return the layout of the network that this site will train, before it has a run."""
        _, layout = first_model(self._config, Manifest.read(self._source).info, self._local)
        return layout

    def _layout_of(self, run: RunInRounds) -> WeightLayout:
        """Return the layout of the common weights."""
        if self._layout is None:
            self._layout = self._common_of(run.training.state.model, run.config)
        return self._layout

    def _common_of(self, network: nn.Module, config: TrainConfig) -> WeightLayout:
        frozen = finetune.never_trained(network, config.model)
        return WeightLayout.of(network, local=self._local, frozen=frozen)


def find_run(out: Path, part: StudyPart) -> Path | None:
    """Return the run folder in ``out`` that is a part of a study; None when there is none."""
    for path in sorted(out.glob(f"*/{artifacts.place(RunRecord)}")) if out.is_dir() else ():
        record = artifacts.read(path.parent, RunRecord)
        if record is not None and record.study == part:
            return path.parent
    return None


class InProcess:
    """Exchange among sites of one process, one after the other; requests and replies travel as bytes.

    Args:
        sites: by name.
    """

    def __init__(self, sites: Mapping[str, SiteAgent]) -> None:
        self._sites = dict(sites)

    def present(self) -> frozenset[str]:
        """Return all sites."""
        return frozenset(self._sites)

    def ask(self, requests: Mapping[str, Request], *, within: float) -> Mapping[str, Reply]:
        """Return the replies of the sites that were asked."""
        replies = {}
        for name, request in requests.items():
            carried = messages.decode_request(messages.encode(request))
            replies[name] = messages.decode_reply(messages.encode(self._sites[name].handle(carried)))
        return replies
