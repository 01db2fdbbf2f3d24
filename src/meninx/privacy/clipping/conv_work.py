"""What the planner has to know of a convolution."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from meninx.privacy.clipping import stored
from meninx.privacy.clipping.planner import Trial, Work
from meninx.privacy.clipping.tape import full, lengths

if TYPE_CHECKING:
    from meninx.privacy.clipping.conv import ConvCall

_TRIAL_BYTES = 1 << 26
_MANY = 16  # rows of a usual physical batch
_LEAST = 2  # units to try with, however few there are: kernels differ in what they do with several
_MOST_POSITIONS = 1600  # of a matrix of products worth trying
_HOPELESS = 6  # times the cost of keeping
_KEPT_COST = 40  # cost of keeping one number of a gradient, in multiplications; measured on 3x3 filters


class ConvWork(Work):
    """The weight gradients of one convolution for ``units`` units of ``size`` rows."""

    def __init__(self, call: ConvCall, x: Tensor, dy: Tensor, weight: Tensor, size: int, units: int) -> None:
        self.call, self.x, self.dy, self.weight, self.size, self.units = call, x, dy, weight, size, units
        self.geometry = call.geometry

    @property
    def device(self) -> torch.device:
        """Where it is done."""
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
        """Ghost where positions are few and the filter is large."""
        return "ghost" if self._ghost_cost() < _KEPT_COST * self.weight.numel() else self.keepers[0]

    def _ghost_cost(self) -> int:
        """Return the multiplications of a ghost norm, roughly."""
        source, places = (self.dy, self.x) if self.geometry.transposed else (self.x, self.dy)
        pixels, positions = self._positions()
        return pixels**2 * source.shape[1] + positions**2 * (places.shape[1] + 6 * self.geometry.taps)

    def _positions(self) -> tuple[int, int]:
        """Return the pixels that the filter slides over, padding included, and its places.

        Of all rows of a unit.
        """
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
    def keepers(self) -> tuple[str, ...]:
        """Every kernel that keeps gradients."""
        return stored.possible(self.geometry, self.size, self.x.shape[1])

    @property
    def ghostly(self) -> bool:
        """Whether the matrices of products are small, and the rule does not find ghost norms hopeless."""
        return (
            max(self._positions()) <= _MOST_POSITIONS
            and self._ghost_cost() < _HOPELESS * _KEPT_COST * self.weight.numel()
        )

    @property
    def few(self) -> int:
        """Number of units to try with: half of those there are, so that all trials together cost a few steps."""
        most = stored.together("grouped", self.weight.numel()) or 1
        room = _TRIAL_BYTES // (4 * self.size * (self.x[0].numel() + self.dy[0].numel()))
        return max(1, min(_MANY // self.size, most, room, max(_LEAST, self.units // 2)))

    def trials(self, kernel: str, units: int) -> list[Trial]:
        """Return runs of one kernel on random numbers, with the second phase.

        Input gradients where a kernel makes them, too.
        """
        weight, geometry, call = self.weight, self.geometry, self.call
        x, dy, factor = (
            self._random(self.x, units),
            self._random(self.dy, units),
            torch.rand(units, device=self.device),
        )
        shared = geometry.input_gradient if "joint" in self.keepers else lambda *_: None

        def second(gradients: Tensor) -> object:
            flat = full(call.pulled(gradients)).flatten(1)
            return lengths(flat), factor.to(flat.dtype) @ flat

        def joint() -> object:
            pieces = zip(torch.split(dy, self.size), torch.split(x, self.size), strict=True)
            pairs = [geometry.both_gradients(a, b, weight) for a, b in pieces]
            return torch.cat([pair[0] for pair in pairs]), second(torch.stack([pair[1] for pair in pairs]))

        def keep() -> object:
            return shared(dy, x, weight), second(stored.KERNELS[kernel](x, dy, weight, geometry, units))

        if kernel == "ghost":
            return self._ghost_trials(x, dy, units)
        return [(joint if kernel == "joint" else keep, 1.0)]

    def _ghost_trials(self, x: Tensor, dy: Tensor, units: int) -> list[Trial]:
        """Return the norms of some units, and a share of one product for many: dear for few units, cheap for each of many."""
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
