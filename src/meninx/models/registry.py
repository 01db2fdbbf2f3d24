"""Networks by name: the built-in ones in a literal table, and any network of MONAI as ``monai:<class>``.

The table is plain Python instead of a registration mechanism, so that it shows everything that can be built.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from meninx.core import check, plugins
from meninx.core.errors import ConfigError, MeninxError, expected, problem
from meninx.models import network_names
from meninx.models.efficientnet import EfficientNetLite
from meninx.models.network_names import MONAI_PREFIX as MONAI_PREFIX
from meninx.models.network_names import OWN_PREFIX as OWN_PREFIX
from meninx.models.resnet import BasicBlock, Bottleneck, ResNet
from meninx.models.unet import UNet
from meninx.models.wideresnet import WideResNet

Builder = Callable[..., nn.Module]

MODELS: Mapping[str, Builder] = {
    "resnet9": partial(ResNet, block=BasicBlock, layers=(1, 1, 1, 1)),
    "resnet9-small": partial(
        ResNet, block=BasicBlock, layers=(1, 1, 1, 1), width=16, groups=8, scale_norm=True, small_stem=True
    ),
    "resnet18": partial(ResNet, block=BasicBlock, layers=(2, 2, 2, 2), activation="relu"),
    "resnet34": partial(ResNet, block=BasicBlock, layers=(3, 4, 6, 3), activation="relu"),
    "resnet50": partial(ResNet, block=Bottleneck, layers=(3, 4, 6, 3), activation="relu"),
    "wrn-16-4": partial(WideResNet, depth=16, widen=4),
    "wrn-40-4": partial(WideResNet, depth=40, widen=4),
    "efficientnet-lite0": EfficientNetLite,
    "unet": UNet,
    "unet-small": partial(UNet, base=8, depth=3),
    "unet-plain": partial(UNet, base=64, depth=3, norm="none", activation="relu", upsampling="linear"),
}
_OFFLINE: Mapping[str, object] = {"pretrained": False, "weights": None, "pretrained_url": None}
"""Arguments with which networks of MONAI download weights, and the value that prevents it."""
_DOWNLOADERS = ("Transchex",)  # fetches a language model with any arguments
_TYPES = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "text"}
_ALIASES = {
    "in_channels": ("in_channels", "n_input_channels", "n_channels", "in_chns", "num_input_channels"),
    "out_channels": ("out_channels", "num_classes", "n_classes", "out_chns"),
    "spatial_dims": ("spatial_dims", "dimensions"),
}


def build(name: str, *, spatial_dims: int, in_channels: int, out_channels: int, **options: Any) -> nn.Module:
    """Return a new network with random weights from torch's current generator.

    Nothing is downloaded: networks of MONAI that would fetch weights are built without them, or refused where
    an option asks for weights.

    Args:
        name: a key of :data:`MODELS`, a network of another package (:mod:`meninx.core.plugins`), or
            ``monai:`` and a class of ``monai.networks.nets``.
        spatial_dims: 2 or 3.
        in_channels: image channels.
        out_channels: outputs (classification) or output channels (segmentation).
        **options: further keyword arguments of the network, e.g. ``width=32``, ``base=16``.

    Raises:
        ConfigError: no such network or option (the message suggests the nearest), or one that downloads
            weights.
    """
    shape = {"spatial_dims": spatial_dims, "in_channels": in_channels, "out_channels": out_channels}
    if name.startswith(MONAI_PREFIX):
        found, arguments = _monai_network(name.removeprefix(MONAI_PREFIX), shape, options)
        return without_inplace(_constructed(found, arguments, name))
    if name.startswith(OWN_PREFIX):
        fix = f"give it, e.g. model={name.removeprefix(OWN_PREFIX)}(...) in Python"
        raise ConfigError(f"{name} is a network of the caller's own, which is not known by its name; {fix}")
    if name in MODELS:
        plugins.refuse_own(plugins.NETWORKS, name)
    builder = MODELS[name] if name in MODELS else _of_other_package(name)
    kind = builder.func if isinstance(builder, partial) else builder
    _refuse_unknown(options, set(inspect.signature(kind).parameters) - {*shape, "block", "layers"}, name)
    _refuse_other_types(options, kind, name)
    return _constructed(builder, {**shape, **options}, name)


def own_name(network: nn.Module) -> str:
    """Return the name that a run records for a network passed as an object: ``own:`` and its class."""
    return OWN_PREFIX + re.sub(r"[^A-Za-z0-9_.]+", "-", type(network).__qualname__)[-80:]


def head_prefix(model: nn.Module) -> str:
    """Return the prefix (with its dot) of the parameters of the last layer.

    Built-in networks name this layer in ``head_name``; for other networks it is the module of the last
    parameter.
    """
    named = getattr(model, "head_name", None)
    if isinstance(named, str):
        return f"{named}."
    names = [name for name, _ in model.named_parameters()]
    if not names:
        raise ConfigError(problem("the model has no parameters", where="model"))
    return names[-1].rpartition(".")[0] + "."


def without_inplace(model: nn.Module) -> nn.Module:
    """Return ``model`` with all ``inplace`` switches of its layers turned off; the outputs do not change."""
    for module in model.modules():
        # Per-sample gradients read a layer's input after the forward pass; an in-place activation would
        # overwrite it.
        if getattr(module, "inplace", False) is True:
            setattr(module, "inplace", False)  # noqa: B010 - modules declare tensors only
    return model


def _of_other_package(name: str) -> Builder:
    """Return the builder that an installed package offers under a name."""
    network_names.refuse_unknown(name, MODELS)
    builder: Builder = plugins.load(plugins.NETWORKS, name)
    return builder


def monai_arguments(
    name: str, *, spatial_dims: int, in_channels: int, out_channels: int, **options: Any
) -> dict[str, Any]:
    """Return the arguments with which :func:`build` calls a class of MONAI, for programs without meninx.

    Args:
        name: ``monai:`` and a class of ``monai.networks.nets``.
        spatial_dims: as for :func:`build`.
        in_channels: as for :func:`build`.
        out_channels: as for :func:`build`.
        **options: as for :func:`build`.

    Raises:
        ConfigError: as :func:`build`.
    """
    shape = {"spatial_dims": spatial_dims, "in_channels": in_channels, "out_channels": out_channels}
    return _monai_network(name.removeprefix(MONAI_PREFIX), shape, options)[1]


def _monai_network(
    name: str, shape: Mapping[str, int], options: Mapping[str, Any]
) -> tuple[type[nn.Module], dict[str, Any]]:
    """Return a network class of MONAI and the arguments to construct it with."""
    from monai.networks import nets  # a heavy import that only these models need

    classes = {
        key: value
        for key, value in vars(nets).items()
        if inspect.isclass(value) and issubclass(value, nn.Module)
    }
    network_names.refuse_unknown_of_monai(name, classes)
    parameters = inspect.signature(classes[name]).parameters
    known = _known_parameters(classes[name])
    _refuse_unknown(options, known, f"{MONAI_PREFIX}{name}")
    _refuse_download(name, options)
    _refuse_other_types(options, classes[name], f"{MONAI_PREFIX}{name}")
    # A training run must not depend on the network, and a downloaded file would not be in the run's record.
    arguments = {**{key: value for key, value in _OFFLINE.items() if key in known}, **options}
    for role, value in shape.items():
        accepted = [alias for alias in _ALIASES[role] if alias in known]
        if accepted:
            arguments.setdefault(accepted[0], value)
        elif role == "spatial_dims" and value == 2:
            raise ConfigError(
                expected("a network for 2-D images", got=f"{name}, which has no spatial_dims", where="model")
            )
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and key not in arguments
    ]
    if missing:
        fix = f"set model_options.{missing[0]}"
        raise ConfigError(
            problem(
                f"the network needs a value for {', '.join(missing)}", where=f"{MONAI_PREFIX}{name}", fix=fix
            )
        )
    return classes[name], arguments


def _refuse_download(name: str, options: Mapping[str, Any]) -> None:
    """Refuse a network that would fetch weights from the internet."""
    fix = "download the file yourself and give it as pretrained (--pretrained FILE), which records it"
    if name in _DOWNLOADERS:
        got = f"{name}, which always downloads weights"
        fix = "take another network"
        raise ConfigError(expected("a network that can be built offline", got=got, where="model", fix=fix))
    for key in _OFFLINE.keys() & options.keys():
        if options[key]:
            where = f"model_options.{key} of {MONAI_PREFIX}{name}"
            got = "an option that downloads weights"
            raise ConfigError(expected("random weights", got=got, where=where, fix=fix))


def _known_parameters(kind: type[nn.Module]) -> set[str]:
    """Return the arguments of a class, including those that its ``**kwargs`` passes to its base classes."""
    known: set[str] = set()
    for owner in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        if "__init__" not in vars(owner):
            continue
        parameters = list(inspect.signature(vars(owner)["__init__"]).parameters.values())[1:]
        known |= {
            item.name for item in parameters if item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)
        }
        # Without **kwargs the arguments of the base classes cannot be given.
        if not any(item.kind is item.VAR_KEYWORD for item in parameters):
            break
    return known


def _refuse_unknown(options: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in options:
        if key not in known:
            fix = check.did_you_mean(key, known) or f"known: {', '.join(sorted(known))}"
            raise ConfigError(
                expected("a known model option", got=repr(key), where=f"model_options of {where}", fix=fix)
            )


def _refuse_other_types(options: Mapping[str, Any], kind: Callable[..., Any], where: str) -> None:
    """Refuse a value whose type differs from the declared one: a text such as ``no`` would count as true."""
    parameters = inspect.signature(kind).parameters
    for key, value in options.items():
        declared = parameters.get(key)
        if declared is None:
            continue
        name = (
            "bool"
            if isinstance(declared.default, bool)
            else getattr(declared.annotation, "__name__", str(declared.annotation))
        )
        if name in _TYPES and not _is_a(value, name):
            got = f"{value!r} ({type(value).__name__})"
            raise ConfigError(expected(_TYPES[name], got=got, where=f"model_options.{key} of {where}"))


def _is_a(value: object, name: str) -> bool:
    if name == "bool" or isinstance(value, bool):
        return name == "bool" and isinstance(value, bool)
    kinds: Mapping[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}
    return isinstance(value, kinds[name])


def _constructed(kind: Builder, arguments: Mapping[str, Any], where: str) -> nn.Module:
    try:
        return kind(**arguments)
    except MeninxError:
        raise
    except (
        Exception
    ) as error:  # options may come from a file, and a constructor may raise any exception on them
        raise ConfigError(expected("options the network accepts", got=error, where=where)) from error
