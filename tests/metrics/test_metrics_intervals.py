from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from meninx.metrics.evaluation import evaluate_classification
from meninx.metrics.intervals import (
    clopper_pearson,
    combined_interval,
    edge_interval,
    effective_patients,
    p_of_interval,
    rate_interval,
)
from meninx.metrics.thresholds import fit_thresholds, fixed_thresholds


@pytest.mark.parametrize(("events", "trials"), [(0, 5), (14, 14), (3, 10), (99, 100)])
def test_clopper_pearson_equals_scipy(events, trials):
    theirs = binomtest(events, trials).proportion_ci(method="exact")
    assert clopper_pearson(events, trials) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


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
    assert rate_interval(images, images, np.ones(100)) == rate_interval(patients, patients, np.ones(100))
    assert effective_patients(np.array([10.0] * 7 + [0.0] * 7), images) == pytest.approx(13, abs=0.1)


def test_a_rate_far_from_the_edge_is_resampled():
    hits, of = np.array([1.0] * 20 + [0.0] * 20), np.ones(40)
    assert rate_interval(hits, of, np.linspace(0.3, 0.7, 101)) == pytest.approx((0.31, 0.69))
    assert all(map(math.isnan, rate_interval(np.zeros(3), np.zeros(3), np.full(5, np.nan))))


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
    assert edge_interval(1.0, np.ones(10), 20) == clopper_pearson(20, 20)
    low, high = edge_interval(-1.0, -np.ones(10), 20, least=-1.0)
    assert low == -1
    assert -1 < high < -0.6
    assert edge_interval(0.5, np.full(10, 0.5), 20) == (0.5, 0.5)


def test_the_rule_covers_where_resampling_does_not():
    """Rates of 0.95 of 14 patients with three images each; the docstring states the whole simulation."""
    rng = np.random.default_rng(0)
    of = np.full(14, 3.0)
    drawn = rng.multinomial(14, np.full(14, 1 / 14), size=200)
    rule = plain = 0
    for _ in range(200):
        hits = rng.binomial(3, rng.beta(0.95 * 2, 0.05 * 2, 14)).astype(float)
        samples = (drawn @ hits) / (drawn @ of)
        low, high = rate_interval(hits, of, samples)
        rule += low <= 0.95 <= high
        plain += np.quantile(samples, 0.025) <= 0.95 <= np.quantile(samples, 0.975)
    assert plain / 200 < 0.85
    assert rule / 200 >= 0.95


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
