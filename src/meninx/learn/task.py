"""What a dataset's task means for a network: output channels, loss, activation, decision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from meninx.core.errors import ConfigError, expected
from meninx.core.manifest import DatasetInfo, Task
from meninx.learn.config import LearnConfig


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    gamma: float = 0.0,
) -> Tensor:
    """Return the weighted (focal) cross-entropy of each sample, averaged over its voxels.

    The average is over the voxels, not over the weights: a sample's loss depends on nothing but the sample.

    Args:
        logits: (batch, classes, ...).
        target: one-hot, same shape; a voxel whose row is all zero is unknown and counts as zero.
        weights: public class weights, (classes,).
        smoothing: share of the target given evenly to all classes.
        gamma: focal exponent; 0 is plain cross-entropy.

    References:
        Lin et al. 2017, "Focal loss for dense object detection", equation 5.
    """
    classes = logits.shape[1]
    known = target.sum(1, keepdim=True)
    smooth = target * (1 - smoothing) + known * smoothing / classes
    log_probability = functional.log_softmax(logits, dim=1)
    terms = -smooth * log_probability
    if gamma:
        terms = terms * (1 - log_probability.exp()) ** gamma
    if weights is not None:
        terms = terms * _along_channels(weights, terms)
    if logits.ndim == 2:
        return terms.sum(1)
    return _mean_over_known(terms.sum(1), known.squeeze(1))


def binary_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    gamma: float = 0.0,
) -> Tensor:
    """Return the (focal) binary cross-entropy of each sample, averaged over its known labels and voxels.

    Args:
        logits: (batch, labels, ...).
        target: 0, 1 or NaN (unknown, left out), same shape.
        weights: public weights of the positives, (labels,).
        smoothing: targets move this far towards one half.
        gamma: focal exponent; 0 is plain cross-entropy.
    """
    known = ~torch.isnan(target)
    truth = torch.nan_to_num(target) * (1 - smoothing) + smoothing / 2
    positive, negative = -functional.logsigmoid(logits), -functional.logsigmoid(-logits)
    if gamma:
        positive = positive * torch.sigmoid(-logits) ** gamma
        negative = negative * torch.sigmoid(logits) ** gamma
    if weights is not None:
        positive = positive * _along_channels(weights, positive)
    return _mean_over_known(truth * positive + (1 - truth) * negative, known.to(logits.dtype))


def soft_dice(
    probability: Tensor, target: Tensor, *, smooth: float = 1.0, weights: Tensor | None = None
) -> Tensor:
    """Return 1 - soft Dice of each sample, averaged over the channels given.

    A channel that is empty in truth and prediction scores 1 (loss 0). The background is excluded by not
    passing it.

    Args:
        probability: (batch, channels, ...), in [0, 1].
        target: 0 or 1, same shape.
        smooth: added to numerator and denominator, in voxels.
        weights: public channel weights, (channels,); the average is then weighted.

    References:
        Milletari et al. 2016, "V-Net: fully convolutional neural networks for volumetric medical image
        segmentation".
    """
    axes = tuple(range(2, probability.ndim))
    overlap = (probability * target).sum(axes)
    total = probability.sum(axes) + target.sum(axes)
    loss = 1 - (2 * overlap + smooth) / (total + smooth)
    return loss.mean(1) if weights is None else (loss * weights).sum(1) / weights.sum()


def one_hot(index: Tensor, classes: int) -> Tensor:
    """Return (batch, classes, ...) of 0.0 and 1.0 from integers (batch, ...).

    Values out of range give all zeros.
    """
    values = torch.arange(classes, device=index.device).reshape(1, classes, *[1] * (index.ndim - 1))
    return (index.unsqueeze(1) == values).to(torch.float32)


def _mean_over_known(terms: Tensor, known: Tensor) -> Tensor:
    flat, mask = terms.flatten(1), known.flatten(1)
    return torch.where(mask > 0, flat, 0.0).sum(1) / mask.sum(1).clamp(min=1.0)


def _along_channels(weights: Tensor, like: Tensor) -> Tensor:
    return weights.to(like.dtype).reshape(1, -1, *[1] * (like.ndim - 2))


pass

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
            return binary_cross_entropy(
                output, target, weights=weights, smoothing=self.smoothing, gamma=gamma
            )
        truth = torch.nan_to_num(target)
        return cross_entropy(output, truth, weights=weights, smoothing=self.smoothing, gamma=gamma)

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
        every = one_hot(target, len(self.labels) + 1)
        truth = every[:, 1:] if self.sigmoid else every
        weights = self._weights(output)
        gamma = self.focal_gamma if "focal" in names else 0.0
        total = torch.zeros(output.shape[0], dtype=output.dtype, device=output.device)
        if "dice" in names:
            probability = self.probabilities(output)
            kept = probability if self.sigmoid else probability[:, 1:]
            inner = weights if weights is None or self.sigmoid else weights[1:]
            total = total + soft_dice(kept, every[:, 1:], weights=inner)
        if "ce" in names or "focal" in names:
            total = total + cross_entropy(
                output, truth, weights=weights, smoothing=self.smoothing, gamma=gamma
            )
        if "bce" in names:
            total = total + binary_cross_entropy(output, truth, weights=weights, smoothing=self.smoothing)
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
