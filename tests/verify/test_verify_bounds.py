"""Which stated bounds agree with those that are computed again."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

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


def test_a_stated_precision_does_not_make_a_low_bound_pass(monkeypatch):
    """A bound that is 5 % too low, in a record that states a precision of 10 %."""
    low = Bounded(value=0.375, lower=0.37, upper=0.38)
    assert not bounds_checks._agree(low, COMPUTED, 0.1)
    asked = []

    def curve(phases, **known):
        asked.append(known["precision"])

    monkeypatch.setattr(importlib.import_module("meninx.privacy.risk"), "risk_curve", curve)
    record = SimpleNamespace(priors=(), precision=0.1)
    bounds_checks._curves(record, [])
    assert asked == [1e-3, 1e-3]
