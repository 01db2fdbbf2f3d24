"""Limits of a proportion equal those of scipy, and one-sided limits are ends of two-sided intervals."""

import pytest
from scipy.stats import beta, binomtest

from meninx.core.proportions import clopper_pearson, lower_limit, upper_limit

COUNTS = [(0, 5), (14, 14), (3, 10), (99, 100)]


@pytest.mark.parametrize(("events", "trials"), COUNTS)
def test_clopper_pearson_equals_scipy(events, trials):
    theirs = binomtest(events, trials).proportion_ci(method="exact")
    assert clopper_pearson(events, trials) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("events", "trials"), COUNTS)
def test_one_sided_limits_have_the_whole_significance_on_one_side(events, trials):
    low, high = clopper_pearson(events, trials, 0.9)
    assert lower_limit(events, trials, 0.05) == pytest.approx(low, abs=1e-12)
    assert upper_limit(events, trials, 0.05) == pytest.approx(high, abs=1e-12)
    if 0 < events < trials:
        assert upper_limit(events, trials, 0.05) == pytest.approx(beta.ppf(0.95, events + 1, trials - events))


def test_effective_numbers_may_be_fractional_and_rounding_leaves_no_gap():
    low, high = clopper_pearson(2.5, 7.5)
    assert 0 < low < 1 / 3 < high < 1
    assert clopper_pearson(7.5 + 1e-12, 7.5)[1] == 1.0
    assert clopper_pearson(-1e-12, 7.5)[0] == 0.0
