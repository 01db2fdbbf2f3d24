"""The one training loop: the same for private and plain runs, resumable, stoppable between any two steps."""

from __future__ import annotations

import math
from dataclasses import asdict, astuple
from typing import Any

from torch import nn

from meninx.core.artifacts import Ancestry, RunState
from meninx.core.budget import NeighboringRelation, PrivacySpent, PrivacyUnit
from meninx.core.errors import Interrupted, PrivacyRefusal, UsageError, expected
from meninx.core.manifest import Manifest
from meninx.core.pool import Stop
from meninx.core.progress import SILENT, Progress, task
from meninx.core.run import Run
from meninx.learn import (
    checkpoint,
    distributed,
    freeze,
    ledger_file,
    pretrained,
    record,
    setup,
    surroundings,
    validate,
)
from meninx.learn.config import LearnConfig, learn_part
from meninx.learn.draw import members
from meninx.learn.ema import averaged
from meninx.learn.journal import Journal
from meninx.learn.result import FitResult
from meninx.learn.setup import Training
from meninx.learn.validate import Score
from meninx.privacy import accounting
from meninx.privacy.composition import joint_phases
from meninx.privacy.plan import Plan

EPSILON_UPDATES = 20


def fit(
    config: LearnConfig,
    data: Manifest,
    run: Run,
    *,
    plan: Plan | None = None,
    progress: Progress = SILENT,
    resume: bool = False,
    data_digest: str = "",
    ancestry: Ancestry | None = None,
    declared_units: int | None = None,
) -> FitResult:
    """Train a model on the training split of ``data`` and return what came out.

    Of several processes (``distributed.joined``) all call this alike and get the same result; process 0 alone
    touches ``run``.
    Writes into it: ``private/checkpoints``, ``private/metrics.jsonl``, with a plan also ``private/keys`` and
    ``private/ledger.jsonl``, and ``privacy.json``. The caller holds ``run.lock()``.

    Args:
        config: settings; a subclass is reduced to its learning part.
        data: all cases; the validation split serves evaluation, the test split is not touched.
        run: the run folder.
        plan: with it every step is a step of that plan; without it nothing is private.
        progress: shows steps, loss and epsilon.
        resume: go on from the last checkpoint; the result is that of an uninterrupted run.
        data_digest: of the dataset's files; bound to every line of a private run's ledger. By default the
            plain one.
        ancestry: what is known of the training behind pretrained weights; nothing by default.
        declared_units: number of privacy units that the user declared; None when the true one counts as
            public.

    Guarantee: with a plan, every step uses exactly the units that ``plan.sampler`` draws, releases only
        ``plan.release`` of their clipped sum, and is in the ledger before the optimiser sees it. What else
        depends on private data is listed in ``outside_guarantee`` of privacy.json.

    Raises:
        UsageError: the run was trained before and ``resume`` is not set.
        Interrupted: the user stopped it; a checkpoint of the last whole step is there. Or another process is
            gone.
        ConfigError, DataError, PrivacyRefusal: settings, data and plan do not fit, or training diverged.
    """
    config, world = learn_part(config), distributed.current()
    begun = world.shared(lambda: checkpoint.path_of(run, "last").is_file() or run.ledger_path.is_file())
    if begun and not resume:
        fix = "give --resume, or another --out"
        raise UsageError(
            expected("a fresh run folder", got="one that was trained before", where=run.name, fix=fix)
        )
    world.shared(lambda: checkpoint.refuse_other_plan(run, plan.fingerprint() if plan else ""))
    world.shared(lambda: _refuse_lost_ledger(run) if plan else None)
    with surroundings.prepared(config) as device, Stop() as stop:
        training = setup.build(config, data, run, device, plan, resumed=begun, data_digest=data_digest)
        _with_provenance(training, ancestry, declared_units)
        checkpoint.restore(run, training.trainee, config=config, plan=training.fingerprint)
        if training.trainee.step == 0:
            validate.probe(training.trainee.model, training.train, training.objective, device)
        with Journal(
            run, training.trainee.step, tensorboard=config.tensorboard, active=world.main
        ) as journal:
            loop = _Loop(training, journal, progress if world.main else SILENT)
            loop.run(stop)
        return loop.result(*world.shared(lambda: _recorded(training)))


def _refuse_lost_ledger(run: Run) -> None:
    """Raise PrivacyRefusal when a private run began before and no ledger lists its steps."""
    if run.ledger_text() and ledger_file.read(run).accounts:  # a torn line alone binds nothing
        return
    state = run.record.state if run.record is not None else RunState.STARTING
    keys = any((run.private / "keys" / f"{name}.key").is_file() for name in ("sampling", "noise"))
    if (
        keys
        or state is not RunState.STARTING
        or checkpoint.path_of(run, "last").is_file()
        or run.ledger_path.is_file()
    ):
        fix = "restore private/ledger.jsonl from a backup, or start a new run"
        raise PrivacyRefusal(
            expected("the ledger of a run that began before", got="none", where=run.name, fix=fix)
        )


