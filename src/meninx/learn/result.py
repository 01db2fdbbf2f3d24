"""What training returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from meninx.core.artifacts import StartRecord
from meninx.core.budget import PrivacySpent
from meninx.core.result import Result


@dataclass(frozen=True, kw_only=True)
class FitResult(Result):
    """The end of a training run; ``out`` is the run folder.

    Attributes:
        steps: optimiser steps done.
        epochs: passes over the training split, whole ones.
        train_loss: mean training loss since the last evaluation; NaN when unknown.
        valid_loss: loss of the last evaluation on the validation split; NaN without one.
        metric_name: ``auroc`` or ``dice``.
        metric: validation metric of the last evaluation; NaN when undefined.
        best_value: best monitored value, higher is better; minus infinity without an evaluation.
        best_step: step of that evaluation.
        weights: which weights are kept: ``last``, ``best``, with ``ema`` when averaged.
        checkpoint: the file that holds them.
        stopped_early: ended by early stopping.
        private: trained with differential privacy.
        privacy: what was spent, read from the ledger, private runs behind the starting weights included; None
            without privacy.
        own_epsilon: epsilon of the run's own steps; None without privacy.
        start: what the network started from; None for random weights.
        outside_guarantee: what the guarantee does not cover, in words.
    """

    steps: int
    epochs: int
    train_loss: float
    valid_loss: float
    metric_name: str
    metric: float
    best_value: float
    best_step: int
    weights: str
    checkpoint: Path
    stopped_early: bool
    private: bool
    privacy: PrivacySpent | None
    own_epsilon: float | None
    start: StartRecord | None
    outside_guarantee: tuple[str, ...]

    @property
    def epsilon(self) -> float:
        """Spent epsilon; infinity without privacy."""
        return self.privacy.epsilon if self.privacy else math.inf

    @property
    def delta(self) -> float:
        """The delta that epsilon is stated at; 0 without privacy."""
        return self.privacy.delta if self.privacy else 0.0
