"""The certificate of a coded release: its numbers by hand, its refusals, and what several groups cost."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from meninx.core.errors import ConfigError, DataError
from meninx.metrics.groups import Grouping
from meninx.metrics.release_certificate import (
    area_of,
    attacker_limit,
    best_attacker,
    certify_release,
    joint,
    patients_needed,
    ranking_limit,
    total_variation,
)

PUBLISHED = {8: (4205, 993, 218), 16: (6043, 1426, 313), 40: (10670, 2519, 553), 72: (16144, 3810, 837)}
"""Patients per group by leaves, for AUROC 0.55, 0.60 and 0.70, from TV by McDiarmid's inequality."""


def population(per_group, leaves=16, groups=2, seed=0):
    """Return codes that do not depend on the group, the groups, and one row for each patient."""
    rng = np.random.default_rng(seed)
    index = np.repeat(np.arange(groups), per_group)
    names = tuple(f"g{number}" for number in range(groups))
    codes = rng.integers(0, leaves, len(index))
    return codes, Grouping("age", names, index), [f"P{number}" for number in range(len(index))]


@pytest.mark.parametrize("leaves", PUBLISHED)
def test_patients_needed_for_the_total_variation_are_those_of_the_published_table(leaves):
    targets = (0.55, 0.60, 0.70)
    needed = [patients_needed(leaves, target, method="total variation") for target in targets]
    assert needed == pytest.approx(PUBLISHED[leaves], rel=1.1e-3, abs=1)  # the page rounds TV to 0.0513


@pytest.mark.parametrize("leaves", PUBLISHED)
def test_the_ranking_needs_less_than_half_of_the_patients(leaves):
    for target, published in zip((0.55, 0.60), PUBLISHED[leaves], strict=False):
        assert patients_needed(leaves, target) < 0.5 * published


def test_more_leaves_a_lower_target_or_more_confidence_need_more_patients():
    needed = [patients_needed(leaves, 0.6) for leaves in (2, 4, 8, 16)]
    assert needed == sorted(set(needed))
    assert patients_needed(8, 0.55) > patients_needed(8, 0.6) > patients_needed(8, 0.6, 0.2)


def test_the_needed_number_is_that_at_which_equal_groups_reach_the_target_half_of_the_time():
    needed = patients_needed(16, 0.6)
    rng = np.random.default_rng(1)
    limits = [
        attacker_limit(*rng.multinomial(needed, np.full(16, 1 / 16), size=2), delta=0.05) for _ in range(60)
    ]
    assert np.median(limits) == pytest.approx(0.6, abs=0.004)


def test_the_best_attacker_by_hand():
    assert best_attacker([3, 1], [1, 3]) == pytest.approx(0.75)  # ROC through (1/4, 3/4)
    assert best_attacker([5, 5, 0], [0, 5, 5]) == pytest.approx(7 / 8)
    assert best_attacker([1, 2, 3], [2, 4, 6]) == pytest.approx(0.5)
    assert best_attacker([5, 5, 0], [0, 5, 5]) == best_attacker([0, 5, 5], [5, 5, 0])


def test_area_of_a_total_variation_is_reached_by_three_codes():
    """The ROC curve min(1, x + TV) is that of codes that only one group has, and of one that both have."""
    p, q = [0.3, 0.7, 0.0], [0.0, 0.7, 0.3]
    assert total_variation(p, q) == pytest.approx(0.3)
    assert area_of(0.3) == pytest.approx(best_attacker(p, q))
    assert area_of(2.0) == 1.0


def test_the_limit_of_a_ranking_lies_between_the_exact_binomial_and_hoeffding():
    for trials in (20, 300):
        for area in (0.5, 0.62, 0.9):
            limit = ranking_limit(area, trials, 0.05)
            assert limit <= min(1.0, area + math.sqrt(math.log(20) / 2 / trials)) + 1e-6
            assert (
                binom.cdf(math.floor(trials * area), trials, limit) <= 0.05
            )  # necessary for any valid limit
    assert ranking_limit(1.0, 100, 0.05) == 1.0


def test_1500_patients_certify_and_100_do_not():
    codes, groups, patients = population(1500)
    for method, target in (("ranking", 0.6), ("total variation", 0.62)):
        (found,) = certify_release(codes, [groups], patients, leaves=16, target=target, method=method)
        assert found.met
        assert 0.5 < found.plug_in < found.limit <= target
        assert "no attacker's AUROC exceeds 0." in found.in_words
        assert "of a random new patient" in found.in_words
    codes, groups, patients = population(100)
    (found,) = certify_release(codes, [groups], patients, leaves=16, target=0.6)
    assert (found.limit, found.plug_in, found.met) == (None, None, False)
    assert found.in_words == (
        "age g0 against g1: not certified: needs 631 patients per group for AUROC 0.60, has 100 and 100"
    )


def test_a_release_that_tells_the_groups_apart_is_above_the_target():
    codes, groups, patients = population(1500)
    codes = np.where((groups.index == 1) & (codes < 4), codes + 4, codes)
    (found,) = certify_release(codes, [groups], patients, leaves=16, target=0.6)
    assert not found.met
    assert found.limit > 0.62
    assert "above the target of 0.6" in found.in_words


