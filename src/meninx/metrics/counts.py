"""Confusion counts of a two-class decision, and every rate that follows from them alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """True and false, positives and negatives; each an array of one shape (a number, or one entry a draw)."""

    tp: Array
    fp: Array
    fn: Array
    tn: Array


def ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> Array:
    """Return ``above / below``, NaN where ``below`` is 0 (the rate is undefined, not zero)."""
    top, bottom = np.broadcast_arrays(
        np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    )
    values = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=values, where=bottom != 0)
    return values


def accuracy(counts: Counts) -> Array:
    """Return the share of right decisions."""
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
    """Return the share of positive calls that were right; undefined without a positive call."""
    return ratio(counts.tp, counts.tp + counts.fp)


def balanced_accuracy(counts: Counts) -> Array:
    """Return the mean of sensitivity and specificity."""
    return (sensitivity(counts) + specificity(counts)) / 2


def f1(counts: Counts) -> Array:
    """Return the harmonic mean of precision and sensitivity.

    Undefined when nothing is or is called positive.
    """
    return ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def selection_rate(counts: Counts) -> Array:
    """Return the share of cases that were called positive."""
    return ratio(counts.tp + counts.fp, counts.tp + counts.tn + counts.fp + counts.fn)


def mcc(counts: Counts) -> Array:
    """Return Matthews' correlation: undefined with one true class, 0 when every call is the same.

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
"""Every metric that the four counts decide, by name."""
