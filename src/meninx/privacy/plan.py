"""The plan of a private training run: sampling, clipping, noise and the accounted event, built together.

:class:`Plan` is frozen and validates its fields, so sampler, noise and accounting always belong together.
:class:`ClippingThreshold` is the threshold of adaptive clipping, which follows noisy counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import dp_accounting as dpa

from meninx.core import check
from meninx.core.budget import CLIPPINGS, Clipping, NeighboringRelation, PrivacySpent, PrivacyUnit
from meninx.core.errors import ConfigError, PrivacyRefusal, expected
from meninx.privacy import accounting
from meninx.privacy.accounting import Phase
from meninx.privacy.sampling import CyclicSampler, PoissonSampler

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor, nn

    from meninx.privacy.clipping.clipped_sum import ClippedSum, PerSampleLoss
    from meninx.privacy.clipping.planner import Planner
    from meninx.privacy.clipping.point_gradients import PointGradients
    from meninx.privacy.noise import GaussianNoise

_WHY_POISSON = {
    "shuffle": (
        "shuffled or fixed-size batches spend more than the Poisson epsilon says (up to several times)"
    ),
    "weighted": "weighted or balanced sampling gives some units a higher sample rate than the accounted one",
}
# The name under which the count's noise is drawn. No parameter of a torch module can begin with a dot.
_COUNT_ADDRESS = ".clip-count"
_QUANTILE, _RATE = 0.5, 0.2  # defaults of adaptive clipping
# The adaptive threshold stays within this factor of the first one: a long run of noisy counts can neither
# overflow it nor drive it to zero, where every gradient would vanish in the noise.
_FAR = 1e6


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A differentially private training run before it starts: what is sampled, clipped, added and accounted.

    Example::

        >>> plan = Plan.build(n_units=1_000, expected_batch_size=50, delta=1e-5, steps=200,
        ...                   noise_multiplier=1.0, max_grad_norm=1.0)
        >>> round(plan.epsilon(), 2), plan.sample_rate
        (4.77, 0.05)
        >>> plan.spent(steps=100).epsilon < plan.epsilon()
        True

    One step of a run, given ``model``, ``loss`` and a batch::

        units = plan.sampler(sampling_key).draw(step)             # patients of this step
        total = plan.clipped_sum(model, loss, inputs, targets, unit_index=unit_index, n_units=len(units))
        gradients = plan.release(total, plan.noise(noise_key), step)

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
        relation: neighboring relation; only add-or-remove-one is accounted for with Poisson sampling here.
        sample_rate: probability q that a unit takes part in a step; equals expected_batch_size /
            n_units_declared.
        steps: optimiser steps planned, >= 1.
        noise_multiplier: noise standard deviation over ``max_grad_norm``, >= 0; 0 gives no privacy and
            epsilon ``inf``. The accounting uses this number; with adaptive clipping the gradient itself
            receives the larger ``gradient_noise_multiplier``.
        max_grad_norm: clipping threshold C, the L2 sensitivity of one unit, > 0; with adaptive clipping the
            threshold of the first step.
        delta: in (0, 1 / n_units_declared).
        expected_batch_size: mean number of units per step, the denominator of the released gradient.
        n_units_declared: number of units, as publicly declared.
        sampling: ``"poisson"``; anything else is refused.
        clipping: ``"flat"``: scale by min(1, C / norm); ``"auto-s"``: scale by C / (norm + 0.01);
            ``"per-layer"``: each of L layers to C / sqrt(L); ``"adaptive"``: flat, at a threshold that
            follows a quantile of the norms.
        views: K augmented views of a case, averaged before clipping; they cost no privacy.
        clip_quantile: adaptive: share of units that should be shorter than the threshold, in (0, 1); None for
            0.5.
        clip_rate: adaptive: step size of the threshold in logarithms, > 0; None for 0.2.
        count_noise_multiplier: adaptive: noise of the count over its sensitivity 1/2, > noise_multiplier;
            None for the larger of expected_batch_size / 10 and 4 * noise_multiplier.
        noise_bands: 1 for independent noise; b > 1 correlates the noise of b consecutive steps, and sampling
            becomes cyclic over b groups of units.

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
        _check_plan(self)
        for name, value in _adaptive_fields(self).items():
            object.__setattr__(self, name, value)

    @classmethod
    def build(
        cls, *, n_units: int, expected_batch_size: float, unit: PrivacyUnit = PrivacyUnit.PATIENT, **rest: Any
    ) -> Plan:
        """Return a plan whose sample rate follows from the two public constants.

        Args:
            n_units: number of privacy units as publicly declared, >= 1.
            expected_batch_size: mean number of units per step, in (0, n_units].
            unit: what is protected.
            **rest: the other fields.
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

    # cost

    def phase(self, steps: int | None = None) -> Phase:
        """Return the first ``steps`` steps (None: all) as a phase to account.

        With ``noise_bands`` = b > 1 each round of b steps is accounted as one step at b times the sample
        rate: see :class:`~meninx.privacy.noise.BandedNoise`.
        """
        count = self.steps if steps is None else steps
        # A group of units is drawn from once per round, at b times the plan's rate. The division rounds up,
        # so that an unfinished round is charged like a whole one.
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
        """Return what the first ``steps`` steps (None: all) spend, with every quantity epsilon depends on."""
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
        """Return 32 hexadecimal digits of the mechanism of one step: all fields in use except ``steps``."""
        table = {
            item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "steps"
        }
        # Fields with their neutral value are left out, so ledgers written before a field existed keep their
        # fingerprint.
        unused = {"clip_quantile": None, "clip_rate": None, "count_noise_multiplier": None, "noise_bands": 1}
        table = {name: value for name, value in table.items() if name not in unused or value != unused[name]}
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:32]

    # mechanism

    @property
    def gradient_noise_multiplier(self) -> float:
        """Noise standard deviation of the gradient over the threshold in force.

        With adaptive clipping it exceeds ``noise_multiplier``, because the noisy count uses a part of the
        accounted budget.
        """
        return _gradient_noise(self)

    def threshold(self) -> ClippingThreshold:
        """Return the threshold of the first step; :meth:`next_threshold` gives every later one."""
        return ClippingThreshold(value=self.max_grad_norm)

    def sampler(self, key: bytes, n_units: int | None = None) -> PoissonSampler | CyclicSampler:
        """Return the sampler of the run.

        Args:
            key: 32 secret bytes.
            n_units: units actually present; None for the declared number. The sample rate does not depend on
                it, because it would otherwise change when a unit is added or removed.
        """
        present = self.n_units_declared if n_units is None else n_units
        if self.noise_bands > 1:
            return CyclicSampler(
                sample_rate=self.sample_rate, groups=self.noise_bands, n_units=present, key=key
            )
        return PoissonSampler(sample_rate=self.sample_rate, n_units=present, key=key)

    def noise(self, key: bytes) -> GaussianNoise:
        """Return the noise of the clipped sums: std = gradient_noise_multiplier * max_grad_norm."""
        from meninx.privacy.noise import BandedNoise, GaussianNoise

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
        threshold: ClippingThreshold | None = None,
        row_keys: Tensor | None = None,
    ) -> ClippedSum:
        """Return the plan's clipped sum of a physical batch.

        See :func:`~meninx.privacy.clipping.engine.clipped_gradient_sum`.

        ``threshold`` is the one in force; it must be given where the plan clips adaptively.
        """
        from meninx.privacy.clipping.engine import clipped_gradient_sum

        return clipped_gradient_sum(
            model,
            per_sample_loss,
            inputs,
            targets,
            unit_index=unit_index,
            n_units=n_units,
            max_grad_norm=self._threshold_now(threshold).value,
            clipping=self.clipping_function,
            views=self.views,
            chunk=chunk,
            planner=planner,
            precision=precision,
            functional=functional,
            row_keys=row_keys,
        )

    @property
    def clipping_function(self) -> str:
        """How a unit's gradient is scaled to the threshold in force; see ``clip_factors``."""
        return "flat" if self.clipping == "adaptive" else self.clipping

    def clipped_points(
        self,
        model: nn.Module,
        points: PointGradients,
        *,
        n_units: int,
        precision: str = "fp32",
        functional: Collection[str] = (),
        threshold: ClippingThreshold | None = None,
    ) -> ClippedSum:
        """Return the plan's clipped sum of gradients that are given directly, for instance of canaries.

        See :func:`~meninx.privacy.clipping.point_gradients.clipped_point_sum`.
        """
        from meninx.privacy.clipping.point_gradients import clipped_point_sum

        return clipped_point_sum(
            model,
            points,
            n_units=n_units,
            max_grad_norm=self._threshold_now(threshold).value,
            clipping=self.clipping_function,
            precision=precision,
            functional=functional,
        )

    def _threshold_now(self, threshold: ClippingThreshold | None) -> ClippingThreshold:
        """Return the threshold in force.

        Raises:
            ConfigError: an adaptive plan without a threshold, or a plan with a fixed threshold and a
                different one.
        """
        adaptive = self.clipping == "adaptive"
        found = self.threshold() if threshold is None and not adaptive else threshold
        if found is None or not (adaptive or found == self.threshold()):
            rule = "the threshold in force with adaptive clipping, and max_grad_norm with any other"
            fix = "begin with plan.threshold() and go on with plan.next_threshold(...)"
            where = "Plan.clipped_sum, threshold"
            raise ConfigError(expected(rule, got=found and found.value, where=where, fix=fix))
        return found

    def release(self, total: ClippedSum, noise: GaussianNoise, step: int) -> dict[str, Tensor]:
        """Return the private gradient of step ``step``: (clipped sum + noise) / expected_batch_size.

        With adaptive clipping the noise is scaled to the threshold in force, ``total.sensitivity``.

        Args:
            total: the sum over all units drawn for the step; ``ClippedSum.empty`` for an empty draw.
            noise: ``self.noise(key)``.
            step: optimiser step, counted from 0. It selects the noise: releasing two different sums with the
                noise of one step would reveal their difference exactly.

        Raises:
            PrivacyRefusal: the sum is more sensitive than accounted, or the noise is not that of the plan.
        """
        self._refuse_other_noise(noise)
        if self.clipping == "adaptive":
            noise = dataclasses.replace(noise, std=self.gradient_noise_multiplier * total.sensitivity)
        elif total.sensitivity > self.max_grad_norm:
            rule = f"sensitivity <= max_grad_norm = {self.max_grad_norm}"
            raise PrivacyRefusal(expected(rule, got=total.sensitivity, where="Plan.release"))
        # The denominator is the public expected batch size. The number of units that were drawn would depend
        # on whether a unit takes part, and dividing by it would change the sensitivity.
        return noise.add(total.gradients, step, divisor=self.expected_batch_size)

    def noisy_count(self, total: ClippedSum, noise: GaussianNoise, step: int) -> float:
        """Return the released count of an adaptive step: units within the threshold minus half of all, noisy.

        Args:
            total: the sum over all units drawn for the step, of all physical batches and ranks.
            noise: ``self.noise(key)``; the count has an address of its own under the same key.
            step: optimiser step.

        Raises:
            PrivacyRefusal: the plan does not clip adaptively, so no count is accounted; or the noise is not
                that of the plan.
        """
        if self.count_noise_multiplier is None:
            raise PrivacyRefusal(
                expected("clipping 'adaptive'", got=repr(self.clipping), where="Plan.noisy_count")
            )
        self._refuse_other_noise(noise)
        # A unit changes the centred count by at most 1/2, hence the factor.
        own = dataclasses.replace(noise, std=0.5 * self.count_noise_multiplier)
        return count_short(total) + float(own.sample(step, _COUNT_ADDRESS, ()))

    def next_threshold(
        self, threshold_now: ClippingThreshold, total: ClippedSum, noise: GaussianNoise, step: int
    ) -> ClippingThreshold:
        """Return the threshold of the step after ``step``: unchanged unless the plan clips adaptively.

        Args:
            threshold_now: threshold of ``step``.
            total: the sum over all units drawn for the step, of all physical batches and ranks.
            noise: ``self.noise(key)``.
            step: optimiser step.
        """
        if self.clipping != "adaptive":
            return threshold_now
        return threshold_now.next(self.noisy_count(total, noise, step), self)

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


