"""The accountant: published tables, bounds in the right order, composition."""

import math

import dp_accounting as dpa
import pytest

from meninx.core.errors import ConfigError
from meninx.privacy import accounting
from meninx.privacy.accounting import Epsilon, Phase, epsilon, merge
from meninx.privacy.risk import risk_curve

DELTA = 6e-6


def phase(rate, noise, steps):
    return Phase(sample_rate=rate, noise_multiplier=noise, steps=steps)


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "value"),
    [
        (0.004, 1.1, 50_000, 4.6240),
        (0.02, 1.0, 5_000, 9.6393),
        (0.25, 6.0, 1_000, 6.2851),
        (0.001, 0.7, 20_000, 1.7253),
    ],
)
def test_epsilon_of_the_reference_settings(rate, noise, steps, value):
    found = epsilon([phase(rate, noise, steps)], DELTA)
    assert found.accountant == "pld"
    assert found.value == pytest.approx(value, abs=1e-4)
    coarse = epsilon([phase(rate, noise, steps)], DELTA, coarse=True).value
    assert found.value <= coarse <= 1.01 * found.value
    assert accounting.rdp_epsilon([phase(rate, noise, steps)], DELTA) > found.value
    assert accounting.participation_epsilon([phase(rate, noise, steps)], DELTA) > found.value


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "stated"),
    [
        (0.25247, 20.118, 300, 1.0),
        (0.25247, 3.185, 300, 8.0),
        (0.25247, 1.627, 300, 20.0),
        (0.00307, 1.939, 16_250, 1.0),
        (0.00307, 0.650, 16_250, 8.0),
        (0.00943, 9.974, 53_000, 1.0),
        (0.00943, 1.664, 53_000, 8.0),
    ],
)
def test_published_noise_spends_no_more_than_was_stated(rate, noise, steps, stated):
    """The noise of the published configurations was found by the Rényi bound, which is loose by 3 to 20 %."""
    exact = epsilon([phase(rate, noise, steps)], 8e-7).value
    assert 0.8 * stated < exact < stated
    assert accounting.rdp_epsilon([phase(rate, noise, steps)], 8e-7) == pytest.approx(
        stated, rel=0.05
    )  # integer orders only


def test_one_gaussian_step_costs_what_the_formula_says():
    value = epsilon([phase(1.0, 2.0, 1)], 1e-5).value
    sigma = 2.0
    phi = lambda x: 0.5 * math.erfc(-x / math.sqrt(2))  # noqa: E731
    delta = phi(0.5 / sigma - value * sigma) - math.exp(value) * phi(-0.5 / sigma - value * sigma)
    assert delta == pytest.approx(1e-5, rel=0.01)


def test_phases_compose_like_one_run_and_mixtures_lie_between():
    whole = epsilon([phase(0.02, 1.0, 1000)], DELTA)
    assert epsilon([phase(0.02, 1.0, 400), phase(0.02, 1.0, 600)], DELTA) == whole
    mixed = epsilon([phase(0.02, 1.0, 400), phase(0.02, 2.0, 600)], DELTA).value
    assert epsilon([phase(0.02, 2.0, 1000)], DELTA).value < mixed < whole.value
    assert mixed > epsilon([phase(0.02, 1.0, 400)], DELTA).value
    assert epsilon([phase(0.02, 2.0, 600), phase(0.02, 1.0, 400)], DELTA).value == mixed
    assert merge([phase(0.5, 1.0, 0)]) == ()


def test_nothing_run_costs_nothing_and_no_noise_costs_everything():
    assert epsilon([], DELTA).value == 0
    assert epsilon([phase(0.1, 1.0, 0)], DELTA).value == 0
    assert epsilon([phase(0.1, 1.0, 5), phase(0.1, 0.0, 1)], DELTA) == Epsilon(
        value=math.inf, accountant="none"
    )
    assert epsilon([phase(0.1, 0.0, 0)], DELTA).value == 0


def test_huge_epsilon_names_the_bound_that_answers(capfd):
    little = epsilon([phase(0.25, 0.1, 300)], 1e-6)
    huge = epsilon([phase(0.25, 0.001, 300)], 1e-6)
    assert little.accountant == "pld"
    assert huge.accountant in {"participation", "rdp"}
    assert huge.value >= 10_000 * little.value * 0.9
    assert huge.value <= accounting.rdp_epsilon([phase(0.25, 0.001, 300)], 1e-6)
    assert capfd.readouterr() == ("", "")  # the library is quiet


def test_the_event_is_what_is_accounted():
    event = phase(0.1, 1.5, 7).event()
    assert event == dpa.SelfComposedDpEvent(dpa.PoissonSampledDpEvent(0.1, dpa.GaussianDpEvent(1.5)), 7)


def test_delta_and_epsilon_are_inverse():
    phases = [phase(0.02, 1.0, 500)]
    value = epsilon(phases, 1e-6).value
    assert risk_curve(phases, rates=[1e-6]).upper.delta(value) == pytest.approx(1e-6, rel=1e-3)
    assert risk_curve([]).upper.delta(0.0) == 0
    assert risk_curve([phase(0.1, 0.0, 1)]).upper.delta(5.0) == 1
    assert risk_curve([phase(0.25, 1e-4, 300)]).upper.delta(5.0) == 1


def test_bad_values_are_refused():
    for bad in ({"sample_rate": 0.0}, {"sample_rate": 1.1}, {"noise_multiplier": -1.0}, {"steps": -1}):
        with pytest.raises(ConfigError):
            Phase(**({"sample_rate": 0.1, "noise_multiplier": 1.0, "steps": 1} | bad))
    with pytest.raises(ConfigError, match="delta"):
        epsilon([], 0.0)


def test_green_needs_a_delta_of_a_tenth_over_the_units():
    assert accounting.largest_delta(16) == 1 / 160 < 0.06
    with pytest.raises(ConfigError):
        accounting.largest_delta(0)
