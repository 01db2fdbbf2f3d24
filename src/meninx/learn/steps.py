"""The step without privacy, and what every kind of step has in common."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from meninx.core.errors import DataError, expected
from meninx.learn.batches import Assembler
from meninx.learn.draw import Groups, slices
from meninx.learn.task import Objective
from meninx.learn.trainee import Trainee


@dataclass(frozen=True)
class StepReport:
    """What one step did, for the private log.

    Attributes:
        loss: mean loss of the cases; NaN when none was drawn.
        units: units that took part.
    """

    loss: float
    units: int


class Step(Protocol):
    """Changes a model once."""

    @property
    def anchor(self) -> tuple[int, str]:
        """Number of lines in the privacy ledger and hash of the last; (0, "") without privacy."""

    def __call__(self, trainee: Trainee, groups: Groups) -> StepReport:
        """Do step ``trainee.step`` with the drawn groups of cases."""

    def epsilon(self, steps: int) -> float:
        """Return the epsilon spent after ``steps`` steps; infinity without privacy."""


@dataclass(frozen=True)
class PlainStep:
    """The gradient of the mean loss, and one optimiser step.

    Attributes:
        assembler: makes tensors of cases.
        objective: the loss.
        physical: most images in memory at once.
    """

    assembler: Assembler
    objective: Objective
    physical: int
    anchor: tuple[int, str] = (0, "")

    def __call__(self, trainee: Trainee, groups: Groups) -> StepReport:
        """Do one step; a draw without a case changes nothing.

        Raises:
            DataError: the loss or the gradient is not finite.
        """
        cases = sum(len(group) for group in groups)
        if not cases:
            return StepReport(math.nan, 0)
        trainee.optimizer.zero_grad(set_to_none=True)
        views, total = self.assembler.views, 0.0
        for part in slices(groups, max(1, self.physical // views)):
            batch = self.assembler(part, trainee.step)
            losses = self.objective.loss(trainee.model(batch.images), batch.targets)
            loss = losses.sum() / (cases * views)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        norms = [item.grad.norm() for item in trainee.model.parameters() if item.grad is not None]
        if not math.isfinite(total) or not bool(torch.isfinite(torch.stack(norms)).all()):
            fix = "lower lr, add warmup, or check the intensity in dataset.toml"
            raise DataError(expected("a finite loss", got="NaN or infinity", where=f"step {trainee.step}", fix=fix))
        trainee.optimizer.step()
        return StepReport(total, len(groups))

    def epsilon(self, steps: int) -> float:
        """Return infinity: nothing is promised."""
        return math.inf
