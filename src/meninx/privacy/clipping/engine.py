"""The clipped sum: per-unit gradients, each scaled to a bounded norm, added up."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from meninx.core import check
from meninx.core.errors import DataError, expected
from meninx.privacy.clipping.inventory import refuse_moved_buffers, refuse_unsafe_modules
from meninx.privacy.clipping.result import ClippedSum, PerSampleLoss
from meninx.privacy.clipping.slices import slice_units

Gradients = dict[str, Tensor]
_CHUNK = 16
_AUTO_S_GAMMA = 0.01
_LEAST_FACTOR = 1e-30  # below, float32 would round the factor coarsely: the unit counts as not finite


def clipped_gradient_sum(
    model: nn.Module,
    per_sample_loss: PerSampleLoss,
    inputs: Tensor,
    targets: Tensor,
    *,
    unit_index: Tensor,
    n_units: int,
    max_grad_norm: float,
    clipping: str = "flat",
    views: int = 1,
    chunk: int | None = None,
) -> ClippedSum:
    """Return the sum over privacy units of their gradients, each scaled to a norm of at most ``max_grad_norm``.

    The gradient of a case is that of its loss averaged over its views; the gradient of a unit is the sum over
    its cases; the unit's gradient is clipped once. A unit whose gradient is not finite contributes exactly 0.

    Args:
        model: trainable parameters are those with ``requires_grad``; the model is not changed.
        per_sample_loss: (outputs, targets) of leading length B -> (B,) losses, each from its own row.
        inputs: (cases * views, C, ...), the views of a case next to each other.
        targets: (cases * views, ...), in the same order.
        unit_index: (cases,) in [0, n_units): the unit of every case; all its cases must be in this one call.
        n_units: units drawn for the step, over all physical batches.
        max_grad_norm: clipping threshold C > 0.
        clipping: ``"flat"``: scale by min(1, C / norm); ``"auto-s"``: scale by C / (norm + 0.01).
        views: K >= 1.
        chunk: most cases whose gradients are held at once; memory only; None for 16.

    Guarantee:
        With all cases of a unit in this call, adding or removing the unit changes the sum by at most
        ``max_grad_norm`` in L2 norm, whatever its data, up to float32 rounding of the sum; norms are reduced in
        float64, and one unit's own contribution exceeds the bound by less than one part in 1e5. Cases never see
        each other: the forward pass runs case by case under vmap, and modules known to couple them or to
        keep statistics of them are refused.

    Raises:
        PrivacyRefusal, DataError: an unsafe module or one that writes to its buffers; lengths do not fit.

    References:
        Abadi et al. (2016), Deep Learning with Differential Privacy, Algorithm 1 ("clip gradient").
        Bu et al. (2023), Automatic Clipping: DP Deep Learning Made Easier and Stronger, equation 4.2 (AUTO-S).
    """
    _check_settings(max_grad_norm, clipping, views, chunk)
    refuse_unsafe_modules(model)
    cases = _check_lengths(inputs, targets, unit_index, n_units, views)
    inputs = inputs.reshape(cases, views, *inputs.shape[1:])
    targets = targets.reshape(cases, views, *targets.shape[1:])
    total = ClippedSum.empty(model, max_grad_norm=max_grad_norm, n_units=n_units)
    per_case = _per_case_gradients(model, per_sample_loss)
    most = chunk or _CHUNK
    for rows in slice_units(unit_index.detach().cpu().numpy(), most):
        members, local = torch.unique(unit_index[torch.from_numpy(rows).to(unit_index.device)], return_inverse=True)
        gradients: Gradients = {}
        for piece, owner in zip(torch.split(torch.from_numpy(rows), most), torch.split(local, most), strict=True):
            part = per_case(inputs[piece.to(inputs.device)], targets[piece.to(inputs.device)])
            gradients = _add_by_unit(gradients, part, owner.to(inputs.device), len(members))
        _clip_into(total, gradients, members.to(total.present.device), clipping)
    return total


def _check_settings(max_grad_norm: float, clipping: str, views: int, chunk: int | None) -> None:
    check.positive(max_grad_norm=max_grad_norm, views=views, chunk=chunk)
    check.one_of(("flat", "auto-s"), clipping=clipping)


def _check_lengths(inputs: Tensor, targets: Tensor, unit_index: Tensor, n_units: int, views: int) -> int:
    """Return the number of cases, or raise."""
    cases = len(unit_index)
    if unit_index.dim() != 1 or len(inputs) != cases * views or len(targets) != cases * views:
        got = f"{len(inputs)} inputs, {len(targets)} targets, {cases} cases of {views} views"
        raise DataError(expected("inputs and targets of length cases * views", got=got, where="clipped_gradient_sum"))
    if unit_index.is_floating_point() or (cases and not bool(((unit_index >= 0) & (unit_index < n_units)).all())):
        raise DataError(expected("integers in [0, n_units)", got="others", where="clipped_gradient_sum, unit_index"))
    return cases


def _per_case_gradients(model: nn.Module, per_sample_loss: PerSampleLoss) -> Callable[[Tensor, Tensor], Gradients]:
    """Return a function from (cases, views, ...) inputs and targets to gradients of shape (cases, *parameter)."""
    weights = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    frozen = {name: value.detach() for name, value in model.named_parameters() if not value.requires_grad}

    def loss_of_case(trained: Gradients, fixed: Gradients, views: Tensor, targets: Tensor) -> Tensor:
        # Untied: tying would swap a module registered under two names twice and put back the wrong tensor.
        outputs = functional_call(model, {**trained, **fixed}, (views,), tie_weights=False)
        return per_sample_loss(outputs, targets).mean()

    gradient = vmap(grad(loss_of_case), in_dims=(None, None, 0, 0), randomness="different")

    def run(inputs: Tensor, targets: Tensor) -> Gradients:
        buffers = {name: value.detach().clone() for name, value in model.named_buffers()}
        versions = {name: value._version for name, value in buffers.items()}
        try:
            gradients: Gradients = gradient(weights, {**frozen, **buffers}, inputs, targets)
        finally:
            refuse_moved_buffers(buffers, versions)
        return {name: value.detach().to(torch.float32) for name, value in gradients.items()}

    return run


def _add_by_unit(sums: Gradients, part: Gradients, unit: Tensor, units: int) -> Gradients:
    """Return per-unit sums of shape (units, *parameter) with the case gradients of ``part`` added."""
    if not sums and len(unit) == units:
        order = torch.argsort(unit)  # one case a unit: only the order changes
        return {name: value[order] for name, value in part.items()}
    for name, value in part.items():
        total = sums.get(name)
        total = value.new_zeros((units, *value.shape[1:])) if total is None else total
        sums[name] = total.index_add(0, unit, value)
    return sums


def _clip_into(total: ClippedSum, gradients: Gradients, members: Tensor, clipping: str) -> None:
    """Add the clipped gradients of some units, of shape (units, *parameter), to ``total`` in place."""
    norms = torch.stack([torch.linalg.vector_norm(value.flatten(1), dim=1, dtype=torch.float64) for value in gradients.values()])
    norm = torch.linalg.vector_norm(norms, dim=0)
    total.unit_norms[members] = norm
    total.present[members] = True
    bound = total.sensitivity
    factor = bound / (norm + _AUTO_S_GAMMA) if clipping == "auto-s" else (bound / norm).clamp(max=1.0)
    finite = torch.isfinite(norm)
    factor = torch.where(finite & (factor > _LEAST_FACTOR), factor, 0.0).to(torch.float32)
    for name, value in gradients.items():
        rows = torch.where(finite[:, None], value.flatten(1), 0.0)  # a factor 0 alone would keep NaN
        total.gradients[name] += (factor @ rows).reshape(total.gradients[name].shape)
