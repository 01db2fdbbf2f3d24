"""The one training loop: the same for private and plain runs, resumable, stoppable between any two steps."""

from __future__ import annotations

import math
from dataclasses import astuple

from torch import nn

from meninx.core.errors import Interrupted, UsageError, expected
from meninx.core.manifest import Manifest
from meninx.core.progress import SILENT, Progress, task
from meninx.core.run import Run
from meninx.learn import checkpoint, distributed, freeze, record, setup, surroundings, validate
from meninx.learn.config import LearnConfig, learn_part
from meninx.learn.ema import averaged
from meninx.learn.journal import Journal
from meninx.learn.result import FitResult
from meninx.learn.setup import Training
from meninx.learn.validate import Score
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
) -> FitResult:
    """Train a model on the training split of ``data`` and return what came out.

    Of several processes (``distributed.joined``) all call this alike and get the same result; process 0 alone touches ``run``.
    Writes into it: ``private/checkpoints``, ``private/metrics.jsonl``, with a plan also ``private/keys`` and
    ``private/ledger.jsonl``, and ``privacy.json``. The caller holds ``run.lock()``.

    Args:
        config: settings; a subclass is reduced to its learning part.
        data: all cases; the validation split serves evaluation, the test split is not touched.
        run: the run folder.
        plan: with it every step is a step of that plan; without it nothing is private.
        progress: shows steps, loss and epsilon.
        resume: go on from the last checkpoint; the result is that of an uninterrupted run.
        data_digest: of the dataset's files; bound to every line of a private run's ledger. Empty for one of the cases.

    Guarantee: with a plan, every step uses exactly the units that ``plan.sampler`` draws, releases only
        ``plan.release`` of their clipped sum, and is in the ledger before the optimiser sees it. What else
        depends on private data is listed in ``outside_guarantee`` of privacy.json.

    Raises:
        UsageError: the run was trained before and ``resume`` is not set.
        Interrupted: the user stopped it; a checkpoint of the last whole step is there. Or another process is gone.
        ConfigError, DataError, PrivacyRefusal: settings, data and plan do not fit, or training diverged.
    """
    config, world = learn_part(config), distributed.current()
    begun = world.shared(lambda: checkpoint.path_of(run, "last").is_file() or run.ledger_path.is_file())
    if begun and not resume:
        fix = "give --resume, or another --out"
        raise UsageError(expected("a fresh run folder", got="one that was trained before", where=run.name, fix=fix))
    world.shared(lambda: checkpoint.refuse_other_plan(run, plan.fingerprint() if plan else ""))
    with surroundings.prepared(config) as device, surroundings.interrupts() as stop:
        training = setup.build(config, data, run, device, plan, resumed=begun, data_digest=data_digest)
        checkpoint.restore(run, training.trainee, config=config, plan=training.fingerprint)
        with Journal(run, training.trainee.step, tensorboard=config.tensorboard, active=world.main) as journal:
            loop = _Loop(training, journal, progress if world.main else SILENT)
            loop.run(stop)
        return loop.result(*world.shared(lambda: _recorded(training)))


class _Loop:
    """Steps, evaluations and checkpoints of one call of :func:`fit`."""

    def __init__(self, training: Training, journal: Journal, progress: Progress) -> None:
        self.training, self.journal, self.progress = training, journal, progress
        self.world = distributed.current()
        self.score = Score(math.nan, math.nan, "")
        self.losses: list[float] = []
        self.train_loss = math.nan
        self._frozen: frozenset[str] | None = None
        self._whole = True  # no step is under way

    def run(self, stop: surroundings.Stop) -> None:
        """Do the steps that are left."""
        training, trainee = self.training, self.training.trainee
        left = 0 if trainee.stopped else max(0, training.total_steps - trainee.step)
        with task(self.progress, f"training {training.config.model}", left):
            try:
                while trainee.step < training.total_steps and not trainee.stopped:
                    leave = self._step(stop)
                    if trainee.step % training.eval_every == 0 or trainee.step == training.total_steps:
                        self._evaluate()
                    if leave:
                        raise KeyboardInterrupt
            except KeyboardInterrupt as error:
                self._interrupted(error)
        self._save("last")

    def _step(self, stop: surroundings.Stop) -> bool:
        """Do one step and return whether to stop after it; several processes stop after the same one."""
        training, trainee, config = self.training, self.training.trainee, self.training.config
        self._freeze()
        rate = trainee.schedule.apply(trainee.optimizer, trainee.step)
        if training.plan is None:
            surroundings.seed_torch(config.seed, "step", trainee.step, *([self.world.rank] if self.world.rank else []))
        self._whole = False
        report = training.step(trainee, training.draw(trainee.step), leave=stop.asked)
        if trainee.average is not None:
            trainee.average.update(trainee.model)
        trainee.step += 1
        self._whole = True
        shown = {} if training.plan is None else {"epsilon": self._epsilon_ahead()}
        self.journal.write("train", trainee.step, loss=report.loss, lr=rate, units=report.units, **shown)
        if math.isfinite(report.loss):
            self.losses.append(report.loss)
            shown["loss"] = report.loss
        self.progress.advance(1, **shown)
        return report.leave if self.world.size > 1 else stop.asked

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
            return validate.score(trainee.model, training.valid, training.objective, training.config, training.device)

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
        if self._whole:
            self._save("last")
        if self.world.main:
            record.write(self.training, weights=_kept(self.training), final=False)
        kept = f"state saved after step {done}" if self._whole else "the last checkpoint stays"
        raise Interrupted(f"training stopped by the user; {kept}; go on with --resume ({self.training.run.name})") from error

    def _epsilon_ahead(self) -> float:
        """Return epsilon at the next of a few steps: never below what is spent, and cheap to show."""
        total = self.training.total_steps
        stride = max(1, total // EPSILON_UPDATES)
        return self.training.step.epsilon(min(total, math.ceil(self.training.trainee.step / stride) * stride))

    def result(self, name: str, epsilon: float) -> FitResult:
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
            epsilon=epsilon,
            delta=training.plan.delta if training.plan else 0.0,
            outside_guarantee=tuple(training.outside),
        )


def _recorded(training: Training) -> tuple[str, float]:
    """Write privacy.json and return the checkpoint kept and the epsilon spent."""
    name = _kept(training)
    spent = record.write(training, weights=name, final=True)
    return name, spent.epsilon if spent else math.inf


def _kept(training: Training) -> str:
    """Return the checkpoint whose weights are the run's result."""
    return "best" if training.selects_best and checkpoint.path_of(training.run, "best").is_file() else "last"


def _frozen_text(model: nn.Module, frozen: frozenset[str]) -> str:
    names = [name for name, _ in model.named_parameters()]
    held = ", ".join(block.rstrip(".") for block in freeze.blocks(model) if any(name.startswith(block) for name in frozen))
    return f"{len(frozen)} of {len(names)} parameter tensors frozen ({held or 'none'})"
