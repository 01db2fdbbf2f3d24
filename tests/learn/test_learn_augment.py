"""Augmentation: left and right, image and mask together, nothing in place, everything by seed."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from meninx.core.errors import ConfigError
from meninx.core.manifest import DatasetInfo, TaskKind
from meninx.core.randomness import child
from meninx.learn.augment import Sample, augmenter
from meninx.learn.config import AugmentConfig, TransformName

ON_PICTURES = tuple(name for name in get_args(TransformName) if name != "zflip")
CHEST = DatasetInfo(
    name="x",
    task=TaskKind.MULTILABEL,
    labels=("effusion_left", "nodule", "effusion_right"),
    laterality=(("effusion_left", "effusion_right"),),
)
KIDNEYS = DatasetInfo(
    name="x", task=TaskKind.SEGMENTATION, labels=("left", "right", "liver"), laterality=(("left", "right"),)
)


def applied(info: DatasetInfo, sample: Sample, *names: str, **options: object) -> Sample:
    return augmenter(AugmentConfig(transforms=names, **options), info)(sample, child(0, "test"))  # type: ignore[arg-type]


def test_a_left_right_flip_exchanges_the_lateralised_labels() -> None:
    sample = Sample(torch.arange(6.0).reshape(1, 2, 3), torch.tensor([1.0, 0.0, float("nan")]))
    flipped = applied(CHEST, sample, "flip", flip_probability=1.0)
    assert flipped.image[0, 0].tolist() == [2.0, 1.0, 0.0]
    assert torch.isnan(flipped.target[0])
    assert flipped.target[1:].tolist() == [0.0, 1.0]


def test_an_up_down_flip_does_not() -> None:
    sample = Sample(torch.arange(6.0).reshape(1, 2, 3), torch.tensor([1.0, 0.0, 0.0]))
    flipped = applied(CHEST, sample, "vflip", flip_probability=1.0)
    assert flipped.image[0, :, 0].tolist() == [3.0, 0.0]
    assert flipped.target.tolist() == [1.0, 0.0, 0.0]


def test_a_flip_moves_the_mask_and_exchanges_its_lateralised_values() -> None:
    mask = torch.tensor([[0, 1, 2], [3, 0, 255]])
    flipped = applied(KIDNEYS, Sample(mask[None].float(), mask), "flip", flip_probability=1.0)
    assert flipped.target.tolist() == [[1, 2, 0], [255, 0, 3]]


def test_left_and_right_of_a_volume_is_the_first_axis() -> None:
    volume = torch.arange(24.0).reshape(1, 2, 3, 4)
    info = DatasetInfo(name="x", task=TaskKind.SEGMENTATION, labels=("a",), spatial_dims=3)
    mask = torch.zeros(2, 3, 4, dtype=torch.int64)
    for name, axis in (("flip", 1), ("vflip", 2), ("zflip", 3)):
        assert torch.equal(
            applied(info, Sample(volume, mask), name, flip_probability=1.0).image, volume.flip(axis)
        )


@pytest.mark.parametrize("dims", [2, 3])
def test_image_and_mask_stay_together(dims: int) -> None:
    size = (20, 24, 18)[:dims]
    mask = torch.zeros(size, dtype=torch.int64)
    mask[tuple(slice(6, 14) for _ in size)] = 1
    info = DatasetInfo(name="x", task=TaskKind.SEGMENTATION, labels=("a",), spatial_dims=dims)
    for seed in range(4):
        flips = ("flip", "vflip", "zflip") if dims == 3 else ("flip", "vflip")
        chosen = augmenter(AugmentConfig(transforms=(*flips, "shift", "rotate", "crop")), info)
        moved = chosen(Sample(mask[None].float(), mask), child(seed, "t"))
        assert moved.image.shape == (1, *size)
        assert moved.target.shape == mask.shape
        assert float(((moved.image[0] > 0.5).long() != moved.target).float().mean()) < 0.06
        assert 0.5 < float(moved.target.sum() / mask.sum()) < 2.5


def test_a_flip_along_an_axis_that_pictures_lack_is_refused() -> None:
    with pytest.raises(ConfigError, match="zflip has no effect on 2-D images"):
        augmenter(AugmentConfig(transforms=("flip", "zflip")), CHEST)


def test_a_rotation_by_ninety_degrees_is_a_transposition_and_a_flip() -> None:
    image = torch.arange(16.0).reshape(1, 4, 4)
    info = DatasetInfo(name="x", task=TaskKind.MULTICLASS, labels=("a",))

    class Right(np.random.Generator):
        def uniform(self, low: object = 0.0, high: object = 1.0, size: object = None) -> object:  # type: ignore[override]
            return np.zeros(2) if size else high

    turned = augmenter(AugmentConfig(transforms=("rotate",), rotate_degrees=90.0), info)(
        Sample(image, torch.ones(1)), Right(np.random.PCG64(0))
    )
    candidates = [torch.rot90(image, turns, (1, 2)) for turns in (1, 3)]
    assert any(torch.allclose(turned.image, candidate, atol=1e-4) for candidate in candidates)


def test_a_shift_moves_by_whole_voxels_and_repeats_the_border() -> None:
    image = torch.arange(5.0).reshape(1, 1, 5).expand(1, 5, 5)
    info = DatasetInfo(name="x", task=TaskKind.MULTICLASS, labels=("a",))
    moved = applied(info, Sample(image, torch.ones(1)), "shift", shift_voxels=2).image
    step = moved[0, 0].diff()
    assert set(step.tolist()) <= {0.0, 1.0}


def test_the_same_seed_gives_the_same_sample_and_the_original_stays() -> None:
    image = torch.randn(1, 9, 9)
    kept = image.clone()
    sample = Sample(image, torch.tensor([1.0, 0.0, 0.0]))
    first, second = (applied(CHEST, sample, *ON_PICTURES) for _ in range(2))
    assert torch.equal(first.image, second.image)
    assert torch.equal(image, kept)
    assert not torch.equal(first.image, image)


def test_no_augmentation_changes_nothing() -> None:
    sample = Sample(torch.randn(1, 4, 4), torch.ones(3))
    assert torch.equal(applied(CHEST, sample).image, sample.image)
