"""Encodings: a contribution as the numbers that secure aggregation adds up, and what their sum says.

Masks and shares add integers of a ring (:class:`RingEncoding`), CKKS adds floating-point numbers
(:class:`CkksEncoding`). Both carry the update, the units and the metrics of a site in one vector.

>>> one = Contribution(np.array([0.5, -0.25], np.float32), units=30)
>>> two = Contribution(np.array([0.1, 0.75], np.float32), units=10)
>>> encoding = RingEncoding(quantiser(AggregationConfig.of(clip=1.0), sites=3))
>>> total = encoding.decode(encoding.encode(one) + encoding.encode(two))
>>> total.units, [round(float(value), 3) for value in total.mean]
(40, [0.4, 0.0])
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from meninx.core.errors import DataError, expected, problem
from meninx.federated.config import MOST_UNITS, AggregationConfig
from meninx.federated.contribution import METRICS, MOST_LOSS, Contribution, RoundSum
from meninx.secagg import Quantiser
from meninx.secagg.ckks import LARGEST_VALUE, Values
from meninx.secagg.masks import Ring

_SLACK = 1.01  # CKKS is not exact


def quantiser(config: AggregationConfig, sites: int) -> Quantiser:
    """Return how the contributions of a study become integers.

    Args:
        config: of the study.
        sites: sites of the roster.
    """
    return Quantiser(
        clip=config.clip, sites=sites, bits=config.ring_bits, max_weight=config.most_units, metrics=METRICS,
        metric_clip=MOST_LOSS,
    )  # fmt: skip


@dataclass(frozen=True)
class RingEncoding:
    """Contributions as integers of a ring.

    Attributes:
        quantiser: of the study.
    """

    quantiser: Quantiser

    def encode(self, given: Contribution) -> Ring:
        """Return the ring elements of a contribution.

        Raises:
            DataError: the update is not finite, or the site has more units than the study allows.
        """
        metrics = given.metrics(self.quantiser.clip)
        return self.quantiser.encode(given.update, given.units, metrics)

    def decode(self, total: Ring) -> RoundSum:
        """Return what a sum says.

        Raises:
            DataError: no sum of contributions has this value.
        """
        found = self.quantiser.decode(total)
        return RoundSum.of_means(found.mean, found.weight, found.metrics)

    def elements(self, total: bytes) -> Ring:
        """Return the ring elements of a published sum.

        Raises:
            DataError: it is cut off.
        """
        width = self.quantiser.bits // 8
        if len(total) % width:
            raise DataError(problem("the published sum is damaged", where="sum"))
        return np.frombuffer(total, f"<u{width}")

    def shape(self, size: int) -> tuple[int, int]:
        """Return elements and bits of the vector of a model of ``size`` numbers."""
        return self.quantiser.length(size), self.quantiser.bits


@dataclass(frozen=True)
class CkksEncoding:
    """Contributions as floating-point numbers in the range of CKKS.

    Attributes:
        clip: largest change of a weight in one round.
        most_units: units that a site has at most.
    """

    clip: float
    most_units: int = MOST_UNITS[32]

    @property
    def scale(self) -> float:
        """Power of two, at most 1, by which contributions are multiplied to stay in the range of CKKS.

        >>> CkksEncoding(0.5).scale, CkksEncoding(8.0).scale
        (0.125, 0.125)
        """
        largest = self.most_units * max(self.clip, MOST_LOSS)
        return float(2.0 ** min(0.0, np.floor(np.log2(LARGEST_VALUE / largest))))

    def encode(self, given: Contribution) -> Values:
        """Return the values of a contribution, float64.

        Raises:
            DataError: the update is not finite, or the site has more units than the study allows.
        """
        if given.units > self.most_units:
            rule = f"at most {self.most_units} units"
            raise DataError(expected(rule, got=given.units, where="weight"))
        values = given.plain(self.clip).astype(np.float64)
        values[-METRICS - 1] = 1.0  # the place of the units, which multiply everything
        values *= given.units * self.scale
        return values

    def decode(self, total: Values) -> RoundSum:
        """Return what a sum says.

        Raises:
            DataError: it is not finite, no site has a unit, or a mean is beyond the clip.
        """
        total = total / self.scale
        if len(total) <= METRICS or not np.isfinite(total).all():
            raise DataError(problem("the sum has another length, or is not finite", where="round"))
        units = round(float(total[-METRICS - 1]))
        if units < 1:
            raise DataError(problem("the sum has no unit", where="round"))
        means = total / units
        mean = means[: -METRICS - 1].astype(np.float32)
        if (np.abs(mean) > _SLACK * self.clip).any():
            what = f"expected means of at most {self.clip:g}, got a larger one"
            raise DataError(problem(what, where="round"))
        return RoundSum.of_means(mean, units, [float(value) for value in means[-METRICS:]])
