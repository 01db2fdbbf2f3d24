"""Accounting: epsilon of one or several phases of Poisson-sampled Gaussian steps.

The events are those of dp-accounting. The accountant of record is the privacy loss distribution
(``"pld"``). Where its grid would not fit (epsilon in the ten thousands), a looser bound is returned under its
own name. The central-limit ("GDP") accountant is an approximation from below and is not offered.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dp_accounting as dpa
import numpy as np
import numpy.typing as npt
from dp_accounting import gaussian_mechanism, rdp
from dp_accounting.pld.pld_pmf import PLDPmf, create_pmf_pessimistic_connect_dots_fixed_gap
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution, from_gaussian_mechanism
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss
from scipy import special, stats

from meninx.core import check

Array = npt.NDArray[np.float64]

# Integer Rényi orders: their divergences are finite sums, so that nothing can fail to converge.
_ORDERS = (*range(2, 64), 80, 96, 128, 192, 256, 512, 1024)
# Orders near 1, where the bound is tightest for little noise. Their series converges only for little noise,
# and dp-accounting gives no warning where it does not.
_LOW_ORDERS = (1.02, 1.05, 1.1, 1.2, 1.4, 1.7)
_GRIDS = ((1e3, 1e-3), (5e4, 1e-2))  # (largest epsilon, grid of the privacy loss); small ones take FINE
FINE = 1e-4
COARSE = 1e-3
# Relative error of an epsilon through rounding in the Fourier transforms; every result is raised by it.
_ROUNDING = 5e-6
# Error of a delta per step through rounding in the transforms (four times the largest observed); it is
# subtracted from the delta that the search may use.
_LOST = 2.0**-52
_HUGE = 1e300
# Below this delta rounding is no longer negligible, and the Rényi bound, which needs no transform, may be
# closer.
_LEAST_DELTA = 1e-10


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A number of equal steps, each the Gaussian mechanism on a Poisson sample of the units.

    Example::

        >>> phase = Phase(sample_rate=0.05, noise_multiplier=1.0, steps=200)
        >>> round(epsilon([phase], delta=1e-5).value, 2)
        4.77

    Attributes:
        sample_rate: probability that a unit takes part in a step, in (0, 1].
        noise_multiplier: noise standard deviation over sensitivity, >= 0.
        steps: number of steps, >= 0.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        check.positive(sample_rate=self.sample_rate)
        check.probability(sample_rate=self.sample_rate)
        check.non_negative(noise_multiplier=self.noise_multiplier, steps=self.steps)

    def event(self) -> dpa.DpEvent:
        """Return the phase as a dp-accounting event."""
        step = dpa.PoissonSampledDpEvent(self.sample_rate, dpa.GaussianDpEvent(self.noise_multiplier))
        return dpa.SelfComposedDpEvent(step, self.steps)


@dataclass(frozen=True, kw_only=True)
class Epsilon:
    """An upper bound on epsilon, and the accountant that computed it.

    Attributes:
        value: epsilon, ``inf`` without noise.
        accountant: ``"pld"``, or the fallback ``"rdp"`` or ``"participation"``; ``"none"`` without noise.
    """

    value: float
    accountant: str


def merge(phases: Iterable[Phase]) -> tuple[Phase, ...]:
    """Return the phases that have steps, with equal ones joined, in a fixed order.

    Composition commutes, so the order carries no information and a fixed one lets results be cached.
    """
    totals: dict[tuple[float, float], int] = {}
    for phase in phases:
        key = (phase.sample_rate, phase.noise_multiplier)
        totals[key] = totals.get(key, 0) + phase.steps
    return tuple(
        Phase(sample_rate=q, noise_multiplier=s, steps=n) for (q, s), n in sorted(totals.items()) if n
    )


def epsilon(
    phases: Iterable[Phase], delta: float, *, coarse: bool = False, grid: float | None = None
) -> Epsilon:
    """Return an upper bound on epsilon of all phases composed, at ``delta``.

    Args:
        phases: what was run, in any order; no phase or no steps cost nothing.
        delta: in (0, 1). From 1e-10 up, the result is within 1 % of the exact value (mostly 0.01 %) and never
            lower than that of dp-accounting. Below, rounding in the transforms is as large as delta (also in
            dp-accounting); the result allows for it and is the smaller of two upper bounds, up to some per
            cent above the exact value.
        coarse: use a grid of the privacy loss of at least 1e-3, for searches: ten times faster and at most
            about 1 % looser.
        grid: the finest grid to use; None for that of ``coarse``.

    Raises:
        ConfigError: delta out of range.

    Guarantee:
        The composition of all phases, adaptively chosen, is (epsilon, delta)-differentially private
        for adding or removing one unit, if every step added Gaussian noise of ``noise_multiplier``
        times its L2 sensitivity to a sum over a Poisson sample. Discretisation is pessimistic.

    References:
        Koskela, Jälkö, Honkela (2020), Computing Tight Differential Privacy Guarantees Using FFT.
        Doroshenko et al. (2022), Connect the Dots: Tighter Discrete Approximations of Privacy Loss
        Distributions, Algorithm 1 (the discretisation used by dp-accounting).
    """
    check.open_unit(delta=delta)
    usual = COARSE if coarse else FINE
    return _epsilon(merge(phases), float(delta), usual if grid is None else grid)


@functools.lru_cache(maxsize=256)
def _epsilon(phases: tuple[Phase, ...], delta: float, finest: float) -> Epsilon:
    if not phases:
        return Epsilon(value=0.0, accountant="pld")
    if any(phase.noise_multiplier == 0 for phase in phases):
        return Epsilon(value=math.inf, accountant="none")
    bounds = {"rdp": rdp_epsilon(phases, delta), "participation": participation_epsilon(phases, delta)}
    quick = min(bounds, key=lambda key: bounds[key])
    rough = bounds[quick]
    few = sum(phase.steps for phase in phases) <= 100  # discretisation errors add up over steps
    # A quick closed-form bound first: the grid has to cover the privacy loss, so its size grows with epsilon.
    grid = _grid(rough, fine_up_to=4.0 if few else 20.0)
    lost = _lost(phases)
    if grid is None:
        return Epsilon(value=rough, accountant=quick)
    found = (
        float(_pld(phases, max(grid, finest)).get_epsilon_for_delta(delta - lost))
        if delta > lost
        else math.inf
    )
    # Both are upper bounds, so the smaller one is valid, too.
    if delta < _LEAST_DELTA and bounds["rdp"] < found:
        return Epsilon(value=bounds["rdp"], accountant="rdp")
    return Epsilon(value=found * (1 + _ROUNDING), accountant="pld")


def _lost(phases: Sequence[Phase]) -> float:
    """Return a bound on the error of a delta through rounding in the transforms; it grows with the steps."""
    return _LOST * (64 + sum(phase.steps for phase in phases))


def _grid(rough: float, *, fine_up_to: float) -> float | None:
    """Return the grid for a rough epsilon: the finest that is affordable, None if none is."""
    if rough <= fine_up_to:
        return FINE
    return next((grid for most, grid in _GRIDS if rough <= most), None)


@functools.lru_cache(maxsize=8)
def _pld(phases: tuple[Phase, ...], interval: float) -> PrivacyLossDistribution:
    """Return the privacy loss distribution of all phases composed."""
    parts = [
        step_losses(phase.sample_rate, phase.noise_multiplier, interval).self_compose(phase.steps)
        for phase in phases
    ]
    return functools.reduce(lambda left, right: left.compose(right), parts)


def largest_delta(n_units: int) -> float:
    """Return 1 / (10 n_units), the largest delta at which ``n_units`` units count as well protected.

    A mechanism that publishes each unit unchanged with probability delta is (0, delta)-private. At a delta of
    1 / n_units one unit would be published on average, so a plan refuses it; at a tenth of that, the
    probability that any unit is published stays below 10 %.

    Args:
        n_units: number of privacy units as publicly declared, >= 1.
    """
    check.positive(n_units=n_units)
    return 1 / (10 * n_units)


def rdp_epsilon(phases: Sequence[Phase], delta: float) -> float:
    """Return the Rényi bound on epsilon: fast, 3 to 20 % above the exact value, more for little noise.

    References:
        Mironov, Talwar, Zhang (2019), Rényi Differential Privacy of the Sampled Gaussian Mechanism, section
        3.3. Canonne, Kamath, Steinke (2020), The Discrete Gaussian for Differential Privacy, Proposition 12.
    """
    spent = np.sum(
        [phase.steps * _renyi(phase.sample_rate, phase.noise_multiplier) for phase in phases], axis=0
    )
    found = float(rdp.compute_epsilon(_ORDERS, spent, delta)[0])
    if all(phase.noise_multiplier < 0.15 for phase in phases):
        accountant = rdp.RdpAccountant(_LOW_ORDERS, dpa.NeighboringRelation.ADD_OR_REMOVE_ONE)
        for phase in phases:
            accountant.compose(phase.event())
        found = min(found, float(accountant.get_epsilon(delta)))
    return found


@functools.lru_cache(maxsize=64)
def _renyi(sample_rate: float, noise_multiplier: float) -> Array:
    """Return the Rényi divergence of one step at the integer orders, all of them in one expression."""
    orders = np.array(_ORDERS, dtype=float)
    if sample_rate == 1:
        full: Array = np.minimum(orders / 2 / noise_multiplier / noise_multiplier, _HUGE)
        return full
    ways, taken, left = _binomials()
    logs = ways + taken * math.log(sample_rate) + left * math.log1p(-sample_rate)
    logs += np.minimum((taken**2 - taken) / 2 / noise_multiplier / noise_multiplier, _HUGE)
    # log-sum-exp: the terms reach e**(order**2 / noise**2), far beyond a float, so the largest exponent of
    # each row is taken out before exponentiating.
    top = logs.max(axis=1)
    sums: Array = top + np.log(np.exp(logs - top[:, None]).sum(axis=1))
    divergence: Array = np.maximum(sums, 0.0) / (orders - 1)
    return divergence


@functools.cache
def _binomials() -> tuple[Array, Array, Array]:
    """Return log C(order, k), k and order - k for all orders and k; -inf and 0 where k > order."""
    orders = np.array(_ORDERS, dtype=float)[:, None]
    taken = np.arange(_ORDERS[-1] + 1, dtype=float)[None, :]
    left = np.maximum(orders - taken, 0.0)
    ways = special.gammaln(orders + 1) - special.gammaln(taken + 1) - special.gammaln(left + 1)
    return np.where(taken <= orders, ways, -np.inf), taken, left


def participation_epsilon(phases: Sequence[Phase], delta: float) -> float:
    """Return a bound on epsilon that assumes the adversary knows the steps in which a unit took part.

    With probability at least 1 - delta / 2 a unit takes part in at most k steps (a binomial quantile).
    k Gaussian steps of noise s cost exactly as much as one step of noise s / sqrt(k), here at delta / 2. The
    bound is used where noise is so small that participation is visible anyway; there it is tight.

    References:
        Balle, Wang (2018), Improving the Gaussian Mechanism for Differential Privacy, Theorem 8.
    """
    # Half of delta pays for the event that a unit takes part more often; a union bound over the phases.
    tail = delta / (2 * len(phases))
    precision = 0.0
    for phase in phases:
        most = stats.binom.isf(tail, phase.steps, phase.sample_rate) if phase.sample_rate < 1 else phase.steps
        precision += float(most) / phase.noise_multiplier**2
    if precision == 0:
        return 0.0
    with np.errstate(divide="ignore"):  # the bound is evaluated in logarithms; log 0 is meant there
        return float(gaussian_mechanism.get_epsilon_gaussian(1 / math.sqrt(precision), delta / 2))


@functools.lru_cache(maxsize=8)
def step_losses(sample_rate: float, noise_multiplier: float, interval: float) -> PrivacyLossDistribution:
    """Return the privacy loss distribution of one step, for adding and for removing a unit.

    This is the most expensive part of an epsilon and does not depend on the number of steps, so the last few
    results are cached. Grid, bounds and pessimistic discretisation are those of ``from_gaussian_mechanism``,
    which inverts the privacy loss point by point; one expression on an array makes it five times faster.

    Args:
        sample_rate: q in (0, 1].
        noise_multiplier: noise standard deviation over sensitivity, > 0.
        interval: grid of the privacy loss.

    References:
        Doroshenko et al. (2022), Connect the Dots: Tighter Discrete Approximations of Privacy Loss
        Distributions, Algorithm 1.
    """
    if sample_rate == 1.0:
        return from_gaussian_mechanism(noise_multiplier, value_discretization_interval=interval)
    remove, add = (
        _pmf(sample_rate, noise_multiplier, interval, kind)
        for kind in (AdjacencyType.REMOVE, AdjacencyType.ADD)
    )
    return PrivacyLossDistribution(remove, add)


def _pmf(sample_rate: float, noise_multiplier: float, interval: float, kind: AdjacencyType) -> PLDPmf:
    mechanism = GaussianPrivacyLoss(noise_multiplier, sampling_prob=sample_rate, adjacency_type=kind)
    bounds = mechanism.connect_dots_bounds()
    low, high = math.floor(bounds.epsilon_lower / interval), math.ceil(bounds.epsilon_upper / interval)
    losses = np.arange(low, high + 1) * interval
    deltas = _deltas(mechanism, noise_multiplier, losses, removed=kind == AdjacencyType.REMOVE)
    return create_pmf_pessimistic_connect_dots_fixed_gap(interval, low, high, deltas)


def _deltas(
    mechanism: GaussianPrivacyLoss, noise_multiplier: float, losses: Array, *, removed: bool
) -> Array:
    """Return delta(e) of the mechanism at every e of ``losses``: its hockey-stick divergence."""
    q = mechanism.sampling_prob
    # The loss never falls below `edge` when a unit is removed, nor rises above -edge when one is added.
    edge = math.log1p(-q)
    inside = losses > edge if removed else losses < -edge
    deltas = -np.expm1(np.minimum(losses, 0.0)) if removed else np.zeros_like(losses)
    at = losses[inside]
    unsampled = _unsampled(at, q) if removed else -_unsampled(-at, q)
    # Without sampling the loss at x is linear in x; the sampled loss falls with x, so the event {loss >= e}
    # is {x <= cut}.
    cut = (-0.5 if removed else 0.5) - unsampled * noise_multiplier**2
    deltas[inside] = mechanism.mu_upper_cdf(cut) - np.exp(at + mechanism.mu_lower_log_cdf(cut))
    return np.clip(deltas, 0.0, 1.0)


def _unsampled(losses: Array, q: float) -> Array:
    """Return log(1 + (exp(loss) - 1) / q): the loss without sampling for a loss > log(1 - q) with it."""
    # Two forms of one expression: log1p and expm1 keep precision for small losses, and the logarithmic form
    # does not overflow for large ones.
    with np.errstate(divide="ignore", over="ignore"):
        near = np.log1p(np.maximum(-1.0, np.expm1(np.minimum(losses, 1.0)) / q))
        far = losses - math.log(q) + np.log1p(-np.exp(-np.maximum(losses, 1.0)) * (1 - q))
    return np.where(losses < 1.0, near, far)
