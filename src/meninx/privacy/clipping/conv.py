"""Convolutions in 1, 2 and 3 dimensions, including transposed and weight-standardised ones.

Per-unit weight gradients are either stored, by one of several kernels with equal results and very different
speed (:data:`STORING_KERNELS`), or only measured by ghost norms (:mod:`.gram`). Which is fastest depends on
shape, memory format and machine, so the planner measures; see :class:`ConvKernels`.

Standardised filters (:class:`StandardizedConvCall`): with c = w - mean(w) and r = (|c|^2 + e)^(-1/2) a filter
is u = r c. A gradient g of u becomes r (g - mean(g) - <u, g> u) of w, so its squared norm is
r^2 (Q - S^2 / m - 2 D^2 + D^2 |u|^2) with Q = |g|^2, S = sum(g), D = <u, g> and m numbers per filter. None of
the three needs g: Q is a ghost norm per filter, S the same with all channels of a patch added, and D is the
output's gradient times the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from meninx.privacy.clipping import gram
from meninx.privacy.clipping.conv_geometry import Geometry
from meninx.privacy.clipping.gradient_record import row_norms, widen, zero_rows
from meninx.privacy.clipping.layer import Layer, LayerCall, Pass
from meninx.privacy.clipping.planner import KernelCandidates, Trial
from meninx.privacy.clipping.unit_rows import Bucket, by_unit

Kernel = Callable[[Tensor, Tensor, Tensor, Geometry, int], Tensor]
"""(x, dy, weight, geometry, units) -> (units, *weight); x and dy have leading length units * rows."""

_MANY_ROWS = 4  # rows per unit from which the ordinary kernels are fast on one unit at a time
_FEW_CHANNELS = 4  # up to this many, a product with unfolded patches may be faster than a convolution
_PATCH_BYTES = 1 << 22  # of unfolded patches at a time, so that they stay in the cache
# Numbers computed by one grouped convolution; beyond this size each costs 2 to 4 times as much.
_TOGETHER = 2_400_000
_UNITS_AT_ONCE = 4  # units whose gradients are computed together when they are not kept
_TRIAL_BYTES = 1 << 26
_MANY = 16  # rows of a typical physical batch
_FEWEST_UNITS = 2  # in a trial, because kernels differ in how they treat several units
_MOST_POSITIONS = 1600  # side of the largest matrix of products worth trying
_TOO_SLOW = 6  # ghost norms are not tried above this multiple of the cost of keeping the gradients
_KEPT_COST = 40  # cost of keeping one number of a gradient, in multiplications; measured on 3x3 filters
_EPSILON = 1e-5


class ConvCall(LayerCall):
    """A convolution.

    Typically the early layers, with many positions and small filters, keep the gradients of the units. The
    late ones only measure them and compute their weighted sum.
    """

    def __init__(self, layer: Layer, run: Pass, geometry: Geometry) -> None:
        super().__init__(layer, run)
        self.geometry = geometry

    keeps_output = False  # whether the ghost norm reads the output

    def effective(self) -> Tensor:
        """Return the weight used in the convolution."""
        return self.weight()

    def pulled(self, gradients: Tensor) -> Tensor:
        """Return gradients (units, *weight) of the parameter, given those of :meth:`effective`."""
        return gradients

    def squares(self, x: Tensor, dy: Tensor, y: Tensor | None, units: int) -> Tensor:
        """Return the squared norms (units,) of the weight's gradients without computing the gradients."""
        # A transposed convolution exchanges the roles: its filter slides over the output.
        source, places = (dy, x) if self.geometry.transposed else (x, dy)
        return gram.of_convolution(by_unit(source, units), by_unit(places, units), self.geometry)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the convolution; keep the input only where the weight is trained."""
        bias = self.bias()
        x, weight = self.cast(x), self.cast(self.effective())
        y = self.geometry.run(x, weight, None if bias is None else self.cast(bias))
        # The backward pass needs only the input's shape if the weight is frozen; an expanded scalar has it
        # for free.
        kept = x if self.trains_weight else x.new_empty(()).expand(x.shape)
        return y, (weight, kept, y) if self.keeps_output else (weight, kept)

    def backward(self, dy: Tensor, saved: tuple[Tensor, ...], needs_dx: bool) -> Tensor | None:
        """Return the input's gradient; record those of weight and bias."""
        weight, x, *rest = saved
        buckets = self.buckets(x.shape[0])
        self.store_bias(dy, buckets, channel=1)
        if not self.trains_weight:
            return self.geometry.input_gradient(dy, x, weight) if needs_dx else None
        candidates = {bucket: self.choose(x, dy, weight, bucket) for bucket in buckets}
        if needs_dx and set(candidates.values()) == {"joint"}:
            return self._jointly(x, dy, weight, buckets)
        dx = self.geometry.input_gradient(dy, x, weight) if needs_dx else None
        for bucket, kernel in candidates.items():
            self._measure(
                "loop" if kernel == "joint" else kernel, bucket, weight, x, dy, rest[0] if rest else None
            )
        return dx

    def choose(self, x: Tensor, dy: Tensor, weight: Tensor, bucket: Bucket) -> str:
        """Return the planner's kernel for the units of a bucket."""
        kind = (type(self), x.dtype, x.is_contiguous(), x.device)
        key = (*kind, self.geometry, x.shape[1:], dy.shape[1:], bucket.size)
        candidates = partial(ConvKernels, self, x, dy, weight, bucket.size, bucket.units)
        return self.planner.choose(key, candidates, stored=bucket.units * weight.numel(), once=self.once)

    def _jointly(self, x: Tensor, dy: Tensor, weight: Tensor, buckets: list[Bucket]) -> Tensor:
        """Return the input's gradient, computed together with the weight's, unit by unit.

        This is fast for many rows per unit.
        """
        dx = torch.empty_like(x)
        for bucket in buckets:
            out = x.new_empty((bucket.units, *weight.shape))
            for unit in range(bucket.units):
                rows = slice(bucket.first + unit * bucket.size, bucket.first + (unit + 1) * bucket.size)
                dx[rows], out[unit] = self.geometry.both_gradients(dy[rows], x[rows], weight)
            self.store("weight", bucket, self.pulled(out))
        return dx

    def _measure(
        self, kernel: str, bucket: Bucket, weight: Tensor, x: Tensor, dy: Tensor, y: Tensor | None
    ) -> None:
        """Record the weight's gradients of a bucket, or their norms and a function that sums them."""
        if kernel in ("ghost", "norm"):
            self._pass_over(
                kernel, bucket, weight, x[bucket.rows], dy[bucket.rows], None if y is None else y[bucket.rows]
            )
            return
        for part in bucket.cut(units_at_once(kernel, weight.numel())):
            keep = STORING_KERNELS[kernel]
            self.store(
                "weight",
                part,
                self.pulled(keep(x[part.rows], dy[part.rows], weight, self.geometry, part.units)),
            )

    def _pass_over(
        self, kernel: str, bucket: Bucket, weight: Tensor, x: Tensor, dy: Tensor, y: Tensor | None
    ) -> None:
        """Measure gradients that are not kept: by products of positions, or by computing them twice."""
        if kernel == "norm":
            squares = torch.cat([row_norms(part) for part in self._made(bucket, weight, x, dy)]).square()
        else:
            squares = self.squares(x, dy, y, bucket.units)

        def weighted(factor: Tensor, blank: Tensor | None) -> Tensor:
            # "norm" sums the very gradients that it measured. Another kernel could round differently where
            # the terms cancel, and the sum could then exceed the bound.
            if kernel == "norm":
                parts = self._made(bucket, weight, zero_rows(x, blank), zero_rows(dy, blank))
                each = torch.split(factor[:: bucket.size], _UNITS_AT_ONCE)
                return (
                    torch.stack([f.to(part.dtype) @ part for f, part in zip(each, parts, strict=True)])
                    .sum(0)
                    .reshape(weight.shape)
                )
            return self.pulled(
                self.geometry.weighted_gradient(zero_rows(dy, blank), zero_rows(x, blank), weight, factor)[
                    None
                ]
            )[0]

        self.ghost("weight", bucket, squares, weighted)

    def _made(self, bucket: Bucket, weight: Tensor, x: Tensor, dy: Tensor) -> Iterator[Tensor]:
        """Yield the gradients (few units, numbers) of a few units at a time, which bounds the memory."""
        keep = STORING_KERNELS[storing_kernels_for(self.geometry, bucket.size, x.shape[1])[0]]
        for a, b in zip(
            torch.split(x, _UNITS_AT_ONCE * bucket.size),
            torch.split(dy, _UNITS_AT_ONCE * bucket.size),
            strict=True,
        ):
            yield widen(self.pulled(keep(a, b, weight, self.geometry, len(a) // bucket.size))).flatten(1)


class StandardizedConvCall(ConvCall):
    """A convolution with filters of mean 0 and length (almost) 1: ``models.blocks.StandardizedConv2d``."""

    keeps_output = True

    def effective(self) -> Tensor:
        """Return the standardised filters."""
        return self._parts()[0]

    def _parts(self) -> tuple[Tensor, Tensor]:
        """Return filters (out, in, ...) and their factors r, (out, 1)."""
        weight = self.weight()
        flat = weight.flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        factor = torch.rsqrt(centred.square().mean(1, keepdim=True) * flat.shape[1] + _EPSILON)
        return (centred * factor).reshape(weight.shape), factor

    def pulled(self, gradients: Tensor) -> Tensor:
        """Return gradients (units, *weight) of the raw filters, given those of the standardised ones."""
        filters, factor = self._parts()
        flat, unit = widen(gradients).flatten(2), filters.flatten(1)
        along = (flat * unit).sum(2, keepdim=True)
        return (factor * (flat - flat.mean(2, keepdim=True) - along * unit)).reshape(gradients.shape)

    def squares(self, x: Tensor, dy: Tensor, y: Tensor | None, units: int) -> Tensor:
        """Return the squared norms (units,) of the raw filters' gradients; see the module's formula."""
        assert y is not None
        filters, factor = self._parts()
        source, places = by_unit(x, units), by_unit(dy, units)
        length, total, reach = gram.by_filter(source, places, self.geometry)
        bias = self.bias()
        plain = widen(y) if bias is None else widen(y) - widen(bias).reshape(1, -1, *(1,) * (y.dim() - 2))
        inner = (widen(dy) * plain).flatten(2).sum(2, dtype=torch.float64)
        along = by_unit(inner, units).sum(1)
        flat = filters.flatten(1).double()
        rest = length - total.square() / flat.shape[1] - along.square() * (2 - flat.square().sum(1))
        # In bfloat16 both the output and the weight that computed it are rounded, so D carries an error. Its
        # largest effect is added: a norm may be overestimated, never underestimated.
        if dy.dtype == torch.bfloat16:
            spread = by_unit((widen(dy) * widen(y)).abs().flatten(2).sum(2, dtype=torch.float64), units).sum(
                1
            )
            slip = gram.SLIP * (spread + reach.sqrt())
            rest = rest + slip * (2 * along.abs() + slip)
        return (factor[:, 0].double().square() * gram.raised(rest, reach, dy.dtype)).sum(1)


class ConvKernels(KernelCandidates):
    """The weight gradients of one convolution for ``units`` units of ``size`` rows."""

    def __init__(self, call: ConvCall, x: Tensor, dy: Tensor, weight: Tensor, size: int, units: int) -> None:
        self.call, self.x, self.dy, self.weight, self.size, self.units = call, x, dy, weight, size, units
        self.geometry = call.geometry

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.x.device

    @property
    def key(self) -> str:
        """Geometry, shapes, type and memory format."""
        geometry, kind = self.geometry, type(self.call).__name__
        shapes = [tuple(self.weight.shape), tuple(self.x.shape[1:]), tuple(self.dy.shape[1:])]
        numbers = (geometry.stride, geometry.padding, geometry.dilation, geometry.extra, geometry.groups)
        layout = "first" if self.x.is_contiguous() else "last"
        return (
            f"{kind} {shapes} {numbers} transposed={geometry.transposed} rows={self.size} "
            f"{self.x.dtype} channels {layout}"
        )

    @property
    def rule(self) -> str:
        """``"ghost"`` where positions are few and the filter is large."""
        return "ghost" if self._ghost_cost() < _KEPT_COST * self.weight.numel() else self.storing_kernels[0]

    def _ghost_cost(self) -> int:
        """Return the approximate number of multiplications of a ghost norm."""
        source, places = (self.dy, self.x) if self.geometry.transposed else (self.x, self.dy)
        pixels, positions = self._positions()
        return pixels**2 * source.shape[1] + positions**2 * (places.shape[1] + 6 * self.geometry.taps)

    def _positions(self) -> tuple[int, int]:
        """Return the numbers of padded pixels and of filter places, each over all rows of a unit."""
        geometry = self.geometry
        source, places = (self.dy, self.x) if geometry.transposed else (self.x, self.dy)
        axes = zip(
            source.shape[2:],
            places.shape[2:],
            geometry.kernel,
            geometry.stride,
            geometry.dilation,
            strict=True,
        )
        reach = [
            (place - 1) * stride + (kernel - 1) * dilation + 1 for _, place, kernel, stride, dilation in axes
        ]
        padded = [
            max(size + pad, needed)
            for size, pad, needed in zip(source.shape[2:], geometry.padding, reach, strict=True)
        ]
        return self.size * math.prod(padded), self.size * math.prod(places.shape[2:])

    @property
    def storing_kernels(self) -> tuple[str, ...]:
        """Every kernel that keeps gradients."""
        return storing_kernels_for(self.geometry, self.size, self.x.shape[1])

    @property
    def can_ghost(self) -> bool:
        """Whether the matrices of products are small and the rule does not rule ghost norms out."""
        return (
            max(self._positions()) <= _MOST_POSITIONS
            and self._ghost_cost() < _TOO_SLOW * _KEPT_COST * self.weight.numel()
        )

    @property
    def trial_units(self) -> int:
        """Units in a trial: at most half of those present, so that all trials together cost a few steps."""
        most = units_at_once("grouped", self.weight.numel()) or 1
        room = _TRIAL_BYTES // (4 * self.size * (self.x[0].numel() + self.dy[0].numel()))
        return max(1, min(_MANY // self.size, most, room, max(_FEWEST_UNITS, self.units // 2)))

    def trials(self, kernel: str, units: int) -> list[Trial]:
        """Return runs of one kernel on random numbers, including the weighted sum.

        The input's gradient is included where one of the candidates computes it on the way.
        """
        weight, geometry, call = self.weight, self.geometry, self.call
        x, dy, factor = (
            self._random(self.x, units),
            self._random(self.dy, units),
            torch.rand(units, device=self.device),
        )
        shared = geometry.input_gradient if "joint" in self.storing_kernels else lambda *_: None

        def second(gradients: Tensor) -> object:
            flat = widen(call.pulled(gradients)).flatten(1)
            return row_norms(flat), factor.to(flat.dtype) @ flat

        def joint() -> object:
            pieces = zip(torch.split(dy, self.size), torch.split(x, self.size), strict=True)
            pairs = [geometry.both_gradients(a, b, weight) for a, b in pieces]
            return torch.cat([pair[0] for pair in pairs]), second(torch.stack([pair[1] for pair in pairs]))

        def keep() -> object:
            return shared(dy, x, weight), second(STORING_KERNELS[kernel](x, dy, weight, geometry, units))

        if kernel == "ghost":
            return self._ghost_trials(x, dy, units)
        return [(joint if kernel == "joint" else keep, 1.0)]

    def _ghost_trials(self, x: Tensor, dy: Tensor, units: int) -> list[Trial]:
        """Return a run for the norms of some units, and one for the weighted sum of many, counted in part.

        The weighted sum is one product for the whole batch, so its cost per unit is small.
        """
        weight, geometry, call = self.weight, self.geometry, self.call
        many = max(1, _MANY // (units * self.size))
        xs, dys = self._random(self.x, many * units), self._random(self.dy, many * units)
        y = geometry.run(x, weight, None) if call.keeps_output else None
        return [
            (lambda: call.squares(x, dy, y, units), 1.0),
            (
                lambda: geometry.weighted_gradient(dys, xs, weight, torch.rand(len(dys), device=self.device)),
                1 / many,
            ),
        ]

    def _random(self, like: Tensor, units: int) -> Tensor:
        """Return random numbers of the shape, type and memory format of the rows of some units."""
        return torch.randn_like(
            like[:1].expand(units * self.size, *like.shape[1:]).contiguous(memory_format=_format(like))
        )


def _format(value: Tensor) -> torch.memory_format:
    if (
        value.dim() == 4
        and value.is_contiguous(memory_format=torch.channels_last)
        and not value.is_contiguous()
    ):
        return torch.channels_last
    if (
        value.dim() == 5
        and value.is_contiguous(memory_format=torch.channels_last_3d)
        and not value.is_contiguous()
    ):
        return torch.channels_last_3d
    return torch.contiguous_format


def loop(x: Tensor, dy: Tensor, weight: Tensor, geometry: Geometry, units: int) -> Tensor:
    """Return one ordinary weight gradient per unit: the baseline that every other kernel must equal."""
    size = x.shape[0] // units
    out = x.new_empty((units, *weight.shape))
    for unit in range(units):
        rows = slice(unit * size, (unit + 1) * size)
        out[unit] = geometry.weight_gradient(dy[rows], x[rows], weight)
    return out


def grouped(x: Tensor, dy: Tensor, weight: Tensor, geometry: Geometry, units: int) -> Tensor:
    """Return the gradients from one convolution in which each unit is a group of channels.

    References:
        Rochette et al. (2019), Efficient Per-Example Gradient Computations in Convolutional Neural Networks.
    """
    many = weight.new_empty((units * weight.shape[0], *weight.shape[1:]))
    gradient = geometry.weight_gradient(
        _side_by_side(dy, units), _side_by_side(x, units), many, groups=units * geometry.groups
    )
    return by_unit(gradient, units)


def units_at_once(kernel: str, numel: int) -> int | None:
    """Return how many units a kernel processes at once for gradients of ``numel`` numbers; None for all."""
    return max(1, min(32, _TOGETHER // numel)) if kernel == "grouped" else None


def unfolded(x: Tensor, dy: Tensor, weight: Tensor, geometry: Geometry, units: int) -> Tensor:
    """Return one matrix product per unit, of the output's gradient and the unfolded patches of the input.

    This is fast for a few input channels. A few units are processed at a time, so that their patches stay in
    the cache.
    """
    places, size = tuple(dy.shape[2:]), len(x) // units
    numbers = size * x.shape[1] * geometry.taps * math.prod(places)
    out = weight.new_empty((units, weight.shape[0], x.shape[1] * geometry.taps))
    few = max(1, _PATCH_BYTES // (numbers * x.element_size()))
    pieces = (geometry.padded(x, places), dy, out)
    for part, seeds, into in zip(
        *(torch.split(value, few * len(value) // units) for value in pieces), strict=True
    ):
        patches = torch.stack(list(geometry.windows(part, places)), dim=2).flatten(1, 2).flatten(2)
        right = by_unit(patches, len(into)).transpose(1, 2).flatten(2).transpose(1, 2)
        left = by_unit(seeds.flatten(2), len(into)).transpose(1, 2).flatten(2)
        torch.bmm(left, right, out=into)
    return out.reshape(units, *weight.shape)


def product(x: Tensor, dy: Tensor, weight: Tensor, geometry: Geometry, units: int) -> Tensor:
    """Return the gradients from one batched matrix product; for filters with a single tap only."""
    left, right = _vectors(dy, units), _vectors(x, units)
    return torch.bmm(left.transpose(1, 2), right).reshape(units, *weight.shape)


def _side_by_side(value: Tensor, units: int) -> Tensor:
    """Return (rows, units * channels, ...) of (units * rows, channels, ...)."""
    return by_unit(value, units).transpose(0, 1).flatten(1, 2)


def _vectors(value: Tensor, units: int) -> Tensor:
    """Return (units, rows * positions, channels) of (units * rows, channels, ...).

    One row per unit needs no copy.
    """
    vectors = value.flatten(2).transpose(1, 2)
    return by_unit(vectors, units).flatten(1, 2)


STORING_KERNELS: dict[str, Kernel] = {
    "loop": loop,
    "grouped": grouped,
    "product": product,
    "unfolded": unfolded,
}


def storing_kernels_for(geometry: Geometry, size: int, channels: int) -> tuple[str, ...]:
    """Return the kernels for units of ``size`` rows and ``channels`` input channels, the usual best first."""
    if geometry.pointwise and not geometry.transposed:
        return ("product", "loop") if size == 1 else ("product", "loop", "joint")
    if size >= _MANY_ROWS:
        return ("loop", "joint")
    usual = ("grouped", "loop") if size == 1 else ("grouped", "loop", "joint")
    trial_units = channels <= _FEW_CHANNELS and geometry.groups == 1 and not geometry.transposed
    return ("unfolded", *usual) if trial_units else usual
