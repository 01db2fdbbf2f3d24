"""Adaptive clipping: the threshold follows a quantile, and both releases together cost what is accounted."""

import dataclasses
import math

import dp_accounting as dpa
import pytest
import torch
from torch import nn

from meninx.core.errors import ConfigError, PrivacyRefusal
from meninx.privacy import plan as plans
from meninx.privacy.clipping import ClippedSum
from meninx.privacy.noise import GaussianNoise
from meninx.privacy.plan import ClippingThreshold, Plan, count_short

KEY = bytes(range(32))
Z, BATCH, BOUND = 1.2, 40.0, 0.5


def make(**changes):
    given = {
        "n_units": 1000,
        "expected_batch_size": BATCH,
        "steps": 50,
        "noise_multiplier": Z,
        "max_grad_norm": BOUND,
    }
    return Plan.build(**(given | {"delta": 1e-5, "clipping": "adaptive"} | changes))


def total_of(norms, threshold, *, size=4):
    """Return a clipped sum over units of these gradient norms, all in one direction."""
    norms = torch.tensor(norms, dtype=torch.float64)
    clipped = torch.where(torch.isfinite(norms), norms, torch.zeros(())).clamp(max=threshold).sum()
    gradient = torch.zeros(size)
    gradient[0] = clipped
    present = torch.ones(len(norms), dtype=torch.bool)
    return ClippedSum(gradients={"w": gradient}, unit_norms=norms, present=present, sensitivity=threshold)


def whitened_move(plan, with_it, without, noise_of):
    """Return by how many standard deviations a unit moves both releases of a step together."""
    gradient_std, count_std = noise_of(plan, with_it)
    moved = sum(
        float((with_it.gradients[n] - without.gradients[n]).square().sum()) for n in with_it.gradients
    )
    bit = count_short(with_it) - count_short(without)
    return math.sqrt(moved / gradient_std**2 + bit**2 / count_std**2)


def measured_noise(plan, total):
    """Return the standard deviations of what the plan really adds to gradient and count."""
    noise = plan.noise(KEY)
    zero = dataclasses.replace(total, gradients={"w": torch.zeros(200_000)})
    gradient = plan.release(zero, noise, 0)["w"] * plan.expected_batch_size
    counts = torch.tensor([plan.noisy_count(total, noise, step) - count_short(total) for step in range(3000)])
    return float(gradient.double().std()), float(counts.double().std())


def check_both_releases_cost_what_is_accounted():
    """The longest unit moves both releases by 1 / z of the accounted event, at any threshold in force.

    The comparison allows for sampling error.
    """
    plan = make(count_noise_multiplier=2.0)
    assert plan.event(1) == dpa.SelfComposedDpEvent(
        dpa.PoissonSampledDpEvent(0.04, dpa.GaussianDpEvent(Z)), 1
    )
    for value in (BOUND, 3.7):
        with_it, without = total_of([0.1, 9.0, 99.0], value), total_of([0.1, 9.0], value)
        assert whitened_move(plan, with_it, without, measured_noise) == pytest.approx(1 / Z, rel=0.03)


def test_both_releases_together_cost_what_is_accounted():
    check_both_releases_cost_what_is_accounted()


def count_without_noise(monkeypatch):
    monkeypatch.setattr(
        Plan, "noisy_count", lambda self, total, noise, step: count_short(total) + 1e-9 * step
    )


def gradient_noise_left_at_z(monkeypatch):
    monkeypatch.setattr(plans, "_gradient_noise", lambda plan: plan.noise_multiplier)


def noise_of_the_first_threshold(monkeypatch):
    """The noise does not follow the threshold in force."""

    def release(self, total, noise, step):
        return {
            name: value / self.expected_batch_size for name, value in noise.add(total.gradients, step).items()
        }

    monkeypatch.setattr(Plan, "release", release)


def bits_not_centred(monkeypatch):
    module = globals()
    monkeypatch.setitem(
        module, "count_short", lambda total: float((total.unit_norms > total.sensitivity).sum())
    )
    monkeypatch.setattr(
        plans, "count_short", lambda total: float((total.unit_norms > total.sensitivity).sum())
    )


FAULTS = [count_without_noise, gradient_noise_left_at_z, noise_of_the_first_threshold, bits_not_centred]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(monkeypatch, fault):
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        check_both_releases_cost_what_is_accounted()


@pytest.mark.parametrize("z", [0.3, 1.0, 12.0])
@pytest.mark.parametrize("factor", [1.01, 2.0, 100.0])
def test_gradient_noise_and_count_noise_add_up_to_the_stated_one(z, factor):
    plan = make(noise_multiplier=z, count_noise_multiplier=factor * z)
    assert plan.gradient_noise_multiplier**-2 + plan.count_noise_multiplier**-2 == pytest.approx(z**-2)
    assert plan.gradient_noise_multiplier > z
    assert plan.epsilon(5) == make(noise_multiplier=z, clipping="flat").epsilon(5)


