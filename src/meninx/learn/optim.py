"""Optimisers by name, and learning-rate schedules whose complete state is a few numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from meninx.core.errors import ConfigError, expected
from meninx.learn.config import OptimConfig
from meninx.learn.private_adam import KINDS, PrivateAdam
from meninx.models import registry
from meninx.privacy.noise import strategy
from meninx.privacy.plan import Plan

_PLATEAU_MARGIN = 1e-4


Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]  # or groups of them


def optimizer(config: OptimConfig, parameters: Parameters, plan: Plan | None = None) -> torch.optim.Optimizer:
    """Return the optimiser of a config.

    Args:
        config: ``optimizer``, ``lr``, ``weight_decay``, ``momentum``, ``bias_correction``.
        parameters: all parameters, or groups of them, including frozen ones; those without a gradient are
            not changed.
        plan: the plan of a private run, for whose noise the Adam family corrects.

    Raises:
        ConfigError: the correction is required where there is nothing to correct.
    """
    items: Any = list(parameters)
    lr, decay = config.lr, config.weight_decay
    if _corrects(config, plan):
        assert plan is not None  # refused otherwise
        return PrivateAdam(
            items, kind=config.optimizer, lr=lr, weight_decay=decay,
            noise_variance=noise_variance(plan), floor_factor=config.bias_floor,
        )  # fmt: skip
    match config.optimizer:
        case "sgd":
            return torch.optim.SGD(items, lr=lr, weight_decay=decay)
        case "momentum":
            nesterov = config.momentum > 0
            return torch.optim.SGD(
                items, lr=lr, weight_decay=decay, momentum=config.momentum, nesterov=nesterov
            )
        case "adam":
            return torch.optim.Adam(items, lr=lr, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(items, lr=lr, weight_decay=decay)
        case _:
            return torch.optim.NAdam(items, lr=lr, weight_decay=decay)


def groups(config: OptimConfig, model: nn.Module) -> Parameters:
    """Return the parameters of a model, with the head in its own group if it has its own learning rate."""
    if config.head_lr == 1:
        return list(model.parameters())
    prefix = registry.head_prefix(model)
    named = list(model.named_parameters())
    body = [value for name, value in named if not name.startswith(prefix)]
    head = [value for name, value in named if name.startswith(prefix)]
    return [{"params": body, "relative": 1.0}, {"params": head, "relative": config.head_lr}]


def noise_variance(plan: Plan, threshold: float | None = None) -> float:
    """Return the variance of the plan's noise on one coordinate of the released gradient, a public number.

    Args:
        plan: noise, threshold, denominator; for correlated noise the result is the variance after some
            steps, when it is stationary.
        threshold: clipping threshold in force; None for the plan's.
    """
    bound = plan.max_grad_norm if threshold is None else threshold
    single = (plan.gradient_noise_multiplier * bound / plan.expected_batch_size) ** 2
    return single * _correlated_variance(plan.noise_bands)


def _correlated_variance(bands: int) -> float:
    """Return the sum of the squared coefficients of the inverse strategy matrix; 1 for independent noise."""
    scale, *weights = strategy(bands)
    recent, total = [1 / scale], 1 / scale**2
    for _ in range(20 * (bands - 1)):
        recent = [
            -sum(w * value for w, value in zip(weights, recent, strict=False)) / scale,
            *recent[: bands - 2],
        ]
        total += recent[0] ** 2
    return total


def _corrects(config: OptimConfig, plan: Plan | None) -> bool:
    """Return whether the optimiser subtracts the noise from its second moment."""
    able = plan is not None and config.optimizer in KINDS
    if config.bias_correction == "on" and not able:
        got = f"{config.optimizer}, {'private' if plan else 'without privacy'}"
        fix = "leave bias_correction at auto"
        raise ConfigError(
            expected(f"a private run with {', '.join(KINDS)}", got=got, where="bias_correction", fix=fix)
        )
    return able and config.bias_correction != "off"


@dataclass
class Schedule:
    """The learning rate of every step; only ``plateau`` has a state.

    Attributes:
        config: schedule, rate, milestones, warmup.
        steps_per_epoch: steps that count as one epoch, >= 1.
        factor: product of the reductions so far (plateau).
        best: lowest loss so far (plateau).
        waited: evaluations since then (plateau).
    """

    config: OptimConfig
    steps_per_epoch: int
    factor: float = 1.0
    best: float = math.inf
    waited: int = 0

    def rate(self, step: int, horizon: int) -> float:
        """Return the learning rate of ``step``, counted from 0; a cosine ends at the step ``horizon``."""
        config = self.config
        if step < config.warmup:
            return config.lr * (step + 1) / (config.warmup + 1)
        passed = sum(step // self.steps_per_epoch >= epoch for epoch in config.milestones)
        match config.schedule:
            case "cosine":
                done = (step - config.warmup) / max(1, horizon - config.warmup)
                return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
            case "step":
                return float(config.lr * config.gamma**passed)
            case "manual":
                return config.rates[passed]
            case _:
                return config.lr * self.factor

    def observe(self, loss: float) -> None:
        """Update a plateau schedule with the validation loss; other schedules ignore it."""
        if self.config.schedule != "plateau":
            return
        if loss < self.best - _PLATEAU_MARGIN * abs(self.best if math.isfinite(self.best) else 0.0):
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > self.config.plateau_patience:
            self.factor, self.waited = self.factor * self.config.gamma, 0

    def state_dict(self) -> dict[str, float]:
        """Return the state of the schedule."""
        return {"factor": self.factor, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.factor, self.best, self.waited = (
            float(state["factor"]),
            float(state["best"]),
            int(state["waited"]),
        )
