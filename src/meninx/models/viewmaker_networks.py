"""Viewmaker networks: an image and random numbers in, a bounded change of the image out.

``full`` is the network of Tamkin et al. and of DP-Viewmaker, which works at the size of the image. ``slim``
computes the change on an image of at most 32 pixels a side and enlarges it, which is many times faster. ::

    >>> network = viewmaker("slim", channels=1, budget=0.05)
    >>> images = torch.rand(2, 1, 48, 64)
    >>> noise = [torch.rand(2, 1, *shape) for shape in network.noise_shapes(48, 64)]
    >>> views = network(images, noise)
    >>> change = (views - images).abs()
    >>> bool((change.mean((1, 2, 3)) <= 0.05 + 1e-6).all()), bool(change.max() <= 0.2 + 1e-6)
    (True, True)

References:
    Tamkin et al. (2021), Viewmaker Networks: Learning Views for Unsupervised Representation Learning, ICLR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from meninx.core import check
from meninx.core.errors import ConfigError, expected

ViewmakerName = Literal["slim", "full"]
NETWORKS: tuple[ViewmakerName, ...] = ("slim", "full")
LARGEST_SHARE = 4.0
"""Largest change of a pixel, in units of the budget."""
LEAST_SIDE = 8
"""Smallest side of an image in pixels."""
CORE_SIDE = 32
"""Longer side of the image on which the slim network computes the change."""
_FULL = ((32, 9), (64, 3), (128, 3))  # channels and kernel before the residual blocks; strides 1, 2, 2
_SLIM = ((16, 5), (32, 3), (48, 3))
_TINY = 1e-12


def viewmaker(
    name: ViewmakerName, *, channels: int, budget: float, residual_blocks: int = 3, dct: bool = False
) -> Viewmaker:
    """Return a new viewmaker with random weights from torch's current generator.

    Args:
        name: ``slim`` or ``full``.
        channels: of the images.
        budget: largest mean absolute change of an image, of the range 0 to 1.
        residual_blocks: blocks at the coarsest size.
        dct: compute the change from and in the coefficients of the discrete cosine transform.

    Raises:
        ConfigError: an unknown name, or a budget outside (0, 1].
    """
    check.one_of(NETWORKS, network=name)
    if not 0 < budget <= 1:
        raise ConfigError(expected("a budget above 0 and at most 1", got=budget, where="budget"))
    core = ChangeNetwork(channels, _FULL if name == "full" else _SLIM, residual_blocks)
    return Viewmaker(core, budget=budget, core_side=CORE_SIDE if name == "slim" else 0, dct=dct)


class Viewmaker(nn.Module):
    """Changes images by at most a budget.

    Guarantee: the mean absolute change of each image is at most ``budget``, no pixel changes by more than
        :data:`LARGEST_SHARE` times the budget, and the values stay in [0, 1], up to rounding in float32. The
        change is projected into these limits, so an image may change by less.

    Args:
        core: predicts the change.
        budget: see above.
        core_side: longer side of the image that the core sees; 0 for the image itself.
        dct: the core reads and gives coefficients of the discrete cosine transform.
    """

    def __init__(self, core: ChangeNetwork, *, budget: float, core_side: int = 0, dct: bool = False) -> None:
        super().__init__()
        self.core, self.budget, self.core_side, self.dct = core, budget, core_side, dct

    def noise_shapes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Return height and width of each channel of random numbers for images of a size."""
        sizes = self.core.sizes(*self._core_size(height, width))
        return (sizes[0], *[sizes[-1]] * len(self.core.residual))

    def forward(self, images: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """Return views of images.

        Args:
            images: (batch, channels, height, width) in [0, 1], sides of at least :data:`LEAST_SIDE` pixels.
            noise: numbers in [0, 1], one tensor (batch, 1, h, w) for each of :meth:`noise_shapes`.
        """
        return images + project(images, torch.tanh(self._raw_change(images, noise)), self.budget)

    def draw(self, images: Tensor) -> Tensor:
        """Return views with random numbers from torch's current generator; for training."""
        shapes = self.noise_shapes(*images.shape[2:])
        noise = [torch.rand(len(images), 1, *shape, device=images.device) for shape in shapes]
        views: Tensor = self(images, noise)
        return views

    def _core_size(self, height: int, width: int) -> tuple[int, int]:
        scale = min(1.0, self.core_side / max(height, width)) if self.core_side else 1.0
        return max(LEAST_SIDE, round(height * scale)), max(LEAST_SIDE, round(width * scale))

    def _raw_change(self, images: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """Return the predicted change before tanh and projection, of the size of the images."""
        height, width = images.shape[2:]
        size = self._core_size(height, width)
        small = images if size == (height, width) else functional.interpolate(images, size, mode="area")
        if self.dct:
            rows, columns = (cosine_basis(side).to(small) for side in size)
            change: Tensor = rows.T @ self.core(rows @ small @ columns.T, noise) @ columns
        else:
            change = self.core(small, noise)
        if size == (height, width):
            return change
        return functional.interpolate(change, (height, width), mode="bilinear", align_corners=False)


class ChangeNetwork(nn.Module):
    """An encoder, residual blocks and a decoder with instance norm; random channels are added on the way.

    One channel of random numbers is appended to the image and one before each residual block.

    Args:
        channels: of the images.
        levels: (channels, kernel) of the three convolutions before the blocks.
        residual_blocks: number of blocks.
    """

    def __init__(self, channels: int, levels: Sequence[tuple[int, int]], residual_blocks: int) -> None:
        super().__init__()
        widths = [wide for wide, _ in levels]
        inputs = (channels + 1, *widths[:-1])
        self.down = nn.ModuleList(
            ConvNorm(before, wide, kernel, stride=1 if first else 2)
            for first, before, (wide, kernel) in zip((True, False, False), inputs, levels, strict=True)
        )
        top = widths[-1]
        self.residual = nn.ModuleList(ResidualBlock(top + 1 + number) for number in range(residual_blocks))
        self.up = nn.ModuleList(
            ConvNorm(before, wide, 3) for before, wide in pairwise((top + residual_blocks, *widths[-2::-1]))
        )
        kernel = levels[0][1]
        self.last = nn.Conv2d(widths[0], channels, kernel, padding=kernel // 2, padding_mode="reflect")

    @staticmethod
    def sizes(height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Return the sizes of the maps: of the image, half and a quarter of it, rounded up."""
        half = (-(-height // 2), -(-width // 2))
        return (height, width), half, (-(-half[0] // 2), -(-half[1] // 2))

    def forward(self, images: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """Return the change (batch, channels, height, width) before any limit."""
        sizes = self.sizes(*images.shape[2:])
        maps = torch.cat([images, noise[0]], dim=1)
        for layer in self.down:
            maps = functional.relu(layer(maps))
        for block, numbers in zip(self.residual, noise[1:], strict=True):
            maps = block(torch.cat([maps, numbers], dim=1))
        for layer, size in zip(self.up, sizes[-2::-1], strict=True):
            maps = functional.relu(layer(functional.interpolate(maps, size, mode="nearest")))
        change: Tensor = self.last(maps)
        return change


class ConvNorm(nn.Module):
    """A convolution with reflection padding and an instance norm.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: odd size of the filter.
        stride: step.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        padding = {"padding": kernel // 2, "padding_mode": "reflect"}
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, **padding)  # type: ignore[arg-type]
        self.norm = nn.InstanceNorm2d(outputs, affine=True)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (batch, outputs, height / stride, width / stride)."""
        normed: Tensor = self.norm(self.conv(maps))
        return normed


class ResidualBlock(nn.Module):
    """Two convolutions whose result is added to their input.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = ConvNorm(channels, channels, 3), ConvNorm(channels, channels, 3)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same shape."""
        result: Tensor = maps + self.second(functional.relu(self.first(maps)))
        return result


def project(images: Tensor, change: Tensor, budget: float) -> Tensor:
    """Return a change of images that is inside the budget, the largest change of a pixel and the range.

    A change that is inside already is returned as it is. Otherwise it is scaled to the budget, and then cut
    at the box and the range, which makes it only smaller.

    Args:
        images: (batch, channels, height, width) in [0, 1].
        change: same shape.
        budget: largest mean absolute change of each image.
    """
    mean = change.abs().mean((1, 2, 3), keepdim=True)
    scaled = change * (budget / mean.clamp_min(_TINY)).clamp_max(1.0)
    box = LARGEST_SHARE * budget
    low, high = (-images).clamp_min(-box), (1 - images).clamp_max(box)
    return torch.minimum(torch.maximum(scaled, low), high)


def cosine_basis(length: int) -> Tensor:
    """Return the orthonormal matrix (length, length) of the discrete cosine transform of type II."""
    place = (torch.arange(length, dtype=torch.float64) + 0.5) / length
    basis = torch.cos(math.pi * torch.arange(length, dtype=torch.float64)[:, None] * place[None, :])
    basis *= math.sqrt(2 / length)
    basis[0] /= math.sqrt(2)
    return basis.float()