def test_the_defaults_cost_three_percent_more_noise_at_most():
    plan = make()
    assert (plan.clip_quantile, plan.clip_rate, plan.count_noise_multiplier) == (0.5, 0.2, 4.8)
    assert plan.gradient_noise_multiplier <= 1.033 * Z
    assert make(expected_batch_size=400.0).count_noise_multiplier == 40.0


def test_the_threshold_moves_to_the_quantile_of_the_norms():
    plan = make(noise_multiplier=0.2, clip_quantile=0.7)
    noise, force = plan.noise(KEY), plan.threshold()
    norms = [0.05 * (unit + 1) for unit in range(40)]
    for step in range(150):
        force = plan.next_threshold(force, total_of(norms, force.value), noise, step)
    assert force.value == pytest.approx(0.7 * 2.0, rel=0.1)
    for step in range(150, 400):
        force = plan.next_threshold(
            force, total_of([0.01], force.value), noise, step
        )  # nearly empty draws: the count is noise
    assert force.value > 0


def test_a_unit_counts_half_whatever_it_is():
    assert count_short(total_of([], 1.0)) == 0
    for norm in (0.0, 1.0):
        assert count_short(total_of([norm], 1.0)) == 0.5
    for norm in (1.5, math.inf, math.nan):
        assert count_short(total_of([norm], 1.0)) == -0.5


def test_count_and_gradient_noise_are_apart_and_the_same_on_resume():
    plan, total = make(), total_of([0.1, 2.0], 0.8)
    noise = plan.noise(KEY)
    assert (
        plan.noisy_count(total, noise, 3)
        == plan.noisy_count(total, plan.noise(KEY), 3)
        != plan.noisy_count(total, noise, 4)
    )
    assert noise.sample(0, "clip-count", ()) != noise.sample(0, ".clip-count", ())
    with pytest.raises(KeyError):
        nn.Module().register_parameter(".clip-count", nn.Parameter(torch.zeros(1)))


def test_the_plan_clips_at_the_threshold_in_force():
    plan, model = make(), nn.Linear(6, 3)
    inputs, targets = 50 * torch.randn(8, 6), torch.randint(0, 3, (8,))
    given = {"unit_index": torch.arange(8), "n_units": 8}
    loss = nn.CrossEntropyLoss(reduction="none")
    for value in (0.01, 0.3):
        total = plan.clipped_sum(
            model, loss, inputs, targets, threshold=ClippingThreshold(value=value), **given
        )
        assert total.sensitivity == value
        length = math.sqrt(sum(float(part.square().sum()) for part in total.gradients.values()))
        assert length <= 8 * value * (1 + 1e-5)
    with pytest.raises(ConfigError, match="the threshold in force"):
        plan.clipped_sum(model, loss, inputs, targets, **given)
    with pytest.raises(ConfigError, match="max_grad_norm with any other"):
        make(clipping="flat").clipped_sum(
            model, loss, inputs, targets, threshold=ClippingThreshold(value=9.0), **given
        )
    make(clipping="flat").clipped_sum(
        model, loss, inputs, targets, threshold=ClippingThreshold(value=BOUND), **given
    )


def test_other_plans_keep_their_threshold_and_release_no_count():
    plan = make(clipping="flat")
    force = plan.threshold()
    assert plan.next_threshold(force, total_of([9.0], BOUND), plan.noise(KEY), 0) is force
    assert ClippingThreshold(value=2.0).next(5.0, plan).value == 2.0
    with pytest.raises(PrivacyRefusal, match="clipping 'adaptive'"):
        plan.noisy_count(total_of([9.0], BOUND), plan.noise(KEY), 0)


def test_fields_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="no clip_quantile with clipping 'flat'"):
        make(clipping="flat", clip_quantile=0.5)
    with pytest.raises(ConfigError, match="no count_noise_multiplier with clipping 'auto-s'"):
        make(clipping="auto-s", count_noise_multiplier=9.0)
    with pytest.raises(PrivacyRefusal, match="the count alone spends the whole budget"):
        make(count_noise_multiplier=Z)
    with pytest.raises(PrivacyRefusal, match="choose one of the two"):
        make(noise_bands=4)
    for changes in ({"clip_quantile": 1.0}, {"clip_rate": 0.0}, {"count_noise_multiplier": -1.0}):
        with pytest.raises(ConfigError):
            make(**changes)
    with pytest.raises(ConfigError, match="threshold > 0"):
        ClippingThreshold(value=0.0)
    plan = make()
    for std in (Z * BOUND, 0.0):
        with pytest.raises(PrivacyRefusal, match="noise of standard deviation"):
            plan.release(total_of([1.0], 0.2), GaussianNoise(key=KEY, std=std), 0)
        with pytest.raises(PrivacyRefusal, match="noise of standard deviation"):
            plan.noisy_count(total_of([1.0], 0.2), GaussianNoise(key=KEY, std=std), 0)


def test_all_settings_are_in_the_fingerprint():
    changes = [
        {},
        {"clip_quantile": 0.6},
        {"clip_rate": 0.3},
        {"count_noise_multiplier": 9.0},
        {"clipping": "flat"},
    ]
    assert len({make(**change).fingerprint() for change in changes}) == 5
    assert make(count_noise_multiplier=4.8).fingerprint() == make().fingerprint()
