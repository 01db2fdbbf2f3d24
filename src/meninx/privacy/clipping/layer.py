"""The base class of layer rules: a forward pass, and a backward pass that records per-unit gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from meninx.core.errors import PrivacyRefusal, expected
from meninx.privacy.clipping.gradient_record import GradientRecord, Weighted, wide_dtype, widen
from meninx.privacy.clipping.planner import Planner
from meninx.privacy.clipping.unit_rows import Bucket


@dataclass(frozen=True)
class Layer:
    """A module of a known type, and which of its parameters are trained.

    Attributes:
        path: its name in the model.
        module: the module.
        trained: own name -> full name of the parameters with ``requires_grad``.
        functional: run row by row under torch.func, including all modules inside it.
        raw: a single parameter that the module's own code uses; ``path`` is the parameter's name.
    """

    path: str
    module: nn.Module
    trained: dict[str, str]
    functional: bool = False
    raw: bool = False


@dataclass(frozen=True)
class Pass:
    """State shared by all layers during one forward and backward pass.

    Attributes:
        record: receives the gradients.
        planner: chooses kernels.
        dtype: type of products under autocast, or None.
    """

    record: GradientRecord
    planner: Planner
    dtype: torch.dtype | None


class LayerCall(ABC):
    """One call of one layer. Subclasses run it and compute the gradients of its parameters.

    Guarantee: :meth:`backward` uses only row ``i`` of the saved input and of the output's gradient for the
        gradient of row ``i``, and records every trained parameter of the layer.
    """

    def __init__(self, layer: Layer, run: Pass) -> None:
        self.layer, self.module, self.trained = layer, layer.module, layer.trained
        self.record, self.planner, self.dtype = run.record, run.planner, run.dtype

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the layer's output and the tensors to save for the backward pass."""

    @abstractmethod
    def backward(self, dy: Tensor, saved: tuple[Tensor, ...], needs_dx: bool) -> Tensor | None:
        """Record the parameters' gradients and return the input's gradient when it is needed."""

    def weight(self, name: str = "weight") -> Tensor:
        """Return a parameter without its gradient, in the type of the products."""
        value: Tensor = getattr(self.module, name).detach()
        return value

    def bias(self) -> Tensor | None:
        """Return the bias, if there is one."""
        value = getattr(self.module, "bias", None)
        return None if value is None else value.detach()

    def cast(self, value: Tensor) -> Tensor:
        """Return a tensor in the type in which products are computed."""
        return value if self.dtype is None or not value.is_floating_point() else value.to(self.dtype)

    def buckets(self, length: int) -> list[Bucket]:
        """Return the buckets of a tensor of leading length ``length``.

        Raises:
            PrivacyRefusal: the length is not a multiple of the rows, so the layer does not process the batch
                row by row.
        """
        rows = self.record.rows
        if not rows.count or length % rows.count:
            fix = "run it through torch.func (functional=...) or keep the batch as leading dimension"
            rule, got = (
                "a leading dimension that is a multiple of the batch",
                f"another in {type(self.module).__name__}",
            )
            raise PrivacyRefusal(expected(rule, got=got, where=f"module {self.layer.path}", fix=fix))
        return [bucket.times(length // rows.count) for bucket in rows.buckets]

    def store(self, name: str, bucket: Bucket, gradients: Tensor) -> None:
        """Record the gradients (units, *parameter) of the parameter with this own name."""
        self.record.store(self.trained[name], bucket, gradients, once=self.once)

    def ghost(self, name: str, bucket: Bucket, squares: Tensor, weighted: Weighted) -> None:
        """Record the squared norms (units,) of a parameter's gradients, and a function that sums them."""
        self.record.ghost(self.trained[name], bucket, squares, weighted)

    @property
    def once(self) -> bool:
        """Whether this is the layer's only call; else the calls must be added before a norm is taken."""
        return self.record.once(self.layer.path)

    @property
    def trains_weight(self) -> bool:
        """Whether the weight itself is trained."""
        return "weight" in self.trained

    def store_bias(self, dy: Tensor, buckets: list[Bucket], channel: int) -> None:
        """Record the gradients of a bias that was added along ``channel``."""
        if "bias" not in self.trained:
            return
        axes = [axis for axis in range(1, dy.dim()) if axis != channel]
        rows = dy.sum(axes, dtype=wide_dtype(dy)) if axes else widen(dy)
        for bucket in buckets:
            self.store("bias", bucket, bucket.summed(rows))


class _Private(torch.autograd.Function):
    """The layer as one node of the graph, which never computes a weight's gradient for the whole batch."""

    @staticmethod
    def forward(ctx: Any, slot: Tensor, x: Tensor, call: LayerCall) -> Tensor:
        """Return the layer's output; ``slot`` only makes the node part of the graph."""
        y, saved = call.forward(x)
        ctx.save_for_backward(*saved)
        ctx.call = call
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[None, Tensor | None, None]:
        """Return the gradient of the input.

        The record gets tensors without a history, because it would otherwise keep the graph alive.
        """
        saved = tuple(value.detach() for value in ctx.saved_tensors)
        call, ctx.call = ctx.call, None
        return None, call.backward(dy.detach(), saved, ctx.needs_input_grad[1]), None


def apply_layer(call: LayerCall, slot: Tensor, x: Tensor) -> Tensor:
    """Return the output of a layer's call, and count the call in the record.

    Raises:
        PrivacyRefusal: ``x`` was computed from parameters alone (a RawParameter) and has no rows.
    """
    if hasattr(x, "origins"):
        rule, fix = "activations", "run the module that holds the parameter row by row (functional)"
        where = f"module {call.layer.path}"
        raise PrivacyRefusal(expected(rule, got="a tensor of parameters alone", where=where, fix=fix))
    call.record.used(call.layer.path)
    y: Tensor = _Private.apply(slot, x, call)  # type: ignore[no-untyped-call]
    return y
