"""Per-row gradients of any module by torch.func: slow, for modules without a rule, chosen by path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from meninx.core.errors import PrivacyRefusal, expected
from meninx.privacy.clipping.gradient_record import widen
from meninx.privacy.clipping.layer import LayerCall
from meninx.privacy.clipping.unit_rows import by_unit

_CHUNK = 16  # rows whose gradients are held at once


class FunctionalCall(LayerCall):
    """Any module from one tensor to one tensor, with all that is inside it.

    Guarantee: the module sees one row at a time, so that it cannot mix rows, whatever it computes.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the module's output, computed row by row.

        Raises:
            PrivacyRefusal: the module draws random numbers, which the backward pass could not draw again.
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
            got, where = "one that draws them", f"module {self.layer.path}"
            raise PrivacyRefusal(expected(rule, got=got, where=where, fix=fix)) from error
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
        buffers = {name: value.detach().clone() for name, value in self.module.named_buffers()}
        y: Tensor = _bare(self.module)(functional_call, {**rest, **buffers, **weights}, (row[None],))
        return y[0]


def _bare(module: nn.Module) -> Callable[..., Any]:
    """Return a caller that runs the module's own forward, not the one that stands in for it during a pass."""

    def run(call: Callable[..., Any], state: dict[str, Tensor], inputs: tuple[Tensor, ...]) -> Any:
        stand_in = module.__dict__.pop("forward", None)
        try:
            return call(module, state, inputs, tie_weights=False)
        finally:
            if stand_in is not None:
                module.__dict__["forward"] = stand_in

    return run
