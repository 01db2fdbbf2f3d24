"""The bound for several units of one person: never below the exact curve of the Gaussian mechanism."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy.stats import norm

from meninx.core.errors import ConfigError
from meninx.privacy.accounting import Phase
from meninx.privacy.group_risk import MOST, GroupRisk
from meninx.privacy.risk import risk_curve

_RATES = (1e-3, 0.01, 0.1, 0.5)


@given(mu=some.floats(0.02, 1.5), steps=some.integers(1, 4), size=some.integers(1, 8))
@settings(max_examples=15, deadline=None)
def test_a_group_of_a_gaussian_mechanism_is_bounded_by_the_exact_curve_of_k_times_mu(mu, steps, size):
    phase = Phase(sample_rate=1.0, noise_multiplier=1 / mu, steps=steps)
    group = GroupRisk(curve=risk_curve([phase], rates=_RATES), size=size)
    shift = size * mu * steps**0.5
    for rate in _RATES:
        exact = norm.cdf(norm.ppf(rate) + shift)
        found = group.gamma(rate)
        assert exact * (1 - 1e-9) <= found.upper <= exact * (1 + 2e-3 * size)
        assert found.lower <= exact * (1 + 1e-9)
        if found.upper < 1:  # the other direction, with the group in the training as the null
            assert norm.sf(norm.isf(1 - found.upper) - shift) <= (1 - rate) * (1 + 1e-9)
    exact = 2 * norm.cdf(shift / 2) - 1
    assert exact * (1 - 1e-9) <= group.advantage().upper <= exact * (1 + 2e-3 * size) + 1e-4


@given(rate=some.floats(0.01, 1.0), noise=some.floats(0.7, 5.0), size=some.integers(1, 6))
@settings(max_examples=10, deadline=None)
def test_more_cases_are_never_bounded_less(rate, noise, size):
    curve = risk_curve([Phase(sample_rate=rate, noise_multiplier=noise, steps=5)], rates=_RATES)
    one, more = GroupRisk(curve=curve, size=size), GroupRisk(curve=curve, size=size + 1)
    for kappa in _RATES:
        assert kappa <= one.gamma(kappa).upper <= more.gamma(kappa).upper <= 1
        assert one.gamma(kappa).upper == pytest.approx(curve.gamma(kappa).upper) or size > 1
    assert one.advantage().upper <= more.advantage().upper + 1e-12


@pytest.mark.parametrize("size", [0, MOST + 1])
def test_a_group_has_a_unit_and_not_too_many(size):
    curve = risk_curve([Phase(sample_rate=1.0, noise_multiplier=9.0, steps=1)])
    with pytest.raises(ConfigError):
        GroupRisk(curve=curve, size=size)
