"""Calibration: a plan from public constants and any two of epsilon, noise multiplier and steps."""

from __future__ import annotations

import math
from collections.abc import Callable

from meninx.core import check
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import ConfigError, PrivacyRefusal, expected
from meninx.privacy import accounting
from meninx.privacy.accounting import Phase
from meninx.privacy.plan import Clipping, Plan

MAX_NOISE_MULTIPLIER = 1e4
MAX_STEPS = 1_000_000
_ROUNDS = 60


def calibrate(
    *,
    n_units: int,
    expected_batch_size: float,
    delta: float,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    unit: PrivacyUnit = PrivacyUnit.PATIENT,
    max_grad_norm: float = 1.0,
    clipping: Clipping = "flat",
    views: int = 1,
) -> Plan:
    """Return the plan that spends ``epsilon``, or less by at most 0.01 * max(1, epsilon) / 8.

    Give exactly two of: ``epsilon``, ``noise_multiplier``, ``steps`` (or ``epochs``); the third is found.

    Args:
        n_units: number of privacy units as publicly declared; treated as public.
        expected_batch_size: mean number of units a step; fixes sample rate and denominator.
        delta: in (0, 1 / n_units).
        epsilon: most that may be spent, > 0.
        noise_multiplier: noise standard deviation over ``max_grad_norm``, > 0.
        steps: optimiser steps.
        epochs: expected passes over the units; steps = ceil(epochs * n_units / expected_batch_size).
        unit: what is protected.
        max_grad_norm: clipping threshold.
        clipping: ``"flat"`` or ``"auto-s"``.
        views: augmented views a case.

    Guarantee: ``plan.epsilon() <= epsilon`` by the accountant of record, never by the quick bounds the search starts from.

    Raises:
        PrivacyRefusal: epsilon cannot be reached; the message says what would reach it.
        ConfigError: other than two of the three are given, or a value is out of range.
    """
    check.positive(n_units=n_units, expected_batch_size=expected_batch_size, epochs=epochs, steps=steps)
    check.positive(epsilon=epsilon, noise_multiplier=noise_multiplier)
    check.open_unit(delta=delta)
    steps = _steps(steps, epochs, n_units / expected_batch_size)
    if sum(value is not None for value in (epsilon, noise_multiplier, steps)) != 2:
        rule = "exactly two of epsilon, noise_multiplier and steps (or epochs)"
        raise ConfigError(expected(rule, got="another number of them", where="calibrate"))
    rate = min(1.0, expected_batch_size / n_units)  # a batch larger than the dataset is refused by the plan
    if noise_multiplier is None and steps is not None and epsilon is not None:
        noise_multiplier = solve_noise(sample_rate=rate, steps=steps, epsilon=epsilon, delta=delta)
    elif steps is None and noise_multiplier is not None and epsilon is not None:
        steps = solve_steps(sample_rate=rate, noise_multiplier=noise_multiplier, epsilon=epsilon, delta=delta)
    return Plan.build(
        n_units=n_units,
        expected_batch_size=expected_batch_size,
        unit=unit,
        steps=steps,
        noise_multiplier=noise_multiplier,
        max_grad_norm=max_grad_norm,
        delta=delta,
        clipping=clipping,
        views=views,
    )


def _steps(steps: int | None, epochs: float | None, steps_an_epoch: float) -> int | None:
    if epochs is None:
        return steps
    if steps is not None:
        raise ConfigError(expected("steps or epochs", got="both", where="calibrate"))
    return math.ceil(epochs * steps_an_epoch)


def slack(epsilon: float) -> float:
    """Return how far below the target the epsilon of a calibrated plan may lie."""
    return 0.01 * max(1.0, epsilon) / 8


def solve_noise(*, sample_rate: float, steps: int, epsilon: float, delta: float) -> float:
    """Return a noise multiplier whose epsilon lies in [epsilon - slack, epsilon]: Rényi, then a coarse, then the fine grid."""

    def phases(noise: float) -> tuple[Phase, ...]:
        return (Phase(sample_rate=sample_rate, noise_multiplier=noise, steps=steps),)

    if accounting.epsilon(phases(MAX_NOISE_MULTIPLIER), delta).value > epsilon:
        _refuse_noise(sample_rate, steps, epsilon, delta)
    room = slack(epsilon)
    guess = max(0.3, sample_rate * math.sqrt(2 * steps * math.log(1 / delta)) / epsilon) if epsilon < 100 else epsilon**-0.5

    def quick(noise: float) -> float:
        return accounting.epsilon(phases(noise), delta, coarse=True).value

    def fine(noise: float) -> float:
        return accounting.epsilon(phases(noise), delta).value

    guess = _descend(lambda noise: accounting.rdp_epsilon(phases(noise), delta), epsilon, 0.1 * epsilon, guess, 2.0)
    guess = _descend(quick, epsilon, room / 2, guess, 1.1)
    if epsilon - fine(guess) > room:  # the coarse grid is too loose here: aim above the target by what it adds
        guess = _descend(quick, epsilon + quick(guess) - fine(guess), room / 2, guess, 1.01)
    return _descend(fine, epsilon, room, guess, 1.01)


