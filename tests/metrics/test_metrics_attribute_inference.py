"""Inference of an attribute from several rows per patient: grouped folds, intervals, null, refusals."""

import numpy as np
import pytest

from meninx.core.errors import DataError
from meninx.metrics.attribute_attacks import cross_fitted
from meninx.metrics.attribute_inference import choose_values, folded_auroc, infer_attribute


def rows(patients=60, each=4, gain=0.0, own=0.0, seed=0, size=6):
    """Return features, values and patients: ``gain`` shows the attribute, ``own`` the patient."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), each)
    women = rng.integers(0, 2, patients) == 1
    features = rng.normal(size=(len(owner), size)) + gain * women[owner, None]
    features += own * rng.normal(size=(patients, size))[owner]
    return features, ["F" if one else "M" for one in women[owner]], [f"p{number:03d}" for number in owner]


def test_an_attribute_is_found_from_rows_of_other_patients():
    features, values, patients = rows(gain=1.0)
    found = infer_attribute(features, values, patients=patients, permutations=99)
    assert (found.rows, found.patients, found.classes) == (240, 60, ("F", "M"))
    assert found.prior < found.accuracy_low < found.accuracy < found.accuracy_high
    assert found.null_high < found.auroc_low < found.auroc <= found.auroc_high
    assert found.p_value == 0.01
    assert found.accuracy == np.mean(found.right)


def test_recognising_a_patient_is_not_inferring_its_attribute():
    """Rows of one patient are alike: an attack that had seen some of them would know the others."""
    features, values, patients = rows(own=3.0)
    grouped = infer_attribute(features, values, patients=patients, permutations=99)
    apart = infer_attribute(features, values, permutations=99)
    assert apart.auroc > 0.8
    assert apart.p_value == 0.01
    assert grouped.auroc < 0.7
    assert grouped.p_value > 0.05


def test_the_null_gives_whole_patients_another_value():
    found = []
    for seed in range(20):
        features, values, patients = rows(patients=44, each=2, own=2.0, seed=seed)
        found.append(infer_attribute(features, values, patients=patients, permutations=9, seed=seed))
    assert not any(one.refusal for one in found)
    assert np.mean([one.p_value <= 0.1 for one in found]) <= 0.25
    assert 0.3 < np.mean([one.p_value for one in found]) < 0.7


def test_rows_of_one_patient_make_no_interval_narrower():
    features, values, patients = rows(patients=40, each=1, gain=0.7)
    once = infer_attribute(features, values, patients=patients, permutations=9)
    often = infer_attribute(
        np.repeat(features, 5, axis=0), np.repeat(values, 5), patients=np.repeat(patients, 5), permutations=9
    )
    assert often.patients == once.patients == 40
    for low, high in (("accuracy_low", "accuracy_high"), ("auroc_low", "auroc_high")):
        widths = [getattr(one, high) - getattr(one, low) for one in (once, often)]
        assert widths[1] == pytest.approx(widths[0], rel=0.35)


def test_one_row_per_patient_needs_no_names():
    features, values, patients = rows(each=1, gain=1.0)
    assert infer_attribute(features, values, permutations=9).auroc == pytest.approx(
        infer_attribute(features, values, patients=patients, permutations=9).auroc
    )


def test_an_attack_may_be_fitted_on_fewer_patients(monkeypatch):
    features, values, patients = rows(patients=80, gain=1.0)
    seen = []
    solve = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda table: (seen.append(len(table)), solve(table))[1])
    found = infer_attribute(features, values, patients=patients, permutations=9, most_fitted=100)
    assert max(seen) == 100
    assert len(found.right) == 320
    assert found.auroc_low > 0.6


def test_patients_are_counted_not_rows():
    values = ["F"] * 30 + ["M"] * 30
    patients = [f"p{number // 3}" for number in range(60)]
    assert choose_values(values, None, 10, patients=patients)[0] == ("F", "M")
    assert choose_values(values, None, 11, patients=patients)[0] == ()
    few = infer_attribute(np.zeros((40, 2)), values[10:50], patients=patients[10:50])
    assert few.refusal == "too few patients with a second value: 10 needed, 7 there"
    assert few.right.size == 0


def test_rows_without_a_value_are_left_out():
    features, values, patients = rows(patients=60, gain=1.0)
    values[:40] = [""] * 40
    features[:40] = np.nan
    found = infer_attribute(features, values, patients=patients, permutations=9)
    assert (found.rows, found.patients) == (200, 50)
    assert np.isnan(found.right[:40]).all()
    assert not np.isnan(found.right[40:]).any()


def test_an_attribute_that_differs_between_images_of_a_patient_is_inferred_too():
    rng = np.random.default_rng(0)
    view = rng.integers(0, 2, 240)
    found = infer_attribute(
        rng.normal(size=(240, 3)) + 2 * view[:, None],
        ["AP" if one else "PA" for one in view],
        patients=[f"p{number // 4}" for number in range(240)],
        permutations=19,
    )
    assert found.accuracy > 0.9
    assert found.p_value == 0.05


def test_an_attack_that_is_always_wrong_counts_like_one_that_is_right():
    truth = np.arange(80) % 2
    scores = np.stack([truth, 1 - truth], axis=1) + 0.3 * np.random.default_rng(0).normal(size=(80, 2))
    value, (low, high) = folded_auroc(scores, truth, np.arange(80) // 2)
    turned, ends = folded_auroc(-scores, truth, np.arange(80) // 2)
    assert (value, low, high) == pytest.approx((turned, *ends))
    assert value > 0.9
    assert folded_auroc(np.eye(2)[truth], truth)[1][0] < 1.0


def test_tables_that_do_not_belong_together_are_refused():
    features, values, patients = rows()
    with pytest.raises(DataError, match="either members or others"):
        cross_fitted(features, np.arange(240) % 2, np.arange(240) % 3 == 0, patients=patients)
    with pytest.raises(DataError, match="one patient per row"):
        infer_attribute(features, values, patients=patients[:-1])
    with pytest.raises(DataError, match="240 rows"):
        infer_attribute(features[:-1], values, patients=patients)
    with pytest.raises(DataError, match="two classes"):
        folded_auroc(np.zeros((4, 2)), np.zeros(4, int))
    with pytest.raises(DataError, match="a class and a patient per row"):
        folded_auroc(np.zeros((4, 2)), np.zeros(3, int))
