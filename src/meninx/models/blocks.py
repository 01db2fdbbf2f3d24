"""Building blocks of the networks: 2-D and 3-D convolutions, norms, activations, weight standardisation.

No block uses batch statistics or modifies a tensor in place. Each output therefore depends on one sample
only, and the backward hooks that compute per-sample gradients see the original values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from meninx.core import check
from meninx.core.errors import ConfigError, expected

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "leaky_relu": lambda: nn.LeakyReLU(0.01),
}
NORMS = ("group", "instance", "none")


class StandardizedConv2d(nn.Conv2d):
    """Conv2d whose filters have mean 0 and variance 1 / fan-in in every forward pass.

    References:
        Qiao et al. 2019, "Micro-batch training with batch-channel normalization and weight standardization".
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of ``input`` (batch, channels, rows, columns) with standardised weights."""
        result: Tensor = self._conv_forward(input, standardized(self.weight), self.bias)
        return result


class StandardizedConv3d(nn.Conv3d):
    """Conv3d with the weight standardisation of :class:`StandardizedConv2d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of ``input`` (batch, channels, x, y, z) with standardised weights."""
        result: Tensor = self._conv_forward(input, standardized(self.weight), self.bias)
        return result


def standardized(weight: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Return ``weight`` (out, in, ...), every output filter standardised to mean 0 and variance 1/fan-in."""
    axes = tuple(range(1, weight.ndim))
    centred = weight - weight.mean(axes, keepdim=True)
    variance = centred.square().mean(axes, keepdim=True)
    fan_in = weight[0].numel()
    return centred * torch.rsqrt(variance * fan_in + epsilon)


def conv(
    spatial_dims: int,
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    bias: bool = False,
    standardize: bool = False,
) -> nn.Module:
    """Return a convolution that keeps the size at stride 1 (zero padding ``kernel // 2``).

    Args:
        spatial_dims: 2 or 3.
        inputs: input channels.
        outputs: output channels.
        kernel: odd size of the filter along each axis.
        stride: step along each axis.
        bias: add a bias; not needed where a norm layer follows, which has its own.
        standardize: standardise the weights in every forward pass.

    Raises:
        ConfigError: ``spatial_dims`` is neither 2 nor 3.
    """
    kinds: dict[tuple[int, bool], type[nn.Conv2d] | type[nn.Conv3d]] = {
        (2, False): nn.Conv2d,
        (2, True): StandardizedConv2d,
        (3, False): nn.Conv3d,
        (3, True): StandardizedConv3d,
    }
    kind = kinds[two_or_three(spatial_dims), standardize]
    return kind(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=bias)


def transposed_conv(spatial_dims: int, inputs: int, outputs: int) -> nn.Module:
    """Return a transposed convolution (kernel 2, stride 2) that doubles the size of every spatial axis."""
    kind: type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]
    kind = nn.ConvTranspose2d if two_or_three(spatial_dims) == 2 else nn.ConvTranspose3d
    return kind(inputs, outputs, kernel_size=2, stride=2)


def max_pool(spatial_dims: int, kernel: int, stride: int, padding: int = 0) -> nn.Module:
    """Return max pooling in 2 or 3 dimensions."""
    return (nn.MaxPool2d if two_or_three(spatial_dims) == 2 else nn.MaxPool3d)(kernel, stride, padding)


def norm(channels: int, *, groups: int = 32, kind: str = "group") -> nn.Module:
    """Return a norm layer whose statistics come from one sample at a time.

    Args:
        channels: channels to normalise.
        groups: wanted groups; the greatest common divisor with ``channels`` is used.
        kind: ``group``, ``instance`` (one group per channel) or ``none``.
    """
    check.one_of(NORMS, norm=kind)
    if kind == "none":
        return nn.Identity()
    return nn.GroupNorm(channels if kind == "instance" else math.gcd(groups, channels), channels)


def activation(name: str) -> nn.Module:
    """Return the activation layer of that name; it never works in place."""
    check.one_of(ACTIVATIONS, activation=name)
    return ACTIVATIONS[name]()


def two_or_three(spatial_dims: int) -> int:
    """Return ``spatial_dims``, or raise ConfigError unless it is 2 or 3."""
    if spatial_dims not in (2, 3):
        raise ConfigError(expected("2 or 3 spatial dimensions", got=spatial_dims, where="spatial_dims"))
    return spatial_dims


def initialise(model: nn.Module) -> None:
    """Set convolutions to He's normal initialisation (fan out), biases to 0; norms start as the identity."""
    kinds: tuple[type[Any], ...] = (nn.Conv2d, nn.Conv3d)
    for module in model.modules():
        if isinstance(module, kinds):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def padded_to_multiple(volume: Tensor, multiple: int) -> Tensor:
    """Return ``volume`` (batch, channels, ...), edge values repeated at the end of axes up to a multiple."""
    missing = [(-size) % multiple for size in volume.shape[2:]]
    if not any(missing):
        return volume
    # torch.nn.functional.pad takes the last axis first. Edge values avoid an artificial border that zeros
    # would make.
    pads = [amount for extra in reversed(missing) for amount in (0, extra)]
    return functional.pad(volume, pads, mode="replicate")
