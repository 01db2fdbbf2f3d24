"""Parameters that a module's own code uses: class tokens, position embeddings, layer scale, window bias.

During a pass such a parameter is replaced by a :class:`RawParameter`. A value computed from parameters alone
(a reshape, a look-up by a constant index) stays one tensor for the whole batch. Where it is combined with
activations, by one of a few operations that treat the leading dimension as the batch, it is expanded to the
rows of the batch. There the backward pass yields one gradient per row, which is summed per unit and pulled
back through the parameter's own computation.

A module whose rows are not the leading dimension, or interact, gets wrong gradients here as in every other
rule; :func:`~meninx.privacy.clipping.proof.prove` refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from meninx.core.errors import PrivacyRefusal, expected
from meninx.privacy.clipping.gradient_record import widen
from meninx.privacy.clipping.layer import Layer, LayerCall, Pass, apply_layer

# Operations between a parameter and activations, by name without underscores (``x += p`` is ``__iadd__``).
# Each treats every index of the leading dimension separately, so an expanded parameter gives the same result;
# ``cat`` must not join along that dimension. Any other operation is refused, because it could sum over rows.
_ELEMENTWISE = {
    *("add", "radd", "iadd", "sub", "rsub", "isub", "subtract", "mul", "rmul", "imul", "multiply"),
    *("div", "truediv", "rtruediv", "itruediv", "rdiv", "idiv", "true_divide", "divide"),
    *("where", "maximum", "minimum"),
}
_MATRIX = {"matmul", "rmatmul"}
_JOINING = {"cat", "concat", "concatenate"}
# Operations that use only the shape and type of the activations, so the result depends on parameters alone.
_LIKE = {"expand_as", "view_as", "reshape_as", "type_as", "to"}


class RawParameter(Tensor):
    """A parameter during a private pass, or a tensor computed from such parameters alone."""

    origins: tuple[_Origin, ...]

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the result: a RawParameter if the arguments hold no activations, else an activation."""
        named = dict(kwargs or {})
        tensors = list(_tensors([args, named]))
        origins = tuple(
            dict.fromkeys(
                item for value in tensors if isinstance(value, RawParameter) for item in value.origins
            )
        )
        rows = [value for value in tensors if _is_activation(value)]
        if rows and not (_name(func) in _LIKE and isinstance(args[0], RawParameter)):
            return _combined(func, args, named, rows, origins[0])
        with torch._C.DisableTorchFunctionSubclass():
            return _marked(func(*_replaced(args, _plain), **_replaced(named, _plain)), origins)


class _Origin:
    """One parameter in one pass: the leaf that stands for it, and where its gradients go."""

    def __init__(self, layer: Layer, run: Pass, slot: Tensor) -> None:
        (self.own,) = layer.trained
        self.layer, self.run, self.slot = layer, run, slot
        self.leaf: Tensor = getattr(layer.module, self.own).detach().requires_grad_()
        run.record.leaves[layer.trained[self.own]] = self.leaf


