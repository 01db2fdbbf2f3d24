from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from sklearn import metrics as oracle

from meninx.core.errors import ConfigError, DataError
from meninx.metrics import classification as ours
from meninx.metrics.calibration import calibration, ece, equal_mass_bins, recalibration
from meninx.metrics.thresholds import Threshold, fit_thresholds, fixed_thresholds


def sample(n=300, ties=2, seed=0):
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < 0.3).astype(float)
    return truth, 1 / (1 + np.exp(-np.round(truth + rng.normal(size=n), ties)))


@pytest.mark.parametrize("ties", [0, 1, 3])
def test_areas_equal_scikit_learn_with_ties(ties):
    truth, scores = sample(ties=ties)
    assert ours.auroc(truth, scores) == pytest.approx(oracle.roc_auc_score(truth, scores), abs=1e-12)
    assert ours.average_precision(truth, scores) == pytest.approx(
        oracle.average_precision_score(truth, scores), abs=1e-12
    )
    assert ours.brier(truth, scores) == pytest.approx(oracle.brier_score_loss(truth, scores), abs=1e-12)


def test_all_scores_equal_is_a_coin():
    assert ours.auroc([0, 1, 1], [0.3, 0.3, 0.3]) == 0.5


@pytest.mark.parametrize("truth", [[1, 1], [0, 0], [math.nan, 1]])
def test_one_class_has_no_area(truth):
    assert math.isnan(ours.auroc(truth, [0.1, 0.9]))


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_rates_equal_scikit_learn(threshold):
    truth, scores = sample()
    calls = scores >= threshold
    for name, theirs in {
        "accuracy": oracle.accuracy_score(truth, calls),
        "balanced_accuracy": oracle.balanced_accuracy_score(truth, calls),
        "sensitivity": oracle.recall_score(truth, calls),
        "specificity": oracle.recall_score(truth, calls, pos_label=0),
        "precision": oracle.precision_score(truth, calls),
        "f1": oracle.f1_score(truth, calls),
        "mcc": oracle.matthews_corrcoef(truth, calls),
        "selection_rate": calls.mean(),
    }.items():
        assert ours.rate(name, truth, calls) == pytest.approx(theirs, abs=1e-12), name


def test_undefined_rates_are_nan_not_zero():
    assert math.isnan(ours.rate("sensitivity", [0, 0], [True, False]))
    assert math.isnan(ours.rate("precision", [0, 1], [False, False]))
    assert math.isnan(ours.rate("mcc", [1, 1], [True, False]))
    assert ours.rate("mcc", [0, 1], [False, False]) == 0


def test_unknown_labels_are_left_out_label_by_label():
    truth = np.array([[1, 0], [0, math.nan], [1, 1], [0, 0]])
    scores = np.array([[0.9, 0.2], [0.1, 9.0], [0.8, 0.7], [0.3, 0.9]])
    assert [ours.auroc(truth[:, label], scores[:, label]) for label in range(2)] == [1.0, 0.5]


def test_mean_over_classes_equals_scikit_learn():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, 300)
    scores = rng.dirichlet(np.ones(4), 300)
    theirs = oracle.roc_auc_score(truth, scores, multi_class="ovr")
    assert np.mean([ours.auroc(truth == label, scores[:, label]) for label in range(4)]) == pytest.approx(
        theirs, abs=1e-12
    )
    called = scores.argmax(axis=1)
    assert ours.confusion(truth, called, 4).tolist() == oracle.confusion_matrix(truth, called).tolist()


@pytest.mark.parametrize(
    ("truth", "scores", "said"),
    [
        ([0, 1], [0.1, math.nan], "row 1"),
        ([0, 1], [0.1], "shape"),
        ([0, 2], [0.1, 0.2], "not 0, 1 or unknown"),
        ([1, 0], [math.inf, 0], "row 0"),
    ],
)
def test_bad_scores_are_refused(truth, scores, said):
    with pytest.raises(DataError, match=said):
        ours.auroc(truth, scores)


def test_youden_is_the_best_point_of_the_curve():
    truth, scores = sample()
    threshold = fit_thresholds(truth[:, None], scores[:, None], ["x"])[0]
    fpr, tpr, _ = oracle.roc_curve(truth, scores)
    calls = scores >= threshold.value
    got = ours.rate("sensitivity", truth, calls) + ours.rate("specificity", truth, calls) - 1
    assert got == pytest.approx((tpr - fpr).max(), abs=1e-12)
    assert threshold.n == 300


@pytest.mark.parametrize("least", [0.5, 0.9, 1.0])
def test_sensitivity_rule_is_kept_and_tight(least):
    truth, scores = sample()
    value = fit_thresholds(truth[:, None], scores[:, None], ["x"], rule=f"sensitivity>={least}")[0].value
    assert ours.rate("sensitivity", truth, scores >= value) >= least
    higher = np.unique(scores)[np.unique(scores) > value][1]
    assert ours.rate("sensitivity", truth, scores >= higher) < least


def test_a_label_without_both_classes_gets_no_threshold():
    assert fit_thresholds([[1.0, 0.0], [1.0, 1.0]], [[0.2, 0.3], [0.3, 0.4]], ["x", "y"])[0].label == "y"
    assert fit_thresholds([[1.0], [1.0]], [[0.2], [0.3]], ["x"]) == ()
    assert fixed_thresholds(["x"]) == (Threshold(label="x", value=0.5, rule="fixed"),)


@pytest.mark.parametrize("rule", ["best", "sensitivity>=0", "sensitivity>=2"])
def test_unknown_rules_are_refused(rule):
    with pytest.raises(ConfigError, match="youden"):
        fit_thresholds([[1.0], [0.0]], [[0.2], [0.3]], ["x"], rule=rule)


def test_calibration_finds_the_planted_slope_and_intercept():
    rng = np.random.default_rng(0)
    logit = rng.normal(size=20_000)
    truth = (rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * logit)))).astype(float)
    intercept, slope = recalibration(truth, 1 / (1 + np.exp(-logit)))
    assert slope == pytest.approx(0.5, abs=0.04)
    assert intercept == pytest.approx(0, abs=0.05)
    found = calibration(truth, 1 / (1 + np.exp(-logit)), "x", rng)
    assert found.ece > 3 * found.ece_null
    assert len(found.predicted) == 15


def test_perfect_probabilities_show_only_the_error_of_chance():
    rng = np.random.default_rng(0)
    p = rng.random(2000)
    found = calibration((rng.random(2000) < p).astype(float), p, "x", rng)
    assert found.ece == pytest.approx(found.ece_null, abs=0.015)
    assert found.slope == pytest.approx(1, abs=0.15)


def test_small_tables_get_fewer_bins_and_separated_classes_no_slope():
    truth, p = np.array([0.0] * 10 + [1.0] * 15), np.linspace(0.01, 0.99, 25)
    assert len(equal_mass_bins(truth, p)[0]) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(recalibration(truth, p)[1])
    assert math.isnan(ece([], []))
