"""Cases of a manifest as normalised tensors: read once, kept in memory while small, checked for size and NaN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from meninx.core.errors import DataError, expected
from meninx.core.manifest import FIRST_ROW, Manifest, Task
from meninx.imaging import load
from meninx.learn.augment import Sample
from meninx.learn.config import LearnConfig

CACHE_BYTES = 2 << 30


class CaseStore:
    """The cases of one manifest as tensors.

    Args:
        manifest: the cases; paths are below its root.
        config: ``image_size`` and ``patch_size``.
        rows: row of each case in manifest.csv, for messages; counted from the manifest itself by default.
        cache_bytes: most bytes of voxels kept in memory, in the type of the file.
    """

    def __init__(
        self,
        manifest: Manifest,
        config: LearnConfig,
        *,
        rows: Sequence[int] | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.manifest, self.config, self.info = manifest, config, manifest.info
        self.rows = tuple(rows if rows is not None else range(FIRST_ROW, FIRST_ROW + len(manifest)))
        self.targets = torch.from_numpy(manifest.targets())
        self._free = cache_bytes
        self._cache: dict[tuple[int, str], npt.NDArray[Any]] = {}
        self._size: tuple[int, ...] = config.image_size or (() if config.patch_size else self.info.size)

    def __len__(self) -> int:
        return len(self.manifest)

    def sample(self, index: int) -> Sample:
        """Return a whole case, padded to ``image_size``.

        Raises:
            DataError: the file cannot be read, has another size than the others, or holds NaN; names the row.
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
        """Return the spatial size of a case's image as it is on disk."""
        return tuple(int(length) for length in self._array(index, "image").shape[1:])

    def patch(self, index: int, generator: np.random.Generator, *, foreground: float) -> Sample:
        """Return a random patch of ``patch_size``, padded where the case is smaller.

        The whole case without one.

        Args:
            index: the case.
            generator: decides the place.
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
        if wanted and self.info.task is Task.SEGMENTATION:
            places = np.flatnonzero(self._mask(index))
            if len(places):
                centre = np.array(np.unravel_index(places[int(choice * len(places))], shape))
                low = np.clip(centre - np.array(size) // 2, 0, last)
        start = [int(value) for value in low]
        return Sample(self._window(index, start, size), self._goal(index, start, size))

    def _window(self, index: int, low: Sequence[int], size: Sequence[int]) -> Tensor:
        """Return the normalised box of an image that starts at ``low``, padded to ``size``."""
        box = tuple(slice(start, start + length) for start, length in zip(low, size, strict=True))
        intensity = self.info.intensity
        values = torch.from_numpy(self._image(index)[(slice(None), *box)].astype(np.float32))
        if not torch.isfinite(values).all():
            fix = "repair the image or take the case out of manifest.csv"
            raise DataError(
                expected("finite voxel values", got="NaN or infinity", where=self._where(index), fix=fix)
            )
        values = (values.clamp(*intensity.window) - intensity.shift) / intensity.scale
        return padded(values, size, (intensity.window[0] - intensity.shift) / intensity.scale)

    def _goal(self, index: int, low: Sequence[int], size: Sequence[int]) -> Tensor:
        """Return the labels, or the box of the label map that starts at ``low``, padded with background to ``size``."""
        if self.info.task is not Task.SEGMENTATION:
            return self.targets[index]
        box = tuple(slice(start, start + length) for start, length in zip(low, size, strict=True))
        return padded(torch.from_numpy(self._mask(index)[box].astype(np.int64)), size, 0)

    def _image(self, index: int) -> npt.NDArray[Any]:
        array = self._array(index, "image")
        wanted = self.info.channels
        if array.shape[0] == wanted:
            return array
        if array.shape[0] == 1:
            return np.repeat(array, wanted, axis=0)
        if wanted == 1:
            return np.asarray(array[:3].mean(axis=0, keepdims=True))
        if array.shape[0] > wanted:
            return array[:wanted]
        raise DataError(expected(f"{wanted} channels", got=array.shape[0], where=self._where(index)))

    def _mask(self, index: int) -> npt.NDArray[Any]:
        shape = self._array(index, "image").shape[1:]
        if not self.manifest.cases[index].mask:
            return np.zeros(shape, np.uint8)  # a case without a mask shows nothing to be found
        mask: npt.NDArray[Any] = self._array(index, "mask")[0]
        if mask.shape != shape:
            raise DataError(
                expected(f"a mask of the image's size {shape}", got=mask.shape, where=self._where(index))
            )
        return mask

    def _array(self, index: int, kind: str) -> npt.NDArray[Any]:
        if (index, kind) in self._cache:
            return self._cache[index, kind]
        array = self._read(getattr(self.manifest.cases[index], kind), index)
        if array.nbytes <= self._free:
            self._free -= array.nbytes
            self._cache[index, kind] = array
        return array

    def _read(self, name: str, index: int) -> npt.NDArray[Any]:
        path = self.manifest.root / name
        if path.is_file():
            self._refuse_changed(name, index)
        try:
            array = load.load(path).array
        except (DataError, OSError) as error:  # the reader's own words name the file
            kind = type(error.__cause__ or error).__name__
            got = f"an unreadable one ({kind})" if path.is_file() else "no such file"
            raise DataError(expected("a readable image", got=got, where=self._where(index))) from None
        if array.ndim - 1 != self.info.spatial_dims:
            got = f"{array.ndim - 1} dimensions"
            raise DataError(expected(f"{self.info.spatial_dims}-D images", got=got, where=self._where(index)))
        return array

    def _refuse_changed(self, name: str, index: int) -> None:
        """Refuse a file that is not the one that was prepared.

        Nothing is compared in a dataset without digests.
        """
        try:
            self.manifest.check_file(name)
        except DataError as error:
            got, fix = "another file", "prepare the dataset again"
            raise DataError(
                expected("the image that was prepared", got=got, where=self._where(index), fix=fix)
            ) from error

    def _common_size(self, index: int, size: Sequence[int]) -> tuple[int, ...]:
        """Return the size every whole case has; refuse a case that differs."""
        own = tuple(int(length) for length in size)
        if self.config.patch_size and not self.config.image_size:
            return own
        self._size = self._size or own
        fits = len(own) == len(self._size) and all(a <= b for a, b in zip(own, self._size, strict=True))
        if own == self._size or (self.config.image_size and fits):
            return self._size
        fix = "prepare the dataset with one size, or set image_size (pads) or patch_size"
        raise DataError(expected(f"images of size {self._size}", got=own, where=self._where(index), fix=fix))

    def _where(self, index: int) -> str:
        return f"manifest.csv, row {self.rows[index]}"


def split_store(manifest: Manifest, split: str, config: LearnConfig) -> CaseStore:
    """Return the cases of one split; messages name the rows of the whole manifest."""
    rows = [row for row, case in enumerate(manifest.cases, FIRST_ROW) if case.split == split]
    return CaseStore(manifest.split(split), config, rows=rows)


def padded(value: Tensor, size: Sequence[int], fill: float) -> Tensor:
    """Return ``value`` with ``fill`` added evenly around its last axes until they have ``size``.

    Never cropped.
    """
    extra = [max(0, wanted - length) for wanted, length in zip(size, value.shape[-len(size) :], strict=True)]
    if not any(extra):
        return value
    pads = [amount for missing in reversed(extra) for amount in (missing // 2, missing - missing // 2)]
    return functional.pad(value, pads, value=fill)


def unpadded(value: npt.NDArray[Any], size: Sequence[int]) -> npt.NDArray[Any]:
    """Return the middle of ``value`` of ``size``: the inverse of :func:`padded` on the last axes."""
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
