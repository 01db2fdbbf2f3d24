"""Augmentation of one case at a time, image and label map together.

All random numbers come from a generator that the caller passes in, so that they can be keyed per case.

Axes: 2-D images are (channels, rows, columns), so left-right is the last axis; volumes are (channels, x, y,
z) with x to the patient's right, so left-right is the first spatial axis and the image plane is (x, y).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from meninx.core.errors import ConfigError, problem
from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.learn.config import AugmentConfig


@dataclass(frozen=True)
class Sample:
    """One case as the network sees it.

    Attributes:
        image: (channels, ...), float32, normalised.
        target: (labels,) float32 with NaN for unknown, or a label map (...), int64.
    """

    image: Tensor
    target: Tensor


@dataclass(frozen=True)
class Augmenter:
    """The augmentations of a config; a left-right flip also exchanges left and right labels.

    Attributes:
        names: augmentations to apply; the order is that of this class.
        config: their strengths.
        info: spatial dimensions, task, labels and laterality of the dataset.
    """

    names: frozenset[str]
    config: AugmentConfig
    info: DatasetInfo

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        """Return an augmented copy; ``sample`` is not changed.

        The number of values drawn from the generator does not depend on the values.
        """
        sample = self._flipped(sample, generator)
        if self.names & {"rotate", "crop"}:
            sample = self._warped(sample, generator)
        if "shift" in self.names:
            reach = int(self.config.shift_voxels)
            moves = generator.integers(-reach, reach + 1, size=sample.image.ndim - 1)
            sample = self._both(sample, lambda value, first: _shifted(value, moves, first))
        if "intensity" in self.names:
            strength = self.config.intensity_strength
            gain, offset = generator.uniform(-strength, strength, size=2)
            sample = Sample(sample.image * (1 + float(gain)) + float(offset), sample.target)
        return sample

    def _flipped(self, sample: Sample, generator: np.random.Generator) -> Sample:
        flat = self.info.spatial_dims == 2
        axes = {"flip": -1, "vflip": -2} if flat else {"flip": -3, "vflip": -2, "zflip": -1}
        for name, axis in axes.items():
            if name not in self.names or generator.random() >= self.config.flip_probability:
                continue
            image = sample.image.flip(axis)
            mapped = self.info.task is TaskKind.SEGMENTATION
            target = sample.target.flip(axis) if mapped else sample.target
            sample = Sample(image, self._exchanged(target) if name == "flip" else target)
        return sample

    def _exchanged(self, target: Tensor) -> Tensor:
        """Return the target with left and right labels swapped."""
        position = {label: index for index, label in enumerate(self.info.labels)}
        order = list(range(len(self.info.labels)))
        for left, right in self.info.laterality:
            order[position[left]], order[position[right]] = position[right], position[left]
        if self.info.task is not TaskKind.SEGMENTATION:
            return target[..., order]
        if not self.info.laterality:
            return target
        table = torch.arange(256)
        table[1 : len(order) + 1] = torch.tensor(order) + 1
        return table[target]

    def _warped(self, sample: Sample, generator: np.random.Generator) -> Sample:
        degrees = self.config.rotate_degrees if "rotate" in self.names else 0.0
        smallest = self.config.crop_scale if "crop" in self.names else 1.0
        angle = math.radians(float(generator.uniform(-degrees, degrees)))
        scale = float(generator.uniform(smallest, 1.0))
        dims = sample.image.ndim - 1
        middle = generator.uniform(-1.0, 1.0, size=dims) * (1 - scale)
        grid = _grid(sample.image.shape[1:], angle, scale, middle)
        image = _sampled(sample.image, grid, "bilinear")
        if self.info.task is not TaskKind.SEGMENTATION:
            return Sample(image, sample.target)
        return Sample(image, _sampled(sample.target[None].float(), grid, "nearest")[0].long())

    def _both(self, sample: Sample, change: Callable[[Tensor, int], Tensor]) -> Sample:
        image = change(sample.image, 1)
        mapped = self.info.task is TaskKind.SEGMENTATION
        return Sample(image, change(sample.target, 0) if mapped else sample.target)


def augmenter(config: AugmentConfig, info: DatasetInfo) -> Augmenter:
    """Return the augmentations that a config names, for a dataset.

    Raises:
        ConfigError: one of them has no effect on its images.
    """
    refuse_unfit(config, info)
    return Augmenter(frozenset(config.transforms), config, info)


def refuse_unfit(config: AugmentConfig, info: DatasetInfo) -> None:
    """Refuse a flip along an axis that the images do not have.

    Raises:
        ConfigError: ``zflip`` of 2-D images.
    """
    if "zflip" in config.transforms and info.spatial_dims == 2:
        fix = "leave zflip out, or give flip or vflip"
        raise ConfigError(problem("zflip has no effect on 2-D images", where="augment", fix=fix))


def _shifted(value: Tensor, moves: npt.NDArray[np.int64], first: int) -> Tensor:
    """Return ``value`` moved by whole voxels; the border values are repeated."""
    for axis, move in enumerate(moves, start=first):
        length = value.shape[axis]
        source = (torch.arange(length) - int(move)).clamp(0, length - 1)
        value = value.index_select(axis, source)
    return value


def _grid(size: Sequence[int], angle: float, scale: float, middle: npt.NDArray[np.float64]) -> Tensor:
    """Return the sampling grid of a rotation in the image plane and a zoom.

    Shape (1, *size, dims), torch's axis order.
    """
    dims = len(size)
    plane = (dims - 1, dims - 2) if dims == 2 else (0, 1)
    pixels = np.array(size, dtype=np.float64)
    turn = np.eye(dims)
    first, second = plane
    turn[first, first] = turn[second, second] = math.cos(angle)
    turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
    matrix = (turn * scale) * pixels[None, :] / pixels[:, None]  # rotate voxels, not the unit square
    # Each coordinate is a sum of one term per axis: a fifth of the time of functional.affine_grid.
    grid = torch.empty(*size, dims)
    for axis in range(dims):
        total = torch.tensor(middle[axis], dtype=torch.float32)
        for other in (int(number) for number in np.flatnonzero(matrix[axis])):
            term = _centres(size[other]) * float(matrix[axis, other])
            total = total + term.reshape([-1 if position == other else 1 for position in range(dims)])
        grid[..., dims - 1 - axis] = total  # torch counts coordinates from the last axis
    return grid[None]


def _centres(length: int) -> Tensor:
    """Return the coordinates of the voxel centres of an axis that extends from -1 to 1."""
    return torch.linspace(-1.0, 1.0, length) * ((length - 1) / length)


def _sampled(value: Tensor, grid: Tensor, mode: str) -> Tensor:
    return functional.grid_sample(value[None], grid, mode=mode, padding_mode="border", align_corners=False)[0]
