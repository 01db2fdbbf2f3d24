"""Success of a membership attack over patients: rates, refusals, intervals, the null and the bound."""

from dataclasses import replace

import numpy as np
import pytest

from meninx.core.audit_records import AttackRecord
from meninx.core.errors import ConfigError, DataError
from meninx.core.proportions import clopper_pearson
from meninx.metrics.attack_success import (
    compared,
    counts_exceed,
    least_area,
    measure_attack,
    measure_groups,
    needed_for,
    operating_point,
    threshold_ranks,
)

BLANK = AttackRecord(
    attack="rmia", members=0, others=0, auc=0.5, auc_low=0.0, auc_high=1.0, null_low=0.4, null_high=0.6,
    p_value=0.5, points=(),
)  # fmt: skip


def area(members, others):
    ordered = np.sort(others)
    sides = [np.searchsorted(ordered, members, side=side) for side in ("left", "right")]
    return float(np.sum(sides) / 2 / len(members) / len(others))


def normals(distance, members=400, others=400, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(distance, 1, members), rng.normal(0, 1, others)


def test_the_rate_has_the_interval_of_clopper_and_pearson():
    others = np.arange(100.0)
    members = np.concatenate([np.full(30, 95.0), np.full(20, -1.0)])
    point = operating_point(members, others, 0.1)
    assert point.tpr == 0.6
    assert (point.low, point.high) == clopper_pearson(30, 50)
    assert point.refusal == ""
    assert 0.1 < point.fpr_high < 0.2


def test_the_threshold_keeps_the_rate_among_non_members():
    members, others = normals(1.0)
    for fpr in (0.05, 0.1, 0.5):
        rank = int(fpr * 400) + 1
        assert (others > np.sort(others)[-rank]).mean() <= fpr
        assert operating_point(members, others, fpr).tpr == (members > np.sort(others)[-rank]).mean()


def test_scores_that_are_all_equal_find_nobody():
    assert operating_point(np.zeros(100), np.zeros(100), 0.1).tpr == 0.0


@pytest.mark.parametrize(("fpr", "needed"), [(0.1, 100), (0.01, 1000), (0.001, 10_000), (0.3, 34)])
def test_too_few_non_members_are_a_refusal_with_a_name(fpr, needed):
    assert needed_for(fpr) == needed
    few, enough = np.zeros(needed - 1), np.zeros(needed)
    refused = operating_point(np.zeros(10), few, fpr)
    assert refused.refusal == f"too few non-members: {needed} needed, {needed - 1} there"
    assert refused.tpr is refused.low is refused.high is refused.fpr_high is None
    assert operating_point(np.zeros(10), enough, fpr).tpr == 0.0


def test_no_difference_stays_within_the_null():
    found = measure_attack("loss", *normals(0.0, seed=3))
    assert found.null_low < found.auc < found.null_high
    assert found.p_value > 0.05
    assert found.auc_low < 0.5 < found.auc_high


def test_separated_scores_have_an_interval_with_width():
    found = measure_attack("loss", np.arange(20.0, 40.0), np.arange(20.0))
    assert found.auc == found.auc_high == 1.0
    assert 0.7 < found.auc_low < 1.0
    assert found.p_value == pytest.approx(1 / 1000)


def test_p_values_are_uniform_without_a_difference():
    values = [
        measure_attack("loss", *normals(0.0, 30, 30, seed), fprs=(), permutations=99).p_value
        for seed in range(30)
    ]
    assert 0 <= np.mean(np.array(values) <= 0.1) <= 0.25
    assert 0.35 < np.mean(values) < 0.65


def test_intervals_of_the_area_hold_the_true_one():
    from scipy.special import ndtr

    truth = ndtr(1 / np.sqrt(2))
    ends = [
        (found.auc_low, found.auc_high)
        for seed in range(25)
        for found in [measure_attack("loss", *normals(1.0, 60, 60, seed), fprs=(), permutations=1)]
    ]
    assert sum(low <= truth <= high for low, high in ends) >= 20


def gaussian(mu):
    from scipy.special import ndtr, ndtri

    return lambda fpr: float(ndtr(ndtri(fpr) + mu))


def exceeds(members, others, mu, significance=0.05):
    """Return whether scores exceed what two unit normals at a distance of ``mu`` allow."""
    record = measure_attack("rmia", members, others, permutations=1)
    return compared(
        record, members, others, gaussian(mu), area_of(mu), significance=significance
    ).excess  # fmt: skip


def area_of(mu):
    from scipy.special import ndtr

    return float(ndtr(mu / np.sqrt(2)))


def test_an_attack_above_its_bound_is_found_and_one_on_it_is_not():
    members, others = normals(2.0, 2000, 2000)
    assert exceeds(members, others, 1.0) is True
    assert exceeds(members, others, 2.0) is False
    assert exceeds(*normals(0.0, 2000, 2000), 0.0) is False


@pytest.mark.parametrize("patients", [20, 37, 60, 90, 120])
def test_few_patients_that_an_attack_tells_apart_refute_a_bound(patients):
    members, others = normals(4.0, patients, patients)
    assert exceeds(members, others, 0.9) is True


def test_so_few_patients_that_no_attack_could_exceed_the_bound_give_no_answer():
    assert exceeds(*normals(9.0, 10, 10), 2.0) is None
    assert exceeds(*normals(9.0, 10, 200), 4.0) is None
    assert exceeds(*normals(0.0, 10, 10), 0.1) is False


def test_the_area_alone_refutes_a_bound_that_no_threshold_exceeds():
    members, others = normals(4.0, 60, 60)
    record = compared(measure_attack("rmia", members, others), members, others, lambda fpr: 1.0, 0.737)
    assert record.excess is True
    assert record.above[-1] == 60


def test_one_threshold_alone_refutes_a_bound_that_the_area_keeps():
    others = np.linspace(0, 1, 200)
    members = np.concatenate([np.full(40, 2.0), np.full(160, -1.0)])  # a fifth is surely found
    record = compared(measure_attack("rmia", members, others), members, others, gaussian(0.2), area_of(0.2))
    assert record.auc < 0.5
    assert record.excess is True


@pytest.mark.parametrize("patients", [(15, 15), (60, 60), (60, 400), (400, 60)])
def test_a_true_bound_is_rarely_refuted(patients):
    level, runs = 0.2, 400
    wrong = 0
    for seed in range(runs):
        members, others = normals(1.0, *patients, seed)
        record = replace(BLANK, members=len(members), others=len(others), auc=area(members, others))
        wrong += bool(
            compared(record, members, others, gaussian(1.0), area_of(1.0), significance=level).excess
        )
    assert wrong <= level * runs


def test_a_true_area_is_rarely_below_its_limit():
    for patients in ((12, 12), (30, 200)):
        wrong = sum(
            least_area(area(*normals(1.0, *patients, seed)), *patients, 0.2) > area_of(1.0)
            for seed in range(400)
        )
        assert wrong <= 80


def test_the_limit_of_an_area_is_that_of_independent_pairs():
    assert least_area(1.0, 60, 90, 0.05) == pytest.approx(0.05 ** (1 / 60))
    assert least_area(0.0, 60, 60, 0.05) == 0.0
    assert least_area(0.7, 60, 60, 0.05) < least_area(0.7, 600, 60_000, 0.05) < 0.7


def test_counts_without_scores_give_the_same_answer():
    members, others = normals(2.0, 150, 150)
    record = measure_attack("rmia", members, others, permutations=1)
    whole = compared(record, members, others, gaussian(1.0), area_of(1.0))
    assert len(whole.above) == len(threshold_ranks(150))
    assert counts_exceed(whole, gaussian(1.0), area_of(1.0), significance=0.05) is whole.excess is True
    assert counts_exceed(record, gaussian(1.0), area_of(1.0), significance=0.05) is True  # from its points


def test_groups_with_few_patients_are_refused_and_rare_values_not_named():
    rng = np.random.default_rng(0)
    member = np.arange(100) < 50
    scores = rng.normal(member.astype(float), 1.0)
    sex = np.where(np.arange(100) % 2, "F", "M").tolist()
    site = ["north"] * 45 + ["rare"] * 5 + ["south"] * 50
    found = {
        (item.attribute, item.group): item
        for item in measure_groups(scores, member, {"sex": sex, "site": site})
    }
    assert found["sex", "F"].members == found["sex", "F"].others == 25
    assert found["sex", "F"].auc_low < found["sex", "F"].auc < found["sex", "F"].auc_high
    assert found["site", "north"].refusal == "too few non-members: 10 needed"
    assert found["site", "north"].members is found["site", "north"].auc is None
    assert ("site", "rare") not in found
    with pytest.raises(DataError, match="sex"):
        measure_groups(scores, member, {"sex": sex[:-1]})


@pytest.mark.parametrize(
    ("members", "match"),
    [
        (np.zeros(9), "at least 10 patients, got 9"),
        (np.full(20, np.nan), "20 scores are NaN"),
        (np.zeros((20, 2)), "one number for each patient"),
        (np.array(["a"] * 20), "one number for each patient"),
    ],
)
def test_odd_scores_are_refused(members, match):
    with pytest.raises(DataError, match=match):
        measure_attack("loss", members, np.zeros(20))
    with pytest.raises(DataError, match=match):
        measure_attack("loss", np.zeros(20), members)


def test_odd_rates_are_refused():
    for fpr in (0.0, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="fpr"):
            operating_point(np.zeros(20), np.zeros(20), fpr)
    with pytest.raises(ConfigError, match="permutations"):
        measure_attack("loss", np.zeros(20), np.zeros(20), permutations=0)
