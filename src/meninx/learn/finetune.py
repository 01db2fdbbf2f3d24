"""Which parameters are trained: all, the head, biases and norms, adapters, or more blocks over time.

A prefix can also be given, whose parameters are frozen while all others are trained.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from meninx.core import check
from meninx.core.artifacts import Ancestry
from meninx.core.errors import ConfigError, expected, problem
from meninx.learn.config import ModelConfig
from meninx.models import lora, registry
from meninx.privacy.ledger import Ledger

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, _NormBase)  # _NormBase covers batch and instance norm


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
    """Return the names of the parameters that no epoch trains; gradual unfreezing trains all in the end."""
    return frozenset() if config.unfreeze_every else frozen_names(model, config, 0)


def apply(model: nn.Module, frozen: frozenset[str]) -> None:
    """Put the model into training mode with the named parameters frozen.

    A module whose parameters are all frozen runs in evaluation mode, including the modules inside it: its
    buffers do not change, and dropout or stochastic depth between frozen layers is off.
    """
    model.train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
        if name in frozen:
            parameter.grad = None
    for module in model.modules():
        own = list(module.parameters())
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


def ledgers(ancestry: Ancestry) -> tuple[Ledger, ...]:
    """Return the ledgers of earlier private runs whose cost is added to that of the run.

    Raises:
        PrivacyRefusal: a line was changed.
    """
    return tuple(Ledger.parse("\n".join(lines)) for lines in ancestry.ledgers)


@dataclass(frozen=True)
class Freezing:
    """The frozen parameters of each step under a config.

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
