"""The inventory: every trained parameter has a rule.

Modules under which a unit's gradient would be a lie are refused by name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.lazy import LazyModuleMixin

from meninx.core.errors import ConfigError, PrivacyRefusal, expected
from meninx.privacy.clipping.layer import Layer
from meninx.privacy.clipping.rules import known, rule_of

_INSTEAD = "use torch.nn.GroupNorm"


def trained_layers(model: nn.Module, functional: Collection[str] = ()) -> list[Layer]:
    """Return every layer that owns trained parameters; together they own all of them.

    Args:
        model: its trained parameters are those with ``requires_grad``.
        functional: paths of modules to run row by row under torch.func, whatever is in them.

    Raises:
        PrivacyRefusal: a module is unsafe, or of a type without a rule; the message names it and what to use.
        ConfigError: ``functional`` names no module, or one inside another that it names.
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
            _refuse_without_rule(path, module, own)
            layers.append(Layer(path, module, own))
    return [layer for layer in layers if layer.trained]


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
        fix = f"use one of {known()}, freeze its parameters, or run it row by row (functional)"
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
    """Raise PrivacyRefusal, naming module and remedy, if a module couples patients or keeps statistics of them.

    Refused are: batch normalisation that uses batch statistics (in training mode, frozen or not, or without
    running statistics), since it mixes the units of a batch and keeps unprotected statistics of them;
    instance normalisation with running statistics; parameters shared under two names; lazy modules not yet
    built; recurrent modules (no per-sample gradient); data parallel wrappers and spectral normalisation
    (buffers that move in the forward pass). Buffers moved by any other module are refused when it happens, by
    :func:`refuse_moved_buffers`.

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
    """Refuse a parameter owned by two modules; one module registered under two names is a single owner."""
    seen: dict[int, str] = {}
    for path, module in model.named_modules():
        for own, value in module.named_parameters(recurse=False):
            name = f"{path}.{own}" if path else own
            first = seen.setdefault(id(value), name)
            if first != name:
                rule, fix = "every parameter in one module only", "give each module its own"
                raise PrivacyRefusal(expected(rule, got=f"one shared with {first}", where=name, fix=fix))


def _unsafe(module: nn.Module) -> tuple[str, str] | None:
    """Return the broken rule and what to use, or None for a module that may stay."""
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        return "initialised modules", "run one forward pass on generated data first"
    if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
        return "no batch statistics (they couple patients, and the running ones are not protected)", _INSTEAD
    if isinstance(module, _InstanceNorm) and module.track_running_stats:
        return (
            "no running statistics of private data",
            f"{_INSTEAD} or InstanceNorm with track_running_stats=False",
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
        raise PrivacyRefusal(
            expected(
                "buffers that training does not write", got="written ones", where=", ".join(moved), fix=fix
            )
        )
