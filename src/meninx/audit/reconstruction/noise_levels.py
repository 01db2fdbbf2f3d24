"""Noise levels to attack: noise multipliers, and those of epsilons under the sampling and length of a run."""

from __future__ import annotations

from collections.abc import Iterable

from meninx.audit.reconstruction.candidates import NoiseLevel
from meninx.privacy.noise_calibration import solve_noise
from meninx.privacy.plan import Plan

NO_NOISE = NoiseLevel(name="non-private", noise_multiplier=0.0)


def of_noise_multipliers(values: Iterable[float]) -> tuple[NoiseLevel, ...]:
    """Return one level for each noise multiplier; 0 is ``non-private``."""
    return tuple(
        NoiseLevel(name=f"sigma {value:g}", noise_multiplier=value) if value else NO_NOISE for value in values
    )


def of_epsilons(plan: Plan, values: Iterable[float], *, one_step: bool = False) -> tuple[NoiseLevel, ...]:
    """Return the noise with which a training like ``plan`` spends each epsilon.

    A single step of a training has the noise of the whole training, which is how an attacker meets it.

    Args:
        plan: sample rate, steps and delta.
        values: epsilons, > 0.
        one_step: the epsilon is that of a training of one step, which has far less noise.

    Raises:
        PrivacyRefusal: no noise multiplier reaches an epsilon.
    """
    phase = plan.phase(1 if one_step else None)
    words = " in one step" if one_step else ""
    return tuple(
        NoiseLevel(
            name=f"epsilon {value:g}{words}",
            noise_multiplier=solve_noise(
                sample_rate=phase.sample_rate, steps=phase.steps, epsilon=value, delta=plan.delta
            ),
            epsilon=value,
            one_step=one_step,
        )
        for value in values
    )


def of_run(plan: Plan) -> NoiseLevel:
    """Return the level of the run itself: what an attacker of its gradients met."""
    return NoiseLevel(
        name="the run",
        noise_multiplier=plan.gradient_noise_multiplier,
        epsilon=plan.epsilon() if plan.noise_multiplier else None,
    )
