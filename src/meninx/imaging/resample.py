"""Images to another size: Pillow for pictures, separable interpolation in numpy for volumes.

Label maps by nearest neighbour.

Volumes are first reoriented to the closest RAS+ axes, so that a spacing or size refers to the same axis in
every case. Volumes are not smoothed before they shrink (no anti-aliasing).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from meninx.core import files
from meninx.core.errors import DataError, problem
from meninx.imaging.image import Image

Array = npt.NDArray[Any]
_FLOAT = 4  # bytes of an interpolated voxel
_LARGEST_AXIS = 1 << 40


def is_allowed(channels: int, size: Sequence[int]) -> bool:
    """Return whether an image of this size may be created: as float32 it must fit ``files.IMAGE_LIMIT``.

    A 2-D image may also have at most ``files.PICTURE_PIXELS`` pixels. Sizes come from settings and files, so
    they are checked before memory is allocated.

    Args:
        channels: number of channels.
        size: spatial size, two or three numbers.
    """
    count = math.prod(int(number) for number in size)
    return channels * count * _FLOAT <= files.IMAGE_LIMIT and (
        len(size) != 2 or count <= files.PICTURE_PIXELS
    )


def picture(array: Array, size: Sequence[int], *, aspect: str = "stretch", labels: bool = False) -> Array:
    """Return a 2-D image at ``size`` (rows, columns), shape (channels, rows, columns), same type.

    Args:
        array: shape (channels, rows, columns); uint8 stays uint8, other types are interpolated as float32.
        size: output rows and columns.
        aspect: ``stretch`` fills the size; ``pad`` keeps proportions and fills with 0 around the centre.
        labels: nearest neighbour instead of area (when shrinking) or bilinear interpolation.

    Raises:
        DataError: the result would be larger than :func:`is_allowed` permits.
    """
    rows, columns = array.shape[1:]
    if not is_allowed(array.shape[0], size):
        raise DataError(problem("the image would be too large", where="size", fix="give a smaller size"))
    inner = _fit((rows, columns), size) if aspect == "pad" else (int(size[0]), int(size[1]))
    if inner == (rows, columns):
        resized = array
    else:
        # A box filter averages the pixels of an area, which avoids aliasing when an image shrinks.
        shrinks = inner[0] <= rows and inner[1] <= columns
        how = Pillow.Resampling.BOX if shrinks else Pillow.Resampling.BILINEAR
        if labels:
            how = Pillow.Resampling.NEAREST
        resized = np.stack([_plane(plane, inner, how) for plane in array])
    if inner == tuple(size):
        return resized
    canvas = np.zeros((array.shape[0], *size), dtype=resized.dtype)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas[:, top : top + inner[0], left : left + inner[1]] = resized
    return canvas


def canonical(image: Image) -> Image:
    """Return a volume with its axes permuted and flipped to the closest RAS+ order.

    Voxels keep their positions in millimetres.
    """
    turns = nib.orientations.io_orientation(image.affine)
    if np.array_equal(turns, [[0, 1], [1, 1], [2, 1]]):
        return image
    channels = [nib.orientations.apply_orientation(channel, turns) for channel in image.array]
    affine = image.affine @ nib.orientations.inv_ornt_aff(turns, image.size)
    return Image(np.ascontiguousarray(np.stack(channels)), affine, image.header)


def volume(
    image: Image, *, spacing_mm: Sequence[float] = (), size: Sequence[int] = (), labels: bool = False
) -> Image:
    """Return a volume at a spacing or a size, or at a spacing and then cropped or padded to a size.

    Args:
        image: a 3-D image.
        spacing_mm: three numbers; empty keeps the spacing.
        size: three numbers; empty keeps what the spacing gives.
        labels: nearest neighbour instead of linear interpolation; the type is kept.

    Raises:
        DataError: the result would be larger than ``files.IMAGE_LIMIT``.

    Returns:
        float32 voxels (labels: the input's type) whose affine gives their exact places; the centre stays
        in place.
    """
    old = np.array(image.size, dtype=float)
    if spacing_mm:
        # A NIfTI header stores float32. Without rounding, the same volume from DICOM could get another size
        # or, at ties, other voxels.
        step = np.array(spacing_mm, dtype=float) / _rounded(np.array(image.spacing_mm))
        new = np.clip(np.round(old / step), 1, _LARGEST_AXIS).astype(int)
    elif size:
        new = np.array(size, dtype=int)
        step = old / new
    else:
        return image
    largest = np.maximum(old, new)  # an intermediate result has some axes resampled and others not
    largest = np.maximum(largest, size) if spacing_mm and size else largest
    if not is_allowed(image.channels, [int(number) for number in largest]):
        what = f"the volume would be larger than {files.IMAGE_LIMIT:,} bytes"
        fix = "give a larger spacing or a smaller size"
        raise DataError(problem(what, where="spacing_mm" if spacing_mm else "size", fix=fix))
    first = (old - 1) / 2 - step * (new - 1) / 2
    array = image.array if labels else image.array.astype(np.float32)
    for axis in range(3):
        array = _along(array, axis + 1, first[axis] + step[axis] * np.arange(new[axis]), labels=labels)
    move = np.eye(4)
    move[:3, :3] = np.diag(step)
    move[:3, 3] = first
    out = Image(array, image.affine @ move, image.header)
    return _crop_or_pad(out, size) if spacing_mm and size else out


def _rounded(spacing: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a spacing rounded to 1e-5 mm, or unchanged if that would be 0."""
    rounded = np.round(spacing, 5)
    return np.where(rounded > 0, rounded, spacing)


def _plane(plane: Array, size: tuple[int, int], how: Pillow.Resampling) -> Array:
    source = plane if plane.dtype == np.uint8 else plane.astype(np.float32)
    return np.asarray(Pillow.fromarray(np.ascontiguousarray(source)).resize((size[1], size[0]), how))


def _fit(old: tuple[int, int], size: Sequence[int]) -> tuple[int, int]:
    scale = min(size[0] / old[0], size[1] / old[1])
    return max(1, min(size[0], round(old[0] * scale))), max(1, min(size[1], round(old[1] * scale)))


def _along(array: Array, axis: int, places: npt.NDArray[np.float64], *, labels: bool) -> Array:
    last = array.shape[axis] - 1
    places = np.clip(places, 0, last)
    if labels:
        return np.take(array, np.floor(places + 0.5).astype(int).clip(0, last), axis=axis)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, last)
    shape = [1] * array.ndim
    shape[axis] = -1
    weight = (places - low).astype(np.float32).reshape(shape)
    return np.asarray(
        np.take(array, low, axis=axis) * (1 - weight) + np.take(array, high, axis=axis) * weight
    )


