"""Whether an image fits what a model was trained on: what is refused, and what is worth a warning.

A refusal is an ``imaging.preprocessing.UnfitImage``. A warning is a pair of its kind, which is the same for
all images, and the numbers of this one. What is known of the training images is what the bundle says:
preprocessing, intensity, size and spacing. The bundle of a run without privacy also says how bright they are
and the range of their spacing (``core.manifest.Observed``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core.manifest import DatasetInfo
from meninx.imaging.image import Image
from meninx.imaging.preprocessing import Preprocessing, UnfitImage
from meninx.learn.config import ModelConfig

Remark = tuple[str, str]

COLOUR, GREY = "colour image for a model of grey images", "grey image for a model of colour images"
DEPTH = "more bits per grey level than the images of the training"
SPACING, COARSE = "spacing far from that of the training", "voxels much larger than the model's spacing"
SMALL, SHAPE = "image much smaller than the model's input", "proportions far from those of the model's input"
OUTSIDE, NO_UNITS = "nearly all values lie outside the window", "no Hounsfield units: no value below 0"
FLAT, INTENSITY = "small part of the range of values is used", "intensity far from that of the training"

CLIPPED = 0.98  # share of values outside the window: a chest or abdomen with much air has up to 0.9
USED = 0.1  # share of the range of values: an image of 12 bits in a file of 16 uses a sixteenth
DEVIATIONS, FEWEST = 4.0, 10  # of the brightness of training images; the fewest of them that count
SPACING_FACTOR, COARSE_FACTOR, ENLARGED, STRETCHED = 1.5, 3.0, 2.0, 2.0


def refuse_size(size: tuple[int, ...], info: DatasetInfo, model: ModelConfig) -> None:
    """Refuse a stored image of a size that the network was not trained on.

    Raises:
        UnfitImage: larger than ``image_size``, or another size than all training images had.
    """
    if model.patch_size and not model.image_size:
        return
    wanted = model.image_size or info.size
    smaller = all(own <= largest for own, largest in zip(size, wanted, strict=True)) if wanted else True
    if not (size == wanted or (model.image_size and smaller) or not wanted):
        raise UnfitImage(f"size {_by(size)} for a model of {_by(wanted)}")


def remarks(image: Image, stored: Image, steps: Preprocessing, info: DatasetInfo) -> list[Remark]:
    """Return what of a decoded image that fits is unlike the training.

    Args:
        image: as decoded.
        stored: the same, as the dataset would have stored it.
        steps: between the two.
        info: what is known of the training images.
    """
    return [
        *_channels(image, info),
        *_geometry(image, stored, steps, info),
        *_intensity(image, stored, steps),
        *_brightness(stored.array, info),
    ]


def remarks_on_stored(array: npt.NDArray[Any], info: DatasetInfo, theirs: DatasetInfo) -> list[Remark]:
    """Return what of an image of a prepared dataset is unlike the training.

    Args:
        array: as stored.
        info: of the training.
        theirs: of the dataset.
    """
    same = info.intensity.window == theirs.intensity.window  # others differ in their bit depth alone
    factor = 1.0 if same else info.intensity.window[1] / theirs.intensity.window[1]
    found = list(_brightness(array, info, factor))
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
        pairs = zip(sorted(image.spacing_mm), sorted(steps.spacing_mm), strict=True)  # axes may be turned
        if any(own > COARSE_FACTOR * step for own, step in pairs):
            yield COARSE, f"{_mm(image.spacing_mm)}, resampled to {_mm(steps.spacing_mm)}"
    if steps.size and not steps.spacing_mm:
        scales = [new / old for new, old in zip(stored.size, image.size, strict=True)]
        if steps.spatial_dims == 2 and min(scales) > ENLARGED:
            yield SMALL, f"{_by(image.size)} enlarged to {_by(stored.size)}"
        if steps.spatial_dims == 2 and steps.aspect == "stretch" and max(scales) > STRETCHED * min(scales):
            yield SHAPE, f"{_by(image.size)} stretched to {_by(stored.size)}"


def _spacing(here: Sequence[float], info: DatasetInfo) -> Iterator[Remark]:
    """Compare the spacing of a stored image with the one, or the range, of the training images."""
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
    low, high = steps.intensity.window
    used = (float(stored.array.max()) - float(stored.array.min())) / (high - low)
    if used < USED:
        yield FLAT, f"{used:.1%} of it"


def _outside(array: npt.NDArray[Any], steps: Preprocessing) -> Iterator[Remark]:
    """Compare the values with the window, or with that of each channel."""
    for number, part in enumerate(array):
        low, high = steps.limits(part, number)
        channel = f"channel {number + 1}, " if len(steps.window) > 2 else ""
        if low < 0 <= part.min():
            yield NO_UNITS, f"{channel}values from {part.min():g}, the window begins at {low:g}"
        outside = float(np.mean((part < low) | (part > high)))
        if outside >= CLIPPED:
            yield OUTSIDE, f"{channel}{outside:.0%} outside {low:g} to {high:g}"


def _brightness(array: npt.NDArray[Any], info: DatasetInfo, factor: float = 1.0) -> Iterator[Remark]:
    observed = info.observed
    if observed is None or observed.images < FEWEST or not observed.brightness[1] > 0:
        return
    mean, deviation = observed.brightness
    own = float(np.mean(array, dtype=np.float64)) * factor
    if abs(own - mean) > DEVIATIONS * deviation:
        yield INTENSITY, f"mean {own:.4g}, training {mean:.4g} with deviation {deviation:.2g}"


def _by(size: Sequence[int]) -> str:
    return " x ".join(str(length) for length in size)


def _mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{step:.3g}" for step in spacing) + " mm"
