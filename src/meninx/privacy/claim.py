"""The guarantee that an audit tests: an (epsilon, delta) alone, or the mechanism behind it.

The claimed mechanism says much more than its epsilon: a curve of the largest power at every false positive
rate. With 1,000 canaries no audit in one run refutes an epsilon of 10, but the curve of the same run is
refuted when half of its noise is missing.
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
from meninx.core.errors import ConfigError, expected
from meninx.privacy import accounting
from meninx.privacy.accounting import Phase

Array = npt.NDArray[np.float64]

_LOSSES = np.concatenate([np.arange(0.0, 2.0, 0.02), np.geomspace(2.0, 60.0, 120)])
"""Epsilons at which the curve of a mechanism is bounded: a line for each."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A guarantee for adding or removing one unit.

    Example::

        >>> claim = Claim.of_mechanism([Phase(sample_rate=0.05, noise_multiplier=1.2, steps=200)], delta=1e-5)
        >>> round(claim.epsilon, 2), round(claim.advantage, 2), round(claim.mu, 2)
        (3.38, 0.27, 0.69)

    Guarantee: no test of whether one unit took part has more power than :meth:`power` at any false positive
        rate, if the claim is true.

    Attributes:
        epsilon: claimed, >= 0; may be infinite for a mechanism.
        delta: in (0, 1).
        phases: the mechanism; empty when only epsilon and delta are claimed.
    """

    epsilon: float
    delta: float
    phases: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        check.open_unit(delta=self.delta)
        if not self.epsilon >= 0 or (math.isinf(self.epsilon) and not self.phases):
            raise ConfigError(expected("a finite epsilon >= 0", got=self.epsilon, where="claimed epsilon"))

    @classmethod
    def of_mechanism(cls, phases: Iterable[Phase], *, delta: float) -> Claim:
        """Return what Poisson-sampled Gaussian steps guarantee."""
        merged = accounting.merge(phases)
        if not merged:
            raise ConfigError(expected("at least one step", got="none", where="the claimed mechanism"))
        return cls(epsilon=accounting.epsilon(merged, delta).value, delta=delta, phases=merged)

    @functools.cached_property
    def lines(self) -> tuple[Array, Array]:
        """Slopes and intercepts of lines, each of which bounds the power at every false positive rate."""
        losses, deltas = np.array([self.epsilon]), np.array([self.delta])
        if self.phases:
            delta_at = accounting.delta_curve(self.phases)
            losses, deltas = _LOSSES, np.array([delta_at(float(value)) for value in _LOSSES])
        small = np.exp(-losses)
        return np.concatenate([1 / small, small]), np.concatenate([deltas, 1 - small * (1 - deltas)])

    def power(self, rates: npt.ArrayLike) -> Array:
        """Return the largest power at false positive rates, of their shape."""
        slopes, intercepts = self.lines
        wanted = np.asarray(rates, dtype=np.float64)
        least: Array = (wanted[..., None] * slopes + intercepts).min(-1)
        return np.minimum(1.0, least)

    def least_rate(self, power: float) -> float:
        """Return the least false positive rate at which a power is allowed; the inverse of :meth:`power`."""
        slopes, intercepts = self.lines
        return float(min(1.0, max(0.0, ((power - intercepts) / slopes).max())))

    @functools.cached_property
    def advantage(self) -> float:
        """Largest power minus false positive rate."""
        if not self.phases:
            return (math.expm1(self.epsilon) + 2 * self.delta) / (math.exp(self.epsilon) + 1)
        return float(self.lines[1][0])  # delta at epsilon 0

    @functools.cached_property
    def area(self) -> float:
        """Largest area under the ROC curve."""
        return self.moments[0]

    @functools.cached_property
    def moments(self) -> tuple[float, float, float]:
        """Area under the curve, and what its variance in a sample depends on.

        Returns:
            The probabilities that an included canary scores above an excluded one, that two included ones
            both do, and that one included one scores above two excluded ones.
        """
        return curve_moments(*self._points)

    @functools.cached_property
    def mu(self) -> float:
        """Distance of two unit normals with the same area; infinite without noise."""
        return area_mu(self.area)

    @functools.cached_property
    def _points(self) -> tuple[Array, Array]:
        ends = np.geomspace(1e-12, 0.5, 3_000)
        rates = np.concatenate([[0.0], ends, 1 - ends[-2::-1], [1.0]])
        return rates, self.power(rates)


def curve_moments(rates: Array, powers: Array) -> tuple[float, float, float]:
    """Return the area below a concave curve from (0, .) to (1, 1), and its two second moments.

    A jump at rate 0 counts as a rise there.
    """
    width, middle = np.diff(rates), (powers[1:] + powers[:-1]) / 2
    rise = np.diff(powers, prepend=0.0)
    before = np.concatenate([[0.0], rates])
    centre = (before[1:] + before[:-1]) / 2
    area, both = float((width * middle).sum()), float((width * middle**2).sum())
    return min(1.0, area), min(1.0, both), min(1.0, float((rise * (1 - centre) ** 2).sum()))


def area_mu(area: float) -> float:
    """Return the distance of two unit normals whose ROC curve has an area; negative below one half."""
    return float(math.sqrt(2) * special.ndtri(area))