def _with_provenance(training: Training, ancestry: Ancestry | None, declared_units: int | None) -> None:
    """Add to a run what its caller knows of the starting weights and of the number of units."""
    training.declared_units = declared_units
    training.ancestry = ancestry or training.ancestry
    plan = training.plan
    if training.start is not None:
        training.start = pretrained.known(training.start, training.ancestry)
        unknown = [record.UNKNOWN_START] if training.ancestry.origin == "unknown" else []
        training.outside[:0] = [*unknown, *training.ancestry.caveats] if plan else []
    if (
        plan
        and declared_units is None
        and plan.n_units_declared == len(members(training.train.manifest, plan.unit))
    ):
        training.outside[:0] = [
            f"the number of training units ({plan.unit}s) counts as public: none was declared"
        ]


class _Loop:
    """Steps, evaluations and checkpoints of one call of :func:`fit`."""

    def __init__(self, training: Training, journal: Journal, progress: Progress) -> None:
        self.training, self.journal, self.progress = training, journal, progress
        self.world = distributed.current()
        self.score = Score(math.nan, math.nan, "")
        self.losses: list[float] = []
        self.train_loss = math.nan
        self._frozen: frozenset[str] | None = None
        self._begun = False
        earlier = pretrained.ledgers(training.ancestry)
        self._before = joint_phases(earlier) if earlier else ()
        self._torn = _torn_lines(training) if self.world.main else 0
        self._whole = True  # no step is under way

    def run(self, stop: Stop) -> None:
        """Do the steps that are left."""
        training, trainee = self.training, self.training.trainee
        left = 0 if trainee.stopped else max(0, training.total_steps - trainee.step)
        with task(self.progress, f"training {training.config.model.name}", left):
            try:
                while trainee.step < training.total_steps and not trainee.stopped:
                    leave = self._step(stop)
                    if trainee.step % training.eval_every == 0 or trainee.step == training.total_steps:
                        self._evaluate()
                    if leave:
                        raise KeyboardInterrupt
            except KeyboardInterrupt as error:
                self._interrupted(error)
            finally:
                if training.plan is not None and training.run.ledger_text():
                    self._begin()  # a step that was accounted was taken
        self._save("last")

    def _step(self, stop: Stop) -> bool:
        """Do one step and return whether to stop after it; several processes stop after the same one."""
        training, trainee, config = self.training, self.training.trainee, self.training.config
        self._freeze()
        rate = trainee.schedule.apply(trainee.optimizer, trainee.step)
        if training.plan is None:
            surroundings.seed_torch(
                config.seed, "step", trainee.step, *([self.world.rank] if self.world.rank else [])
            )
        self._whole = False
        report = training.step(trainee, training.draw(trainee.step), leave=stop.wanted)
        if trainee.average is not None:
            trainee.average.update(trainee.model)
        trainee.step += 1
        self._whole = True
        self._begin()
        shown = {} if training.plan is None else {"epsilon": self._epsilon_ahead()}
        self.journal.write("train", trainee.step, loss=report.loss, lr=rate, units=report.units, **shown)
        if math.isfinite(report.loss):
            self.losses.append(report.loss)
            shown["loss"] = report.loss
        self.progress.advance(1, **shown)
        return report.leave if self.world.size > 1 else stop.wanted

    def _begin(self) -> None:
        """After the first step say that the run is under way; a start that fails before leaves no trace."""
        if self._begun or not self.world.main:
            return
        self._begun, run = True, self.training.run
        record_of = run.record
        if record_of is not None and record_of.state is RunState.STARTING:
            run.point_latest()
            run.update(state=RunState.TRAINING, planned_steps=self.training.total_steps)

    def _freeze(self) -> None:
        """Fix what is frozen in this epoch and put the model into training mode."""
        model = self.training.trainee.model
        frozen = freeze.frozen_names(model, self.training.config, self.training.epoch)
        freeze.apply(model, frozen)
        if frozen != self._frozen:
            distributed.refuse_shared_statistics(model)
        if frozen != self._frozen and (frozen or self._frozen):
            self.progress.note(f"epoch {self.training.epoch}: {_frozen_text(model, frozen)}")
        self._frozen = frozen

    def _evaluate(self) -> None:
        training, trainee, config = self.training, self.training.trainee, self.training.config
        self.train_loss = sum(self.losses) / len(self.losses) if self.losses else math.nan
        self.losses = []
        if len(training.valid):
            self.score = Score(*self.world.shared(lambda: astuple(self._score())))
            named = {self.score.name: self.score.metric}
            self.journal.write("valid", trainee.step, loss=self.score.loss, **named)
            trainee.schedule.observe(self.score.loss)
            if trainee.best.observe(self.score.value(config.monitor), trainee.step):
                self._save("best")
            trainee.stopped = bool(config.early_stopping) and trainee.best.waited >= config.early_stopping
        self._save("last")
        self.world.agree("weights", lambda: distributed.digest(trainee.model))

    def _score(self) -> Score:
        """Return the score of the weights to evaluate."""
        training, trainee = self.training, self.training.trainee
        with averaged(trainee.model, trainee.average):
            return validate.score(
                trainee.model, training.valid, training.objective, training.config, training.device
            )

    def _save(self, name: str) -> None:
        training = self.training
        if not self.world.main:
            return
        checkpoint.save(
            training.run,
            name,
            training.trainee,
            config=training.config,
            info=training.info,
            plan=training.fingerprint,
            anchor=training.step.anchor,
        )

    def _interrupted(self, error: KeyboardInterrupt) -> None:
        """Save what is whole and leave."""
        done = self.training.trainee.step
        if self._whole and (
            done or self.training.plan is None
        ):  # a private run without a step begins anew, with new keys
            self._save("last")
            self._begin()
        if self.world.main:
            _written(self.training, final=False)
        kept = f"state saved after step {done}" if self._whole else "the last checkpoint stays"
        raise Interrupted(
            f"training stopped by the user; {kept}; go on with --resume ({self.training.run.name})"
        ) from error

    def _epsilon_ahead(self) -> float:
        """Return epsilon at the next of a few steps: never below what is spent, and cheap to show."""
        total, plan = self.training.total_steps, self.training.plan
        assert plan is not None
        stride = max(1, total // EPSILON_UPDATES)
        ahead = min(total, math.ceil(self.training.trainee.step / stride) * stride) + self._torn
        return accounting.epsilon([plan.phase(ahead), *self._before], plan.delta, coarse=True).value

    def result(self, name: str, spent: dict[str, Any] | None) -> FitResult:
        """Return the result of the run, whose weights are in the checkpoint ``name``."""
        training, trainee = self.training, self.training.trainee
        return FitResult(
            out=training.run.root,
            steps=trainee.step,
            epochs=training.epoch,
            train_loss=self.train_loss,
            valid_loss=self.score.loss,
            metric_name=self.score.name,
            metric=self.score.metric,
            best_value=trainee.best.value,
            best_step=trainee.best.step,
            weights=f"{name}, ema" if trainee.average else name,
            checkpoint=checkpoint.path_of(training.run, name),
            stopped_early=trainee.stopped,
            private=training.plan is not None,
            privacy=_spent(spent["total"]) if spent else None,
            own_epsilon=spent["own"] if spent else None,
            start=training.start,
            outside_guarantee=tuple(training.outside),
        )


def _recorded(training: Training) -> tuple[str, dict[str, Any] | None]:
    """Write privacy.json and return the checkpoint kept and what was spent, in all and in own steps, as plain values."""
    spent = _written(training, final=True)
    if spent is None:
        return _kept(training), None
    own = spent.epsilon
    if training.ancestry.ledgers:
        own = ledger_file.read(training.run).epsilon(spent.delta)
    return _kept(training), {"total": asdict(spent), "own": own}


def _written(training: Training, *, final: bool) -> PrivacySpent | None:
    """Write privacy.json and how far the run is, and return what was spent."""
    spent = record.write(training, final=final)
    if training.run.record is not None:
        training.run.update(
            selected=_kept(training), step=training.trainee.step, planned_steps=training.total_steps
        )
    return spent


def _spent(table: dict[str, Any]) -> PrivacySpent:
    """Return what was spent from plain values, in which it travels between processes."""
    kinds = {"unit": PrivacyUnit(table["unit"]), "relation": NeighboringRelation(table["relation"])}
    return PrivacySpent(**{**table, **kinds})


def _torn_lines(training: Training) -> int:
    """Return the unfinished lines of the ledger, each of which counts as a step."""
    if training.plan is None:
        return 0
    ledger = ledger_file.read(training.run)
    pending = ledger.pending.count("\n") + 1 if ledger.pending else 0
    return pending + sum(account.torn for account in ledger.accounts)


def _kept(training: Training) -> str:
    """Return the checkpoint whose weights are the run's result."""
    return "best" if training.selects_best and checkpoint.path_of(training.run, "best").is_file() else "last"


def _frozen_text(model: nn.Module, frozen: frozenset[str]) -> str:
    names = [name for name, _ in model.named_parameters()]
    held = ", ".join(
        block.rstrip(".") for block in freeze.blocks(model) if any(name.startswith(block) for name in frozen)
    )
    return f"{len(frozen)} of {len(names)} parameter tensors frozen ({held or 'none'})"
