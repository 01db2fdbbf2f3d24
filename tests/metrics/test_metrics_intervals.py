from __future__ import annotations

import math

import numpy as np
import pytest

from meninx.core.proportions import clopper_pearson
from meninx.metrics.evaluation import evaluate_classification
from meninx.metrics.intervals import (
    combined_interval,
    edge_interval,
    effective_patients,
    p_of_interval,
    rate_interval,
)
from meninx.metrics.thresholds import fit_thresholds, fixed_thresholds


def test_14_of_14_is_not_certain():
    """The interval was [1, 1]."""
    truth = np.array([1.0] * 14 + [0.0] * 40)[:, None]
    scores = np.where(truth == 1, 0.9, np.tile([[0.1], [0.6]], (27, 1)))
    found = evaluate_classification(
        truth, scores, np.arange(54), ["x"], {}, fixed_thresholds(["x"]), task="multilabel", seed=0, draws=200
    )
    sensitivity = found.find("sensitivity", "x")
    assert (sensitivity.value, sensitivity.high) == (1.0, 1.0)
    assert sensitivity.low == pytest.approx(0.768, abs=1e-3)
    balanced = found.find("balanced_accuracy", "x")
    assert 0 < balanced.low < balanced.value < balanced.high < 1
    area = found.find("auroc", "x")
    assert (area.value, area.high) == (1.0, 1.0)
    assert area.low == sensitivity.low  # 14 pairs of independent patients
    assert all(item.low < item.high for item in found.metrics)


def test_images_of_one_patient_are_not_independent():
    patients, images = np.ones(14), np.full(14, 10.0)
    assert rate_interval(images, images) == rate_interval(patients, patients)
    assert effective_patients(np.array([10.0] * 7 + [0.0] * 7), images) == pytest.approx(13, abs=0.1)


def test_a_rate_of_independent_patients_is_that_of_clopper_and_pearson():
    hits, of = np.array([1.0] * 20 + [0.0] * 20), np.ones(40)
    assert rate_interval(hits, of) == pytest.approx(clopper_pearson(20, 40), abs=0.01)
    assert all(map(math.isnan, rate_interval(np.zeros(3), np.zeros(3))))


def test_a_perfect_mcc_has_width():
    """The MCC of eight right cases is 0.9999999999999999; its interval was [1, 1]."""
    truth = np.array([[0.0], [1.0]] * 4)
    found = evaluate_classification(
        truth, truth, np.arange(8), ["x"], {}, fixed_thresholds(["x"]), task="multilabel", seed=0, draws=200
    )
    mcc = found.find("mcc", "x")
    assert mcc.value == pytest.approx(1)
    assert mcc.low < 0.5
    assert mcc.high == 1
    assert edge_interval(1 - 2**-53, np.array([1.0, 1 - 2**-53]), 4, least=-1.0)[0][0] < 0.5


def test_groups_without_an_error_have_no_certain_gap():
    """Two groups that were all called right had a gap of 0 [0, 0]."""
    truth = np.tile([[0.0], [1.0]], (40, 1))
    found = evaluate_classification(
        truth,
        truth,
        np.arange(80),
        ["x"],
        {"sex": ["F", "F", "M", "M"] * 20},
        fixed_thresholds(["x"]),
        task="multilabel",
        seed=0,
        draws=100,
    )
    [gap] = [item for item in found.gaps if item.name == "tpr_gap"]
    assert gap.value == 0
    assert gap.low == pytest.approx(-gap.high)
    assert 0.1 < gap.high < 0.2
    assert gap.p_holm == 1.0
    assert all(item.low < item.high for item in found.groups)


def test_the_interval_of_a_difference_goes_with_its_p_value():
    ends = combined_interval((0.9, 0.5), (0.8, 0.95), (0.4, 0.6), signs=(1, -1))
    assert ends[0] < 0.4 < ends[1]
    assert p_of_interval(0.4, (0.0, 0.8)) == pytest.approx(0.05, abs=1e-6)
    assert p_of_interval(-0.4, (-0.8, 0.0)) == pytest.approx(0.05, abs=1e-6)
    assert (p_of_interval(0.0, (0.0, 0.0)), p_of_interval(0.2, (0.2, 0.2))) == (1.0, 0.0)
    assert math.isnan(p_of_interval(math.nan, (math.nan, math.nan)))


def test_ends_of_a_range_have_an_interval_and_other_constants_keep_theirs():
    assert edge_interval(1.0, np.ones(10), 20) == (clopper_pearson(20, 20), "Clopper-Pearson")
    (low, high), _ = edge_interval(-1.0, -np.ones(10), 20, least=-1.0)
    assert low == -1
    assert -1 < high < -0.6
    assert edge_interval(0.5, np.full(10, 0.5), 20) == ((0.5, 0.5), "percentile")


