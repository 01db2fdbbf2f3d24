"""From the positions and orientation of slices to the order and affine of a volume; needs only numpy.

DICOM uses LPS+ (x to the patient's Left, y Posterior, z Superior); the functions here return RAS+.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected, problem

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of direction cosines within one orientation; scanners round to 4-6 digits."""
STEP_TOLERANCE = 0.01
"""Largest distance of a slice from its evenly spaced position, in slice distances (0.01 mm always passes)."""


@dataclass(frozen=True)
class Plane:
    """The position of one slice in DICOM's coordinates (millimetres, LPS+).

    Attributes:
        position: ImagePositionPatient, the centre of the first pixel, shape (3,).
        across: direction of increasing column index (first half of ImageOrientationPatient), shape (3,).
        down: direction of increasing row index (second half), shape (3,).
        spacing: (between rows, between columns) in millimetres, as PixelSpacing.
        thickness: used as slice distance if there is only one slice; 0 if unknown.
    """

    position: npt.NDArray[np.float64]
    across: npt.NDArray[np.float64]
    down: npt.NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float = 0.0

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """The direction in which slices are counted: across x down."""
        return np.cross(self.across, self.down)


def plane(
    position: Sequence[float], orientation: Sequence[float], spacing: Sequence[float], thickness: float = 0.0
) -> Plane:
    """Return a checked :class:`Plane` from ImagePositionPatient, ImageOrientationPatient and PixelSpacing.

    Raises:
        DataError: the wrong number of values, directions that are not orthonormal, or a spacing <= 0.
    """
    numbers = np.array([*position, *orientation, *spacing], dtype=np.float64)
    if (len(position), len(orientation), len(spacing)) != (3, 6, 2) or not np.isfinite(numbers).all():
        raise DataError(
            problem(
                "position, orientation and spacing must be 3 + 6 + 2 finite numbers",
                where="position, orientation, PixelSpacing",
            )
        )
    across, down = numbers[3:6], numbers[6:9]
    lengths = float(np.linalg.norm(across)), float(np.linalg.norm(down))
    if max(abs(length - 1) for length in lengths) > 0.01 or abs(across @ down) > 0.01:
        raise DataError(
            problem("the directions are not orthogonal with length 1", where="ImageOrientationPatient")
        )
    if min(spacing) <= 0:
        raise DataError(problem("the spacing must be > 0", where="PixelSpacing"))
    return Plane(
        numbers[:3],
        across / lengths[0],
        down / lengths[1],
        (float(spacing[0]), float(spacing[1])),
        float(thickness),
    )


def same_orientation(one: Plane, other: Plane) -> bool:
    """Return whether two slices are parallel and have the same in-plane directions."""
    difference = max(np.abs(one.across - other.across).max(), np.abs(one.down - other.down).max())
    return bool(difference < ORIENTATION_TOLERANCE)


def group_by_orientation(planes: Sequence[Plane]) -> list[list[int]]:
    """Return the indices of the slices in groups of one orientation each, in order of first appearance."""
    groups: list[list[int]] = []
    for index, item in enumerate(planes):
        for group in groups:
            if same_orientation(planes[group[0]], item):
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def stack(planes: Sequence[Plane]) -> tuple[list[int], npt.NDArray[np.float64]]:
    """Return the order of the slices along their normal, and the RAS+ affine of the volume.

    The affine maps (column index, row index, slice index) to millimetres. The slice step is the mean vector
    between neighbours, so that a tilted gantry gives a sheared affine instead of a wrong one.

    Args:
        planes: slices in any order.

    Returns:
        Indices into ``planes`` in ascending position, and a 4x4 matrix.

    Raises:
        DataError: several orientations or pixel spacings, two slices at one position, a missing slice, uneven
            steps.
    """
    first = planes[0]
    groups = len(group_by_orientation(planes))
    if groups > 1:
        fix = "leave localisers out, or read each orientation alone"
        raise DataError(
            expected(
                "slices of one orientation",
                got=f"{groups} orientations",
                where="ImageOrientationPatient",
                fix=fix,
            )
        )
    if any(not np.allclose(item.spacing, first.spacing, rtol=1e-3) for item in planes):
        raise DataError(problem("the slices of the series have several pixel spacings", where="PixelSpacing"))
    heights = np.array([item.position @ first.normal for item in planes])
    order = [int(index) for index in np.argsort(heights, kind="stable")]
    positions = np.stack([planes[index].position for index in order])
    step = (
        _even_step(positions, heights[order]) if len(planes) > 1 else first.normal * (first.thickness or 1.0)
    )
    affine = np.eye(4)
    affine[:3, 0] = first.across * first.spacing[1]
    affine[:3, 1] = first.down * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    return order, LPS_TO_RAS @ affine


def _even_step(
    positions: npt.NDArray[np.float64], heights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the mean step between sorted slice positions, shape (3,); all steps must be equal."""
    gaps = np.diff(heights)
    # The lower median: with an even number of gaps the larger middle one may contain a missing slice.
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    where = "ImagePositionPatient"
    together = int((gaps < max(1e-3, 0.01 * usual)).sum())
    if together:
        fix = "split the series by time, echo or phase, or remove the copies"
        raise DataError(
            expected(
                "each position once", got=f"{together} slices at the place of another", where=where, fix=fix
            )
        )
    whole = np.round(gaps / usual)
    missing = np.flatnonzero((whole >= 2) & (np.abs(gaps / usual - whole) < 0.1))
    if missing.size:
        got = (
            f"{int(whole[missing].sum() - missing.size)} missing, the first behind slice "
            f"{int(missing[0]) + 1} of {len(heights)}"
        )
        raise DataError(
            expected("every slice of the series", got=got, where=where, fix="fetch the missing slices")
        )
    step: npt.NDArray[np.float64] = (positions[-1] - positions[0]) / (len(positions) - 1)
    even = positions[0] + np.arange(len(positions))[:, None] * step
    off = np.linalg.norm(positions - even, axis=1)
    if off.max() > max(0.01, STEP_TOLERANCE * usual):
        got = f"slice {int(off.argmax()) + 1} of {len(heights)} at {off.max():.2g} mm from its even place"
        raise DataError(
            expected(
                "evenly spaced slices", got=got, where=where, fix="resample the series, or leave slices out"
            )
        )
    return step
