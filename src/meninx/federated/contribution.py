"""Contribution: what a site gives to a round, and what the sum of all contributions says.

The update, the weight of the site and a few metrics travel in one vector, so the same protection covers all
three. A private site reports no training loss, which its guarantee does not cover.

>>> one = Contribution(np.array([0.5, -0.25], np.float32), units=30, loss=0.7)
>>> two = Contribution(np.array([0.1, 0.75], np.float32), units=10)
>>> total = plain_sum([one.plain(clip=1.0), two.plain(clip=1.0)])
>>> total.units, [round(float(value), 3) for value in total.mean], round(total.loss, 3)
(40, [0.4, 0.0], 0.7)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meninx.core.errors import DataError, problem
from meninx.federated.vector import Vector

METRICS = 4
"""Metrics of a contribution: whether it reports a loss, the loss, the share of values that were cut, and
whether its site took fewer steps than the round has."""
MOST_LOSS = 16.0
"""Largest training loss that a site reports; a larger one counts as this."""
_TAIL = METRICS + 1


@dataclass(frozen=True)
class Contribution:
    """What a site gives to a round.

    Attributes:
        update: change of the common weights, float32.
        units: weight of the site, e.g. its patients; at least 1.
        loss: mean training loss; NaN to report none.
        model: digest of what the training began with (:func:`beginning`). Secure aggregation adds up only
            contributions of one beginning: a coordinator that gives one site another model than the others
            could read that site's update out of the sum.
        short: the site took fewer steps than the round has.
    """

    update: Vector
    units: int
    loss: float = math.nan
    model: bytes = b""
    short: bool = False

    def metrics(self, clip: float) -> tuple[float, ...]:
        """Return the metrics, :data:`METRICS` of them, each in [0, :data:`MOST_LOSS`]."""
        known = math.isfinite(self.loss)
        cut = self.beyond(clip) / max(self.update.size, 1)
        return (float(known), min(max(self.loss, 0.0), MOST_LOSS) if known else 0.0, cut, float(self.short))

    def beyond(self, clip: float) -> int:
        """Return how many values of the update are cut."""
        return int(np.count_nonzero(np.abs(self.update) > clip))

    def plain(self, clip: float) -> Vector:
        """Return the contribution as it is without secure aggregation: update, units and metrics.

        Args:
            clip: largest change of a weight; larger ones are cut.

        Raises:
            DataError: the update is not finite, or the site has no unit.
        """
        if not np.isfinite(self.update).all():
            raise DataError(problem("the update is not finite", where="round", fix="lower lr"))
        if self.units < 1:
            raise DataError(problem("the site has no unit to train on", where="training split"))
        tail = np.array([self.units, *self.metrics(clip)], np.float32)
        return np.concatenate([np.clip(self.update, -clip, clip), tail]).astype(np.float32, copy=False)


@dataclass(frozen=True)
class RoundSum:
    """What the sum of a round says.

    Attributes:
        mean: mean update of the sites, weighted by their units.
        units: units of all sites together.
        loss: mean training loss of the sites that report one, weighted by units; NaN without any.
        cut: share of the weights' changes that were cut to the clip, in [0, 1].
        short: share of the units whose sites took fewer steps than the round has, in [0, 1].
    """

    mean: Vector
    units: int
    loss: float = math.nan
    cut: float = 0.0
    short: float = 0.0

    @classmethod
    def of_means(cls, mean: Vector, units: int, metrics: Sequence[float]) -> RoundSum:
        """Return the sum from weighted means of updates and metrics."""
        reporting, loss, cut, short = metrics
        known = reporting > 1e-6
        shares = (min(max(share, 0.0), 1.0) for share in (cut, short))
        return cls(mean, units, loss / reporting if known else math.nan, *shares)


def plain_sum(contributions: Sequence[Vector]) -> RoundSum:
    """Return what plain contributions of one length say together, added up in their order.

    Raises:
        DataError: a contribution is damaged.
    """
    units = [int(vector[-_TAIL]) for vector in contributions]
    if not units or min(units) < 1 or not all(np.isfinite(vector).all() for vector in contributions):
        raise DataError(problem("a contribution is damaged", where="round"))
    total = sum(units)
    whole = np.zeros(len(contributions[0]), np.float64)
    for weight, vector in zip(units, contributions, strict=True):
        whole += vector.astype(np.float64) * (weight / total)
    return RoundSum.of_means(whole[:-_TAIL].astype(np.float32), total, whole[-METRICS:].tolist())


def beginning(model: bytes, until: int, horizon: int) -> bytes:
    """Return the digest of what a round's training begins with: the common weights, and how far it goes.

    References:
        Pasquini, Francati, Ateniese (2022), Eluding secure aggregation in federated learning via model
        inconsistency, CCS.
    """
    return hashlib.sha256(b"%d/%d\0" % (until, horizon) + model).digest()


def plain_length(size: int) -> int:
    """Return the numbers of a plain contribution to a model of ``size`` numbers."""
    return size + _TAIL
