"""EfficientNet-Lite0: inverted residuals without squeeze-and-excitation, as a start from public weights.

MONAI's EfficientNet always has swish activations and gates, so that the weights of EfficientNet-Lite do not
fit it. :mod:`meninx.models.key_maps` translates the parameter names of the public files.

References:
    Tan and Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks".
    Liu 2020, "Higher accuracy on vision models with EfficientNet-Lite" (TensorFlow blog).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from meninx.core import check
from meninx.models import blocks

STAGES = (  # blocks, kernel, stride of the first block, expansion, output channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, TOP = 32, 1280  # channels
EPSILON = 1e-3  # of the norms, as in the published network; torch's default is 1e-5
NORMS = ("frozen", "group")


class FrozenBatchNorm(nn.Module):
    """Batch normalisation with the fixed statistics of the pretrained weights.

    The statistics are constants, so an output depends on one image only and private training may train weight
    and bias. Without pretrained statistics (mean 0, variance 1) the layer only scales and shifts.

    Args:
        channels: number of channels of the input.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised maps (batch, channels, ...)."""
        deviation = torch.rsqrt(self.running_var + EPSILON)
        shape = (1, -1, *(1,) * (x.ndim - 2))
        centred = (x - self.running_mean.view(shape)) * deviation.view(shape)
        return centred * self.weight.view(shape) + self.bias.view(shape)


class SamePad(nn.Module):
    """Zero padding with which a convolution gives ``ceil(size / stride)`` values along each axis.

    The public weights come from TensorFlow, which puts the odd zero at the end; torch's padding is symmetric.

    Args:
        kernel: size of the filter along each axis.
        stride: step along each axis.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (batch, channels, ...) with zeros added at both ends of its spatial axes."""
        pads: list[int] = []
        for size in reversed(x.shape[2:]):
            missing = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
            pads += [missing // 2, missing - missing // 2]
        return functional.pad(x, pads)


class InvertedResidual(nn.Module):
    """A 1x1 expansion, depthwise convolution and 1x1 projection, with a residual where the shapes agree."""

    def __init__(
        self,
        spatial_dims: int,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        expansion: int,
        norm: str,
    ) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _layer(spatial_dims, inputs, wide, norm=norm) if expansion > 1 else nn.Identity()
        self.depthwise = _layer(spatial_dims, wide, wide, kernel, stride, groups=wide, norm=norm)
        self.project = _layer(spatial_dims, wide, outputs, norm=norm, act=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (batch, outputs, ...)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """Stem, 16 inverted residuals, 1x1 convolution, global average, linear head.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        out_channels: outputs of the head.
        norm: ``frozen`` (batch normalisation by the statistics of the pretrained weights, as constants) or
            ``group`` (for a random start).
        feature_norm: put a layer norm between average and head, whose weights can hold the statistics of
            public features (the setting ``standardize``).
    """

    head_name = "head"

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        norm: str = "frozen",
        feature_norm: bool = False,
    ) -> None:
        super().__init__()
        check.one_of(NORMS, norm=norm)
        self.stem = _layer(spatial_dims, in_channels, STEM, 3, 2, norm=norm)
        self.blocks = nn.Sequential()
        channels = STEM
        for count, kernel, first, expansion, outputs in STAGES:
            for position in range(count):
                stride = 1 if position else first
                self.blocks.append(
                    InvertedResidual(spatial_dims, channels, outputs, kernel, stride, expansion, norm)
                )
                channels = outputs
        self.top = _layer(spatial_dims, channels, TOP, norm=norm)
        self.norm = nn.LayerNorm(TOP) if feature_norm else nn.Identity()
        self.head = nn.Linear(TOP, out_channels)
        blocks.initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the head, (batch, 1280)."""
        maps: Tensor = self.top(self.blocks(self.stem(x)))
        pooled: Tensor = self.norm(torch.mean(maps, dim=tuple(range(2, maps.ndim))))
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, out_channels) of images (batch, in_channels, ...)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def _layer(
    spatial_dims: int,
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    groups: int = 1,
    norm: str,
    act: bool = True,
) -> nn.Sequential:
    """Return padding, convolution, norm and activation."""
    kind = nn.Conv2d if blocks.two_or_three(spatial_dims) == 2 else nn.Conv3d
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if kernel > 1:
        parts["pad"] = SamePad(kernel, stride)
    parts["conv"] = kind(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)
    parts["norm"] = FrozenBatchNorm(outputs) if norm == "frozen" else blocks.norm(outputs, groups=8)
    if act:
        parts["act"] = nn.ReLU6()
    return nn.Sequential(parts)
