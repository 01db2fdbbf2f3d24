"""Risk in an attacker's terms: the reference table, and the exact curve of one Gaussian step."""

import math

import pytest
from scipy.stats import norm

from meninx.core.errors import ConfigError
from meninx.privacy.accounting import Phase
from meninx.privacy.tradeoff import attack_risk

HAM, RAD, LIVER = (0.25247, 300, 1 / 8112), (0.00307, 16_250, 1 / 1.083e6), (0.00943, 53_000, 1 / 106)


def phases(rate, noise, steps):
    return [Phase(sample_rate=rate, noise_multiplier=noise, steps=steps)]


@pytest.mark.parametrize(
    ("run", "noise", "gamma"),
    [
        (HAM, 20.118, 2.830e-4),
        (HAM, 3.185, 0.01214),
        (HAM, 1.627, 0.2085),
        (HAM, 0.702, 0.9994),
        (RAD, 1.939, 2.669e-6),
        (RAD, 0.650, 2.79e-4),
        (RAD, 0.505, 0.01382),
        (RAD, 0.339, 0.968),
        (LIVER, 9.974, 0.01660),
        (LIVER, 1.664, 0.1804),
        (LIVER, 0.959, 0.7424),
        (LIVER, 0.560, 1.0),
    ],
)
def test_reconstruction_bounds_of_the_reference_table(run, noise, gamma):
    rate, steps, prior = run
    assert attack_risk(phases(rate, noise, steps), prior=prior, fprs=()).reconstruction == pytest.approx(
        gamma, rel=0.02
    )


@pytest.mark.parametrize("noise", [0.4, 1.0, 3.0])
def test_one_gaussian_step_has_the_gaussian_curve(noise):
    risk = attack_risk(phases(1.0, noise, 1), prior=0.02)
    for fpr, tpr in {**risk.tpr_at_fpr, 0.02: risk.reconstruction}.items():
        exact = norm.cdf(norm.ppf(fpr) + 1 / noise)
        assert exact * (1 - 1e-6) <= tpr <= exact * 1.002
    assert risk.advantage == pytest.approx(2 * norm.cdf(0.5 / noise) - 1, rel=1e-3)


def test_bounds_rise_with_the_rate_and_fall_with_noise():
    risky, safe = (attack_risk(phases(0.05, noise, 200), prior=1e-3) for noise in (0.7, 2.0))
    assert list(risky.tpr_at_fpr) == [0.001, 0.01, 0.1]
    for low, high in (
        (risky.tpr_at_fpr[0.001], risky.tpr_at_fpr[0.01]),
        (risky.tpr_at_fpr[0.01], risky.tpr_at_fpr[0.1]),
    ):
        assert low < high
    assert all(safe.tpr_at_fpr[fpr] < risky.tpr_at_fpr[fpr] for fpr in safe.tpr_at_fpr)
    assert safe.advantage < risky.advantage
    assert risky.reconstruction == pytest.approx(risky.tpr_at_fpr[0.001])  # the same question, asked twice


def test_the_ends_no_run_no_noise_certain_guess():
    nothing = attack_risk([], prior=0.1)
    assert nothing.advantage == 0
    assert nothing.reconstruction == pytest.approx(0.1)
    bare = attack_risk(phases(0.1, 0.0, 1), prior=0.1)
    assert (bare.advantage, bare.reconstruction) == (1.0, 1.0)
    assert attack_risk(phases(0.1, 1.0, 10), prior=1.0, fprs=()).reconstruction == 1.0
    assert 0 <= attack_risk(phases(0.1, 1.0, 10), prior=0.0, fprs=()).reconstruction < 1e-6
    with pytest.raises(ConfigError, match="prior"):
        attack_risk([], prior=math.nan, fprs=())


def test_many_gaussian_steps_are_one_with_less_noise():
    risk = attack_risk(phases(1.0, 8.0, 64), prior=0.02)
    for fpr, tpr in risk.tpr_at_fpr.items():
        exact = norm.cdf(norm.ppf(fpr) + 1.0)
        assert exact * (1 - 1e-6) <= tpr <= exact * 1.002


@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_one_sampled_step_has_the_curve_of_the_best_test_of_a_unit_that_is_there(rate):
    """At few false positives the best test of a mixture is a threshold on the released coordinate."""
    noise = 0.7
    risk = attack_risk(phases(rate, noise, 1), prior=0.02)
    for fpr in (0.001, 0.01):
        exact = rate * norm.cdf(norm.ppf(fpr) + 1 / noise) + (1 - rate) * fpr
        assert exact * (1 - 1e-6) <= risk.tpr_at_fpr[fpr] <= exact * 1.002
    best = rate * (2 * norm.cdf(0.5 / noise) - 1)
    assert best * (1 - 1e-6) <= risk.advantage <= best * 1.002
