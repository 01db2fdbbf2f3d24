"""Contribution: what a site adds to the sum of a round: its weighted update, its weight, and a few metrics.

All of it is one float32 vector with values in [-clip, clip], so that it can be quantised, masked and added up
without anybody seeing a single site's part. The weight of a site and its loss travel inside the sum, too::

    [ w * update, cut to the clip ... | w, w * share of cut values, w_loss, w_loss * loss, each times clip ]

with ``w = units / bound``. A private site gives no loss: it is not covered by the guarantee.

>>> scale = Scale(clip=1.0)
>>> one = Contribution(np.array([0.5, -0.25], np.float32), units=30, loss=0.7)
>>> two = Contribution(np.array([0.1, 0.75], np.float32), units=10, loss=0.5)
>>> total = read(one.vector(scale) + two.vector(scale), scale)
>>> total.units, total.mean().round(3).tolist(), round(total.loss, 3)
(40, [0.4, 0.0], 0.65)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, problem
from meninx.federated.vector import Vector

EXTRA = 4  # slots behind the update
MOST_LOSS = 16.0
"""Largest training loss that a site reports; a larger one counts as this."""
MOST_UNITS = 1 << 14
"""Units that a site counts at most under numbers of 32 bits: a larger bound would cost precision."""


@dataclass(frozen=True)
class Scale:
    """Public numbers of a study that the contributions share.

    Attributes:
        clip: largest change of a weight in one round.
        units: units that a site counts at most.
    """

    clip: float
    units: int = MOST_UNITS


@dataclass(frozen=True)
class Contribution:
    """What a site gives to a round.

    Attributes:
        update: change of the common weights, float32.
        units: weight of the site, e.g. its patients; at least 1.
        loss: mean training loss; NaN to report none.
    """

    update: Vector
    units: int
    loss: float = math.nan

    def vector(self, scale: Scale) -> Vector:
        """Return the vector that the site adds to the sum, with values in [-clip, clip].

        Raises:
            DataError: the update is not finite, or the site has no unit.
        """
        update = self.update
        if not np.isfinite(update).all():
            raise DataError(problem("the update is not finite", where="round", fix="lower lr"))
        if self.units < 1:
            raise DataError(problem("the site has no unit to train on", where="training split"))
        weight = min(self.units, scale.units) / scale.units
        cut = float(np.mean(np.abs(update) > scale.clip)) if update.size else 0.0
        known = math.isfinite(self.loss)
        shown = min(max(self.loss, 0.0), MOST_LOSS) / MOST_LOSS if known else 0.0
        extra = np.array([weight, weight * cut, weight * known, weight * shown], np.float32)
        body = np.clip(update, -scale.clip, scale.clip) * np.float32(weight)
        return np.concatenate([body, extra * np.float32(scale.clip)]).astype(np.float32, copy=False)


@dataclass(frozen=True)
class RoundSum:
    """What the sum of a round says.

    Attributes:
        update: sum of the sites' updates times their weights, float64.
        weight: sum of the weights; the mean update is ``update / weight``.
        units: units of all sites together.
        loss: mean training loss, weighted by units, of the sites that report one; NaN without any.
        cut: share of the weights' changes that were cut to the clip, in [0, 1].
    """

    update: npt.NDArray[np.float64]
    weight: float
    units: int
    loss: float = math.nan
    cut: float = 0.0

    def mean(self) -> npt.NDArray[np.float64]:
        """Return the mean update, weighted by units."""
        return self.update / self.weight


def read(total: npt.NDArray[np.floating], scale: Scale) -> RoundSum:
    """Return what a sum of contributions says.

    Raises:
        DataError: the sum is too short, not finite, or holds no weight.
    """
    if total.size < EXTRA or not np.isfinite(total).all():
        raise DataError(problem("the sum of the round is damaged", where="round"))
    weight, cut, reporting, loss = (float(value) / scale.clip for value in total[-EXTRA:])
    half = 0.5 / scale.units
    if weight < half:
        raise DataError(problem("the sum of the round holds no units", where="round"))
    return RoundSum(
        update=total[:-EXTRA].astype(np.float64),
        weight=weight,
        units=round(weight * scale.units),
        loss=loss / reporting * MOST_LOSS if reporting > half else math.nan,
        cut=min(max(cut / weight, 0.0), 1.0),
    )