def _check_plan(plan: Plan) -> None:
    """Raise where a field is out of range or does not fit the others.

    Raises:
        ConfigError: a value out of range, or a sample rate that does not follow from the public constants.
        PrivacyRefusal: a relation that is not accounted for, or a delta so large that it protects nobody.
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
        most = max(1, math.floor(1 / plan.sample_rate + 1e-9))
        rule = f"noise_bands <= 1 / sample_rate = {1 / plan.sample_rate:.6g}"
        fix = f"a group must hold an expected batch: give {most} or less, or a smaller batch"
        raise ConfigError(expected(rule, got=plan.noise_bands, where="Plan.noise_bands", fix=fix))


@dataclass(frozen=True, kw_only=True)
class ClippingThreshold:
    """The clipping threshold of one step; :meth:`next` computes the following one from the released count.

    Guarantee: the value depends only on the plan and on the noisy counts of earlier steps, which the
        accounted noise covers. It may be stored, logged and released.

    Attributes:
        value: L2 norm to clip to, > 0.

    References:
        Andrew et al. (2021), Differentially Private Learning with Adaptive Clipping, Algorithm 1.
    """

    value: float

    def __post_init__(self) -> None:
        check.positive(threshold=self.value)

    def next(self, noisy_count: float, plan: Plan) -> ClippingThreshold:
        """Return the threshold of the next step: larger if too few units were within this one.

        Args:
            noisy_count: ``plan.noisy_count(...)`` of this step.
            plan: an adaptive plan; with any other plan the threshold stays.
        """
        if plan.clip_quantile is None or plan.clip_rate is None:
            return self
        # The count was centred by half of the units drawn; dividing by the public expected batch size turns
        # it back into an estimate of the share of units within the threshold, without releasing how many were
        # drawn.
        short = min(1.0, max(0.0, 0.5 + noisy_count / plan.expected_batch_size))
        moved = self.value * math.exp(-plan.clip_rate * (short - plan.clip_quantile))
        return ClippingThreshold(value=min(plan.max_grad_norm * _FAR, max(plan.max_grad_norm / _FAR, moved)))


def _adaptive_fields(plan: Plan) -> dict[str, float | None]:
    """Return the three fields of adaptive clipping, with defaults filled in; all None for other clipping.

    Raises:
        ConfigError: a field out of range, or given although the plan does not clip adaptively.
        PrivacyRefusal: the count alone would spend the whole budget of a step.
    """
    names = ("clip_quantile", "clip_rate", "count_noise_multiplier")
    given: dict[str, float | None] = {name: getattr(plan, name) for name in names}
    if plan.clipping != "adaptive":
        for name, value in given.items():
            if value is not None:
                fix = "leave it out, or choose clipping 'adaptive'"
                raise ConfigError(
                    expected(
                        f"no {name} with clipping {plan.clipping!r}", got=value, where=f"Plan.{name}", fix=fix
                    )
                )
        return given
    quantile = _QUANTILE if plan.clip_quantile is None else plan.clip_quantile
    rate = _RATE if plan.clip_rate is None else plan.clip_rate
    default = max(0.1 * plan.expected_batch_size, 4 * plan.noise_multiplier)
    count = default if plan.count_noise_multiplier is None else plan.count_noise_multiplier
    check.open_unit(clip_quantile=quantile)
    check.positive(clip_rate=rate, count_noise_multiplier=count)
    if count <= plan.noise_multiplier:
        rule = f"count_noise_multiplier > noise_multiplier = {plan.noise_multiplier:g}"
        fix = (
            "at or below it the count alone spends the whole budget; four times it costs 3 % more "
            "noise on the gradient"
        )
        raise PrivacyRefusal(expected(rule, got=count, where="Plan.count_noise_multiplier", fix=fix))
    if plan.noise_bands > 1:
        fix = "noise cannot be carried over to a step with another threshold; choose one of the two"
        raise PrivacyRefusal(
            expected(
                "noise_bands = 1 with clipping 'adaptive'",
                got=plan.noise_bands,
                where="Plan.noise_bands",
                fix=fix,
            )
        )
    return {"clip_quantile": quantile, "clip_rate": rate, "count_noise_multiplier": count}


def _gradient_noise(plan: Plan) -> float:
    """Return the noise multiplier of the gradient: the plan's, increased by the share that the count uses.

    Guarantee:
        Let z be the plan's ``noise_multiplier`` and c its ``count_noise_multiplier``. A unit contributes to a
        step the pair (clipped gradient, bit), with norms of at most C and 1/2. Their noise has the standard
        deviations C * g and c / 2, with 1 / g**2 = 1 / z**2 - 1 / c**2. Scaled by these, the pair is one
        vector in standard normal noise, which a unit moves by at most sqrt(1 / g**2 + 1 / c**2) = 1 / z. So a
        step is one Gaussian mechanism of noise multiplier z on the same Poisson sample, which is the
        accounted event. C depends on earlier releases only, which adaptive composition allows.

    References:
        Andrew et al. (2021), Differentially Private Learning with Adaptive Clipping, Theorem 1.
    """
    if plan.count_noise_multiplier is None:
        return plan.noise_multiplier
    return plan.noise_multiplier / math.sqrt(1 - (plan.noise_multiplier / plan.count_noise_multiplier) ** 2)


def count_short(total: ClippedSum) -> float:
    """Return the number of units whose gradient is within the threshold, minus half of all units present.

    The result is private. Each unit that is present adds +1/2 or -1/2 (-1/2 for one whose gradient was not
    finite) and an absent one adds 0, so the sensitivity is 1/2.
    """
    short = (total.unit_norms[total.present] <= total.sensitivity).sum()
    return float(short) - 0.5 * float(total.present.sum())
