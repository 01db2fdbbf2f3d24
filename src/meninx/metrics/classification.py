"""Point metrics of scores and decisions: confusion counts and rates, AUROC, average precision, Brier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected, problem


@dataclass(frozen=True)
class Counts:
    """True and false positives and negatives, as arrays of equal shape (a number, or one entry per draw)."""

    tp: Array
    fp: Array
    fn: Array
    tn: Array

    def share(self, name: str) -> tuple[Array, Array]:
        """Return numerator and denominator of a rate in :data:`SHARES`."""
        above, below = (
            np.sum([getattr(self, part) for part in parts.split()], axis=0) for parts in SHARES[name]
        )
        return above, below


def ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> Array:
    """Return ``above / below``, and NaN where ``below`` is 0, since the rate is undefined there."""
    top, bottom = np.broadcast_arrays(
        np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    )
    values = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=values, where=bottom != 0)
    return values


def accuracy(counts: Counts) -> Array:
    """Return the share of correct decisions."""
    return ratio(counts.tp + counts.tn, counts.tp + counts.tn + counts.fp + counts.fn)


def sensitivity(counts: Counts) -> Array:
    """Return the share of positives that were called positive (true positive rate, recall)."""
    return ratio(counts.tp, counts.tp + counts.fn)


def specificity(counts: Counts) -> Array:
    """Return the share of negatives that were called negative."""
    return ratio(counts.tn, counts.tn + counts.fp)


def false_positive_rate(counts: Counts) -> Array:
    """Return the share of negatives that were called positive."""
    return ratio(counts.fp, counts.tn + counts.fp)


def precision(counts: Counts) -> Array:
    """Return the share of positive calls that were correct; undefined without a positive call."""
    return ratio(counts.tp, counts.tp + counts.fp)


def balanced_accuracy(counts: Counts) -> Array:
    """Return the mean of sensitivity and specificity."""
    return (sensitivity(counts) + specificity(counts)) / 2


def f1(counts: Counts) -> Array:
    """Return the harmonic mean of precision and sensitivity; undefined without any positive case or call."""
    return ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def selection_rate(counts: Counts) -> Array:
    """Return the share of cases that were called positive."""
    return ratio(counts.tp + counts.fp, counts.tp + counts.tn + counts.fp + counts.fn)


def mcc(counts: Counts) -> Array:
    """Return Matthews' correlation: undefined with a single true class, 0 if all calls are the same.

    References:
        B. W. Matthews, Biochimica et Biophysica Acta 405 (1975) 442-451.
    """
    positives, negatives = counts.tp + counts.fn, counts.tn + counts.fp
    called, uncalled = counts.tp + counts.fp, counts.tn + counts.fn
    both = (positives > 0) & (negatives > 0)
    below = np.sqrt(positives) * np.sqrt(negatives) * np.sqrt(called) * np.sqrt(uncalled)
    value = ratio(counts.tp * counts.tn - counts.fp * counts.fn, below)
    return np.where(both, np.where(below > 0, value, 0.0), np.nan)


METRICS: Mapping[str, Callable[[Counts], Array]] = MappingProxyType(
    {
        "accuracy": accuracy,
        "balanced_accuracy": balanced_accuracy,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": precision,
        "f1": f1,
        "mcc": mcc,
        "false_positive_rate": false_positive_rate,
        "selection_rate": selection_rate,
    }
)
"""Every metric that is a function of the four counts, by name."""

SHARES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "accuracy": ("tp tn", "tp tn fp fn"),
        "sensitivity": ("tp", "tp fn"),
        "specificity": ("tn", "tn fp"),
        "precision": ("tp", "tp fp"),
        "false_positive_rate": ("fp", "tn fp"),
        "selection_rate": ("tp fp", "tp tn fp fn"),
    }
)
"""The metrics that are rates, with the counts of numerator and denominator. Their intervals are valid near 0
and 1, too."""


Index = npt.NDArray[np.intp]
Weights = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ranking:
    """The rank of each positive among the negatives and among the positives.

    Attributes:
        positives: rows of the positive cases, by ascending score.
        negatives: rows of the negative cases, by ascending score.
        below: for each positive, the number of negatives with a lower score.
        through: for each positive, the number of negatives with a lower or equal score.
        own: for each positive, the number of positives with a lower score.
    """

    positives: Index
    negatives: Index
    below: Index
    through: Index
    own: Index

    @classmethod
    def of(cls, truth: npt.ArrayLike, scores: npt.ArrayLike) -> Ranking:
        """Return the ranking of ``scores`` (cases,) against ``truth`` (cases,); NaN is left out."""
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
        """Whether both classes occur."""
        return bool(self.positives.size and self.negatives.size)

    def auroc(self, of_positives: Weights, of_negatives: Weights) -> Array:
        """Return the area under the ROC curve of weighted cases; NaN if a class has no weight.

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

    def placements(self, of_negatives: Weights) -> Array:
        """Return the share of negatives that each positive outranks, ties counted half; NaN without weight.

        Args:
            of_negatives: weights of :attr:`negatives`, shape (..., negatives); whole numbers >= 0.

        Returns:
            Shape (..., positives), in the order of :attr:`positives`. The weighted mean is the AUROC.
        """
        total = _running(of_negatives)
        beaten = total.take(self.below, axis=-1) + total.take(self.through, axis=-1)
        return ratio(beaten, 2.0 * total[..., -1:])

    def average_precision(self, of_positives: Weights, of_negatives: Weights) -> Array:
        """Return the mean precision over the positives (no interpolation), shape (...); NaN without any."""
        own, total = _running(of_positives), _running(of_negatives)
        true = own[..., -1:] - own.take(self.own, axis=-1)
        called = true + total[..., -1:] - total.take(self.below, axis=-1)
        share = np.divide(true, called, out=np.zeros(true.shape), where=called > 0)
        return ratio(np.einsum("...i,...i->...", share, of_positives), own[..., -1])

    def curve(self, grid: npt.ArrayLike) -> Array:
        """Return the true positive rate at each false positive rate of ``grid``, linearly interpolated."""
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
    """Return the highest y at each grid x, interpolated between the corners of an increasing staircase."""
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


