"""Losses by numbers computed by hand, one value a sample, and what a task makes of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from meninx.core.errors import ConfigError
from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.learn import task
from meninx.learn.config import LearnConfig
from meninx.learn.task import ImageTask, image_task

NAN = math.nan


def test_cross_entropy_is_torchs_for_every_class_and_the_last() -> None:
    logits = torch.randn(5, 4)
    index = torch.tensor([0, 1, 2, 3, 3])
    mine = task.cross_entropy(logits, task.one_hot(index, 4))
    torch.testing.assert_close(mine, functional.cross_entropy(logits, index, reduction="none"))


def test_smoothing_and_weights_are_torchs() -> None:
    logits, index, weights = torch.randn(3, 4), torch.tensor([0, 3, 1]), torch.tensor([1.0, 2.0, 0.5, 3.0])
    mine = task.cross_entropy(logits, task.one_hot(index, 4), weights=weights, smoothing=0.1)
    torch.testing.assert_close(
        mine, functional.cross_entropy(logits, index, weight=weights, label_smoothing=0.1, reduction="none")
    )


def test_unknown_labels_neither_count_nor_divide() -> None:
    logits = torch.tensor([[0.0, 100.0, -3.0], [1.0, 2.0, 3.0]], requires_grad=True)
    target = torch.tensor([[1.0, NAN, NAN], [NAN, NAN, NAN]])
    value = task.binary_cross_entropy(logits, target)
    torch.testing.assert_close(value, torch.tensor([math.log(2), 0.0]))
    value.sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]))


def test_binary_cross_entropy_is_torchs_with_positive_weights() -> None:
    logits, target, weights = (
        torch.randn(6, 3),
        torch.randint(0, 2, (6, 3)).float(),
        torch.tensor([1.0, 5.0, 0.2]),
    )
    mine = task.binary_cross_entropy(logits, target, weights=weights)
    theirs = functional.binary_cross_entropy_with_logits(
        logits, target, pos_weight=weights, reduction="none"
    ).mean(1)
    torch.testing.assert_close(mine, theirs)


def test_focal_loss_is_cross_entropy_times_the_power_of_the_error() -> None:
    logits, index = torch.randn(5, 3), torch.tensor([0, 1, 2, 2, 0])
    plain = functional.cross_entropy(logits, index, reduction="none")
    torch.testing.assert_close(
        task.cross_entropy(logits, task.one_hot(index, 3), gamma=2.0),
        (1 - torch.exp(-plain)) ** 2 * plain,
    )
    target = torch.tensor([[1.0], [0.0]])
    value = task.binary_cross_entropy(torch.zeros(2, 1), target, gamma=2.0)
    torch.testing.assert_close(value, torch.full((2,), 0.25 * math.log(2)))


def test_soft_dice_of_known_masks() -> None:
    truth = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    half = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    torch.testing.assert_close(task.soft_dice(truth, truth), torch.zeros(1))
    torch.testing.assert_close(task.soft_dice(half, truth, smooth=0.0), torch.tensor([1 - 2 / 3]))
    empty = torch.zeros(1, 1, 4)
    torch.testing.assert_close(
        task.soft_dice(empty, empty), torch.zeros(1)
    )  # nothing there, nothing said: right
    torch.testing.assert_close(task.soft_dice(truth, empty), torch.tensor([1 - 1 / 3]))


def test_dice_is_weighted_by_public_numbers() -> None:
    truth = torch.tensor([[[1.0], [1.0]]])
    said = torch.tensor([[[1.0], [0.0]]])
    value = task.soft_dice(said, truth, weights=torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(value, torch.tensor([0.25 * 0.5]))


def test_voxels_out_of_range_are_ignored_by_cross_entropy() -> None:
    logits = torch.randn(1, 2, 3)
    index = torch.tensor([[0, 1, 255]])
    expected = functional.cross_entropy(logits, index, ignore_index=255, reduction="mean")
    torch.testing.assert_close(task.cross_entropy(logits, task.one_hot(index, 2)), expected[None])


SEGMENTATION_LOSSES = ("ce", "focal", "dice", "dice+ce", "dice+bce", "bce")


@pytest.mark.parametrize("name", SEGMENTATION_LOSSES)
def test_segmentation_is_right_when_the_logits_are_and_wrong_when_not(name: str) -> None:
    goal = ImageTask(TaskKind.SEGMENTATION, ("liver", "tumour"), name)
    truth = torch.randint(0, 3, (2, 5, 6))
    truth[1] = 0
    truth[0, 0, :2] = torch.tensor([1, 2])
    good = task.one_hot(truth, 3) * 40 - 20
    good = good[:, 1:] if goal.sigmoid else good
    assert good.shape[1] == goal.out_channels
    assert torch.all(goal.loss(good, truth) < 1e-3)
    assert torch.all(goal.loss(-good, truth)[:1] > 0.5)
    assert torch.equal(goal.label_map(good), truth)


def test_dice_never_counts_the_background() -> None:
    goal = ImageTask(TaskKind.SEGMENTATION, ("liver",), "dice")
    truth = torch.zeros(1, 100, dtype=torch.int64)
    truth[0, :4] = 1
    background = torch.stack([torch.full((1, 100), 20.0), torch.full((1, 100), -20.0)], 1)
    assert float(goal.loss(background, truth)) > 0.75


@pytest.mark.parametrize(
    ("task", "wrong"),
    [
        (TaskKind.MULTICLASS, "bce"),
        (TaskKind.MULTILABEL, "ce"),
        (TaskKind.MULTICLASS, "dice"),
        (TaskKind.MULTILABEL, "dice+bce"),
    ],
)
def test_a_loss_of_another_task_is_refused(task: TaskKind, wrong: str) -> None:
    with pytest.raises(ConfigError, match="loss"):
        image_task(DatasetInfo(name="x", task=task, labels=("a", "b")), LearnConfig.of(loss=wrong).task)


def test_class_weights_must_match_the_outputs() -> None:
    info = DatasetInfo(name="x", task=TaskKind.SEGMENTATION, labels=("a",))
    assert image_task(info, LearnConfig.of(class_weights=(0.1, 0.9)).task).weights == (0.1, 0.9)
    with pytest.raises(ConfigError, match="2 class weights"):
        image_task(info, LearnConfig.of(class_weights=(0.1,)).task)


def test_multiclass_row_of_unknowns_costs_nothing() -> None:
    goal = ImageTask(TaskKind.MULTICLASS, ("a", "b"), "ce")
    value = goal.loss(torch.randn(2, 2), torch.tensor([[NAN, NAN], [0.0, 1.0]]))
    assert float(value[0]) == 0
    assert float(value[1]) > 0
