"""Which stated bounds agree with those that are computed again."""

from __future__ import annotations

import pytest

from meninx.core.risk_records import Bounded
from meninx.privacy.risk import Bracket
from meninx.verify import bounds_checks

COMPUTED = Bracket(value=0.4, lower=0.3998, upper=0.4002)
PRECISION = 1e-3


@pytest.mark.parametrize(
    ("stated", "agrees"),
    [
        ((0.3998, 0.4, 0.4002), True),
        ((0.3996, 0.3998, 0.4), True),  # computed to another precision
        ((0.3998, 0.4, 0.41), False),
        ((0.3998, 0.4, 1.0), False),
        ((0.39, 0.4, 0.4002), False),
        ((0.0, 0.4, 0.4002), False),
        ((0.0, 0.2, 1.0), False),
        ((0.1, 0.2, 0.3), False),
        ((0.5, 0.6, 0.7), False),
        ((0.3998, 0.39, 0.4002), False),
        ((0.4002, 0.4, 0.3998), False),
    ],
)
def test_a_bound_that_was_widened_lowered_or_raised_does_not_agree(stated, agrees):
    lower, value, upper = stated
    found = bounds_checks._agree(Bounded(value=value, lower=lower, upper=upper), COMPUTED, PRECISION)
    assert found is agrees
