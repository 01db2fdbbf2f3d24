"""Linear layers, with any number of positions between batch and features, and embedding tables."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from meninx.privacy.clipping import gram
from meninx.privacy.clipping.gradient_record import row_norms, scale_rows, widen, zero_rows
from meninx.privacy.clipping.layer import LayerCall
from meninx.privacy.clipping.planner import KernelCandidates, Trial
from meninx.privacy.clipping.unit_rows import Bucket

_KEPT_COST = 24  # cost of keeping one number of a gradient, in multiplications; measured
_MOST_POSITIONS = 1600  # side of the largest matrix of products worth trying
_CHUNK = 4  # units whose gradients are computed together where they are not kept


class LinearCall(LayerCall):
    """A linear layer.

    With one vector per unit no gradient is computed: the norm of an outer product is the product of the
    norms.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the layer's output."""
        bias = self.bias()
        x, weight = self.cast(x), self.cast(self.weight())
        y = torch.nn.functional.linear(x, weight, None if bias is None else self.cast(bias))
        return y, (weight, x if self.trains_weight else x.new_empty(()).expand(x.shape))

    def backward(self, dy: Tensor, saved: tuple[Tensor, ...], needs_dx: bool) -> Tensor | None:
        """Return the input's gradient; record those of weight and bias."""
        weight, x = saved
        buckets = self.buckets(x.shape[0])
        self.store_bias(dy, buckets, channel=dy.dim() - 1)
        if self.trains_weight:
            for bucket in buckets:
                self._measure(bucket, vectors(x[bucket.rows], bucket), vectors(dy[bucket.rows], bucket))
        return dy @ weight if needs_dx else None

    def _measure(self, bucket: Bucket, x: Tensor, dy: Tensor) -> None:
        """Record the weight's gradients, given (units, positions, features) of input and output gradient."""
        key = (type(self), x.dtype, x.device, x.shape[1:], dy.shape[1:])
        many = bucket.units * x.shape[2] * dy.shape[2]
        kernel = self.planner.choose(key, partial(LinearKernels, x, dy), stored=many, once=self.once)
        if kernel == "store":
            self.store("weight", bucket, outer(x, dy))
            return
        squares = (
            gram.of_products(dy, x)
            if kernel == "ghost"
            else torch.cat([row_norms(part) for part in made(x, dy)]).square()
        )

        def weighted(factor: Tensor, blank: Tensor | None) -> Tensor:
            # "norm" sums the very gradients that it measured; see ConvCall._pass_over.
            if kernel == "norm":
                both = [
                    zero_rows(item.reshape(len(factor), -1), blank).reshape(item.shape) for item in (x, dy)
                ]
                parts = zip(
                    torch.split(factor.view(bucket.units, -1)[:, 0], _CHUNK), made(*both), strict=True
                )
                return (
                    torch.stack([each.to(part.dtype) @ part for each, part in parts])
                    .sum(0)
                    .reshape(dy.shape[2], -1)
                )
            rows = len(factor)
            left = zero_rows(x.reshape(rows, -1, x.shape[2]), blank)
            right = zero_rows(dy.reshape(rows, -1, dy.shape[2]), blank)
            return summed(left, right, factor)

        self.ghost("weight", bucket, squares, weighted)


def vectors(value: Tensor, bucket: Bucket) -> Tensor:
    """Return (units, positions, features) of the bucket's rows (units * size, ..., features)."""
    return value.reshape(bucket.units, -1, value.shape[-1])


def outer(x: Tensor, dy: Tensor) -> Tensor:
    """Return the gradients (units, out, in)."""
    return torch.bmm(dy.transpose(1, 2), x)


def summed(x: Tensor, dy: Tensor, factor: Tensor) -> Tensor:
    """Return the float32 sum (out, in) of the rows' gradients times their factors."""
    return scale_rows(widen(dy), factor).flatten(0, 1).transpose(0, 1) @ widen(x).flatten(0, 1)