def solve_steps(*, sample_rate: float, noise_multiplier: float, epsilon: float, delta: float) -> int:
    """Return the steps that noise and epsilon allow: no more fit, or epsilon is within the slack of the target."""

    def cost(steps: int, coarse: bool) -> float:
        phase = Phase(sample_rate=sample_rate, noise_multiplier=noise_multiplier, steps=steps)
        return accounting.epsilon([phase], delta, coarse=coarse).value

    if cost(1, True) > epsilon and cost(1, False) > epsilon:
        enough = solve_noise(sample_rate=sample_rate, steps=1, epsilon=epsilon, delta=delta)
        fix = f"one step alone costs {cost(1, False):.4g}; a noise_multiplier of {enough:.4g} allows one"
        raise PrivacyRefusal(expected("an epsilon that allows a step", got=epsilon, where="calibrate, epsilon", fix=fix))
    fits, over = 1, 2
    while cost(over, True) <= epsilon:
        fits, over = over, 2 * over
        if over > MAX_STEPS:
            fix = "give steps and epsilon and let the noise be found"
            raise ConfigError(expected(f"fewer than {MAX_STEPS} steps", got="more", where="calibrate", fix=fix))
    fits, over = _bisect_steps(lambda steps: cost(steps, True), epsilon, fits, over)
    return _finish_steps(lambda steps: cost(steps, False), epsilon, fits)


def _bisect_steps(cost: Callable[[int], float], target: float, fits: int, over: int) -> tuple[int, int]:
    while over - fits > max(1, fits // 2000):
        middle = (fits + over) // 2
        fits, over = (middle, over) if cost(middle) <= target else (fits, middle)
    return fits, over


def _finish_steps(cost: Callable[[int], float], target: float, fits: int) -> int:
    """Return the largest count, or one within the slack; ``fits`` is known to fit on the looser coarse grid."""
    spent = cost(fits)
    stride = max(1, fits // 200)
    while target - spent > slack(target):
        more = cost(fits + stride)
        if more <= target:
            fits, spent = fits + stride, more
        elif stride == 1:
            break
        else:
            stride = max(1, stride // 4)
    return fits


def _descend(cost: Callable[[float], float], target: float, room: float, guess: float, factor: float) -> float:
    """Return x with target - room <= cost(x) <= target for a decreasing cost; the nearest safe x if it jumps over that.

    Widens a bracket around ``guess`` by growing powers of ``factor``, then closes it by interpolation
    in the logarithms (regula falsi, halved when one end stays put).
    """
    first = cost(guess)
    if target - room <= first <= target:
        return guess
    safe, unsafe = _bracket(cost, target, (guess, first), factor)
    aim = target - room / 2
    for turn in range(_ROUNDS):
        if safe[1] >= target - room or safe[0] <= unsafe[0] * (1 + 1e-12):
            break
        share = 0.5
        if turn % 3 < 2 and safe[1] > 0 and math.isfinite(unsafe[1]):
            share = math.log(unsafe[1] / aim) / math.log(unsafe[1] / safe[1])
        x = unsafe[0] * (safe[0] / unsafe[0]) ** min(0.99, max(0.01, share))
        value = cost(x)
        safe, unsafe = ((x, value), unsafe) if value <= target else (safe, (x, value))
    return safe[0]


def _bracket(
    cost: Callable[[float], float], target: float, start: tuple[float, float], factor: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return (x, cost) on the safe side of the target and on the other."""
    (x, value), step = start, factor
    up = value > target
    while True:
        following = x * step if up else x / step
        other = cost(following)
        if (other > target) != up:
            return ((following, other), (x, value)) if up else ((x, value), (following, other))
        x, value, step = following, other, min(step**2, 4.0)


def _refuse_noise(sample_rate: float, steps: int, epsilon: float, delta: float) -> None:
    phase = Phase(sample_rate=sample_rate, noise_multiplier=MAX_NOISE_MULTIPLIER, steps=steps)
    least = accounting.epsilon([phase], delta).value
    fix = f"use fewer steps, a smaller expected_batch_size, or an epsilon of at least {least:.3g}"
    rule = f"an epsilon that a noise_multiplier up to {MAX_NOISE_MULTIPLIER:g} reaches in {steps} steps"
    raise PrivacyRefusal(expected(rule, got=epsilon, where="calibrate, epsilon", fix=fix))
