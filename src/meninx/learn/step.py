"""Steps: one update of the players, in two halves.

``gradients`` reads the units of the step and sets a gradient on every parameter to be trained, and ``update``
changes the weights. Between the two the trainer calls its hooks. :class:`SupervisedStep` trains one network
on the mean loss of a task, :class:`AlternatingStep` trains several networks in turn, each with its own loss,
and :class:`.dp_step.PrivateStep` is the private step. None of them waits for the device between two
microbatches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from meninx.core import check, randomness
from meninx.core.errors import DataError, UsageError, expected
from meninx.learn import runtime
from meninx.learn.batches import Batch
from meninx.learn.distributed import World
from meninx.learn.sampler import Sampler, UnitBatch
from meninx.learn.state import LossScale, Player, TrainState
from meninx.learn.task import Task
from meninx.privacy.clipping import ClippedSum
from meninx.privacy.clipping.dropout import keyed_dropout

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Report:
    """Measurements of a step, for the private log.

    Attributes:
        metrics: numbers by name, e.g. ``{"loss": 0.3}``; NaN if nothing was measured.
        units: number of units that took part.
        stop_requested: whether any of the processes was asked to stop; equal in all of them.
        slots: the contributions of further sources of units to the clipped sum of a private step. They
            contain no patient's data.
    """

    metrics: Mapping[str, float]
    units: int
    stop_requested: bool = False
    slots: Mapping[str, ClippedSum] = field(default_factory=dict)


class StepSpent(Exception):
    """A private step was begun before with other weights, so it stays spent and is not repeated.

    Args:
        next_step: the first step that was not begun before.
    """

    def __init__(self, next_step: int) -> None:
        super().__init__(f"go on with step {next_step}")
        self.next_step = next_step


class Loader(Protocol):
    """Makes tensors of the units of a step."""

    @property
    def views(self) -> int:
        """Copies of each case in a batch."""

    def batches(self, units: UnitBatch, step: int, most: int) -> Iterator[Batch]:
        """Yield the units in order, in batches of at most ``most`` cases.

        The same arguments give the same tensors.
        """


class Step(Protocol):
    """One update of the players."""

    @property
    def private(self) -> bool:
        """Whether a differentially private mechanism releases the gradients; hooks must not change them."""

    def begin(self, state: TrainState, horizon: int, sampler: Sampler) -> None:
        """Check that ``state`` may be trained in a run of ``horizon`` steps; called once per round."""

    def gradients(self, state: TrainState, units: UnitBatch, *, stop_requested: bool = False) -> Report:
        """Set the gradients of step ``state.step`` on the players' parameters.

        Args:
            state: the players; their weights do not change.
            units: units of the step, over all processes.
            stop_requested: whether this process was asked to stop.
        """

    def update(self, state: TrainState) -> None:
        """Update the weights with the current gradients."""


@dataclass(frozen=True)
class TensorLoader:
    """Makes batches of tensors that are in memory.

    Attributes:
        inputs: (cases, ...).
        targets: (cases, ...).
        seed: of the random numbers in the network.
        names: name of each case, by which its random numbers are keyed; by default its position. Under
            privacy give names: positions, and so the random numbers of other cases, change when a case is
            removed.
    """

    inputs: Tensor
    targets: Tensor
    seed: int = 0
    names: tuple[str, ...] = ()
    views: int = field(default=1, init=False)

    def batches(self, units: UnitBatch, step: int, most: int) -> Iterator[Batch]:
        """Yield the units in order, in batches of at most ``most`` cases."""
        for part in units.microbatches(most):
            cases = [case for unit in part.units for case in unit]
            position = [place for place, unit in enumerate(part.units, part.first) for _ in unit]
            names = [self.names[case] if self.names else case for case in cases]
            keys = [randomness.child_seed(self.seed, "dropout", step, name) for name in names]
            unit = torch.tensor(position, dtype=torch.int64, device=self.inputs.device)
            yield Batch(
                self.inputs[cases],
                self.targets[cases],
                unit,
                self.views,
                torch.tensor(keys, dtype=torch.int64),
            )


@dataclass(frozen=True)
class SupervisedStep:
    """The gradient of the mean loss of a task, and one optimiser step of the only player.

    Attributes:
        task: the loss.
        loader: makes tensors of the units.
        physical_batch: largest number of rows (cases times views) in memory at once.
        seed: of torch's generators, for networks that draw from them.
        world: the processes that share the step.
        precision: ``fp32``, or ``bf16`` or ``fp16`` to run the network (not the loss) under autocast.
            Under ``fp16`` the loss is scaled (:class:`.state.LossScale`) and a step whose gradients overflow
            is skipped; ``skipped`` and ``loss_scale`` are in its report.
    """

    task: Task
    loader: Loader
    physical_batch: int = 32
    seed: int = 0
    world: World = field(default_factory=World)
    precision: str = "fp32"
    private: ClassVar[bool] = False

    def begin(self, state: TrainState, horizon: int, sampler: Sampler) -> None:
        """Accept any horizon.

        Raises:
            ConfigError: an unknown precision.
        """
        check.one_of(("fp32", *_AUTOCAST), precision=self.precision)

    def gradients(self, state: TrainState, units: UnitBatch, *, stop_requested: bool = False) -> Report:
        """Set the mean gradient over all cases of the step; None if no case was drawn.

        If gradients in float16 overflow, they are set to zero, and :meth:`update` skips the step.

        Raises:
            DataError: the loss or the gradient is not finite, in float16 at any scale.
        """
        player = state.player
        factor = self._loss_scale(player).value if self.precision == "fp16" else 1.0
        player.optimizer.zero_grad(set_to_none=True)
        if not units.cases:
            return Report({"loss": math.nan}, 0)
        seed_step(self.seed, state.step, self.world)
        scale = 1 / (units.cases * self.loader.views)
        most = max(1, self.physical_batch // self.loader.views)
        total: Tensor | None = None
        for batch in self.loader.batches(units.share(self.world.rank, self.world.size), state.step, most):
            losses = self.task.loss(outputs_of(player.model, batch, self.precision).float(), batch.targets)
            loss = losses.sum() * scale
            scaled = loss * factor if factor != 1 else loss
            scaled.backward()  # type: ignore[no-untyped-call]
            total = loss.detach() if total is None else total + loss.detach()
        stop_requested, mean = pool(self.world, [player.model], total, stop_requested, (state.step, units))
        if self.precision == "fp16":
            return Report(self._unscaled(player, mean, state.step), len(units), stop_requested)
        return Report({"loss": finite_loss([player.model], mean, state.step)}, len(units), stop_requested)

    def update(self, state: TrainState) -> None:
        """Do one optimiser step, unless gradients in float16 overflowed."""
        state.player.update()

    def _loss_scale(self, player: Player) -> LossScale:
        """Return the loss scale of a player, created at its first step."""
        if player.loss_scale is None:
            player.loss_scale = LossScale()
        player.loss_scale.finite = None
        return player.loss_scale

    def _unscaled(self, player: Player, loss: Tensor, step: int) -> dict[str, float]:
        """Divide the gradients by the scale, or set them to zero if they overflowed; return the metrics.

        Raises:
            DataError: they overflow even at scale 1.
        """
        scale = self._loss_scale(player)
        gradients = [item.grad for item in player.model.parameters() if item.grad is not None]
        value, scale.finite = measured(gradients, loss)
        if not scale.finite and scale.value <= 1:
            raise _not_finite(step, "use precision bf16 or fp32, or lower lr")
        for gradient in gradients:
            gradient.div_(scale.value) if scale.finite else gradient.zero_()
        skipped = scale.skipped + (not scale.finite)
        return {"loss": value, "skipped": float(skipped), "loss_scale": scale.value}


PlayerLoss = Callable[[Mapping[str, nn.Module], Batch], Tensor]
"""(networks by name, batch) -> the loss of each row of the batch, (rows,)."""


@dataclass(frozen=True)
class AlternatingStep:
    """A game: each step updates one player along the gradient of its own loss, and no other player.

    The loss of a player may use the networks of the others, like that of a generator with its discriminator::

        step = AlternatingStep(
            losses={"attacker": guess, "obfuscator": hide},     # (networks, batch) -> loss of each row
            order=("attacker", "attacker", "obfuscator"),       # two moves of the attacker for one
            loader=loader,
        )

    Attributes:
        losses: loss of each player.
        order: the player of each step, repeated cyclically.
        loader: makes tensors of the units.
        physical_batch: largest number of rows in memory at once.
        seed: of torch's generators.
        world: the processes that share the step.
    """

    losses: Mapping[str, PlayerLoss]
    order: Sequence[str]
    loader: Loader
    physical_batch: int = 32
    seed: int = 0
    world: World = field(default_factory=World)
    private: ClassVar[bool] = False

    def begin(self, state: TrainState, horizon: int, sampler: Sampler) -> None:
        """Refuse players without a loss, and losses without a player.

        Raises:
            UsageError: the names do not fit.
        """
        known = set(state.players)
        if not self.order or not set(self.order) <= set(self.losses) or not set(self.losses) <= known:
            rule = f"losses and turns of the players {', '.join(sorted(known))}"
            raise UsageError(
                expected(rule, got=", ".join([*self.losses, *self.order]), where="AlternatingStep")
            )

    def turn(self, step: int) -> str:
        """Return the player that a step updates."""
        return self.order[step % len(self.order)]

    def gradients(self, state: TrainState, units: UnitBatch, *, stop_requested: bool = False) -> Report:
        """Set the mean gradient of the active player's loss on its parameters, and None on the others'.

        Raises:
            DataError: the loss or the gradient is not finite.
        """
        name = self.turn(state.step)
        networks = {key: player.model for key, player in state.players.items()}
        for player in state.players.values():
            player.optimizer.zero_grad(set_to_none=True)
        if not units.cases:
            return Report({f"loss/{name}": math.nan}, 0)
        seed_step(self.seed, state.step, self.world)
        moving = [value for value in networks[name].parameters() if value.requires_grad]
        scale = 1 / (units.cases * self.loader.views)
        most = max(1, self.physical_batch // self.loader.views)
        total: Tensor | None = None
        for batch in self.loader.batches(units.share(self.world.rank, self.world.size), state.step, most):
            loss = self.losses[name](networks, batch).sum() * scale
            loss.backward(inputs=moving)  # type: ignore[no-untyped-call]
            total = loss.detach() if total is None else total + loss.detach()
        stop_requested, mean = pool(self.world, [networks[name]], total, stop_requested, (state.step, units))
        value = finite_loss([networks[name]], mean, state.step)
        return Report({f"loss/{name}": value}, len(units), stop_requested)

    def update(self, state: TrainState) -> None:
        """Do one optimiser step of the active player."""
        state.players[self.turn(state.step)].update()


def outputs_of(model: nn.Module, batch: Batch, precision: str = "fp32") -> Tensor:
    """Return the network's outputs for a batch, with dropout masks keyed by row."""
    kind = _AUTOCAST.get(precision)
    mixed = torch.autocast(batch.inputs.device.type, kind, enabled=kind is not None)
    with mixed, keyed_dropout(model, batch.row_keys):
        outputs: Tensor = model(batch.inputs)
    return outputs


