"""The accountant against two others, and calibration against the accountant, over many settings."""

import functools
import warnings

import dp_accounting as dpa
import numpy as np
import pytest
from dp_accounting import pld
from opacus.accountants import PRVAccountant

from meninx.privacy import accounting
from meninx.privacy.accounting import Phase, step_losses
from meninx.privacy.noise_calibration import calibrate, search, slack, solve_noise, solve_steps

DELTA = 6e-6
EASY = [  # sample rate, noise multiplier, steps
    (0.001, 1.0, 1_000),
    (0.001, 1.5, 20_000),
    (0.002, 1.0, 5_000),
    (0.004, 1.1, 10_000),
    (0.004, 2.0, 50_000),
    (0.01, 0.9, 500),
    (0.01, 1.2, 3_000),
    (0.01, 2.5, 30_000),
    (0.02, 1.0, 5_000),
    (0.02, 1.5, 2_000),
    (0.02, 5.0, 50_000),
    (0.05, 1.0, 100),
    (0.05, 1.3, 800),
    (0.05, 4.0, 5_000),
    (0.1, 1.1, 50),
    (0.1, 2.0, 400),
    (0.1, 8.0, 10_000),
    (0.25, 1.6, 30),
    (0.25, 3.2, 300),
    (0.25, 6.0, 1_000),
    (0.5, 2.0, 10),
    (0.5, 10.0, 800),
    (0.9, 5.0, 40),
    (1.0, 4.0, 20),
    (1.0, 30.0, 1_000),
]
HARD = [
    (1e-6, 0.3, 50_000),
    (1e-4, 0.6, 50_000),
    (0.001, 0.7, 20_000),
    (0.004, 1.1, 50_000),
    (0.05, 0.9, 2_000),
]
# Each rate once. All points run with the slow tests.
QUICK = [EASY[place] for place in (0, 3, 5, 8, 12, 16, 17, 21, 22, 24)]


def points(quick: list[tuple[float, float, int]], every: list[tuple[float, float, int]]) -> list[object]:
    """Return the quick points and, marked as slow, the others."""
    return [*quick, *(pytest.param(*point, marks=pytest.mark.slow) for point in every if point not in quick)]


def ours(rate, noise, steps, delta=DELTA):
    return accounting.epsilon([Phase(sample_rate=rate, noise_multiplier=noise, steps=steps)], delta).value


@pytest.mark.parametrize(("rate", "noise", "steps"), points(QUICK, [*EASY, *HARD]))
def test_epsilon_is_that_of_the_library_never_lower(rate, noise, steps):
    accountant = pld.PLDAccountant(dpa.NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-4)
    accountant.compose(
        dpa.SelfComposedDpEvent(dpa.PoissonSampledDpEvent(rate, dpa.GaussianDpEvent(noise)), steps)
    )
    theirs = accountant.get_epsilon(DELTA)
    assert theirs <= ours(rate, noise, steps) <= 1.002 * theirs


DELTAS = [10.0**-power for power in (3, 5, 7, 9, 10, 11, 12, 13, 14)]
SMALL = [(0.25, 3.2, 300), (0.001, 1.0, 1_000), pytest.param(0.05, 1.0, 100, marks=pytest.mark.slow)]
FULL = [(4.0, 1), (4.0, 20), (30.0, 1_000)]


@pytest.mark.parametrize(("rate", "noise", "steps"), [*SMALL, *((1.0, *full) for full in FULL)])
def test_at_small_deltas_too_epsilon_is_never_lower_than_the_librarys(rate, noise, steps):
    accountant = pld.PLDAccountant(dpa.NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-4)
    accountant.compose(
        dpa.SelfComposedDpEvent(dpa.PoissonSampledDpEvent(rate, dpa.GaussianDpEvent(noise)), steps)
    )
    found = [ours(rate, noise, steps, delta) for delta in DELTAS]
    assert found == sorted(found)
    assert all(accountant.get_epsilon(delta) <= value for delta, value in zip(DELTAS, found, strict=True))


@pytest.mark.parametrize(("noise", "steps"), FULL)
def test_at_any_delta_epsilon_of_full_batches_is_close_above_the_exact_one(noise, steps):
    for delta in [*DELTAS, 1e-16, 1e-20, 1e-30]:
        exact = dpa.get_epsilon_gaussian(noise / steps**0.5, delta)
        assert exact <= ours(1.0, noise, steps, delta) <= (1.001 if delta >= 1e-10 else 1.05) * exact


@functools.cache
def prv_bounds(rate, noise, steps):
    """Return lower bound and upper bound of an independent accountant, its own errors included."""
    accountant = PRVAccountant()
    accountant.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        low, _, high = accountant._get_dprv(0.05, DELTA / 1000).compute_epsilon(DELTA, DELTA / 1000, 0.05)
    return low, high