def covered(images, rate, correlation, repeats=200):
    """Return how often the interval and that of resamples hold the rate of simulated patients."""
    rng = np.random.default_rng(0)
    scale, patients = 1 / correlation - 1, len(images)
    drawn = rng.multinomial(patients, np.full(patients, 1 / patients), size=200)
    rule = plain = 0
    for _ in range(repeats):
        of = rng.permutation(images).astype(float)
        hits = rng.binomial(of.astype(int), rng.beta(rate * scale, (1 - rate) * scale, patients)).astype(
            float
        )
        low, high = rate_interval(hits, of)
        rule += low <= rate <= high
        low, high = np.quantile((drawn @ hits) / (drawn @ of), (0.025, 0.975))
        plain += low <= rate <= high
    return rule / repeats, plain / repeats


def test_the_rule_covers_where_resampling_does_not():
    """Rates of 0.95 of 14 patients with three images each; the docstring states the whole simulation."""
    rule, plain = covered([3] * 14, 0.95, 1 / 3)
    assert plain < 0.85
    assert rule >= 0.95


def test_the_rule_covers_where_a_few_patients_have_most_images():
    """More than ten patients have a miss, so that the interval was that of the resamples: 89 % here."""
    images = [1] * 92 + [2] * 50 + [5] * 24 + [12] * 12 + [30] * 4 + [61] * 2
    rule, plain = covered(images, 0.9, 0.3, repeats=400)
    assert plain < 0.92
    assert rule >= 0.93


def one_class(labels, task):
    """A test split with both classes, decided by thresholds of a validation split with one class of ``b``."""
    truth = (
        np.tile([[0.0, 0.0], [1.0, 1.0]], (30, 1)) if task == "multilabel" else np.tile(np.eye(2), (30, 1))
    )
    valid = np.array([[0.0, 0.0], [1.0, 0.0]] * 10)
    scores = np.random.default_rng(0).random((60, 2))
    fitted = fit_thresholds(valid, scores[:20], labels)
    attributes = {"sex": ["F", "F", "M", "M"] * 15}
    return evaluate_classification(
        truth, scores, np.arange(60), labels, attributes, fitted, task=task, seed=0, draws=50
    )


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_a_label_with_one_class_in_validation_has_no_threshold_no_rate_and_no_gap(task):
    """Two classes were decided by the higher score, that is, by a threshold of 0.5."""
    found = one_class(["a", "b"], task)
    assert "b" not in {item.label for item in found.thresholds}
    of_b = [item for item in (*found.metrics, *found.groups, *found.gaps) if item.label == "b"]
    assert {item.name for item in of_b} == {"auroc", "average_precision", "brier", "auroc_gap"}
    assert "b" not in found.confusion
    assert found.confusion.get("") is None


def test_a_label_with_one_class_in_test_has_no_area_and_no_gap():
    truth = np.tile([[0.0, 0.0], [1.0, 0.0]], (30, 1))
    scores = np.random.default_rng(0).random((60, 2))
    attributes = {"sex": ["F", "F", "M", "M"] * 15}
    found = evaluate_classification(
        truth,
        scores,
        np.arange(60),
        ["a", "b"],
        attributes,
        fixed_thresholds(["a", "b"]),
        task="multilabel",
        seed=0,
        draws=50,
    )
    area = found.find("auroc", "b")
    assert math.isnan(area.value)
    assert area.note == "one class only"
    assert found.headline.value == found.find("auroc", "a").value
    assert all(math.isnan(item.value) for item in found.gaps if item.label == "b")


def test_the_mean_over_labels_is_as_uncertain_as_its_labels():
    """Two labels that are always right had a mean of 1 [1, 1]."""
    truth = np.tile([[0.0, 0.0], [1.0, 1.0]], (20, 1))
    both = evaluate_classification(
        truth,
        truth,
        np.arange(40),
        ["a", "b"],
        {},
        fixed_thresholds(["a", "b"]),
        task="multilabel",
        seed=0,
        draws=50,
    )
    mean, one = both.find("sensitivity"), both.find("sensitivity", "a")
    assert (mean.low, mean.high) == (one.low, 1.0)
    scores = np.column_stack((truth[:, 0], np.random.default_rng(0).random(40)))
    mixed = evaluate_classification(
        truth,
        scores,
        np.arange(40),
        ["a", "b"],
        {},
        fixed_thresholds(["a", "b"]),
        task="multilabel",
        seed=0,
        draws=50,
    )
    assert mixed.find("sensitivity").high - mixed.find("sensitivity").low > (1 - one.low) / 2
