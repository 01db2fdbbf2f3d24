"""Outputs of a patch-based network for whole images, in numpy: overlapping patches, weighted by a Gaussian.

The positions of the patches, the padding and the weights are those of
``monai.inferers.sliding_window_inference``, so that a program without torch gets the same numbers from the
ONNX file of a bundle. A bundle contains this source and the settings in ``configs/metadata.json``.

    >>> window = SlidingWindow(roi_size=(2, 2))
    >>> window.average(lambda patch: patch, np.ones((1, 3, 5), np.float32)).shape
    (1, 3, 5)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected, problem

Floats = npt.NDArray[np.float32]
OVERLAP, SIGMA_SCALE = 0.5, 0.125
GAUSSIAN, REPLICATE = "gaussian", "replicate"
_LEAST = 1e-3  # smallest weight of a pixel, as in MONAI, so that the sum of weights is never 0


@dataclass(frozen=True, kw_only=True)
class SlidingWindow:
    """How patches are combined; the fields have the names of MONAI's arguments.

    Attributes:
        roi_size: spatial size of a patch.
        overlap: share of a patch covered again by the next one, in [0, 1).
        mode: weights of the pixels of a patch; ``gaussian``.
        sigma_scale: standard deviation of the Gaussian, as a share of the patch.
        padding_mode: how an image smaller than a patch is padded; ``replicate`` repeats its border.
    """

    roi_size: tuple[int, ...]
    overlap: float = OVERLAP
    mode: str = GAUSSIAN
    sigma_scale: float = SIGMA_SCALE
    padding_mode: str = REPLICATE

    def __post_init__(self) -> None:
        if (self.mode, self.padding_mode) != (GAUSSIAN, REPLICATE):
            what = f"mode {GAUSSIAN} and padding_mode {REPLICATE}"
            raise DataError(problem(f"the settings are not {what}", where="sliding_window"))
        if not self.roi_size or min(self.roi_size) < 1 or not 0 <= self.overlap < 1 or self.sigma_scale <= 0:
            raise DataError(problem("a number is out of range", where="sliding_window"))

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> SlidingWindow:
        """Return the settings in the table ``sliding_window`` of a bundle.

        Raises:
            DataError: a setting is unknown or out of range.
        """
        if set(table) != set(cls.__dataclass_fields__):
            got = f"{len(set(table) ^ set(cls.__dataclass_fields__))} unknown or missing"
            raise DataError(expected("known settings", got=got, where="sliding_window"))
        return cls(**{**table, "roi_size": tuple(table["roi_size"])})

    def to_table(self) -> dict[str, Any]:
        """Return the settings as a table."""
        return asdict(self)

    def average(self, network: Callable[[Floats], Floats], image: Floats) -> Floats:
        """Return the weighted mean of a network's outputs for overlapping patches, (outputs, *spatial).

        Args:
            network: maps one patch (channels, *roi_size) to its outputs (outputs, *roi_size).
            image: (channels, *spatial).

        Raises:
            DataError: the image has another number of axes than a patch.
        """
        size = image.shape[1:]
        if len(size) != len(self.roi_size):
            raise DataError(expected(f"{len(self.roi_size)}-D images", got=f"{len(size)}-D", where="image"))
        extra = [max(0, roi - have) for roi, have in zip(self.roi_size, size, strict=True)]
        before = [missing // 2 for missing in extra]
        widths = [(0, 0), *((first, all_ - first) for first, all_ in zip(before, extra, strict=True))]
        padded = np.pad(image, widths, mode="edge")
        weights = self.weights()
        count = np.zeros(padded.shape[1:], np.float32)
        total: Floats | None = None
        for place in self.places(padded.shape[1:]):
            found = network(np.ascontiguousarray(padded[(slice(None), *place)]))
            if total is None:
                total = np.zeros((found.shape[0], *padded.shape[1:]), np.float32)
            total[(slice(None), *place)] += found * weights
            count[place] += weights
        assert total is not None  # every image has at least one patch
        total /= count
        inside = tuple(slice(first, first + have) for first, have in zip(before, size, strict=True))
        return total[(slice(None), *inside)]

    def places(self, size: Sequence[int]) -> Iterator[tuple[slice, ...]]:
        """Yield the patches of an image of a spatial size that is at least ``roi_size``."""
        starts = []
        for have, roi in zip(size, self.roi_size, strict=True):
            step = roi if roi == have else max(1, int(roi * (1 - self.overlap)))
            number = max(0, math.ceil((have - roi) / step)) + 1
            starts.append([min(index * step, have - roi) for index in range(number)])
        for first in itertools.product(*starts):
            yield tuple(slice(a, a + roi) for a, roi in zip(first, self.roi_size, strict=True))

    def weights(self) -> Floats:
        """Return the weight of every pixel of a patch."""
        product = np.ones((), np.float32)
        for roi in self.roi_size:
            places = np.arange(roi, dtype=np.float32) - np.float32((roi - 1) / 2)
            sigma = self.sigma_scale * roi
            product = product[..., None] * np.exp(places**2 / np.float32(-2 * sigma**2))
        return np.maximum(product, max(float(product.min()), _LEAST)).astype(np.float32)
