"""Tasks: the loss of a row and the metrics of a set of cases.

:class:`ImageTask` is the task of a prepared dataset (classification, multi-label, segmentation) and
:class:`PairTask` that of a network that compares two inputs. Any object with the three members of
:class:`Task` is a task::

    class Regression:
        metric = "minus_error"

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (outputs - targets).square().flatten(1).mean(1)

        def metrics(self, results: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
            errors = [float((output - target).abs().mean()) for output, target in results]
            return {"loss": sum(errors) / len(errors), "minus_error": -sum(errors) / len(errors)}
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from meninx.core.errors import ConfigError, expected
from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.learn.config import AUTO_MODEL, LearnConfig, TaskConfig
from meninx.metrics import classification, segmentation
from meninx.models import network_names

ConfigT = TypeVar("ConfigT", bound=LearnConfig)


class Task(Protocol):
    """The objective of a training: loss and metrics."""

    @property
    def metric(self) -> str:
        """Name of the metric to follow, one of those of :meth:`metrics`; higher is better."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each row, (rows,), computed from the row alone.

        Args:
            outputs: of the network, of leading length rows.
            targets: of the batch, of the same leading length.
        """

    def metrics(self, results: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return ``loss`` (the mean) and the metrics of cases; NaN where one is undefined.

        Args:
            results: output and target of each case, without a batch axis, on the CPU; read once.
        """


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    gamma: float = 0.0,
) -> Tensor:
    """Return the weighted (focal) cross-entropy of each sample, averaged over its voxels.

    The average is over the voxels and not over the weights of the batch, so that the loss of a sample depends
    on that sample alone, as per-unit clipping requires.

    Args:
        logits: (batch, classes, ...).
        target: one-hot, same shape; a voxel whose row is all zero is unknown and adds nothing.
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
        smoothing: share of each target that is replaced by one half.
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

    A channel that is empty in truth and prediction has loss 0. To exclude the background, the caller leaves
    its channel out.

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
    """Return (batch, classes, ...) of 0.0 and 1.0 from integers (batch, ...); all 0 if out of range."""
    values = torch.arange(classes, device=index.device).reshape(1, classes, *[1] * (index.ndim - 1))
    return (index.unsqueeze(1) == values).to(torch.float32)


def _mean_over_known(terms: Tensor, known: Tensor) -> Tensor:
    flat, mask = terms.flatten(1), known.flatten(1)
    return torch.where(mask > 0, flat, 0.0).sum(1) / mask.sum(1).clamp(min=1.0)


def _along_channels(weights: Tensor, like: Tensor) -> Tensor:
    return weights.to(like.dtype).reshape(1, -1, *[1] * (like.ndim - 2))


_LOSSES_OF = {
    TaskKind.MULTICLASS: ("ce", "focal"),
    TaskKind.MULTILABEL: ("bce", "focal"),
    TaskKind.SEGMENTATION: ("dice+ce", "dice+bce", "dice", "ce", "bce", "focal"),
}


@dataclass(frozen=True)
class ImageTask:
    """The task of a prepared dataset together with its loss.

    Segmentation with ``bce`` or ``dice+bce`` uses one sigmoid channel per label, and with the other losses a
    softmax over the background and the labels. Dice never counts the background.

    Attributes:
        kind: classification, multi-label or segmentation.
        labels: label names, in output order.
        loss_name: one of the losses of the task.
        weights: public class weights, or empty.
        smoothing: label smoothing.
        focal_gamma: exponent of the focal loss.
    """

    kind: TaskKind
    labels: tuple[str, ...]
    loss_name: str
    weights: tuple[float, ...] = ()
    smoothing: float = 0.0
    focal_gamma: float = 2.0

    @property
    def sigmoid(self) -> bool:
        """Whether the output channels are independent, each with a sigmoid."""
        return self.kind is TaskKind.MULTILABEL or (
            self.kind is TaskKind.SEGMENTATION and "bce" in self.loss_name
        )

    @property
    def out_channels(self) -> int:
        """Number of outputs of the network."""
        background = self.kind is TaskKind.SEGMENTATION and not self.sigmoid
        return len(self.labels) + int(background)

    @property
    def metric(self) -> str:
        """``dice`` or ``auroc``."""
        return "dice" if self.kind is TaskKind.SEGMENTATION else "auroc"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each row, (rows,).

        Args:
            output: logits, (rows, out_channels, ...).
            target: classification: (batch, labels) with NaN for unknown; segmentation: label map (batch,
                ...).
        """
        if self.kind is TaskKind.SEGMENTATION:
            return self._segmentation_loss(output, target)
        weights = self._weights(output)
        gamma = self.focal_gamma if self.loss_name == "focal" else 0.0
        if self.kind is TaskKind.MULTILABEL:
            return binary_cross_entropy(
                output, target, weights=weights, smoothing=self.smoothing, gamma=gamma
            )
        truth = torch.nan_to_num(target)
        return cross_entropy(output, truth, weights=weights, smoothing=self.smoothing, gamma=gamma)

    def metrics(self, results: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return ``loss`` and ``auroc`` or ``dice`` over cases.

        ``auroc`` is the mean over the labels. ``dice`` is that of hard label maps, averaged over cases and
        labels without background; a label missing in both truth and prediction is left out.
        """
        losses: list[float] = []
        truths, values = [], []
        for logits, target in results:
            losses.append(float(self.loss(logits[None], target[None])))
            if self.kind is TaskKind.SEGMENTATION:
                predicted = self.label_map(logits[None])[0].numpy()
                values.append(segmentation.dice(predicted, target.numpy(), len(self.labels)))
            else:
                truths.append(target.numpy())
                values.append(self.probabilities(logits[None])[0].double().numpy())
        if not values:
            return {"loss": math.nan, self.metric: math.nan}
        scores = np.stack(values)
        if truths:
            pairs = zip(np.stack(truths).T, scores.T, strict=True)
            scores = np.array([classification.auroc(truth, score) for truth, score in pairs])
        return {"loss": float(np.mean(losses)), self.metric: _mean_defined(scores)}

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


def with_network(config: ConfigT, info: DatasetInfo) -> ConfigT:
    """Return the settings with the name of a network for a dataset's task.

    ``auto`` becomes ``unet`` for segmentation and ``resnet9`` otherwise; both take 2 and 3 dimensions.

    Raises:
        ConfigError: the named network is built in, but for another task.
    """
    if config.model.name == AUTO_MODEL:
        return config.replace(model="unet" if info.task is TaskKind.SEGMENTATION else "resnet9")
    network_names.refuse_other_task(config.model.name, info.task)
    return config


def image_task(info: DatasetInfo, config: TaskConfig, *, weights: tuple[float, ...] = ()) -> ImageTask:
    """Return the task of a dataset under a config.

    Args:
        info: task and labels.
        config: loss, smoothing and, if they are public numbers, the class weights.
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
    result = ImageTask(
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


@dataclass(frozen=True)
class PairTask:
    """The task of deciding whether two inputs match, by the distance of their embeddings.

    The network maps pairs (rows, 2, ...) to embeddings (rows, 2, features); targets (rows,) are 1 for a
    matching pair and 0 for any other.

    Attributes:
        margin: distance from which a pair that does not match has no loss, > 0.

    References:
        Hadsell, Chopra, LeCun (2006), Dimensionality Reduction by Learning an Invariant Mapping, equation 4.
    """

    margin: float = 1.0

    @property
    def metric(self) -> str:
        """``auroc`` of the negative distance."""
        return "auroc"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the contrastive loss of each pair, (rows,)."""
        distance = pair_distance(outputs)
        apart = (self.margin - distance).clamp(min=0.0)
        same = targets.reshape(len(outputs)).to(distance.dtype)
        return same * distance.square() + (1 - same) * apart.square()

    def metrics(self, results: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return ``loss`` and ``auroc`` over pairs."""
        pairs = list(results)
        if not pairs:
            return {"loss": math.nan, "auroc": math.nan}
        outputs = torch.stack([output for output, _ in pairs])
        targets = torch.stack([target for _, target in pairs]).reshape(len(pairs))
        area = classification.auroc(targets.double().numpy(), -pair_distance(outputs).double().numpy())
        return {"loss": float(self.loss(outputs, targets).mean()), "auroc": float(area)}


def pair_distance(outputs: Tensor) -> Tensor:
    """Return the Euclidean distance of the embeddings of each row, (rows,), differentiable everywhere.

    The constant under the root keeps the gradient finite where two embeddings are equal.
    """
    return (outputs[:, 0] - outputs[:, 1]).square().sum(1).add(1e-12).sqrt()


def _mean_defined(values: npt.NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
