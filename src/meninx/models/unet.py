"""The U-Net with GroupNorm, in 2-D and 3-D, for images of any size.

References:
    Ronneberger et al. 2015, "U-Net: convolutional networks for biomedical image segmentation".
    Çiçek et al. 2016, "3D U-Net: learning dense volumetric segmentation from sparse annotation".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from meninx.core import check
from meninx.models import blocks


class DoubleConv(nn.Sequential):
    """Convolution, norm and activation, applied twice."""

    def __init__(
        self, spatial_dims: int, inputs: int, outputs: int, *, norm: str, groups: int, activation: str
    ) -> None:
        super().__init__(
            blocks.conv(spatial_dims, inputs, outputs, bias=norm == "none"),
            blocks.norm(outputs, groups=groups, kind=norm),
            blocks.activation(activation),
            blocks.conv(spatial_dims, outputs, outputs, bias=norm == "none"),
            blocks.norm(outputs, groups=groups, kind=norm),
            blocks.activation(activation),
        )


class Upsample(nn.Module):
    """Linear interpolation that doubles every axis."""

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.mode = "bilinear" if spatial_dims == 2 else "trilinear"

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (batch, channels, ...) with every spatial axis doubled."""
        return functional.interpolate(x, scale_factor=2.0, mode=self.mode, align_corners=False)


class UNet(nn.Module):
    """An encoder and a decoder with skip connections and a 1x1 head; the output has the size of the input.

    Args:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        out_channels: channels of the output map.
        base: channels of the first level, doubled at each pooling.
        depth: number of poolings; inputs whose size is not a multiple of ``2 ** depth`` are padded, outputs
            cropped.
        norm: ``group``, ``instance`` or ``none`` (then the convolutions have biases).
        groups: groups of the GroupNorms.
        activation: name in :data:`blocks.ACTIVATIONS`.
        upsampling: ``transposed`` (learnt) or ``linear``.
    """

    head_name = "head"

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        base: int = 32,
        depth: int = 4,
        norm: str = "group",
        groups: int = 8,
        activation: str = "mish",
        upsampling: str = "transposed",
    ) -> None:
        super().__init__()
        check.one_of(("transposed", "linear"), upsampling=upsampling)
        check.positive(base=base, depth=depth)
        widths = [base * 2**level for level in range(depth + 1)]
        inputs = [in_channels, *widths]
        learnt = upsampling == "transposed"

        def double(before: int, after: int) -> DoubleConv:
            return DoubleConv(spatial_dims, before, after, norm=norm, groups=groups, activation=activation)

        self.multiple = 2**depth
        self.pool = blocks.max_pool(spatial_dims, 2, 2)
        self.encoder = nn.ModuleList(double(inputs[level], widths[level]) for level in range(depth))
        self.bottom = double(widths[depth - 1], widths[depth])
        levels = range(depth - 1, -1, -1)
        self.raising = nn.ModuleList(
            blocks.transposed_conv(spatial_dims, widths[level + 1], widths[level])
            if learnt
            else Upsample(spatial_dims)
            for level in levels
        )
        self.decoder = nn.ModuleList(
            double(widths[level] + widths[level if learnt else level + 1], widths[level]) for level in levels
        )
        self.head = blocks.conv(spatial_dims, base, out_channels, 1, bias=True)
        blocks.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, out_channels, ...) of images (batch, in_channels, ...) of the same size."""
        size = x.shape[2:]
        y = blocks.padded_to_multiple(x, self.multiple)
        skips: list[Tensor] = []
        for level in self.encoder:
            y = level(y)
            skips.append(y)
            y = self.pool(y)
        y = self.bottom(y)
        for raising, level in zip(self.raising, self.decoder, strict=True):
            y = level(torch.cat([skips.pop(), raising(y)], dim=1))
        logits: Tensor = self.head(y)
        for axis, length in enumerate(size, start=2):
            logits = logits.narrow(axis, 0, length)
        return logits
