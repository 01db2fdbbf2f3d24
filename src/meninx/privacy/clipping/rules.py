"""The table of layers whose gradients the engine can take apart, by exact type: what can be trained stands here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional

from meninx.privacy.clipping.conv import ConvCall
from meninx.privacy.clipping.geometry import Geometry
from meninx.privacy.clipping.layer import Layer, Pass, called
from meninx.privacy.clipping.linear import LinearCall
from meninx.privacy.clipping.norm import GroupNormCall, LayerNormCall
from meninx.privacy.clipping.small import EmbeddingCall, PReLUCall
from meninx.privacy.clipping.standardized import StandardizedConvCall

Forward = Callable[..., Tensor]
Bind = Callable[[Layer, Pass, Tensor], Forward]
"""(layer, pass, slot) -> what stands in for the module's forward."""


@dataclass(frozen=True)
class LayerRule:
    """How one type of layer is trained.

    Attributes:
        parameters: own names of its parameters; others (from parametrisations, say) are refused.
        bind: makes the forward function of one pass.
        refused: setting of the module -> why it cannot be trained; asked before training.
    """

    parameters: frozenset[str]
    bind: Bind
    refused: Callable[[nn.Module], str] = lambda module: ""


def rule_of(module: nn.Module) -> LayerRule | None:
    """Return the rule for the exact type of a module; None when there is none."""
    kind = type(module)
    return RULES.get(f"{kind.__module__}.{kind.__qualname__}")


def _convolution(kind: type[ConvCall]) -> Bind:
    """Return the rule of a convolution, padding included: what is not the same number of zeros on both sides is padded before."""

    def bind(layer: Layer, run: Pass, slot: Tensor) -> Forward:
        module = layer.module
        assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        sides = _sides(module)
        plain = module.padding_mode == "zeros" and all(before == after for before, after in sides)
        inside = tuple(before for before, _ in sides) if plain else (0,) * len(sides)
        geometry = Geometry(
            tuple(module.kernel_size), tuple(module.stride), inside, tuple(module.dilation), module.groups
        )
        around = [amount for pair in reversed(sides) for amount in pair]
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode

        def forward(input: Tensor) -> Tensor:
            padded = input if plain else functional.pad(input, around, mode=mode)
            return called(kind(layer, run, geometry), slot, padded)

        return forward

    return bind


def _sides(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> list[tuple[int, int]]:
    """Return the padding before and after along each axis."""
    if module.padding == "valid":
        return [(0, 0)] * len(module.kernel_size)
    if module.padding == "same":
        reach = [step * (size - 1) for size, step in zip(module.kernel_size, module.dilation, strict=True)]
        return [(whole // 2, whole - whole // 2) for whole in reach]
    return [(int(amount), int(amount)) for amount in module.padding]


def _transposed(layer: Layer, run: Pass, slot: Tensor) -> Forward:
    module = layer.module
    assert isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
    fixed = Geometry(
        tuple(module.kernel_size), tuple(module.stride), tuple(int(amount) for amount in module.padding),
        tuple(module.dilation), module.groups, transposed=True, output_padding=tuple(module.output_padding),
    )  # fmt: skip

    def forward(input: Tensor, output_size: list[int] | None = None) -> Tensor:
        geometry = fixed
        if output_size is not None:
            stride, padding, kernel = list(fixed.stride), list(fixed.padding), list(fixed.kernel)
            extra = module._output_padding(
                input, output_size, stride, padding, kernel, len(kernel), list(fixed.dilation)
            )
            geometry = replace(fixed, output_padding=tuple(extra))
        return called(ConvCall(layer, run, geometry), slot, input)

    return forward


def _linear(layer: Layer, run: Pass, slot: Tensor) -> Forward:
    return lambda input: called(LinearCall(layer, run), slot, input)


def _group_norm(layer: Layer, run: Pass, slot: Tensor) -> Forward:
    module = layer.module
    assert isinstance(module, (nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d))
    groups = module.num_groups if isinstance(module, nn.GroupNorm) else module.num_features
    return lambda input: called(GroupNormCall(layer, run, groups), slot, input)


def _layer_norm(layer: Layer, run: Pass, slot: Tensor) -> Forward:
    return lambda input: called(LayerNormCall(layer, run), slot, input)


def _prelu(layer: Layer, run: Pass, slot: Tensor) -> Forward:
    return lambda input: called(PReLUCall(layer, run), slot, input)


def _embedding(layer: Layer, run: Pass, slot: Tensor) -> Forward:
    return lambda input: called(EmbeddingCall(layer, run), slot, input)


def _plain_embedding(module: nn.Module) -> str:
    assert isinstance(module, nn.Embedding)
    special = module.max_norm is not None or module.scale_grad_by_freq or module.sparse
    return "max_norm, scale_grad_by_freq and sparse mix the rows of a batch" if special else ""


_BOTH = frozenset({"weight", "bias"})
_TORCH = "torch.nn.modules"
RULES: Mapping[str, LayerRule] = {
    f"{_TORCH}.linear.Linear": LayerRule(_BOTH, _linear),
    **{f"{_TORCH}.conv.Conv{n}d": LayerRule(_BOTH, _convolution(ConvCall)) for n in (1, 2, 3)},
    **{f"{_TORCH}.conv.ConvTranspose{n}d": LayerRule(_BOTH, _transposed) for n in (1, 2, 3)},
    **{
        f"meninx.models.blocks.StandardizedConv{n}d": LayerRule(_BOTH, _convolution(StandardizedConvCall))
        for n in (2, 3)
    },
    f"{_TORCH}.normalization.GroupNorm": LayerRule(_BOTH, _group_norm),
    **{f"{_TORCH}.instancenorm.InstanceNorm{n}d": LayerRule(_BOTH, _group_norm) for n in (1, 2, 3)},
    f"{_TORCH}.normalization.LayerNorm": LayerRule(_BOTH, _layer_norm),
    f"{_TORCH}.activation.PReLU": LayerRule(frozenset({"weight"}), _prelu),
    f"{_TORCH}.sparse.Embedding": LayerRule(frozenset({"weight"}), _embedding, _plain_embedding),
}


def known() -> str:
    """Return the names of all layers in the table, for messages."""
    return ", ".join(name.rpartition(".")[2] for name in RULES)
