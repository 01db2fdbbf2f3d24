"""The image type: an array, an affine and a header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Image:
    """Voxels with their positions in space.

    Attributes:
        array: channel-first, shape (channels, rows, columns) in 2-D and (channels, x, y, z) in 3-D, where
            the spatial axes of a volume follow the columns of ``affine``.
        affine: 4x4, maps voxel indices to millimetres in RAS+ (x to the Right, y Anterior, z Superior);
            identity if unknown. For a 2-D image only the spacing on the diagonal is meaningful.
        header: properties of the image as JSON values (``modality``, ``view``, ...), no identifiers.
    """

    array: npt.NDArray[Any]
    affine: npt.NDArray[np.float64] = field(default_factory=lambda: np.eye(4))
    header: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.array.ndim not in (3, 4):
            raise ValueError(f"expected a channel-first array of 3 or 4 axes, got {self.array.ndim}")

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return self.array.ndim - 1

    @property
    def channels(self) -> int:
        """Number of channels, the first axis."""
        return int(self.array.shape[0])

    @property
    def size(self) -> tuple[int, ...]:
        """Spatial shape."""
        return tuple(int(n) for n in self.array.shape[1:])

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance between voxel centres along each spatial axis, from the affine."""
        return tuple(float(np.linalg.norm(self.affine[:3, axis])) for axis in range(self.spatial_dims))


def stacked(images: Sequence[Image]) -> Image:
    """Return images of one channel each as the channels of one image.

    Raises:
        ValueError: an image has several channels, or a grid different from the first; the message gives its
            number.
    """
    for number, image in enumerate(images, start=1):
        if image.channels != 1:
            raise ValueError(f"file {number} of a channel holds {image.channels} channels")
        if not same_grid(image, images[0]):
            raise ValueError(f"channel {number} is on another grid than the first one")
    first = images[0]
    return Image(np.concatenate([image.array for image in images]), first.affine, first.header)


def same_grid(one: Image, other: Image) -> bool:
    """Return whether two images have the same size and the same position of every voxel.

    Positions may differ by 0.05 mm or a tenth of a voxel, whichever is larger, because headers are rounded.
    """
    if one.size != other.size:
        return False
    ends = [(0, length - 1) for length in one.size]
    corners = np.array([*map(np.ravel, np.meshgrid(*ends)), *[np.ones(2 ** len(ends))] * (4 - len(ends))])
    moved = np.linalg.norm(((one.affine - other.affine) @ corners)[:3], axis=0).max()
    return bool(moved <= max(0.05, 0.1 * min(one.spacing_mm)))
