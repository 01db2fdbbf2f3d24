"""Everything that training changes, in one place, so that a checkpoint can hold all of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from meninx.learn.optim import Schedule


@dataclass
class Best:
    """The best evaluation so far.

    Attributes:
        value: monitored value, higher is better.
        step: optimiser steps done then.
        waited: evaluations since then.
    """

    value: float = -math.inf
    step: int = 0
    waited: int = 0

    def observe(self, value: float, step: int) -> bool:
        """Take one more evaluation in and return whether it is the best."""
        if value > self.value:
            self.value, self.step, self.waited = value, step, 0
            return True
        self.waited += 1
        return False


@dataclass
class Trainee:
    """A model on its way.

    Attributes:
        model: the network with its training weights.
        optimizer: over all its parameters.
        schedule: learning rates.
        average: averaged evaluation weights, or None.
        step: optimiser steps done.
        best: best evaluation.
        stopped: training ended early.
        threshold: clipping threshold in force when it follows the gradients; 0 for the plan's first. As
            public as the weights.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    average: Average | None
    step: int = 0
    best: Best = field(default_factory=Best)
    stopped: bool = False
    threshold: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as tensors and plain numbers."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "step": self.step,
            "best": {"value": self.best.value, "step": self.best.step, "waited": self.best.waited},
            "stopped": self.stopped,
            "threshold": self.threshold,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        self.step, self.stopped = int(state["step"]), bool(state["stopped"])
        self.best = Best(**state["best"])
        self.threshold = float(state.get("threshold", 0.0))


class Average:
    """Shadow weights ``s = decay * s + (1 - decay) * w``; training never reads them.

    The decay starts lower (``(1 + t) / (10 + t)``), so that the average forgets the random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.shadow = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's current weights into the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.shadow[name] = torch.lerp(value.detach(), self.shadow[name], decay)
            else:
                self.shadow[name] = value.detach().clone()

    def state_dict(self) -> dict[str, object]:
        """Return the average and its age."""
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.updates = int(state["updates"])  # type: ignore[call-overload]
        shadow: Mapping[str, Tensor] = state["shadow"]  # type: ignore[assignment]
        self.shadow = {name: shadow[name].to(value.device) for name, value in self.shadow.items()}


@contextmanager
def averaged(model: nn.Module, average: Average | None) -> Iterator[None]:
    """Run a block with the averaged weights in ``model`` and put the training weights back, exactly, whatever happens."""
    if average is None:
        yield
        return
    kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.load_state_dict(average.shadow)
    try:
        yield
    finally:
        model.load_state_dict(kept)
