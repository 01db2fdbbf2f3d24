"""Attacks on attributes: against the prior, strangers, labels and a null; leaks of gradients."""

import numpy as np
import pytest

from meninx.core.errors import DataError
from meninx.metrics.attribute_attacks import cross_fitted, folded
from meninx.metrics.attribute_inference import choose_values
from meninx.metrics.attribute_success import bounded, bounded_by_prior, measure_attribute, measure_leak


def world(patients=120, everybody=0.0, members=0.0, seed=0, size=6):
    rng = np.random.default_rng(seed)
    women, inside = rng.integers(0, 2, patients) == 1, np.arange(patients) % 2 == 0
    shift = everybody * women + members * (inside & women) - members * (inside & ~women)
    rows = rng.normal(size=(patients, size)) + shift[:, None]
    return rows, ["F" if one else "M" for one in women], inside


def measured(*, permutations=99, **options):
    rows, values, inside = world(**options)
    return measure_attribute("sex", "logits", rows, values, inside, permutations=permutations).record


def test_what_strangers_tell_too_has_no_advantage():
    record = measured(everybody=1.5)
    assert record.accuracy_low > record.prior
    assert record.p_value == 0.01
    assert record.advantage_p > 0.05
    assert record.advantage_low < 0 < record.advantage_high
    assert record.accuracy == pytest.approx((record.on_members + record.on_others) / 2)


def test_what_members_alone_tell_is_an_advantage():
    record = measured(members=1.5)
    assert record.advantage_low > 0.1
    assert record.advantage_p < 0.01


def test_the_null_holds_for_both_tests():
    found = [measured(patients=60, permutations=19, seed=seed) for seed in range(40)]
    found = [record for record in found if record.accuracy is not None]
    assert len(found) > 25
    assert np.mean([record.p_value <= 0.1 for record in found]) <= 0.25
    assert np.mean([record.advantage_p <= 0.1 for record in found]) <= 0.25
    assert 0.2 < np.mean([record.advantage_p for record in found]) < 0.8


def test_the_radial_attack_finds_what_no_line_separates():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 2))
    truth = (np.linalg.norm(rows, axis=1) > 1.2).astype(int)
    found = cross_fitted(rows, truth, np.arange(200) % 2 == 0, permutations=9)
    assert found.area > 0.9
    assert found.attack == "rbf"


def test_several_values_have_a_mean_area():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 180)
    rows = np.eye(3)[truth] * 3 + rng.normal(size=(180, 3))
    record = measure_attribute("site", "logits", rows, [f"s{one}" for one in truth], np.arange(180) % 2 == 0,
                               permutations=9).record  # fmt: skip
    assert record.classes == ("s0", "s1", "s2")
    assert record.auroc > 0.9
    assert record.auroc_low <= record.auroc <= record.auroc_high


def test_the_gain_over_labels_counts_the_same_patients():
    rows, values, inside = world(everybody=0.5)
    labels = np.array([[value == "F", 0.0] for value in values], dtype=float)
    floor = measure_attribute("sex", "labels", labels, values, inside, permutations=9)
    record = measure_attribute("sex", "logits", rows, values, inside, labels=floor, permutations=9).record
    assert floor.record.accuracy == 1.0
    assert record.over_labels == pytest.approx(record.accuracy - 1)
    assert record.over_labels_high < 0


def test_rare_values_and_few_patients_are_refused_without_naming_them():
    rows, _, inside = world(60)
    rare = ["rare-disease" if row < 4 else "none" for row in range(60)]
    record = measure_attribute("x", "logits", rows, rare, inside, permutations=9).record
    assert record.accuracy is None
    assert "10 needed of each, 2 there" in record.refusal
    assert "rare" not in record.refusal + "".join(record.classes)
    assert choose_values(["", "a"] * 30, inside, 10)[0] == ()
    one = measure_attribute("x", "logits", rows, ["a"] * 60, inside, permutations=9).record
    assert one.refusal == "the attribute has fewer than two values"


def test_a_bound_is_exceeded_only_beyond_chance():
    record = measured(members=2.0)
    held = bounded(record, lambda kappa: 1.0, 0.05)
    assert (held.bound, held.excess) == (1.0, False)
    assert bounded(record, lambda kappa: kappa, 0.05).excess
    assert not bounded(measured(everybody=1.5), lambda kappa: kappa, 0.05).excess
    prior = bounded_by_prior(measured(everybody=2.0), lambda kappa: kappa, 0.05)
    assert prior.excess
    assert prior.bound == prior.prior


def test_a_correct_mechanism_is_rarely_accused():
    accused = sum(
        bool(
            bounded(
                measured(patients=60, permutations=1, everybody=1.0, seed=seed), lambda kappa: kappa, 0.05
            ).excess
        )
        for seed in range(30)
    )
    assert accused <= 2


def test_the_sign_of_the_last_bias_tells_every_label():
    truth = np.random.default_rng(0).integers(0, 2, (40, 3)).astype(float)
    truth[0, 0] = np.nan
    leak = measure_leak("gradient", np.where(truth == 1, -0.4, 0.3), truth, one_class=False)
    assert leak.accuracy == 1.0
    assert leak.accuracy_low < 1.0
    assert 0.5 <= leak.prior < 0.7
    one = np.eye(4)[np.arange(40) % 4]
    leak = measure_leak("noisy gradient", 0.25 - one, one, one_class=True, most=lambda kappa: 2 * kappa)
    assert (leak.accuracy, leak.prior, leak.bound) == (1.0, 0.25, 0.5)
    noise = measure_leak(
        "noisy gradient", np.random.default_rng(1).normal(size=one.shape), one, one_class=True
    )
    assert noise.accuracy_low < 0.25 < noise.accuracy_high
    assert "10 needed, 3 there" in measure_leak("gradient", one[:3], one[:3], one_class=True).refusal


def test_odd_tables_are_refused():
    rows, _, inside = world(60)
    with pytest.raises(DataError, match="finite features"):
        cross_fitted(np.full((60, 2), np.nan), np.arange(60) % 2, inside)
    with pytest.raises(DataError, match="two values"):
        cross_fitted(rows, np.zeros(60, int), inside)
    with pytest.raises(DataError, match="labels of shape"):
        measure_leak("gradient", np.zeros((3, 2)), np.zeros((2, 2)), one_class=True)


def test_features_that_never_vary_tell_nothing():
    found = cross_fitted(np.ones((60, 3)), np.arange(60) % 2, np.arange(60) < 30, permutations=9)
    assert found.area == 0.5
    assert list(folded([0.3, 0.7])) == [0.7, 0.7]
