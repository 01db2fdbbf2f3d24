"""privacy.json: what a run promises, spent and leaves outside.

Every epsilon in it is read from the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from meninx.core import artifacts
from meninx.core.artifacts import Origin, PrivacyRecord, RiskRecord, StartRecord
from meninx.core.budget import PrivacySpent
from meninx.learn import ledger_file, pretrained
from meninx.learn.setup import Training
from meninx.privacy import tradeoff
from meninx.privacy.composition import compose, joint_phases
from meninx.privacy.ledger import Ledger

NOT_PRIVATE = "Trained without differential privacy: nothing is promised."
UNKNOWN_START = (
    "the training started from weights of unknown origin: what they hold of the patients is not covered"
)


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
            step=training.trainee.step,
            made=artifacts.now(),
        )
    table = PrivacyRecord(
        private=training.plan is not None,
        sentence=NOT_PRIVATE,
        outside_guarantee=tuple(training.outside),
        start=training.start or StartRecord(),
        deterministic=training.config.deterministic,
        origin=origin,
        version=artifacts.FORMAT,
    )
    ledger = ledger_file.read(training.run) if training.plan is not None else Ledger()
    spent = None
    if training.plan is not None and ledger.accounts:
        spent = total(ledger, pretrained.ledgers(training.ancestry), training.plan.delta)
        table = _promise(table, training, ledger, spent)
        if final and training.config.attack_risk and math.isfinite(spent.epsilon):
            table = replace(table, risk=_risk(training, ledger))
    artifacts.write(training.run.root, table)
    return spent


def total(ledger: Ledger, earlier: Sequence[Ledger], delta: float) -> PrivacySpent:
    """Return what a run spent, together with the private runs behind its starting weights that share patients with it.

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
        sentence=f"{spent.summary()}{composed}." if noisy else NOT_PRIVATE,
        ledger=ledger.anchor,
    )


def _risk(training: Training, ledger: Ledger) -> RiskRecord:
    assert training.plan is not None
    phases = joint_phases([ledger, *pretrained.ledgers(training.ancestry)])
    bounds = tradeoff.attack_risk(phases, prior=1 / training.plan.n_units_declared)
    return RiskRecord(
        advantage=bounds.advantage,
        tpr_at_fpr={f"{rate:g}": value for rate, value in bounds.tpr_at_fpr.items()},
        prior=bounds.prior,
        reconstruction=bounds.reconstruction,
    )
