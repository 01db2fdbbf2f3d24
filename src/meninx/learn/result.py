"""What training returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
        epsilon: spent epsilon; infinity without privacy.
        delta: at this delta; 0 without privacy.
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
    epsilon: float
    delta: float
    outside_guarantee: tuple[str, ...]
