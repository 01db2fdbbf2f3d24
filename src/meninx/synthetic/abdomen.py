"""CT-like volumes of an abdomen, with an organ and lesions, and their slices in DICOM's coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from meninx.core.randomness import child

Floats = npt.NDArray[np.floating[Any]]
LABELS: Final = ("organ", "lesion")
AIR: Final = -1000.0


@dataclass(frozen=True)
class Volume:
    """One CT-like volume and its label map.

    Attributes:
        array: int16 Hounsfield-like values, shape (x, y, z); x points to the patient's Right, y to Anterior,
            z to Superior.
        labels: uint8 label map of the same shape: 0 background, 1 organ, 2 lesion.
        spacing_mm: distance of voxel centres along x, y and z, in mm.
    """

    array: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """The 4x4 RAS+ affine with the world's origin at the centre of the volume."""
        affine = np.diag([*self.spacing_mm, 1.0])
        affine[:3, 3] = [
            -(n - 1) / 2 * step for n, step in zip(self.array.shape, self.spacing_mm, strict=True)
        ]
        return affine


def volume(
    seed: int, index: int, size: tuple[int, int, int] = (48, 48, 24), *, lesion: bool | None = None
) -> Volume:
    """Return the volume of patient ``index``.

    Args:
        seed: public seed of the cohort.
        index: position of the patient in the cohort.
        size: voxels along x, y and z, each at least 8; the field of view is 360 x 300 x 160 mm for any
            size.
        lesion: True or False to force lesions or none; None draws them with a probability of 0.7.
    """
    rng = child(seed, "abdomen", index)
    x, y, z = (((np.arange(n, dtype=np.float32) + 0.5) * (2 / n) - 1) for n in size)
    grid = (x[:, None, None], y[None, :, None], z[None, None, :])
    values, organ = _body(rng, *grid)
    labels = np.zeros(size, np.uint8)
    labels[organ > 0.5] = 1
    if lesion is None:
        lesion = bool(rng.random() < 0.7)
    number = int(rng.integers(1, 4)) if lesion else 0
    for _ in range(number):
        spot = _lesion(rng, organ, grid)
        values += spot * np.float32(rng.choice([-58.0, -45.0, 60.0]))
        labels[spot * organ > 0.5] = 2
    values += rng.standard_normal(size, dtype=np.float32) * np.float32(14)
    spacing = (360.0 / size[0], 300.0 / size[1], 160.0 / size[2])
    return Volume(np.clip(np.round(values), -1024, 3071).astype(np.int16), labels, spacing)


def _body(rng: np.random.Generator, x: Floats, y: Floats, z: Floats) -> tuple[Floats, Floats]:
    """Return Hounsfield values without noise or lesions, and the organ (0 to 1)."""
    wide, deep = rng.normal(0.86, 0.03), rng.normal(0.78, 0.04)
    fat = rng.uniform(0.05, 0.13)
    jitter = rng.normal(0, 0.025, (8, 2))
    skin = _ellipsoid(x, y, z, (0, 0, 0), (wide, deep, 9))
    muscle = _ellipsoid(x, y, z, (0, 0, 0), (wide - fat, deep - fat, 9))
    cavity = _ellipsoid(x, y, z, (0, 0.06, 0), (wide - fat - 0.09, deep - fat - 0.12, 9))
    values: Floats = (
        np.float32(AIR) + skin * np.float32(-100 - AIR) + muscle * np.float32(155) - cavity * np.float32(110)
    )
    arch = np.float32(0.16) * np.cos(z * np.float32(2.2))
    organ = _ellipsoid(
        x + arch - np.float32(0.12),
        y,
        z,
        (0.36 + jitter[0, 0], 0.12 + jitter[0, 1], 0.12),
        (0.36, 0.42, 0.72),
    )
    lobe = _ellipsoid(x, y, z, (0.02 + jitter[1, 0], 0.32, 0.18), (0.36, 0.18, 0.42))
    organ = np.maximum(organ, lobe) * cavity
    values = _put(values, organ, rng.normal(108, 9))
    values = _put(
        values, _ellipsoid(x, y, z, (-0.48 + jitter[2, 0], -0.14, 0.25), (0.15, 0.2, 0.34)) * cavity, 122
    )
    values = _put(
        values, _ellipsoid(x, y, z, (-0.30 + jitter[3, 0], 0.26, 0.15), (0.2, 0.2, 0.3)) * cavity, 35
    )
    values = _put(
        values, _ellipsoid(x, y, z, (-0.32 + jitter[3, 0], 0.36, 0.15), (0.1, 0.07, 0.2)) * cavity, -880
    )
    for side in (-1, 1):
        kidney = _ellipsoid(
            x, y, z, (side * 0.31 + jitter[4, 0], -0.30 + jitter[4, 1], -0.38), (0.115, 0.13, 0.36)
        )
        values = _put(values, kidney * cavity, 165)
    values = _put(values, _ellipsoid(x, y, z, (-0.06, -0.24, 0), (0.055, 0.066, 9)), 190)
    body = _ellipsoid(x, y, z, (0, -0.45, 0), (0.135, 0.15, 9))
    values = _put(values, body, 260 + 90 * np.cos(z * np.float32(14)))
    values = _put(values, _ellipsoid(x, y, z, (0, -0.62, 0), (0.04, 0.09, 9)), 420)
    return values, organ


