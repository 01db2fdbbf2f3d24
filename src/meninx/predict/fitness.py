"""Warnings about images that fit a model but differ from its training images.

Images that do not fit are refused by ``refuse_unfit`` and ``refuse_size`` of ``imaging.preprocessing``. A
warning is a pair of its kind, which is the same for all images, and the numbers of this image. The training
images are described by the bundle: preprocessing, intensity, size and spacing. The bundle of a run
without privacy also contains their brightness and the range of their spacing (``core.intensity.Observed``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core.intensity import Intensity
from meninx.core.manifest import DatasetInfo
from meninx.imaging import brightness
from meninx.imaging.image import Image
from meninx.imaging.preprocessing import Preprocessing

Remark = tuple[str, str]

COLOUR, GREY = "colour image for a model of grey images", "grey image for a model of colour images"
DEPTH = "more bits per grey level than the images of the training"
SPACING, COARSE = "spacing far from that of the training", "voxels much larger than the model's spacing"
SMALL, SHAPE = "image much smaller than the model's input", "proportions far from those of the model's input"
OUTSIDE, NO_UNITS = "nearly all values lie outside the window", "no Hounsfield units: no value below 0"
FLAT, INTENSITY = "small part of the range of values is used", "intensity far from that of the training"

CLIPPED = 0.98  # share of values outside the window: a chest or abdomen with much air has up to 0.9
SPACING_FACTOR, COARSE_FACTOR, ENLARGED, STRETCHED = 1.5, 3.0, 2.0, 2.0


def remarks(image: Image, stored: Image, steps: Preprocessing, info: DatasetInfo) -> list[Remark]:
    """Return the differences of a decoded image from the training images.

    Args:
        image: the image as decoded.
        stored: the image as the dataset would have stored it.
        steps: preprocessing between the two.
        info: description of the training dataset.
    """
    return [
        *_channels(image, info),
        *_geometry(image, stored, steps, info),
        *_intensity(image, stored, steps),
        *_brightness(stored.array, info, info),
    ]


def remarks_on_stored(array: npt.NDArray[Any], info: DatasetInfo, theirs: DatasetInfo) -> list[Remark]:
    """Return the differences of an image of a prepared dataset from the training images.

    Args:
        array: the image as stored.
        info: description of the training dataset.
        theirs: description of the image's dataset.
    """
    found = [*_used(array, theirs.intensity), *_brightness(array, info, theirs)]
    if theirs.spacing_mm:
        found += _spacing(theirs.spacing_mm, info)
    return found


def _channels(image: Image, info: DatasetInfo) -> Iterator[Remark]:
    if image.channels == 1 and info.channels == 3:
        yield GREY, ""
    if image.channels == 3 and info.channels == 1:
        red, green, blue = image.array.astype(np.int64) if image.array.dtype.kind in "iu" else image.array
        if (red != green).any() or (green != blue).any():
            yield COLOUR, "it is turned to grey"


def _geometry(image: Image, stored: Image, steps: Preprocessing, info: DatasetInfo) -> Iterator[Remark]:
    placed = not np.array_equal(image.affine, np.eye(4))
    if placed:
        yield from _spacing(stored.spacing_mm, info)
    if placed and steps.spacing_mm:
        pairs = zip(
            sorted(image.spacing_mm), sorted(steps.spacing_mm), strict=True
        )  # sorted, because axes may be permuted
        if any(own > COARSE_FACTOR * step for own, step in pairs):
            yield COARSE, f"{_mm(image.spacing_mm)}, resampled to {_mm(steps.spacing_mm)}"
    if steps.size and not steps.spacing_mm:
        scales = [new / old for new, old in zip(stored.size, image.size, strict=True)]
        if steps.spatial_dims == 2 and min(scales) > ENLARGED:
            yield SMALL, f"{_by(image.size)} enlarged to {_by(stored.size)}"
        if steps.spatial_dims == 2 and steps.aspect == "stretch" and max(scales) > STRETCHED * min(scales):
            yield SHAPE, f"{_by(image.size)} stretched to {_by(stored.size)}"


def _spacing(here: Sequence[float], info: DatasetInfo) -> Iterator[Remark]:
    """Compare the spacing of a stored image with the spacing or the range of the training images."""
    ranges: Sequence[tuple[float, float]] = [(step, step) for step in info.spacing_mm]
    if info.observed is not None and info.observed.spacing_mm:
        ranges = info.observed.spacing_mm
    if not ranges:
        return
    pairs = list(zip(here, ranges, strict=False))
    if any(not low / SPACING_FACTOR <= own <= high * SPACING_FACTOR for own, (low, high) in pairs):
        lowest, highest = _mm([low for low, _ in ranges]), _mm([high for _, high in ranges])
        yield SPACING, f"{_mm(here)}, training {lowest if lowest == highest else f'{lowest} to {highest}'}"


def _intensity(image: Image, stored: Image, steps: Preprocessing) -> Iterator[Remark]:
    array = image.array
    if steps.scaling == "format" and 8 * array.dtype.itemsize > steps.bits:
        yield DEPTH, f"{8 * array.dtype.itemsize} bits, stored as {steps.bits}"
    if steps.scaling == "window":
        yield from _outside(array, steps)
    yield from _used(stored.array, steps.intensity)


def _outside(array: npt.NDArray[Any], steps: Preprocessing) -> Iterator[Remark]:
    """Compare the values with the window, or with the window of each channel."""
    for number, part in enumerate(array):
        low, high = steps.limits(part, number)
        channel = f"channel {number + 1}, " if len(steps.window) > 2 else ""
        if low < 0 <= part.min():
            yield NO_UNITS, f"{channel}values from {part.min():g}, the window begins at {low:g}"
        outside = float(np.mean((part < low) | (part > high)))
        if outside >= CLIPPED:
            yield OUTSIDE, f"{channel}{outside:.0%} outside {low:g} to {high:g}"


def _used(array: npt.NDArray[Any], intensity: Intensity) -> Iterator[Remark]:
    used = brightness.used_share(array, intensity)
    if used < brightness.USED:
        yield FLAT, f"{used:.1%} of it"


def _brightness(array: npt.NDArray[Any], info: DatasetInfo, theirs: DatasetInfo) -> Iterator[Remark]:
    observed = info.observed
    if observed is None or not brightness.is_comparable(observed):
        return
    own = brightness.mean_value(array, theirs.intensity, info.intensity)
    if brightness.is_unlike(own, observed):
        mean, deviation = observed.brightness
        yield INTENSITY, f"mean {own:.4g}, training {mean:.4g} with deviation {deviation:.2g}"


def _by(size: Sequence[int]) -> str:
    return " x ".join(str(length) for length in size)


def _mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{step:.3g}" for step in spacing) + " mm"
