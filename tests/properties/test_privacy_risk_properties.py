"""gamma(kappa) over all of its arguments: between guessing and epsilon, and monotone in each of them."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from meninx.privacy.accounting import Phase
from meninx.privacy.loss_distribution import ThreatModel
from meninx.privacy.risk import risk_curve

WORST, RELAXED = ThreatModel
KAPPAS = (1e-6, 1e-4, 1e-2, 0.3)
FEW = settings(max_examples=15, deadline=None)
RATES = st.floats(-4, 0).map(lambda power: 10.0**power)
NOISES = st.floats(-9, 2.5).map(lambda power: 10.0**power)
STEPS = st.integers(1, 40) | st.integers(1, 20_000)


def curve_of(rate, noise, steps, model=WORST):
    phase = Phase(sample_rate=rate, noise_multiplier=noise, steps=steps)
    return risk_curve([phase], rates=KAPPAS, model=model, precision=5e-3)


@FEW
@given(RATES, NOISES, STEPS)
def test_guessing_relaxed_and_worst_case_are_in_order_and_finite(rate, noise, steps):
    worst, relaxed = (curve_of(rate, noise, steps, model) for model in (WORST, RELAXED))
    for kappa in KAPPAS:
        high, low = worst.gamma(kappa), relaxed.gamma(kappa)
        assert kappa <= low.lower <= low.value <= low.upper <= 1
        assert kappa <= high.lower <= high.value <= high.upper <= 1
        assert low.lower <= high.upper
        assert low.value <= high.value * (1 + 5e-3)
    assert 0.5 <= relaxed.auc().lower <= worst.auc().upper <= 1
    assert worst.auc().lower <= worst.auc().upper
    assert 0 <= worst.advantage().lower <= worst.advantage().upper <= 1


@FEW
@given(RATES, NOISES, STEPS, st.sampled_from(ThreatModel), st.floats(1.1, 10))
def test_risk_rises_with_kappa_steps_and_rate_and_falls_with_noise(rate, noise, steps, model, factor):
    base = curve_of(rate, noise, steps, model)
    values = [found.value for found in base.gammas(KAPPAS)]
    assert values == sorted(values)
    riskier = [
        curve_of(min(1.0, rate * factor), noise, steps, model),
        curve_of(rate, noise / factor, steps, model),
        curve_of(rate, noise, math.ceil(steps * factor), model),
    ]
    for kappa in KAPPAS:
        assert all(base.gamma(kappa).lower <= other.gamma(kappa).upper for other in riskier)
