"""How a decoded image becomes a stored one: channels, grey levels or units, spacing and size.

`meninx prepare` applies it to every image and records it in ``dataset.toml`` (table ``preprocessing``).
Training hands it on to the released bundle: ``configs/meninx.json`` (``core.artifacts.BundleRecord``) holds
it in ``info`` beside the intensity that makes network input of stored values. `meninx predict` applies it to
new images, so that a network receives exactly what it was trained on.

A bundle also contains this source, so that it works without meninx. Its imports at the top therefore need
only numpy, Pillow, pydicom and nibabel.

    >>> import numpy as np
    >>> steps = Preprocessing(size=(2, 2))
    >>> steps.apply(Image(np.full((3, 4, 4), 200, np.uint8))).array.shape
    (1, 2, 2)
    >>> Preprocessing.from_table(steps.to_table()) == steps
    True
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from meninx.core import check
from meninx.core.errors import DataError, expected, problem
from meninx.imaging import load, resample
from meninx.imaging.image import Image

if TYPE_CHECKING:
    from meninx.core.intensity import Intensity

Array = npt.NDArray[Any]
CHANNELS, RANGE = "other number of channels", "values without a known range"
NUMBERING = "channels that the sources of the training numbered differently"
PERCENTILES = (0.5, 99.5)
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
INT16 = 32767
_LARGEST_AXIS = 1 << 16
_MOST_CHANNELS = 64
_LARGEST_NUMBER = 1e9


class UnfitImage(DataError):
    """An image that cannot be converted to the form of a dataset.

    Attributes:
        reason: what does not fit, in words that contain no value of the image.
        fix: the remedy; may be empty.
    """

    def __init__(self, reason: str, fix: str = "") -> None:
        super().__init__(problem(reason, where="image", fix=fix))
        self.reason, self.fix = reason, fix


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The steps from a decoded image to a stored one; the same image gives the same bytes everywhere.

    Attributes:
        spatial_dims: 2 or 3.
        size: size along each spatial axis (rows, columns or x, y, z); empty keeps the size.
        spacing_mm: voxel spacing of volumes in millimetres; empty keeps the spacing.
        aspect: ``stretch`` fills the size, ``pad`` keeps proportions (2-D).
        bits: 8 or 16 bits of a grey level.
        channels: 1 (grey), 3 (colour), or the number that every image has.
        scaling: the values that become lowest and highest: those of the file's type (``format``), those of
            ``window``, or the percentiles 0.5 and 99.5 of each image (``image``).
        window: lowest and highest value that are not clipped, for all channels or per channel; empty without
            a window.
        each_channel: whether every channel is a separate image (T1, T2, ...): it is scaled separately, and an
            image must have exactly ``channels`` of them.
        channel_positions: position of each channel, from 0, in the numbering of the source (files that end in
            ``_0000``, ``_0001``, ... or the last axis of a file); empty if the source has no numbering, or if
            several sources number them differently.
        source_channels: number of numbered channels in the source; 0 without a numbering.

    Raises:
        DataError, ConfigError: a number is out of range, or two settings contradict each other.
    """

    spatial_dims: int = 2
    size: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    aspect: str = "stretch"
    bits: int = 8
    channels: int = 1
    scaling: str = "format"
    window: tuple[float, ...] = ()
    each_channel: bool = False
    channel_positions: tuple[int, ...] = ()
    source_channels: int = 0

    def __post_init__(self) -> None:
        check.one_of(("stretch", "pad"), aspect=self.aspect)
        check.one_of(("format", "window", "image"), scaling=self.scaling)
        if (
            self.spatial_dims not in (2, 3)
            or self.bits not in (8, 16)
            or not 1 <= self.channels <= _MOST_CHANNELS
        ):
            raise _unusable(f"2 or 3 spatial axes, 8 or 16 bits and 1 to {_MOST_CHANNELS} channels")
        if self.size and (
            len(self.size) != self.spatial_dims or not all(1 <= n <= _LARGEST_AXIS for n in self.size)
        ):
            raise _unusable(f"a size of 1 to {_LARGEST_AXIS} along each axis")
        if self.size and not resample.is_allowed(self.channels, self.size):
            raise _unusable("a size that fits into memory")
        if self.spacing_mm and not (len(self.spacing_mm) == 3 and all(map(_is_step, self.spacing_mm))):
            raise _unusable("a spacing > 0 along each of three axes")
        if self.window and not (
            len(self.window) in (2, 2 * self.channels if self.each_channel else 2)
            and all(abs(value) < _LARGEST_NUMBER for value in self.window)
            and all(low < high for low, high in zip(self.window[::2], self.window[1::2], strict=True))
        ):
            raise _unusable("a window of lowest and highest value, or one per channel")
        if self.scaling == "window" and not self.window:
            raise _unusable("a window with scaling window")
        self._check_positions()

    def _check_positions(self) -> None:
        positions, numbered = self.channel_positions, self.source_channels
        if not 0 <= numbered <= _MOST_CHANNELS or (numbered and not self.each_channel):
            raise _unusable(f"0 to {_MOST_CHANNELS} channels of the source, each an image of its own")
        if positions and not (
            len(positions) == self.channels == len(set(positions))
            and all(0 <= position < numbered for position in positions)
        ):
            raise _unusable("one position in the source for each channel")

    def to_table(self) -> dict[str, Any]:
        """Return the steps as a table of plain values."""
        from meninx.core import plain

        table: dict[str, Any] = plain.to_plain(self)
        return table

    @classmethod
    def from_table(cls, table: Mapping[str, Any], *, where: str = "preprocessing") -> Preprocessing:
        """Return the steps in an untrusted table.

        Raises:
            DataError: a key is unknown, or a value has the wrong type or range; the message quotes no value.
        """
        from meninx.core import plain

        unknown = set(table) - set(cls.__dataclass_fields__)
        if unknown:
            raise DataError(
                expected("preprocessing of this version", got=f"{len(unknown)} unknown keys", where=where)
            )
        return plain.from_plain(dict(table), cls, where=where)

    @property
    def suffix(self) -> str:
        """Suffix of stored images."""
        return ".png" if self.spatial_dims == 2 else ".nii.gz"

    @property
    def display_bits(self) -> int:
        """Bits of DICOM pixels that are read as displayed; 0 for modality values."""
        return self.bits if self.scaling == "format" else 0

    @property
    def keeps_units(self) -> bool:
        """Whether volumes keep the units of the window (Hounsfield units) instead of grey levels."""
        return self.spatial_dims == 3 and self.scaling == "window" and len(self.window) == 2

    @property
    def intensity(self) -> Intensity:
        """How the stored values become network input, from public facts only."""
        from meninx.core.intensity import Intensity

        low, high = (
            (float(self.window[0]), float(self.window[1]))
            if self.keeps_units
            else (0.0, float(2**self.bits - 1))
        )
        half = (high - low) / 2
        source = "standard" if self.scaling == "window" else "format"
        return Intensity(window=(low, high), shift=low + half, scale=half, source=source)

    def read(self, paths: Sequence[Path]) -> Image:
        """Return an image that is not yet converted.

        Args:
            paths: one file, the files of one DICOM series in any order, or (other formats) one file per
                channel in the order of the channels.

        Raises:
            UnfitImage: one file contains several channels, but not all numbered channels of the source.
            DataError, OSError, ValueError: it cannot be read.
        """
        files = (*load.PICTURES, *load.VOLUMES)
        known = load.suffix(paths[0]) in files
        if len(paths) == 1 and (self.spatial_dims == 2 or known):
            return self._selected(load.load(paths[0], display_bits=self.display_bits))
        if known:
            return load.load_channels(paths)
        return load.load_series(paths, display_bits=self.display_bits)

    def _selected(self, image: Image) -> Image:
        """Return the channels of this dataset from a single file that contains all channels of the source."""
        if image.channels == 1 or not self.source_channels:
            return image
        if not self.channel_positions:
            raise UnfitImage(NUMBERING)
        if image.channels != self.source_channels:
            raise UnfitImage(f"{image.channels} channels in a file, the source had {self.source_channels}")
        return Image(image.array[list(self.channel_positions)], image.affine, image.header)

    def apply(self, image: Image) -> Image:
        """Return an image as it is stored: channels, grey levels or units, size and spacing.

        Raises:
            UnfitImage: the wrong number of channels, or values of an unknown range.
            DataError: the result would be too large.
        """
        if not self.each_channel:
            array = _channels(image.array, self.channels)
            return self._converted(array, image, self.limits(array))
        if image.channels != self.channels:
            raise UnfitImage(CHANNELS)
        parts = [image.array[number : number + 1] for number in range(self.channels)]
        made = [self._converted(part, image, self.limits(part, number)) for number, part in enumerate(parts)]
        return Image(np.concatenate([part.array for part in made]), made[0].affine)

    def _converted(self, array: Array, image: Image, limits: tuple[float, float]) -> Image:
        """Return channels that share their limits as they are stored; ``image`` gives their place."""
        low, high = limits
        if self.spatial_dims == 3:
            clipped = Image(np.clip(array, low, high), image.affine)
            out = resample.volume(resample.canonical(clipped), spacing_mm=self.spacing_mm, size=self.size)
            return Image(self._stored_volume(out.array, low, high), out.affine)
        depth = 2**self.bits - 1
        as_is = array.dtype == np.uint8 and (low, high) == (0.0, 255.0)
        grey = (
            array if as_is else (np.clip(array.astype(np.float32), low, high) - low) * (depth / (high - low))
        )
        if self.size:
            grey = resample.picture(grey, self.size, aspect=self.aspect)
        if as_is and self.bits == 16:
            grey = grey.astype(np.float32) * 257
        return Image(_whole(grey, self.bits), _scaled_affine(image, grey.shape[1:], self.aspect))

    def apply_to_mask(self, mask: Image) -> Image:
        """Return a label map at the size and spacing of the stored image, by nearest neighbour."""
        if self.spatial_dims == 3:
            return resample.volume(
                resample.canonical(mask), spacing_mm=self.spacing_mm, size=self.size, labels=True
            )
        if not self.size:
            return Image(mask.array)
        return Image(resample.picture(mask.array, self.size, aspect=self.aspect, labels=True))

    def limits(self, array: Array, channel: int = 0) -> tuple[float, float]:
        """Return the values that become lowest and highest.

        Args:
            array: the channels that share their limits.
            channel: position of the channel if each has its own limits.

        Raises:
            UnfitImage: neither the type nor a window determines the range of values.
        """
        if self.scaling == "window":
            first = 2 * channel if len(self.window) > 2 else 0
            return float(self.window[first]), float(self.window[first + 1])
        if self.scaling == "format":
            if array.dtype in (np.uint8, np.uint16):
                return 0.0, float(np.iinfo(array.dtype).max)
            raise UnfitImage(RANGE, "give window, or intensity image")
        low, high = (float(value) for value in np.percentile(array, PERCENTILES))
        return (low, high) if low < high else (float(array.min()), float(array.max()))

    def _stored_volume(self, array: Array, low: float, high: float) -> Array:
        if not self.keeps_units:
            return _whole((array.astype(np.float32) - low) * ((2**self.bits - 1) / (high - low)), self.bits)
        if max(-low, high) <= INT16 and high - low >= 100:
            return np.round(array).astype(np.int16)
        return array.astype(np.float32)