def _crop_or_pad(image: Image, size: Sequence[int]) -> Image:
    array, move = image.array, np.eye(4)
    for axis, wanted in enumerate(size):
        have = array.shape[axis + 1]
        start = (have - wanted) // 2
        index = np.arange(start, start + wanted)
        outside = (index < 0) | (index >= have)
        array = np.take(array, index.clip(0, have - 1), axis=axis + 1)
        if outside.any():
            array = np.moveaxis(array, axis + 1, 0).copy()
            array[outside] = image.array.min()
            array = np.moveaxis(array, 0, axis + 1)
        move[axis, 3] = start
    return Image(np.ascontiguousarray(array), image.affine @ move, image.header)


def picture_on_source(label_map: Array, size: tuple[int, int], aspect: str) -> Array:
    """Return a 2-D map (..., rows, columns) at the size of its source, by nearest neighbour.

    It inverts the resizing of :func:`picture`.
    """
    have = label_map.shape[-2:]
    scales = [here / there for here, there in zip(have, size, strict=True)]
    scales = [min(scales)] * 2 if aspect == "pad" else scales
    for axis, (wanted, scale) in enumerate(zip(size, scales, strict=True)):
        inner = max(1, min(have[axis], round(wanted * scale)))
        first = (have[axis] - inner) // 2
        places = first + np.floor((np.arange(wanted) + 0.5) * inner / wanted).astype(int)
        label_map = np.take(label_map, places, axis=axis - 2)
    return label_map


def volume_on_source(
    label_map: Array, affine: npt.NDArray[np.float64], size: Sequence[int], target: npt.NDArray[np.float64]
) -> Array:
    """Return a 3-D map (..., x, y, z) on another grid, by nearest neighbour; 0 outside the map."""
    move = np.linalg.inv(affine) @ target
    out = np.zeros((*label_map.shape[:-3], *size), label_map.dtype)
    x, y = np.arange(size[0])[:, None], np.arange(size[1])[None, :]
    for z in range(size[2]):
        places = [
            np.floor(row[0] * x + row[1] * y + row[2] * z + row[3] + 0.5).astype(int) for row in move[:3]
        ]
        inside = np.logical_and.reduce(
            [(at >= 0) & (at < n) for at, n in zip(places, label_map.shape[-3:], strict=True)]
        )
        out[..., z][..., inside] = label_map[(..., *(at[inside] for at in places))]
    return out
