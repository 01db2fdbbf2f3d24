"""How well scores and decisions agree with the truth: one label, several labels, several classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected
from meninx.metrics.counts import METRICS, Counts, ratio
from meninx.metrics.ranking import Ranking

Array = npt.NDArray[np.float64]


def auroc(truth: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the area under the ROC curve, ties counted half; NaN when only one class is there.

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
    """Return the mean over positives of the precision at their score (no interpolation).

    NaN without a positive.
    """
    ranking = _ranking(truth, scores)
    return float(ranking.average_precision(_ones(ranking.positives), _ones(ranking.negatives)))


def brier(truth: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the mean squared difference of probability and truth, in [0, 1]; unknown truth left out."""
    truth_, scores = checked(truth, probabilities)
    known = ~np.isnan(truth_)
    return float(np.mean((scores[known] - truth_[known]) ** 2)) if known.any() else float("nan")


def counts(truth: npt.ArrayLike, calls: npt.ArrayLike) -> Counts:
    """Return the four confusion counts of ``calls`` (cases,), true or false; unknown truth left out."""
    truth_, called = np.asarray(truth, dtype=np.float64), np.asarray(calls, dtype=bool)
    if truth_.shape != called.shape:
        raise DataError(
            expected(f"one call a case, shape {truth_.shape}", got=f"shape {called.shape}", where="calls")
        )
    yes, no = truth_ == 1, truth_ == 0
    pairs = ((yes & called), (no & called), (yes & ~called), (no & ~called))
    return Counts(*(np.asarray(np.count_nonzero(pair), dtype=np.float64) for pair in pairs))


def rate(name: str, truth: npt.ArrayLike, calls: npt.ArrayLike) -> float:
    """Return one metric of :data:`meninx.metrics.counts.METRICS` for calls (cases,) against truth (cases,).

    Examples:
        >>> rate("sensitivity", [1, 1, 0, 0], [True, False, False, False])
        0.5
    """
    return float(METRICS[name](counts(truth, calls)))


def confusion(truth: npt.ArrayLike, calls: npt.ArrayLike, classes: int) -> npt.NDArray[np.int64]:
    """Return the confusion matrix, shape (classes, classes): row = true class, column = called class.

    Args:
        truth: shape (cases,), class numbers 0 .. classes - 1.
        calls: shape (cases,), class numbers.
        classes: how many classes there are.
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
        DataError: the shapes differ, or the score of a known case is not finite; names the first such row.
    """
    truth_, scores_ = np.asarray(truth, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if truth_.shape != scores_.shape:
        raise DataError(
            expected(f"scores of shape {truth_.shape}", got=f"shape {scores_.shape}", where="scores")
        )
    if not np.isin(truth_[~np.isnan(truth_)], (0.0, 1.0)).all():
        raise DataError(expected("truth of 0, 1 or NaN", got="another number", where="truth"))
    bad = np.argwhere(~np.isfinite(scores_) & ~np.isnan(truth_))
    if bad.size:
        fix = "the model gave NaN or infinity: look at its training"
        raise DataError(
            expected("finite scores", got="NaN or infinity", where=f"row {int(bad[0][0])}", fix=fix)
        )
    return truth_, scores_


def _ranking(truth: npt.ArrayLike, scores: npt.ArrayLike) -> Ranking:
    return Ranking.of(*checked(truth, scores))


def _ones(rows: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
    return np.ones(rows.size, dtype=np.int64)
