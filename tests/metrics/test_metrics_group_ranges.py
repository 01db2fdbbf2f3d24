"""Worst group, largest differences beside chance, small groups, age bins and calibration by group."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest

from meninx.metrics.age_trend import trend_samples
from meninx.metrics.bootstrap import Draws
from meninx.metrics.calibration import ece
from meninx.metrics.classification import auroc
from meninx.metrics.evaluation import evaluate_classification
from meninx.metrics.groups import grouping
from meninx.metrics.thresholds import fixed_thresholds


def cohort(n=600, seed=0, *, harm=0.0, groups="FM"):
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < 0.4).astype(float)[:, None]
    group = rng.choice(list(groups), n)
    weak = (group == groups[0])[:, None] * harm
    scores = 1 / (1 + np.exp(-(2 - weak) * (truth - 0.5) - rng.normal(size=(n, 1))))
    return truth, scores, group


def evaluated(truth, scores, attributes, patient=None, **settings):
    patient = np.arange(len(truth)) if patient is None else patient
    common = {"task": "multilabel", "seed": 0, "draws": 50, **settings}
    return evaluate_classification(
        truth, scores, patient, ["x"], attributes, fixed_thresholds(["x"]), **common
    )


def ranges(found):
    return {item.name: item for item in found.ranges}


@pytest.mark.parametrize("groups", ["FM", "ABC"])
def test_largest_differences_are_those_of_their_definitions(groups):
    truth, scores, group = cohort(groups=groups)
    found = ranges(evaluated(truth, scores, {"sex": group.tolist()}))
    called, sick = scores[:, 0] >= 0.5, truth[:, 0] == 1
    rates = {
        name: [called[(group == one) & part].mean() for one in groups]
        for name, part in (("tpr", sick), ("fpr", ~sick), ("sr", np.ones(len(group), bool)))
    }
    spread = {name: max(values) - min(values) for name, values in rates.items()}
    areas = [auroc(truth[group == one, 0], scores[group == one, 0]) for one in groups]
    whole = auroc(truth[:, 0], scores[:, 0])
    expected = {
        "demographic_parity_difference": spread["sr"],
        "equal_opportunity_difference": spread["tpr"],
        "equalised_odds_difference": max(spread["tpr"], spread["fpr"]),
        "auroc_range": max(areas) - min(areas),
        "worst_group_auroc": min(areas),
        "es_auroc": whole / (1 + sum(abs(whole - area) for area in areas)),
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name
    assert found["worst_group_auroc"].group == groups[int(np.argmin(areas))]


@pytest.mark.skipif(importlib.util.find_spec("fairlearn") is None, reason="fairlearn is not installed")
def test_largest_differences_are_those_of_fairlearn():
    from fairlearn import metrics

    truth, scores, group = cohort(groups="ABC", harm=1.0)
    found = ranges(evaluated(truth, scores, {"sex": group.tolist()}))
    called = (scores[:, 0] >= 0.5).astype(int)
    for name, theirs in (
        ("demographic_parity_difference", metrics.demographic_parity_difference),
        ("equal_opportunity_difference", metrics.equal_opportunity_difference),
        ("equalised_odds_difference", metrics.equalized_odds_difference),
    ):
        wanted = theirs(truth[:, 0].astype(int), called, sensitive_features=group)
        assert found[name].value == pytest.approx(wanted, abs=1e-12), name


def test_the_accuracy_gap_is_the_difference_to_the_weighted_mean_of_the_other_groups():
    """The second seed calls it statistical parity; the selection-rate difference has another name."""
    truth, scores, group = cohort(groups="ABC", harm=1.0)
    found = evaluated(truth, scores, {"sex": group.tolist()})
    right = (scores[:, 0] >= 0.5) == (truth[:, 0] == 1)
    sizes = {one: int((group == one).sum()) for one in "ABC"}
    accuracy = {one: right[group == one].mean() for one in "ABC"}
    for one in "ABC":
        others = [other for other in "ABC" if other != one]
        rest = sum(sizes[other] * accuracy[other] for other in others) / sum(sizes[other] for other in others)
        row = next(item for item in found.gaps if (item.name, item.group) == ("acc_gap", one))
        assert row.value == pytest.approx(accuracy[one] - rest, abs=1e-12)
        called = scores[:, 0] >= 0.5
        parity = next(item for item in found.gaps if (item.name, item.group) == ("spd", one))
        assert parity.value == pytest.approx(
            called[group == one].mean() - called[group != one].mean(), abs=1e-12
        )


def test_chance_explains_a_difference_of_groups_drawn_by_lot_and_not_a_planted_one():
    named = ("auroc_range", "equalised_odds_difference", "equal_opportunity_difference")
    below = []
    for seed in range(6):
        truth, scores, group = cohort(seed=seed, groups="ABC")
        found = ranges(evaluated(truth, scores, {"sex": group.tolist()}, draws=10))
        below += [found[name].value <= found[name].chance for name in named]
        assert all(found[name].value >= 0 for name in named)
        assert math.isnan(found["auroc_range"].low)
    assert np.mean(below) >= 0.75
    truth, scores, group = cohort(harm=2.0, n=1200)
    found = ranges(evaluated(truth, scores, {"sex": group.tolist()}, draws=10))
    assert all(found[name].value > found[name].chance for name in named)


def test_small_groups_have_neither_numbers_nor_sizes():
    truth, scores, _ = cohort(120)
    sites = ["x"] * 75 + ["y"] * 38 + ["z"] * 7
    found = evaluated(truth, scores, {"site": sites})
    small = [item for item in (*found.groups, *found.gaps) if item.group == "other"]
    assert small
    assert {(item.note, item.n, item.patients, item.positives) for item in small} == {
        ("insufficient", 0, 0, None)
    }
    assert all(math.isnan(item.value) for item in small)
    assert {item.positives for item in found.groups} == {None}  # all positives minus these would be the rest
    assert "other" not in {item.group for item in (*found.ranges, *found.group_calibration, *found.group_roc)}


def test_age_bins_of_few_patients_are_joined_by_rule():
    ages = ["25"] * 3 + ["50"] * 40 + ["65"] * 12 + ["75"] * 4 + ["85"] * 2 + [""]
    found = grouping("age", ages)
    assert found.names == ("[0,60)", "[60,+)")
    assert np.bincount(found.index[found.index >= 0]).tolist() == [43, 18]
    assert found.index[-1] == -1
    apart = grouping("age", ["50"] * 40 + ["85"] * 12)
    assert apart.names[1] == "[30,60)"
    assert apart.names[-1] == "[80,+)"
    images = grouping("age", ["50"] * 40 + ["85"] * 12, np.array([*range(40), *[40] * 12]))
    assert "[30,+)" in images.names  # twelve images of one patient are one patient


def test_the_trend_is_the_slope_of_the_area_over_age():
    rng = np.random.default_rng(0)
    n, ages = 4000, rng.uniform(20, 80, 4000)
    truth = (rng.random(n) < 0.5).astype(float)
    scores = truth * (ages - 20) / 20 + rng.normal(size=n)
    samples = trend_samples(truth, scores, ages, Draws(np.arange(n), 100, 0))
    assert samples[0] > 0.02
    assert np.quantile(samples[1:], 0.025) < samples[0] < np.quantile(samples[1:], 0.975)
    flat = trend_samples(truth, truth + rng.normal(size=n), ages, Draws(np.arange(n), 100, 0))
    assert np.quantile(flat[1:], 0.025) < 0 < np.quantile(flat[1:], 0.975)
    assert np.isnan(trend_samples(truth, scores, np.full(n, 50.0), Draws(np.arange(n), 3, 0))).all()


def test_the_trend_of_placements_is_that_computed_case_by_case():
    rng = np.random.default_rng(1)
    truth, scores, ages = rng.integers(0, 2, 60), rng.integers(0, 9, 60), rng.integers(20, 90, 60)
    high, low = scores[truth == 1], scores[truth == 0]
    win = lambda a, b: (a > b) + 0.5 * (a == b)  # noqa: E731
    placed = np.array([
        win(s, low).mean() if t else win(high, s).mean() for t, s in zip(truth, scores, strict=True)
    ])  # fmt: skip
    weight = np.where(truth == 1, 0.5 / high.size, 0.5 / low.size)
    slope = np.polyfit(ages / 10, placed, 1, w=np.sqrt(weight))[0]
    found = trend_samples(
        truth.astype(float), scores.astype(float), ages.astype(float), Draws(np.arange(60), 2, 0)
    )
    assert found[0] == pytest.approx(slope, abs=1e-12)


def test_calibration_is_given_for_every_group_with_its_size():
    truth, scores, group = cohort(harm=1.0)
    found = evaluated(truth, scores, {"sex": group.tolist()})
    rows = {item.group: item for item in found.group_calibration}
    assert set(rows) == {"F", "M"}
    for name, row in rows.items():
        inside = group == name
        assert (row.n, row.patients) == (inside.sum(), inside.sum())
        assert row.prevalence == pytest.approx(truth[inside, 0].mean(), abs=1e-4)
        assert row.ece == pytest.approx(ece(truth[inside, 0], scores[inside, 0]), abs=1e-4)
        squares = (truth[inside, 0] - scores[inside, 0]) ** 2
        assert row.brier == pytest.approx(squares.mean(), abs=1e-4)
        assert row.predicted == row.observed == ()
        assert 0 < row.ece_null < 0.2
    assert rows["F"].slope < rows["M"].slope
    curves = {item.group: item.tpr for item in found.group_roc}
    assert {len(curve) for curve in curves.values()} == {101}
    assert (curves["F"][0] >= 0, curves["F"][-1]) == (True, 1.0)
