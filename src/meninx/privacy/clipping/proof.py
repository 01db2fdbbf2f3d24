"""A test of one model: its per-row gradients from the engine against plain autograd, row by row in float64.

The layer rules check the types of modules. They do not check the code between the modules, which may mix
rows, reorder them, use a weight outside its layer or draw random numbers. :func:`prove` detects this
numerically.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from meninx.core import check
from meninx.core.errors import PrivacyRefusal, expected, problem
from meninx.privacy.clipping import dropout
from meninx.privacy.clipping.clipped_sum import PerSampleLoss
from meninx.privacy.clipping.engine import row_gradients

_TOLERANCE = 1e-6
_ROWS = 5  # number of rows whose gradients are compared; some are neither first nor last
_SEED = 20_261_127
_MOST = 1 << 24  # largest number of values in all rows of a batch
_AWAY = 0.5  # distance by which weights are moved, in units of a usual initialisation
_VALUES = ((1.0, 0.0), (1.0, 0.0), (100.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.01, -1.0), (1.0, 0.5))
"""(gain, offset) of the rows, repeated cyclically: as given, large, constant, zero, dark, shifted."""


def prove(
    model: nn.Module,
    per_sample_loss: PerSampleLoss,
    inputs: Tensor,
    targets: Tensor,
    *,
    functional: Collection[str] = (),
    physical: int = 32,
) -> None:
    """Raise PrivacyRefusal unless every row has the same gradient, output and loss as when it is run alone.

    Example::

        >>> import torch
        >>> class MeanSubtracted(torch.nn.Linear):
        ...     def forward(self, x):
        ...         return super().forward(x) - x.mean()           # mixes the patients of a batch
        >>> loss = lambda outputs, targets: (outputs - targets).square().sum(1)
        >>> prove(torch.nn.Linear(4, 2), loss, torch.randn(2, 4), torch.zeros(2, 2))
        >>> prove(MeanSubtracted(4, 2), loss, torch.randn(2, 4), torch.zeros(2, 2))
        Traceback (most recent call last):
        meninx.core.errors.PrivacyRefusal: ...

    The test uses the rows as given and as constant, large and shifted images; every row of batches of 1, 2,
    3, 5 and ``physical`` + 1 rows; and the weights both as they are and moved, because the effect of code
    behind a weight that starts at zero appears only later. It costs about two forward passes of ``physical``
    images and the gradients of twenty, all in float64: about 3 s for a ResNet-9 and 32 images of 64 pixels on
    one thread.

    Args:
        model: not changed; the test runs a copy in float64 without the dropout whose masks are keyed, and
            leaves torch's generators as they are.
        per_sample_loss: (outputs, targets) of leading length B -> (B,) losses.
        inputs: (rows, C, ...), one row or more in the range of the real values; random numbers suffice.
        targets: (rows, ...).
        functional: as in :func:`~meninx.privacy.clipping.engine.clipped_gradient_sum`.
        physical: largest number of rows in one pass of the training, >= 1; one pass here has one row more, or
            fewer if the rows would hold more than 2**24 numbers together.

    Guarantee: on these inputs and weights, a model that passes did not mix rows, drew no random numbers
        outside its dropout, used each trained weight in its layer alone, and its gradients were exact. Code
        that behaves differently on other inputs or weights is not excluded.

    Raises:
        PrivacyRefusal: names a parameter whose gradient is wrong, or a module that mixes rows, draws or has
            no rule.
    """
    check.positive(physical=physical)
    model = copy.deepcopy(model).double()
    for module in model.modules():
        # Only the layers whose masks are keyed in training. Any other module may do more than drop entries,
        # whatever its name, and is tested as it is.
        if dropout.active(module):
            module.eval()
    generator = torch.Generator().manual_seed(_SEED)
    most = max(_ROWS + 1, min(physical + 1, _MOST // max(1, inputs[0].numel())))
    xs, ys = _rows(inputs, targets, most, generator)
    with _generators_kept(inputs.device):
        _refuse_random(model, xs[:1])
        for moved in (False, True):
            if moved:
                _move(model, generator)
            _compare_gradients(model, per_sample_loss, xs[:_ROWS], ys[:_ROWS], functional)
            lengths = (2, 3, _ROWS, len(xs)) if moved else (2, 3, _ROWS + 1)
            _compare_outputs(model, per_sample_loss, xs[: lengths[-1]], ys[: lengths[-1]], lengths)


def _rows(inputs: Tensor, targets: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return ``count`` rows of different values derived from the given ones, and their targets."""
    pick = torch.arange(count, device=inputs.device) % len(inputs)
    xs, ys = inputs[pick], targets[pick]
    if xs.is_floating_point():
        xs = xs.double()
        noise = torch.randn(xs.shape, generator=generator, dtype=torch.float64).to(xs.device)
        spread = float(xs.std()) if xs.numel() > 1 else 1.0
        xs[len(inputs) :] += spread * noise[len(inputs) :]
        gain, offset = torch.tensor(_VALUES, dtype=torch.float64, device=xs.device)[
            torch.arange(count) % len(_VALUES)
        ].T
        shape = (-1, *(1,) * (xs.dim() - 1))
        xs = xs * gain.view(shape) + offset.view(shape)
    return xs, ys.double() if ys.is_floating_point() else ys


