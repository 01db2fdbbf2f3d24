"""privacy.json (the guarantee of a run, its cost and what it does not cover), and the end of a finished run.

Every epsilon is read from the ledger. The trainer and a user's own loop write the same records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meninx.core import artifacts, files, integrity
from meninx.core.artifacts import Origin, PrivacyRecord, RiskRecord, RunRecord, RunState, StartRecord
from meninx.core.budget import PrivacySpent
from meninx.core.result import Result
from meninx.core.run import Run
from meninx.learn import checkpoint, finetune, ledger_file
from meninx.learn.assemble import Training
from meninx.privacy.composition import compose, joint_phases
from meninx.privacy.ledger import Ledger
from meninx.privacy.plan import Plan
from meninx.privacy.risk import attack_risk


@dataclass(frozen=True, kw_only=True)
class FitResult(Result):
    """The end of a training run; ``out`` is the run folder.

    Attributes:
        steps: optimiser steps done.
        epochs: complete passes over the training split.
        train_loss: mean training loss since the last evaluation; NaN if unknown.
        valid_loss: loss of the last evaluation on the validation split; NaN without one.
        metric_name: ``auroc`` or ``dice``.
        metric: validation metric of the last evaluation; NaN if undefined.
        best_value: best monitored value, higher is better; minus infinity without an evaluation.
        best_step: step of that evaluation.
        weights: the resulting weights: ``last`` or ``best``, with ``ema`` if averaged.
        checkpoint: the file that holds them.
        stopped_early: whether early stopping ended the run.
        private: whether the run used differential privacy.
        privacy: what was spent according to the ledger, including private runs behind the starting weights;
            None without privacy.
        own_epsilon: epsilon of the run's own steps; None without privacy.
        start: record of the starting weights; None for random weights.
        outside_guarantee: what the guarantee does not cover, in words.
    """

    steps: int
    epochs: int
    train_loss: float
    valid_loss: float
    metric_name: str
    metric: float
    best_value: float
    best_step: int
    weights: str
    checkpoint: Path
    stopped_early: bool
    private: bool
    privacy: PrivacySpent | None
    own_epsilon: float | None
    start: StartRecord | None
    outside_guarantee: tuple[str, ...]

    @property
    def epsilon(self) -> float:
        """Spent epsilon; infinity without privacy."""
        return self.privacy.epsilon if self.privacy else math.inf

    @property
    def delta(self) -> float:
        """The delta that epsilon is stated at; 0 without privacy."""
        return self.privacy.delta if self.privacy else 0.0


NOT_PRIVATE = "Trained without differential privacy: nothing is promised."


def write(training: Training, *, final: bool) -> PrivacySpent | None:
    """Write ``privacy.json`` and return what was spent, None without privacy or before the first step.

    Args:
        training: the run.
        final: whether the run is over; bounds on attacks, which take seconds, are computed only then.
    """
    record = training.run.record
    origin = None
    if record is not None:
        origin = Origin(
            run=record.id,
            data=record.data,
            dataset=record.dataset,
            step=training.state.step,
            made=artifacts.now(),
        )
    table = PrivacyRecord(
        private=training.plan is not None,
        sentence=NOT_PRIVATE,
        outside_guarantee=tuple(training.caveats),
        start=training.start or StartRecord(),
        deterministic=training.config.runtime.deterministic,
        origin=origin,
        version=artifacts.FORMAT,
    )
    ledger = ledger_file.read(training.run) if training.plan is not None else Ledger()
    spent = None
    if training.plan is not None and ledger.accounts:
        spent = total(ledger, finetune.ledgers(training.ancestry), training.plan.delta)
        table = promise(
            table,
            training.plan,
            ledger,
            spent,
            declared_units=training.declared_units,
            patients_known=training.info.patients_known,
            composed=bool(training.ancestry.ledgers),
        )
        if final and training.config.runtime.attack_risk and math.isfinite(spent.epsilon):
            table = replace(table, risk=risk(training.plan, [ledger, *finetune.ledgers(training.ancestry)]))
    artifacts.write(training.run.root, table)
    return spent


def total(ledger: Ledger, earlier: Sequence[Ledger], delta: float) -> PrivacySpent:
    """Return what a run and the private runs behind its starting weights spent together.

    Epsilon and accountant are those of all runs; the other fields describe the run's own steps.

    Raises:
        PrivacyRefusal: the ledgers protect different units, or share their keys.
    """
    own = ledger.spent(delta)
    if not earlier:
        return own
    joint = compose([ledger, *earlier], delta=delta)
    return replace(own, epsilon=joint.epsilon, accountant=joint.accountant)


def promise(
    table: PrivacyRecord,
    plan: Plan,
    ledger: Ledger,
    spent: PrivacySpent,
    *,
    declared_units: int | None,
    patients_known: bool = True,
    composed: bool = False,
) -> PrivacyRecord:
    """Return a record with the guarantee of a private run according to its ledger.

    Args:
        table: the record without the guarantee.
        plan: of the run.
        ledger: of the run, with at least one step.
        spent: what the run spent together with the private runs behind its starting weights.
        declared_units: number of units that the user declared; None when the true one counts as public.
        patients_known: whether the source names its patients; otherwise each image counts as a patient.
        composed: whether private runs behind the starting weights are part of ``spent``.
    """
    own = ledger.spent(plan.delta)
    noisy = math.isfinite(spent.epsilon)
    at_start = f", the private training behind its starting weights included (own steps: {own.epsilon:.3g})"
    return replace(
        table,
        epsilon=spent.epsilon if noisy else None,
        own_epsilon=own.epsilon if math.isfinite(own.epsilon) else None,
        delta=spent.delta,
        unit=str(spent.unit),
        relation=str(spent.relation),
        noise_multiplier=spent.noise_multiplier,
        max_grad_norm=spent.max_grad_norm,
        sample_rate=spent.sample_rate,
        steps=spent.steps,
        planned_steps=plan.steps,
        sampler=spent.sampler,
        accountant=spent.accountant,
        clipping=spent.clipping,
        expected_batch_size=plan.expected_batch_size,
        declared_units=declared_units,
        sentence=f"{spent.summary(patients_known=patients_known)}{at_start if composed else ''}."
        if noisy
        else NOT_PRIVATE,
        ledger=ledger.anchor,
    )


def risk(plan: Plan, ledgers: Sequence[Ledger]) -> RiskRecord:
    """Return the proven bounds on attacks for the joint cost of several ledgers."""
    bounds = attack_risk(joint_phases(ledgers), prior=1 / plan.n_units_declared)
    return RiskRecord(
        advantage=bounds.advantage,
        tpr_at_fpr={f"{rate:g}": value for rate, value in bounds.tpr_at_fpr.items()},
        prior=bounds.prior,
        reconstruction=bounds.reconstruction,
    )


def close(run: Run, origin: Origin, *, released_step: int) -> RunRecord:
    """Close a run whose ``release/`` is complete, and return its record.

    First ``privacy.json`` gets the origin of the released weights, then ``run.json`` the digests of all files
    of the finished run and the state ``released``. A run that is killed in between is not released.

    Args:
        run: the run folder.
        origin: run, data, weights and last step.
        released_step: optimiser step of the released weights; for ``best`` it may be an earlier one.

    Raises:
        DataError: a record is missing.
        StorageError: the disk refused.
    """
    promised = artifacts.require(run.root, PrivacyRecord, fix="resume the run")
    path = artifacts.write(run.root, replace(promised, origin=origin))
    kept = (checkpoint.path_of(run, name) for name in ("last", "best"))
    return run.update(
        state=RunState.RELEASED,
        weights=origin.weights,
        released_step=released_step,
        privacy=files.digest(path),
        release=integrity.digest_of(run.release),
        release_next="",
        checkpoints={path.name: files.digest(path) for path in sorted(kept) if path.is_file()},
        log=files.digest(run.metrics_path) if run.metrics_path.is_file() else "",
        config=run.config_digest,
        finished=artifacts.now(),
    )
