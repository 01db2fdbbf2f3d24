"""Optimisers by name, and learning-rate schedules whose whole state is a few numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from meninx.core import check
from meninx.learn.config import OPTIMIZERS, LearnConfig

_PLATEAU_MARGIN = 1e-4


def optimizer(config: LearnConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimiser of a config.

    Args:
        config: ``optimizer``, ``lr``, ``weight_decay`` and ``momentum``.
        parameters: all parameters, frozen ones too: those without a gradient are left alone.
    """
    check.one_of(OPTIMIZERS, optimizer=config.optimizer)
    items, lr, decay = list(parameters), config.lr, config.weight_decay
    match config.optimizer:
        case "sgd":
            return torch.optim.SGD(items, lr=lr, weight_decay=decay)
        case "momentum":
            nesterov = config.momentum > 0
            return torch.optim.SGD(items, lr=lr, weight_decay=decay, momentum=config.momentum, nesterov=nesterov)
        case "adam":
            return torch.optim.Adam(items, lr=lr, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(items, lr=lr, weight_decay=decay)
        case _:
            return torch.optim.NAdam(items, lr=lr, weight_decay=decay)


@dataclass
class Schedule:
    """The learning rate of every step; ``plateau`` alone remembers something.

    Attributes:
        config: schedule, rate, milestones, warmup.
        total_steps: steps of the whole run, >= 1.
        steps_per_epoch: steps that count as one epoch, >= 1.
        factor: product of the reductions so far (plateau).
        best: best loss seen (plateau).
        waited: evaluations since then (plateau).
    """

    config: LearnConfig
    total_steps: int
    steps_per_epoch: int
    factor: float = 1.0
    best: float = math.inf
    waited: int = 0

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step``, counted from 0."""
        config = self.config
        if step < config.warmup:
            return config.lr * (step + 1) / (config.warmup + 1)
        passed = sum(step // self.steps_per_epoch >= epoch for epoch in config.milestones)
        match config.schedule:
            case "cosine":
                done = (step - config.warmup) / max(1, self.total_steps - config.warmup)
                return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
            case "step":
                return float(config.lr * config.gamma**passed)
            case "manual":
                return config.rates[passed]
            case _:
                return config.lr * self.factor

    def observe(self, loss: float) -> None:
        """Tell a plateau schedule the validation loss; the others do not listen."""
        if self.config.schedule != "plateau":
            return
        if loss < self.best - _PLATEAU_MARGIN * abs(self.best if math.isfinite(self.best) else 0.0):
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > self.config.plateau_patience:
            self.factor, self.waited = self.factor * self.config.gamma, 0

    def apply(self, target: torch.optim.Optimizer, step: int) -> float:
        """Set the optimiser's rate for ``step`` and return it."""
        rate = self.rate(step)
        for group in target.param_groups:
            group["lr"] = rate
        return rate

    def state_dict(self) -> dict[str, float]:
        """Return what the schedule remembers."""
        return {"factor": self.factor, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.factor, self.best, self.waited = float(state["factor"]), float(state["best"]), int(state["waited"])
