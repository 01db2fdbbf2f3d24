"""Noise and clipping measured at canaries: exact limits, faults at any epsilon, and what is refused."""

import math

import numpy as np
import pytest

from meninx.core.errors import DataError
from meninx.privacy.residual_audit import audit_residuals

STEPS, RATE, MU = 50, 0.25, 0.7


def simulated(noise=1.0, length=1.0, mu=MU, count=400, seed=0):
    """Return sums of squared residuals of canaries that take part and of others."""
    rng = np.random.default_rng(seed)
    drawn = rng.random((count, STEPS)) < RATE
    inside = rng.normal(0, noise, (count, STEPS)) + drawn * length * mu
    outside = rng.normal(0, noise, (count, STEPS))
    return (inside**2).sum(1), (outside**2).sum(1)


def found_in(noise=1.0, length=1.0, mu=MU, count=400, seed=0):
    inside, outside = simulated(noise, length, mu, count, seed)
    return audit_residuals(inside, outside, steps=(STEPS, STEPS), rate=RATE, mu=mu)


@pytest.mark.parametrize("mu", [0.7, 200.0])
def test_a_correct_run_is_accused_in_at_most_one_of_a_hundred(mu):
    wrong = [found_in(mu=mu, seed=seed).refuted_by for seed in range(100)]
    assert sum(bool(names) for names in wrong) <= 1


@pytest.mark.parametrize("mu", [0.05, 0.7, 200.0])
def test_less_noise_is_found_whatever_epsilon_is(mu):
    found = found_in(noise=0.9, mu=mu)
    assert "noise" in found.refuted_by
    assert found.noise_low < 0.9 < found.noise_high < 1
    assert found.samples == 400 * STEPS


@pytest.mark.parametrize("mu", [0.7, 200.0])
def test_a_unit_that_is_clipped_too_late_is_found(mu):
    found = found_in(length=2.0, mu=mu)
    assert found.refuted_by == ("length",)
    assert found.length == pytest.approx(2.0, rel=0.1)


def test_more_noise_than_promised_is_no_fault():
    assert found_in(noise=1.2).refuted_by == ()


def test_a_length_that_the_noise_hides_is_not_stated():
    found = found_in(mu=0.05)
    assert found.length is None
    assert found.refuted_by == ()


def test_limits_are_those_of_chi_square():
    from scipy import stats

    inside, outside = simulated()
    found = audit_residuals(inside, outside, steps=(STEPS, STEPS), rate=RATE, mu=MU, significance=0.025)
    total, freedom = outside.sum(), 400 * STEPS
    assert found.noise_low == pytest.approx(math.sqrt(total / stats.chi2.ppf(0.975, freedom)), rel=1e-9)
    assert found.noise_high == pytest.approx(math.sqrt(total / stats.chi2.ppf(0.025, freedom)), rel=1e-9)


def test_canaries_seen_in_fewer_steps_count_for_these():
    inside, outside = simulated()
    steps = np.full(400, STEPS)
    outside[:100], steps[:100] = 0.0, 0
    found = audit_residuals(inside, outside, steps=(STEPS, steps), rate=RATE, mu=MU)
    assert found.samples == 300 * STEPS
    assert found.noise == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    "outside", [np.ones(10), np.full(50, -1.0), np.full(50, np.nan), np.ones((50, 2))], ids=str
)
def test_other_sums_are_refused(outside):
    with pytest.raises(DataError, match="sums of squares"):
        audit_residuals(np.ones(50), outside, steps=(5, 5), rate=RATE, mu=MU)