def _lesion(rng: np.random.Generator, organ: Floats, grid: tuple[Floats, Floats, Floats]) -> Floats:
    """Return one soft ball, values 0 to 1, with its centre inside the organ."""
    places = np.argwhere(organ > 0.95)
    at = places[int(rng.integers(len(places)))] if len(places) else np.array(organ.shape) // 2
    centre = tuple(float(axis.reshape(-1)[i]) for axis, i in zip(grid, at, strict=True))
    radius = rng.uniform(0.08, 0.17)
    return _ellipsoid(*grid, centre, (radius, radius * 1.15, radius * 1.9))


def _ellipsoid(x: Floats, y: Floats, z: Floats, centre: tuple[float, ...], half: tuple[float, ...]) -> Floats:
    """Return a soft ellipsoid, 1 inside and 0 outside; a half axis of 9 makes a cylinder."""
    far = sum(
        ((axis - np.float32(c)) / np.float32(h)) ** 2
        for axis, c, h in zip((x, y, z), centre, half, strict=True)
    )
    soft: Floats = np.clip((1 - np.sqrt(far)) * np.float32(min(half) * 16) + np.float32(0.5), 0, 1).astype(
        np.float32
    )
    return soft


def _put(values: Floats, part: Floats, level: float | Floats) -> Floats:
    """Return the values with a part of another density blended in."""
    mixed: Floats = values + (np.asarray(level, np.float32) - values) * part
    return mixed


Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SlicePlace:
    """One slice in DICOM's patient coordinates (millimetres, LPS+).

    Attributes:
        position: centre of the first pixel.
        across: unit vector in the direction of increasing column index.
        down: unit vector in the direction of increasing row index.
        spacing: distance of rows and of columns.
        thickness: distance to the next slice.
    """

    position: Vector
    across: Vector
    down: Vector
    spacing: tuple[float, float]
    thickness: float


@dataclass(frozen=True)
class Stack:
    """A volume as slices in ascending order along ``across x down``.

    Attributes:
        slices: Hounsfield units, int16, shape (slices, rows, columns).
        labels: label map as NIfTI stores it, shape (columns, rows, slices).
        places: position of each slice.
        affine: RAS+ affine of ``labels``.
    """

    slices: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]
    places: tuple[SlicePlace, ...]
    affine: Vector


def slices(volume: Volume, *, tilt: tuple[float, float] = (0.0, 0.0)) -> Stack:
    """Return a volume as DICOM slices.

    Args:
        volume: the volume, with x to the Right, y to Anterior, z to Superior.
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
