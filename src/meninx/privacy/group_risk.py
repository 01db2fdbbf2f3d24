"""Upper limits for any attack on a person with several of the units that a guarantee is for.

A guarantee for one case bounds an attack on a patient with k cases. The cases are added one after the other,
and each of them raises the success of a test by gamma at most, whatever the data were before::

    >>> from meninx.privacy.accounting import Phase
    >>> from meninx.privacy.risk import risk_curve
    >>> curve = risk_curve([Phase(sample_rate=1.0, noise_multiplier=10.0, steps=1)], rates=[0.01])
    >>> one, three = (GroupRisk(curve=curve, size=size).gamma(0.01) for size in (1, 3))
    >>> round(one.upper, 3), round(three.upper, 3)
    (0.013, 0.021)

The exact limit of the group is at most this, and equal to it for steps without sampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from meninx.core import check
from meninx.privacy.loss_distribution import Array, Curve
from meninx.privacy.risk import Bracket, RiskCurve

MOST = 10_000
"""Largest group that is composed. The cost grows with the size, and the bound is 1 long before it."""
_GRID = 2**15


@dataclass(frozen=True, kw_only=True)
class GroupRisk:
    """What a guarantee for one unit allows an attack on a group of ``size`` units.

    Guarantee:
        With P_i the law of the models with i units of the group, every event E satisfies
        ``P_(i+1)(E) <= gamma(P_i(E))``, where gamma is the upper curve for one unit, which holds for every
        dataset that the unit is added to. gamma increases, so ``P_k(E) <= gamma(...gamma(P_0(E)))``. The
        other direction, a bound on ``P_0(E)`` by ``P_k(E)``, is the inverse of this function. It says the
        same of a test, whose false positive and true positive rate are those of E.

    Attributes:
        curve: limits for one unit.
        size: number of units of the group, from 1 to ``MOST``.
    """

    curve: RiskCurve
    size: int

    def __post_init__(self) -> None:
        """Refuse a group without a unit, or one that is too large to compute."""
        check.positive(size=self.size)
        check.positive(most=MOST + 1 - self.size)

    def gamma(self, kappa: float) -> Bracket:
        """Return the largest success on the group of a guess that succeeds with probability ``kappa``.

        ``upper`` is the guarantee. ``lower`` composes the lower curve: the composition lies between the two.
        """
        check.probability(kappa=kappa)
        lower = float(self._composed(self.curve.lower, np.array([kappa]))[0])
        upper = float(self._composed(self.curve.upper, np.array([kappa]))[0])
        return Bracket(value=upper, lower=min(lower, upper), upper=upper)

    def advantage(self) -> Bracket:
        """Return the largest TPR - FPR of a membership test on the group, as :meth:`gamma`."""
        low = np.geomspace(1e-9, 1e-3, 2**12)
        grid = np.concatenate([[0.0], low[:-1], np.linspace(1e-3, 1.0, _GRID)])
        lower = self._composed(self.curve.lower, grid) - grid
        # Between two rates the power is at most that of the upper one.
        upper = self._composed(self.curve.upper, grid)[1:] - grid[:-1]
        most = float(np.clip(upper.max(), 0.0, 1.0))
        return Bracket(value=most, lower=float(np.clip(lower.max(), 0.0, most)), upper=most)

    def _composed(self, curve: Curve, rates: Array) -> Array:
        for _ in range(self.size):
            rates = curve.power(rates)
            if rates.min() >= 1:
                break
        return rates
