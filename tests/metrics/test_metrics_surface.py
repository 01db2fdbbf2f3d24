from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from meninx.core.errors import DataError
from meninx.metrics.segmentation import evaluate_segmentation
from meninx.metrics.surface import SurfaceTable, compare_surfaces


def blobs(dims, seed):
    rng = np.random.default_rng(seed)
    shape = (24, 20, 14)[:dims]
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    truth, found = np.zeros(shape, int), np.zeros(shape, int)
    for label in (1, 2):
        for table in (truth, found):
            centre = rng.uniform(0.3, 0.7, dims) * shape
            inside = ((grid - centre.reshape(-1, *[1] * dims)) ** 2).sum(0) < rng.uniform(3, 6) ** 2
            table[inside] = label
    return found, truth


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")  # MONAI's own
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0), (1.0, 1.0, 1.0), (0.7, 0.7, 3.0)])
def test_distances_equal_those_of_monai(spacing, seed):
    found, truth = blobs(len(spacing), seed)
    case = compare_surfaces(found, truth, 2, spacing=spacing, tolerance=1.5)
    hot = [
        torch.from_numpy(np.stack([table == label for label in (0, 1, 2)])[None].astype(np.float32))
        for table in (found, truth)
    ]
    hd95 = compute_hausdorff_distance(*hot, percentile=95, spacing=spacing)[0]
    share = compute_surface_dice(*hot, class_thresholds=[1.5, 1.5], spacing=spacing)[0]
    assert case.hd95 == pytest.approx(hd95.numpy(), abs=1e-4)
    assert case.surface_dice == pytest.approx(share.numpy(), abs=1e-6)


def test_a_shift_by_hand_in_millimetres():
    truth, found = np.zeros((20, 20), int), np.zeros((20, 20), int)
    truth[5:15, 5:15], found[8:18, 5:15] = 1, 1
    near = compare_surfaces(found, truth, 1, spacing=(2.0, 1.0), tolerance=6.0)
    assert (near.hd95[0], near.surface_dice[0]) == (6.0, 1.0)
    assert compare_surfaces(found, truth, 1, spacing=(2.0, 1.0), tolerance=0.0).surface_dice[0] < 0.5
    assert compare_surfaces(truth, truth, 1, spacing=(2.0, 1.0), tolerance=0.0).hd95[0] == 0


def test_empty_masks_follow_the_convention_of_the_dice():
    empty, full = np.zeros((3, 4), int), np.ones((3, 4), int)
    both = compare_surfaces(empty, empty, 1, spacing=(1.0, 1.0), tolerance=1.0)
    assert math.isnan(both.hd95[0])
    assert math.isnan(both.surface_dice[0])
    assert not both.one_empty[0]
    for pair in ((empty, full), (full, empty)):
        one = compare_surfaces(*pair, 1, spacing=(1.0, 1.0), tolerance=1.0)
        assert (one.hd95[0], one.surface_dice[0], one.one_empty[0]) == (5.0, 0.0, True)


def test_other_shapes_are_refused():
    with pytest.raises(DataError, match="shape"):
        compare_surfaces(np.zeros((2, 2)), np.zeros((2, 3)), 1, spacing=(1, 1), tolerance=1)
    with pytest.raises(DataError, match="3 spacings"):
        compare_surfaces(np.zeros((2, 2)), np.zeros((2, 2)), 1, spacing=(1, 1, 1), tolerance=1)


def test_an_evaluation_gives_the_distances_per_label_with_intervals_over_patients():
    table = SurfaceTable(tolerance=1.0, unit="mm")
    dice = np.random.default_rng(0).uniform(0.5, 0.9, (24, 2))
    for seed in range(24):
        found, truth = blobs(2, seed)
        table.cases.append(compare_surfaces(found, truth, 2, spacing=(1.0, 1.0), tolerance=1.0))
    result = evaluate_segmentation(
        dice, np.arange(24) // 2, ["organ", "lesion"], {}, seed=0, draws=100, surfaces=table
    )
    for name, values in (("hd95", table.hd95), ("surface_dice", table.surface_dice)):
        found = result.find(name, "lesion")
        assert found.value == pytest.approx(np.nanmean(values[:, 1]))
        assert found.low < found.value < found.high
        assert found.patients == 12
    assert any("in mm" in note for note in result.notes)
    assert any("within 1 mm" in note for note in result.notes)
    assert np.array_equal(table.columns([1]).hd95, table.hd95[:, [1]])


def test_a_model_that_finds_nothing_is_not_certain_to_find_nothing():
    found = evaluate_segmentation(np.zeros((15, 1)), np.arange(15), ["organ"], {}, seed=0, draws=50)
    dice = found.find("dice", "organ")
    assert (dice.value, dice.low) == (0.0, 0.0)
    assert 0.2 < dice.high < 0.25
