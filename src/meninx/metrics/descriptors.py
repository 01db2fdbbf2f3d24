"""What an attacker without a learned model compares of two images: pixels or edge directions, whitened.

Images are arrays (images, channels, *spatial) of one size, 2-D or 3-D. A description is a unit vector, so the
inner product of two of them is their cosine similarity. ::

    >>> rng = np.random.default_rng(0)
    >>> patients = np.repeat(rng.normal(size=(30, 1, 32, 32)), 2, axis=0)  # two images of each of 30 patients
    >>> images = patients + 0.5 * rng.normal(size=(60, 1, 32, 32))
    >>> describe = fit_description("pixels", images[:30], components=10)
    >>> found = describe(images[30:])  # of other patients than those it was fitted on
    >>> same, other = float(found[0] @ found[1]), float(found[0] @ found[2])
    >>> found.shape, same > 0.5 > other
    ((30, 10), True)

Whitening gives every direction in which images differ the same weight. Without it the few directions in which
all images differ (exposure, posture) hide those that belong to a person.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core import check
from meninx.core.errors import DataError, expected

Array = npt.NDArray[np.float32]
DESCRIPTIONS = ("pixels", "hog")
COMPONENTS = 128
CELL = 8
"""Pixels along each side of a cell of edge directions."""
_DIRECTIONS_2D = 9
_SHARPNESS = 16  # how fast the share of an edge falls with the angle to a direction
_CLIPPED = 0.2  # largest entry of a block, as in Dalal and Triggs
_TINY = 1e-6
_LEAST_SHARE = 1e-4  # of the largest deviation: directions below it hold rounding alone


@dataclass(frozen=True, eq=False)
class Whitening:
    """A linear map after which features of the images that it was fitted on vary alike in all directions.

    Attributes:
        mean: of these features, shape (features,).
        directions: shape (features, components); divides each direction by its standard deviation.
    """

    mean: Array
    directions: Array

    def __call__(self, features: Array) -> Array:
        """Return unit vectors, shape (images, components), of features (images, features).

        Raises:
            DataError: another number of features, because the images have another size.
        """
        if features.shape[1] != len(self.mean):
            what = f"{len(self.mean)} features, as in the images that the attack was fitted on"
            raise DataError(expected(what, got=features.shape[1], where="images"))
        return unit_rows((features - self.mean) @ self.directions)


def fit_whitening(features: Array, *, components: int = COMPONENTS) -> Whitening:
    """Return the whitening of the largest principal components of features (images, features).

    At most half as many components are kept as there are images: the smallest directions of a few images are
    noise.

    Raises:
        DataError: fewer than two images, or images that do not differ.
    """
    check.positive(components=components)
    if len(features) < 2:
        raise DataError(expected("at least two images", got=len(features), where="images"))
    mean = features.mean(axis=0)
    centred = (features - mean).astype(np.float64)
    values, vectors = np.linalg.eigh(centred @ centred.T)  # small where there are fewer images than features
    order = np.argsort(values)[::-1]
    deviations = np.sqrt(np.maximum(values[order], 0.0))
    kept = int((deviations > _LEAST_SHARE * deviations[0]).sum()) if deviations[0] > _TINY else 0
    if kept == 0:
        raise DataError(expected("images that differ", got="equal ones", where="images"))
    kept = max(1, min(components, kept, len(features) // 2))
    directions = centred.T @ vectors[:, order[:kept]] / deviations[:kept] ** 2 * np.sqrt(len(features))
    return Whitening(mean, directions.astype(np.float32))


@dataclass(frozen=True, eq=False)
class ImageDescription:
    """A map from images to unit vectors, fitted on images of other patients.

    Attributes:
        kind: ``pixels`` or ``hog``.
        whitening: of the features.
    """

    kind: str
    whitening: Whitening

    def __call__(self, images: npt.ArrayLike) -> Array:
        """Return the descriptions, shape (images, components), of images of the size that it was fitted on.

        Raises:
            DataError: the images have another size.
        """
        return self.whitening(_features(self.kind, images))


def fit_description(kind: str, images: npt.ArrayLike, *, components: int = COMPONENTS) -> ImageDescription:
    """Return a description fitted on some images; their identities are not used.

    Args:
        kind: ``pixels`` (each image with mean 0 and deviation 1) or ``hog`` (histograms of edge directions).
        images: shape (images, channels, *spatial), at least two.
        components: directions that are kept; see :func:`fit_whitening`.

    Raises:
        DataError: fewer than two images, or images that do not differ.

    References:
        Turk and Pentland (1991), Eigenfaces for Recognition; Dalal and Triggs (2005), Histograms of Oriented
        Gradients for Human Detection.
    """
    check.one_of(DESCRIPTIONS, kind=kind)
    return ImageDescription(kind, fit_whitening(_features(kind, images), components=components))


def unit_rows(vectors: npt.ArrayLike) -> Array:
    """Return vectors (rows, features) of length 1; a row of zeros stays."""
    rows = np.asarray(vectors, dtype=np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def edge_histograms(images: npt.ArrayLike, *, cell: int = CELL) -> Array:
    """Return histograms of edge directions in blocks of two cells along each axis, shape (images, features).

    Args:
        images: shape (images, channels, *spatial), 2-D or 3-D; the strongest channel counts at each place.
        cell: pixels along each side of a cell, made smaller where the image has fewer than two cells.
    """
    values = standardised(images)
    axes = values.ndim - 2
    cell = min(cell, *(max(1, length // 2) for length in values.shape[2:]))
    cells = tuple(length // cell for length in values.shape[2:])
    kept: tuple[Any, ...] = (..., *(slice(count * cell) for count in cells))
    values = values[kept]
    directions = _directions(axes)
    found = np.array([_histogram(image, directions, cell, cells) for image in list(values)], np.float32)
    blocks = _blocks(found, axes)
    return blocks.reshape(len(values), -1)


def standardised(images: npt.ArrayLike) -> Array:
    """Return images of mean 0 and deviation 1 each, so that exposure does not count.

    Raises:
        DataError: not (images, channels, *spatial) in 2-D or 3-D, or a value that is not finite.
    """
    values = np.asarray(images, dtype=np.float32)
    if values.ndim not in (4, 5) or not np.isfinite(values).all():
        what = "finite images of shape (images, channels, *spatial), 2-D or 3-D"
        raise DataError(expected(what, got=f"{values.ndim} axes", where="images"))
    axes = tuple(range(1, values.ndim))
    centred = values - values.mean(axis=axes, keepdims=True)
    return np.asarray(centred / (centred.std(axis=axes, keepdims=True) + _TINY), dtype=np.float32)


def _features(kind: str, images: npt.ArrayLike) -> Array:
    if kind == "hog":
        return edge_histograms(images)
    values = standardised(images)
    return values.reshape(len(values), -1)


def _directions(axes: int) -> Array:
    """Return unit vectors, shape (directions, axes), one for each line through the origin."""
    if axes == 2:
        angles = np.pi * np.arange(_DIRECTIONS_2D) / _DIRECTIONS_2D
        return np.stack([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    around = [step for step in itertools.product((-1, 0, 1), repeat=3) if step > (0, 0, 0)]
    return unit_rows(around)


def _histogram(image: Array, directions: Array, cell: int, cells: tuple[int, ...]) -> Array:
    """Return the edges of one image (channels, *spatial) in each cell, shape (*cells, directions)."""
    slopes = np.stack([*np.gradient(image, axis=tuple(range(1, image.ndim)))], axis=-1)
    strength = np.linalg.norm(slopes, axis=-1)
    strongest = strength.argmax(axis=0)[None]
    slope = np.take_along_axis(slopes, strongest[..., None], axis=0)[0]
    size = np.take_along_axis(strength, strongest, axis=0)[0]
    shares = (np.abs(slope @ directions.T) / np.maximum(size, 1e-12)[..., None]) ** _SHARPNESS
    shares *= (size / np.maximum(shares.sum(axis=-1), 1e-12))[..., None]
    split = [length for count in cells for length in (count, cell)]
    inside = tuple(range(1, 2 * len(cells), 2))
    return np.asarray(shares.reshape(*split, len(directions)).sum(axis=inside), dtype=np.float32)


def _blocks(histograms: Array, axes: int) -> Array:
    """Return neighbouring cells joined and normalised, shape (images, *blocks, entries)."""
    corners: list[Array] = []
    for corner in itertools.product((0, 1), repeat=axes):
        place: tuple[Any, ...] = (slice(None), *(slice(start, start - 1 or None) for start in corner))
        corners.append(histograms[place])
    joined = np.concatenate(corners, axis=-1)
    for last in (False, True):
        joined = joined / np.sqrt((joined**2).sum(axis=-1, keepdims=True) + 1e-3)
        joined = joined if last else np.minimum(joined, _CLIPPED)
    return np.asarray(joined, dtype=np.float32)
