"""Calibration: any one of epsilon, noise and steps from the others, never above the target."""

import dp_accounting as dpa
import pytest
from dp_accounting import rdp

from meninx.core.budget import PrivacyUnit
from meninx.core.errors import ConfigError, PrivacyRefusal
from meninx.privacy import accounting
from meninx.privacy.accounting import Phase, epsilon
from meninx.privacy.noise_calibration import calibrate, noise_profile, slack, solve_noise

THREE = {"epsilon": 1.0, "steps": 3, "noise_multiplier": 1.0}


@pytest.mark.parametrize(
    ("rate", "steps", "target", "noise"),
    [
        (0.004, 50_000, 8.0, 0.8341),
        (0.02, 5_000, 8.0, 1.1049),
        (0.25, 1_000, 1.0, 30.46),
        pytest.param(0.001, 20_000, 1.0, 0.8452, marks=pytest.mark.slow),
    ],
)
def test_noise_of_the_reference_settings(rate, steps, target, noise):
    found = solve_noise(sample_rate=rate, steps=steps, epsilon=target, delta=6e-6)
    spent = epsilon([Phase(sample_rate=rate, noise_multiplier=found, steps=steps)], 6e-6).value
    assert found == pytest.approx(noise, rel=2e-3)
    assert target - slack(target) <= spent <= target


@pytest.mark.parametrize("target", [0.1, 1.0, 3.0, 8.0, 20.0, 100.0, 1e6, 1e9])
def test_epsilon_is_met_from_below(target):
    plan = calibrate(n_units=2000, expected_batch_size=200, epochs=10, epsilon=target, delta=1e-5)
    assert plan.steps == 100
    assert target - slack(target) <= plan.epsilon() <= target


def test_steps_from_noise_and_epsilon_are_the_most_that_fit():
    plan = calibrate(n_units=1000, expected_batch_size=200, noise_multiplier=2.0, epsilon=3.0, delta=1e-5)
    more = calibrate(
        n_units=1000, expected_batch_size=200, noise_multiplier=2.0, steps=plan.steps + 1, delta=1e-5
    )
    assert plan.epsilon() <= 3.0
    assert more.epsilon() > 3.0 or 3.0 - plan.epsilon() <= slack(3.0)


def test_the_three_ways_agree():
    given = {
        "n_units": 3000,
        "expected_batch_size": 150,
        "delta": 1e-5,
        "max_grad_norm": 0.7,
        "clipping": "auto-s",
        "views": 4,
    }
    first = calibrate(**given, steps=400, noise_multiplier=1.3, unit=PrivacyUnit.CASE)
    second = calibrate(**given, steps=400, epsilon=first.epsilon(), unit=PrivacyUnit.CASE)
    third = calibrate(**given, noise_multiplier=1.3, epsilon=first.epsilon() + 1e-9, unit=PrivacyUnit.CASE)
    assert second.noise_multiplier == pytest.approx(1.3, rel=0.01)
    assert abs(third.steps - 400) <= 3
    assert (second.max_grad_norm, second.clipping, second.views, second.unit) == (0.7, "auto-s", 4, "case")


def test_what_cannot_be_reached_is_refused_with_advice():
    with pytest.raises(
        PrivacyRefusal, match="fewer steps, a smaller expected_batch_size, or an epsilon of at least"
    ):
        calibrate(n_units=1000, expected_batch_size=500, steps=50_000, epsilon=1e-4, delta=1e-6)
    with pytest.raises(PrivacyRefusal, match=r"one step alone costs .* a noise_multiplier of .* allows one"):
        calibrate(n_units=1000, expected_batch_size=500, noise_multiplier=0.3, epsilon=1.0, delta=1e-6)
    with pytest.raises(ConfigError, match="let the noise be found"):
        calibrate(n_units=10**6, expected_batch_size=1, noise_multiplier=50.0, epsilon=8.0, delta=1e-8)


@pytest.mark.parametrize(
    "given", [{}, {"epsilon": 1.0}, {"steps": 3}, THREE, {"steps": 3, "epochs": 1, "epsilon": 1.0}]
)
def test_exactly_two_are_asked_for(given):
    with pytest.raises(ConfigError, match=r"exactly two|steps and epochs"):
        calibrate(n_units=100, expected_batch_size=10, delta=1e-5, **given)


def test_a_batch_larger_than_the_dataset_is_refused():
    with pytest.raises(ConfigError, match="expected_batch_size <= n_units"):
        calibrate(n_units=100, expected_batch_size=101, delta=1e-5, steps=3, epsilon=1.0)


@pytest.mark.parametrize(("rate", "steps"), [(0.00307, 16_250), (0.25, 300)])
def test_the_noise_of_an_axis_spends_its_epsilons(rate, steps):
    axis = [0.5, 5.0, 60.0, 1e3, 1e6, 1e12]
    found = list(noise_profile(sample_rate=rate, steps=steps, epsilons=axis, delta=1e-6))
    noises = [item.noise_multiplier for item in found]
    assert noises == sorted(noises, reverse=True)
    for target, item in zip(axis, found, strict=True):
        phase = Phase(sample_rate=rate, noise_multiplier=item.noise_multiplier, steps=steps)
        spent = accounting.epsilon([phase], 1e-6)
        assert 0.97 * target <= spent.value <= target
        assert spent.accountant == item.spent.accountant


def test_an_epsilon_of_a_thousand_is_reached_at_a_low_sample_rate():
    """The Rényi bound, which chose the grid alone, is above 50,000 here: the noise was for epsilon 300."""
    noise = solve_noise(sample_rate=0.00307, steps=16_250, epsilon=1000.0, delta=8e-7)
    found = accounting.epsilon([Phase(sample_rate=0.00307, noise_multiplier=noise, steps=16_250)], 8e-7)
    assert 1000 - slack(1000.0) <= found.value <= 1000
    assert found.accountant == "pld"


def test_renyi_bounds_of_all_orders_are_those_of_dp_accounting():
    for rate, noise, steps in (
        (0.25, 1.0, 300),
        (0.003, 0.65, 16_250),
        (1.0, 5.0, 10),
        (0.25, 0.05, 300),
        (0.5, 1e-9, 3),
    ):
        phase = Phase(sample_rate=rate, noise_multiplier=noise, steps=steps)
        orders = accounting._LOW_ORDERS + accounting._ORDERS if noise < 0.15 else accounting._ORDERS
        accountant = rdp.RdpAccountant(orders, dpa.NeighboringRelation.ADD_OR_REMOVE_ONE)
        accountant.compose(phase.event())
        assert accounting.rdp_epsilon([phase], 1e-6) == pytest.approx(accountant.get_epsilon(1e-6), rel=1e-9)
