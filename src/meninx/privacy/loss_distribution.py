"""The trade-off curve of composed Poisson-sampled Gaussian steps, from above and from below.

A *trade-off curve* is the largest power of a test between "the unit was absent" (null) and "the unit was
present" (alternative) at a given false positive rate. One step releases a Gaussian vector; along the unit's
clipped gradient it is N(0, 1) under the null and, under the alternative, N(mu, 1) with probability q and
N(0, 1) otherwise, with mu = 1 / noise multiplier. The privacy loss of a step is the logarithm of the
likelihood ratio, and that of a run is the sum over its steps::

    >>> from meninx.privacy.accounting import Phase
    >>> run = [Phase(sample_rate=0.01, noise_multiplier=1.0, steps=1000)]
    >>> above, below = curves(run, ThreatModel.WORST, least_rate=1e-4, cells=2**14)
    >>> 5.47e-4 < float(below.power(1e-4)) <= float(above.power(1e-4)) < 5.48e-4
    True

Both curves come from the loss on a grid. The upper one is a pair of distributions that is at least as easy to
tell apart as the true pair, the lower one is the power of a test that an adversary can run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, ndtr

from meninx.core.errors import PrivacyRefusal, problem
from meninx.privacy.accounting import Phase

Array = npt.NDArray[np.float64]

_TAIL = 2.0**-53  # mass that may be cut off; the margin of the curves covers it
_Z = 9.6  # standard deviations; the mass beyond is less than _TAIL / 1e5
_ROUGH_CELLS = 2**12  # of a coarse grid that finds the range of the composed loss
_MOST_SIGNAL = 1e100  # beyond this signal, presence in a step is certain to float precision
_SLACK = 1.05  # widens the range, which differs a little on a finer grid
_RARE = 1e-30  # over a million steps on a million cells such masses add up to less than rounding
# Bound on the error of a tail through rounding in transforms and sums, per step: four times the largest
# observed.
_LOST = 2.0**-50


class ThreatModel(StrEnum):
    """What the adversary knows about the unit's clipped gradient, besides all other units' data."""

    WORST = "worst"
    """The gradient's direction and sign: all there is to know, so this is the worst case."""
    RELAXED = "relaxed"
    """The line it lies on but not its sign: N(mu, 1) or N(-mu, 1), each with probability 1/2."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A concave, piecewise linear trade-off curve with a margin for rounding.

    Attributes:
        rates: false positive rates, increasing from 0, shape (n,).
        powers: powers of the best test at them, increasing to at most 1, shape (n,).
        margin: added to every power (negative for a lower curve), so that the bound holds despite rounding.
    """

    rates: Array
    powers: Array
    margin: float

    def power(self, rate: npt.ArrayLike) -> Array:
        """Return the power at false positive rates in [0, 1]; in [rate, 1], same shape.

        Raises:
            PrivacyRefusal: an upper curve lies below guessing, so its computation is wrong.
        """
        at = np.asarray(rate, dtype=float)
        found = np.interp(at, self.rates, self.powers) + self.margin
        if self.margin >= 0 and np.any(found < at * (1 - 1e-9)):
            raise PrivacyRefusal(problem("an upper bound lies below the chance of guessing", where="risk"))
        clipped: Array = np.clip(found, at, 1.0)
        return clipped

    def area(self) -> float:
        """Return the area under the curve in [1/2, 1]: the AUC of the best test."""
        area = np.trapezoid(self.powers, self.rates) + (1 - self.rates[-1]) * self.powers[-1]
        return float(np.clip(area + self.margin, 0.5, 1.0))

    def advantage(self) -> float:
        """Return the largest ``power - rate``, in [0, 1]."""
        return float(np.clip(np.max(self.powers - self.rates) + self.margin, 0.0, 1.0))

    def accuracy(self, prior: float) -> float:
        """Return the largest share of correct answers where a share ``prior`` of the units was present."""
        right = prior * (self.powers + self.margin) + (1 - prior) * (1 - self.rates)
        return float(np.clip(np.max(right), max(prior, 1 - prior), 1.0))

    def delta(self, epsilon: float) -> float:
        """Return the delta at which "present" is (epsilon, delta)-close to "absent", for epsilon >= 0."""
        found = np.max(self.powers - math.exp(min(epsilon, 700.0)) * self.rates) + self.margin
        return float(np.clip(found, 0.0, 1.0))


