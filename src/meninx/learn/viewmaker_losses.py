"""Losses of a viewmaker and its opponents: adversarial, maximum entropy and contrastive.

All return one loss per row. The attackers minimise :func:`focal_attribute_loss`; a viewmaker maximises it
(zero-sum), or makes their guesses uniform (:func:`entropy_gap`), which does not reward a guess that is wrong
on purpose and could be turned round. :func:`contrastive_loss` is that of SimCLR, without any attribute.

References:
    Lin et al. (2017), Focal Loss for Dense Object Detection, ICCV. Roy and Boddeti (2019), Mitigating
    Information Leakage in Image Representations: A Maximum Entropy Approach, CVPR. Chen et al. (2020), A
    Simple Framework for Contrastive Learning of Visual Representations, ICML.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from meninx.learn.task import cross_entropy

GAMMA = 2.0
"""Exponent of the focal losses."""
_MASKED = -1e9


def inverse_frequency(classes: npt.NDArray[np.int64], count: int) -> Tensor:
    """Return a weight for each class, inverse to its frequency; the mean over the rows is 1.

    >>> inverse_frequency(np.array([0, 0, 0, 1, -1]), 2).tolist()
    [0.6666666865348816, 2.0]

    Args:
        classes: class of each row; negative where it is unknown.
        count: number of classes.
    """
    rows = np.bincount(classes[classes >= 0], minlength=count).astype(np.float64)
    weights = rows.sum() / (np.count_nonzero(rows) * np.maximum(rows, 1))
    return torch.from_numpy(np.where(rows > 0, weights, 0.0)).float()


def focal_attribute_loss(logits: Tensor, classes: Tensor, alpha: Tensor, *, gamma: float = GAMMA) -> Tensor:
    """Return the focal loss of guesses of the attribute, (rows,).

    Args:
        logits: (rows, classes).
        classes: one-hot, same shape; a row of zeros is unknown and has loss 0.
        alpha: weight of each class, (classes,).
        gamma: exponent; 0 is cross-entropy.
    """
    return cross_entropy(logits, classes, weights=alpha.to(logits.device), gamma=gamma)


def entropy_gap(logits: Tensor) -> Tensor:
    """Return how far guesses are from uniform, (rows,): cross-entropy of the uniform one minus its entropy.

    >>> [round(value, 2) for value in entropy_gap(torch.tensor([[3.0, 3.0], [0.0, 9.0]])).tolist()]
    [0.0, 3.81]
    """
    return -functional.log_softmax(logits, dim=1).mean(1) - math.log(logits.shape[1])


def contrastive_loss(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """Return the loss of telling the other view of an image from views of other images (NT-Xent), (rows,).

    Args:
        first: embeddings of one view of each image, (rows, d).
        second: of the other view, same shape.
        temperature: divides the cosine similarities.
    """
    rows = len(first)
    unit = functional.normalize(torch.cat([first, second]), dim=1)
    likeness = unit @ unit.T / temperature
    itself = torch.eye(2 * rows, dtype=torch.bool, device=likeness.device)
    partner = torch.arange(2 * rows, device=likeness.device).roll(rows)
    losses = functional.cross_entropy(likeness.masked_fill(itself, _MASKED), partner, reduction="none")
    return losses.reshape(2, rows).mean(0)
