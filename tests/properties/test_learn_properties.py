"""Guarantees of the learn room for arbitrary inputs."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.core.randomness import child
from meninx.learn.augment import Sample, augmenter
from meninx.learn.config import AugmentConfig, TransformName
from meninx.learn.sampler import PrivateSampler, ShuffleSampler, UnitBatch
from meninx.learn.task import ImageTask, one_hot
from meninx.privacy.clipping import clipped_gradient_sum
from meninx.privacy.sampling import PoissonSampler

FEW = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**32)


@FEW
@given(
    task=st.sampled_from(
        [
            ImageTask(TaskKind.MULTICLASS, ("a", "b", "c"), "ce"),
            ImageTask(TaskKind.MULTICLASS, ("a", "b", "c"), "focal"),
            ImageTask(TaskKind.MULTILABEL, ("a", "b", "c"), "bce"),
            ImageTask(TaskKind.SEGMENTATION, ("a", "b"), "dice+ce"),
            ImageTask(TaskKind.SEGMENTATION, ("a", "b"), "dice+bce"),
        ]
    ),
    seed=SEEDS,
    unknown=st.booleans(),
)
def test_the_loss_of_a_sample_does_not_depend_on_its_neighbours(
    task: ImageTask, seed: int, unknown: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (4, task.out_channels, *((3, 5) if task.kind is TaskKind.SEGMENTATION else ()))
    output = torch.randn(shape, generator=generator) * 5
    if task.kind is TaskKind.SEGMENTATION:
        target = torch.randint(0, 3, (4, 3, 5), generator=generator)
    else:
        target = one_hot(torch.randint(0, 3, (4,), generator=generator), 3)
        if unknown:
            target[1] = math.nan
    together = task.loss(output, target)
    assert together.shape == (4,)
    assert torch.isfinite(together).all()
    assert (together >= 0).all()
    for row in range(4):
        torch.testing.assert_close(task.loss(output[row : row + 1], target[row : row + 1])[0], together[row])


@FEW
@given(cases=st.integers(1, 60), batch=st.integers(1, 20), seed=SEEDS, epoch=st.integers(0, 50))
def test_a_shuffled_epoch_takes_every_case_once(cases: int, batch: int, seed: int, epoch: int) -> None:
    draw = ShuffleSampler(cases, batch, seed)
    steps = range(epoch * draw.steps_per_epoch, (epoch + 1) * draw.steps_per_epoch)
    assert sorted(case for step in steps for (case,) in draw(step).units) == list(range(cases))


@FEW
@given(sizes=st.lists(st.integers(1, 9), max_size=20), most=st.integers(1, 12))
def test_physical_batches_hold_every_unit_whole_and_once(sizes: list[int], most: int) -> None:
    groups, first = [], 0
    for size in sizes:
        groups.append(tuple(range(first, first + size)))
        first += size
    parts = list(UnitBatch(tuple(groups), first=7).microbatches(most))
    assert [group for part in parts for group in part.units] == groups
    assert all(len(part) and (part.cases <= most or len(part) == 1) for part in parts)
    assert all(part.units[0] == groups[part.first - 7] for part in parts)  # each knows its place in the step


@FEW
@given(step=st.integers(0, 1000), most=st.integers(0, 4), key=st.binary(min_size=32, max_size=32), seed=SEEDS)
def test_the_private_draw_is_the_samplers_and_chooses_within_a_patient_by_seed_alone(
    step: int, most: int, key: bytes, seed: int
) -> None:
    members = tuple(tuple(range(unit * 3, unit * 3 + 3)) for unit in range(10))
    sampler = PoissonSampler(sample_rate=0.4, n_units=10, key=key)
    draw = PrivateSampler(sampler, members, tuple(f"p{unit}" for unit in range(10)), 0.4, most, seed)
    drawn = draw(step)
    assert drawn == draw(step)
    units = sampler.draw(step)
    assert len(drawn) == len(units)
    for unit, cases in zip(units, drawn.units, strict=True):
        assert set(cases) <= set(members[unit])
        assert len(cases) == (min(most, 3) if most else 3)


@FEW
@given(
    names=st.lists(st.sampled_from(get_args(TransformName)), max_size=5),
    seed=SEEDS,
    dims=st.sampled_from([2, 3]),
)
def test_augmentation_keeps_shapes_labels_and_finiteness(names: list[str], seed: int, dims: int) -> None:
    size = (9, 7, 8)[:dims]
    info = DatasetInfo(
        name="x",
        task=TaskKind.SEGMENTATION,
        labels=("left", "right"),
        spatial_dims=dims,
        laterality=(("left", "right"),),
    )
    generator = np.random.default_rng(seed)
    mask = torch.from_numpy(generator.integers(0, 3, size))
    image = torch.from_numpy(generator.normal(size=(1, *size)).astype(np.float32))
    names = [name for name in names if dims == 3 or name != "zflip"]  # refused on pictures
    changed = augmenter(AugmentConfig(transforms=tuple(names)), info)(
        Sample(image, mask), child(seed, "augment")
    )
    assert changed.image.shape == image.shape
    assert changed.target.shape == mask.shape
    assert changed.target.dtype == torch.int64
    assert torch.isfinite(changed.image).all()
    assert set(changed.target.unique().tolist()) <= {0, 1, 2}


@FEW
@given(seed=SEEDS, views=st.integers(1, 4), norm=st.floats(0.01, 10.0), scale=st.floats(0.0, 1e4))
def test_a_unit_moves_the_sum_by_at_most_the_threshold_whatever_its_views(
    seed: int, views: int, norm: float, scale: float
) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Mish(), nn.Linear(4, 2))
    goal = ImageTask(TaskKind.MULTICLASS, ("a", "b"), "ce")
    inputs = torch.randn(3 * views, 1, 2, 3) * scale
    targets = one_hot(torch.randint(0, 2, (3,)), 2).repeat_interleave(views, 0)
    unit = torch.tensor([0, 1, 1])
    both = clipped_gradient_sum(
        model, goal.loss, inputs, targets, unit_index=unit, n_units=2, max_grad_norm=norm, views=views
    )
    alone = clipped_gradient_sum(
        model,
        goal.loss,
        inputs[:views],
        targets[:views],
        unit_index=unit[:1],
        n_units=1,
        max_grad_norm=norm,
        views=views,
    )
    change = math.sqrt(
        sum(
            float((both.gradients[name] - alone.gradients[name]).double().square().sum())
            for name in both.gradients
        )
    )
    assert change <= norm * (1 + 1e-4) or change == pytest.approx(norm, rel=1e-3)
