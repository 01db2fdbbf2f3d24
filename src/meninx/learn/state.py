"""TrainState: everything that training changes, saved, loaded and replaced as one value.

A supervised run has one player; a game has one player per network::

    state = TrainState.of(network, optimizer)                   # one player, called "model"
    state = TrainState({"obfuscator": Player(...), "attacker": Player(...)})

Weights are exported and loaded as values, so a server can average them without the networks::

    mean = average(state.weights() for state in clients)
    for state in clients:
        state.load_weights(mean)
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.learn.state_digest import weights_digest

_SCALE_STEPS = 2_000  # number of steps without overflow after which a larger scale is tried
MODEL = "model"
"""Name of the only player of a supervised run."""


class RateSchedule(Protocol):
    """Learning rates over the steps of a run."""

    def rate(self, step: int, horizon: int) -> float:
        """Return the rate of ``step``, counted from 0, of a run of ``horizon`` steps."""

    def observe(self, loss: float) -> None:
        """Take the loss of an evaluation into account."""

    def state_dict(self) -> dict[str, float]:
        """Return the state of the schedule."""

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore what :meth:`state_dict` gave."""


class WeightAverage:
    """Exponential moving average of the weights, for evaluation.

    ``shadow = decay * shadow + (1 - decay) * weights``. The decay starts lower, at ``(1 + t) / (10 + t)``, so
    that the initial weights lose their influence quickly. Training never reads the average, and under
    differential privacy it is post-processing of the released weights.

    Args:
        model: the network.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.shadow = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Include the model's current weights in the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.shadow[name] = torch.lerp(value.detach(), self.shadow[name], decay)
            else:
                self.shadow[name] = value.detach().clone()

    def state_dict(self) -> dict[str, object]:
        """Return the average and the number of updates."""
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.updates = int(state["updates"])  # type: ignore[call-overload]
        shadow: Mapping[str, Tensor] = state["shadow"]  # type: ignore[assignment]
        self.shadow = {name: shadow[name].to(value.device) for name, value in self.shadow.items()}


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
        """Include one more evaluation and return whether it is the best."""
        if value > self.value:
            self.value, self.step, self.waited = value, step, 0
            return True
        self.waited += 1
        return False


@dataclass
class LossScale:
    """Factor of the loss under float16, whose gradients would otherwise be too small for the format.

    The factor is halved after a step whose gradients overflowed, which is skipped, and doubled after 2,000
    steps without overflow, as in ``torch.amp.GradScaler``. It is a plain number here, so that a step waits
    for the device only once, hooks receive gradients without the scale, and the state can be saved.

    Attributes:
        value: the factor.
        steps: steps since it changed.
        skipped: steps skipped so far.
        finite: whether the current gradients are finite; None between two steps.

    References:
        Micikevicius et al. (2018), Mixed Precision Training, section 3.2.
    """

    value: float = 2.0**16
    steps: int = 0
    skipped: int = 0
    finite: bool | None = None

    def settle(self) -> bool:
        """Return whether the current step may be taken, and adapt the factor for the next one."""
        finite, self.finite = self.finite is not False, None
        self.steps = self.steps + 1 if finite else 0
        if not finite:
            self.skipped += 1
            self.value /= 2
        elif self.steps == _SCALE_STEPS:
            self.steps, self.value = 0, 2 * self.value
        return finite

    def state_dict(self) -> dict[str, float]:
        """Return the values that have to be saved between two steps."""
        return {"value": self.value, "steps": self.steps, "skipped": self.skipped}


@dataclass
class Player:
    """One network that is trained, together with its optimiser, schedule and averages.

    Attributes:
        model: the network with its training weights.
        optimizer: over its parameters.
        schedule: learning rates; None leaves those of the optimiser.
        average: averaged evaluation weights, or None.
        freezing: (network, step) -> names of the parameters that the step does not train; None trains all
            with ``requires_grad``.
        loss_scale: created by a step in float16; None in any other precision.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: RateSchedule | None = None
    average: WeightAverage | None = None
    freezing: Callable[[nn.Module, int], frozenset[str]] | None = None
    loss_scale: LossScale | None = None

    def set_rate(self, step: int, horizon: int) -> float:
        """Set the optimiser's learning rate for a step and return it."""
        if self.schedule is None:
            return float(self.optimizer.param_groups[0]["lr"])
        rate = self.schedule.rate(step, horizon)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("relative", 1.0)
        return rate

    def update(self) -> None:
        """Do one optimiser step with the current gradients, and include the new weights in the average.

        Nothing changes if gradients in float16 overflowed.
        """
        scale = self.loss_scale
        if scale is not None and scale.finite is not None and not scale.settle():
            return
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Yield the network with averaged weights, then restore the training weights exactly."""
        if self.average is None:
            yield self.model
            return
        training = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.shadow)
        try:
            yield self.model
        finally:
            self.model.load_state_dict(training)

    def state_dict(self) -> dict[str, Any]:
        """Return the player's state as tensors and plain numbers."""
        return {
            "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict() if self.schedule else None,
            "average": self.average.state_dict() if self.average else None,
            "loss_scale": self.loss_scale.state_dict() if self.loss_scale else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.model.load_state_dict(state["weights"])
        # torch stores the tensors without copying them: two states would otherwise share their moments.
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        if self.schedule is not None and state["schedule"] is not None:
            self.schedule.load_state_dict(state["schedule"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        scale = state.get("loss_scale")  # checkpoints of earlier versions hold none
        self.loss_scale = LossScale(**scale) if scale else None


@dataclass
class TrainState:
    """Everything that training changes.

    Random generators are not part of it, because every draw is a function of a seed or key and the step.

    Example::

        >>> network = torch.nn.Linear(2, 1)
        >>> state = TrainState.of(network, torch.optim.SGD(network.parameters(), lr=0.1))
        >>> state.load_weights({name: torch.zeros_like(value) for name, value in state.weights().items()})
        >>> state.model.weight.tolist(), state.loads
        ([[0.0, 0.0]], 1)

    Attributes:
        players: the networks by name.
        step: optimiser steps done.
        best: best evaluation.
        stopped: whether training ended early.
        threshold: clipping threshold in force under adaptive clipping; 0 for the plan's first. It is as
            public as the weights.
        loads: number of times that weights were loaded from outside. A private step may be repeated only
            after the same loads, because under the same noise it would release another gradient.
        loaded: chained SHA-256 of all weights that were loaded from outside; empty before the first.
    """

    players: dict[str, Player]
    step: int = 0
    best: Best = field(default_factory=Best)
    stopped: bool = False
    threshold: float = 0.0
    loads: int = 0
    loaded: str = ""

    @classmethod
    def of(
        cls, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: RateSchedule | None = None
    ) -> TrainState:
        """Return the state of a supervised run before its first step."""
        return cls({MODEL: Player(model, optimizer, schedule)})

    @property
    def player(self) -> Player:
        """The only player.

        Raises:
            UsageError: there are several, so one must be named.
        """
        if len(self.players) != 1:
            raise UsageError(
                expected(
                    "a state of one player", got=", ".join(self.players), where="TrainState", fix="name one"
                )
            )
        return next(iter(self.players.values()))

    @property
    def model(self) -> nn.Module:
        """The network of the only player."""
        return self.player.model

    def weights(self, player: str = "") -> dict[str, Tensor]:
        """Return a copy of the weights and buffers of a player, on the CPU; by default of the only one."""
        model = self._named(player).model
        return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}

    def load_weights(self, values: Mapping[str, Tensor], player: str = "") -> None:
        """Load weights and buffers into a player; its optimiser and averages do not change.

        Raises:
            DataError: the names or shapes are not those of the network, or a value is not finite.
        """
        model = self._named(player).model
        own = model.state_dict()
        fits = own.keys() == values.keys() and all(own[name].shape == values[name].shape for name in own)
        if not fits:
            fix = "give the weights of the same architecture"
            raise DataError(problem("the weights do not match the network", where="load_weights", fix=fix))
        if not all(bool(torch.isfinite(value).all()) for value in values.values()):
            raise DataError(problem("the weights are not finite", where="load_weights"))
        model.load_state_dict(dict(values))
        self.loads += 1
        self.loaded = hashlib.sha256(f"{self.loaded}\0{weights_digest(values)}".encode()).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state as tensors and plain numbers."""
        return {
            "players": {name: player.state_dict() for name, player in self.players.items()},
            "step": self.step,
            "best": {"value": self.best.value, "step": self.best.step, "waited": self.best.waited},
            "stopped": self.stopped,
            "threshold": self.threshold,
            "loads": self.loads,
            "loaded": self.loaded,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave.

        Raises:
            DataError: the state of other players.
        """
        if state["players"].keys() != self.players.keys():
            got = ", ".join(state["players"])
            raise DataError(
                expected(f"a state of the players {', '.join(self.players)}", got=got, where="TrainState")
            )
        for name, player in self.players.items():
            player.load_state_dict(state["players"][name])
        self.step, self.stopped = int(state["step"]), bool(state["stopped"])
        self.best = Best(**state["best"])
        self.threshold = float(state.get("threshold", 0.0))
        self.loads = int(state.get("loads", 0))  # absent in checkpoints of earlier versions
        self.loaded = str(state.get("loaded", ""))

    def _named(self, player: str) -> Player:
        if not player:
            return self.player
        if player not in self.players:
            raise UsageError(
                expected(f"one of {', '.join(self.players)}", got=repr(player), where="TrainState")
            )
        return self.players[player]