def refuse_unfit(image: Image, spatial_dims: int, channels: int) -> None:
    """Refuse a decoded image that no preprocessing can fit to a model.

    Args:
        image: as decoded.
        spatial_dims: of the model.
        channels: of the model.

    Raises:
        UnfitImage: other dimensions or channels, values that are not finite, or a constant image or channel.
    """
    if image.spatial_dims != spatial_dims:
        what = "volume" if image.spatial_dims == 3 else "2-D image"
        wanted = "volumes" if spatial_dims == 3 else "2-D images"
        raise UnfitImage(f"{what} for a model of {wanted}")
    colours = image.spatial_dims == 2 and {image.channels, channels} <= {1, 3}
    if image.channels != channels and not colours:
        raise UnfitImage(f"{image.channels} channels for a model of {channels}")
    if image.array.dtype.kind == "f" and not np.isfinite(image.array).all():
        raise UnfitImage("NaN or infinite values")
    if image.array.size == 0 or image.array.min() == image.array.max():
        raise UnfitImage("one value in the whole image")
    if not colours and any(part.min() == part.max() for part in image.array):
        raise UnfitImage("one value in a whole channel")


def refuse_size(size: tuple[int, ...], *, largest: tuple[int, ...], only: tuple[int, ...]) -> None:
    """Refuse a stored image whose size the network was not trained for.

    Args:
        size: of the stored image.
        largest: size to which smaller images are padded; empty without padding.
        only: the size of all training images, if the network takes whole images; else empty.

    Raises:
        UnfitImage: larger than ``largest``; or without ``largest``, another size than ``only``.
    """
    if largest:
        fits = all(length <= most for length, most in zip(size, largest, strict=True))
    else:
        fits = not only or size == only
    if not fits:
        own, wanted = (" x ".join(map(str, lengths)) for lengths in (size, largest or only))
        raise UnfitImage(f"size {own} for a model of {'at most ' if largest else ''}{wanted}")


