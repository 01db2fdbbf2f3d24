"""The guarantee that an audit tests: an (epsilon, delta) alone, or the mechanism behind it.

A mechanism is a stronger claim than its epsilon: it bounds the power of a test at every false positive rate.
With 1,000 canaries no audit of a single run refutes an epsilon of 10, but it refutes the curve of the same
run when half of the noise is missing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from meninx.core import check
from meninx.core.errors import ConfigError, expected, problem
from meninx.privacy import accounting
from meninx.privacy.accounting import Phase
from meninx.privacy.risk import risk_curve

Array = npt.NDArray[np.float64]

_LEAST_RATE = 1e-4  # even 100,000 canaries give no evidence about lower false positive rates


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A guarantee for adding or removing one unit.

    Example::

        >>> claim = Claim.of_mechanism([Phase(sample_rate=0.05, noise_multiplier=1.2, steps=200)], delta=1e-5)
        >>> round(claim.epsilon, 2), round(claim.advantage, 2), round(claim.mu, 2)
        (3.38, 0.27, 0.69)

    Guarantee: if the claim is true, no test of whether one unit took part has more power than :meth:`power`
        at any false positive rate.

    Attributes:
        epsilon: claimed, >= 0 and finite.
        delta: in (0, 1).
        phases: the mechanism; empty when only epsilon and delta are claimed.
    """

    epsilon: float
    delta: float
    phases: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        check.open_unit(delta=self.delta)
        if not 0 <= self.epsilon < math.inf:
            raise ConfigError(expected("a finite epsilon >= 0", got=self.epsilon, where="the claim"))

    @classmethod
    def of_mechanism(cls, phases: Iterable[Phase], *, delta: float) -> Claim:
        """Return what Poisson-sampled Gaussian steps guarantee."""
        merged = accounting.merge(phases)
        if not merged:
            raise ConfigError(problem("there is no step", where="the claimed mechanism"))
        return cls(epsilon=accounting.epsilon(merged, delta).value, delta=delta, phases=merged)

    @functools.cached_property
    def curve(self) -> tuple[Array, Array]:
        """Corners of the curve: false positive rates and powers, each of shape (corners,).

        The power of a test between "absent" and "present" depends on which of the two is the null hypothesis.
        The curve is the least concave one above both.
        """
        if self.phases:
            upper = risk_curve(self.phases, rates=[_LEAST_RATE]).upper
            rates, powers = upper.rates, np.clip(upper.powers + upper.margin, upper.rates, 1.0)
        else:
            rate = (1 - self.delta) / (1 + math.exp(min(self.epsilon, 700.0)))
            rates, powers = np.array([0.0, rate]), np.array([self.delta, 1 - rate])
        # (rate, power) of one null is (1 - power, 1 - rate) of the other: the same test with its errors
        # exchanged.
        rates = np.concatenate([rates, 1 - powers, [0.0, 1.0]])
        powers = np.concatenate([powers, 1 - rates[: len(powers)], [0.0, 1.0]])
        return _hull(rates, powers)

    def power(self, rates: npt.ArrayLike) -> Array:
        """Return the largest power at false positive rates, of their shape."""
        found: Array = np.interp(np.asarray(rates, dtype=np.float64), *self.curve)
        return found

    def least_rate(self, power: float) -> float:
        """Return the least false positive rate at which a power is allowed; the inverse of :meth:`power`."""
        rates, powers = self.curve
        return 0.0 if power <= powers[0] else float(np.interp(power, powers, rates))

    @functools.cached_property
    def advantage(self) -> float:
        """Largest power minus false positive rate."""
        rates, powers = self.curve
        return float((powers - rates).max())

    @functools.cached_property
    def area(self) -> float:
        """Largest area under the ROC curve."""
        return self.moments[0]

    @functools.cached_property
    def moments(self) -> tuple[float, float, float]:
        """Area under the curve and the two moments that determine its variance in a sample.

        Returns:
            The probabilities that an included canary scores above an excluded one, that two included ones
            both do, and that one included one scores above two excluded ones.
        """
        return curve_moments(*self.curve)

    @functools.cached_property
    def mu(self) -> float:
        """Distance of two unit normals with the same area; infinite where the curve allows everything."""
        return area_mu(self.area)


def curve_moments(rates: Array, powers: Array) -> tuple[float, float, float]:
    """Return the area below a piecewise linear curve from (0, .) to (1, 1), and its two second moments.

    A power above 0 at rate 0 counts as a jump of the curve there.
    """
    areas = np.diff(rates) * (powers[1:] + powers[:-1]) / 2
    squares = np.diff(rates) * (powers[1:] ** 2 + powers[1:] * powers[:-1] + powers[:-1] ** 2) / 3
    kept = 1 - rates
    rises = np.diff(powers) * (kept[1:] ** 2 + kept[1:] * kept[:-1] + kept[:-1] ** 2) / 3
    return float(areas.sum()), float(squares.sum()), float(powers[0] + rises.sum())


def area_mu(area: float) -> float:
    """Return the distance of two unit normals whose ROC curve has an area; negative below one half."""
    return float(math.sqrt(2) * special.ndtri(area))


def _hull(rates: Array, powers: Array) -> tuple[Array, Array]:
    """Return the corners of the least concave curve above some points, with powers that rise strictly."""
    corners: list[tuple[float, float]] = []
    for rate, power in sorted(zip(rates.tolist(), powers.tolist(), strict=True)):
        if corners and power <= corners[-1][1]:
            continue
        while corners and corners[-1][0] == rate:
            corners.pop()
        while len(corners) > 1 and _below(corners[-2], corners[-1], (rate, power)):
            corners.pop()
        corners.append((rate, power))
    if corners[-1][0] < 1:
        corners.append((1.0, corners[-1][1]))
    found = np.array(corners)
    return found[:, 0], found[:, 1]


def _below(first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]) -> bool:
    """Return whether the middle of three points lies on or below the line between the others."""
    rise = (last[1] - first[1]) * (middle[0] - first[0])
    return (middle[1] - first[1]) * (last[0] - first[0]) <= rise