@pytest.mark.parametrize(("rate", "noise", "steps"), points(EASY[3:20:4], [*EASY[:20], *HARD[2:]]))
def test_epsilon_lies_between_the_bounds_of_an_independent_accountant(rate, noise, steps):
    low, high = prv_bounds(rate, noise, steps)
    assert low <= ours(rate, noise, steps) <= high


def test_the_bounds_would_show_a_wrong_rate_or_noise():
    """The check can fail: 1 % less noise or a shuffled rate accounted lies outside."""
    low, _ = prv_bounds(0.02, 1.5, 2_000)
    assert ours(0.02, 1.6, 2_000) < low
    assert ours(0.018, 1.5, 2_000) < low


@pytest.mark.parametrize(("rate", "noise"), [(0.02, 1.0), (0.3, 3.0), (0.999, 2.0), (1e-5, 0.8), (1.0, 2.0)])
def test_the_losses_of_a_step_are_those_of_the_library(rate, noise):
    theirs = pld.privacy_loss_distribution.from_gaussian_mechanism(
        noise, value_discretization_interval=1e-3, sampling_prob=rate
    )
    ours_ = step_losses(rate, noise, 1e-3)
    at = np.array([0.0, 0.01, 0.1, 0.5, 1.0, 3.0])
    assert np.allclose(
        ours_.get_delta_for_epsilon(at), theirs.get_delta_for_epsilon(at), rtol=1e-9, atol=1e-14
    )


GRID = [(0.004, 8.0), (0.02, 1.0), (0.25, 8.0), (1.0, 3.0)]
SLOW_GRID = [(q, e) for q in (1e-6, 1e-4, 0.001) for e in (0.5, 8.0)]


@pytest.mark.parametrize(
    ("rate", "target"), [*GRID, *(pytest.param(*p, marks=pytest.mark.slow) for p in SLOW_GRID)]
)
def test_calibrated_runs_of_50_000_steps_spend_the_target_and_no_more(rate, target):
    noise = solve_noise(sample_rate=rate, steps=50_000, epsilon=target, delta=1e-6)
    assert target - slack(target) <= ours(rate, noise, 50_000, 1e-6) <= target
    steps = solve_steps(sample_rate=rate, noise_multiplier=noise, epsilon=target, delta=1e-6)
    assert steps == pytest.approx(50_000, rel=0.01)
    assert target - slack(target) <= ours(rate, noise, steps, 1e-6) <= target


@pytest.mark.parametrize(
    ("steps", "rates"),
    [
        ((50, 1000, 50_000), (0.005, 0.1, 1.0)),
        pytest.param((50, 200, 1000, 5000, 50_000), (0.005, 0.02, 0.1, 0.4, 1.0), marks=pytest.mark.slow),
    ],
)
def test_more_steps_or_a_higher_rate_need_more_noise(steps, rates):
    by_steps = [solve_noise(sample_rate=0.02, steps=number, epsilon=3.0, delta=1e-6) for number in steps]
    by_rate = [solve_noise(sample_rate=rate, steps=500, epsilon=3.0, delta=1e-6) for rate in rates]
    assert by_steps == sorted(by_steps)
    assert by_rate == sorted(by_rate)


def test_cyclic_runs_are_calibrated_as_they_are_accounted():
    plan = calibrate(n_units=4000, expected_batch_size=50, steps=210, epsilon=4.0, delta=1e-6, noise_bands=4)
    assert 4.0 - slack(4.0) <= plan.epsilon() <= 4.0
    assert plan.epsilon() == ours(0.05, plan.noise_multiplier, 53, 1e-6)
    again = calibrate(
        n_units=4000,
        expected_batch_size=50,
        noise_multiplier=plan.noise_multiplier,
        epsilon=4.0,
        delta=1e-6,
        noise_bands=4,
    )
    assert again.steps % 4 == 0
    assert again.epsilon() <= 4.0


@pytest.mark.parametrize(
    ("cost", "guess", "slope"),
    [(lambda x: 5 / x, 1e-3, -1.0), (lambda x: 3 * x**0.7, 1e4, 0.5), (lambda x: 9 / x**7, 50.0, -1.0)],
)
def test_search_lands_in_the_window(cost, guess, slope):
    assert 0.99 <= cost(search(cost, 1.0, 0.01, guess, slope)[0]) <= 1.0


def test_search_stops_on_the_safe_side_of_a_jump():
    x, _ = search(lambda x: 2.0 if x < 3 else 0.5, 1.0, 0.01, 1.0, -1.0)
    assert x == pytest.approx(3.0)
    whole, _ = search(lambda x: 0.3 * x, 1.0, 0.01, 1.0, 1.0, whole=True)
    assert whole == 3
