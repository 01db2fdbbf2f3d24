"""The guarantees of the privacy room, over many inputs."""

import math
from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from meninx.core.errors import PrivacyRefusal
from meninx.privacy import accounting
from meninx.privacy.accounting import Phase
from meninx.privacy.clipping import clipped_gradient_sum, slice_units
from meninx.privacy.ledger import Ledger, LedgerAccount, LedgerEntry
from meninx.privacy.noise_calibration import calibrate, slack
from meninx.privacy.plan import ClippingThreshold, Plan, count_short
from meninx.privacy.risk import attack_risk
from meninx.privacy.sampling import CyclicSampler, PoissonSampler

PLAN = Plan.build(
    n_units=500, expected_batch_size=25.0, steps=10**6, noise_multiplier=1.0, max_grad_norm=1.0, delta=1e-5
)
QUICK = settings(max_examples=25, deadline=None)
FEW = settings(max_examples=5, deadline=None)
keys = st.binary(min_size=32, max_size=32)
scales = st.floats(-6, 6).map(lambda power: 10.0**power)


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2))


def squared(outputs, targets):
    return ((outputs - targets) ** 2).sum(1)


def length(total):
    return math.sqrt(sum(float(value.double().square().sum()) for value in total.gradients.values()))


@QUICK
@given(
    st.integers(0, 99),
    scales,
    scales,
    st.integers(1, 4),
    st.sampled_from(["flat", "auto-s"]),
    st.integers(1, 3),
)
def test_one_unit_never_contributes_more_than_the_bound(seed, scale, bound, cases, clipping, views):
    model = net(seed)
    inputs, targets = scale * torch.randn(cases * views, 1, 6, 6), scale * torch.randn(cases * views, 2)
    unit = torch.zeros(cases, dtype=torch.long)
    total = clipped_gradient_sum(
        model,
        squared,
        inputs,
        targets,
        unit_index=unit,
        n_units=1,
        max_grad_norm=bound,
        clipping=clipping,
        views=views,
    )
    assert length(total) <= total.sensitivity * (1 + 1e-5)
    norm = float(total.unit_norms[0])
    if clipping == "flat" and norm < bound:
        assert math.isclose(length(total), norm, rel_tol=1e-4, abs_tol=1e-30)


@QUICK
@given(st.integers(0, 99), st.lists(st.integers(0, 3), min_size=2, max_size=8), st.integers(0, 3), scales)
def test_a_patient_more_or_less_moves_the_sum_by_the_bound_at_most(seed, units, leaving, scale):
    model, bound = net(seed), 0.1
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = (
        scale * torch.randn(len(units), *shape, generator=generator) for shape in ((1, 6, 6), (2,))
    )
    unit = torch.tensor(units)
    stay = unit != leaving
    pair = [
        clipped_gradient_sum(
            model, squared, inputs[rows], targets[rows], unit_index=unit[rows], n_units=4, max_grad_norm=bound
        )
        for rows in (torch.ones_like(stay), stay)
    ]
    moved = sum(
        float((pair[0].gradients[name] - pair[1].gradients[name]).double().square().sum())
        for name in pair[0].gradients
    )
    assert math.sqrt(moved) <= bound * (1 + 1e-5)


@QUICK
@given(st.lists(st.integers(0, 6), max_size=30), st.integers(1, 12))
def test_slices_hold_every_case_once_and_units_whole(units, most):
    parts = slice_units(units, most)
    owners = [set(np.asarray(units)[part].tolist()) for part in parts]
    assert sorted(index for part in parts for index in part.tolist()) == list(range(len(units)))
    assert sum(len(owner) for owner in owners) == len(set(units))
    assert all(len(part) <= most or len(owner) == 1 for part, owner in zip(parts, owners, strict=True))


@QUICK
@given(keys, st.floats(1e-6, 1), st.floats(1e-6, 1), st.integers(0, 300), st.integers(0, 10**6))
def test_a_higher_rate_draws_the_same_units_and_more(key, first, second, units, step):
    low, high = sorted((first, second))
    few, many = (
        set(PoissonSampler(sample_rate=q, n_units=units, key=key).draw(step).tolist()) for q in (low, high)
    )
    assert few <= many <= set(range(units))


@FEW
@given(st.floats(0.001, 0.5), st.floats(0.7, 8), st.integers(1, 2000), st.sampled_from([1e-6, 1e-5]))
def test_epsilon_is_monotone(rate, noise, steps, delta):
    def cost(**changes):
        given = {"sample_rate": rate, "noise_multiplier": noise, "steps": steps} | changes
        return accounting.epsilon([Phase(**given)], delta, coarse=True).value

    base = cost()
    assert cost(steps=2 * steps) >= base
    assert cost(sample_rate=min(1.0, 1.5 * rate)) >= base * (1 - 1e-6)
    assert cost(noise_multiplier=1.5 * noise) <= base
    assert (
        base
        <= accounting.rdp_epsilon([Phase(sample_rate=rate, noise_multiplier=noise, steps=steps)], delta)
        * 1.02
        + 0.02
    )


