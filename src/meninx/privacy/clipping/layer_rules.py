"""Which layers can be trained privately: a table of rules by exact type, and checks of a model against it.

Every trained parameter must belong to a module with a rule in :data:`RULES`. The type must match exactly,
because a subclass may compute something else with the same parameters. Modules that couple the rows of a
batch are refused by name (:func:`refuse_unsafe_modules`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from meninx.core import check
from meninx.core.errors import ConfigError, PrivacyRefusal, expected, problem
from meninx.privacy.clipping.conv import ConvCall, StandardizedConvCall
from meninx.privacy.clipping.conv_geometry import Geometry
from meninx.privacy.clipping.layer import Layer, Pass, apply_layer
from meninx.privacy.clipping.linear import EmbeddingCall, LinearCall
from meninx.privacy.clipping.norm import GroupNormCall, LayerNormCall, PReLUCall

Forward = Callable[..., Tensor]
Bind = Callable[[Layer, Pass, Tensor], Forward]
"""(layer, pass, slot) -> the function that replaces the module's forward."""


@dataclass(frozen=True)
class LayerRule:
    """How one type of layer is trained.

    Attributes:
        parameters: own names of its parameters; others (from parametrisations, say) are refused.
        bind: returns the forward function of one pass.
        refused: module -> the reason why its settings cannot be trained, or empty; called before training.
    """

    parameters: frozenset[str]
    bind: Bind
    refused: Callable[[nn.Module], str] = lambda module: ""


def rule_of(module: nn.Module) -> LayerRule | None:
    """Return the rule for the exact type of a module; None when there is none."""
    kind = type(module)
    return RULES.get(f"{kind.__module__}.{kind.__qualname__}")


def _convolution(kind: type[ConvCall]) -> Bind:
    """Return the rule of a convolution; padding other than equal zeros on both sides is applied first.

    Convolution kernels accept only symmetric zero padding. Any other padding is an ordinary operation on the
    input, through which autograd works as usual.
    """

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
            return apply_layer(kind(layer, run, geometry), slot, padded)

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
        return apply_layer(ConvCall(layer, run, geometry), slot, input)

    return forward


def _linear(layer: Layer, run: Pass, slot: Tensor) -> Forward:
    return lambda input: apply_layer(LinearCall(layer, run), slot, input)


def _group_norm(layer: Layer, run: Pass, slot: Tensor) -> Forward:
    module = layer.module
    assert isinstance(module, (nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d))
    groups = module.num_groups if isinstance(module, nn.GroupNorm) else module.num_features
    return lambda input: apply_layer(GroupNormCall(layer, run, groups), slot, input)


def _layer_norm(layer: Layer, run: Pass, slot: Tensor) -> Forward:
    return lambda input: apply_layer(LayerNormCall(layer, run), slot, input)


def _prelu(layer: Layer, run: Pass, slot: Tensor) -> Forward:
    return lambda input: apply_layer(PReLUCall(layer, run), slot, input)


def _embedding(layer: Layer, run: Pass, slot: Tensor) -> Forward:
    return lambda input: apply_layer(EmbeddingCall(layer, run), slot, input)


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


def known_layers() -> str:
    """Return the names of all layers in the table, for messages."""
    return ", ".join(name.rpartition(".")[2] for name in RULES)


_INSTEAD = (
    "use torch.nn.GroupNorm, or meninx.privacy.replace_batch_norm(model), which returns a converted copy"
)
_LEAST_CHANNELS = 4  # per group of the group normalisation that replaces a batch normalisation
_REPLACEABLE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_Model = TypeVar("_Model", bound=nn.Module)
_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def trained_layers(model: nn.Module, functional: Collection[str] = ()) -> list[Layer]:
    """Return every layer that owns trained parameters; together they own all of them.

    Args:
        model: its trained parameters are those with ``requires_grad``.
        functional: paths of modules to run row by row under torch.func, whatever is in them.

    Raises:
        PrivacyRefusal: a module is unsafe or has no rule; the message names it and a replacement.
        ConfigError: a path in ``functional`` names no module, or one inside another that it lists.
    """
    refuse_unsafe_modules(model)
    modules = dict(model.named_modules())
    _refuse_wrong_paths(functional, modules)
    names = {id(value): name for name, value in model.named_parameters() if value.requires_grad}
    layers = []
    for path, module in modules.items():
        if path in functional:
            inside = {own: names[id(value)] for own, value in module.named_parameters() if id(value) in names}
            layers.append(Layer(path, module, inside, functional=True))
        elif not any(path.startswith(f"{outer}.") or not outer for outer in functional):
            own = {
                name: names[id(value)]
                for name, value in module.named_parameters(recurse=False)
                if id(value) in names
            }
            # The module's own code uses these parameters (a class token, say), so each is tracked by itself.
            if own and rule_of(module) is None and _has_own_code(module):
                layers += [Layer(full, module, {name: full}, raw=True) for name, full in own.items()]
                continue
            _refuse_without_rule(path, module, own)
            layers.append(Layer(path, module, own))
    return [layer for layer in layers if layer.trained]


