"""Per-row gradients of any module by torch.func: slow, for modules without a rule, chosen by path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from meninx.core.errors import PrivacyRefusal, expected
from meninx.privacy.clipping.gradient_record import widen
from meninx.privacy.clipping.layer import Layer, LayerCall, Pass, apply_layer
from meninx.privacy.clipping.unit_rows import by_unit

_CHUNK = 16  # rows whose gradients are held at once
_INSIDE = "leave it out, or name modules inside it"


class FunctionalCall(LayerCall):
    """Any module from one tensor to one tensor, including all modules inside it.

    Guarantee: the module sees one row at a time, so it cannot mix rows, whatever it computes.
    """

    def __init__(
        self, layer: Layer, run: Pass, settings: dict[str, Any], extra: tuple[Any, ...] = ()
    ) -> None:
        super().__init__(layer, run)
        self.settings, self.extra = settings, extra

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the module's output, computed row by row.

        Raises:
            PrivacyRefusal: the module draws random numbers, which the backward pass could not repeat, or does
                not return exactly one tensor.
        """
        self.buckets(len(x))
        try:
            with torch.no_grad():
                y: Tensor = vmap(self._row, in_dims=(None, 0), randomness="error", chunk_size=_CHUNK)(
                    self._weights(), x
                )
        except RuntimeError as error:
            if "random" not in str(error):
                raise
            rule, fix = (
                "a module without random numbers",
                "set its dropout to 0, or take the layers inside that have rules",
            )
            raise _refused(self.layer, rule, "one that draws them", fix) from error
        return y, (x,)

    def backward(self, dy: Tensor, saved: tuple[Tensor, ...], needs_dx: bool) -> Tensor | None:
        """Return the input's gradient; record those of all parameters of the module."""
        (x,) = saved
        weights = self._weights()

        def pull(row: Tensor, seed: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            back = vjp(self._row, weights, row)[1]
            found: tuple[dict[str, Tensor], Tensor] = back(seed)
            return found

        dx = []
        for bucket in self.buckets(len(x)):
            gradients, moved = vmap(pull, randomness="error", chunk_size=_CHUNK)(
                x[bucket.rows], dy[bucket.rows]
            )
            dx.append(moved)
            for name, value in gradients.items():
                summed = value if bucket.size == 1 else by_unit(value, bucket.units).sum(1)
                self.store(name, bucket, widen(summed))
        return torch.cat(dx) if needs_dx else None

    def _weights(self) -> dict[str, Tensor]:
        trained = dict(self.module.named_parameters())
        return {name: trained[name].detach() for name in self.trained}

    def _row(self, weights: dict[str, Tensor], row: Tensor) -> Tensor:
        rest = {name: value.detach() for name, value in self.module.named_parameters() if name not in weights}
        # Cloned: a write to a buffer inside vmap must not reach the module, where it would keep data of one
        # row.
        buffers = {name: value.detach().clone() for name, value in self.module.named_buffers()}
        given = (row[None], *self.extra)
        y = _bare(self.module)(functional_call, {**rest, **buffers, **weights}, given, self.settings)
        if not isinstance(y, Tensor):
            raise _refused(self.layer, "a module that returns one tensor", type(y).__name__, _INSIDE)
        return y[0]


def functional_forward(layer: Layer, run: Pass, slot: Tensor) -> Callable[..., Tensor]:
    """Return the forward function of a module that is run row by row during a pass."""

    def forward(*args: Any, **settings: Any) -> Tensor:
        if not args or not isinstance(args[0], Tensor):
            raise _refused(layer, "a module whose first argument is one tensor", "another", _INSIDE)
        if any(isinstance(value, Tensor) for value in (*args[1:], *settings.values())):
            raise _refused(layer, "a module with one tensor as argument", "several", _INSIDE)
        return apply_layer(FunctionalCall(layer, run, settings, args[1:]), slot, args[0])

    return forward


def _refused(layer: Layer, rule: str, got: str, fix: str) -> PrivacyRefusal:
    where = f"module {layer.path or '(root)'}"
    return PrivacyRefusal(expected(f"{rule} to run row by row (functional)", got=got, where=where, fix=fix))


def _bare(module: nn.Module) -> Callable[..., Any]:
    """Return a caller of the module's own forward instead of the one that replaces it during a pass."""

    def run(
        call: Callable[..., Any], state: dict[str, Tensor], inputs: tuple[Any, ...], settings: dict[str, Any]
    ) -> Any:
        replacement = module.__dict__.pop("forward", None)
        try:
            return call(module, state, inputs, settings, tie_weights=False)
        finally:
            if replacement is not None:
                module.__dict__["forward"] = replacement

    return run
