"""The proof by trial: the engine's gradients of single rows against plain automatic differentiation, row by row, in float64.

Types of layers are checked by the inventory. What the code between them does - mix rows, reorder them, use a weight
outside its layer - no list of types can see. Numbers can.
"""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn

from meninx.core.errors import PrivacyRefusal, expected
from meninx.privacy.clipping.engine import row_gradients
from meninx.privacy.clipping.result import PerSampleLoss

_TOLERANCE = 1e-6


def prove(
    model: nn.Module, per_sample_loss: PerSampleLoss, inputs: Tensor, targets: Tensor, *, functional: Collection[str] = ()
) -> None:
    """Raise PrivacyRefusal unless the engine gives every row the gradient that the row has alone.

    Args:
        model: not changed; a copy in float64, without dropout, is run.
        per_sample_loss: (outputs, targets) of leading length B -> (B,) losses.
        inputs: (rows, C, ...), two rows or more; random numbers do.
        targets: (rows, ...).
        functional: as in :func:`~meninx.privacy.clipping.engine.clipped_gradient_sum`.

    Guarantee: a model that passes did not mix these rows, used each trained weight in its layer alone, and its
        gradients were the exact ones, on these inputs. Code that behaves otherwise on others can still do so.

    Raises:
        PrivacyRefusal: names a parameter whose gradient is wrong, or a module without a rule.
    """
    model = copy.deepcopy(model).double()
    for module in model.modules():
        if "drop" in type(module).__name__.lower():
            module.eval()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    targets = targets.double() if targets.is_floating_point() else targets
    ours = row_gradients(model, per_sample_loss, inputs, targets, functional=functional)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    for row in range(len(inputs)):
        truth = _alone(trained, model, per_sample_loss, inputs[row : row + 1], targets[row : row + 1])
        scale = float(torch.stack([value.norm() for value in truth.values()]).norm())
        for name, value in truth.items():
            found = ours[name][row] if name in ours else torch.zeros_like(value)
            if not float((found - value).norm()) <= _TOLERANCE * max(scale, 1e-12):
                fix = (
                    "rows must not see each other, and a weight must be used by its own layer alone; or run the module row by row"
                )
                raise PrivacyRefusal(expected("the gradient that the row has alone", got="another", where=name, fix=fix))


def _alone(
    trained: dict[str, nn.Parameter], model: nn.Module, loss: PerSampleLoss, inputs: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """Return the gradients of one row by itself; zeros for parameters that take no part."""
    with torch.enable_grad():
        value = loss(model(inputs), targets).sum()
    found = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
    pairs = zip(trained.items(), found, strict=True)
    return {name: torch.zeros_like(weight) if part is None else part for (name, weight), part in pairs}
