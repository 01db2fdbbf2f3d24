"""Steps: what one update of the players consists of, in two halves.

``gradients`` looks at the units of the step and leaves a gradient on every parameter to be trained, and
``update`` changes the weights. Between the two the trainer calls its hooks. :class:`SupervisedStep` trains
one network on the mean loss of a task, :class:`AlternatingStep` several networks with losses of their own in
turn; :class:`.dp_step.PrivateStep` is the private one. None of them waits for the device between two
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
    """What a step found, for the private log.

    Attributes:
        metrics: numbers by name, e.g. ``{"loss": 0.3}``; NaN where there was nothing to measure.
        units: units that took part.
        stop_requested: one of the processes was asked to stop; all know it now.
        slots: of a private step with further sources of units, what each of them added to the clipped sum.
            They hold no patient's data.
    """

    metrics: Mapping[str, float]
    units: int
    stop_requested: bool = False
    slots: Mapping[str, ClippedSum] = field(default_factory=dict)


class StepSpent(Exception):
    """A private step was begun before with other weights, so it stays spent and is not begun again.

    Args:
        next_step: the first step that was not begun.
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
        """Refuse to train ``state`` in a run of ``horizon`` steps, if the step must.

        Called once per round.
        """

    def gradients(self, state: TrainState, units: UnitBatch, *, stop_requested: bool = False) -> Report:
        """Leave the gradients of step ``state.step`` on the players' parameters.

        Args:
            state: the players; their weights stay as they are.
            units: units of the step, over all processes.
            stop_requested: this process was asked to stop.
        """

    def update(self, state: TrainState) -> None:
        """Change the weights by the gradients at hand."""


@dataclass(frozen=True)
class TensorLoader:
    """Makes batches of tensors that are in memory.

    Attributes:
        inputs: (cases, ...).
        targets: (cases, ...).
        seed: of the random numbers inside the network.
        names: name of each case, by which its random numbers are keyed; by default its position. Under
            privacy give names: with positions, the numbers of others would move when a case is removed.
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
        physical_batch: most rows (cases times views) in memory at once.
        seed: of torch's generators, which networks with randomness of their own draw from.
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
        """Leave the mean gradient over all cases of the step; none when no case was drawn.

        Where gradients in float16 overflow, zeros are left, and :meth:`update` skips the step.

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
        """Return the loss scale of a player, made when its first step begins."""
        if player.loss_scale is None:
            player.loss_scale = LossScale()
        player.loss_scale.finite = None
        return player.loss_scale

    def _unscaled(self, player: Player, loss: Tensor, step: int) -> dict[str, float]:
        """Take the scale out of the gradients, or set them to zero where they overflowed; return the metrics.

        Raises:
            DataError: they overflow without any scale.
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
    """A game: in each step one player moves along the gradient of a loss of its own, the others stand still.

    The loss of a player may run through the networks of the others, as that of a generator runs through its
    discriminator::

        step = AlternatingStep(
            losses={"attacker": guess, "obfuscator": hide},     # (networks, batch) -> loss of each row
            order=("attacker", "attacker", "obfuscator"),       # two moves of the attacker for one
            loader=loader,
        )

    Attributes:
        losses: loss of each player.
        order: whose turn it is, step by step, over and over.
        loader: makes tensors of the units.
        physical_batch: most rows in memory at once.
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
        """Return the player that moves in a step."""
        return self.order[step % len(self.order)]

    def gradients(self, state: TrainState, units: UnitBatch, *, stop_requested: bool = False) -> Report:
        """Leave the mean gradient of the moving player's loss on its parameters, and none on the others'.

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
        """Do one optimiser step of the player whose turn it is."""
        state.players[self.turn(state.step)].update()


def outputs_of(model: nn.Module, batch: Batch, precision: str = "fp32") -> Tensor:
    """Return the network's outputs for a batch, its dropout masks drawn from the keys of the rows."""
    kind = _AUTOCAST.get(precision)
    mixed = torch.autocast(batch.inputs.device.type, kind, enabled=kind is not None)
    with mixed, keyed_dropout(model, batch.row_keys):
        outputs: Tensor = model(batch.inputs)
    return outputs


def seed_step(seed: int, step: int, world: World) -> None:
    """Seed torch's generators for one step without privacy; each process gets a stream of its own."""
    runtime.seed_torch(seed, "step", step, *([world.rank] if world.rank else []))


def pool(
    world: World, models: Sequence[nn.Module], loss: Tensor | None, stop_requested: bool, same: object
) -> tuple[bool, Tensor]:
    """Sum gradients and loss over the processes; a gradient that no process has stays None.

    Args:
        world: the processes.
        models: networks whose gradients are summed.
        loss: this process's part of the loss, a scalar; None when its share was empty.
        stop_requested: this process was asked to stop.
        same: what all processes must hold the same of.

    Returns:
        Whether one of them was asked to stop, and the whole loss.
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

    This is the only moment of a step at which the program waits for the device.
    """
    norms = torch.stack([gradient.norm() for gradient in gradients]) if gradients else loss.new_zeros(1)
    # Zero times a finite number is zero, and NaN otherwise: one number tells of all norms.
    value, broken = torch.stack([loss.float(), (norms.float() * 0).sum()]).tolist()
    return float(value), math.isfinite(value) and not math.isnan(broken)


def _not_finite(step: int, fix: str) -> DataError:
    return DataError(expected("a finite loss", got="NaN or infinity", where=f"step {step}", fix=fix))
