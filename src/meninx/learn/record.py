"""privacy.json: what a run promises, spent and leaves outside, in one flat table for the report and the model card."""

from __future__ import annotations

import math
from typing import Any

from meninx.core.budget import PrivacySpent
from meninx.learn import ledger_file
from meninx.learn.setup import Training
from meninx.privacy import accounting, tradeoff
from meninx.privacy.plan import Plan

CURVE_POINTS = 20
NOT_PRIVATE = "Trained without differential privacy: nothing is promised."


def write(training: Training, *, weights: str, final: bool) -> PrivacySpent | None:
    """Write ``privacy.json`` and return what was spent, None without privacy or before the first step.

    Keys: ``epsilon`` (null without privacy or without noise) and the other fields of PrivacySpent,
    ``expected_batch_size``, ``planned_steps``, ``sentence``, ``curve`` of (step, upper bound of epsilon), ``risk``
    when final and asked for, ``weights``, ``outside_guarantee``, ``pretrained``, ``deterministic``.

    Args:
        training: the run.
        weights: checkpoint whose weights are the result, ``last`` or ``best``.
        final: the run is over, so bounds on attacks are worth their seconds.
    """
    spent = _spent(training)
    table: dict[str, Any] = {
        "private": training.plan is not None,
        "epsilon": None,
        "sentence": NOT_PRIVATE,
        "weights": weights,
        "outside_guarantee": training.outside,
        "pretrained": training.start.to_table() if training.start else None,
        "deterministic": training.config.deterministic,
    }
    if training.plan is not None and spent is not None:
        table |= _promise(training.plan, spent)
        if final and training.config.attack_risk and math.isfinite(spent.epsilon):
            table["risk"] = _risk(training.plan, training)
    training.run.write_json("privacy.json", table)
    return spent


def _spent(training: Training) -> PrivacySpent | None:
    """Return what the ledger says, not what the plan hoped."""
    if training.plan is None:
        return None
    ledger = ledger_file.read(training.run)
    return ledger.spent(training.plan.delta) if ledger.accounts else None


def _promise(plan: Plan, spent: PrivacySpent) -> dict[str, Any]:
    stride = max(1, -(-spent.steps // CURVE_POINTS))
    points = [*range(stride, spent.steps, stride), spent.steps]
    bounds = [accounting.epsilon([plan.phase(step)], plan.delta, coarse=True).value for step in points[:-1]]
    noisy = math.isfinite(spent.epsilon)
    return {
        "epsilon": spent.epsilon if noisy else None,
        "delta": spent.delta,
        "unit": str(spent.unit),
        "relation": str(spent.relation),
        "noise_multiplier": spent.noise_multiplier,
        "max_grad_norm": spent.max_grad_norm,
        "sample_rate": spent.sample_rate,
        "steps": spent.steps,
        "sampler": spent.sampler,
        "accountant": spent.accountant,
        "clipping": spent.clipping,
        "expected_batch_size": plan.expected_batch_size,
        "planned_steps": plan.steps,
        "sentence": f"{spent.summary()}." if noisy else NOT_PRIVATE,
        "curve": [[step, min(bound, spent.epsilon)] for step, bound in zip(points, [*bounds, spent.epsilon], strict=True)]
        if noisy
        else [],
    }


def _risk(plan: Plan, training: Training) -> dict[str, Any]:
    bounds = tradeoff.attack_risk(ledger_file.read(training.run).phases(), prior=1 / plan.n_units_declared)
    return {
        "advantage": bounds.advantage,
        "tpr_at_fpr": {f"{rate:g}": value for rate, value in bounds.tpr_at_fpr.items()},
        "prior": bounds.prior,
        "reconstruction": bounds.reconstruction,
    }
