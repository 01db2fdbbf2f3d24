"""The inventory: modules under which a per-unit gradient would not be what it claims are refused by name."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.lazy import LazyModuleMixin

from meninx.core.errors import PrivacyRefusal, expected

_INSTEAD = "use torch.nn.GroupNorm"


def refuse_unsafe_modules(model: nn.Module) -> None:
    """Raise PrivacyRefusal, naming module and remedy, if ``model`` cannot be trained with per-unit clipping.

    Refused are: batch normalisation that uses batch statistics (in training mode, frozen or not, or without
    running statistics), since it mixes the units of a batch and keeps unprotected statistics of them;
    instance normalisation with running statistics; parameters shared under two names; lazy modules not yet
    built; recurrent modules (no per-sample gradient); data parallel wrappers and spectral normalisation
    (buffers that move in the forward pass). Buffers moved by any other module are refused when it happens, by
    :func:`refuse_moved_buffers`.

    Guarantee:
        A model that passes has no known module that couples the cases of a batch or stores a statistic of
        them. Modules of unknown type are run case by case (torch.func.vmap), which isolates the cases.
    """
    for path, module in model.named_modules():
        reason = _unsafe(module)
        if reason is not None:
            rule, fix = reason
            raise PrivacyRefusal(expected(rule, got=type(module).__name__, where=f"module {path or '(root)'}", fix=fix))
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
        return "no running statistics of private data", f"{_INSTEAD} or InstanceNorm with track_running_stats=False"
    if isinstance(module, nn.RNNBase):
        return "modules with per-sample gradients", "use convolutions or attention"
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return "the bare model", "pass model.module"
    if _spectral(module):
        return "no buffers that move in the forward pass", "leave out spectral normalisation or fold it into the weight"
    return None


def _spectral(module: nn.Module) -> bool:
    hooks: Iterator[object] = iter(module._forward_pre_hooks.values())
    return type(module).__name__ == "_SpectralNorm" or any(type(hook).__name__ == "SpectralNorm" for hook in hooks)


def refuse_moved_buffers(buffers: dict[str, Tensor], versions: dict[str, int]) -> None:
    """Raise PrivacyRefusal naming every buffer that a forward pass wrote to.

    Args:
        buffers: name -> the copy that was given to the forward pass.
        versions: name -> its version counter before.
    """
    moved = [name for name, value in buffers.items() if value._version != versions[name]]
    if moved:
        fix = "such a buffer would carry data of patients outside the guarantee; make it constant or remove the module"
        raise PrivacyRefusal(
            expected("buffers that training does not write", got="written ones", where=", ".join(moved), fix=fix)
        )
