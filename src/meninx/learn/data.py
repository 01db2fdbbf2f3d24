"""Cases of a manifest as normalised tensors: checked, decoded once, and kept in memory or in a file."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from meninx.core import machine
from meninx.core.errors import DataError, expected, problem
from meninx.core.intensity import Intensity
from meninx.core.manifest import FIRST_ROW, Manifest, TaskKind
from meninx.imaging import load
from meninx.learn.augment import Sample
from meninx.learn.cache_file import Damaged, Decoder, ImageCache, Item
from meninx.learn.config import ModelConfig

IMAGE, MASK, PLACES = "image", "mask", "places"
_MEMORY_SHARE = 8  # a store keeps at most this fraction (1/8) of the free memory


class CaseStore:
    """The cases of one manifest as tensors; several threads may read at once.

    Args:
        manifest: the cases; paths are below its root.
        config: ``image_size`` and ``patch_size``.
        rows: row of each case in manifest.csv, for messages; counted from the manifest itself by default.
        memory: largest number of bytes of voxels kept in memory, in the type of the file; an eighth of the
            free memory by default. Arrays in ``cache`` are not kept a second time.

    Attributes:
        cache: decoded images on disk; None to decode every image that is not in memory.
    """

    def __init__(
        self,
        manifest: Manifest,
        config: ModelConfig,
        *,
        rows: Sequence[int] | None = None,
        memory: int | None = None,
    ) -> None:
        self.manifest, self.config, self.info = manifest, config, manifest.info
        self.rows = tuple(rows if rows is not None else range(FIRST_ROW, FIRST_ROW + len(manifest)))
        self.targets = torch.from_numpy(manifest.targets())
        self.cache: ImageCache | None = None
        self._free = machine.free_memory() // _MEMORY_SHARE if memory is None else memory
        self._kept: dict[tuple[int, str], npt.NDArray[Any]] = {}
        self._lock = threading.Lock()
        self._size: tuple[int, ...] = config.image_size or (() if config.patch_size else self.info.size)

    def __len__(self) -> int:
        return len(self.manifest)

    def sample(self, index: int) -> Sample:
        """Return a whole case, padded to ``image_size``.

        Raises:
            DataError: the file cannot be read, has a different size, or holds NaN; the message names the row.
        """
        return Sample(self.image(index), self.target(index))

    def image(self, index: int) -> Tensor:
        """Return the whole image of a case, normalised and padded to ``image_size``.

        Raises as :meth:`sample`.
        """
        shape = self.shape(index)
        return self._window(index, [0] * len(shape), self._common_size(index, shape))

    def target(self, index: int) -> Tensor:
        """Return the labels of a case, or its label map padded like the image."""
        shape = self.shape(index)
        return self._goal(index, [0] * len(shape), self._common_size(index, shape))

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the spatial size of a case's image as stored on disk."""
        return self._shape(index, IMAGE)[1:]

    def wanted(self, *, places: bool = False) -> dict[Item, Decoder]:
        """Return every array of the cases that training reads, with the function that decodes it.

        Args:
            places: whether patches centred on labelled voxels are read, which needs the voxels' indices.
        """
        kinds = [IMAGE]
        if self.info.task is TaskKind.SEGMENTATION:
            kinds += [MASK, PLACES] if self.config.patch_size and places else [MASK]

        def decoder(index: int, kind: str) -> Decoder:
            return lambda: self._decoded(index, kind)

        return {
            self._item(index, kind): decoder(index, kind)
            for index, case in enumerate(self.manifest.cases)
            for kind in kinds
            if kind == IMAGE or case.mask
        }

    def patch(self, index: int, generator: np.random.Generator, *, foreground: float) -> Sample:
        """Return a random patch of ``patch_size``, padded where the case is smaller.

        Without a patch size the whole case is returned.

        Args:
            index: the case.
            generator: determines the place.
            foreground: probability of a patch that contains a labelled voxel, if the case has any.
        """
        size = self.config.patch_size
        if not size:
            return self.sample(index)
        shape = self.shape(index)
        if len(size) != len(shape):
            raise DataError(
                expected(
                    f"{len(size)} spatial axes as in patch_size", got=len(shape), where=self._where(index)
                )
            )
        last = np.maximum(0, np.array(shape) - np.array(size))
        low = generator.integers(0, last + 1)
        wanted = generator.random() < foreground
        choice = generator.random()
        if wanted and self.info.task is TaskKind.SEGMENTATION:
            place = self._place(index, choice)
            if place is not None:
                centre = np.array(np.unravel_index(place, shape))
                low = np.clip(centre - np.array(size) // 2, 0, last)
        start = [int(value) for value in low]
        return Sample(self._window(index, start, size), self._goal(index, start, size))

    def _window(self, index: int, low: Sequence[int], size: Sequence[int]) -> Tensor:
        """Return the normalised box of an image that starts at ``low``, padded to ``size``."""
        box = tuple(slice(start, start + length) for start, length in zip(low, size, strict=True))
        intensity = self.info.intensity
        array = self._image(index, box)
        values = torch.from_numpy(array.astype(np.float32))
        # One sum is much faster than a test of every value: it is finite only if all values are. If it is
        # not, the values decide, because a sum of finite values may overflow.
        if array.dtype.kind == "f" and not (values.sum().isfinite() or torch.isfinite(values).all()):
            fix = "repair the image or take the case out of manifest.csv"
            raise DataError(
                expected("finite voxel values", got="NaN or infinity", where=self._where(index), fix=fix)
            )
        return normalised(values, intensity, size)

    def _goal(self, index: int, low: Sequence[int], size: Sequence[int]) -> Tensor:
        """Return the labels, or the box of the label map that starts at ``low``, padded to ``size``."""
        if self.info.task is not TaskKind.SEGMENTATION:
            return self.targets[index]
        box = tuple(slice(start, start + length) for start, length in zip(low, size, strict=True))
        return padded(torch.from_numpy(self._mask(index, box).astype(np.int64)), size, 0)

    def _image(self, index: int, box: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return a box of an image with as many channels as the dataset has."""
        there, wanted = self._shape(index, IMAGE)[0], self.info.channels
        fits = there == wanted or (not self.info.channel_names and there in (1, 3) and wanted in (1, 3))
        if not fits:  # colour may be converted to grey and grey to colour, but no other channels
            raise DataError(expected(f"{wanted} channels", got=there, where=self._where(index)))
        channels = slice(0, 3 if wanted == 1 else wanted)
        array = self._box(index, IMAGE, (channels, *box))
        if array.shape[0] == wanted:
            return array
        if array.shape[0] == 1:
            return np.repeat(array, wanted, axis=0)
        return np.asarray(array.mean(axis=0, keepdims=True))

    def _mask(self, index: int, box: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return a box of a label map."""
        shape = self.shape(index)
        if not self.manifest.cases[index].mask:  # a case without a mask has no labelled voxel
            return np.zeros(
                [len(range(length)[part]) for length, part in zip(shape, box, strict=True)], np.uint8
            )
        self._refuse_other_size(index, self._shape(index, MASK)[1:], shape)
        return np.asarray(self._box(index, MASK, (slice(0, 1), *box))[0])

    def _place(self, index: int, choice: float) -> int | None:
        """Return the flat index of the labelled voxel at ``choice`` in [0, 1); None where there is none."""
        if not self.manifest.cases[index].mask:
            return None
        self._refuse_other_size(index, self._shape(index, MASK)[1:], self.shape(index))
        (count,) = self._shape(index, PLACES)
        position = int(choice * count)
        if not count:
            return None
        place = int(self._box(index, PLACES, (slice(position, position + 1),))[0])
        if not 0 <= place < math.prod(self.shape(index)):
            fix = "remove private/cache in the dataset folder"
            raise DataError(
                problem("the cache of decoded images is damaged", where=self._where(index), fix=fix)
            )
        return place

    def _refuse_other_size(self, index: int, mask: tuple[int, ...], image: tuple[int, ...]) -> None:
        if mask != image:
            raise DataError(
                expected(f"a mask of the image's size {_by(image)}", got=_by(mask), where=self._where(index))
            )

    def _shape(self, index: int, kind: str) -> tuple[int, ...]:
        item = self._item(index, kind)
        if self.cache is not None and self._holds(self.cache, item):
            return self.cache.shape(item)
        return tuple(int(length) for length in self._array(index, kind).shape)

    def _box(self, index: int, kind: str, box: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return a box of an array, from the cache where it holds the array undamaged."""
        item = self._item(index, kind)
        if self.cache is not None and self._holds(self.cache, item):
            try:
                return self.cache.read(item, box)
            except Damaged:
                self.cache.remove()  # the next run builds a new one
        return self._array(index, kind)[box]

    def _holds(self, cache: ImageCache, item: Item) -> bool:
        """Return whether a cache has an array with as many axes as the dataset's."""
        axes = 1 if item.kind == PLACES else 1 + self.info.spatial_dims
        return item in cache and len(cache.shape(item)) == axes

    def _item(self, index: int, kind: str) -> Item:
        case = self.manifest.cases[index]
        return Item(case.image if kind == IMAGE else case.mask, kind)

    def _array(self, index: int, kind: str) -> npt.NDArray[Any]:
        """Return a whole array, which stays in memory while there is room."""
        if (index, kind) in self._kept:
            return self._kept[index, kind]
        array = self._decoded(index, kind)
        with self._lock:
            if array.nbytes <= self._free and (index, kind) not in self._kept:
                self._free -= array.nbytes
                self._kept[index, kind] = array
        return array

    def _decoded(self, index: int, kind: str) -> npt.NDArray[Any]:
        if kind != PLACES:
            return self._read(self._item(index, kind).name, index)
        mask = self._array(index, MASK)[0]
        return np.flatnonzero(mask).astype(np.uint32 if mask.size < 1 << 32 else np.int64)

    def _read(self, name: str, index: int) -> npt.NDArray[Any]:
        path = self.manifest.root / name
        if path.is_file():
            self._refuse_changed(name, index)
        try:
            array = load.load(path).array
        except (DataError, OSError) as error:  # its message names the file, which may name a patient
            kind = type(error.__cause__ or error).__name__
            got = f"an unreadable one ({kind})" if path.is_file() else "no such file"
            raise DataError(expected("a readable image", got=got, where=self._where(index))) from None
        if array.ndim - 1 != self.info.spatial_dims:
            got = f"{array.ndim - 1} dimensions"
            raise DataError(expected(f"{self.info.spatial_dims}-D images", got=got, where=self._where(index)))
        return array

    def _refuse_changed(self, name: str, index: int) -> None:
        """Refuse a file that differs from the prepared one; a dataset without digests is not compared."""
        try:
            self.manifest.check_file(name)
        except DataError as error:
            got, fix = "another file", "prepare the dataset again"
            raise DataError(
                expected("the image that was prepared", got=got, where=self._where(index), fix=fix)
            ) from error

    def _common_size(self, index: int, size: Sequence[int]) -> tuple[int, ...]:
        """Return the size that all whole cases share; refuse a case that differs."""
        own = tuple(int(length) for length in size)
        if self.config.patch_size and not self.config.image_size:
            return own
        self._size = self._size or own
        fits = len(own) == len(self._size) and all(a <= b for a, b in zip(own, self._size, strict=True))
        if own == self._size or (self.config.image_size and fits):
            return self._size
        wanted, found = _by(self._size), _by(own)
        if self.config.image_size:
            fix = "image_size pads smaller images: give a size that holds every image, one number per axis"
        else:
            fix = "prepare the dataset with one size, or set image_size (pads) or patch_size"
        raise DataError(expected(f"images of size {wanted}", got=found, where=self._where(index), fix=fix))

    def _where(self, index: int) -> str:
        return f"manifest.csv, row {self.rows[index]}"


def _by(size: Sequence[int]) -> str:
    """Return a size in words, such as ``64 x 64``."""
    return " x ".join(map(str, size))


def split_store(
    manifest: Manifest, split: str, config: ModelConfig, *, memory: int | None = None
) -> CaseStore:
    """Return the cases of one split; messages name the rows of the whole manifest.

    Args:
        manifest: the dataset.
        split: ``train``, ``valid`` or ``test``.
        config: as for :class:`CaseStore`.
        memory: as for :class:`CaseStore`.
    """
    rows = [row for row, case in enumerate(manifest.cases, FIRST_ROW) if case.split == split]
    return CaseStore(manifest.split(split), config, rows=rows, memory=memory)


def normalised(values: Tensor, intensity: Intensity, size: Sequence[int]) -> Tensor:
    """Return network input computed from stored values (float32, changed in place), padded to ``size``."""
    values.clamp_(*intensity.window).sub_(intensity.shift).div_(intensity.scale)
    return padded(values, size, (intensity.window[0] - intensity.shift) / intensity.scale)


def padded(value: Tensor, size: Sequence[int], fill: float) -> Tensor:
    """Return ``value`` with ``fill`` added evenly around its last axes up to ``size``, never cropped."""
    extra = [max(0, wanted - length) for wanted, length in zip(size, value.shape[-len(size) :], strict=True)]
    if not any(extra):
        return value
    pads = [amount for missing in reversed(extra) for amount in (missing // 2, missing - missing // 2)]
    return functional.pad(value, pads, value=fill)


def unpadded(value: npt.NDArray[Any], size: Sequence[int]) -> npt.NDArray[Any]:
    """Return the central part of ``value`` of ``size``: the inverse of :func:`padded` on the last axes."""
    first = value.ndim - len(size)
    for axis, wanted in enumerate(size, start=first):
        start = (value.shape[axis] - wanted) // 2
        value = np.take(value, range(start, start + wanted), axis=axis)
    return value


def stacked(samples: Sequence[Sample]) -> Sample:
    """Return the samples as one batch: images (batch, channels, ...), targets (batch, ...)."""
    return Sample(
        torch.stack([item.image for item in samples]), torch.stack([item.target for item in samples])
    )
