"""Losses that return one value a sample, shape (batch,), so that each sample's gradient can be clipped.

No loss mixes samples, branches on values or changes anything in place: all of them work under ``torch.func``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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
