"""Small layers: learnt slopes and tables of vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from meninx.privacy.clipping import gram
from meninx.privacy.clipping.layer import LayerCall
from meninx.privacy.clipping.rows import Bucket
from meninx.privacy.clipping.tape import blanked, full, scaled


class PReLUCall(LayerCall):
    """A leaky rectifier with a learnt slope, one for all channels or one for each."""

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the rectified input."""
        return torch.nn.functional.prelu(x, self.weight().to(x.dtype)), (x,)

    def backward(self, dy: Tensor, saved: tuple[Tensor, ...], needs_dx: bool) -> Tensor | None:
        """Return the input's gradient; put that of the slopes on the tape."""
        (x,) = saved
        weight = self.weight().to(x.dtype)
        single = weight.numel() == 1
        slope = torch.where(x > 0, 0.0, full(dy) * full(x))
        axes = [axis for axis in range(1, x.dim()) if axis != 1 or single]
        rows = (slope.sum(axes) if axes else slope).reshape(len(x), weight.numel())
        for bucket in self.buckets(len(x)):
            self.store("weight", bucket, bucket.summed(rows))
        shape = (1, -1, *(1,) * (x.dim() - 2)) if not single else (1,) * x.dim()
        return torch.where(x > 0, dy, dy * weight.reshape(shape)) if needs_dx else None


class EmbeddingCall(LayerCall):
    """A table of vectors.

    Its gradient touches few rows, so it is only measured: equal indices meet in one matrix.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the vectors at the indices ``x``."""
        return torch.nn.functional.embedding(x, self.weight()), (x,)

    def backward(self, dy: Tensor, saved: tuple[Tensor, ...], needs_dx: bool) -> Tensor | None:
        """Put the table's gradient on the tape; indices have none."""
        (x,) = saved
        padding = getattr(self.module, "padding_idx", None)
        if padding is not None:
            dy = torch.where((x == padding)[..., None], 0.0, dy)
        for bucket in self.buckets(len(x)):
            self._measure(bucket, x[bucket.rows].reshape(bucket.units, -1), dy[bucket.rows])
        return None

    def _measure(self, bucket: Bucket, index: Tensor, dy: Tensor) -> None:
        table = self.weight().shape
        vectors = full(dy).reshape(bucket.units, -1, table[1])
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
            rows = scaled(blanked(vectors.reshape(len(factor), -1, table[1]), blank), factor).reshape(
                -1, table[1]
            )
            return rows.new_zeros(table).index_add_(0, index.reshape(-1), rows)

        self.ghost("weight", bucket, squares, weighted)