@dataclass(frozen=True)
class _Step:
    """One step: the law of its privacy loss."""

    rate: float
    mu: float
    symmetric: bool

    def loss(self, x: float) -> float:
        """Return the privacy loss of the observation ``x``; under the symmetric law -x has the same loss."""
        gain = self.mu * x - self.mu**2 / 2
        if self.symmetric:
            gain += math.log1p(math.exp(-2 * self.mu * x)) - math.log(2)
        return self.of_gain(gain)

    def of_gain(self, gain: float) -> float:
        """Return log(1 - q + q e^gain)."""
        if self.rate == 1:
            return gain
        if gain < 1:
            return math.log1p(self.rate * math.expm1(gain))
        return gain + math.log(self.rate + (1 - self.rate) * math.exp(-gain))

    def lowest(self) -> float:
        """Return a loss below which the alternative has less mass than ``_TAIL``."""
        present = self.rate > 1 - _TAIL / 1e9  # the unit takes part in every step
        if self.symmetric:
            return self.loss(max(0.0, self.mu - _Z) if present else 0.0)
        return self.loss(self.mu - _Z if present else -_Z)

    def highest(self) -> float:
        """Return a loss above which the alternative has less mass than ``_TAIL``."""
        return self.loss(self.mu + _Z)

    def cuts(self, losses: Array) -> Array:
        """Return the x with each loss; the loss rises with x, or with abs(x) >= 0 under the symmetric law."""
        gains = self._gains(losses)
        if not self.symmetric:
            return gains / self.mu + self.mu / 2
        # gains + mu^2 / 2 = log cosh(mu x)
        grown = np.maximum(gains + self.mu**2 / 2, 0.0)
        with np.errstate(over="ignore"):
            above = np.expm1(np.minimum(grown, 600.0))
        near = np.log1p(above + np.sqrt(above) * np.sqrt(above + 2))
        return np.where(grown < 600, near, grown + math.log(2)) / self.mu

    def _gains(self, losses: Array) -> Array:
        """Return log((e^loss - (1 - q)) / q)."""
        if self.rate == 1:
            return losses
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            near = np.log1p(np.maximum(np.expm1(np.minimum(losses, 1.0)) / self.rate, -1.0))
            far = losses - math.log(self.rate) + np.log1p(-(1 - self.rate) * np.exp(-np.maximum(losses, 1.0)))
        return np.where(losses < 1, near, far)

    def cells(self, losses: Array) -> tuple[Array, Array]:
        """Return log null mass and alternative mass below, between and above ``losses``: n + 1 cells each."""
        cuts = self.cuts(losses)
        present, mu, low = self.rate, self.mu, 0.0 if self.symmetric else -math.inf
        edges = np.concatenate(([low], cuts, [math.inf]))
        null = _log_masses(edges) + (math.log(2) if self.symmetric else 0.0)
        moved = _masses(edges - mu) + (_masses(edges + mu) if self.symmetric else 0.0)
        alternative = (1 - present) * np.exp(null) + present * moved
        # Normalised, because a relative error of one step grows with the number of steps.
        return null - np.log(np.exp(null).sum()), alternative / alternative.sum()


def _masses(edges: Array) -> Array:
    """Return the standard normal mass between neighbouring edges, exact to rounding in both tails."""
    # Differences of the cdf cancel in the upper tail, where it is close to 1. Each side uses its own tail.
    tails = ndtr(-np.abs(edges))
    below, above = edges <= 0, edges >= 0
    left, right = tails[:-1], tails[1:]
    one_sided = np.where(below[1:], right - left, left - right)
    found: Array = np.where(below[1:] | above[:-1], one_sided, 1 - left - right).clip(0)
    return found


