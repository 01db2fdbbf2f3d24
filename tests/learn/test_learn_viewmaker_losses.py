"""The losses of a viewmaker against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from meninx.learn.viewmaker_losses import (
    contrastive_loss,
    entropy_gap,
    focal_attribute_loss,
    inverse_frequency,
)


def test_the_focal_loss_weighs_classes_and_hard_rows():
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [1.0, 1.0]])
    truth = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    right = 1 / (1 + math.exp(-2.0))
    expected = [-0.5 * (1 - right) ** 2 * math.log(right), -3.0 * right**2 * math.log(1 - right), 0.0]
    found = focal_attribute_loss(logits, truth, torch.tensor([0.5, 3.0]))
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_weights_are_inverse_to_the_frequency_and_a_class_without_rows_has_none():
    weights = inverse_frequency(np.array([0, 0, 0, 2, -1, -1]), 4)
    assert weights.tolist() == pytest.approx([2 / 3, 0.0, 2.0, 0.0])


def test_the_entropy_gap_is_zero_for_uniform_guesses_alone_and_equal_for_both_directions():
    gap = entropy_gap(torch.tensor([[1.0, 1.0, 1.0], [2.0, 1.0, 1.0], [1.0, 1.0, 2.0]]))
    assert gap[0].item() == pytest.approx(0.0, abs=1e-6)
    assert gap[1].item() == pytest.approx(gap[2].item())
    assert gap[1] > 0.05


def test_the_contrastive_loss_equals_a_loop_over_pairs():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 4, 5))
    unit = np.concatenate([first, second])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    losses = []
    for row in range(8):
        near = {other: math.exp(unit[row] @ unit[other] / 0.5) for other in range(8) if other != row}
        losses.append(-math.log(near[(row + 4) % 8] / sum(near.values())))
    expected = [(losses[row] + losses[row + 4]) / 2 for row in range(4)]
    found = contrastive_loss(*(torch.from_numpy(part).float() for part in (first, second)), temperature=0.5)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
