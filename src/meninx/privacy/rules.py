"""What a plan may hold: ranges, and the mixtures that the accounting does not cover."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from meninx.core import check
from meninx.core.budget import CLIPPINGS, NeighboringRelation
from meninx.core.errors import ConfigError, PrivacyRefusal, expected

if TYPE_CHECKING:
    from meninx.privacy.plan import Plan


def check_plan(plan: Plan) -> None:
    """Raise where a field is out of range or does not fit the others.

    Raises:
        ConfigError: a value out of range, or a sample rate that does not follow from the public constants.
        PrivacyRefusal: a relation or a delta that would make the statement worthless.
    """
    if plan.relation != NeighboringRelation.ADD_OR_REMOVE_ONE:
        why = (
            "replacing a unit doubles the sensitivity of a Poisson-sampled sum, which this accounting "
            "does not charge"
        )
        raise PrivacyRefusal(
            expected(
                f"relation {NeighboringRelation.ADD_OR_REMOVE_ONE}",
                got=plan.relation,
                where="Plan.relation",
                fix=why,
            )
        )
    check.one_of(CLIPPINGS, clipping=plan.clipping)
    check.positive(
        sample_rate=plan.sample_rate,
        steps=plan.steps,
        max_grad_norm=plan.max_grad_norm,
        expected_batch_size=plan.expected_batch_size,
        n_units_declared=plan.n_units_declared,
        views=plan.views,
        noise_bands=plan.noise_bands,
    )
    check.non_negative(noise_multiplier=plan.noise_multiplier)
    check.probability(sample_rate=plan.sample_rate)
    check.open_unit(delta=plan.delta)
    _check_rate(plan)
    if plan.delta * plan.n_units_declared >= 1:
        rule = f"delta < 1 / n_units_declared = {1 / plan.n_units_declared:.3g}"
        fix = "at such a delta publishing one unit whole would count as private"
        raise PrivacyRefusal(expected(rule, got=plan.delta, where="Plan.delta", fix=fix))


def _check_rate(plan: Plan) -> None:
    rate = plan.expected_batch_size / plan.n_units_declared
    if not math.isclose(rate, plan.sample_rate, rel_tol=1e-9):
        rule = f"sample_rate = expected_batch_size / n_units_declared = {rate:.9g}"
        raise ConfigError(
            expected(rule, got=plan.sample_rate, where="Plan.sample_rate", fix="use Plan.build or calibrate")
        )
    if plan.noise_bands * plan.sample_rate > 1 + 1e-9:
        rule, fix = (
            f"noise_bands <= 1 / sample_rate = {1 / plan.sample_rate:.6g}",
            "a group must hold an expected batch",
        )
        raise ConfigError(expected(rule, got=plan.noise_bands, where="Plan.noise_bands", fix=fix))