def _log_masses(edges: Array) -> Array:
    """Return the logarithm of :func:`_masses`, also where that is too small for a float."""
    tails = log_ndtr(-np.abs(edges))
    left, right = tails[:-1], tails[1:]
    below, above = edges <= 0, edges >= 0
    large = np.where(below[1:], right, left)
    small = np.where(below[1:], left, right)
    with np.errstate(divide="ignore", invalid="ignore"):
        one_sided = large + np.log1p(-np.exp(small - large))
        both = np.log1p(-np.exp(left) - np.exp(right))
    found = np.where(below[1:] | above[:-1], one_sided, both)
    return np.where(np.isnan(found), -np.inf, found)


@dataclass(frozen=True)
class _Part:
    """Equal steps, and the range of the loss of one of them."""

    step: _Step
    steps: int
    low: float
    high: float


@dataclass(frozen=True)
class _Law:
    """A measure of the loss of one step on a grid, and the number of equal steps.

    Attributes:
        masses: on the losses ``low + i * width``, shape (n,).
        certain: mass on infinite loss.
    """

    masses: Array
    certain: float
    low: float
    width: float
    steps: int

    def log_moments(self, tilts: Array) -> Array:
        """Return log sum(mass * e^(tilt * loss)) over all steps, for every tilt.

        Infinite loss is left out, and so are masses too small to affect any bound.
        """
        seen = np.flatnonzero(self.masses > _RARE)
        losses = self.low + self.width * seen
        exponents = np.log(self.masses[seen])[None, :] + tilts[:, None] * losses[None, :]
        top = exponents.max(axis=1)
        logs: Array = top + np.log(np.exp(exponents - top[:, None]).sum(axis=1))
        return self.steps * logs


@dataclass(frozen=True)
class _Grid:
    """The grid of the composed loss: ``cells`` points of distance ``width``.

    Attributes:
        tilts: the exponents, one negative and one positive, that give the best bounds on the masses outside.
    """

    cells: int
    width: float
    tilts: Array


def curves(
    phases: Sequence[Phase], model: ThreatModel, *, least_rate: float, cells: int
) -> tuple[Curve, Curve]:
    """Return an upper and a lower bound on the trade-off curve of all phases composed.

    Their distance falls with the square of the grid's width, the lower one being twice as close. Any noise
    multiplier > 0 and any number of steps are allowed.

    Args:
        phases: what was run, merged; each with steps >= 1 and noise.
        model: what the adversary knows.
        least_rate: the lowest false positive rate of interest, in (0, 1); the upper curve is loose below it.
        cells: number of cells of the grid of the composed loss, a power of two.

    Guarantee:
        Up to rounding in the transforms, for which ``Curve.margin`` is allowed, no test of the composed
        steps has more power than the upper curve states at any rate, and a test exists that has the power
        of the lower curve.

    References:
        Hayes, Mahloujifar, Balle (2023), Bounding Training Data Reconstruction in DP-SGD, Theorem 2.
        Koskela, Jälkö, Honkela (2020), Computing Tight Differential Privacy Guarantees Using FFT.
    """
    parts = _parts(phases, model, least_rate)
    grid = _grid(parts, cells)
    return _upper(parts, grid), _lower(parts, grid)


def _parts(phases: Sequence[Phase], model: ThreatModel, least_rate: float) -> list[_Part]:
    """Return the steps with the range of their loss.

    A sum of losses above log(1 / least_rate) rejects the null at every rate of interest, and the other steps
    reduce it by at most their lowest losses. So a loss above both together can be counted as infinite without
    error. This keeps the grid finite for any noise.
    """
    steps = [
        _Step(phase.sample_rate, min(1 / phase.noise_multiplier, _MOST_SIGNAL), model is ThreatModel.RELAXED)
        for phase in phases
    ]
    lows = [step.lowest() for step in steps]
    cap = 1 - math.log(least_rate)
    cap += sum(phase.steps * max(0.0, -low) for phase, low in zip(phases, lows, strict=True))
    return [
        _Part(step, phase.steps, min(low, cap - 1), min(step.highest(), cap))
        for step, phase, low in zip(steps, phases, lows, strict=True)
    ]


