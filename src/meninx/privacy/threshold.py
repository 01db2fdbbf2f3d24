"""The clipping threshold of an adaptive plan: moved by noisy counts alone, so it is as public as they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meninx.core import check
from meninx.core.errors import ConfigError, PrivacyRefusal, expected

if TYPE_CHECKING:
    from meninx.privacy.clipping.result import ClippedSum
    from meninx.privacy.plan import Plan

COUNT_ADDRESS = ".clip-count"  # of the count's noise; no parameter of a torch module can have a name that begins with a dot
_QUANTILE, _RATE = 0.5, 0.2
_FAR = 1e6  # the threshold stays within this factor of the first one


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The threshold in force at a step: clip to it, then replace it by :meth:`next` of the released count.

    Guarantee: the value follows from the plan and the noisy counts of the steps before, which the accounted
        noise covers. It may be stored, logged and released.

    Attributes:
        value: L2 norm to clip to, > 0.

    References:
        Andrew et al. (2021), Differentially Private Learning with Adaptive Clipping, Algorithm 1.
    """

    value: float

    def __post_init__(self) -> None:
        check.positive(threshold=self.value)

    def next(self, noisy_count: float, plan: Plan) -> Threshold:
        """Return the threshold of the next step: larger where fewer units than the quantile were short enough.

        Args:
            noisy_count: ``plan.noisy_count(...)`` of this step.
            plan: an adaptive plan; of any other the threshold stays.
        """
        if plan.clip_quantile is None or plan.clip_rate is None:
            return self
        short = min(1.0, max(0.0, 0.5 + noisy_count / plan.expected_batch_size))
        moved = self.value * math.exp(-plan.clip_rate * (short - plan.clip_quantile))
        return Threshold(value=min(plan.max_grad_norm * _FAR, max(plan.max_grad_norm / _FAR, moved)))


def settle(plan: Plan) -> dict[str, float | None]:
    """Return the three fields of a plan's adaptive clipping, defaults filled in; all None for other clipping.

    Raises:
        ConfigError: a field out of range, or given although the plan does not clip adaptively.
        PrivacyRefusal: the count alone would spend all the noise.
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


def gradient_noise(plan: Plan) -> float:
    """Return the noise multiplier of the gradient: that of the plan, raised by what the count spends.

    Guarantee:
        Let z be the plan's ``noise_multiplier`` and c its ``count_noise_multiplier``. A unit's contribution
        to a step is the pair (clipped gradient, bit): norms at most C and 1/2, whatever the unit. Divided by
        their noise, C * g and c / 2 with 1 / g**2 = 1 / z**2 - 1 / c**2, both together are one vector in
        standard normal noise that a unit moves by at most sqrt(1 / g**2 + 1 / c**2) = 1 / z. So a step is one
        Gaussian mechanism of noise multiplier z on the same Poisson sample, which is the accounted event; C
        is fixed by earlier releases, which adaptive composition allows.

    References:
        Andrew et al. (2021), Differentially Private Learning with Adaptive Clipping, Theorem 1.
    """
    if plan.count_noise_multiplier is None:
        return plan.noise_multiplier
    return plan.noise_multiplier / math.sqrt(1 - (plan.noise_multiplier / plan.count_noise_multiplier) ** 2)


def count_short(total: ClippedSum) -> float:
    """Return the number of units no longer than the threshold minus half of all units present. Private.

    Every unit counts +1/2 or -1/2 (also one that was dropped as not finite), an absent one 0: the sensitivity
    is 1/2.
    """
    short = (total.unit_norms[total.present] <= total.sensitivity).sum()
    return float(short) - 0.5 * float(total.present.sum())
