"""Residual networks with GroupNorm: ResNet-9, 18, 34 and 50, in 2-D and 3-D.

References:
    He et al. 2016, "Deep residual learning for image recognition".
    Klause, Ziller et al. 2022, "Differentially private training of residual networks with scale
    normalisation".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from meninx.models import blocks


class Shortcut(nn.Sequential):
    """The 1x1 convolution and norm that adapt the residual path to another width or size."""

    def __init__(self, spatial_dims: int, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__(
            blocks.conv(spatial_dims, inputs, outputs, 1, stride=stride), blocks.norm(outputs, groups=groups)
        )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection; ``scale_norm`` adds a norm after the addition."""

    expansion = 1

    def __init__(
        self,
        spatial_dims: int,
        inputs: int,
        width: int,
        stride: int,
        *,
        activation: str,
        groups: int,
        scale_norm: bool,
    ) -> None:
        super().__init__()
        self.conv1 = blocks.conv(spatial_dims, inputs, width, stride=stride)
        self.norm1 = blocks.norm(width, groups=groups)
        self.act1 = blocks.activation(activation)
        self.conv2 = blocks.conv(spatial_dims, width, width)
        self.norm2 = blocks.norm(width, groups=groups)
        same = stride == 1 and inputs == width
        self.shortcut = nn.Identity() if same else Shortcut(spatial_dims, inputs, width, stride, groups)
        self.act2 = blocks.activation(activation)
        self.scale = blocks.norm(width, groups=groups, kind="group" if scale_norm else "none")

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (batch, width, ...)."""
        y = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        result: Tensor = self.scale(self.act2(y + self.shortcut(x)))
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a residual connection; the output has four times the width."""

    expansion = 4

    def __init__(
        self,
        spatial_dims: int,
        inputs: int,
        width: int,
        stride: int,
        *,
        activation: str,
        groups: int,
        scale_norm: bool,
    ) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = blocks.conv(spatial_dims, inputs, width, 1)
        self.norm1 = blocks.norm(width, groups=groups)
        self.act1 = blocks.activation(activation)
        self.conv2 = blocks.conv(spatial_dims, width, width, stride=stride)
        self.norm2 = blocks.norm(width, groups=groups)
        self.act2 = blocks.activation(activation)
        self.conv3 = blocks.conv(spatial_dims, width, outputs, 1)
        self.norm3 = blocks.norm(outputs, groups=groups)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else Shortcut(spatial_dims, inputs, outputs, stride, groups)
        self.act3 = blocks.activation(activation)
        self.scale = blocks.norm(outputs, groups=groups, kind="group" if scale_norm else "none")

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (batch, 4 * width, ...)."""
        y = self.act1(self.norm1(self.conv1(x)))
        y = self.act2(self.norm2(self.conv2(y)))
        result: Tensor = self.scale(self.act3(self.norm3(self.conv3(y)) + self.shortcut(x)))
        return result


class ResNet(nn.Module):
    """A network of a stem, four stages of residual blocks, a global average and a linear head.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        out_channels: outputs of the head.
        block: BasicBlock or Bottleneck.
        layers: blocks in each stage.
        width: channels of the first stage, doubled in each following stage.
        activation: name in :data:`blocks.ACTIVATIONS`.
        groups: groups of the GroupNorms.
        scale_norm: put a norm after each residual addition.
        small_stem: use a 3x3 stem without pooling, for images of at most about 64 pixels per axis.
    """

    head_name = "head"

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        width: int = 64,
        activation: str = "mish",
        groups: int = 32,
        scale_norm: bool = False,
        small_stem: bool = False,
    ) -> None:
        super().__init__()
        kernel, stride = (3, 1) if small_stem else (7, 2)
        self.stem = nn.Sequential(
            blocks.conv(spatial_dims, in_channels, width, kernel, stride=stride),
            blocks.norm(width, groups=groups),
            blocks.activation(activation),
            nn.Identity() if small_stem else blocks.max_pool(spatial_dims, 3, 2, 1),
        )
        self.stages = nn.Sequential()
        channels = width
        for stage, count in enumerate(layers):
            for position in range(count):
                wide = width * 2**stage
                step = 2 if stage and not position else 1
                self.stages.append(
                    block(
                        spatial_dims,
                        channels,
                        wide,
                        step,
                        activation=activation,
                        groups=groups,
                        scale_norm=scale_norm,
                    )
                )
                channels = wide * block.expansion
        self.head = nn.Linear(channels, out_channels)
        blocks.initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the head, (batch, features)."""
        maps: Tensor = self.stages(self.stem(x))
        return torch.mean(maps, dim=tuple(range(2, maps.ndim)))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, out_channels) of images (batch, in_channels, ...)."""
        logits: Tensor = self.head(self.features(x))
        return logits
