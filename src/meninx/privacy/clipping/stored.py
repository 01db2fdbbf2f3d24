"""Per-unit weight gradients of a convolution, by kernels of equal meaning and very different speed.

No kernel unfolds patches. Which one is fastest depends on shape, memory format and machine, so the planner
measures.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from meninx.privacy.clipping.geometry import Geometry
from meninx.privacy.clipping.rows import by_unit

Kernel = Callable[[Tensor, Tensor, Tensor, Geometry, int], Tensor]
"""(x, dy, weight, geometry, units) -> (units, *weight); x and dy have leading length units * rows, unit by unit."""

_MANY_ROWS = 4  # from here on a unit is a batch of its own that ordinary kernels are good at
_FEW_CHANNELS = 4  # so few that products for each tap beat a convolution
_TOGETHER = 2_400_000  # numbers that a grouped convolution makes at once; of more it makes each at 2 to 4 times the cost


def loop(x: Tensor, dy: Tensor, weight: Tensor, geometry: Geometry, units: int) -> Tensor:
    """One ordinary weight gradient a unit."""
    size = x.shape[0] // units
    out = x.new_empty((units, *weight.shape))
    for unit in range(units):
        rows = slice(unit * size, (unit + 1) * size)
        out[unit] = geometry.weight_gradient(dy[rows], x[rows], weight)
    return out


def grouped(x: Tensor, dy: Tensor, weight: Tensor, geometry: Geometry, units: int) -> Tensor:
    """One convolution in which every unit is a group of channels of its own."""
    many = weight.new_empty((units * weight.shape[0], *weight.shape[1:]))
    gradient = geometry.weight_gradient(
        _side_by_side(dy, units), _side_by_side(x, units), many, groups=units * geometry.groups
    )
    return by_unit(gradient, units)


def together(kernel: str, numel: int) -> int | None:
    """Return how many units a kernel takes at once, for gradients of ``numel`` numbers; None for all."""
    return max(1, min(32, _TOGETHER // numel)) if kernel == "grouped" else None


def taps(x: Tensor, dy: Tensor, weight: Tensor, geometry: Geometry, units: int) -> Tensor:
    """Batched matrix products, one for each tap, of the output's gradient and a shifted window.

    For a few input channels.
    """
    places = tuple(dy.shape[2:])
    padded = geometry.padded(x, places)
    left = _vectors(dy, units).transpose(1, 2)
    parts = [torch.bmm(left, _vectors(window, units)) for window in geometry.windows(padded, places)]
    return torch.stack(parts, dim=3).reshape(units, *weight.shape)


def product(x: Tensor, dy: Tensor, weight: Tensor, geometry: Geometry, units: int) -> Tensor:
    """Batched matrix products; for filters with a single tap only."""
    left, right = _vectors(dy, units), _vectors(x, units)
    return torch.bmm(left.transpose(1, 2), right).reshape(units, *weight.shape)


def _side_by_side(value: Tensor, units: int) -> Tensor:
    """Return (rows, units * channels, ...) of (units * rows, channels, ...)."""
    return by_unit(value, units).transpose(0, 1).flatten(1, 2)


def _vectors(value: Tensor, units: int) -> Tensor:
    """Return (units, rows * positions, channels) of (units * rows, channels, ...).

    No copy for one row a unit.
    """
    vectors = value.flatten(2).transpose(1, 2)
    return by_unit(vectors, units).flatten(1, 2)


KERNELS: dict[str, Kernel] = {"loop": loop, "grouped": grouped, "product": product, "taps": taps}


def possible(geometry: Geometry, size: int, channels: int) -> tuple[str, ...]:
    """Return the kernels that fit units of ``size`` rows and so many input channels, the usual best first."""
    if geometry.pointwise and not geometry.transposed:
        return ("product", "loop") if size == 1 else ("product", "loop", "joint")
    if size >= _MANY_ROWS:
        return ("loop", "joint")
    usual = ("grouped", "loop") if size == 1 else ("grouped", "loop", "joint")
    few = channels <= _FEW_CHANNELS and geometry.groups == 1 and not geometry.transposed
    return ("taps", *usual) if few else usual
