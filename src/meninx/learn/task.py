"""What a dataset's task means for a network: output channels, loss, activation, decision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meninx.core.errors import ConfigError, expected
from meninx.core.manifest import DatasetInfo, Task
from meninx.learn import losses
from meninx.learn.config import LearnConfig

_LOSSES_OF = {
    Task.MULTICLASS: ("ce", "focal"),
    Task.MULTILABEL: ("bce", "focal"),
    Task.SEGMENTATION: ("dice+ce", "dice+bce", "dice", "ce", "bce", "focal"),
}


@dataclass(frozen=True)
class Objective:
    """The task of a dataset together with the loss chosen for it.

    Segmentation with ``bce`` or ``dice+bce`` gives one sigmoid channel a label; with the other losses a
    softmax over the background and the labels. Dice never counts the background.

    Attributes:
        task: what is learnt.
        labels: label names, in output order.
        loss_name: one of the losses of the task.
        weights: public class weights, or empty.
        smoothing: label smoothing.
        focal_gamma: exponent of the focal loss.
    """

    task: Task
    labels: tuple[str, ...]
    loss_name: str
    weights: tuple[float, ...] = ()
    smoothing: float = 0.0
    focal_gamma: float = 2.0

    @property
    def sigmoid(self) -> bool:
        """Whether each output channel is decided on its own."""
        return self.task is Task.MULTILABEL or (self.task is Task.SEGMENTATION and "bce" in self.loss_name)

    @property
    def out_channels(self) -> int:
        """Outputs of the network."""
        background = self.task is Task.SEGMENTATION and not self.sigmoid
        return len(self.labels) + int(background)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each sample, (batch,).

        Args:
            output: logits, (batch, out_channels, ...).
            target: classification: (batch, labels) with NaN for unknown; segmentation: label map (batch,
                ...).
        """
        if self.task is Task.SEGMENTATION:
            return self._segmentation_loss(output, target)
        weights = self._weights(output)
        gamma = self.focal_gamma if self.loss_name == "focal" else 0.0
        if self.task is Task.MULTILABEL:
            return losses.binary_cross_entropy(
                output, target, weights=weights, smoothing=self.smoothing, gamma=gamma
            )
        truth = torch.nan_to_num(target)
        return losses.cross_entropy(output, truth, weights=weights, smoothing=self.smoothing, gamma=gamma)

    def probabilities(self, output: Tensor) -> Tensor:
        """Return probabilities of the shape of ``output``."""
        return torch.sigmoid(output) if self.sigmoid else torch.softmax(output, dim=1)

    def label_map(self, output: Tensor) -> Tensor:
        """Return integers 0..labels, (batch, ...), from segmentation logits; 0 is background."""
        if not self.sigmoid:
            return output.argmax(1)
        best = output.amax(1)
        return torch.where(best > 0, output.argmax(1) + 1, 0)

    def _segmentation_loss(self, output: Tensor, target: Tensor) -> Tensor:
        names = self.loss_name.split("+")
        every = losses.one_hot(target, len(self.labels) + 1)
        truth = every[:, 1:] if self.sigmoid else every
        weights = self._weights(output)
        gamma = self.focal_gamma if "focal" in names else 0.0
        total = torch.zeros(output.shape[0], dtype=output.dtype, device=output.device)
        if "dice" in names:
            probability = self.probabilities(output)
            kept = probability if self.sigmoid else probability[:, 1:]
            inner = weights if weights is None or self.sigmoid else weights[1:]
            total = total + losses.soft_dice(kept, every[:, 1:], weights=inner)
        if "ce" in names or "focal" in names:
            total = total + losses.cross_entropy(
                output, truth, weights=weights, smoothing=self.smoothing, gamma=gamma
            )
        if "bce" in names:
            total = total + losses.binary_cross_entropy(
                output, truth, weights=weights, smoothing=self.smoothing
            )
        return total / len(names)

    def _weights(self, like: Tensor) -> Tensor | None:
        return torch.tensor(self.weights, device=like.device) if self.weights else None


def objective(info: DatasetInfo, config: LearnConfig, *, weights: tuple[float, ...] = ()) -> Objective:
    """Return the objective of a dataset under a config.

    Args:
        info: task and labels.
        config: loss, smoothing and, when public numbers, the class weights.
        weights: class weights computed elsewhere; they replace those of the config.

    Raises:
        ConfigError: a loss that the task does not have, or another number of class weights than outputs.
    """
    allowed = _LOSSES_OF[info.task]
    name = allowed[0] if config.loss == "auto" else config.loss
    if name not in allowed:
        raise ConfigError(
            expected(f"a loss for {info.task}: {', '.join(allowed)}", got=repr(name), where="loss")
        )
    public = config.class_weights if isinstance(config.class_weights, tuple) else ()
    result = Objective(
        info.task,
        info.labels,
        name,
        weights or public,
        config.label_smoothing,
        focal_gamma=config.focal_gamma,
    )
    if result.weights and len(result.weights) != result.out_channels:
        got = f"{len(result.weights)} numbers"
        raise ConfigError(expected(f"{result.out_channels} class weights", got=got, where="class_weights"))
    return result
