"""Layers with one weight per channel: group, instance and layer normalisation, and PReLU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from meninx.privacy.clipping.gradient_record import wide_dtype, widen
from meninx.privacy.clipping.layer import Layer, LayerCall, Pass
from meninx.privacy.clipping.unit_rows import Bucket

_MANY_ROWS = 4  # rows per unit from which the ordinary kernel is fast on one unit at a time
_PIECE = 1 << 22  # bytes
_forward = torch.ops.aten.native_group_norm
_backward = torch.ops.aten.native_group_norm_backward
_layer_backward = torch.ops.aten.native_layer_norm_backward


class GroupNormCall(LayerCall):
    """Group normalisation; instance normalisation is the case of one group per channel.

    If the batch is viewed as one row whose groups are those of all rows, the ordinary backward pass computes
    the affine gradients of every row at no extra cost. A channels-last tensor cannot be viewed in this way
    and needs two additional sums.
    """

    def __init__(self, layer: Layer, run: Pass, groups: int) -> None:
        super().__init__(layer, run)
        self.groups = groups

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the normalised rows."""
        if not _last(x):
            x = x.contiguous()
        rows, channels, places = x.shape[0], x.shape[1], math.prod(x.shape[2:])
        epsilon = float(getattr(self.module, "eps", 1e-5))
        y, mean, rstd = _forward(x, self.weight(), self.bias(), rows, channels, places, self.groups, epsilon)
        return y, (x, mean, rstd)

    def backward(self, dy: Tensor, saved: tuple[Tensor, ...], needs_dx: bool) -> Tensor | None:
        """Return the input's gradient; record those of weight and bias."""
        x, mean, rstd = saved
        dy = dy.contiguous(memory_format=_last(x) or torch.contiguous_format)
        buckets = self.buckets(x.shape[0])
        if _last(x) and min(bucket.size for bucket in buckets) >= _MANY_ROWS:
            return self._unit_by_unit(dy, x, mean, rstd, buckets)
        dx, scale, shift = (self._summed if _last(x) else self._merged)(dy, x, mean, rstd)
        for bucket in buckets:
            if self.trains_weight:
                self.store("weight", bucket, bucket.summed(widen(scale)))
            if "bias" in self.trained:
                self.store("bias", bucket, bucket.summed(widen(shift)))
        return dx if needs_dx else None

    def _unit_by_unit(
        self, dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, buckets: list[Bucket]
    ) -> Tensor:
        """Return dx; the ordinary kernel sums affine gradients over its rows, so each unit gets one call."""
        dx, channels, places = torch.empty_like(x), x.shape[1], math.prod(x.shape[2:])
        for bucket in buckets:
            found = []
            for unit in range(bucket.units):
                rows = slice(bucket.first + unit * bucket.size, bucket.first + (unit + 1) * bucket.size)
                one = (self.weight(), bucket.size, channels, places, self.groups, (True, True, True))
                dx[rows], *affine = _backward(dy[rows], x[rows], mean[rows], rstd[rows], *one)
                found.append(affine)
            for name, values in zip(("weight", "bias"), zip(*found, strict=True), strict=True):
                if name in self.trained:
                    self.store(name, bucket, widen(torch.stack(list(values))))
        return dx

    def _merged(self, dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return dx and the affine gradients (rows, channels), with all rows viewed as one."""
        rows, channels, places = x.shape[0], x.shape[1], math.prod(x.shape[2:])
        weight = self.weight().repeat(rows)
        one = (1, rows * channels, places)
        dx, scale, shift = _backward(
            dy.reshape(one), x.reshape(one), mean.reshape(1, -1), rstd.reshape(1, -1), weight,
            1, rows * channels, places, rows * self.groups, (True, True, True),
        )  # fmt: skip
        return dx.reshape(x.shape), scale.reshape(rows, channels), shift.reshape(rows, channels)

    def _summed(self, dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same as :meth:`_merged` for channels-last tensors, from two sums over places."""
        rows, channels, places = x.shape[0], x.shape[1], math.prod(x.shape[2:])
        dx, _, _ = _backward(
            dy, x, mean, rstd, self.weight(), rows, channels, places, self.groups, (True, False, False)
        )
        axes = tuple(range(2, x.dim()))
        shift, moment = dy.sum(axes, dtype=wide_dtype(dy)), _moments(dy, x, axes)
        each = channels // self.groups
        mean, rstd = (
            widen(item).reshape(rows, self.groups).repeat_interleave(each, 1) for item in (mean, rstd)
        )
        return dx, (moment - mean * shift) * rstd, shift


def _moments(dy: Tensor, x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return (rows, channels) sums of products, a few rows at a time so that products stay in the cache."""
    few = max(1, _PIECE // (x[0].numel() * x.element_size()))
    pairs = zip(torch.split(dy, few), torch.split(x, few), strict=True)
    return torch.cat([(a * b).sum(axes, dtype=wide_dtype(dy)) for a, b in pairs])


def _last(x: Tensor) -> torch.memory_format | None:
    """Return the channels-last format of a tensor that has it, else None."""
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    if x.dim() == 5 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last_3d):
        return torch.channels_last_3d
    return None


class LayerNormCall(LayerCall):
    """Layer normalisation over the last axes."""

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the normalised vectors."""
        x = x.contiguous()
        shape = list(self.weight().shape)
        y, mean, rstd = torch.native_layer_norm(
            x, shape, self.weight(), self.bias(), float(getattr(self.module, "eps", 1e-5))
        )
        return y, (x, mean, rstd)

    def backward(self, dy: Tensor, saved: tuple[Tensor, ...], needs_dx: bool) -> Tensor | None:
        """Return the input's gradient; record those of weight and bias."""
        x, mean, rstd = saved
        dy, weight = dy.contiguous(), self.weight()
        axes = tuple(range(1, x.dim() - weight.dim()))
        scale = (widen(dy) * ((widen(x) - mean) * rstd)) if self.trains_weight else None
        for bucket in self.buckets(x.shape[0]):
            if scale is not None:
                self.store("weight", bucket, bucket.summed(scale.sum(axes) if axes else scale))
            if "bias" in self.trained:
                self.store(
                    "bias", bucket, bucket.summed(dy.sum(axes, dtype=wide_dtype(dy)) if axes else widen(dy))
                )
        if not needs_dx:
            return None
        dx: Tensor = _layer_backward(
            dy, x, list(weight.shape), mean, rstd, weight, self.bias(), (True, False, False)
        )[0]
        return dx


class PReLUCall(LayerCall):
    """A leaky rectifier with a learnt slope, either one for all channels or one per channel."""

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the rectified input."""
        return torch.nn.functional.prelu(x, self.weight().to(x.dtype)), (x,)

    def backward(self, dy: Tensor, saved: tuple[Tensor, ...], needs_dx: bool) -> Tensor | None:
        """Return the input's gradient; record that of the slopes."""
        (x,) = saved
        weight = self.weight().to(x.dtype)
        single = weight.numel() == 1
        slope = torch.where(x > 0, 0.0, widen(dy) * widen(x))
        axes = [axis for axis in range(1, x.dim()) if axis != 1 or single]
        rows = (slope.sum(axes) if axes else slope).reshape(len(x), weight.numel())
        for bucket in self.buckets(len(x)):
            self.store("weight", bucket, bucket.summed(rows))
        shape = (1, -1, *(1,) * (x.dim() - 2)) if not single else (1,) * x.dim()
        return torch.where(x > 0, dy, dy * weight.reshape(shape)) if needs_dx else None