def _has_own_code(module: nn.Module) -> bool:
    """Return whether a module derives only from torch's containers, not from one of its layers.

    A layer of torch without a rule uses its parameters in a way that is not known here.
    """
    bases = [base for base in type(module).__mro__ if base.__module__.startswith("torch.")]
    return all(base in _CONTAINERS for base in bases)


def _refuse_wrong_paths(functional: Collection[str], modules: Mapping[str, nn.Module]) -> None:
    for path in functional:
        if path not in modules:
            raise ConfigError(expected("the path of a module", got=repr(path), where="functional"))
        outer = next(
            (other for other in functional if other != path and (not other or path.startswith(f"{other}."))),
            None,
        )
        if outer is not None:
            rule, got = "modules that are not inside one another", f"{path!r} inside {outer!r}"
            raise ConfigError(expected(rule, got=got, where="functional", fix=f"leave out {path!r}"))


def _refuse_without_rule(path: str, module: nn.Module, own: Mapping[str, str]) -> None:
    if not own:
        return
    rule, kind = rule_of(module), f"{type(module).__module__}.{type(module).__qualname__}"
    where = f"module {path or '(root)'}"
    if rule is None:
        fix = f"use one of {known_layers()}, freeze its parameters, or run it row by row (functional)"
        raise PrivacyRefusal(expected("a layer of exactly known type", got=kind, where=where, fix=fix))
    everything = {name for name, _ in module.named_parameters(recurse=False)}
    if not everything <= rule.parameters:
        fix = "remove the parametrisation or weight norm (fold it into the weight)"
        got = f"{', '.join(sorted(everything - rule.parameters))} in a {type(module).__name__}"
        raise PrivacyRefusal(
            expected(f"parameters {', '.join(sorted(rule.parameters))}", got=got, where=where, fix=fix)
        )
    why = rule.refused(module)
    if why:
        raise PrivacyRefusal(expected("settings under which rows stay apart", got=why, where=where))


def refuse_unsafe_modules(model: nn.Module) -> None:
    """Raise PrivacyRefusal, with module and remedy, if a module couples patients or keeps statistics of them.

    The following are refused:

    - batch normalisation with batch statistics (in training mode, frozen or not, or without running
      statistics): it mixes the units of a batch and keeps unprotected statistics of them;
    - instance normalisation with running statistics, for the second reason;
    - parameters shared under two names, whose gradients would be clipped separately;
    - lazy modules that are not initialised;
    - recurrent modules, which have no rule for per-sample gradients;
    - data parallel wrappers;
    - spectral normalisation, which changes buffers in the forward pass.

    Other modules that write to a buffer are refused when they do, by :func:`refuse_moved_buffers`.

    Guarantee:
        A model that passes has no known module that couples the cases of a batch or stores a statistic of
        them. What the forward code between the modules does is checked by
        :func:`~meninx.privacy.clipping.proof.prove`.
    """
    for path, module in model.named_modules():
        reason = _unsafe(module)
        if reason is not None:
            rule, fix = reason
            raise PrivacyRefusal(
                expected(rule, got=type(module).__name__, where=f"module {path or '(root)'}", fix=fix)
            )
    _refuse_shared(model)


