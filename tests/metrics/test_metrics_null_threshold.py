"""Thresholds that a null sets, and how often a guess without the model is close enough."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from meninx.core.errors import ConfigError, DataError
from meninx.metrics.image_matching import similarity
from meninx.metrics.null_threshold import null_threshold, prior_success, rate_above


def test_a_further_value_of_the_null_is_above_the_threshold_in_one_of_a_hundred():
    rng = np.random.default_rng(0)
    above = [rng.normal() > null_threshold(rng.normal(size=199))[0] for _ in range(4000)]
    assert sum(above) / 4000 == pytest.approx(0.01, abs=0.005)


def test_too_small_a_null_says_which_share_it_keeps():
    eta, share = null_threshold([0.1, 0.5, 0.3])
    assert eta == 0.5
    assert share == 0.25
    assert null_threshold(np.arange(99.0))[1] == 0.01


def test_a_rate_has_the_interval_of_clopper_and_pearson():
    found = rate_above([0.1, 0.2, 0.9, 0.95, -np.inf], 0.5)
    exact = stats.binomtest(2, 5).proportion_ci(method="exact")
    assert (found.share, found.of, found.patients) == (0.4, 5, 5)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_a_value_at_the_threshold_is_no_success():
    assert rate_above([0.5], 0.5).share == 0


def test_a_patient_who_is_attacked_often_counts_once():
    values, patients = [0.9] * 10 + [0.1] * 30, [0] * 10 + [1] * 10 + [2] * 10 + [3] * 10
    found = rate_above(values, 0.5, patients=patients)
    assert found.share == 0.25
    assert found.patients <= 4
    assert found.low < 0.02


def test_images_of_a_step_that_succeed_together_are_worth_little():
    steps = np.repeat(np.arange(3), 8)
    together, apart = [0.9] * 8 + [0.1] * 16, [0.9, 0.1, 0.1] * 8
    found, independent = (rate_above(values, 0.5, steps=steps) for values in (together, apart))
    assert found.share == independent.share == pytest.approx(1 / 3)
    assert found.patients <= 3
    assert independent.patients == 24
    assert found.low < 0.01 < 0.15 < independent.low


def lookalikes(kinds, count, noise=0.01, seed=0):
    """Images of a few kinds; within a kind all are alike."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).random((kinds, 1, 8, 8))
    chosen = rng.integers(kinds, size=count)
    return patterns[chosen] + noise * rng.standard_normal((count, 1, 8, 8))


def test_kappa_of_one_guess_is_the_share_of_the_commonest_kind_and_of_many_all():
    first, second = lookalikes(4, 200), lookalikes(4, 200, seed=1)
    one = prior_success("ncc", first, second, 0.9, guesses=1)
    four = prior_success("ncc", first, second, 0.9, guesses=4)
    assert 0.2 < one < 0.4
    assert four == 1.0


def test_kappa_is_counted_on_images_that_the_guesses_were_not_chosen_on():
    """Images that are like no other: guesses cover themselves, and nobody else's image."""
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 50, 1, 8, 8))
    assert similarity("ncc", first, second).max() < 0.9
    found = prior_success("ncc", first, second, 0.9, guesses=50)
    assert found == pytest.approx(1 - 0.05 ** (1 / 100))  # the limit for none of 100


def test_kappa_falls_with_the_threshold_and_rises_with_the_guesses():
    first, second = lookalikes(6, 60, noise=0.2), lookalikes(6, 60, noise=0.2, seed=1)
    by_threshold = [prior_success("ncc", first, second, eta, guesses=2) for eta in (0.2, 0.5, 0.8, 0.95)]
    by_guesses = [prior_success("ncc", first, second, 0.5, guesses=count) for count in (1, 2, 4, 8)]
    assert by_threshold == sorted(by_threshold, reverse=True)
    assert by_guesses == sorted(by_guesses)


def test_nothing_to_set_a_threshold_on_is_refused():
    for call in (
        lambda: null_threshold([]),
        lambda: null_threshold([0.1, np.nan]),
        lambda: rate_above([], 0.5),
    ):
        with pytest.raises(DataError):
            call()
    with pytest.raises(ConfigError):
        null_threshold([0.1], 1.0)