def _grid(parts: Sequence[_Part], cells: int) -> _Grid:
    """Return a grid for the composed loss; by Chernoff's bound it leaves out about 2 * ``_TAIL``."""
    laws = [_above(part, (part.high - part.low) / _ROUGH_CELLS) for part in parts]
    square = sum(law.steps * float(law.masses @ _losses(law) ** 2) for law in laws)
    tilts = np.geomspace(0.03, 300.0, 32) / max(math.sqrt(square), 1e-300)
    moments = np.sum([law.log_moments(np.concatenate((-tilts, tilts))) for law in laws], axis=0)
    lows = -(moments[: len(tilts)] - math.log(_TAIL)) / tilts
    highs = (moments[len(tilts) :] - math.log(_TAIL)) / tilts
    low, high = int(np.argmax(lows)), int(np.argmin(highs))
    least = max(float(lows[low]), sum(part.steps * part.low for part in parts))
    most = min(float(highs[high]), sum(part.steps * part.high for part in parts))
    widest = max(most - least, *(part.high - part.low for part in parts))
    return _Grid(cells, _SLACK * widest / (cells - 4), np.array([-tilts[low], tilts[high]]))


def _losses(law: _Law) -> Array:
    return law.low + law.width * np.arange(len(law.masses), dtype=float)


def _edges(part: _Part, width: float) -> Array:
    cells = max(1, math.ceil((part.high - part.low) / width))
    return part.low + width * np.arange(cells + 1, dtype=float)


def _above(part: _Part, width: float) -> _Law:
    """Return the alternative of a pair that is at least as easy to tell apart as one step.

    The mass of each cell is divided between its two ends so that the masses of both distributions remain.
    The null's masses are e^-loss times these.

    References:
        Doroshenko et al. (2022), Connect the Dots: Tighter Discrete Approximations of Privacy Loss
        Distributions, Algorithm 1.
    """
    losses = _edges(part, width)
    null, alternative = part.step.cells(losses)
    inner = alternative[1:-1]
    with np.errstate(over="ignore"):
        lowest = np.exp(losses[:-1] + null[1:-1])  # what the alternative would be at the cell's lower end
    up = np.clip((inner - lowest) / -math.expm1(-width), 0.0, inner)
    masses = np.append(inner - up, 0.0)
    masses[1:] += up
    masses[0] += alternative[0]
    return _Law(masses, float(alternative[-1]), part.low, width, part.steps)


def _below(part: _Part, width: float) -> tuple[_Law, _Law, float]:
    """Return the law of a test's statistic: the loss of one step, rounded to the middle of its cell.

    The first is the alternative, the second the null times e^(statistic - scale), the third is the scale.
    Untilted, the null would be smaller than the rounding of the transform where false positives are rare.
    """
    edges = _edges(part, width)
    null, alternative = part.step.cells(edges)
    inner, log_null = alternative[1:-1].copy(), null[1:-1].copy()
    inner[0] += alternative[0]
    log_null[0] = np.logaddexp(log_null[0], null[0])
    middles = part.low + width / 2
    weights = log_null + middles + width * np.arange(len(inner))
    scale = float(np.logaddexp.reduce(weights))
    law = functools.partial(_Law, low=middles, width=width, steps=part.steps)
    return law(inner, float(alternative[-1])), law(np.exp(weights - scale), float(np.exp(null[-1]))), scale


def _upper(parts: Sequence[_Part], grid: _Grid) -> Curve:
    laws = [_above(part, grid.width) for part in parts]
    start = _start(laws, grid)
    masses = _composed(laws, grid, start)
    null = np.where(masses > 0, np.exp(np.minimum(-_sums(laws, grid, start), 700.0)) * masses, 0.0)
    lost = _lost(laws, grid, start)
    margin = lost * (1 + math.exp(min(grid.width, 50.0)))  # a false positive rate is worth e^loss in power
    return _curve((0.0, null, np.zeros(grid.cells)), (_ever(laws), masses), margin=margin)


