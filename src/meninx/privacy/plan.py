"""The plan: sampler, clipping, noise and accounted event in one frozen object, so that no wrong mixture can be assembled."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import dp_accounting as dpa

from meninx.core import check
from meninx.core.budget import Clipping, NeighboringRelation, PrivacySpent, PrivacyUnit
from meninx.core.errors import ConfigError, PrivacyRefusal, expected
from meninx.privacy import accounting
from meninx.privacy.accounting import Phase
from meninx.privacy.cyclic import CyclicSampler
from meninx.privacy.rules import check_plan
from meninx.privacy.sampling import PoissonSampler
from meninx.privacy.threshold import COUNT_ADDRESS, Threshold, count_short, gradient_noise, settle

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor, nn

    from meninx.privacy.clipping.planner import Planner
    from meninx.privacy.clipping.result import ClippedSum, PerSampleLoss
    from meninx.privacy.noise import GaussianNoise

_WHY_POISSON = {
    "shuffle": (
        "shuffled or fixed-size batches spend more than the Poisson epsilon says (up to several times)"
    ),
    "weighted": "weighted or balanced sampling gives some units a higher sample rate than the accounted one",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A differentially private training run before it starts: what is drawn, clipped, added and accounted.

    Guarantee:
        If every optimiser step ``t`` in [0, steps) takes its units from ``plan.sampler(key).draw(t)``, all
        cases of a drawn unit (and no other data) enter one :meth:`clipped_sum`, the only use made of the sum
        is ``plan.release(sum, plan.noise(key), t)``, and both keys are secret, then all models of the run
        together are (epsilon, delta)-differentially private for adding or removing one ``unit``. Not covered:
        whatever else is computed from private data (normalisation statistics, class weights, thresholds,
        early stopping, the choice among several runs), the number of units, and bits of floating-point
        rounding.

    ``n_units_declared`` and ``expected_batch_size`` are public constants chosen by the user. They fix the
    sample rate and the denominator, which therefore do not move when a unit is added or removed.

    Attributes:
        unit: what is protected: all data of a patient, or one case.
        relation: neighboring relation; add-or-remove-one is the only one that Poisson sampling accounts for
            here.
        sample_rate: probability q that a unit takes part in a step; equals expected_batch_size /
            n_units_declared.
        steps: optimiser steps planned, >= 1.
        noise_multiplier: noise standard deviation over ``max_grad_norm``, >= 0; 0 gives no privacy and
            epsilon ``inf``. It is what is accounted; with adaptive clipping the gradient's noise is
            ``gradient_noise_multiplier``.
        max_grad_norm: clipping threshold C, the L2 sensitivity of one unit, > 0; with adaptive clipping that
            of the first step.
        delta: in (0, 1 / n_units_declared).
        expected_batch_size: mean number of units a step, the denominator of the released gradient.
        n_units_declared: number of units, as publicly declared.
        sampling: ``"poisson"``; anything else is refused.
        clipping: ``"flat"``: scale by min(1, C / norm); ``"auto-s"``: scale by C / (norm + 0.01);
            ``"per-layer"``: each of L layers to C / sqrt(L); ``"adaptive"``: flat, at a threshold that
            follows a quantile of the norms.
        views: K augmented views of a case, averaged before clipping; they cost no privacy.
        clip_quantile: adaptive: share of units that should be shorter than the threshold, in (0, 1); None for
            0.5.
        clip_rate: adaptive: how fast the threshold follows, > 0; None for 0.2.
        count_noise_multiplier: adaptive: noise of the count over its sensitivity 1/2, > noise_multiplier;
            None for the larger of expected_batch_size / 10 and 4 * noise_multiplier.
        noise_bands: 1 for independent noise; more correlate the noise of so many steps in a row, and
            units then take turns: sampling is cyclic, in as many groups.

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
    clip_quantile: float | None = None
    clip_rate: float | None = None
    count_noise_multiplier: float | None = None
    noise_bands: int = 1

    def __post_init__(self) -> None:
        _refuse_other_sampling(self.sampling)
        check_plan(self)
        for name, value in settle(self).items():
            object.__setattr__(self, name, value)

    @classmethod
    def build(
        cls, *, n_units: int, expected_batch_size: float, unit: PrivacyUnit = PrivacyUnit.PATIENT, **rest: Any
    ) -> Plan:
        """Return a plan whose sample rate follows from the two public constants.

        ``rest`` are the other fields.
        """
        check.positive(n_units=n_units, expected_batch_size=expected_batch_size)
        if expected_batch_size > n_units:
            raise ConfigError(
                expected(f"expected_batch_size <= n_units = {n_units}", got=expected_batch_size, where="Plan")
            )
        rate = expected_batch_size / n_units
        return cls(
            unit=unit,
            sample_rate=rate,
            expected_batch_size=expected_batch_size,
            n_units_declared=n_units,
            **rest,
        )

    # what it costs

    def phase(self, steps: int | None = None) -> Phase:
        """Return the first ``steps`` steps (None: all) as a phase to account.

        With ``noise_bands`` > 1 a round of so many steps counts once, at as many times the sample rate: see
        :class:`~meninx.privacy.correlated.BandedNoise`.
        """
        count = self.steps if steps is None else steps
        rate = min(1.0, self.noise_bands * self.sample_rate)
        return Phase(
            sample_rate=rate, noise_multiplier=self.noise_multiplier, steps=-(-count // self.noise_bands)
        )

    def event(self, steps: int | None = None) -> dpa.DpEvent:
        """Return the first ``steps`` steps (None: all) as a dp-accounting event."""
        return self.phase(steps).event()

    def epsilon(self, steps: int | None = None) -> float:
        """Return epsilon of the first ``steps`` steps (None: all) at the plan's delta.

        ``inf`` without noise.
        """
        return accounting.epsilon([self.phase(steps)], self.delta).value

    def spent(self, steps: int | None = None) -> PrivacySpent:
        """Return what the first ``steps`` steps (None: all) spend, with all that is needed to read the number."""
        cost = accounting.epsilon([self.phase(steps)], self.delta)
        return PrivacySpent(
            epsilon=cost.value,
            delta=self.delta,
            unit=self.unit,
            relation=self.relation,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            sample_rate=self.sample_rate,
            steps=self.steps if steps is None else steps,
            sampler=sampler_name(self.noise_bands),
            accountant=cost.accountant,
            clipping=self.clipping,
        )

    def fingerprint(self) -> str:
        """Return 32 hexadecimal digits that name the mechanism of one step: every field in use but the number of steps."""
        table = {
            item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "steps"
        }
        unused = {"clip_quantile": None, "clip_rate": None, "count_noise_multiplier": None, "noise_bands": 1}
        table = {name: value for name, value in table.items() if name not in unused or value != unused[name]}
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:32]

    # what is run

    @property
    def gradient_noise_multiplier(self) -> float:
        """Noise of the gradient over the threshold in force.

        Above ``noise_multiplier`` by what an adaptive count costs.
        """
        return gradient_noise(self)

    def threshold(self) -> Threshold:
        """Return the threshold of the first step; every other follows by :meth:`next_threshold`."""
        return Threshold(value=self.max_grad_norm)

    def sampler(self, key: bytes, n_units: int | None = None) -> PoissonSampler | CyclicSampler:
        """Return the sampler of the run.

        Args:
            key: 32 secret bytes.
            n_units: units really present; None for the declared number. The sample rate does not depend on
                it.
        """
        present = self.n_units_declared if n_units is None else n_units
        if self.noise_bands > 1:
            return CyclicSampler(
                sample_rate=self.sample_rate, groups=self.noise_bands, n_units=present, key=key
            )
        return PoissonSampler(sample_rate=self.sample_rate, n_units=present, key=key)

    def noise(self, key: bytes) -> GaussianNoise:
        """Return the noise of the run: standard deviation gradient_noise_multiplier * max_grad_norm on the clipped sum."""
        from meninx.privacy.correlated import BandedNoise
        from meninx.privacy.noise import GaussianNoise

        std = self.gradient_noise_multiplier * self.max_grad_norm
        return (
            BandedNoise(key=key, std=std, bands=self.noise_bands)
            if self.noise_bands > 1
            else GaussianNoise(key=key, std=std)
        )

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
        planner: Planner | None = None,
        precision: str = "fp32",
        functional: Collection[str] = (),
        threshold: Threshold | None = None,
        row_keys: Tensor | None = None,
    ) -> ClippedSum:
        """Return the plan's clipped sum of a physical batch.

        See :func:`~meninx.privacy.clipping.engine.clipped_gradient_sum`.

        ``threshold`` is the one in force; it must be given where the plan clips adaptively.
        """
        from meninx.privacy.clipping.engine import clipped_gradient_sum

        adaptive = self.clipping == "adaptive"
        force = self.threshold() if threshold is None and not adaptive else threshold
        if force is None or not (adaptive or force == self.threshold()):
            rule = "the threshold in force with adaptive clipping, and max_grad_norm with any other"
            fix = "begin with plan.threshold() and go on with plan.next_threshold(...)"
            raise ConfigError(
                expected(rule, got=force and force.value, where="Plan.clipped_sum, threshold", fix=fix)
            )
        return clipped_gradient_sum(
            model,
            per_sample_loss,
            inputs,
            targets,
            unit_index=unit_index,
            n_units=n_units,
            max_grad_norm=force.value,
            clipping="flat" if adaptive else self.clipping,
            views=self.views,
            chunk=chunk,
            planner=planner,
            precision=precision,
            functional=functional,
            row_keys=row_keys,
        )

    def release(self, total: ClippedSum, noise: GaussianNoise, step: int) -> dict[str, Tensor]:
        """Return the private gradient of step ``step``: (clipped sum + noise) / expected_batch_size.

        With adaptive clipping the noise is scaled to the threshold in force, ``total.sensitivity``.

        Args:
            total: the sum over all units drawn for the step; over none of them for an empty draw.
            noise: ``self.noise(key)``.
            step: optimiser step, counted from 0; names the noise, so never use one twice for different data.

        Raises:
            PrivacyRefusal: the sum is more sensitive, or the noise smaller or of another kind, than was
                accounted.
        """
        self._refuse_other_noise(noise)
        if self.clipping == "adaptive":
            noise = dataclasses.replace(noise, std=self.gradient_noise_multiplier * total.sensitivity)
        elif total.sensitivity > self.max_grad_norm:
            rule = f"sensitivity <= max_grad_norm = {self.max_grad_norm}"
            raise PrivacyRefusal(expected(rule, got=total.sensitivity, where="Plan.release"))
        return noise.add(total.gradients, step, divisor=self.expected_batch_size)

    def noisy_count(self, total: ClippedSum, noise: GaussianNoise, step: int) -> float:
        """Return the released count of an adaptive step: units within the threshold less half of all, plus its own noise.

        Args:
            total: the sum over all units drawn for the step, of all physical batches and ranks.
            noise: ``self.noise(key)``; the count has an address of its own under the same key.
            step: optimiser step.

        Raises:
            PrivacyRefusal: the plan does not clip adaptively, so no count is accounted; or the noise is
                another's.
        """
        if self.count_noise_multiplier is None:
            raise PrivacyRefusal(
                expected("clipping 'adaptive'", got=repr(self.clipping), where="Plan.noisy_count")
            )
        self._refuse_other_noise(noise)
        own = dataclasses.replace(noise, std=0.5 * self.count_noise_multiplier)
        return count_short(total) + float(own.sample(step, COUNT_ADDRESS, ()))

    def next_threshold(
        self, force: Threshold, total: ClippedSum, noise: GaussianNoise, step: int
    ) -> Threshold:
        """Return the threshold of the step after ``step``.

        The same one where the plan does not clip adaptively.
        """
        if self.clipping != "adaptive":
            return force
        return force.next(self.noisy_count(total, noise, step), self)

    def _refuse_other_noise(self, noise: GaussianNoise) -> None:
        std = self.gradient_noise_multiplier * self.max_grad_norm
        if noise.std != std or getattr(noise, "bands", 1) != self.noise_bands:
            rule = f"noise of standard deviation {std} in {self.noise_bands} bands"
            got = f"{noise.std} in {getattr(noise, 'bands', 1)}"
            raise PrivacyRefusal(
                expected(rule, got=got, where="Plan.release", fix="take the noise from plan.noise(key)")
            )


def sampler_name(noise_bands: int) -> str:
    """Return how a report names the sampling of a plan."""
    return "poisson" if noise_bands == 1 else f"cyclic poisson in {noise_bands} groups"


def _refuse_other_sampling(sampling: str) -> None:
    if sampling != "poisson":
        reason = next(
            (why for word, why in _WHY_POISSON.items() if word in str(sampling)),
            "its privacy cost is not known here",
        )
        raise PrivacyRefusal(
            expected("sampling 'poisson'", got=repr(sampling), where="Plan.sampling", fix=reason)
        )
