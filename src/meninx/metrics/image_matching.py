"""How alike reconstructed images and originals are, and which reconstruction belongs to which original.

Images are arrays of shape (images, channels, height, width) or (images, channels, depth, height, width), with
values of a known range. A matching gives every original one reconstruction and no reconstruction to two
originals, so one lucky image cannot count many times::

    >>> originals = np.random.default_rng(0).random((3, 1, 8, 8))
    >>> found = match(similarity("ncc", originals, originals[[2, 0, 1]]))
    >>> found.chosen.tolist(), found.values.round(6).tolist()
    ([1, 2, 0], [1.0, 1.0, 1.0])

References:
    Wang, Bovik, Sheikh, Simoncelli (2004), Image Quality Assessment (SSIM).
    Kuhn (1955), The Hungarian Method for the Assignment Problem.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected

ImageMetric = Literal["ncc", "mse", "psnr", "ssim"]
IMAGE_METRICS: tuple[ImageMetric, ...] = get_args(ImageMetric)
HIGHEST_PSNR = 100.0
"""Decibels that equal images count as."""
Images = npt.NDArray[np.floating[Any]]
Array = npt.NDArray[np.float64]
_WINDOW = 7
_K1, _K2 = 0.01, 0.03
_MOST_PAIRS_AT_ONCE = 2**24
_MOST_VALUES = 2**30


@dataclass(frozen=True, kw_only=True)
class Matching:
    """The reconstruction of every original.

    Attributes:
        chosen: number of the reconstruction of each original, -1 where there are fewer reconstructions than
            originals, shape (originals,).
        values: similarity of the two, -inf where there is none, shape (originals,).
    """

    chosen: npt.NDArray[np.int64]
    values: Array


def similarity(
    metric: ImageMetric, originals: Images, reconstructions: Images, *, data_range: float = 1.0
) -> Array:
    """Return the similarity of every original and every reconstruction; larger is more alike.

    Args:
        metric: ``ncc`` (correlation over all values, blind to brightness and contrast, -1 to 1), ``mse``
            (minus the mean squared error), ``psnr`` (its decibels) or ``ssim`` (structural similarity in
            windows of 7 voxels a side, -1 to 1). ``ssim`` of n x m images takes n x m filterings.
        originals: of shape (n, channels, *spatial).
        reconstructions: of shape (m, channels, *spatial).
        data_range: largest minus smallest value that an original may have, > 0.

    Returns:
        float64 of shape (n, m).

    Raises:
        DataError: shapes that do not fit, values that are not finite, or more than fit into memory.
    """
    first, second = _checked(originals, reconstructions, data_range)
    if metric == "ncc":
        return _standardised(first) @ _standardised(second).T
    if metric == "ssim":
        return _all_ssim(first, second, data_range)
    if metric not in IMAGE_METRICS:
        raise DataError(expected("one of " + ", ".join(IMAGE_METRICS), got=metric, where="metric"))
    errors = _squared_errors(first, second)
    return -errors if metric == "mse" else _decibels(errors, data_range)


def paired_similarity(
    metric: ImageMetric, originals: Images, reconstructions: Images, *, data_range: float = 1.0
) -> Array:
    """Return the similarity of each original and the reconstruction at the same place, shape (n,).

    Args:
        metric: as in :func:`similarity`.
        originals: of shape (n, channels, *spatial).
        reconstructions: of the same shape.
        data_range: largest minus smallest value that an original may have, > 0.
    """
    first, second = _checked(originals, reconstructions, data_range)
    if len(first) != len(second):
        raise DataError(expected("as many reconstructions as originals", got=len(second), where="images"))
    if metric == "ssim":
        return _ssim(first, second, data_range)
    if metric == "ncc":
        return np.asarray(np.einsum("ij,ij->i", _standardised(first), _standardised(second)))
    if metric not in IMAGE_METRICS:
        raise DataError(expected("one of " + ", ".join(IMAGE_METRICS), got=metric, where="metric"))
    errors = ((first - second) ** 2).reshape(len(first), -1).mean(axis=1)
    return -errors if metric == "mse" else _decibels(errors, data_range)


def match(similarities: npt.ArrayLike) -> Matching:
    """Return the one-to-one matching with the largest sum of similarities.

    The order of reconstructions does not change the values: equal similarities leave the sum as it is, and
    which of several equal reconstructions is chosen is not defined.

    Args:
        similarities: of shape (originals, reconstructions), finite. There may be more of either.

    Raises:
        DataError: not a matrix of finite numbers.
    """
    from scipy.optimize import linear_sum_assignment  # the light half of the program works without scipy

    table = np.asarray(similarities, dtype=np.float64)
    if table.ndim != 2 or not np.isfinite(table).all():
        raise DataError(expected("a matrix of finite similarities", got=table.shape, where="matching"))
    rows, columns = linear_sum_assignment(table, maximize=True)
    chosen = np.full(len(table), -1, dtype=np.int64)
    chosen[rows] = columns
    values = np.full(len(table), -math.inf)
    values[rows] = table[rows, columns]
    return Matching(chosen=chosen, values=values)


# the metrics


def _standardised(images: Array) -> Array:
    """Return rows of mean 0 and norm 1; an image of one value becomes zeros, like nothing."""
    rows = images.reshape(len(images), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    flat = norms <= 1e-12 * np.abs(images.reshape(len(images), -1)).max(axis=1, keepdims=True)
    return np.asarray(np.where(flat, 0.0, rows / np.where(norms > 0, norms, 1.0)))


def _squared_errors(first: Array, second: Array) -> Array:
    """Return the mean squared error of every pair, by one matrix product."""
    left, right = first.reshape(len(first), -1), second.reshape(len(second), -1)
    middle = left.mean(axis=0)  # close to the data, so that little is lost in the difference of squares
    left, right = left - middle, right - middle
    sums = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None, :] - 2 * left @ right.T
    return np.asarray(np.maximum(sums, 0.0) / left.shape[1])


def _decibels(errors: Array, data_range: float) -> Array:
    least = data_range**2 * 10 ** (-HIGHEST_PSNR / 10)
    return np.asarray(10 * np.log10(data_range**2 / np.maximum(errors, least)))


def _all_ssim(first: Array, second: Array, data_range: float) -> Array:
    """Return the SSIM of every pair; each image is filtered once for all of its pairs."""
    found = np.empty((len(first), len(second)))
    step = max(1, _MOST_PAIRS_AT_ONCE // max(1, first[0].size))
    moments = _moments(second)
    for row, image in enumerate(first):
        own = _moments(image[None])
        for begin in range(0, len(second), step):
            part = slice(begin, begin + step)
            cross = _window_means(image[None] * second[part])
            found[row, part] = _structural(
                own, (moments[0][part], moments[1][part]), cross, first.shape[2:], data_range
            )
    return found


def _ssim(first: Array, second: Array, data_range: float) -> Array:
    cross = _window_means(first * second)
    return _structural(_moments(first), _moments(second), cross, first.shape[2:], data_range)


def _moments(images: Array) -> tuple[Array, Array]:
    """Return the means and the mean squares of all windows."""
    return _window_means(images), _window_means(images**2)


def _structural(
    first: tuple[Array, Array],
    second: tuple[Array, Array],
    cross: Array,
    sides: tuple[int, ...],
    data_range: float,
) -> Array:
    """Return the mean SSIM over all windows and channels, with sample (co)variances."""
    count = math.prod(min(_WINDOW, side) for side in sides)
    sample = count / max(1, count - 1)
    (mean_a, square_a), (mean_b, square_b) = first, second
    spread_a, spread_b = sample * (square_a - mean_a**2), sample * (square_b - mean_b**2)
    together = sample * (cross - mean_a * mean_b)
    small, tiny = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    values = (2 * mean_a * mean_b + small) * (2 * together + tiny)
    values /= (mean_a**2 + mean_b**2 + small) * (spread_a + spread_b + tiny)
    return np.asarray(values.reshape(len(values), -1).mean(axis=1))


def _window_means(images: Array) -> Array:
    """Return the means of all windows that lie inside the images, one axis after the other."""
    found = images
    for axis in range(2, images.ndim):
        side = min(_WINDOW, images.shape[axis])
        sums = np.cumsum(found, axis=axis)
        last = np.take(sums, np.arange(side - 1, sums.shape[axis]), axis=axis)
        before = np.take(sums, np.arange(0, sums.shape[axis] - side), axis=axis)
        pad = np.zeros_like(np.take(sums, [0], axis=axis))
        found = (last - np.concatenate([pad, before], axis=axis)) / side
    return found


def _checked(originals: Images, reconstructions: Images, data_range: float) -> tuple[Array, Array]:
    """Return both in float64; refuse what cannot be compared."""
    if not (math.isfinite(data_range) and data_range > 0):
        raise DataError(expected("data_range > 0", got=data_range, where="data_range"))
    found = []
    for name, images in (("originals", originals), ("reconstructions", reconstructions)):
        values = np.asarray(images)
        if values.ndim not in (4, 5) or not values.size or values.size > _MOST_VALUES:
            rule = f"1 to {_MOST_VALUES:,} values of shape (images, channels, [depth,] height, width)"
            raise DataError(expected(rule, got=values.shape, where=name))
        if not np.isfinite(values).all():
            raise DataError(expected("finite values", got="NaN or infinity", where=name))
        found.append(values.astype(np.float64))
    if found[0].shape[1:] != found[1].shape[1:]:
        rule = "images of one size"
        raise DataError(expected(rule, got=(found[0].shape[1:], found[1].shape[1:]), where="images"))
    return found[0], found[1]
