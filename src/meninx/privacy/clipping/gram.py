"""Ghost norms: the norm of a gradient from products of positions, without computing the gradient.

The gradient of a weight is a sum of outer products over positions t, so its squared norm is
sum over t, t' of <dy_t, dy_t'> <x_t, x_t'>. For a convolution <x_t, x_t'> is over patches, and the
matrix of patch products is a sum of shifted windows of one matrix of pixel products, so no patch is unfolded.

Where terms cancel, rounding could make a norm too small, and the clipped contribution would exceed the bound.
Such a squared norm is therefore raised by a bound on that error, :data:`GUARD` times the square of the sum of
the terms' norms. A well-conditioned norm, which rounding changes by less than :data:`SLACK`, is not changed.

References:
    Goodfellow (2015), Efficient Per-Example Gradient Computations.
    Rochette et al. (2019), Efficient Per-Example Gradient Computations in Convolutional Neural Networks.
    Li et al. (2022), Large Language Models Can Be Strong Differentially Private Learners, section 4 (ghost
    clipping).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from meninx.privacy.clipping.conv_geometry import Geometry
from meninx.privacy.clipping.gradient_record import widen

GUARD = 2.0**-20  # four times the worst error that inputs constructed to cancel have produced
SLACK = 1e-4  # relative error of a squared norm that is tolerated
FLOOR = 2.0**-110  # covers products too small for float32, relative to the square of one side's summed norms
# Allowance for rounding to bfloat16: a gradient may be longer than measured by this share of the sum of its
# terms' norms.
SLIP = 2.0**-9
_BYTES = 1 << 22  # of one matrix of products at a time, which then stays in the cache


def of_products(left: Tensor, right: Tensor) -> Tensor:
    """Return (units,) float64 squared norms of ``sum over t of outer(left_t, right_t)``.

    Args:
        left: (units, positions, m).
        right: (units, positions, n).
    """
    if left.shape[1] == 1:
        return _outer(left.flatten(1), right.flatten(1))
    parts = [
        _inner(_gram(a), _gram(b), left.dtype)
        for a, b in zip(_pieces(left, left.shape[1]), _pieces(right, left.shape[1]), strict=True)
    ]
    return torch.cat(parts)


def of_convolution(source: Tensor, places: Tensor, geometry: Geometry) -> Tensor:
    """Return (units,) float64 squared norms of the gradients of a convolution's weight.

    Args:
        source: (units, rows, channels, spatial): what the filter slides over.
        places: (units, rows, channels, spatial): one vector for each place of the filter.
        geometry: of the convolution; a transposed one slides over its output.
    """
    source = geometry.padded(source, tuple(places.shape[3:]))
    parts = [
        _inner(_gram(_positions(y, geometry.groups)), _patches(x, tuple(y.shape[3:]), geometry), places.dtype)
        for x, y in zip(_pieces(source, _extent(source)), _pieces(places, _extent(source)), strict=True)
    ]
    squares = torch.cat(parts)
    return squares.reshape(-1, geometry.groups).sum(1)


def _extent(source: Tensor) -> int:
    return source.shape[1] * math.prod(source.shape[3:])


def _pieces(value: Tensor, side: int) -> tuple[Tensor, ...]:
    """Return the units in pieces whose matrices of ``side`` by ``side`` products fit into the cache."""
    return torch.split(value, max(1, _BYTES // (4 * side * side)))


def _positions(value: Tensor, groups: int) -> Tensor:
    """Return (units * groups, rows * positions, channels of a group) of (units, rows, channels, spatial)."""
    units, rows, channels = value.shape[:3]
    flat = value.reshape(units, rows, groups, channels // groups, -1)
    return flat.permute(0, 2, 1, 4, 3).flatten(2, 3).flatten(0, 1)


def _gram(value: Tensor) -> Tensor:
    value = widen(value)
    return torch.bmm(value, value.transpose(1, 2))


def _patches(source: Tensor, places: tuple[int, ...], geometry: Geometry) -> Tensor:
    """Return (units * groups, p, p) products of patches, p = rows * places, from products of pixels."""
    rows, spatial = source.shape[1], tuple(source.shape[3:])
    total = _gram(_positions(source, geometry.groups)).reshape(-1, rows, *spatial, rows, *spatial)
    for axis, count in enumerate(places):  # the taps form a grid, so the sum over them is one sum per axis
        total = _shifted_sum(total, axis, count, geometry)
    side = rows * math.prod(places)
    return total.reshape(-1, side, side)


def _shifted_sum(pixels: Tensor, axis: int, count: int, geometry: Geometry) -> Tensor:
    """Return the sum over the taps of one spatial axis of the windows that each sees on both sides.

    Args:
        pixels: (units, rows, *spatial, rows, *spatial) products.
        axis: spatial axis.
        count: places of the filter along it.
        geometry: of the convolution.
    """
    stride, step = geometry.stride[axis], geometry.dilation[axis]
    starts = range(0, geometry.kernel[axis] * step, step)
    windows = [[slice(None)] * pixels.dim() for _ in starts]
    for window, start in zip(windows, starts, strict=True):
        seen = slice(start, start + (count - 1) * stride + 1, stride)
        window[2 + axis] = window[3 + len(geometry.kernel) + axis] = seen
    first, *others = (pixels[tuple(window)] for window in windows)
    total = first.clone() if others else first
    for other in others:
        total += other
    return total


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """Return the squared norms of single outer products, in float64: a tiny factor may meet a huge one."""
    return left.double().square().sum(1) * right.double().square().sum(1)


def _inner(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the guarded sums of elementwise products of two stacks of matrices (units, p, p).

    Args:
        left: products of the gradient's vectors.
        right: products of the input's vectors.
        dtype: of the vectors.
    """
    one, other = (side.diagonal(dim1=1, dim2=2).double().clamp(min=0).sqrt() for side in (left, right))
    reach = (one * other).sum(1).square()
    lost = FLOOR * (one.sum(1).square() + other.sum(1).square())
    return raised((left * right).sum((1, 2), dtype=torch.float64), reach, dtype) + lost


