"""One label's scores, sorted once, so that area under the curve is exact and fast for any weights of the cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.metrics.counts import ratio

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Weights = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ranking:
    """Where each positive stands among the negatives and among the positives.

    Attributes:
        positives: rows of the positive cases, by rising score.
        negatives: rows of the negative cases, by rising score.
        below: for each positive, how many negatives score less.
        through: for each positive, how many negatives score less or the same.
        own: for each positive, how many positives score less.
    """

    positives: Index
    negatives: Index
    below: Index
    through: Index
    own: Index

    @classmethod
    def of(cls, truth: npt.ArrayLike, scores: npt.ArrayLike) -> Ranking:
        """Return the ranking of ``scores`` (cases,) against ``truth`` (cases,): 1, 0, or NaN for unknown (left out)."""
        truth_, scores_ = np.asarray(truth, dtype=np.float64), np.asarray(scores, dtype=np.float64)
        positives, negatives = np.flatnonzero(truth_ == 1), np.flatnonzero(truth_ == 0)
        positives = positives[np.argsort(scores_[positives], kind="stable")]
        negatives = negatives[np.argsort(scores_[negatives], kind="stable")]
        high, low = scores_[positives], scores_[negatives]
        return cls(
            positives,
            negatives,
            below=np.searchsorted(low, high, side="left"),
            through=np.searchsorted(low, high, side="right"),
            own=np.searchsorted(high, high, side="left"),
        )

    @property
    def defined(self) -> bool:
        """Tell whether both classes are there."""
        return bool(self.positives.size and self.negatives.size)

    def auroc(self, of_positives: Weights, of_negatives: Weights) -> Array:
        """Return the area under the ROC curve when the cases weigh as given, NaN where a class weighs nothing.

        Args:
            of_positives: weights of :attr:`positives`, shape (..., positives); whole numbers >= 0.
            of_negatives: weights of :attr:`negatives`, shape (..., negatives).

        Returns:
            Areas, shape (...): one for each row of weights.

        References:
            The Mann-Whitney statistic with ties counted half, Hanley and McNeil, Radiology 143 (1982) 29-36.
        """
        total = _running(of_negatives)
        beaten = total.take(self.below, axis=-1)
        beaten += total.take(self.through, axis=-1)
        won = np.einsum("...i,...i->...", beaten, of_positives)
        return ratio(won, 2.0 * total[..., -1] * of_positives.sum(axis=-1))

    def average_precision(self, of_positives: Weights, of_negatives: Weights) -> Array:
        """Return the mean precision over the positives (no interpolation), shape (...).

        NaN without a positive.
        """
        own, total = _running(of_positives), _running(of_negatives)
        true = own[..., -1:] - own.take(self.own, axis=-1)
        called = true + total[..., -1:] - total.take(self.below, axis=-1)
        share = np.divide(true, called, out=np.zeros(true.shape), where=called > 0)
        return ratio(np.einsum("...i,...i->...", share, of_positives), own[..., -1])

    def curve(self, grid: npt.ArrayLike) -> Array:
        """Return the true positive rate at each false positive rate of ``grid``, straight lines between the corners."""
        if not self.defined:
            return np.full(np.shape(np.asarray(grid)), np.nan)
        positives, negatives = self.positives.size, self.negatives.size
        after = np.searchsorted(self.own, self.own, side="right")
        false_rate = (negatives - np.concatenate((self.through, self.below))) / negatives
        true_rate = (positives - np.concatenate((after, self.own))) / positives
        false_rate = np.concatenate(([0.0, 1.0], false_rate))
        true_rate = np.concatenate(([0.0, 1.0], true_rate))
        return _upper(false_rate, true_rate, np.asarray(grid, dtype=np.float64))


def _upper(x: Array, y: Array, grid: Array) -> Array:
    """Return the highest y at or interpolated to each grid x, for a rising staircase."""
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    last = np.append(x[1:] != x[:-1], True)
    first = np.insert(x[1:] != x[:-1], 0, True)
    corners_x, top, bottom = x[last], y[last], y[first]
    right = np.clip(np.searchsorted(corners_x, grid, side="left"), 0, corners_x.size - 1)
    left = np.maximum(right - 1, 0)
    width = corners_x[right] - corners_x[left]
    share = np.divide(grid - corners_x[left], width, out=np.zeros_like(grid), where=width > 0)
    between = top[left] + share * (bottom[right] - top[left])
    return np.asarray(np.where(grid == corners_x[right], top[right], between))


def _running(weights: Weights) -> Weights:
    """Return the sums of the first 0, 1, 2, ... weights along the last axis."""
    total = np.zeros((*weights.shape[:-1], weights.shape[-1] + 1), dtype=np.int64)
    np.cumsum(weights, axis=-1, out=total[..., 1:])
    return total
