"""Where the slices of a CT series lie: straight or oblique, first or last slice first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.imaging.phantom.abdomen import Volume

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SlicePlace:
    """One slice in DICOM's patient coordinates (millimetres, LPS+).

    Attributes:
        position: centre of the first pixel.
        across: direction of a growing column index.
        down: direction of a growing row index.
        spacing: between rows and between columns.
        thickness: distance to the next slice.
    """

    position: Vector
    across: Vector
    down: Vector
    spacing: tuple[float, float]
    thickness: float


@dataclass(frozen=True)
class Stack:
    """A volume as slices, in ascending order along ``across x down``.

    Attributes:
        slices: Hounsfield units, int16, shape (slices, rows, columns).
        labels: label map as NIfTI stores it, shape (columns, rows, slices).
        places: one for each slice.
        affine: RAS+ affine of ``labels``.
    """

    slices: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]
    places: tuple[SlicePlace, ...]
    affine: Vector


def slices(volume: Volume, *, tilt: tuple[float, float] = (0.0, 0.0)) -> Stack:
    """Return a volume as DICOM slices.

    Args:
        volume: x to the Right, y to Anterior, z to Superior.
        tilt: rotation about the patient's left-right and front-back axis, in degrees; (0, 0) is a straight
            axial series.
    """
    array, labels = volume.array[::-1, ::-1], volume.labels[::-1, ::-1]
    sx, sy, sz = volume.spacing_mm
    about_x, about_y = np.radians(tilt)
    turn_x = np.array(
        [[1, 0, 0], [0, np.cos(about_x), -np.sin(about_x)], [0, np.sin(about_x), np.cos(about_x)]]
    )
    turn_y = np.array(
        [[np.cos(about_y), 0, np.sin(about_y)], [0, 1, 0], [-np.sin(about_y), 0, np.cos(about_y)]]
    )
    across, down, normal = (turn_y @ turn_x).T
    middle = [(n - 1) / 2 for n in array.shape]
    corner = -across * middle[0] * sx - down * middle[1] * sy - normal * middle[2] * sz
    places = tuple(
        SlicePlace(corner + normal * sz * k, across, down, (sy, sx), sz) for k in range(array.shape[2])
    )
    lps = np.eye(4)
    lps[:3] = np.stack((across * sx, down * sy, normal * sz, corner), axis=1)
    return Stack(
        np.ascontiguousarray(array.transpose(2, 1, 0)), labels, places, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    )
