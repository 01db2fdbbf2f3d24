"""Convolutions with standardised filters: the exact gradient of the raw filter, kept or only measured.

With c = w - mean(w) and r = (|c|^2 + e)^(-1/2) a filter is u = r c. A gradient g of u becomes
r (g - mean(g) - <u, g> u) of w, so its squared norm is r^2 (Q - S^2 / m - 2 D^2 + D^2 |u|^2) with Q = |g|^2,
S = sum(g), D = <u, g> and m numbers a filter. None of the three needs g: Q is a ghost norm filter by filter,
S the same with all channels of a patch added, and D is the output's gradient times the output.
"""

from __future__ import annotations

import torch
from torch import Tensor

from meninx.privacy.clipping import gram
from meninx.privacy.clipping.conv import ConvCall
from meninx.privacy.clipping.rows import by_unit
from meninx.privacy.clipping.tape import full

EPSILON = 1e-5


class StandardizedConvCall(ConvCall):
    """A convolution with filters of mean 0 and length (almost) 1, as ``models.blocks.standardized`` makes them."""

    keeps_output = True

    def effective(self) -> Tensor:
        """Return the standardised filters."""
        return self._parts()[0]

    def _parts(self) -> tuple[Tensor, Tensor]:
        """Return filters (out, in, ...) and their factors r, (out, 1)."""
        weight = self.weight()
        flat = weight.flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        factor = torch.rsqrt(centred.square().mean(1, keepdim=True) * flat.shape[1] + EPSILON)
        return (centred * factor).reshape(weight.shape), factor

    def pulled(self, gradients: Tensor) -> Tensor:
        """Return gradients (units, *weight) of the raw filters, given those of the standardised ones."""
        filters, factor = self._parts()
        flat, unit = full(gradients).flatten(2), filters.flatten(1)
        along = (flat * unit).sum(2, keepdim=True)
        return (factor * (flat - flat.mean(2, keepdim=True) - along * unit)).reshape(gradients.shape)

    def squares(self, x: Tensor, dy: Tensor, y: Tensor | None, units: int) -> Tensor:
        """Return the squared norms (units,) of the raw filters' gradients without making them."""
        assert y is not None
        filters, factor = self._parts()
        source, places = by_unit(x, units), by_unit(dy, units)
        length, total, reach = gram.by_filter(source, places, self.geometry)
        bias = self.bias()
        plain = full(y) if bias is None else full(y) - full(bias).reshape(1, -1, *(1,) * (y.dim() - 2))
        inner = (full(dy) * plain).flatten(2).sum(2, dtype=torch.float64)
        along = by_unit(inner, units).sum(1)
        flat = filters.flatten(1).double()
        rest = length - total.square() / flat.shape[1] - along.square() * (2 - flat.square().sum(1))
        if dy.dtype == torch.bfloat16:  # the output is rounded, and so was the weight that made it
            spread = by_unit((full(dy) * full(y)).abs().flatten(2).sum(2, dtype=torch.float64), units).sum(1)
            slip = gram.SLIP * (spread + reach.sqrt())
            rest = rest + slip * (2 * along.abs() + slip)
        return (factor[:, 0].double().square() * gram.raised(rest, reach, dy.dtype)).sum(1)
