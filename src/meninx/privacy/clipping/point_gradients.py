"""Clipped sums of gradients that are given directly and are zero except at a few coordinates.

The canaries of an audit have such gradients. They are clipped by the function that clips those of patients,
so the audit detects a fault in it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meninx.core import check
from meninx.core.errors import DataError, expected
from meninx.privacy.clipping import engine
from meninx.privacy.clipping.clipped_sum import ClippedSum
from meninx.privacy.clipping.layer_rules import trained_layers


@dataclass(frozen=True)
class PointGradients:
    """Gradients of cases, each zero except at the coordinates of its entries.

    Attributes:
        names: the parameters that have entries.
        parameter: (entries,) int64, position of each entry's parameter in ``names``.
        place: (entries,) int64, position in the flattened parameter.
        value: (entries,) float64.
        case: (entries,) int64 in [0, cases), the case of each entry.
        unit: (cases,) int64, position of each case's unit among all units of the step.
    """

    names: tuple[str, ...]
    parameter: Tensor
    place: Tensor
    value: Tensor
    case: Tensor
    unit: Tensor


def parameter_groups(
    model: nn.Module, clipping: str, functional: Collection[str] = ()
) -> tuple[dict[str, int], int]:
    """Return the clipping group of every trained parameter, and the number of groups."""
    owners = {
        name: layer.path for layer in trained_layers(model, functional) for name in layer.trained.values()
    }
    groups = engine.clipping_groups(owners, clipping)
    return groups, 1 + max(groups.values(), default=0)


@torch.no_grad()
def clipped_point_sum(
    model: nn.Module,
    points: PointGradients,
    *,
    n_units: int,
    max_grad_norm: float,
    clipping: str = "flat",
    precision: str = "fp32",
    functional: Collection[str] = (),
) -> ClippedSum:
    """Return the sum over units of their given gradients, each scaled to norm at most ``max_grad_norm``.

    The gradient of a unit is the sum over its cases, which must all be in this call. Entries of parameters
    that are not trained are ignored.

    Args:
        model: its trainable parameters are those of the sum.
        points: the gradients.
        n_units: units drawn for the step, over all sources and physical batches.
        max_grad_norm: clipping threshold C > 0.
        clipping: see :func:`~meninx.privacy.clipping.engine.clip_factors`.
        precision: ``"bf16"`` clips to C / (1 + 2**-8), as :func:`clipped_gradient_sum` does.
        functional: paths of modules that are run row by row.

    Guarantee: as :func:`~meninx.privacy.clipping.engine.clipped_gradient_sum`.
    """
    check.positive(max_grad_norm=max_grad_norm)
    _refuse_elsewhere(points)
    total = ClippedSum.empty(model, max_grad_norm=max_grad_norm, n_units=n_units)
    groups, count = parameter_groups(model, clipping, functional)
    units, slot = torch.unique(points.unit, return_inverse=True)
    group = torch.tensor([groups.get(name, -1) for name in points.names], dtype=torch.int64)
    trained = group[points.parameter] >= 0
    # Entries of one unit at the same coordinate are added before the norm, as its cases are in a batch.
    # Unit, parameter and place in one number, which sorts faster than three.
    kinds = max(1, len(points.names))
    width = 1 + (int(points.place.max()) if len(points.place) else 0)
    entry = (slot[points.case] * kinds + points.parameter) * width + points.place
    entries, owner = torch.unique(entry[trained], return_inverse=True)
    unit, parameter, place = entries // (kinds * width), entries // width % kinds, entries % width
    value = torch.zeros(len(entries), dtype=torch.float64).index_add_(0, owner, points.value[trained])
    squares = torch.zeros(len(units) * count, dtype=torch.float64)
    cell = unit * count + group[parameter]
    squares = squares.index_add_(0, cell, value.square()).view(len(units), count)
    bound = max_grad_norm / (engine.BF16_MARGIN if precision == "bf16" else 1.0)
    factor, keep = engine.clip_factors(squares, bound, clipping)
    # 0 times NaN is NaN, so the values of a unit without a finite norm are replaced, not multiplied.
    value = torch.where(keep[unit], value * factor.view(-1)[cell], 0.0)
    total.unit_norms[units] = squares.sum(1).sqrt().to(total.unit_norms.device)
    total.present[units] = True
    for number, name in enumerate(points.names):
        chosen = parameter == number
        if bool(chosen.any()):
            flat = total.gradients[name].view(-1)
            flat.index_add_(0, place[chosen].to(flat.device), value[chosen].to(flat))
    return total


def _refuse_elsewhere(points: PointGradients) -> None:
    """Refuse entries of no parameter or before its first coordinate: they would count for another unit."""
    for name, values in (("parameter", points.parameter), ("place", points.place)):
        if len(values) and int(values.min()) < 0:
            raise DataError(expected("positions of at least 0", got=int(values.min()), where=name))
    if len(points.parameter) and int(points.parameter.max()) >= len(points.names):
        rule = f"positions below {len(points.names)}"
        raise DataError(expected(rule, got=int(points.parameter.max()), where="parameter"))
