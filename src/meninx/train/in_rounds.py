"""A run folder of `meninx train` that is trained in rounds: weights in, a stretch of steps, weights out.

Otherwise it is an ordinary run with its own plan, ledger and checkpoints, and a release at the end::

    with in_rounds.opened(config, data, out, study=part) as run:
        weights = run.weights()
        for number in range(rounds):
            since, share = Fraction(number, rounds), Fraction(number + 1, rounds)
            run.train(lambda: weights, number=number, name=digest, since=since, share=share)
            weights = common(run.weights())
        result = run.finish(weights, name=digest)

A round has a fixed number of steps at most. A site that missed rounds does not catch up: one update of many
steps would move the common model further than those of the others. With privacy they stay unspent.

The start and progress of a round are recorded in ``private/round.json``. A round that is requested again
continues from the last checkpoint, or returns its result if it is finished.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from torch import Tensor, nn

from meninx.core import artifacts
from meninx.core.artifacts import RunState, StudyPart
from meninx.core.errors import ConfigError, DataError, Interrupted, PrivacyRefusal, expected, problem
from meninx.core.federation import RoundRecord
from meninx.core.manifest import Manifest
from meninx.core.progress import SILENT, Progress
from meninx.core.run import Run
from meninx.learn import assemble, fitting, ledger_file, runtime
from meninx.learn.assemble import Training
from meninx.learn.checkpoint import CheckpointHook
from meninx.learn.distributed import World
from meninx.learn.dp_step import ReplayRefusal
from meninx.learn.hooks import Evaluated, Hook, StepDone
from meninx.learn.state import TrainState
from meninx.learn.task import with_network
from meninx.learn.trainer import never
from meninx.privacy.plan import Plan
from meninx.train import creation, effect, release, stage
from meninx.train import resume as resuming
from meninx.train.config import TrainConfig
from meninx.train.planning import units_of
from meninx.train.stage import TrainResult

CHECKPOINT_SECONDS = 60.0
"""Approximate upper limit of the training time that a killed site repeats."""


@dataclass(frozen=True, kw_only=True)
class TrainedRound:
    """The result of one round of one site.

    Attributes:
        steps: optimiser steps done so far in all rounds.
        new: optimiser steps of this round.
        loss: mean training loss of the round, NaN if unknown. Private.
        short: whether fewer steps than planned for the round were done.
    """

    steps: int
    new: int
    loss: float = math.nan
    short: bool = False


def in_rounds(config: TrainConfig) -> TrainConfig:
    """Return the settings of a run that is trained in rounds, which always keeps the last weights.

    Raises:
        ConfigError: a setting selects weights by a site's own evaluations.
    """
    idle = {
        "select": config.validation.select == "best",
        "early_stopping": config.validation.early_stopping > 0,
        "ema": config.optim.ema > 0,
    }
    for name, given in idle.items():
        if given:
            fix = "leave it out; the sites keep the last common weights"
            raise ConfigError(
                problem("a site of a study does not choose weights of its own", where=name, fix=fix)
            )
    return config.replace(select="last")


def check(config: TrainConfig, source: Path, out: Path) -> None:
    """Run all checks that come before the first step, without writing anything.

    Args:
        config: as for :func:`opened`.
        source: prepared dataset.
        out: folder of runs.

    Raises:
        ConfigError, DataError, PrivacyRefusal: as for ``meninx train``.
    """
    data = Manifest.read(source)
    config = with_network(in_rounds(config), data.info)
    plan, _ = creation.checked(config, data, out, World(), None)
    creation.first_network(config, data, plan, None)


@contextmanager
def opened(
    config: TrainConfig,
    source: Path,
    out: Path,
    *,
    study: StudyPart,
    resume: Path | None = None,
    hooks: Sequence[Hook] = (),
    progress: Progress = SILENT,
    fits: Callable[[nn.Module], object] = lambda network: None,
    discarding: Callable[[Path], None] = lambda run: None,
) -> Iterator[RunInRounds]:
    """Open a new or an existing run folder that is trained in rounds, and lock it for a ``with`` block.

    Args:
        config: settings with the steps or epochs of all rounds. Ignored when a run is resumed: its own
            settings apply.
        source: prepared dataset.
        out: folder of runs.
        study: the study that the run belongs to.
        resume: run folder to continue; a run that was killed before its first step is started anew.
        hooks: listeners, e.g. the pull of FedProx.
        progress: shows steps and loss.
        fits: called with the network of a new run before its folder is made; it raises to refuse the run.
        discarding: called with the folder of a run without steps before that folder is removed.

    Raises:
        ConfigError, DataError, PrivacyRefusal, RunLocked: as for ``meninx train``; or the run is of another
        study.
    """
    data, world = Manifest.read(source), World()
    run = _reopened(resume, source, study, discarding) if resume is not None else None
    if run is None:
        config = with_network(in_rounds(config), data.info)
        plan, start = creation.checked(config, data, out, world, None)
        fits(creation.first_network(config, data, plan, None))
        config = effect.resolved(config, data, plan)
        run = Run(Path(creation.created(config, data, out, start, study=study)))
    else:
        config = stage.stored_config(run)
        plan = creation.agreed_plan(config, data, world)
    with ExitStack() as stack:
        stack.enter_context(run.lock())
        yield RunInRounds(config, data, run, plan, stack, hooks=hooks, progress=progress)


def _reopened(path: Path, source: Path, study: StudyPart, discarding: Callable[[Path], None]) -> Run | None:
    """Return the run in a folder, or None if it had no steps and was removed."""
    run, _ = resuming.opened(path)
    record = run.record
    if record is None or record.study is None or record.study != study:
        fix = "give the run of this study, or begin a new one"
        raise DataError(problem("the run is not this site's part of the study", where=run.name, fix=fix))
    if record.state is RunState.STARTING and not run.ledger_text():
        discarding(run.root)
        run.discard()
        return None
    resuming.own_inputs(run, source)
    return run


class RunInRounds:
    """One run that is trained in rounds; made by :func:`opened`, which locks its folder.

    Attributes:
        config: its settings.
        data: its dataset.
        run: its folder.
        plan: its privacy plan; None without privacy.
        units: number of privacy units (usually patients) of the training split: the weight of this site. The
            declared number, if one is declared.

    Guarantee: with privacy, the guarantee of the run's plan. Incoming weights do not change what a step
        spends, and no step is taken beyond the plan. A step is repeated only with the same weights.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: Manifest,
        run: Run,
        plan: Plan | None,
        stack: ExitStack,
        *,
        hooks: Sequence[Hook] = (),
        progress: Progress = SILENT,
    ) -> None:
        self.config, self.data, self.run, self.plan = config, data, run, plan
        self.units = units_of(config, data)
        self._hooks, self._progress, self._stack = tuple(hooks), progress, stack
        self._stop: Callable[[], bool] = never
        self._training: Training | None = None
        self._saver: CheckpointHook | None = None

    @property
    def closed(self) -> bool:
        """Whether the run was released."""
        record = self.run.record
        return record is not None and record.state is RunState.RELEASED

    @property
    def private(self) -> bool:
        """Whether the run is differentially private."""
        return self.plan is not None

    @property
    def training(self) -> Training:
        """The assembled training, restored from its last checkpoint."""
        if self._training is None:
            self._training = self._assembled()
        return self._training

    @property
    def at_hand(self) -> RoundRecord | None:
        """The round that was started last; None before the first."""
        return artifacts.read(self.run.root, RoundRecord)

    @property
    def epsilon(self) -> float | None:
        """Epsilon spent so far; None without privacy, 0 before the first step."""
        if self.plan is None:
            return None
        ledger = ledger_file.read(self.run)
        return ledger.epsilon(self.plan.delta) if ledger.accounts else 0.0

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the weights and buffers of the network, on the CPU."""
        return self.training.state.weights()

    def train(
        self,
        weights: Callable[[], Mapping[str, Tensor]],
        *,
        number: int,
        name: str,
        share: Fraction,
        since: Fraction = Fraction(0),
        seconds: float = 0.0,
        stop: Callable[[], bool] = never,
    ) -> TrainedRound:
        """Train one round and return its result; a round that was started before continues.

        Args:
            weights: returns the weights that the round starts with; not called for a round that was started
                before.
            number: number of the round.
            name: digest of the common model.
            share: share of the planned steps that is due at the end of the round, in (0, 1].
            since: share that is due before the round, in [0, 1); the round takes at most the steps in
                between.
            seconds: time limit of the round, which has at least one step; 0 for no limit.
            stop: called after each step; True interrupts the round, which can be continued later.

        Raises:
            PrivacyRefusal: all planned steps were taken, so the budget is used up.
            Interrupted: ``stop`` returned True or the user interrupted; the state is saved.
            DataError: the weights do not fit, training diverged, or these steps were taken for another round.
        """
        total = self.training.total_steps
        # Fractions instead of floats: all sites must compute the same step from the same share.
        due = math.floor(total * share)
        most = due - math.floor(total * since)
        known = self.at_hand
        if known is None or (known.model, known.due or known.until) != (name, due):
            known = self._begin(weights(), number, name, min(due, self.training.state.step + most), due=due)
        # Two rounds with the same update would let the coordinator subtract the two sums and isolate this
        # site.
        elif known.number != number:
            fix = "ask for later steps: one update in two sums of other sites could be told from the rest"
            what = f"these steps were taken for round {known.number}"
            raise DataError(problem(what, where=f"round {number}", fix=fix))
        if not known.done:
            known = self._steps(known, seconds, stop)
        steps = self.training.state.step
        loss = math.nan if known.loss is None else known.loss
        return TrainedRound(steps=steps, new=steps - known.first, loss=loss, short=steps - known.first < most)

    def finish(self, weights: Mapping[str, Tensor], *, name: str) -> TrainResult:
        """Load the last common weights, release them as an ordinary run does, and return the result.

        Args:
            weights: all weights and buffers.
            name: digest of the common model.

        Raises:
            DataError: the weights do not fit, or the run was released with others.
        """
        known = self.at_hand
        if self.closed:
            if known is None or known.model != name:
                fix = "start a new study; its sites may begin with this release"
                raise DataError(
                    problem("the run was released with other weights", where=self.run.name, fix=fix)
                )
            return stage.closed(self.run, self.data, None)
        if not self.training.state.step:
            fix = "train a round first"
            raise DataError(problem("the site took part in no round", where=self.run.name, fix=fix))
        if known is None or known.model != name or not known.done:
            number = known.number + 1 if known is not None else 0
            self._begin(weights, number, name, self.training.state.step, done=True)
        training = self.training
        with runtime.prepared(self.config.runtime, World()):
            evaluator = training.trainer.evaluator
            metrics = dict(evaluator.measure(training.state)) if evaluator else {}
        training.trainer.last = Evaluated(training.state.step, metrics, {}, False)
        fitted = fitting.concluded(training)
        parameters = release.publish(self.config, self.run)
        return stage.result_of(self.config, self.data, self.run.root, parameters, fitted)

    def _assembled(self) -> Training:
        """Return the restored training; its data stay loaded until the folder is closed."""
        config, world = self.config, World()
        begun = fitting.is_begun(self.run, world, self.plan, resume=True)
        if begun:
            resuming.refuse_changed_run(self.run, self.plan)
        begin = fitting.BeginHook(self.run)
        with runtime.prepared(config.runtime, world) as device:
            training = assemble.from_config(
                config,
                self.data,
                self.run,
                self.plan,
                device=device,
                hooks=[begin, _RoundCheckpoint(self), *self._hooks],
                progress=self._progress,
                resumed=begun,
                data_digest=resuming.bound_inputs(self.data, self.run),
                ancestry=resuming.recorded_start(config, self.run),
                declared_units=config.privacy.units_declared if config.privacy else None,
                world=world,
            )
            fitting.restored(training, begin)
        self._saver = next(hook for hook in training.trainer.hooks if isinstance(hook, CheckpointHook))
        self._stack.enter_context(
            fitting.data_at_hand(training, self.data, self._progress, lambda: self._stop())
        )
        return training

    def _begin(
        self,
        weights: Mapping[str, Tensor],
        number: int,
        name: str,
        until: int,
        *,
        due: int = 0,
        done: bool = False,
    ) -> RoundRecord:
        """Load the weights of a new round, save them as the last checkpoint, and record the round."""
        training = self.training
        state, saver = training.state, self._saver
        if not done and until <= state.step:
            self._refuse_used_up(until)
        if self.plan is not None:
            # The step continues after the last one in the ledger, although a killed process may not have
            # finished it: its noise was drawn for other weights, so it must not be repeated with these.
            state.step = max(state.step, ledger_file.read(self.run).next_step)  # begun steps stay spent
        # Saved before the round is recorded: a recorded round continues from the checkpoint and must find its
        # weights.
        state.load_weights(weights)
        if saver is not None:
            saver.save("last", state)
        record = RoundRecord(number=number, model=name, first=state.step, until=until, due=due, done=done)
        artifacts.write(self.run.root, record)
        return record

    def _refuse_used_up(self, until: int) -> None:
        """Refuse a round without steps."""
        step, total = self.training.state.step, self.training.total_steps
        if step >= total:
            kind = PrivacyRefusal if self.private else DataError
            what = "the privacy budget" if self.private else "the training"
            raise kind(problem(f"{what} of this site is used up after {step} steps", where=self.run.name))
        fix = "the coordinator has to ask for later steps"
        raise DataError(
            expected(f"a round that ends after step {step}", got=until, where=self.run.name, fix=fix)
        )

    def _steps(self, known: RoundRecord, seconds: float, stop: Callable[[], bool]) -> RoundRecord:
        """Take the steps of a round and return its finished record."""
        training = self.training
        trainer, box = training.trainer, _TimeBox(seconds)
        self._stop = stop
        horizon = training.total_steps
        losses = _MeanLoss()
        trainer.hooks = [losses, *trainer.hooks]

        def run() -> None:
            trainer.run(until=known.until, horizon=horizon, stop_requested=lambda: stop() or box.is_over())

        try:
            with runtime.prepared(self.config.runtime, World()):
                try:
                    run()
                except ReplayRefusal:
                    # Another machine rounds differently, so the step cannot be repeated: it stays spent.
                    training.state.step = ledger_file.read(self.run).next_step
                    run()
        except KeyboardInterrupt as error:
            if stop() or not box.over or not trainer.whole:
                raise Interrupted(
                    f"the round was stopped after step {training.state.step}; it can go on ({self.run.name})"
                ) from error
        finally:
            trainer.hooks = trainer.hooks[1:]
            self._stop = never
        loss = losses.mean if losses.count else known.loss
        done = replace(known, done=True, loss=loss)
        artifacts.write(self.run.root, done)
        return done


class _TimeBox:
    """The time limit of a round."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds if seconds > 0 else math.inf
        self.over = False

    def is_over(self) -> bool:
        """Return whether the time is over; once over, it stays so."""
        self.over = self.over or time.monotonic() >= self._end
        return self.over


class _MeanLoss(Hook):
    """The mean of the training losses of a round."""

    private_log = True

    def __init__(self) -> None:
        self.count, self._sum = 0, 0.0

    def on_step_end(self, state: TrainState, event: StepDone) -> None:
        """Add the loss of a step."""
        value = event.metrics.get("loss", math.nan)
        if math.isfinite(value):
            self.count, self._sum = self.count + 1, self._sum + value

    @property
    def mean(self) -> float:
        """Mean of the losses so far."""
        return self._sum / self.count


class _RoundCheckpoint(Hook):
    """Saves the state during a round, so that a killed site can continue within it."""

    def __init__(self, owner: RunInRounds) -> None:
        self._owner, self._saved = owner, time.monotonic()

    def on_step_end(self, state: TrainState, event: StepDone) -> None:
        """Save a checkpoint if the last one is old."""
        saver = self._owner._saver
        if saver is not None and time.monotonic() - self._saved >= CHECKPOINT_SECONDS:
            saver.save("last", state)
            self._saved = time.monotonic()
