"""Convolutions of 1, 2 and 3 dimensions, and transposed ones."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from meninx.privacy.clipping import gram, stored
from meninx.privacy.clipping.conv_work import ConvWork
from meninx.privacy.clipping.geometry import Geometry
from meninx.privacy.clipping.layer import Layer, LayerCall, Pass
from meninx.privacy.clipping.rows import Bucket, by_unit
from meninx.privacy.clipping.tape import blanked, full, lengths

_FEW = 4  # units whose gradients are made together when they are not kept


class ConvCall(LayerCall):
    """A convolution.

    Early layers keep their units' gradients, late ones measure them and make only the sum.
    """

    def __init__(self, layer: Layer, run: Pass, geometry: Geometry) -> None:
        super().__init__(layer, run)
        self.geometry = geometry

    keeps_output = False  # whether the ghost norm reads the output

    def effective(self) -> Tensor:
        """Return the weight that is convolved with."""
        return self.weight()

    def pulled(self, gradients: Tensor) -> Tensor:
        """Return gradients (units, *weight) of the parameter, given those of the weight that is convolved with."""
        return gradients

    def squares(self, x: Tensor, dy: Tensor, y: Tensor | None, units: int) -> Tensor:
        """Return the squared norms (units,) of the weight's gradients without making them."""
        source, places = (dy, x) if self.geometry.transposed else (x, dy)
        return gram.of_convolution(by_unit(source, units), by_unit(places, units), self.geometry)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the convolution; keep the input only where the weight is trained."""
        bias = self.bias()
        x, weight = self.cast(x), self.cast(self.effective())
        y = self.geometry.run(x, weight, None if bias is None else self.cast(bias))
        kept = x if self.asks else x.new_empty(()).expand(x.shape)
        return y, (weight, kept, y) if self.keeps_output else (weight, kept)

    def backward(self, dy: Tensor, saved: tuple[Tensor, ...], needs_dx: bool) -> Tensor | None:
        """Return the input's gradient; put those of weight and bias on the tape."""
        weight, x, *rest = saved
        buckets = self.buckets(x.shape[0])
        self.store_bias(dy, buckets, channel=1)
        if not self.asks:
            return self.geometry.input_gradient(dy, x, weight) if needs_dx else None
        work = {bucket: self.choose(x, dy, weight, bucket) for bucket in buckets}
        if needs_dx and set(work.values()) == {"joint"}:
            return self._jointly(x, dy, weight, buckets)
        dx = self.geometry.input_gradient(dy, x, weight) if needs_dx else None
        for bucket, kernel in work.items():
            self._measure(
                "loop" if kernel == "joint" else kernel, bucket, weight, x, dy, rest[0] if rest else None
            )
        return dx

    def choose(self, x: Tensor, dy: Tensor, weight: Tensor, bucket: Bucket) -> str:
        """Return the planner's kernel for some units."""
        kind = (type(self), x.dtype, x.is_contiguous(), x.device)
        key = (*kind, self.geometry, x.shape[1:], dy.shape[1:], bucket.size)
        work = partial(ConvWork, self, x, dy, weight, bucket.size, bucket.units)
        return self.planner.choose(key, work, stored=bucket.units * weight.numel(), once=self.once)

    def _jointly(self, x: Tensor, dy: Tensor, weight: Tensor, buckets: list[Bucket]) -> Tensor:
        """Return the input's gradient, made unit by unit together with the weight's: best when units have many rows."""
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
        """Put the weight's gradients of some units on the tape, or their norms and how to sum them."""
        if kernel in ("ghost", "norm"):
            self._pass_over(
                kernel, bucket, weight, x[bucket.rows], dy[bucket.rows], None if y is None else y[bucket.rows]
            )
            return
        for part in bucket.cut(stored.together(kernel, weight.numel())):
            keep = stored.KERNELS[kernel]
            self.store(
                "weight",
                part,
                self.pulled(keep(x[part.rows], dy[part.rows], weight, self.geometry, part.units)),
            )

    def _pass_over(
        self, kernel: str, bucket: Bucket, weight: Tensor, x: Tensor, dy: Tensor, y: Tensor | None
    ) -> None:
        """Measure gradients that are not kept: by products of positions, or by making them twice."""
        if kernel == "norm":
            squares = torch.cat([lengths(part) for part in self._made(bucket, weight, x, dy)]).square()
        else:
            squares = self.squares(x, dy, y, bucket.units)

        def weighted(factor: Tensor, blank: Tensor | None) -> Tensor:
            if kernel == "norm":  # what was measured is what is summed, however the terms cancel
                parts = self._made(bucket, weight, blanked(x, blank), blanked(dy, blank))
                each = torch.split(factor[:: bucket.size], _FEW)
                return (
                    torch.stack([f.to(part.dtype) @ part for f, part in zip(each, parts, strict=True)])
                    .sum(0)
                    .reshape(weight.shape)
                )
            return self.pulled(
                self.geometry.weighted_gradient(blanked(dy, blank), blanked(x, blank), weight, factor)[None]
            )[0]

        self.ghost("weight", bucket, squares, weighted)

    def _made(self, bucket: Bucket, weight: Tensor, x: Tensor, dy: Tensor) -> Iterator[Tensor]:
        """Yield gradients (few units, numbers), a few units at a time."""
        keep = stored.KERNELS[stored.possible(self.geometry, bucket.size, x.shape[1])[0]]
        for a, b in zip(torch.split(x, _FEW * bucket.size), torch.split(dy, _FEW * bucket.size), strict=True):
            yield full(self.pulled(keep(a, b, weight, self.geometry, len(a) // bucket.size))).flatten(1)
