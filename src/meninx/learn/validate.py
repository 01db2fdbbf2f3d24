"""How good a model is on the validation split: mean loss and one metric, higher is better."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from meninx.core.errors import ConfigError, expected
from meninx.core.manifest import Task
from meninx.learn.config import LearnConfig
from meninx.learn.data import CaseStore
from meninx.learn.infer import outputs
from meninx.learn.task import Objective
from meninx.metrics import classification, segmentation


@dataclass(frozen=True)
class Score:
    """One evaluation.

    Attributes:
        loss: mean over cases of the training loss.
        metric: macro AUROC over the labels, or mean hard Dice over cases and labels without background, where
            a label missing in truth and prediction is left out; NaN when undefined.
        name: ``auroc`` or ``dice``.
    """

    loss: float
    metric: float
    name: str

    def value(self, monitor: str) -> float:
        """Return the number to maximise: the metric, or minus the loss when asked or when the metric is undefined."""
        return -self.loss if monitor == "loss" or math.isnan(self.metric) else self.metric


def score(
    model: nn.Module, store: CaseStore, objective: Objective, config: LearnConfig, device: torch.device
) -> Score:
    """Return the score of ``model`` on all cases of ``store``; leaves the model in evaluation mode."""
    losses: list[float] = []
    values: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = []
    mapped = objective.task is Task.SEGMENTATION
    for index, logits in outputs(model, store, config, device):
        target = store.target(index)
        losses.append(float(objective.loss(logits[None], target[None])))
        if mapped:
            called = objective.label_map(logits[None])[0].numpy()
            values.append(segmentation.dice(called, target.numpy(), len(objective.labels)))
        else:
            values.append(objective.probabilities(logits[None])[0].double().numpy())
    loss = float(np.mean(losses)) if losses else math.nan
    if not values:
        return Score(loss, math.nan, "dice" if mapped else "auroc")
    if mapped:
        return Score(loss, _mean_defined(np.stack(values)), "dice")
    areas = [
        classification.auroc(truth, called)
        for truth, called in zip(store.targets.numpy().T, np.stack(values).T, strict=True)
    ]
    return Score(loss, _mean_defined(np.array(areas)), "auroc")


@torch.no_grad()
def probe(model: nn.Module, store: CaseStore, objective: Objective, device: torch.device) -> None:
    """Refuse a network that cannot be trained on the first training case.

    Leaves model and generators as they were.

    Raises:
        ConfigError: the network does not take such images, or gives outputs of another shape than the task
            needs.
        DataError: the case cannot be read.
    """
    sample = store.patch(0, np.random.default_rng(0), foreground=0.0)
    training = model.training
    model.eval()
    try:
        output = model(sample.image[None].to(device))
    except (RuntimeError, ValueError, IndexError) as error:
        got = f"{tuple(sample.image.shape)}"
        fix = "give image_size, patch_size or another model"
        raise ConfigError(
            expected("images that the network takes", got=got, where="model", fix=fix)
        ) from error
    finally:
        model.train(training)
    space = tuple(sample.target.shape) if objective.task is Task.SEGMENTATION else ()
    if tuple(output.shape) != (1, objective.out_channels, *space):
        got = f"outputs of shape {tuple(output.shape[1:])}"
        fix = (
            "use a segmentation network, e.g. unet" if space else "use a classification network, e.g. resnet9"
        )
        raise ConfigError(expected(f"a network for {objective.task}", got=got, where="model", fix=fix))


def _mean_defined(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
