"""The definition of the clipped sum, in float64 and row by row: what every kernel is compared with."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import pytest
import torch

from meninx.privacy.clipping import ClippedSum, Planner, clipped_gradient_sum


def weighted_sine(outputs, targets):
    """A smooth loss of any output: every number counts, every row has a weight of its own."""
    return (outputs.flatten(1) + 0.3).sin().sum(1) * targets.flatten(1)[:, 0]


@dataclass
class Truth:
    """Gradients of every unit, (units, numbers) in float64, and what follows from them."""

    gradients: torch.Tensor
    names: list = field(default_factory=list)

    @property
    def norms(self):
        return self.gradients.norm(dim=1)

    def clipped(self, bound, clipping="flat"):
        norms = self.norms
        found = bound / (norms + 0.01) if clipping == "auto-s" else (bound / norms).clamp(max=1)
        return found @ self.gradients


class Oracle:
    """Plain autograd on a double copy, one row at a time, and ways to compare the engine with it."""

    loss = staticmethod(weighted_sine)

    def truth(self, model, inputs, targets, units=None, views=1, loss=None, double=True):
        """Return the gradient of every unit: mean over views, sum over cases."""
        loss = loss or self.loss
        model = copy.deepcopy(model).double() if double else copy.deepcopy(model)
        if double:
            inputs, targets = (
                item.double() if item.is_floating_point() else item for item in (inputs, targets)
            )
        named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
        units = list(range(len(inputs) // views)) if units is None else [int(unit) for unit in units]
        total = torch.zeros(
            max(units, default=-1) + 1, sum(value.numel() for _, value in named), dtype=torch.float64
        )
        for row in range(len(inputs)):
            value = loss(model(inputs[row : row + 1]), targets[row : row + 1]).sum()
            found = torch.autograd.grad(value, [value for _, value in named], allow_unused=True)
            flat = [
                torch.zeros_like(value) if part is None else part
                for part, (_, value) in zip(found, named, strict=True)
            ]
            total[units[row // views]] += torch.cat([part.flatten() for part in flat]).double() / views
        return Truth(total, [name for name, _ in named])

    def engine(self, model, inputs, targets, units=None, views=1, loss=None, bound=1.0, mode=None, **changes):
        """Return the engine's sum."""
        units = (
            torch.arange(len(inputs) // views) if units is None else torch.as_tensor(units, dtype=torch.long)
        )
        given = {"unit_index": units, "n_units": int(units.max()) + 1 if len(units) else 0}
        given |= {"max_grad_norm": bound, "views": views, "planner": Planner(mode=mode) if mode else None}
        return clipped_gradient_sum(model, loss or self.loss, inputs, targets, **(given | changes))

    def flat(self, total: ClippedSum):
        return torch.cat([value.flatten() for value in total.gradients.values()])

    def distance(self, found, expected):
        """Return the relative distance; the absolute one where nothing is expected."""
        found = self.flat(found) if isinstance(found, ClippedSum) else found
        length = float(expected.double().norm())
        return float((found.double() - expected.double()).norm()) / (length or 1.0)

    def data(self, rows, *shape, seed=0):
        """Return inputs and per-row weights."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(rows, *shape, generator=generator), torch.rand(
            rows, 1, generator=generator
        ) * 2 + 0.2


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    """The definition."""
    return Oracle()
