from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score

from meninx.core.errors import ConfigError, DataError, LayoutError
from meninx.metrics.calibration import calibration, ece, equal_mass_bins
from meninx.metrics.estimates import Evaluation
from meninx.metrics.evaluation import evaluate_classification
from meninx.metrics.groups import grouping, strata
from meninx.metrics.paired_difference import GAP_NAMES, compare, verdict
from meninx.metrics.segmentation import evaluate_segmentation
from meninx.metrics.thresholds import fit_thresholds, fixed_thresholds

LABELS = ("a", "b", "c")


def cohort(n=500, seed=0):
    rng = np.random.default_rng(seed)
    patient = np.sort(rng.integers(0, n // 2, n))
    truth = (rng.random((n, 3)) < [0.4, 0.3, 0.02]).astype(float)
    truth[:, 2] = np.arange(n) % (n // 8) == 0  # eight or nine positives
    truth[:, :2][rng.random((n, 2)) < 0.05] = np.nan
    scores = 1 / (1 + np.exp(-(1.5 * np.nan_to_num(truth) - 1 + rng.normal(size=(n, 3)))))
    sex, age = rng.choice(["F", "M"], n), rng.integers(20, 95, n)
    attributes = {"sex": [str(sex[p]) for p in patient], "age": [str(age[p]) for p in patient]}
    return truth, scores, patient, attributes


def evaluated(**changes):
    truth, scores, patient, attributes = cohort()
    settings = {"task": "multilabel", "seed": 0, "draws": 200, **changes}
    return evaluate_classification(
        truth, scores, patient, LABELS, attributes, fit_thresholds(truth, scores, LABELS), **settings
    )


def test_overall_metrics_hold_value_interval_n_and_patients():
    truth, scores, _, _ = cohort()
    found = evaluated()
    known = ~np.isnan(truth[:, 0])
    area = found.find("auroc", "a")
    assert area.value == pytest.approx(roc_auc_score(truth[known, 0], scores[known, 0]), abs=1e-12)
    assert (area.n, area.positives) == (known.sum(), int((truth[:, 0] == 1).sum()))
    for item in found.metrics:
        assert item.low <= item.value <= item.high, item
        assert item.n >= item.patients > 0
    assert found.headline.note == "mean over labels"
    assert found.metrics[0].name == "auroc"


def test_json_round_trip_is_exact_and_free_of_nan():
    found = evaluated()
    text = json.dumps(found.to_table(), allow_nan=False)
    assert Evaluation.from_table(json.loads(text)).to_table() == found.to_table()
    assert json.dumps(evaluated().to_table()) == text


def test_no_single_case_leaves_in_the_table():
    _, scores, _, _ = cohort()
    text = json.dumps(evaluated().to_table())
    assert not [value for value in scores.ravel() if repr(float(value)) in text]


@pytest.mark.parametrize("change", [{"version": 2}, {"extra": 1}, {"metrics": None}])
def test_a_strange_table_is_refused(change):
    with pytest.raises(LayoutError, match=r"evaluation\.json"):
        Evaluation.from_table({**evaluated(draws=5).to_table(), **change})


def test_small_cells_get_no_number():
    found = evaluated()
    assert not [item for item in found.groups if item.label == "c" and item.value == item.value]
    assert {item.note for item in found.gaps if item.label == "c"} == {"insufficient"}
    assert {item.positives for item in (*found.gaps, *found.groups) if item.label == "c"} == {None}
    assert "c" not in found.roc
    assert found.find("auroc", "c").note.startswith("fewer than 10")


def test_gaps_are_group_minus_rest_for_every_definition():
    truth, scores, _, attributes = cohort()
    found = evaluated()
    calls = scores >= [t.value for t in found.thresholds]
    female = np.array(attributes["sex"]) == "F"
    by_hand = {
        "tpr_gap": lambda rows: calls[rows & (truth[:, 0] == 1), 0].mean(),
        "fpr_gap": lambda rows: calls[rows & (truth[:, 0] == 0), 0].mean(),
        "spd": lambda rows: calls[rows & ~np.isnan(truth[:, 0]), 0].mean(),
        "acc_gap": lambda rows: (calls[:, 0] == truth[:, 0])[rows & ~np.isnan(truth[:, 0])].mean(),
        "auroc_gap": lambda rows: roc_auc_score(
            truth[rows & (truth[:, 0] >= 0), 0], scores[rows & (truth[:, 0] >= 0), 0]
        ),
    }
    rows = {item.name: item for item in found.gaps if (item.label, item.attribute) == ("a", "sex")}
    assert set(rows) == set(by_hand)
    for name, metric in by_hand.items():
        assert rows[name].value == pytest.approx(metric(female) - metric(~female), abs=1e-12), name
        assert rows[name].group == "F"
        assert 0 <= rows[name].p_holm <= 1


def test_a_planted_gap_is_found_and_none_is_not():
    truth, scores, patient, attributes = cohort(n=1500)
    rng = np.random.default_rng(5)
    male = np.array(attributes["sex"]) == "M"
    scores[male] = rng.random((male.sum(), 3))
    found = evaluate_classification(
        truth, scores, patient, LABELS, {"sex": attributes["sex"]}, task="multilabel", seed=0, draws=300
    )
    gap = next(item for item in found.gaps if item.label == "a")
    assert gap.low > 0.05
    assert gap.p_holm < 1e-6
    areas = {item.group: item.value for item in found.groups if (item.name, item.label) == ("auroc", "a")}
    assert areas["M"] < areas["F"]


def test_two_classes_are_one_question():
    truth, scores, patient, attributes = cohort()
    yes = np.nan_to_num(truth[:, 0])
    pair, score = np.column_stack((1 - yes, yes)), np.column_stack((1 - scores[:, 0], scores[:, 0]))
    thresholds = fit_thresholds(pair, score, ("healthy", "ill"))
    found = evaluate_classification(
        pair, score, patient, ("healthy", "ill"), attributes, thresholds, task="multiclass", seed=0, draws=50
    )
    assert {item.label for item in found.metrics} == {"ill"}
    matrix = np.array(found.confusion[""])
    assert matrix.sum() == len(yes)
    assert found.find("sensitivity", "ill").value == pytest.approx(matrix[1, 1] / matrix[1].sum())
    assert [item.label for item in found.thresholds] == ["ill"]


def test_several_classes_are_decided_by_the_highest_score():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 200)
    scores = rng.dirichlet(np.ones(3), 200)
    found = evaluate_classification(
        np.eye(3)[true], scores, np.arange(200), LABELS, {}, task="multiclass", seed=0, draws=50
    )
    assert found.find("accuracy").value == pytest.approx((scores.argmax(axis=1) == true).mean())
    assert np.trace(found.confusion[""]) == (scores.argmax(axis=1) == true).sum()


def test_labels_without_thresholds_get_only_what_needs_none():
    truth, scores, patient, attributes = cohort()
    found = evaluate_classification(
        truth, scores, patient, LABELS, attributes, task="multilabel", seed=0, draws=20
    )
    assert {item.name for item in found.metrics} == {"auroc", "average_precision", "brier"}
    assert found.confusion == {}
    found = evaluate_classification(
        truth, scores, patient, LABELS, {}, fixed_thresholds("ab"), task="multilabel", seed=0, draws=20
    )
    assert found.find("sensitivity", "a") is not None
    assert found.find("sensitivity", "c") is None
    assert found.find("sensitivity").value == pytest.approx(
        np.mean([found.find("sensitivity", name).value for name in "ab"])
    )
    assert set(found.confusion) == {"a", "b"}


def test_bad_input_is_refused():
    truth, scores, patient, _ = cohort()
    with pytest.raises(ConfigError, match="multilabel"):
        evaluate_classification(truth, scores, patient, LABELS, {}, task="regression", seed=0)
    with pytest.raises(DataError, match="one patient per case"):
        evaluate_classification(truth, scores, patient[1:], LABELS, {}, task="multilabel", seed=0)
    with pytest.raises(DataError, match="at least one case"):
        evaluate_classification(truth[:0], scores[:0], patient[:0], LABELS, {}, task="multilabel", seed=0)


def test_equal_models_differ_by_exactly_nothing():
    truth, scores, patient, attributes = cohort()
    rows = compare(scores, scores, truth, patient, LABELS, attributes, task="multilabel", seed=0, draws=50)
    known = [item for item in rows if item.note != "insufficient"]
    assert known
    assert all(item.value == item.low == item.high == 0 for item in known)
    gap = {item.note for item in known if item.name in GAP_NAMES}
    assert gap == {"not amplified (within ±0.02)"}
    assert {item.note for item in known if item.name not in GAP_NAMES} == {"within the margin"}


def test_paired_interval_is_narrower_than_either_and_judged():
    truth, scores, patient, attributes = cohort()
    noisy = np.clip(scores + 0.1 * np.random.default_rng(1).normal(size=scores.shape), 0, 1)
    rows = compare(noisy, scores, truth, patient, LABELS, attributes, task="multilabel", seed=0, draws=200)
    first = next(item for item in rows if item.label == "a" and not item.attribute)
    alone = evaluated().find("auroc", "a")
    assert first.note == "worse"
    assert first.high - first.low < 0.8 * (alone.high - alone.low)
    assert {item.name for item in rows} == {"auroc_difference", *GAP_NAMES}
    groups = {
        (item.attribute, item.group) for item in rows if item.name == "auroc_difference" and item.attribute
    }
    assert {("sex", "F"), ("sex", "M")} <= groups


def test_verdicts_of_intervals():
    assert verdict(math.nan, 0.1, 0.02) == "not decided"
    assert verdict(0.05, 0.1, 0.02) == "better"


def test_ages_fall_into_bins_and_rare_values_into_other():
    ages = grouping("age", ["0", "29", "30", "60", "79", "80", "101", "", "034Y"] * 10)
    assert ages.names == ("[0,30)", "[30,60)", "[60,70)", "[70,80)", "[80,+)")
    assert ages.index.tolist() == [0, 0, 1, 2, 3, 4, 4, -1, -1] * 10
    named = grouping("scanner", ["x"] * 12 + ["MUSTERMANN"] + [""])
    assert named.names == ("x", "other")
    assert named.index[-2:].tolist() == [1, -1]


def test_a_label_that_validation_knows_one_class_of_has_no_threshold_and_no_gap():
    truth, scores, patient, attributes = cohort()
    validation = truth.copy()
    validation[:, 1] = 0
    thresholds = fit_thresholds(validation, scores, LABELS)
    assert [item.label for item in thresholds] == ["a", "c"]
    found = evaluate_classification(
        truth, scores, patient, LABELS, attributes, thresholds, task="multilabel", seed=0, draws=20
    )
    assert {item.name for item in found.gaps if item.label == "b"} == {"auroc_gap", "auroc_trend"}
    assert {item.name for item in found.metrics if item.label == "b"} == {
        "auroc",
        "average_precision",
        "brier",
    }


def few_patients_many_images(patients=9, images=30):
    """Return a group of few patients with many images each, beside 200 others.

    Half of the images in the group are positive.
    """
    old = np.repeat(np.arange(patients), images)
    patient = np.concatenate((old, np.arange(patients, patients + 200)))
    truth = (np.arange(patient.size) % 2).astype(float)[:, None]
    truth[: old.size, 0] = old % 2
    scores = np.clip(0.5 + 0.2 * (truth - 0.5) + np.random.default_rng(0).normal(0, 0.2, truth.shape), 0, 1)
    return truth, scores, patient, ["x"] * old.size + ["y"] * 200


def test_cells_count_patients_and_not_their_images():
    """Nine patients of whom four are positive were "sufficient" with 270 images."""
    truth, scores, patient, scanners = few_patients_many_images()
    found = evaluate_classification(
        truth,
        scores,
        patient,
        ("x",),
        {"scanner": scanners},
        fixed_thresholds(("x",)),
        task="multilabel",
        seed=0,
        draws=50,
    )
    rows = [item for item in (*found.groups, *found.gaps) if item.group == "other"]
    assert rows
    assert {item.note for item in rows} == {"insufficient"}
    assert all(math.isnan(item.value) for item in rows)
    singles = evaluate_classification(
        truth,
        scores,
        np.arange(patient.size),
        ("x",),
        {"scanner": scanners},
        fixed_thresholds(("x",)),
        task="multilabel",
        seed=0,
        draws=50,
    )
    assert all(
        item.note == "" for item in singles.groups
    )  # where the source names no patients, an image counts as one


def test_curves_calibration_and_confusion_need_ten_patients_of_both_kinds():
    truth, scores, patient, _ = few_patients_many_images()
    rows = patient < 9
    found = evaluate_classification(
        truth[rows],
        scores[rows],
        patient[rows],
        ("x",),
        {},
        fixed_thresholds(("x",)),
        task="multilabel",
        seed=0,
        draws=50,
    )
    assert (found.roc, found.calibration, found.confusion) == ({}, (), {})
    assert found.find("auroc", "x").note == "fewer than 10 positive or negative patients"
    whole = evaluate_classification(
        truth, scores, patient, ("x",), {}, fixed_thresholds(("x",)), task="multilabel", seed=0, draws=50
    )
    assert (set(whole.roc), len(whole.calibration), set(whole.confusion)) == ({"x"}, 1, {"x"})


def test_rare_values_are_those_of_few_patients():
    values = ["x"] * 30 + ["y"] * 12 + ["z"]
    patient = np.array([*range(30), *[30] * 12, 31])
    assert grouping("scanner", values).names == ("x", "y", "other")
    assert grouping("scanner", values, patient).names == ("x", "other")


def test_bins_of_the_calibration_curve_hold_ten_patients():
    patient = np.repeat(np.arange(25), 40)
    p = (patient + 0.5) / 25  # each patient's images lie together
    parts = equal_mass_bins((patient % 2).astype(float), p, patient_index=patient)
    assert len(parts[0]) == 2
    assert parts[2].sum() == pytest.approx(1)
    assert len(equal_mass_bins((patient % 2).astype(float), p)[0]) == 15


def test_tiny_strata_are_joined():
    sexes = grouping("sex", ["F"] * 20 + ["M"] * 12)
    ages = grouping("age", ["50"] * 18 + ["85", "85"] + ["50"] * 2 + ["85"] * 10)
    found = strata([ages, sexes], np.arange(32))
    assert sorted(np.bincount(found + 1)[np.bincount(found + 1) > 0].tolist()) == [4, 10, 18]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "of patients"),
        (("site",), "of patients"),
        (("sex",), "of patients, strata of sex kept whole"),
        (("sex", "age"), "of patients, strata of sex and age bin kept whole"),
    ],
)
def test_the_note_names_the_strata_that_there_are(names, said):
    attributes = {name: ["60"] * 40 for name in names}
    truth, patient = np.tile([[0.0], [1.0]], (20, 1)), np.arange(40)
    found = evaluate_classification(
        truth, truth, patient, ["a"], attributes, task="multilabel", seed=0, draws=20
    )
    assert found.notes[0].endswith(said)
    found = evaluate_segmentation(truth, patient, ["a"], attributes, seed=0, draws=20)
    assert found.notes[0].endswith(said)


