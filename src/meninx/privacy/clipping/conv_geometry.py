"""The geometry of a convolution (kernel, stride, padding, ...) in 1, 2 or 3 dimensions, transposed or not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from meninx.privacy.clipping.gradient_record import scale_rows, widen

_backward = torch.ops.aten.convolution_backward


@dataclass(frozen=True)
class Geometry:
    """Settings of a convolution, one number per spatial axis.

    Attributes:
        kernel: sizes of the filter.
        stride: steps.
        padding: zeros on both sides.
        dilation: distances between taps.
        groups: groups of channels.
        transposed: whether it is a transposed convolution.
        output_padding: of a transposed convolution.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()

    @property
    def extra(self) -> tuple[int, ...]:
        """Output padding, zeros when there is none."""
        return self.output_padding or (0,) * len(self.kernel)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution of ``x`` (rows, channels, ...)."""
        return torch.convolution(
            x,
            weight,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.extra,
            self.groups,
        )

    def input_gradient(self, dy: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of the input."""
        return self._native(dy, x, weight, self.groups, (True, False, False))[0]

    def weight_gradient(self, dy: Tensor, x: Tensor, weight: Tensor, *, groups: int | None = None) -> Tensor:
        """Return the gradient of a weight, summed over the rows.

        Only the shape of ``weight`` is used, not its values.
        """
        return self._native(dy, x, weight, groups or self.groups, (False, True, False))[1]

    def weighted_gradient(self, dy: Tensor, x: Tensor, weight: Tensor, factor: Tensor) -> Tensor:
        """Return the sum over rows of the weight's gradients times ``factor`` (rows,), in float32 or float64.

        In bfloat16 the sum over all units would be rounded, and adding one unit could change the rounded sum
        by several times the clipping threshold.
        """
        return self.weight_gradient(scale_rows(widen(dy), factor), widen(x), widen(weight))

    def both_gradients(self, dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of input and weight from one call."""
        dx, dw, _ = self._native(dy, x, weight, self.groups, (True, True, False))
        return dx, dw

    def _native(
        self, dy: Tensor, x: Tensor, weight: Tensor, groups: int, mask: tuple[bool, bool, bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = _backward(
            dy,
            x,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.extra,
            groups,
            mask,
        )
        return found

    @property
    def taps(self) -> int:
        """Number of taps of the filter."""
        return math.prod(self.kernel)

    def offsets(self) -> Iterator[tuple[int, ...]]:
        """Yield where each tap starts, in padded coordinates."""
        for tap in itertools.product(*(range(size) for size in self.kernel)):
            yield tuple(index * step for index, step in zip(tap, self.dilation, strict=True))

    def slices(self, places: tuple[int, ...]) -> Iterator[list[slice]]:
        """Yield, for each tap, the padded coordinates that it meets over all places of the filter."""
        for offset in self.offsets():
            axes = zip(offset, places, self.stride, strict=True)
            yield [slice(start, start + (count - 1) * step + 1, step) for start, count, step in axes]

    def windows(self, padded: Tensor, places: tuple[int, ...]) -> Iterator[Tensor]:
        """Yield the part (..., places) of ``padded`` (..., spatial) that each tap meets."""
        whole = [slice(None)] * (padded.dim() - len(places))
        for seen in self.slices(places):
            yield padded[(*whole, *seen)]

    def padded(self, source: Tensor, positions: tuple[int, ...]) -> Tensor:
        """Return ``source`` (..., spatial) with zeros around it so that every tap of every position exists.

        Args:
            source: what the filter slides over: the input, or the output of a transposed convolution.
            positions: places of the filter along each axis.
        """
        sizes = source.shape[-len(self.kernel) :]
        pads: list[int] = []
        for size, places, kernel, stride, padding, dilation in reversed(
            list(zip(sizes, positions, self.kernel, self.stride, self.padding, self.dilation, strict=True))
        ):
            reach = (places - 1) * stride + (kernel - 1) * dilation + 1
            pads += [padding, max(0, reach - padding - size)]
        return functional.pad(source, pads) if any(pads) else source

    @property
    def pointwise(self) -> bool:
        """Whether the filter has a single tap and looks at every position: a linear layer over positions."""
        plain = self.groups == 1 and not any(self.padding) and not any(self.extra)
        return plain and self.taps == 1 and all(step == 1 for step in self.stride)
