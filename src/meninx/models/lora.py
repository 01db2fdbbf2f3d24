"""Low-rank adapters (LoRA): two narrow layers beside a frozen one learn a low-rank change of its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from meninx.core import check
from meninx.core.errors import ConfigError, expected, problem

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
ADAPTED: tuple[type[nn.Module], ...] = (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)


class LoRA(nn.Module):
    """A layer that computes ``base(x) + scale * up(down(x))`` with a frozen ``base``.

    ``up`` starts at 0, so that inserting an adapter does not change the output. All three are plain layers,
    which the clipping engine supports without a rule of its own. ``down`` has the kernel, stride, padding,
    dilation and groups of ``base`` and ``rank`` channels per group; ``up`` is a linear layer or a 1x1
    convolution. The rank is reduced where the base's filters have fewer inputs or outputs, while the scale
    keeps the given rank.

    Args:
        base: a layer whose exact type is in :data:`ADAPTED`; its parameters are frozen here.
        rank: channels between ``down`` and ``up`` per group, >= 1.
        alpha: the scale is ``alpha / rank``, > 0.

    References:
        Hu et al. (2022), LoRA: Low-Rank Adaptation of Large Language Models, section 4.1.
        Yu et al. (2022), Differentially Private Fine-tuning of Language Models (LoRA under differential
        privacy).
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float) -> None:
        super().__init__()
        check.positive(rank=rank, alpha=alpha)
        if type(base) not in ADAPTED:
            names = ", ".join(kind.__name__ for kind in ADAPTED)
            raise ConfigError(expected(f"one of {names}", got=type(base).__name__, where="LoRA"))
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        self.down, self.up = _pair(base, rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor, *output_size: Any) -> Tensor:
        """Return the adapted layer's output; ``output_size`` is the argument of transposed convolutions."""
        result: Tensor = self.base(x, *output_size) + self.scale * self.up(self.down(x, *output_size))
        return result

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """Return the base layer, trainable again, with the learned change added to its weight in place."""
        # float64: the merged weight is rounded once, so that it matches the trained sum as closely as its
        # type allows.
        down, up = self.down.weight.double(), self.up.weight.double().flatten(1)
        if isinstance(self.base, nn.Linear):
            change = up @ down
        else:
            change = _product(down, up, int(self.down.groups), transposed=isinstance(self.base, _TRANSPOSED))
        weight: Tensor = self.base.weight  # type: ignore[assignment]
        weight.copy_(weight.double() + self.scale * change)
        return self.base.requires_grad_(True)


def insert(model: nn.Module, *, rank: int, alpha: float, keep: str = "") -> tuple[str, ...]:
    """Wrap the linear and convolution layers of ``model`` in adapters; return the paths of these layers.

    Layers are selected by exact type: subclasses (weight-standardised convolutions, parametrised layers) stay
    as they are, as do layers without parameters of their own and the fused projections of attention. A layer
    that is registered twice gets one adapter. The outputs of the model do not change. ``down`` draws its
    weights from torch's current generator.

    Args:
        model: changed in place.
        rank: see :class:`LoRA`.
        alpha: see :class:`LoRA`.
        keep: prefix of parameters whose layers stay as they are, for example of the head, which is trained
            fully.

    Raises:
        ConfigError: the model has no layer that can be adapted.
    """
    chosen = [
        (path, module)
        for path, module in model.named_modules()
        if path and type(module) in ADAPTED and not (keep and f"{path}.".startswith(keep))
    ]
    if not chosen:
        fix = "train it whole (lora_rank = 0) or another part of it (freeze)"
        raise ConfigError(
            problem("the network has no linear or convolution layers to adapt", where="lora_rank", fix=fix)
        )
    # Keyed by identity, so that a layer that is registered twice (shared weights) is wrapped once.
    adapters = {id(module): LoRA(module, rank, alpha).to(next(module.parameters())) for _, module in chosen}
    _replace(model, lambda module: adapters.get(id(module)))
    return tuple(path for path, _ in chosen)


def merge(model: nn.Module) -> nn.Module:
    """Return ``model`` with every adapter merged into its layer, with the original parameter names."""
    adapters = {id(module): module for module in model.modules() if isinstance(module, LoRA)}
    plain = {number: adapter.merged() for number, adapter in adapters.items()}
    _replace(model, lambda module: plain.get(id(module)))
    return model


def adapter_names(model: nn.Module) -> frozenset[str]:
    """Return the names of all parameters that belong to adapters."""
    paths = [path for path, module in model.named_modules() if isinstance(module, LoRA)]
    inside: Collection[str] = tuple(f"{path}.{part}." for path in paths for part in ("down", "up"))
    return frozenset(name for name, _ in model.named_parameters() if name.startswith(tuple(inside)))


def _replace(model: nn.Module, instead: Callable[[nn.Module], nn.Module | None]) -> None:
    """Replace every child module for which ``instead`` returns one, at all places where it is registered."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            other = instead(child) if child is not None else None
            if other is not None:
                parent._modules[name] = other


def _pair(base: nn.Module, rank: int) -> tuple[Any, Any]:
    """Return the layers ``down`` and ``up`` for a base layer."""
    if isinstance(base, nn.Linear):
        narrow = min(rank, base.in_features, base.out_features)
        return nn.Linear(base.in_features, narrow, bias=False), nn.Linear(
            narrow, base.out_features, bias=False
        )
    wide: Any = base
    groups = wide.groups
    fan_in = wide.in_channels // groups * math.prod(wide.kernel_size)
    between = groups * min(rank, fan_in, wide.out_channels // groups)
    options = {
        "stride": wide.stride,
        "padding": wide.padding,
        "dilation": wide.dilation,
        "groups": groups,
        "bias": False,
    }
    if isinstance(base, _TRANSPOSED):
        options["output_padding"] = wide.output_padding
    down = type(wide)(wide.in_channels, between, wide.kernel_size, padding_mode=wide.padding_mode, **options)
    pointwise = _CONVOLUTIONS[len(wide.kernel_size) - 1]
    return down, pointwise(between, wide.out_channels, 1, groups=groups, bias=False)


def _product(down: Tensor, up: Tensor, groups: int, *, transposed: bool) -> Tensor:
    """Return the weight of ``up(down(x))`` as one convolution, in the layout of the base layer's weight."""
    outer = up.reshape(groups, -1, up.shape[1])  # group, out, rank
    if transposed:  # weight (in, out per group, ...)
        inner = down.reshape(groups, -1, *down.shape[1:])  # group, in, rank, ...
        return torch.einsum("gcr...,gor->gco...", inner, outer).flatten(0, 1)
    inner = down.reshape(groups, -1, *down.shape[1:])  # group, rank, in, ...
    return torch.einsum("grc...,gor->goc...", inner, outer).flatten(0, 1)
