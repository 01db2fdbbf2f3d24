"""Cases as tensors: normalised, padded, cut into patches, refused when they do not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from meninx.core import integrity
from meninx.core.errors import DataError
from meninx.core.intensity import Intensity
from meninx.core.manifest import Manifest, TaskKind
from meninx.core.randomness import child
from meninx.imaging import load
from meninx.imaging.image import Image
from meninx.learn.config import ModelConfig
from meninx.learn.data import CaseStore, padded, split_store, unpadded

Data = Callable[..., Manifest]


def overwrite(manifest: Manifest, index: int, array: np.ndarray, kind: str = "image") -> Path:
    path = manifest.root / getattr(manifest.cases[index], kind)
    load.save(path, Image(array))
    return path


def test_values_are_clipped_shifted_and_scaled(dataset: Data) -> None:
    manifest = dataset()
    manifest = replace(
        manifest, info=replace(manifest.info, intensity=Intensity(window=(50, 150), shift=100, scale=50))
    )
    array = np.zeros((1, 16, 16), np.uint8)
    array[0, 0, :3] = 20, 100, 250
    overwrite(manifest, 0, array)
    image = CaseStore(manifest, ModelConfig()).image(0)
    assert image[0, 0, :3].tolist() == [-1.0, 0.0, 1.0]
    assert image.dtype == torch.float32


def test_channels_are_converted(dataset: Data) -> None:
    manifest = dataset()
    colour = replace(manifest, info=replace(manifest.info, channels=3))
    assert CaseStore(colour, ModelConfig()).image(0).shape == (3, 16, 16)
    overwrite(manifest, 0, np.stack([np.full((16, 16), value, np.uint8) for value in (0, 100, 200)]))
    grey = CaseStore(manifest, ModelConfig()).image(0)
    assert grey.shape == (1, 16, 16)
    assert float(grey[0, 0, 0]) == pytest.approx((100 - 127.5) / 127.5)


def test_channels_that_are_images_of_their_own_are_never_converted(dataset: Data) -> None:
    manifest = dataset()
    array = np.stack([np.full((16, 16), value, np.uint8) for value in (0, 100, 200)])
    overwrite(manifest, 0, array)
    names = replace(manifest.info, channels=3, channel_names=("T1", "T2", "FLAIR"))
    store = CaseStore(replace(manifest, info=names), ModelConfig())
    image = store.image(0)
    assert [round(float(value)) for value in image[:, 0, 0] * 127.5 + 127.5] == [0, 100, 200]
    with pytest.raises(DataError, match=r"3 channels, got 1.*row 3"):
        store.image(1)
    one = replace(manifest.info, channel_names=("T1",))
    with pytest.raises(DataError, match=r"1 channels, got 3.*row 2"):
        CaseStore(replace(manifest, info=one), ModelConfig()).image(0)
    two = replace(manifest.info, channels=2)  # without names, too: only grey and colour are converted
    with pytest.raises(DataError, match=r"2 channels, got 3.*row 2"):
        CaseStore(replace(manifest, info=two), ModelConfig()).image(0)


def test_another_size_is_refused_with_its_row_and_what_to_do(dataset: Data) -> None:
    manifest = dataset()
    overwrite(manifest, 9, np.zeros((1, 12, 16), np.uint8))
    store = split_store(manifest, "valid", ModelConfig())
    with pytest.raises(DataError, match=r"row 11.*patch_size"):
        store.sample(1)


def test_image_size_pads_smaller_images_with_the_lowest_value_and_refuses_larger_ones(dataset: Data) -> None:
    manifest = dataset(TaskKind.SEGMENTATION)
    store = CaseStore(manifest, ModelConfig(image_size=(20, 18)))
    sample = store.sample(0)
    assert sample.image.shape == (1, 20, 18)
    assert sample.target.shape == (20, 18)
    assert float(sample.image[0, 0, 0]) == -1.0
    assert np.array_equal(
        unpadded(sample.target.numpy(), store.shape(0)),
        load.load(manifest.root / manifest.cases[0].mask).array[0],
    )
    with pytest.raises(DataError, match="size"):
        CaseStore(manifest, ModelConfig(image_size=(8, 20))).sample(0)


def test_nan_is_refused_with_its_row(dataset: Data) -> None:
    manifest = dataset(TaskKind.SEGMENTATION, size=(12, 12, 12), cases=2, valid=0)
    array = np.zeros((1, 12, 12, 12), np.float32)
    array[0, 3, 3, 3] = np.nan
    path = manifest.root / manifest.cases[1].image
    import nibabel

    nibabel.save(nibabel.Nifti1Image(array[0], np.eye(4)), path)
    with pytest.raises(DataError, match="row 3"):
        CaseStore(manifest, ModelConfig()).sample(1)


def test_a_missing_file_names_the_row(dataset: Data) -> None:
    manifest = dataset()
    (manifest.root / manifest.cases[0].image).unlink()
    with pytest.raises(DataError, match=r"manifest\.csv, row 2"):
        CaseStore(manifest, ModelConfig()).sample(0)


def test_a_changed_image_is_refused_with_its_row_where_the_dataset_carries_digests(dataset: Data) -> None:
    manifest = dataset()
    root = manifest.root
    integrity.write(root, integrity.measured(root, [root / case.image for case in manifest.cases]))
    manifest = Manifest.read(root)
    position = next(index for index, case in enumerate(manifest.cases) if case.split == "valid")
    store = split_store(manifest, "valid", ModelConfig())
    assert store.image(0).shape == (1, 16, 16)
    overwrite(manifest, position, np.full((1, 16, 16), 7, np.uint8))
    with pytest.raises(
        DataError, match=rf"expected the image that was prepared.*manifest\.csv, row {position + 2}"
    ):
        split_store(manifest, "valid", ModelConfig()).image(0)


def test_a_case_without_a_mask_is_all_background(dataset: Data) -> None:
    manifest = dataset(TaskKind.SEGMENTATION)
    cases = (replace(manifest.cases[0], mask=""), *manifest.cases[1:])
    assert int(CaseStore(replace(manifest, cases=cases), ModelConfig()).target(0).sum()) == 0


def test_a_mask_of_another_size_is_refused(dataset: Data) -> None:
    manifest = dataset(TaskKind.SEGMENTATION)
    overwrite(manifest, 0, np.zeros((1, 4, 4), np.uint8), "mask")
    with pytest.raises(DataError, match="mask of the image's size"):
        CaseStore(manifest, ModelConfig()).sample(0)


def test_patches_lie_inside_and_find_the_foreground_when_asked(dataset: Data) -> None:
    manifest = dataset(TaskKind.SEGMENTATION, size=(40, 40), cases=4)
    store = CaseStore(manifest, ModelConfig(patch_size=(8, 8)))
    found = []
    for seed in range(20):
        patch = store.patch(seed % 4, child(seed, "p"), foreground=1.0)
        assert patch.image.shape == (1, 8, 8)
        assert patch.target.shape == (8, 8)
        found.append(bool(patch.target.any()))
    assert all(found)
    blind = [bool(store.patch(seed % 4, child(seed, "p"), foreground=0.0).target.any()) for seed in range(20)]
    assert not all(blind)


def test_a_patch_larger_than_the_image_is_padded(dataset: Data) -> None:
    store = CaseStore(dataset(TaskKind.SEGMENTATION), ModelConfig(patch_size=(24, 10)))
    assert store.patch(0, child(0, "p"), foreground=0.0).image.shape == (1, 24, 10)


def test_what_is_kept_in_memory_has_a_limit_and_changes_nothing(dataset: Data) -> None:
    manifest = dataset()
    small, large = (CaseStore(manifest, ModelConfig(), memory=size) for size in (300, 10**9))
    for index in (0, 1, 0, 1):
        assert torch.equal(small.image(index), large.image(index))
    assert len(small._kept) == 1
    assert len(large._kept) == 2


def test_padding_and_its_inverse() -> None:
    value = torch.arange(6).reshape(2, 3)
    assert np.array_equal(unpadded(padded(value, (5, 4), 9).numpy(), (2, 3)), value.numpy())