def _unusable(what: str) -> DataError:
    return DataError(problem(f"the recorded preprocessing lacks {what}", where="preprocessing"))


def _is_step(value: float) -> bool:
    return math.isfinite(value) and 0 < value < _LARGEST_NUMBER


def _channels(array: Array, wanted: int) -> Array:
    have = array.shape[0]
    if have == wanted:
        return array
    if have == 1 and wanted == 3:
        return np.repeat(array, 3, axis=0)
    if have != 3 or array.ndim == 4:  # three channels of a volume are not colours
        raise UnfitImage(CHANNELS, "name the channels of the volume with channels" * (array.ndim == 4))
    grey = np.tensordot(LUMA, array.astype(np.float32), axes=1)[None]
    return np.round(grey).astype(np.uint8) if array.dtype == np.uint8 else grey


def _whole(array: Array, bits: int) -> Array:
    kind = np.uint8 if bits == 8 else np.uint16
    return array if array.dtype == kind else np.clip(np.round(array), 0, 2**bits - 1).astype(kind)


def _scaled_affine(image: Image, size: tuple[int, ...], aspect: str) -> npt.NDArray[np.float64]:
    scales = [image.size[axis] / size[axis] for axis in range(2)]
    affine = image.affine.copy()
    for axis in range(2):
        affine[axis, axis] *= max(scales) if aspect == "pad" else scales[axis]
    return affine