def _refuse_shared(model: nn.Module) -> None:
    """Refuse a parameter owned by two modules; one module registered under two names counts as one owner."""
    seen: dict[int, str] = {}
    for path, module in model.named_modules():
        for own, value in module.named_parameters(recurse=False):
            name = f"{path}.{own}" if path else own
            first = seen.setdefault(id(value), name)
            if first != name:
                rule, fix = "every parameter in one module only", "give each module its own"
                raise PrivacyRefusal(expected(rule, got=f"one shared with {first}", where=name, fix=fix))


def _unsafe(module: nn.Module) -> tuple[str, str] | None:
    """Return the broken rule and a remedy, or None for a module that is safe."""
    if _uninitialised(module):
        return "initialised modules", "run one forward pass on generated data first"
    if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
        return "no batch statistics (they couple patients, and the running ones are not protected)", _INSTEAD
    if isinstance(module, _InstanceNorm) and module.track_running_stats:
        return (
            "no running statistics of private data",
            "use InstanceNorm with track_running_stats=False, or torch.nn.GroupNorm",
        )
    if isinstance(module, nn.RNNBase):
        return "modules with per-sample gradients", "use convolutions or attention"
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return "the bare model", "pass model.module"
    if _spectral(module):
        return (
            "no buffers that move in the forward pass",
            "leave out spectral normalisation or fold it into the weight",
        )
    return None


def _uninitialised(module: nn.Module) -> bool:
    return any(
        is_lazy(value) for value in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    )


def _spectral(module: nn.Module) -> bool:
    hooks: Iterator[object] = iter(module._forward_pre_hooks.values())
    return type(module).__name__ == "_SpectralNorm" or any(
        type(hook).__name__ == "SpectralNorm" for hook in hooks
    )


def refuse_moved_buffers(moved: Collection[str]) -> None:
    """Raise PrivacyRefusal naming the buffers that a forward pass wrote to, if there are any."""
    if moved:
        fix = (
            "such a buffer would carry data of patients outside the guarantee; make it constant or "
            "remove the module"
        )
        raise PrivacyRefusal(problem("training writes to buffers", where=", ".join(moved), fix=fix))


def replace_batch_norm(model: _Model, *, max_groups: int = 32) -> _Model:
    """Return a copy of ``model`` with every batch normalisation replaced by group normalisation.

    The affine weights and biases are kept, under the same names. Running statistics are dropped, so the
    outputs change and the model needs training. The number of groups is the largest divisor of the channels
    that is at most ``max_groups`` and leaves at least 4 channels per group, so that a group has a meaningful
    variance even where one pixel is left.

    Example::

        >>> model = nn.Sequential(nn.Conv2d(3, 48, 3), nn.BatchNorm2d(48), nn.ReLU())
        >>> norm = replace_batch_norm(model)[1]
        >>> norm.num_groups, norm.num_channels
        (12, 48)

    Args:
        model: not changed.
        max_groups: >= 1.

    Raises:
        ConfigError: a lazy module that was not initialised yet.
    """
    check.positive(max_groups=max_groups)
    lazy = next((path for path, module in model.named_modules() if _uninitialised(module)), None)
    if lazy is not None:
        where, fix = f"module {lazy or '(root)'}", "run one forward pass on generated data first"
        raise ConfigError(expected("initialised modules", got="a lazy one", where=where, fix=fix))
    model = copy.deepcopy(model)
    if isinstance(model, _REPLACEABLE):
        return _group_norm_of(model, max_groups)  # type: ignore[return-value]
    replaced: dict[int, nn.GroupNorm] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, _REPLACEABLE):
            parent, _, name = path.rpartition(".")
            if id(module) not in replaced:
                replaced[id(module)] = _group_norm_of(module, max_groups)
            setattr(model.get_submodule(parent), name, replaced[id(module)])
    return model


def _group_norm_of(batch_norm: _BatchNorm, max_groups: int) -> nn.GroupNorm:
    channels = int(batch_norm.num_features)
    most = max(1, min(max_groups, channels // _LEAST_CHANNELS))
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    norm = nn.GroupNorm(groups, channels, eps=batch_norm.eps, affine=False)
    norm.affine = batch_norm.affine
    norm.weight, norm.bias = batch_norm.weight, batch_norm.bias
    norm.train(batch_norm.training)
    return norm
