"""Small networks that attack released images: three ways to read an image, and one that restores it.

They differ in what they can find. ``strided`` keeps the place of a feature, ``residual`` finds shapes in any
place, and ``wide`` sees large parts of the image at once. ::

    >>> network = attack_network("wide", channels=1, outputs=2)
    >>> tuple(network(torch.zeros(3, 1, 32, 32)).shape)
    (3, 2)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from meninx.core import check
from meninx.models import blocks, registry

FAMILIES = ("strided", "residual", "wide")
"""Networks for images."""
PERCEPTRON = "perceptron"
"""The network for features."""
_GROUPS = 8
_FINE, _COARSE = 96, 64
_STRIDED = (16, 32, 64, 64)
_WIDE = ((24, 9, 4), (48, 5, 2), (48, 5, 1))  # channels, kernel, stride
_RESTORER, _HIDDEN = 8, 64


def attack_network(family: str, *, channels: int, outputs: int) -> nn.Module:
    """Return a new network with random weights from torch's current generator.

    Args:
        family: one of :data:`FAMILIES`, or :data:`PERCEPTRON`.
        channels: of the images; number of features of a perceptron.
        outputs: logits.

    Raises:
        ConfigError: an unknown family.
    """
    check.one_of((*FAMILIES, PERCEPTRON), family=family)
    if family == PERCEPTRON:
        layers = (nn.Linear(channels, _HIDDEN), nn.ReLU(), nn.Dropout(0.3), nn.Linear(_HIDDEN, outputs))
        return nn.Sequential(*layers)
    if family == "residual":
        shape = {"spatial_dims": 2, "in_channels": channels, "out_channels": outputs}
        return nn.Sequential(Coarse(), registry.build("resnet9", **shape, width=16, groups=_GROUPS))
    return Strided(channels, outputs) if family == "strided" else WideKernel(channels, outputs)


class Coarse(nn.Module):
    """Averages images of more than 96 pixels along an axis to 64, for a network that reads coarse shapes."""

    def forward(self, x: Tensor) -> Tensor:
        """Return images (batch, channels, height, width), smaller ones as they are."""
        if min(x.shape[2:]) <= _FINE:
            return x
        return functional.adaptive_avg_pool2d(x, _COARSE)


class Strided(nn.Module):
    """Four convolutions of stride 2 and a linear head on a coarse grid, which keeps the place of a feature.

    Args:
        channels: of the images.
        outputs: logits.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = channels
        for wide in _STRIDED:
            layers += [blocks.conv(2, width, wide, stride=2), blocks.norm(wide, groups=_GROUPS), nn.ReLU()]
            width = wide
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3))
        self.head = nn.Linear(width * 16, outputs)
        blocks.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, outputs) of images (batch, channels, height, width)."""
        logits: Tensor = self.head(self.body(x))
        return logits


class WideKernel(nn.Module):
    """Three convolutions with 9 x 9 and 5 x 5 pixels, and the mean and the maximum of what they find.

    Args:
        channels: of the images.
        outputs: logits.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = channels
        for wide, kernel, stride in _WIDE:
            layers += [
                blocks.conv(2, width, wide, kernel, stride=stride),
                blocks.norm(wide, groups=_GROUPS),
                nn.GELU(),
            ]
            width = wide
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * width, outputs)
        blocks.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, outputs) of images (batch, channels, height, width)."""
        maps = self.body(x)
        logits: Tensor = self.head(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1))
        return logits


class Restorer(nn.Module):
    """Predicts an original image from a released one: a small encoder and decoder around the identity.

    Args:
        channels: of the images.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = _RESTORER
        self.down = nn.ModuleList(
            _normed(blocks.conv(2, inputs, outputs, stride=2), outputs)
            for inputs, outputs in ((channels, wide), (wide, 2 * wide), (2 * wide, 2 * wide))
        )
        self.up = nn.ModuleList(
            _normed(blocks.conv(2, inputs, outputs), outputs)
            for inputs, outputs in ((4 * wide, 2 * wide), (3 * wide, wide))
        )
        self.last = nn.Conv2d(wide + channels, channels, 3, padding=1)
        self.direct = nn.Parameter(torch.full((1, channels, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Return estimates of the originals, of the shape of ``x`` (batch, channels, height, width)."""
        maps = [x]
        for layer in self.down:
            maps.append(layer(maps[-1]))
        found = maps.pop()
        for layer in self.up:
            beside = maps.pop()
            found = layer(torch.cat([_enlarged(found, beside), beside], dim=1))
        result: Tensor = self.last(torch.cat([_enlarged(found, x), x], dim=1)) + self.direct * x
        return result


class VectorRestorer(nn.Module):
    """Predicts original features from released ones: the identity and a small correction.

    Args:
        features: how many.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, features)
        self.correction = nn.Sequential(nn.Linear(features, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, features))

    def forward(self, x: Tensor) -> Tensor:
        """Return estimates of the originals, of the shape of ``x`` (batch, features)."""
        result: Tensor = self.linear(x) + self.correction(x)
        return result


def _normed(conv: nn.Module, width: int) -> nn.Sequential:
    return nn.Sequential(conv, blocks.norm(width, groups=_GROUPS), nn.ReLU())


def _enlarged(maps: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(maps, size=like.shape[2:], mode="bilinear", align_corners=False)
