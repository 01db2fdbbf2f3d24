"""The step without privacy, and what every kind of step has in common."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from meninx.core.errors import DataError, expected
from meninx.learn.batches import Assembler
from meninx.learn.distributed import World, current
from meninx.learn.sampler import Groups, share, slices
from meninx.learn.state import Trainee
from meninx.learn.task import Objective
from meninx.privacy.clipping.dropout import keyed_dropout


@dataclass(frozen=True)
class StepReport:
    """What one step did, for the private log.

    Attributes:
        loss: mean loss of the cases; NaN when none was drawn.
        units: units that took part.
        leave: one of several processes was asked to stop; all know it now.
    """

    loss: float
    units: int
    leave: bool = False


class Step(Protocol):
    """Changes a model once."""

    @property
    def anchor(self) -> tuple[int, str]:
        """Number of lines in the privacy ledger and hash of the last; (0, "") without privacy."""

    def __call__(self, trainee: Trainee, groups: Groups, *, leave: bool = False) -> StepReport:
        """Do step ``trainee.step`` with the drawn groups of cases.

        ``leave`` says that this process was asked to stop.
        """

    def epsilon(self, steps: int) -> float:
        """Return the epsilon spent after ``steps`` steps; infinity without privacy."""


@dataclass(frozen=True)
class PlainStep:
    """The gradient of the mean loss, and one optimiser step.

    Attributes:
        assembler: makes tensors of cases.
        objective: the loss.
        physical: most images in memory at once.
        world: the processes that share the step.
        precision: ``fp32``, or ``bf16`` to run the model (not the loss) under autocast.
    """

    assembler: Assembler
    objective: Objective
    physical: int
    anchor: tuple[int, str] = (0, "")
    world: World = field(default_factory=current)
    precision: str = "fp32"

    def __call__(self, trainee: Trainee, groups: Groups, *, leave: bool = False) -> StepReport:
        """Do one step; a draw without a case changes nothing.

        Raises:
            DataError: the loss or the gradient is not finite.
        """
        cases = sum(len(group) for group in groups)
        if not cases:
            return StepReport(math.nan, 0)
        trainee.optimizer.zero_grad(set_to_none=True)
        views, total = self.assembler.views, 0.0
        _, own = share(groups, self.world.rank, self.world.size)
        for part in slices(own, max(1, self.physical // views)):
            batch = self.assembler(part, trainee.step)
            mixed = torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self.precision == "bf16")
            with mixed, keyed_dropout(trainee.model, batch.row_keys):
                outputs = trainee.model(batch.images)
            losses = self.objective.loss(outputs.float(), batch.targets)
            loss = losses.sum() / (cases * views)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        total, leave = self._pool(trainee.model, total, leave, (trainee.step, groups))
        norms = [item.grad.norm() for item in trainee.model.parameters() if item.grad is not None]
        if not math.isfinite(total) or not bool(torch.isfinite(torch.stack(norms)).all()):
            fix = "lower lr, add warmup, or check the intensity in dataset.toml"
            raise DataError(
                expected("a finite loss", got="NaN or infinity", where=f"step {trainee.step}", fix=fix)
            )
        trainee.optimizer.step()
        return StepReport(total, len(groups), leave)

    def _pool(self, model: nn.Module, loss: float, leave: bool, drawn: object) -> tuple[float, bool]:
        """Sum gradients and loss over the processes; a gradient that no process has stays None."""
        if self.world.size == 1:
            return loss, leave
        items = [item for item in model.parameters() if item.requires_grad]
        there = [float(item.grad is not None) for item in items]
        gradients = [torch.zeros_like(item) if item.grad is None else item.grad for item in items]
        loss, asked, *found = self.world.sum_(gradients, [loss, float(leave), *there], same=drawn)
        for item, gradient, count in zip(items, gradients, found, strict=True):
            item.grad = gradient if count else None
        return loss, asked > 0

    def epsilon(self, steps: int) -> float:
        """Return infinity: nothing is promised."""
        return math.inf
