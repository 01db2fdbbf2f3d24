"""Wide residual networks with GroupNorm in pre-activation order, in 2-D and 3-D.

References:
    Zagoruyko and Komodakis 2016, "Wide residual networks".
    De et al. 2022, "Unlocking high-accuracy differentially private image classification through scale".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from meninx.core.errors import ConfigError, expected
from meninx.models import blocks


class WideBlock(nn.Module):
    """Norm, activation and convolution, applied twice, with a residual connection.

    When the width changes, the shortcut starts from the first activation instead of the input.
    """

    def __init__(
        self,
        spatial_dims: int,
        inputs: int,
        outputs: int,
        stride: int,
        *,
        activation: str,
        groups: int,
        standardize: bool,
    ) -> None:
        super().__init__()
        self.norm1 = blocks.norm(inputs, groups=groups)
        self.act1 = blocks.activation(activation)
        self.conv1 = blocks.conv(spatial_dims, inputs, outputs, stride=stride, standardize=standardize)
        self.norm2 = blocks.norm(outputs, groups=groups)
        self.act2 = blocks.activation(activation)
        self.conv2 = blocks.conv(spatial_dims, outputs, outputs, standardize=standardize)
        self.same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity()
        if not self.same:
            self.shortcut = blocks.conv(
                spatial_dims, inputs, outputs, 1, stride=stride, standardize=standardize
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (batch, outputs, ...)."""
        active = self.act1(self.norm1(x))
        y = self.conv2(self.act2(self.norm2(self.conv1(active))))
        result: Tensor = y + self.shortcut(x if self.same else active)
        return result


class WideResNet(nn.Module):
    """A network of a 16-channel stem, three stages of ``(depth - 4) / 6`` blocks, global average and head.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        out_channels: outputs of the head.
        depth: 16, 40 or another number of the form 6 n + 4.
        widen: factor on 16, 32 and 64 channels.
        activation: name in :data:`blocks.ACTIVATIONS`.
        groups: groups of the GroupNorms.
        weight_standardization: standardise the filters of every convolution in each forward pass.
    """

    head_name = "head"

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        depth: int,
        widen: int,
        activation: str = "relu",
        groups: int = 16,
        weight_standardization: bool = False,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ConfigError(expected("a depth of the form 6 n + 4, n >= 1", got=depth, where="depth"))
        self.stem = blocks.conv(spatial_dims, in_channels, 16, standardize=weight_standardization)
        self.stages = nn.Sequential()
        channels = 16
        for stage in range(3):
            for position in range((depth - 4) // 6):
                wide = 16 * widen * 2**stage
                step = 2 if stage and not position else 1
                self.stages.append(
                    WideBlock(
                        spatial_dims,
                        channels,
                        wide,
                        step,
                        activation=activation,
                        groups=groups,
                        standardize=weight_standardization,
                    )
                )
                channels = wide
        self.norm = blocks.norm(channels, groups=groups)
        self.act = blocks.activation(activation)
        self.head = nn.Linear(channels, out_channels)
        blocks.initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the head, (batch, features)."""
        maps: Tensor = self.act(self.norm(self.stages(self.stem(x))))
        return torch.mean(maps, dim=tuple(range(2, maps.ndim)))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, out_channels) of images (batch, in_channels, ...)."""
        logits: Tensor = self.head(self.features(x))
        return logits
