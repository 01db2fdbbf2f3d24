"""The parameters that are trained: all, head, biases and norms, adapters, or more from step to step.

All parameters but those below a prefix can be chosen, too.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from meninx.core import check, files
from meninx.core.artifacts import Ancestry, StartRecord
from meninx.core.errors import ConfigError, DataError, expected, problem
from meninx.learn.config import ModelConfig
from meninx.models import lora, registry
from meninx.privacy.ledger import Ledger

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, _NormBase)  # the last: batch and instance norm


def blocks(model: nn.Module) -> list[str]:
    """Return the prefixes of the blocks of a network, in order; every parameter has exactly one of them."""
    prefixes: dict[str, None] = {}
    for name, _ in model.named_parameters():
        first, *rest = name.split(".")
        container = isinstance(getattr(model, first), (nn.Sequential, nn.ModuleList, nn.ModuleDict))
        if container and len(rest) > 1:
            prefixes.setdefault(f"{first}.{rest[0]}.")
        else:
            prefixes.setdefault(f"{first}." if rest else name)
    return list(prefixes)


def frozen_names(model: nn.Module, config: ModelConfig, epoch: int) -> frozenset[str]:
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
        raise ConfigError(problem("every parameter is frozen", where="freeze"))
    return frozenset(frozen)


def biases_and_norms(model: nn.Module) -> frozenset[str]:
    """Return the names of all biases and of all parameters of norm layers.

    References:
        Ben Zaken, Goldberg, Ravfogel (2022), BitFit: Simple Parameter-efficient Fine-tuning.
        Bu et al. (2024), Differentially Private Bias-Term Fine-tuning of Foundation Models.
    """
    norms = [f"{path}." for path, module in model.named_modules() if path and isinstance(module, NORMS)]
    names = [name for name, _ in model.named_parameters()]
    return frozenset(name for name in names if name.endswith("bias") or name.startswith(tuple(norms)))


def never_trained(model: nn.Module, config: ModelConfig) -> frozenset[str]:
    """Return the names of the parameters that no epoch trains.

    With gradual unfreezing every one is trained in the end.
    """
    return frozenset() if config.unfreeze_every else frozen_names(model, config, 0)


def apply(model: nn.Module, frozen: frozenset[str]) -> None:
    """Put the model into training mode with the named parameters fixed.

    A layer all of whose own parameters are frozen runs in evaluation mode, so that its buffers stay as they
    are too.
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


def _asked(model: nn.Module, config: ModelConfig, names: list[str]) -> set[str]:
    adapters = lora.adapter_names(model)
    if config.freeze == "none" and not adapters:
        return set()
    if adapters or config.freeze in ("features", "bitfit"):
        head = registry.head_prefix(model)
        trained = adapters | (biases_and_norms(model) if config.freeze == "bitfit" else set())
        return {name for name in names if not name.startswith(head) and name not in trained}
    frozen = {name for name in names if name.startswith(config.freeze)}
    if not frozen:
        known = blocks(model)
        fix = check.did_you_mean(config.freeze, known) or f"blocks: {', '.join(known)}"
        raise ConfigError(
            expected(
                "none, features, bitfit or a prefix of parameters",
                got=repr(config.freeze),
                where="freeze",
                fix=fix,
            )
        )
    return frozen


_NESTS = ("players", "state_dict", "model", "model_state_dict", "network_weights", "weights")


def known(start: StartRecord, ancestry: Ancestry) -> StartRecord:
    """Return the start record of a network, completed by what is known about its training."""
    return replace(
        start,
        origin=ancestry.origin,
        run=ancestry.run,
        shared_patients=ancestry.shared_patients,
        composed=bool(ancestry.ledgers),
    )


def ledgers(ancestry: Ancestry) -> tuple[Ledger, ...]:
    """Return the ledgers whose cost is part of a run's.

    Raises:
        PrivacyRefusal: a line was changed.
    """
    return tuple(Ledger.parse("\n".join(lines)) for lines in ancestry.ledgers)


def initialise(model: nn.Module, path: Path, *, source: str = "", keep_head: bool = False) -> StartRecord:
    """Load what fits of a state dict into ``model`` and return what was done.

    Args:
        model: changed; its head keeps its random start unless ``keep_head``.
        path: file of ``torch.save``: a state dict, or one below ``state_dict``, ``model`` or the like.
        source: where the weights come from, in words.
        keep_head: take the last layer over too, if it has the same shape.

    Raises:
        DataError: no such file, not a state dict, or nothing in it fits.
    """
    given = {name.removeprefix("module."): value for name, value in _read(path).items()}
    head = registry.head_prefix(model)
    own = model.state_dict()
    taken = {
        name: given[name]
        for name, value in own.items()
        if name in given and given[name].shape == value.shape and (keep_head or not name.startswith(head))
    }
    if not taken:
        fix = "check that the file was saved from the same architecture"
        raise DataError(
            problem("no weight of the file matches the model by name and shape", where=path.name, fix=fix)
        )
    model.load_state_dict({**own, **taken})
    return StartRecord(
        file=path.name,
        sha256=files.digest(path),
        source=source,
        loaded=len(taken),
        fresh=tuple(name for name in own if name not in taken),
        unused=len(set(given) - set(taken)),
        origin="unknown",
    )


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise DataError(problem("the file of pretrained weights does not exist", where=str(path)))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        fix = "save only the state dict, with torch.save(model.state_dict(), path)"
        raise DataError(problem("the file is not a state dict", where=path.name, fix=fix)) from error
    for nest in _NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            content = content[nest]
    tensors = (
        {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise DataError(problem("the state dict has no tensors", where=path.name))
    return tensors


@dataclass(frozen=True)
class Freezing:
    """What a config freezes, step by step.

    Attributes:
        config: ``freeze``, ``unfreeze_every``, ``lora_rank``.
        steps_per_epoch: steps that count as one epoch, >= 1.
    """

    config: ModelConfig
    steps_per_epoch: int

    def __call__(self, model: nn.Module, step: int) -> frozenset[str]:
        """Return the names of the parameters that ``step`` does not train."""
        return frozen_names(model, self.config, step // self.steps_per_epoch)


def frozen_text(model: nn.Module, frozen: frozenset[str]) -> str:
    """Return how many parameter tensors are frozen, and in which blocks."""
    names = [name for name, _ in model.named_parameters()]
    held = [b.rstrip(".") for b in blocks(model) if any(name.startswith(b) for name in frozen)]
    return f"{len(frozen)} of {len(names)} parameter tensors frozen ({', '.join(held) or 'none'})"
