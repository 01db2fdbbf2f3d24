from __future__ import annotations

import math

import numpy as np
import pytest

from meninx.core.errors import DataError
from meninx.metrics.estimates import Evaluation
from meninx.metrics.segmentation import compare_segmentation, dice, evaluate_segmentation, iou_of_dice


def test_dice_and_iou_by_hand():
    truth = np.array([[0, 1, 1], [2, 2, 0]])
    called = np.array([[0, 1, 0], [2, 2, 2]])
    assert dice(called, truth, 2) == pytest.approx([2 / 3, 4 / 5])
    assert iou_of_dice(dice(called, truth, 2)) == pytest.approx([1 / 2, 2 / 3])


def test_empty_masks_one_is_zero_both_is_left_out():
    empty, full = np.zeros((2, 2), int), np.ones((2, 2), int)
    assert dice(empty, full, 1).tolist() == [0.0] == dice(full, empty, 1).tolist()
    assert math.isnan(dice(empty, empty, 1)[0])


def test_background_does_not_count():
    called = np.zeros((10, 10), int)
    truth = called.copy()
    truth[0, 0] = 1
    assert dice(called, truth, 1).tolist() == [0.0]


@pytest.mark.parametrize(
    ("called", "said"), [(np.zeros((2, 3)), "shape"), (np.full((2, 2), 3), "labels 0 .. 1")]
)
def test_bad_label_maps_are_refused(called, said):
    with pytest.raises(DataError, match=said):
        dice(called, np.zeros((2, 2)), 1)


def evaluated(seed=0):
    rng = np.random.default_rng(seed)
    table = np.clip(rng.normal([0.8, 0.6], 0.1, (60, 2)), 0, 1)
    table[:5, 1] = np.nan
    patients = np.repeat(np.arange(30), 2)
    attributes = {"sex": ["F", "F", "M", "M"] * 15, "age": ["50"] * 55 + ["85"] * 5}
    return table, patients, attributes


def test_evaluation_counts_empty_masks_and_shows_both_conventions():
    table, patients, attributes = evaluated()
    found = evaluate_segmentation(table, patients, ["organ", "lesion"], attributes, seed=0, draws=200)
    assert found.empty_masks == {"organ": 0, "lesion": 5}
    lesion = found.find("dice", "lesion")
    assert lesion.value == pytest.approx(np.nanmean(table[:, 1]))
    assert lesion.n == 55
    assert lesion.low < lesion.value < lesion.high
    assert found.find("dice_empty_as_one", "lesion").value > lesion.value
    assert found.headline.value == pytest.approx(np.nanmean(table, axis=0).mean())
    assert found.find("iou", "organ").value == pytest.approx(np.mean(table[:, 0] / (2 - table[:, 0])))
    assert any("empty" not in note or "left out" in note for note in found.notes)
    assert Evaluation.from_table(found.to_table()).to_table() == found.to_table()


def test_small_groups_are_insufficient():
    table, patients, attributes = evaluated()
    attributes["scanner"] = ["x"] * 55 + ["y"] * 5
    found = evaluate_segmentation(table, patients, ["organ", "lesion"], attributes, seed=0, draws=100)
    rare = found.find("dice", "", "scanner", "other")
    assert math.isnan(rare.value)
    assert (rare.note, rare.n, rare.patients) == ("insufficient", 0, 0)
    [gap] = [item for item in found.gaps if item.attribute == "sex"]
    sex = {item.group: item.value for item in found.groups if item.attribute == "sex"}
    assert gap.value == pytest.approx(sex["F"] - sex["M"])


def test_paired_difference_of_a_shifted_model_is_sharp():
    table, patients, attributes = evaluated()
    rows = compare_segmentation(
        table - 0.05, table, patients, ["organ", "lesion"], attributes, seed=0, draws=100
    )
    assert rows[0].value == pytest.approx(-0.05)
    assert rows[0].high - rows[0].low < 1e-9


def test_no_cases_is_refused():
    with pytest.raises(DataError, match="at least one case"):
        evaluate_segmentation(np.zeros((0, 1)), [], ["organ"], {}, seed=0)


def test_groups_of_few_patients_are_insufficient_however_many_cases_they_have():
    table, _, _ = evaluated()
    patients = np.concatenate((np.arange(9).repeat(4), np.arange(9, 33)))
    sexes = {"sex": ["F"] * 36 + ["M"] * 24}
    found = evaluate_segmentation(table, patients, ["organ", "lesion"], sexes, seed=0, draws=50)
    assert {item.group for item in found.groups} == {"other", "M"}  # nine patients are no group of their own
    few = next(item for item in found.groups if item.group == "other")
    assert (few.patients, few.n, few.note) == (0, 0, "insufficient")  # a size of nine is not published