@FEW
@given(st.integers(200, 20_000), st.floats(0.005, 0.4), st.integers(5, 300), st.floats(0.3, 15))
def test_calibration_meets_the_target_from_below(units, rate, steps, target):
    plan = calibrate(n_units=units, expected_batch_size=rate * units, steps=steps, epsilon=target, delta=1e-6)
    assert target - slack(target) <= plan.epsilon() <= target


@QUICK
@given(st.data(), st.floats(0.05, 20), st.floats(1.001, 50), scales, scales)
def test_gradient_and_count_of_one_unit_stay_within_the_accounted_noise(data, z, factor, bound, norm):
    """For a unit of any length, clipped gradient and centred bit have length 1 / z at most together.

    Each is divided by its noise.
    """
    plan = Plan.build(
        n_units=500,
        expected_batch_size=25.0,
        steps=9,
        noise_multiplier=z,
        max_grad_norm=bound,
        delta=1e-5,
        clipping="adaptive",
        count_noise_multiplier=factor * z,
    )
    force = ClippingThreshold(value=bound * data.draw(scales))
    model, inputs, targets = nn.Linear(2, 2), norm * torch.ones(1, 2), torch.ones(1, 2)
    unit = torch.zeros(1, dtype=torch.long)
    total = plan.clipped_sum(model, squared, inputs, targets, unit_index=unit, n_units=1, threshold=force)
    gradient = length(total) / (plan.gradient_noise_multiplier * total.sensitivity)
    count = count_short(total) / (0.5 * plan.count_noise_multiplier)
    assert math.hypot(gradient, count) <= (1 + 1e-5) / z
    following = force.next(data.draw(st.floats(-1e9, 1e9)), plan)
    assert bound * 1e-6 <= following.value <= bound * 1e6


@QUICK
@given(keys, st.integers(2, 6), st.integers(0, 200), st.integers(0, 60))
def test_a_unit_waits_for_its_turn(key, groups, units, step):
    sampler = CyclicSampler(sample_rate=0.9 / groups, groups=groups, n_units=units, key=key)
    drawn = [set(sampler.draw(step + lag).tolist()) for lag in range(groups)]
    assert sum(map(len, drawn)) == len(set().union(*drawn))
    assert set(sampler.draw(step + groups).tolist()) <= {
        unit for unit in range(units) if sampler.group[unit] == step % groups
    }


@QUICK
@given(st.integers(2, 7), st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True))
def test_cyclic_accounts_count_the_busiest_group(bands, steps):
    plan = replace(PLAN, noise_bands=bands)
    account = None
    for step in sorted(steps):
        entry = LedgerEntry.of(plan, index=0, step=step, stream="keys", torn="", previous="")
        account = (account or LedgerAccount(first=entry)).add(step, 0)
    assert account.phase().steps == max(sum(step % bands == rest for step in steps) for rest in range(bands))


@FEW
@given(st.floats(0.01, 0.3), st.floats(0.8, 5), st.integers(1, 500))
def test_risk_is_bounded_by_epsilon_and_never_below_guessing(rate, noise, steps):
    phase = Phase(sample_rate=rate, noise_multiplier=noise, steps=steps)
    risk = attack_risk([phase], prior=0.01, fprs=(0.01,))
    epsilon = accounting.epsilon([phase], 1e-6).value
    assert 0.01 <= risk.reconstruction * (1 + 1e-9) <= math.exp(epsilon) * 0.01 + 1e-6 + 1e-9
    assert 0 <= risk.advantage <= math.tanh(epsilon / 2) + 1e-6
    assert risk.tpr_at_fpr[0.01] <= min(1.0, 0.01 + risk.advantage + 1e-9)


@QUICK
@given(st.data(), st.lists(st.integers(1, 6), min_size=1, max_size=4), st.booleans())
def test_kills_anywhere_never_lower_what_was_spent(data, bursts, named):
    """Write some steps, cut the file anywhere in the last line, go back to some checkpoint, go on."""
    text, stream, begun = "", "keys" if named else "", 0
    for burst in bursts:
        ledger = Ledger.parse(text)
        step = data.draw(st.integers(max(0, ledger.next_step - 2), ledger.next_step))
        for offset in range(burst):
            ledger, line = ledger.next(PLAN, step + offset, stream=stream)
            text += line
        begun = max(begun, ledger.next_step)
        keep = data.draw(st.integers(len(text) - len(line.lstrip("\n")) + 1, len(text)))
        text = text[:keep]
        spent = Ledger.parse(text)
        counted = sum(phase.steps for phase in spent.phases())
        assert counted >= begun or spent.epsilon(1e-5) == math.inf


@QUICK
@given(st.data(), st.integers(2, 8))
def test_any_flipped_character_is_refused_or_counts_as_torn(data, steps):
    text, ledger = "", Ledger()
    for step in range(steps):
        ledger, line = ledger.next(replace(PLAN, steps=steps), step)
        text += line
    at = data.draw(st.integers(0, len(text) - 2))
    other = data.draw(st.sampled_from([c for c in '0123456789abcdef{}",:\n' if c != text[at]]))
    try:
        changed = Ledger.parse(text[:at] + other + text[at + 1 :])
    except PrivacyRefusal:
        return
    assert sum(phase.steps for phase in changed.phases()) >= steps or changed.epsilon(1e-5) == math.inf