def test_every_estimate_says_how_its_interval_was_made():
    found = evaluated()
    kinds = {(item.name, bool(item.label)): item.interval for item in found.metrics}
    assert kinds["sensitivity", True] == "Clopper-Pearson"
    assert kinds["sensitivity", False] == kinds["balanced_accuracy", True] == "combined"
    assert kinds["auroc", True] == kinds["auroc", False] == kinds["brier", True] == "percentile"
    gaps = {item.name: item.interval for item in found.gaps if item.label and item.low == item.low}
    assert gaps.pop("auroc_gap") == gaps.pop("auroc_trend") == "percentile"
    assert set(gaps.values()) == {"combined"}
    every = (*found.metrics, *found.groups, *found.gaps)
    assert all(bool(item.interval) == (item.low == item.low) for item in every)


def test_a_perfect_area_says_that_its_interval_is_one_of_counts():
    truth = np.array([[0.0], [1.0]] * 20)
    found = evaluate_classification(
        truth, truth, np.arange(40), ["a"], {}, task="multilabel", seed=0, draws=20
    )
    assert found.headline.interval == "Clopper-Pearson"


def test_chance_of_a_calibration_error_counts_patients_and_not_their_images():
    """Perfect probabilities, five images of one outcome per patient: the error is that of the patients."""
    errors, nulls, of_images = [], [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        risk, patient = np.repeat(rng.random(60), 5), np.repeat(np.arange(60), 5)
        truth = (rng.random(60)[patient] < risk).astype(float)
        found = calibration(truth, risk, "ill", np.random.default_rng(0), patient)
        errors.append(found.ece)
        nulls.append(found.ece_null)
        of_images.append(
            np.mean([ece(rng.random(300) < risk, risk, patient_index=patient) for _ in range(20)])
        )
    assert np.mean(nulls) == pytest.approx(np.mean(errors), rel=0.15)
    assert np.mean(of_images) < 0.7 * np.mean(errors)


def test_calibration_is_that_of_bins_and_regressions_by_hand():
    rng = np.random.default_rng(0)
    risk = rng.random(600)
    truth = (rng.random(600) < risk**2).astype(float)
    found = calibration(truth, risk, "ill", rng)
    order = np.argsort(risk)
    by_hand = sum(
        abs(risk[part].mean() - truth[part].mean()) * len(part) / 600 for part in np.array_split(order, 15)
    )
    assert found.ece == pytest.approx(by_hand, abs=1e-12)
    logit = np.log(risk / (1 - risk))

    def loss(offset, slope):
        chance = 1 / (1 + np.exp(-(offset + slope * logit)))
        return -np.mean(truth * np.log(chance) + (1 - truth) * np.log(1 - chance))

    both = minimize(lambda x: loss(*x), (0.0, 1.0), tol=1e-10).x
    alone = minimize(lambda x: loss(x[0], 1.0), (0.0,), tol=1e-10).x
    assert found.slope == pytest.approx(both[1], abs=1e-3)
    assert found.intercept == pytest.approx(alone[0], abs=1e-3)