def _lower(parts: Sequence[_Part], grid: _Grid) -> Curve:
    present, absent, scales = zip(*(_below(part, grid.width) for part in parts), strict=True)
    start = _start(present, grid)
    masses, weighted = (_composed(laws, grid, start) for laws in (present, absent))
    scale = sum(part.steps * value for part, value in zip(parts, scales, strict=True))
    exponents = np.minimum(scale - _sums(absent, grid, start), 700.0)
    null = np.where(weighted > 0, np.exp(exponents) * weighted, 0.0)
    lost = _lost(absent, grid, start) * np.exp(exponents)
    return _curve((_ever(absent), null, lost), (_ever(present), masses), margin=-_lost(present, grid, start))


def _curve(null: tuple[float, Array, Array], alternative: tuple[float, Array], *, margin: float) -> Curve:
    """Return the curve of the tests that reject large losses: certain ones first, then from the top.

    Args:
        null: mass on infinite loss, masses on the grid, and a bound on the mass missing above each point.
        alternative: mass on infinite loss and masses on the grid.
        margin: of the powers.
    """
    surely, masses, lost = null
    rates = np.concatenate(([0.0, surely], surely + np.cumsum(masses[::-1]) + lost[::-1]))
    surely, masses = alternative
    powers = np.concatenate(([0.0, surely], surely + np.cumsum(masses[::-1])))
    first = 1 if rates[1] == 0 else 0
    end = int(np.searchsorted(rates, 1.0)) + 1
    return Curve(
        rates=np.minimum(rates[first:end], 1.0), powers=np.minimum(powers[first:end], 1.0), margin=margin
    )


def _ever(laws: Sequence[_Law]) -> float:
    """Return the probability of infinite loss in any step."""
    logs = [law.steps * math.log1p(-law.certain) if law.certain < 1 else -math.inf for law in laws]
    return -math.expm1(sum(logs))


def _offset(laws: Sequence[_Law]) -> float:
    return sum(law.steps * law.low for law in laws)


def _start(laws: Sequence[_Law], grid: _Grid) -> int:
    """Return the index of the first grid point that the transform is to return."""
    tilt = grid.tilts[:1]
    moments = sum(float(law.log_moments(tilt)[0]) for law in laws)
    least = (moments - math.log(_TAIL)) / float(tilt[0])
    return max(0, math.floor((least - _offset(laws)) / grid.width))


def _sums(laws: Sequence[_Law], grid: _Grid, start: int) -> Array:
    """Return the losses of the grid points."""
    return _offset(laws) + grid.width * (start + np.arange(grid.cells, dtype=float))


def _composed(laws: Sequence[_Law], grid: _Grid, start: int) -> Array:
    """Return the masses of the sum of all steps' losses on the grid points from index ``start`` on."""
    # The sum of independent losses is a convolution, and a power of the spectrum convolves equal steps. The
    # transform is circular: masses beyond the grid fold back into it, which _lost bounds.
    spectrum = functools.reduce(
        np.multiply, (_power(np.fft.rfft(law.masses, grid.cells), law.steps) for law in laws)
    )
    return np.maximum(np.roll(np.fft.irfft(spectrum, grid.cells), -(start % grid.cells)), 0.0)


def _power(values: npt.NDArray[np.complex128], exponent: int) -> npt.NDArray[np.complex128]:
    """Return values ** exponent by squaring: exact to rounding, and faster than through logarithms."""
    found = np.ones_like(values)
    for bit in bin(exponent)[2:]:
        found = found * found
        if bit == "1":
            found = found * values
    return found


def _lost(laws: Sequence[_Law], grid: _Grid, start: int) -> float:
    """Return a bound on the masses that the transform misplaces.

    It covers rounding and, by Chernoff's bound, the masses outside the grid's range, which fold back into it.
    """
    last = start + grid.cells
    outside = np.array([start - 1, last])  # the nearest grid points that are left out
    reached = np.array([start > 0, last <= sum(law.steps * (len(law.masses) - 1) for law in laws)])
    exponents = sum(law.log_moments(grid.tilts) for law in laws) - grid.tilts * (
        _offset(laws) + grid.width * outside
    )
    folded = float(np.exp(np.minimum(exponents, 0.0))[reached].sum())
    return folded + _LOST * (8 * math.sqrt(grid.cells) + sum(law.steps for law in laws))
