"""Linear layers, with any number of positions between batch and features."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from meninx.privacy.clipping import gram
from meninx.privacy.clipping.layer import LayerCall
from meninx.privacy.clipping.planner import Trial, Work
from meninx.privacy.clipping.rows import Bucket
from meninx.privacy.clipping.tape import blanked, full, lengths, scaled

_KEPT_COST = 24  # cost of keeping one number of a gradient, in multiplications
_MOST_POSITIONS = 1600
_CHUNK = 4  # units whose gradients are made together where they are not kept


class LinearCall(LayerCall):
    """A linear layer.

    One vector a unit needs no gradient at all: the norm of an outer product is a product of norms.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the layer's output."""
        bias = self.bias()
        x, weight = self.cast(x), self.cast(self.weight())
        y = torch.nn.functional.linear(x, weight, None if bias is None else self.cast(bias))
        return y, (weight, x if self.asks else x.new_empty(()).expand(x.shape))

    def backward(self, dy: Tensor, saved: tuple[Tensor, ...], needs_dx: bool) -> Tensor | None:
        """Return the input's gradient; put those of weight and bias on the tape."""
        weight, x = saved
        buckets = self.buckets(x.shape[0])
        self.store_bias(dy, buckets, channel=dy.dim() - 1)
        if self.asks:
            for bucket in buckets:
                self._measure(bucket, vectors(x[bucket.rows], bucket), vectors(dy[bucket.rows], bucket))
        return dy @ weight if needs_dx else None

    def _measure(self, bucket: Bucket, x: Tensor, dy: Tensor) -> None:
        """Take (units, positions, features) of both sides."""
        key = (type(self), x.dtype, x.device, x.shape[1:], dy.shape[1:])
        many = bucket.units * x.shape[2] * dy.shape[2]
        kernel = self.planner.choose(key, partial(LinearWork, x, dy), stored=many, once=self.once)
        if kernel == "store":
            self.store("weight", bucket, outer(x, dy))
            return
        squares = (
            gram.of_products(dy, x)
            if kernel == "ghost"
            else torch.cat([lengths(part) for part in made(x, dy)]).square()
        )

        def weighted(factor: Tensor, blank: Tensor | None) -> Tensor:
            if kernel == "norm":  # what was measured is what is summed, however the terms cancel
                both = [blanked(item.reshape(len(factor), -1), blank).reshape(item.shape) for item in (x, dy)]
                parts = zip(
                    torch.split(factor.view(bucket.units, -1)[:, 0], _CHUNK), made(*both), strict=True
                )
                return (
                    torch.stack([each.to(part.dtype) @ part for each, part in parts])
                    .sum(0)
                    .reshape(dy.shape[2], -1)
                )
            rows = len(factor)
            left = blanked(x.reshape(rows, -1, x.shape[2]), blank)
            right = blanked(dy.reshape(rows, -1, dy.shape[2]), blank)
            return summed(left, right, factor)

        self.ghost("weight", bucket, squares, weighted)


def vectors(value: Tensor, bucket: Bucket) -> Tensor:
    """Return (units, positions, features) of the bucket's rows (units * size, ..., features)."""
    return value.reshape(bucket.units, -1, value.shape[-1])


def outer(x: Tensor, dy: Tensor) -> Tensor:
    """Return the gradients (units, out, in)."""
    return torch.bmm(dy.transpose(1, 2), x)


def summed(x: Tensor, dy: Tensor, factor: Tensor) -> Tensor:
    """Return the float32 sum (out, in) of the gradients of rows (rows, positions, features), each times its factor."""
    return scaled(full(dy), factor).flatten(0, 1).transpose(0, 1) @ full(x).flatten(0, 1)


def made(x: Tensor, dy: Tensor) -> Iterator[Tensor]:
    """Yield the gradients (few units, out * in) of a few units at a time."""
    for a, b in zip(torch.split(x, _CHUNK), torch.split(dy, _CHUNK), strict=True):
        yield full(outer(a, b).flatten(1))


class LinearWork(Work):
    """The weight gradients of a linear layer: (units, positions, in) times (units, positions, out)."""

    def __init__(self, x: Tensor, dy: Tensor) -> None:
        self.x, self.dy = x, dy

    @property
    def key(self) -> str:
        """Positions, features and type."""
        return f"Linear {self.x.shape[2]} -> {self.dy.shape[2]} positions={self.x.shape[1]} {self.x.dtype}"

    @property
    def device(self) -> torch.device:
        """Where it is done."""
        return self.x.device

    @property
    def rule(self) -> str:
        """Ghost where positions are few."""
        positions, features = self.x.shape[1], self.x.shape[2] + self.dy.shape[2]
        return (
            "ghost"
            if positions**2 * (features + 2) < _KEPT_COST * self.x.shape[2] * self.dy.shape[2]
            else "store"
        )

    @property
    def keepers(self) -> tuple[str, ...]:
        """The one kernel that keeps gradients."""
        return ("store",)

    @property
    def ghostly(self) -> bool:
        """Whether the matrices of products are small."""
        return self.x.shape[1] <= _MOST_POSITIONS

    @property
    def few(self) -> int:
        """Number of units to try with."""
        return 4

    def trials(self, kernel: str, units: int) -> list[Trial]:
        """Return a run of one kernel on random numbers, second phase included."""
        x, dy = (torch.randn_like(item[:1].expand(units, -1, -1).contiguous()) for item in (self.x, self.dy))
        factor = torch.rand(units, device=x.device)

        def ghost() -> object:
            return gram.of_products(dy, x), summed(x, dy, factor)

        def keep() -> object:
            flat = full(outer(x, dy)).flatten(1)
            return lengths(flat), factor.to(flat.dtype) @ flat

        return [(ghost if kernel == "ghost" else keep, 1.0)]
