"""Distances between the surfaces of two label maps: HD95 and surface Dice at a tolerance.

    >>> import numpy as np
    >>> truth, found = np.zeros((20, 20), int), np.zeros((20, 20), int)
    >>> truth[5:15, 5:15], found[5:15, 7:17] = 1, 1
    >>> case = compare_surfaces(found, truth, 1, spacing=(1.0, 0.5), tolerance=1.0)
    >>> case.hd95.tolist(), case.surface_dice.tolist()
    ([1.0], [1.0])

A surface is the set of voxels of a label that touch another label or the edge of the image. Distances are
between centres of voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
PERCENTILE = 95


@dataclass(frozen=True)
class CaseSurfaces:
    """Distances between the surfaces of one case's labels.

    Attributes:
        hd95: shape (labels,), the larger of the two 95th percentiles of the distances from each surface to
            the other, in the unit of the spacing; NaN if both masks are empty, the diagonal of the image if
            one is.
        surface_dice: shape (labels,), share of both surfaces within the tolerance of the other, in [0, 1];
            NaN if both masks are empty, 0 if one is.
        one_empty: shape (labels,), whether exactly one of the masks is empty.
    """

    hd95: Array
    surface_dice: Array
    one_empty: Mask


@dataclass(frozen=True, kw_only=True)
class SurfaceTable:
    """The surfaces of all cases of an evaluation.

    Attributes:
        tolerance: distance within which surfaces agree, in ``unit``.
        unit: ``mm``, or ``voxels`` if the dataset has no spacing.
        cases: one entry per case, in order.
    """

    tolerance: float
    unit: str
    cases: list[CaseSurfaces] = field(default_factory=list)

    @property
    def hd95(self) -> Array:
        """HD95 of each case and label, shape (cases, labels)."""
        return np.array([case.hd95 for case in self.cases])

    @property
    def surface_dice(self) -> Array:
        """Surface Dice of each case and label, shape (cases, labels)."""
        return np.array([case.surface_dice for case in self.cases])

    @property
    def one_empty(self) -> Mask:
        """Whether exactly one mask is empty, shape (cases, labels)."""
        return np.array([case.one_empty for case in self.cases])

    def columns(self, chosen: Sequence[int]) -> SurfaceTable:
        """Return the table of some of the labels, by position."""
        kept = [
            CaseSurfaces(case.hd95[chosen], case.surface_dice[chosen], case.one_empty[chosen])
            for case in self.cases
        ]
        return SurfaceTable(tolerance=self.tolerance, unit=self.unit, cases=kept)

    def notes(self) -> tuple[str, ...]:
        """Return the conventions in words."""
        return (
            (
                f"HD95 is the 95th percentile, in {self.unit}, of the distances of the surfaces of truth "
                "and prediction per case and label; where only one holds the label it is the diagonal of the "
                f"image ({int(self.one_empty.sum())} times), where neither does the case is left out"
            ),
            (
                f"surface Dice is the share of both surfaces within {self.tolerance:g} {self.unit} of the "
                "other; 0 where only one of them holds the label"
            ),
        )


def compare_surfaces(
    prediction: npt.ArrayLike,
    truth: npt.ArrayLike,
    labels: int,
    *,
    spacing: Sequence[float],
    tolerance: float,
) -> CaseSurfaces:
    """Return the distances between the surfaces of each label 1 .. ``labels`` of one case.

    Args:
        prediction: label map of 2 or 3 axes; 0 is background.
        truth: label map of the same shape.
        labels: number of labels besides the background.
        spacing: distance of voxel centres along each axis, > 0.
        tolerance: distance within which surfaces agree, >= 0, in the unit of ``spacing``.

    Raises:
        DataError: the shapes differ, or ``spacing`` has the wrong number of axes.

    References:
        HD95 and empty masks: Maier-Hein et al., Nature Methods 21 (2024) 195-212 (Metrics Reloaded: the worst
        value where one mask is empty). Surface Dice: Nikolov et al., J Med Internet Res 23 (2021) e26151.
    """
    called, true = np.asarray(prediction), np.asarray(truth)
    if called.shape != true.shape or len(spacing) != true.ndim:
        got = f"shape {called.shape} and {len(spacing)} spacings"
        raise DataError(expected(f"a prediction of shape {true.shape}", got=got, where="label map"))
    diagonal = math.sqrt(sum((n * step) ** 2 for n, step in zip(true.shape, spacing, strict=True)))
    hd95, shares, one_empty = np.full(labels, np.nan), np.full(labels, np.nan), np.zeros(labels, dtype=bool)
    for label in np.union1d(called, true).astype(int).tolist():
        if not 1 <= label <= labels:
            continue
        two = (called == label, true == label)
        filled = [bool(mask.any()) for mask in two]
        if all(filled):
            hd95[label - 1], shares[label - 1] = _compared(*two, spacing, tolerance)
        elif any(filled):
            hd95[label - 1], shares[label - 1], one_empty[label - 1] = diagonal, 0.0, True
    return CaseSurfaces(hd95, shares, one_empty)


def _compared(called: Mask, true: Mask, spacing: Sequence[float], tolerance: float) -> tuple[float, float]:
    """Return (HD95, surface Dice) of two masks that are not empty."""
    box = _box(called | true)
    surfaces = [_surface(mask[box]) for mask in (called, true)]
    there = [_distances(surfaces[0], surfaces[1], spacing), _distances(surfaces[1], surfaces[0], spacing)]
    near = sum(int((distances <= tolerance).sum()) for distances in there)
    return (
        max(float(np.percentile(distances, PERCENTILE)) for distances in there),
        near / sum(distances.size for distances in there),
    )


def _box(mask: Mask) -> tuple[slice, ...]:
    """Return the smallest box around a mask; cropping to it saves most of the distance transform."""
    found = []
    for axis in range(mask.ndim):
        rest = tuple(other for other in range(mask.ndim) if other != axis)
        present = np.flatnonzero(mask.any(axis=rest))
        found.append(slice(int(present[0]), int(present[-1]) + 1))
    return tuple(found)


def _surface(mask: Mask) -> Mask:
    from scipy import ndimage  # the light half of the program works without scipy

    inside: Mask = ndimage.binary_erosion(mask)
    return mask & ~inside


def _distances(start: Mask, goal: Mask, spacing: Sequence[float]) -> Array:
    """Return the distance of every voxel of one surface to the nearest voxel of another."""
    from scipy import ndimage

    distance: Array = ndimage.distance_transform_edt(~goal, sampling=tuple(spacing))
    return distance[start]