def raised(squares: Tensor, reach: Tensor, dtype: torch.dtype) -> Tensor:
    """Return squared norms that are not too small despite rounding; see the module's docstring.

    Args:
        squares: as computed.
        reach: the squares of the sums of the terms' norms, an upper bound on each squared norm.
        dtype: of the vectors; in bfloat16 the sum of gradients consists of rounded terms, so it may be longer
            than measured.
    """
    squares = squares.clamp(min=0)
    squares = squares + (GUARD * reach - SLACK * squares).clamp(min=0)
    if dtype != torch.bfloat16:
        return squares
    norms = squares.sqrt()
    return (norms + SLIP * (reach.sqrt() - norms).clamp(min=0)).square()


def by_filter(source: Tensor, places: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    """Return squared norm and sum of the gradient per unit and filter, and the square of the rounding scale.

    Args:
        source: (units, rows, channels, spatial), the convolution's input.
        places: (units, rows, filters, spatial), the gradient of its output.
        geometry: not transposed.

    Returns:
        Three (units, filters) float64 tensors; the first one is not :func:`raised`.
    """
    padded = geometry.padded(source, tuple(places.shape[3:]))
    parts = [
        _filters(x, y, geometry)
        for x, y in zip(_pieces(padded, _extent(padded)), _pieces(places, _extent(padded)), strict=True)
    ]
    length, total, reach = (torch.cat(values) for values in zip(*parts, strict=True))
    return length, total, reach


def _filters(source: Tensor, places: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    units = source.shape[0]
    patches = _patches(source, tuple(places.shape[3:]), geometry)  # units * groups, p, p
    vectors = widen(_positions(places, geometry.groups))  # units * groups, p, filters of a group
    length = (torch.bmm(patches, vectors) * vectors).sum(1, dtype=torch.float64).clamp(min=0)
    size = patches.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    reach = (vectors.abs() * size[:, :, None]).sum(1, dtype=torch.float64).square()
    total = (vectors.double() * _sums(source, tuple(places.shape[3:]), geometry)[:, :, None]).sum(1)
    return (
        length.reshape(units, -1),
        total.reshape(units, -1),
        reach.reshape(units, -1),
    )


def _sums(source: Tensor, places: tuple[int, ...], geometry: Geometry) -> Tensor:
    """Return (units * groups, p) sums over each patch."""
    pixels = (
        source.double().reshape(*source.shape[:2], geometry.groups, -1, *source.shape[3:]).sum(3)
    )  # units, rows, groups, spatial
    total = pixels.new_zeros((*pixels.shape[:3], *places))
    for window in geometry.windows(pixels, places):
        total += window
    return total.transpose(1, 2).flatten(2).flatten(0, 1)