def seed_step(seed: int, step: int, world: World) -> None:
    """Seed torch's generators for one step without privacy; each process gets a different stream."""
    runtime.seed_torch(seed, "step", step, *([world.rank] if world.rank else []))


def pool(
    world: World, models: Sequence[nn.Module], loss: Tensor | None, stop_requested: bool, same: object
) -> tuple[bool, Tensor]:
    """Sum gradients and loss over the processes; a gradient that no process has stays None.

    Args:
        world: the processes.
        models: networks whose gradients are summed.
        loss: this process's part of the loss, a scalar; None if its share was empty.
        stop_requested: whether this process was asked to stop.
        same: a value that must agree between the processes.

    Returns:
        Whether any of them was asked to stop, and the total loss.
    """
    items = [item for model in models for item in model.parameters() if item.requires_grad]
    whole = torch.zeros((), device=items[0].device if items else None) if loss is None else loss
    if world.size == 1:
        return stop_requested, whole
    present = [float(item.grad is not None) for item in items]
    gradients = [torch.zeros_like(item) if item.grad is None else item.grad for item in items]
    whole = whole.float()
    requests, *counts = world.all_reduce([*gradients, whole], [float(stop_requested), *present], same=same)
    for item, gradient, count in zip(items, gradients, counts, strict=True):
        item.grad = gradient if count else None
    return requests > 0, whole


def finite_loss(models: Sequence[nn.Module], loss: Tensor, step: int) -> float:
    """Return the loss as a number.

    Raises:
        DataError: the loss or a gradient is not finite.
    """
    gradients = [item.grad for model in models for item in model.parameters() if item.grad is not None]
    value, finite = measured(gradients, loss)
    if not finite:
        raise _not_finite(step, "lower lr, add warmup, or check the intensity in dataset.toml")
    return value


def measured(gradients: Sequence[Tensor], loss: Tensor) -> tuple[float, bool]:
    """Return the loss as a number, and whether it and all gradients are finite.

    Only here does a step wait for the device, because each copy to the CPU stops its queue.
    """
    norms = torch.stack([gradient.norm() for gradient in gradients]) if gradients else loss.new_zeros(1)
    # Zero times a finite number is zero and NaN otherwise, so one sum covers all norms.
    value, broken = torch.stack([loss.float(), (norms.float() * 0).sum()]).tolist()
    return float(value), math.isfinite(value) and not math.isnan(broken)


def _not_finite(step: int, fix: str) -> DataError:
    return DataError(expected("a finite loss", got="NaN or infinity", where=f"step {step}", fix=fix))