def test_every_pair_or_each_against_the_rest_and_the_confidence_is_divided():
    codes, groups, patients = population(900, leaves=8, groups=4)
    pairs = certify_release(codes, [groups], patients, leaves=8, target=0.65)
    rest = certify_release(codes, [groups], patients, leaves=8, target=0.65, comparison="rest")
    assert len(pairs) == 6
    assert {found.delta for found in pairs} == {0.05 / 6}
    assert [found.groups for found in rest] == [(f"g{number}", "rest") for number in range(4)]
    assert [found.patients for found in rest] == [(900, 2700)] * 4
    alone = certify_release(codes[:1800], [replace(groups, names=("g0", "g1"), index=groups.index[:1800])],
                            patients[:1800], leaves=8, target=0.65)  # fmt: skip
    assert pairs[0].needed > alone[0].needed
    assert pairs[0].limit > alone[0].limit


def test_attributes_together_have_the_groups_of_their_product():
    codes, age, patients = population(800, leaves=8)
    sex = Grouping("sex", ("F", "M"), np.arange(1600) % 2)
    found = certify_release(codes, [sex, age, joint(sex, age)], patients, leaves=8, target=0.7)
    assert [item.attribute for item in found] == ["sex", "age"] + ["sex x age"] * 6
    assert found[2].groups == ("F, g0", "F, g1")
    assert found[2].patients == (400, 400)
    assert {item.delta for item in found} == {0.05 / 8}
    # One code tells the combination and neither attribute: equal where they agree, and where they do not.
    agree = (sex.index == age.index).astype(int)
    hidden = certify_release(agree, [sex, age, joint(sex, age)], patients, leaves=8, target=0.7)
    assert [item.met for item in hidden[:2]] == [True, True]
    assert max(item.limit for item in hidden) == 1.0


def test_a_group_without_enough_patients_is_refused_alone():
    codes, groups, patients = population(900, leaves=8, groups=3)
    few = np.flatnonzero(groups.index == 2)[50:]
    index = groups.index.copy()
    index[few] = -1
    found = certify_release(codes, [replace(groups, index=index)], patients, leaves=8, target=0.65)
    assert [item.met for item in found] == [True, False, False]
    assert found[1].patients == (900, 50)


def test_many_images_of_a_patient_are_one_patient():
    codes, groups, patients = population(100)
    thirty = [np.repeat(values, 30) for values in (codes, groups.index, np.array(patients))]
    (found,) = certify_release(
        thirty[0], [replace(groups, index=thirty[1])], thirty[2].tolist(), leaves=16, target=0.6
    )
    assert found.limit is None
    assert found.patients == (100, 100)


def test_a_patient_with_many_images_weighs_as_much_as_any_other():
    codes = np.array([0] * 50 + [1] * 100 + [0] * 100)
    sex = Grouping("sex", ("F", "M"), np.array([0] * 150 + [1] * 100))
    patients = (
        ["F0"] * 50 + [f"F{number}" for number in range(1, 101)] + [f"M{number}" for number in range(100)]
    )
    (found,) = certify_release(codes, [sex], patients, leaves=2, target=0.9)
    assert found.patients == (101, 100)
    assert found.plug_in == pytest.approx(best_attacker([1, 100], [100, 0]))


def test_a_patient_who_changes_the_age_bin_is_in_one_of_them():
    codes, groups, _ = population(200, leaves=4)
    twice = [f"P{number % 200}" for number in range(400)]
    (found,) = certify_release(codes, [groups], twice, leaves=4, target=0.8)
    assert sum(found.patients) == 200
    assert 70 < found.patients[0] < 130


def test_rows_that_are_not_released_and_patients_of_unknown_group_are_left_out():
    codes, groups, patients = population(300, leaves=4)
    codes[:10] = -1
    index = groups.index.copy()
    index[-20:] = -1
    (found,) = certify_release(codes, [replace(groups, index=index)], patients, leaves=4, target=0.7)
    assert found.patients == (290, 280)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"leaves": 8}, DataError),
        ({"target": 0.5}, ConfigError),
        ({"delta": 0.0}, ConfigError),
        ({"comparison": "all"}, ConfigError),
        ({"method": "bayes"}, ConfigError),
        ({"patients": ["P0"]}, DataError),
        ({"attributes": []}, DataError),
        ({"attributes": [Grouping("sex", ("F",), np.zeros(200, dtype=np.int64))]}, DataError),
    ],
)
def test_odd_arguments_are_refused(change, error):
    codes, groups, patients = population(100)
    arguments = {"attributes": [groups], "patients": patients, "leaves": 16, **change}
    with pytest.raises(error):
        certify_release(codes, **arguments)


def test_the_limit_holds_where_one_group_is_much_smaller_than_the_other():
    """The smaller group decides: with the larger one the limit misses the truth in a third of the draws."""
    rng = np.random.default_rng(0)
    first, second = np.array([0.5, 0.5]), np.array([0.3, 0.7])
    truth = best_attacker(first, second)
    missed = sum(
        attacker_limit(rng.multinomial(40, first), rng.multinomial(4000, second)) < truth for _ in range(300)
    )
    assert missed <= 15