class _ExpandedCall(LayerCall):
    """A tensor computed from parameters, expanded to the rows of the batch."""

    def __init__(self, value: Tensor, origins: Sequence[_Origin], length: int) -> None:
        super().__init__(origins[0].layer, origins[0].run)
        self.value, self.origins, self.length = value, origins, length

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return ``x`` (1, ...) for every row of the batch."""
        self.buckets(self.length)
        return x.expand(self.length, *x.shape[1:]), ()

    def backward(self, dy: Tensor, saved: tuple[Tensor, ...], needs_dx: bool) -> None:
        """Record the gradients of the parameters that the value was computed from."""
        leaves = [origin.leaf for origin in self.origins]
        for bucket in self.buckets(self.length):
            seeds = bucket.summed(widen(dy)).to(self.value.dtype).unsqueeze(1)
            pulled = torch.autograd.grad(
                self.value, leaves, seeds, is_grads_batched=True, retain_graph=True, allow_unused=True
            )
            for origin, gradients in zip(self.origins, pulled, strict=True):
                if gradients is not None:
                    once = self.record.once(origin.layer.path)
                    self.record.store(origin.layer.trained[origin.own], bucket, gradients, once=once)


def raw_parameter(layer: Layer, run: Pass, slot: Tensor) -> RawParameter:
    """Return the tensor that replaces the parameter of ``layer`` during a pass.

    Args:
        layer: one parameter of a module, from :func:`~meninx.privacy.clipping.layer_rules.trained_layers`.
        run: the pass.
        slot: the scalar that makes the nodes part of the graph.
    """
    origin = _Origin(layer, run, slot)
    with torch.enable_grad():
        found: RawParameter = _marked(origin.leaf, (origin,))
    return found


def _name(func: Callable[..., Any]) -> str:
    return func.__name__.strip("_")


def _is_activation(value: Tensor) -> bool:
    """Return whether a tensor may hold rows: it is neither a parameter nor an index or mask."""
    return not isinstance(value, RawParameter) and value.is_floating_point()


def _plain(value: RawParameter) -> Tensor:
    return value.as_subclass(Tensor)


def _marked(value: Any, origins: tuple[_Origin, ...]) -> Any:
    """Return a result computed from parameters alone, with its tensors as RawParameter."""
    if isinstance(value, Tensor):
        with torch._C.DisableTorchFunctionSubclass():
            raw = value.as_subclass(RawParameter)
        raw.origins = origins
        return raw
    return type(value)(_marked(item, origins) for item in value) if type(value) in (tuple, list) else value


def _combined(
    func: Callable[..., Any],
    args: Sequence[Any],
    named: Mapping[str, Any],
    rows: list[Tensor],
    origin: _Origin,
) -> Any:
    """Return ``func`` of activations and of parameters expanded to their rows."""
    name = _name(func)
    most = max(rows, key=lambda value: value.dim())
    if name not in _ELEMENTWISE | _MATRIX | _JOINING or not most.dim():
        raise _refused(origin, f"the operation {name!r}")
    if name in _JOINING and _cat_axis(args, named) % most.dim() == 0:
        raise _refused(origin, f"{name!r} along the batch")

    def expand(value: RawParameter) -> Tensor:
        return _expanded(value, most, matrix=name in _MATRIX)

    return func(*_replaced(args, expand), **_replaced(named, expand))


def _cat_axis(args: Sequence[Any], named: Mapping[str, Any]) -> int:
    return int(named.get("dim", named.get("axis", args[1] if len(args) > 1 else 0)))


def _expanded(raw: RawParameter, like: Tensor, *, matrix: bool) -> Tensor:
    """Return a parameter's tensor with the leading dimension of the activations ``like``."""
    value, missing = _plain(raw), like.dim() - raw.dim()
    copies = missing == 0 and len(value) == len(like) and (len(value) == 1 or value.stride(0) == 0)
    if copies:  # the result of expand(len(x), ...), whose stride of 0 makes all entries one number in memory
        value = value[:1]
    if missing < 0 or (not missing and len(value) != 1) or (matrix and value.dim() < 2):
        raise _refused(raw.origins[0], f"shape {tuple(raw.shape)} beside activations of {tuple(like.shape)}")
    value = value.reshape(*(1,) * missing, *value.shape)
    if not value.requires_grad:
        return value
    for origin in raw.origins[1:]:  # apply_layer notes the use of the first one
        origin.run.record.used(origin.layer.path)
    call = _ExpandedCall(value, raw.origins, len(like))
    return apply_layer(call, raw.origins[0].slot, value.detach())


def _refused(origin: _Origin, got: str) -> PrivacyRefusal:
    rule = "a parameter combined with activations elementwise, by matmul or by cat, the batch leading"
    fix = "run the module row by row (functional), or put the parameter into a layer with a rule"
    return PrivacyRefusal(expected(rule, got=got, where=origin.layer.path, fix=fix))


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _replaced(value: Any, change: Callable[[RawParameter], Tensor]) -> Any:
    """Return nested arguments with every RawParameter changed."""
    if isinstance(value, RawParameter):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_replaced(item, change) for item in value)
    if isinstance(value, dict):
        return {key: _replaced(item, change) for key, item in value.items()}
    return value