Array = npt.NDArray[np.float64]


def auroc(truth: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the area under the ROC curve, ties counted half; NaN with a single class.

    Args:
        truth: shape (cases,), 1, 0, or NaN for unknown (left out).
        scores: shape (cases,), any finite numbers; larger means positive.

    Raises:
        DataError: the shapes differ, or a score is not finite.

    Examples:
        >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
        0.75
    """
    ranking = _ranking(truth, scores)
    return float(ranking.auroc(_ones(ranking.positives), _ones(ranking.negatives)))


def average_precision(truth: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the mean over positives of the precision at their score (no interpolation); NaN without any."""
    ranking = _ranking(truth, scores)
    return float(ranking.average_precision(_ones(ranking.positives), _ones(ranking.negatives)))


def brier(truth: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the mean squared difference of probability and truth, in [0, 1]; unknown truth left out."""
    truth_, scores = checked(truth, probabilities)
    known = ~np.isnan(truth_)
    return float(np.mean((scores[known] - truth_[known]) ** 2)) if known.any() else float("nan")


def confusion_counts(truth: npt.ArrayLike, calls: npt.ArrayLike) -> Counts:
    """Return the four confusion counts of ``calls`` (cases,), true or false; unknown truth left out."""
    truth_, called = np.asarray(truth, dtype=np.float64), np.asarray(calls, dtype=bool)
    if truth_.shape != called.shape:
        raise DataError(
            expected(f"one call per case, shape {truth_.shape}", got=f"shape {called.shape}", where="calls")
        )
    yes, no = truth_ == 1, truth_ == 0
    pairs = ((yes & called), (no & called), (yes & ~called), (no & ~called))
    return Counts(*(np.asarray(np.count_nonzero(pair), dtype=np.float64) for pair in pairs))


def rate(name: str, truth: npt.ArrayLike, calls: npt.ArrayLike) -> float:
    """Return one metric of :data:`METRICS` for calls (cases,) against truth (cases,).

    Examples:
        >>> rate("sensitivity", [1, 1, 0, 0], [True, False, False, False])
        0.5
    """
    return float(METRICS[name](confusion_counts(truth, calls)))


def confusion(truth: npt.ArrayLike, calls: npt.ArrayLike, classes: int) -> npt.NDArray[np.int64]:
    """Return the confusion matrix, shape (classes, classes): row = true class, column = called class.

    Args:
        truth: shape (cases,), class numbers 0 .. classes - 1.
        calls: shape (cases,), class numbers.
        classes: number of classes.
    """
    true, called = np.asarray(truth, dtype=np.int64), np.asarray(calls, dtype=np.int64)
    return (
        np.bincount(true * classes + called, minlength=classes * classes)
        .reshape(classes, classes)
        .astype(np.int64)
    )


def mean_defined(values: npt.ArrayLike) -> Array:
    """Return the mean over the last axis of the values that are not NaN; NaN where all are."""
    array = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(array)
    total, number = np.where(known, array, 0.0).sum(axis=-1), known.sum(axis=-1)
    return ratio(total, number)


def checked(truth: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Array, Array]:
    """Return both as float arrays of one shape.

    Raises:
        DataError: the shapes differ, or the score of a known case is not finite; the message names the first
            such row.
    """
    truth_, scores_ = np.asarray(truth, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if truth_.shape != scores_.shape:
        raise DataError(
            expected(f"scores of shape {truth_.shape}", got=f"shape {scores_.shape}", where="scores")
        )
    if not np.isin(truth_[~np.isnan(truth_)], (0.0, 1.0)).all():
        raise DataError(problem("a label is not 0, 1 or unknown (NaN)", where="truth"))
    bad = np.argwhere(~np.isfinite(scores_) & ~np.isnan(truth_))
    if bad.size:
        fix = "the model gave NaN or infinity: look at its training"
        raise DataError(
            expected("finite scores", got="NaN or infinity", where=f"row {int(bad[0][0])}", fix=fix)
        )
    return truth_, scores_


def checked_table(
    values: npt.ArrayLike, patient_index: npt.ArrayLike, labels: Sequence[str], *, where: str
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return values (cases, labels) as floats and the patients renumbered without gaps, shape (cases,).

    Raises:
        DataError: there is no case, or a shape is wrong.
    """
    table, patient = np.asarray(values, dtype=np.float64), np.asarray(patient_index, dtype=np.int64)
    if table.ndim != 2 or table.shape[1] != len(labels) or not len(table):
        raise DataError(
            expected(f"at least one case and {len(labels)} labels", got=f"shape {table.shape}", where=where)
        )
    if patient.shape != (len(table),):
        what = f"one patient per case, shape ({len(table)},)"
        raise DataError(expected(what, got=f"shape {patient.shape}", where="patient_index"))
    return table, np.unique(patient, return_inverse=True)[1].astype(np.int64)


def _ranking(truth: npt.ArrayLike, scores: npt.ArrayLike) -> Ranking:
    return Ranking.of(*checked(truth, scores))


def _ones(rows: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
    return np.ones(rows.size, dtype=np.int64)
