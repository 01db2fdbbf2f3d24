"""Which parameters are trained: all, the head alone, all but a prefix, or more and more of them."""

from __future__ import annotations

from torch import nn

from meninx.core import check
from meninx.core.errors import ConfigError, expected
from meninx.learn.config import LearnConfig
from meninx.models import registry


def blocks(model: nn.Module) -> list[str]:
    """Return the prefixes of the blocks of a network, in order; every parameter has exactly one of them."""
    found: dict[str, None] = {}
    for name, _ in model.named_parameters():
        first, *rest = name.split(".")
        container = isinstance(getattr(model, first), (nn.Sequential, nn.ModuleList, nn.ModuleDict))
        found.setdefault(f"{first}.{rest[0]}." if container and len(rest) > 1 else name if not rest else f"{first}.")
    return list(found)


def frozen_names(model: nn.Module, config: LearnConfig, epoch: int) -> frozenset[str]:
    """Return the names of the parameters that are not trained in ``epoch``, counted from 0.

    Raises:
        ConfigError: the prefix to freeze matches nothing, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen = _asked(model, config, names)
    if config.unfreeze_every and frozen:
        held = [block for block in blocks(model) if any(name.startswith(block) for name in frozen)]
        freed = held[len(held) - min(len(held), epoch // config.unfreeze_every) :]
        frozen = {name for name in frozen if not any(name.startswith(block) for block in freed)}
    if len(frozen) == len(names):
        raise ConfigError(expected("something to train", got="every parameter frozen", where="freeze"))
    return frozenset(frozen)


def apply(model: nn.Module, frozen: frozenset[str]) -> None:
    """Put the model into training mode with the named parameters fixed.

    A layer all of whose own parameters are frozen runs in evaluation mode, so that its buffers stay as they are too.
    """
    model.train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
        if name in frozen:
            parameter.grad = None
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def _asked(model: nn.Module, config: LearnConfig, names: list[str]) -> set[str]:
    if config.freeze == "none":
        return set()
    if config.freeze == "features":
        head = registry.head_prefix(model)
        return {name for name in names if not name.startswith(head)}
    frozen = {name for name in names if name.startswith(config.freeze)}
    if not frozen:
        known = blocks(model)
        fix = check.did_you_mean(config.freeze, known) or f"blocks: {', '.join(known)}"
        raise ConfigError(expected("none, features or a prefix of parameters", got=repr(config.freeze), where="freeze", fix=fix))
    return frozen
