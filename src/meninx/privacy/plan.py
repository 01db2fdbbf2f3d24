"""The plan: sampler, clipping, noise and accounted event in one frozen object, so that no wrong mixture can be assembled."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import dp_accounting as dpa

from meninx.core import check
from meninx.core.budget import NeighboringRelation, PrivacySpent, PrivacyUnit
from meninx.core.errors import ConfigError, PrivacyRefusal, expected
from meninx.privacy import accounting
from meninx.privacy.accounting import Phase
from meninx.privacy.sampling import PoissonSampler

if TYPE_CHECKING:
    from torch import Tensor, nn

    from meninx.privacy.clipping.result import ClippedSum, PerSampleLoss
    from meninx.privacy.noise import GaussianNoise

Clipping = Literal["flat", "auto-s"]
_WHY_POISSON = {
    "shuffle": "shuffled or fixed-size batches spend more than the Poisson epsilon says (up to several times)",
    "weighted": "weighted or balanced sampling gives some units a higher sample rate than the accounted one",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A differentially private training run before it starts: what is drawn, clipped, added and accounted.

    Guarantee:
        If every optimiser step ``t`` in [0, steps) takes its units from ``plan.sampler(key).draw(t)``, all
        cases of a drawn unit (and no other data) enter one :meth:`clipped_sum`, the only use made of the sum
        is ``plan.release(sum, plan.noise(key), t)``, and both keys are secret, then all models of the run together are
        (epsilon, delta)-differentially private for adding or removing one ``unit``. Not covered: whatever else
        is computed from private data (normalisation statistics, class weights, thresholds, early stopping,
        the choice among several runs), the number of units, and bits of floating-point rounding.

    ``n_units_declared`` and ``expected_batch_size`` are public constants chosen by the user. They fix the sample
    rate and the denominator, which therefore do not move when a unit is added or removed.

    Attributes:
        unit: what is protected: all data of a patient, or one case.
        relation: neighboring relation; add-or-remove-one is the only one that Poisson sampling accounts for here.
        sample_rate: probability q that a unit takes part in a step; equals expected_batch_size / n_units_declared.
        steps: optimiser steps planned, >= 1.
        noise_multiplier: noise standard deviation over ``max_grad_norm``, >= 0; 0 gives no privacy and epsilon ``inf``.
        max_grad_norm: clipping threshold C, the L2 sensitivity of one unit, > 0.
        delta: in (0, 1 / n_units_declared).
        expected_batch_size: mean number of units a step, the denominator of the released gradient.
        n_units_declared: number of units, as publicly declared.
        sampling: ``"poisson"``; anything else is refused.
        clipping: ``"flat"``: scale by min(1, C / norm); ``"auto-s"``: scale by C / (norm + 0.01).
        views: K augmented views of a case, averaged before clipping; they cost no privacy.

    References:
        Abadi et al. (2016), Deep Learning with Differential Privacy, Algorithm 1.
        De et al. (2022), Unlocking High-Accuracy DP Image Classification through Scale, section 3.2 (views).
        Ponomareva et al. (2023), How to DP-fy ML, section 5.3 (privacy unit, denominator).
    """

    unit: PrivacyUnit
    sample_rate: float
    steps: int
    noise_multiplier: float
    max_grad_norm: float
    delta: float
    expected_batch_size: float
    n_units_declared: int
    relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE
    sampling: Literal["poisson"] = "poisson"
    clipping: Clipping = "flat"
    views: int = 1

    def __post_init__(self) -> None:
        _refuse_other_sampling(self.sampling)
        if self.relation != NeighboringRelation.ADD_OR_REMOVE_ONE:
            why = "replacing a unit doubles the sensitivity of a Poisson-sampled sum, which this accounting does not charge"
            raise PrivacyRefusal(
                expected(f"relation {NeighboringRelation.ADD_OR_REMOVE_ONE}", got=self.relation, where="Plan.relation", fix=why)
            )
        check.one_of(("flat", "auto-s"), clipping=self.clipping)
        check.positive(
            sample_rate=self.sample_rate,
            steps=self.steps,
            max_grad_norm=self.max_grad_norm,
            expected_batch_size=self.expected_batch_size,
            n_units_declared=self.n_units_declared,
            views=self.views,
        )
        check.non_negative(noise_multiplier=self.noise_multiplier)
        check.probability(sample_rate=self.sample_rate)
        check.open_unit(delta=self.delta)
        rate = self.expected_batch_size / self.n_units_declared
        if not math.isclose(rate, self.sample_rate, rel_tol=1e-9):
            rule = f"sample_rate = expected_batch_size / n_units_declared = {rate:.9g}"
            raise ConfigError(expected(rule, got=self.sample_rate, where="Plan.sample_rate", fix="use Plan.build or calibrate"))
        if self.delta * self.n_units_declared >= 1:
            rule = f"delta < 1 / n_units_declared = {1 / self.n_units_declared:.3g}"
            fix = "at such a delta publishing one unit whole would count as private"
            raise PrivacyRefusal(expected(rule, got=self.delta, where="Plan.delta", fix=fix))

    @classmethod
    def build(cls, *, n_units: int, expected_batch_size: float, unit: PrivacyUnit = PrivacyUnit.PATIENT, **rest: Any) -> Plan:
        """Return a plan whose sample rate follows from the two public constants; ``rest`` are the other fields."""
        check.positive(n_units=n_units, expected_batch_size=expected_batch_size)
        if expected_batch_size > n_units:
            raise ConfigError(expected(f"expected_batch_size <= n_units = {n_units}", got=expected_batch_size, where="Plan"))
        rate = expected_batch_size / n_units
        return cls(unit=unit, sample_rate=rate, expected_batch_size=expected_batch_size, n_units_declared=n_units, **rest)

    # what it costs

    def phase(self, steps: int | None = None) -> Phase:
        """Return the first ``steps`` steps (None: all) as a phase to account."""
        count = self.steps if steps is None else steps
        return Phase(sample_rate=self.sample_rate, noise_multiplier=self.noise_multiplier, steps=count)

    def event(self, steps: int | None = None) -> dpa.DpEvent:
        """Return the first ``steps`` steps (None: all) as a dp-accounting event."""
        return self.phase(steps).event()

    def epsilon(self, steps: int | None = None) -> float:
        """Return epsilon of the first ``steps`` steps (None: all) at the plan's delta; ``inf`` without noise."""
        return accounting.epsilon([self.phase(steps)], self.delta).value

    def spent(self, steps: int | None = None) -> PrivacySpent:
        """Return what the first ``steps`` steps (None: all) spend, with all that is needed to read the number."""
        phase = self.phase(steps)
        cost = accounting.epsilon([phase], self.delta)
        return PrivacySpent(
            epsilon=cost.value,
            delta=self.delta,
            unit=self.unit,
            relation=self.relation,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            sample_rate=self.sample_rate,
            steps=phase.steps,
            sampler=self.sampling,
            accountant=cost.accountant,
        )

    def fingerprint(self) -> str:
        """Return 32 hexadecimal digits that name the mechanism of one step: every field but the number of steps."""
        table = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "steps"}
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:32]

    # what is run

    def sampler(self, key: bytes, n_units: int | None = None) -> PoissonSampler:
        """Return the sampler of the run.

        Args:
            key: 32 secret bytes.
            n_units: units really present; None for the declared number. The sample rate does not depend on it.
        """
        present = self.n_units_declared if n_units is None else n_units
        return PoissonSampler(sample_rate=self.sample_rate, n_units=present, key=key)

    def noise(self, key: bytes) -> GaussianNoise:
        """Return the noise of the run: standard deviation noise_multiplier * max_grad_norm on the clipped sum."""
        from meninx.privacy.noise import GaussianNoise

        return GaussianNoise(key=key, std=self.noise_multiplier * self.max_grad_norm)

    def clipped_sum(
        self,
        model: nn.Module,
        per_sample_loss: PerSampleLoss,
        inputs: Tensor,
        targets: Tensor,
        *,
        unit_index: Tensor,
        n_units: int,
        chunk: int | None = None,
    ) -> ClippedSum:
        """Return the plan's clipped sum of a physical batch; see :func:`~meninx.privacy.clipping.engine.clipped_gradient_sum`."""
        from meninx.privacy.clipping.engine import clipped_gradient_sum

        return clipped_gradient_sum(
            model,
            per_sample_loss,
            inputs,
            targets,
            unit_index=unit_index,
            n_units=n_units,
            max_grad_norm=self.max_grad_norm,
            clipping=self.clipping,
            views=self.views,
            chunk=chunk,
        )

    def release(self, total: ClippedSum, noise: GaussianNoise, step: int) -> dict[str, Tensor]:
        """Return the private gradient of step ``step``: (clipped sum + noise) / expected_batch_size.

        Args:
            total: the sum over all units drawn for the step; over none of them for an empty draw.
            noise: ``self.noise(key)``.
            step: optimiser step, counted from 0; names the noise, so never use one twice for different data.

        Raises:
            PrivacyRefusal: the sum is more sensitive, or the noise smaller, than was accounted.
        """
        if total.sensitivity > self.max_grad_norm:
            rule = f"sensitivity <= max_grad_norm = {self.max_grad_norm}"
            raise PrivacyRefusal(expected(rule, got=total.sensitivity, where="Plan.release"))
        if noise.std != self.noise_multiplier * self.max_grad_norm:
            rule = f"noise of standard deviation {self.noise_multiplier * self.max_grad_norm}"
            raise PrivacyRefusal(expected(rule, got=noise.std, where="Plan.release", fix="take the noise from plan.noise(key)"))
        return {name: value / self.expected_batch_size for name, value in noise.add(total.gradients, step).items()}


def _refuse_other_sampling(sampling: str) -> None:
    if sampling != "poisson":
        reason = next((why for word, why in _WHY_POISSON.items() if word in str(sampling)), "its privacy cost is not known here")
        raise PrivacyRefusal(expected("sampling 'poisson'", got=repr(sampling), where="Plan.sampling", fix=reason))