@torch.no_grad()
def _move(model: nn.Module, generator: torch.Generator) -> None:
    """Move all weights by about half the size of a usual random initialisation."""
    for value in model.parameters():
        usual = 1 / math.sqrt(max(1, value[0].numel())) if value.dim() > 1 else 1.0
        value.add_(
            torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.device),
            alpha=_AWAY * usual,
        )


@contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@torch.no_grad()
def _refuse_random(model: nn.Module, inputs: Tensor) -> None:
    """Refuse a model whose forward pass draws from torch's generators, naming the innermost such module."""
    before: list[tuple[Tensor, ...]] = []
    found: list[str] = []

    def state() -> tuple[Tensor, ...]:
        own = torch.get_rng_state()
        return (own, torch.cuda.get_rng_state(inputs.device)) if inputs.is_cuda else (own,)

    def enter(*_: Any) -> None:
        before.append(state())

    def leave(path: str, kind: str) -> None:
        if any(not torch.equal(old, new) for old, new in zip(before.pop(), state(), strict=True)):
            found.append(f"module {path or '(root)'} ({kind})")

    hooks = []
    for path, module in model.named_modules():
        named = (path, type(module).__name__)
        hooks.append(module.register_forward_pre_hook(enter))
        hooks.append(module.register_forward_hook(lambda *_, named=named: leave(*named)))
    try:
        model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        rule, got = (
            "a forward pass that draws no random numbers outside dropout layers",
            "one that moves torch's generator",
        )
        fix = (
            "what a patient's images meet must not depend on who else is in the batch; remove it or "
            "use nn.Dropout"
        )
        raise PrivacyRefusal(expected(rule, got=got, where=found[0], fix=fix))


def _compare_gradients(
    model: nn.Module, loss: PerSampleLoss, inputs: Tensor, targets: Tensor, functional: Collection[str]
) -> None:
    """Refuse a model for which the engine's gradient of a row differs from autograd's."""
    ours = row_gradients(model, loss, inputs, targets, functional=functional)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    for row in range(len(inputs)):
        truth = _alone(trained, model, loss, inputs[row : row + 1], targets[row : row + 1])
        scale = float(torch.stack([value.norm() for value in truth.values()]).norm())
        if not math.isfinite(scale):
            continue  # such a unit contributes exactly 0
        for name, value in truth.items():
            found = ours[name][row] if name in ours else torch.zeros_like(value)
            if not float((found - value).norm()) <= _TOLERANCE * max(scale, 1e-12):
                fix = (
                    "compute each row from that row only, and use a weight in its own layer only; "
                    "or run the module row by row (functional)"
                )
                raise PrivacyRefusal(
                    problem(
                        "the gradient of a row differs from the one computed for the row alone",
                        where=name,
                        fix=fix,
                    )
                )


def _alone(
    trained: dict[str, nn.Parameter], model: nn.Module, loss: PerSampleLoss, inputs: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """Return the gradients of one row by itself; zeros for parameters that take no part."""
    with torch.enable_grad():
        value = loss(model(inputs), targets).sum()
    found = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
    pairs = zip(trained.items(), found, strict=True)
    return {name: torch.zeros_like(weight) if part is None else part for (name, weight), part in pairs}


@torch.no_grad()
def _compare_outputs(
    model: nn.Module, loss: PerSampleLoss, inputs: Tensor, targets: Tensor, lengths: Collection[int]
) -> None:
    """Refuse a model whose output or loss for a row depends on the batch that contains it."""

    def result(rows: slice) -> tuple[Tensor, Tensor]:
        outputs = model(inputs[rows])
        return outputs, loss(outputs, targets[rows])

    apart = [result(slice(row, row + 1)) for row in range(len(inputs))]
    for length in lengths:
        together = result(slice(length))
        for row in range(length):
            if not all(
                _same(one, other, row, length) for one, other in zip(together, apart[row], strict=True)
            ):
                rule, got = "the output and loss that the row has alone", f"another in a batch of {length}"
                fix = "rows must not see each other, nor how many there are; or run the module row by row"
                raise PrivacyRefusal(
                    expected(rule, got=got, where=_first_to_mix(model, inputs[:length], row), fix=fix)
                )


def _same(together: Any, apart: Any, row: int, rows: int) -> bool:
    """Return whether a row's part of a batch's result equals the row's result alone.

    A result that is not a tensor with one entry per row is not compared and counts as equal.
    """
    if not (
        isinstance(together, Tensor)
        and isinstance(apart, Tensor)
        and together.dim()
        and len(together) == rows
    ):
        return True
    one, other = together[row].double(), apart[0].double()
    if one.shape != other.shape or not bool(torch.isfinite(other).all()):
        return one.shape == other.shape
    return float((one - other).norm()) <= _TOLERANCE * max(float(other.norm()), 1e-12)


def _first_to_mix(model: nn.Module, inputs: Tensor, row: int) -> str:
    """Return the first module to finish that gives the row another output than it has alone."""
    runs: list[list[tuple[str, Any]]] = []
    hooks = [
        module.register_forward_hook(lambda _, __, y, path=path: runs[-1].append((path, y)))
        for path, module in model.named_modules()
    ]
    try:
        for batch in (inputs, inputs[row : row + 1]):
            runs.append([])
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    pairs = zip(*runs, strict=False)
    path = next((path for (path, one), (_, other) in pairs if not _same(one, other, row, len(inputs))), None)
    return "the loss" if path is None else f"module {path or '(root)'}, or the code before it"
