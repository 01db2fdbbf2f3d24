"""Overlap of label maps: hard, one case at a time, each label for itself, never the background."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected

Array = npt.NDArray[np.float64]

EMPTY_MASKS = (
    "hard Dice of each case and label, background left out; a case where neither truth nor "
    "prediction holds the label "
    "has no Dice and is left out of the mean and counted; a case where only one of them holds it counts 0"
)
"""The convention of :func:`dice`, in words for a report."""


def dice(prediction: npt.ArrayLike, truth: npt.ArrayLike, labels: int) -> Array:
    """Return the hard Dice coefficient of each label 1 .. ``labels`` of one case, shape (labels,).

    Both masks empty: NaN (nothing to overlap; the caller leaves it out or sets it to 1, and says which). One
        empty: 0.

    Args:
        prediction: whole-number label map of any shape; 0 is background.
        truth: label map of the same shape.
        labels: how many labels there are besides the background.

    Raises:
        DataError: the shapes differ, or a label map holds a number outside 0 .. ``labels``.

    Examples:
        >>> dice([[1, 1, 0]], [[1, 0, 0]], 2).tolist()
        [0.6666666666666666, nan]
    """
    table = _overlap(prediction, truth, labels)
    both = np.diagonal(table)[1:]
    sizes = (table.sum(axis=0) + table.sum(axis=1))[1:]
    values = np.full(labels, np.nan)
    np.divide(2.0 * both, sizes, out=values, where=sizes > 0)
    return values


def iou_of_dice(values: npt.ArrayLike) -> Array:
    """Return intersection over union from the Dice coefficient of the same masks: D / (2 - D)."""
    array = np.asarray(values, dtype=np.float64)
    quotient: Array = array / (2 - array)
    return quotient


def _overlap(prediction: npt.ArrayLike, truth: npt.ArrayLike, labels: int) -> npt.NDArray[np.int64]:
    called, true = np.asarray(prediction), np.asarray(truth)
    if called.shape != true.shape:
        raise DataError(
            expected(f"a prediction of shape {true.shape}", got=f"shape {called.shape}", where="label map")
        )
    for name, values in (("prediction", called), ("truth", true)):
        if values.size and (values.min() < 0 or values.max() > labels):
            got = f"{values.min()} .. {values.max()}"
            raise DataError(expected(f"labels 0 .. {labels}", got=got, where=f"label map of the {name}"))
    size = labels + 1
    pairs = true.astype(np.int64).ravel() * size + called.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=size * size).reshape(size, size).astype(np.int64)