def made(x: Tensor, dy: Tensor) -> Iterator[Tensor]:
    """Yield the gradients (few units, out * in) of a few units at a time, which bounds the memory."""
    for a, b in zip(torch.split(x, _CHUNK), torch.split(dy, _CHUNK), strict=True):
        yield widen(outer(a, b).flatten(1))


class EmbeddingCall(LayerCall):
    """A table of vectors.

    Its gradient touches few rows, so it is measured and not stored: the squared norm is the sum of the
    products of all pairs of positions with equal indices.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the vectors at the indices ``x``."""
        return torch.nn.functional.embedding(x, self.weight()), (x,)

    def backward(self, dy: Tensor, saved: tuple[Tensor, ...], needs_dx: bool) -> Tensor | None:
        """Record the table's gradient; indices have none."""
        (x,) = saved
        padding = getattr(self.module, "padding_idx", None)
        if padding is not None:
            dy = torch.where((x == padding)[..., None], 0.0, dy)
        for bucket in self.buckets(len(x)):
            self._measure(bucket, x[bucket.rows].reshape(bucket.units, -1), dy[bucket.rows])
        return None

    def _measure(self, bucket: Bucket, index: Tensor, dy: Tensor) -> None:
        table = self.weight().shape
        vectors = widen(dy).reshape(bucket.units, -1, table[1])
        if not self.once:
            tables = vectors.new_zeros((bucket.units, *table))
            self.store("weight", bucket, tables.scatter_add_(1, index[..., None].expand_as(vectors), vectors))
            return
        equal = index[:, :, None] == index[:, None, :]
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        size = products.diagonal(dim1=1, dim2=2).double().clamp(min=0).sqrt()
        reach = (size[:, :, None] * size[:, None, :] * equal).sum((1, 2))
        squares = gram.raised((products * equal).sum((1, 2), dtype=torch.float64), reach, dy.dtype)

        def weighted(factor: Tensor, blank: Tensor | None) -> Tensor:
            rows = scale_rows(zero_rows(vectors.reshape(len(factor), -1, table[1]), blank), factor).reshape(
                -1, table[1]
            )
            return rows.new_zeros(table).index_add_(0, index.reshape(-1), rows)

        self.ghost("weight", bucket, squares, weighted)


class LinearKernels(KernelCandidates):
    """The weight gradients of a linear layer: (units, positions, in) times (units, positions, out)."""

    def __init__(self, x: Tensor, dy: Tensor) -> None:
        self.x, self.dy = x, dy

    @property
    def key(self) -> str:
        """Positions, features and type."""
        return f"Linear {self.x.shape[2]} -> {self.dy.shape[2]} positions={self.x.shape[1]} {self.x.dtype}"

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.x.device

    @property
    def rule(self) -> str:
        """``"ghost"`` where positions are few."""
        positions, features = self.x.shape[1], self.x.shape[2] + self.dy.shape[2]
        return (
            "ghost"
            if positions**2 * (features + 2) < _KEPT_COST * self.x.shape[2] * self.dy.shape[2]
            else "store"
        )

    @property
    def storing_kernels(self) -> tuple[str, ...]:
        """The one kernel that keeps gradients."""
        return ("store",)

    @property
    def can_ghost(self) -> bool:
        """Whether the matrices of products are small."""
        return self.x.shape[1] <= _MOST_POSITIONS

    @property
    def trial_units(self) -> int:
        """Number of units in a trial."""
        return 4

    def trials(self, kernel: str, units: int) -> list[Trial]:
        """Return a run of one kernel on random numbers, including the weighted sum."""
        x, dy = (torch.randn_like(item[:1].expand(units, -1, -1).contiguous()) for item in (self.x, self.dy))
        factor = torch.rand(units, device=x.device)

        def ghost() -> object:
            return gram.of_products(dy, x), summed(x, dy, factor)

        def keep() -> object:
            flat = widen(outer(x, dy)).flatten(1)
            return row_norms(flat), factor.to(flat.dtype) @ flat

        return [(ghost if kernel == "ghost" else keep, 1.0)]
