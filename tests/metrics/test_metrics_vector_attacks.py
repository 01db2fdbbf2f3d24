"""Attacks on vectors: as strong as those of scikit-learn, and blind to rows that they may not read."""

from __future__ import annotations

import numpy as np
import pytest

from meninx.core.errors import ConfigError, DataError
from meninx.metrics.boosting import fit_boosting
from meninx.metrics.classification import auroc
from meninx.metrics.vector_attacks import VECTOR_ATTACKS, fit_ridge, fit_vector_attack, principal_components

TRAIN, VALID, TEST = np.arange(300), np.arange(300, 400), np.arange(400, 900)


def population(kind, *, features=40, seed=0):
    """Return features and classes that differ by a shift, by a radius, or in one number."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, 900)
    values = rng.normal(size=(900, features))
    if kind == "shift":
        values += 0.3 * truth[:, None]
    elif kind == "radius":
        values[:, :2] *= 3 * (1 + truth[:, None])
    else:
        values[:, 7] += 1.5 * truth
    return values, truth


def area(attack, values, truth):
    margins = attack(values[TEST])
    return auroc(truth[TEST], margins[:, 1] - margins[:, 0])


@pytest.mark.parametrize(
    ("planted", "kind", "least"),
    [("shift", "linear", 0.85), ("radius", "kernel", 0.72), ("one", "boosted", 0.8)],
)
def test_each_attack_finds_what_it_is_made_for(planted, kind, least):
    values, truth = population(planted)
    assert area(fit_vector_attack(kind, values, truth, TRAIN, VALID), values, truth) > least


def test_boosting_is_as_good_as_that_of_scikit_learn():
    ensemble = pytest.importorskip("sklearn.ensemble")
    values, truth = population("radius")
    ours = fit_boosting(values[TRAIN], truth[TRAIN], values[VALID], truth[VALID])(values[TEST])
    oracle = ensemble.GradientBoostingClassifier(max_depth=2, random_state=0).fit(values[TRAIN], truth[TRAIN])
    theirs = oracle.decision_function(values[TEST])
    assert auroc(truth[TEST], ours) > auroc(truth[TEST], theirs) - 0.03


def test_the_linear_attack_is_as_good_as_logistic_regression():
    linear_model = pytest.importorskip("sklearn.linear_model")
    values, truth = population("shift")
    oracle = linear_model.LogisticRegression(C=0.01).fit(values[TRAIN], truth[TRAIN])
    theirs = auroc(truth[TEST], oracle.decision_function(values[TEST]))
    assert area(fit_vector_attack("linear", values, truth, TRAIN, VALID), values, truth) > theirs - 0.03


@pytest.mark.parametrize("kind", VECTOR_ATTACKS)
def test_classes_of_rows_that_are_neither_fitted_nor_chosen_by_are_not_read(kind):
    values, truth = population("shift")
    other = truth.copy()
    other[TEST] = 1 - other[TEST]
    first, second = (fit_vector_attack(kind, values, given, TRAIN, VALID) for given in (truth, other))
    assert np.array_equal(first(values), second(values))


@pytest.mark.parametrize("kind", ["linear", "kernel"])
def test_many_targets_at_once_are_like_each_of_them_alone(kind):
    values, truth = population("shift")
    other = np.random.default_rng(1).permutation(truth)
    targets = np.stack([truth, other], axis=1).astype(float)
    together = fit_ridge(kind, values, targets, TRAIN, VALID, blocks=np.array([0, 1]))(values)
    for column in range(2):
        alone = fit_ridge(kind, values, targets[:, [column]], TRAIN, VALID, blocks=np.array([0]))(values)
        assert np.allclose(together[:, column], alone[:, 0])


def test_a_kernel_on_landmarks_is_close_to_the_exact_one():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 2000)
    values = rng.normal(size=(2000, 5)) * (1 + truth[:, None])
    many, few = np.arange(1200), np.arange(1200, 1400)
    margins = fit_vector_attack("kernel", values, truth, many, few)(values[1400:])
    assert auroc(truth[1400:], margins[:, 1] - margins[:, 0]) > 0.9


@pytest.mark.parametrize("kind", VECTOR_ATTACKS)
def test_images_that_are_all_alike_give_all_rows_the_same_margin(kind):
    margins = fit_vector_attack(kind, np.full((900, 9), 0.5), population("shift")[1], TRAIN, VALID)(
        np.full((4, 9), 0.5)
    )
    assert np.ptp(margins, axis=0).max() == 0


def test_several_classes_have_a_margin_each():
    values, _ = population("shift")
    truth = np.arange(900) % 3
    values[:, 0] += 4 * truth
    for kind in VECTOR_ATTACKS:
        margins = fit_vector_attack(kind, values, truth, TRAIN, VALID)(values)
        assert margins.shape == (900, 3)
        assert auroc(truth[TEST] == 2, margins[TEST, 2]) > 0.9


def test_components_of_fewer_rows_than_features_keep_their_distances():
    own = np.random.default_rng(0).normal(size=(30, 100))
    mapped = principal_components(own, whitened=False)(own)
    assert mapped.shape == (30, 10)
    assert np.allclose(mapped.mean(axis=0), 0, atol=1e-9)


def test_odd_input_is_refused():
    values, truth = population("shift")
    with pytest.raises(ConfigError):
        fit_vector_attack("forest", values, truth, TRAIN, VALID)
    with pytest.raises(DataError, match="two classes"):
        fit_vector_attack("linear", values, np.ones(900, int), TRAIN, VALID)
    values[3, 3] = np.nan
    with pytest.raises(DataError, match="finite"):
        fit_vector_attack("linear", values, truth, TRAIN, VALID)
