"""Calibration: compute the missing one of epsilon, noise multiplier and steps, and return the plan."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from meninx.core import check
from meninx.core.errors import ConfigError, PrivacyRefusal, expected, problem
from meninx.privacy import accounting
from meninx.privacy.accounting import Epsilon, Phase
from meninx.privacy.plan import Plan

MAX_NOISE_MULTIPLIER = 1e4
MAX_STEPS = 1_000_000
_ROUNDS = 60
_ROUGH = 1e-2  # grid of the privacy loss for the first search
_ROUGH_SHARE = 1e-5  # grid as a share of a large epsilon, with the same relative error
# A grid of this share of epsilon / sqrt(steps) moves epsilon by less than 1 %, because the squares of the
# discretisation errors of the steps add up.
_GRID_SHARE = 0.007
_COARSEST = 0.1
_FAR = math.log(16.0)


def calibrate(
    *,
    n_units: int,
    expected_batch_size: float,
    delta: float,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    max_grad_norm: float = 1.0,
    noise_bands: int = 1,
    **mechanism: Any,
) -> Plan:
    """Return the plan that spends ``epsilon``, or at most 0.01 * max(1, epsilon) / 8 less.

    Give exactly two of ``epsilon``, ``noise_multiplier`` and ``steps`` (or ``epochs``).

    Example::

        >>> plan = calibrate(n_units=1_000, expected_batch_size=50, delta=1e-5, epsilon=3.0, steps=200)
        >>> 2.9 < plan.epsilon() <= 3.0
        True
        >>> plan.noise_multiplier < calibrate(
        ...     n_units=1_000, expected_batch_size=50, delta=1e-5, epsilon=1.0, steps=200).noise_multiplier
        True

    Args:
        n_units: number of privacy units as publicly declared; treated as public.
        expected_batch_size: mean number of units per step; fixes sample rate and denominator.
        delta: in (0, 1 / n_units).
        epsilon: most that may be spent, > 0.
        noise_multiplier: noise standard deviation over ``max_grad_norm``, > 0.
        steps: optimiser steps.
        epochs: expected passes over the units; steps = ceil(epochs * n_units / expected_batch_size).
        max_grad_norm: clipping threshold.
        noise_bands: 1 for independent noise; else the number of steps over which it is correlated, with
            cyclic sampling.
        **mechanism: other fields of :class:`~meninx.privacy.plan.Plan`, such as ``unit`` or ``clipping``.

    Guarantee: ``plan.epsilon() <= epsilon`` by the accountant of record, never by the quick bounds the search
        starts from.

    Raises:
        PrivacyRefusal: epsilon cannot be reached; the message names values that would reach it.
        ConfigError: not exactly two of the three are given, or a value is out of range.
    """
    check.positive(n_units=n_units, expected_batch_size=expected_batch_size, epochs=epochs, steps=steps)
    check.positive(epsilon=epsilon, noise_multiplier=noise_multiplier)
    check.open_unit(delta=delta)
    steps = _steps(steps, epochs, n_units / expected_batch_size)
    if sum(value is not None for value in (epsilon, noise_multiplier, steps)) != 2:
        raise ConfigError(
            problem(
                "calibrate needs exactly two of epsilon, noise_multiplier and steps (or epochs)",
                where="calibrate",
            )
        )
    # Capped only for the search: the plan refuses a batch larger than the dataset and too many bands.
    rate = min(1.0, expected_batch_size / n_units)
    check.positive(noise_bands=noise_bands)
    rate = min(1.0, noise_bands * rate)  # as accounted, see Plan.phase
    if noise_multiplier is None and steps is not None and epsilon is not None:
        noise_multiplier = solve_noise(
            sample_rate=rate, steps=-(-steps // noise_bands), epsilon=epsilon, delta=delta
        )
    elif steps is None and noise_multiplier is not None and epsilon is not None:
        steps = noise_bands * solve_steps(
            sample_rate=rate, noise_multiplier=noise_multiplier, epsilon=epsilon, delta=delta
        )
    return Plan.build(
        n_units=n_units,
        expected_batch_size=expected_batch_size,
        delta=delta,
        steps=steps,
        noise_multiplier=noise_multiplier,
        max_grad_norm=max_grad_norm,
        noise_bands=noise_bands,
        **mechanism,
    )


def _steps(steps: int | None, epochs: float | None, steps_per_epoch: float) -> int | None:
    if epochs is None:
        return steps
    if steps is not None:
        raise ConfigError(problem("steps and epochs exclude each other", where="calibrate"))
    return math.ceil(epochs * steps_per_epoch)


def slack(epsilon: float) -> float:
    """Return how far the epsilon of a calibrated plan may lie below the target."""
    return 0.01 * max(1.0, epsilon) / 8


def solve_noise(*, sample_rate: float, steps: int, epsilon: float, delta: float) -> float:
    """Return a noise multiplier whose epsilon lies in [epsilon - slack, epsilon].

    The search starts from the Rényi bound and refines the result on coarse grids and then on the fine one.

    Raises:
        PrivacyRefusal: the largest noise multiplier does not reach epsilon.
    """

    def cost(noise: float, grid: float) -> float:
        phase = Phase(sample_rate=sample_rate, noise_multiplier=noise, steps=steps)
        return accounting.epsilon([phase], delta, grid=grid).value

    _refuse_out_of_reach(sample_rate, steps, epsilon, delta)
    room = slack(epsilon)
    near, slope = _by_renyi(sample_rate, steps, epsilon, delta)
    rough = max(_ROUGH, _ROUGH_SHARE * epsilon)
    for grid, window in ((rough, 0.05 * epsilon), (accounting.COARSE, room / 2), (accounting.FINE, room)):
        near, slope = search(functools.partial(cost, grid=grid), epsilon, window, near, slope)
    return near


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """The noise of one epsilon of an axis.

    Attributes:
        noise_multiplier: noise standard deviation over sensitivity.
        spent: the epsilon that it spends, up to 2 % below the target, and its accountant.
    """

    noise_multiplier: float
    spent: Epsilon


def noise_profile(
    *, sample_rate: float, steps: int, epsilons: Iterable[float], delta: float
) -> Iterator[Calibrated]:
    """Yield the noise multiplier of every epsilon of an axis, for a figure and not for a run.

    Each search starts from an extrapolation of the two results before it, on one grid that is as coarse as
    the epsilon allows. This takes 0.1 to 0.5 s per epsilon.

    Args:
        sample_rate: q in (0, 1].
        steps: number of steps, >= 1.
        epsilons: targets > 0, in ascending order.
        delta: in (0, 1).

    Raises:
        PrivacyRefusal: an epsilon cannot be reached; the message names values that would reach it.
    """

    def spent(noise: float, grid: float) -> Epsilon:
        phase = Phase(sample_rate=sample_rate, noise_multiplier=noise, steps=steps)
        return accounting.epsilon([phase], delta, grid=grid)

    def cost(noise: float, grid: float) -> float:
        return spent(noise, grid).value

    found: list[tuple[float, float]] = []  # logarithms of epsilon and noise
    for epsilon in epsilons:
        _refuse_out_of_reach(sample_rate, steps, epsilon, delta)
        near, slope = _by_renyi(sample_rate, steps, epsilon, delta) if len(found) < 2 else (0.0, -1.0)
        if len(found) >= 2:
            (e0, n0), (e1, n1) = found[-2:]
            slope = min(-0.1, (e1 - e0) / (n1 - n0)) if n1 < n0 else -1.0
            near = math.exp(n1 + (math.log(epsilon) - e1) / slope)
        grid = min(_COARSEST, max(accounting.FINE, _GRID_SHARE * epsilon / math.sqrt(steps)))
        noise, _ = search(functools.partial(cost, grid=grid), epsilon, 0.015 * epsilon, near, slope)
        found.append((math.log(epsilon), math.log(noise)))
        yield Calibrated(noise_multiplier=noise, spent=spent(noise, grid))


def _by_renyi(sample_rate: float, steps: int, epsilon: float, delta: float) -> tuple[float, float]:
    """Return a first noise multiplier and the slope there, by the quick bound."""

    def cost(noise: float) -> float:
        phase = Phase(sample_rate=sample_rate, noise_multiplier=noise, steps=steps)
        return accounting.rdp_epsilon([phase], delta)

    guess = (
        max(0.3, sample_rate * math.sqrt(2 * steps * math.log(1 / delta)) / epsilon)
        if epsilon < 100
        else epsilon**-0.5
    )
    return search(cost, epsilon, 0.3 * epsilon, guess, -1.0)


def solve_steps(*, sample_rate: float, noise_multiplier: float, epsilon: float, delta: float) -> int:
    """Return the largest number of steps that noise and epsilon allow, or one whose epsilon is within slack.

    Raises:
        PrivacyRefusal: a single step already exceeds epsilon.
        ConfigError: a million steps do not reach it.
    """

    def cost(steps: float, grid: float) -> float:
        phase = Phase(sample_rate=sample_rate, noise_multiplier=noise_multiplier, steps=int(steps))
        return accounting.epsilon([phase], delta, grid=grid).value

    if cost(1, accounting.COARSE) > epsilon and cost(1, accounting.FINE) > epsilon:
        enough = solve_noise(sample_rate=sample_rate, steps=1, epsilon=epsilon, delta=delta)
        fix = (
            f"one step alone costs {cost(1, accounting.FINE):.4g}; a noise_multiplier of {enough:.4g} "
            "allows one"
        )
        raise PrivacyRefusal(
            expected("an epsilon that allows a step", got=epsilon, where="calibrate, epsilon", fix=fix)
        )
    near, slope = (
        min(MAX_STEPS, (epsilon * noise_multiplier / sample_rate) ** 2 / (2 * math.log(1 / delta))),
        0.5,
    )
    for grid, window in ((accounting.COARSE, slack(epsilon) / 2), (accounting.FINE, slack(epsilon))):
        near, slope = search(functools.partial(cost, grid=grid), epsilon, window, near, slope, whole=True)
    if near >= MAX_STEPS:
        fix = "give steps and epsilon and let the noise be found"
        raise ConfigError(expected(f"fewer than {MAX_STEPS} steps", got="more", where="calibrate", fix=fix))
    return int(near)


def search(
    cost: Callable[[float], float],
    target: float,
    room: float,
    guess: float,
    slope: float,
    *,
    whole: bool = False,
) -> tuple[float, float]:
    """Return x with target - room <= cost(x) <= target for a monotone cost, and d log cost / d log x there.

    The method takes secant steps in the logarithms, inside the bracket found so far, because one evaluation
    may take half a second. Where the cost jumps over the window, x is the last value on the safe side.

    Example::

        >>> x, slope = search(lambda x: x**2, 9.0, 0.1, 1.0, 2.0)
        >>> 8.9 <= x**2 <= 9.0, round(slope, 3)
        (True, 2.0)

    Args:
        cost: monotone in x > 0; may be 0 or ``inf`` far from the solution.
        target: largest allowed cost.
        room: how far the cost may lie below the target.
        guess: first x.
        slope: first guess of d log cost / d log x; its sign is that of the monotone direction.
        whole: x is an integer >= 1.
    """
    aim, x = target - room / 2, float(max(1, round(guess))) if whole else guess
    safe = unsafe = last = None
    for turn in range(_ROUNDS):
        value = cost(x)
        if value <= target:
            safe = x
        else:
            unsafe = x
        if target - room <= value <= target:
            break
        if last is not None:
            slope = _slope((x, value), last, slope)
        last = (x, value)
        if safe is None or unsafe is None:
            x = _stride(x, value, aim, slope, whole=whole)
            if x == last[0] and safe is not None:
                break
            continue
        low, high = min(safe, unsafe), max(safe, unsafe)
        if (high - low <= 1) if whole else high <= low * (1 + 1e-12):
            break
        step = _stride(x, value, aim, slope, whole=whole)
        # Every fourth step bisects: secant steps can creep towards one end of the bracket and never close it.
        x = step if low < step < high and turn % 4 < 3 else math.sqrt(low * high)
        x = min(high - 1, max(low + 1, round(x))) if whole else x
    return (x if safe is None else safe), slope


def _stride(x: float, value: float, aim: float, slope: float, *, whole: bool) -> float:
    """Return the x at which a power law through (x, value) meets the aim, at most a factor of 16 away."""
    power = math.log(aim / value) / slope if 0 < value < math.inf else math.copysign(9.0, aim - value) / slope
    step = x * math.exp(min(_FAR, max(-_FAR, power)))
    return float(min(MAX_STEPS, max(1, round(step)))) if whole else step


def _slope(here: tuple[float, float], last: tuple[float, float], slope: float) -> float:
    """Return the slope in the logarithms between two points, or ``slope`` where that is undefined."""
    if here[0] == last[0] or not (0 < here[1] < math.inf and 0 < last[1] < math.inf):
        return slope
    found = math.log(here[1] / last[1]) / math.log(here[0] / last[0])
    return found if found * slope > 0 else slope


def _refuse_out_of_reach(sample_rate: float, steps: int, epsilon: float, delta: float) -> None:
    """Refuse an epsilon that the largest noise multiplier does not reach."""
    phase = Phase(sample_rate=sample_rate, noise_multiplier=MAX_NOISE_MULTIPLIER, steps=steps)
    if accounting.rdp_epsilon([phase], delta) <= epsilon:
        return
    least = accounting.epsilon([phase], delta).value
    if least <= epsilon:
        return
    # Rounded up, so that the epsilon in the message is accepted.
    fix = f"use fewer steps, a smaller expected_batch_size, or an epsilon of at least {1.01 * least:.3g}"
    rule = f"an epsilon that a noise_multiplier up to {MAX_NOISE_MULTIPLIER:g} reaches in {steps} steps"
    raise PrivacyRefusal(expected(rule, got=epsilon, where="calibrate, epsilon", fix=fix))
