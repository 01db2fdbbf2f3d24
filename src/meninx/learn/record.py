"""privacy.json: what a run promises, spent and leaves outside.

Every epsilon in it is read from the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meninx.core import artifacts
from meninx.core.artifacts import Origin, PrivacyRecord, RiskRecord, StartRecord
from meninx.core.budget import PrivacySpent
from meninx.core.result import Result
from meninx.learn import finetune, ledger_file
from meninx.learn.assemble import Training
from meninx.privacy import tradeoff
from meninx.privacy.composition import compose, joint_phases
from meninx.privacy.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class FitResult(Result):
    """The end of a training run; ``out`` is the run folder.

    Attributes:
        steps: optimiser steps done.
        epochs: passes over the training split, whole ones.
        train_loss: mean training loss since the last evaluation; NaN when unknown.
        valid_loss: loss of the last evaluation on the validation split; NaN without one.
        metric_name: ``auroc`` or ``dice``.
        metric: validation metric of the last evaluation; NaN when undefined.
        best_value: best monitored value, higher is better; minus infinity without an evaluation.
        best_step: step of that evaluation.
        weights: which weights are kept: ``last``, ``best``, with ``ema`` when averaged.
        checkpoint: the file that holds them.
        stopped_early: ended by early stopping.
        private: trained with differential privacy.
        privacy: what was spent, read from the ledger, private runs behind the starting weights included; None
            without privacy.
        own_epsilon: epsilon of the run's own steps; None without privacy.
        start: what the network started from; None for random weights.
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
        final: the run is over, so bounds on attacks are worth their seconds.
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
        table = _promise(table, training, ledger, spent)
        if final and training.config.runtime.attack_risk and math.isfinite(spent.epsilon):
            table = replace(table, risk=_risk(training, ledger))
    artifacts.write(training.run.root, table)
    return spent


def total(ledger: Ledger, earlier: Sequence[Ledger], delta: float) -> PrivacySpent:
    """Return what a run spent together with earlier private runs that share patients with it.

    The earlier runs are those behind its starting weights.

    The other fields are those of the run's own steps.

    Raises:
        PrivacyRefusal: the ledgers protect different units, or share their keys.
    """
    own = ledger.spent(delta)
    if not earlier:
        return own
    joint = compose([ledger, *earlier], delta=delta)
    return replace(own, epsilon=joint.epsilon, accountant=joint.accountant)


def _promise(table: PrivacyRecord, training: Training, ledger: Ledger, spent: PrivacySpent) -> PrivacyRecord:
    plan = training.plan
    assert plan is not None
    own = ledger.spent(plan.delta)
    noisy = math.isfinite(spent.epsilon)
    at_start = f", the private training behind its starting weights included (own steps: {own.epsilon:.3g})"
    composed = at_start if training.ancestry.ledgers else ""
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
        declared_units=training.declared_units,
        sentence=f"{spent.summary(patients_known=training.info.patients_known)}{composed}."
        if noisy
        else NOT_PRIVATE,
        ledger=ledger.anchor,
    )


def _risk(training: Training, ledger: Ledger) -> RiskRecord:
    assert training.plan is not None
    phases = joint_phases([ledger, *finetune.ledgers(training.ancestry)])
    bounds = tradeoff.attack_risk(phases, prior=1 / training.plan.n_units_declared)
    return RiskRecord(
        advantage=bounds.advantage,
        tpr_at_fpr={f"{rate:g}": value for rate, value in bounds.tpr_at_fpr.items()},
        prior=bounds.prior,
        reconstruction=bounds.reconstruction,
    )
