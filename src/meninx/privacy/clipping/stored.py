"""Per-unit weight gradients of a convolution, by kernels of equal meaning and very different speed.

No kernel unfolds patches. Which one is fastest depends on shape, memory format and machine, so the planner measures.
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
MOST_UNITS = {"grouped": 4}  # units that are convolved together: more of them only fill the caches


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
    gradient = geometry.weight_gradient(_side_by_side(dy, units), _side_by_side(x, units), many, groups=units * geometry.groups)
    return by_unit(gradient, units)


def product(x: Tensor, dy: Tensor, weight: Tensor, geometry: Geometry, units: int) -> Tensor:
    """Batched matrix products; for filters with a single tap only."""
    left, right = _vectors(dy, units), _vectors(x, units)
    return torch.bmm(left.transpose(1, 2), right).reshape(units, *weight.shape)


def _side_by_side(value: Tensor, units: int) -> Tensor:
    """Return (rows, units * channels, ...) of (units * rows, channels, ...)."""
    return by_unit(value, units).transpose(0, 1).flatten(1, 2)


def _vectors(value: Tensor, units: int) -> Tensor:
    """Return (units, rows * positions, channels) of (units * rows, channels, ...); no copy for one row a unit."""
    vectors = value.flatten(2).transpose(1, 2)
    return by_unit(vectors, units).flatten(1, 2)


KERNELS: dict[str, Kernel] = {"loop": loop, "grouped": grouped, "product": product}


def possible(geometry: Geometry, size: int) -> tuple[str, ...]:
    """Return the kernels that fit units of ``size`` rows, the usual best first."""
    if geometry.pointwise and not geometry.transposed:
        return ("product", "loop") if size == 1 else ("product", "loop", "joint")
    if size == 1:
        return ("grouped", "loop")
    return ("loop", "joint", "grouped") if size >= _MANY_ROWS else ("grouped", "loop", "joint")
