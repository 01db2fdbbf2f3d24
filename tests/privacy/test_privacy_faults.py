"""Planted faults: every check that guards the mechanism is shown to fail when the mechanism is broken."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from meninx.core.errors import PrivacyRefusal
from meninx.privacy import keystream as streams
from meninx.privacy import plan as plans
from meninx.privacy.clipping import ClippedSum, engine
from meninx.privacy.clipping.gradient_record import GradientRecord
from meninx.privacy.ledger import Ledger
from meninx.privacy.noise import GaussianNoise
from meninx.privacy.plan import Plan
from meninx.privacy.sampling import PoissonSampler

KEY = bytes(range(32))
UNITS, BATCH, SIGMA, BOUND = 400, 40.0, 1.5, 0.2
CE = nn.CrossEntropyLoss(reduction="none")


def make(**changes):
    given = {"n_units": UNITS, "expected_batch_size": BATCH, "steps": 50, "noise_multiplier": SIGMA}
    return Plan.build(**(given | {"max_grad_norm": BOUND, "delta": 1e-5} | changes))


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3))


def data(units):
    generator = torch.Generator().manual_seed(1)
    return 3 * torch.randn(units, 6, generator=generator), torch.randint(0, 3, (units,), generator=generator)


def gradients(plan, units, net):
    inputs, targets = data(20)
    keep = torch.as_tensor(units)
    return plan.clipped_sum(
        net, CE, inputs[keep], targets[keep], unit_index=torch.arange(len(units)), n_units=len(units)
    )


# the checks


def check_noise_is_as_accounted():
    """A step without data is noise of standard deviation sigma * C / batch, with the event's sigma."""
    plan = make()
    net = nn.Linear(700, 700)
    released = plan.release(ClippedSum.empty(net, max_grad_norm=BOUND), plan.noise(KEY), 0)
    sigma = plan.event(1).event.event.noise_multiplier
    assert float(released["weight"].std()) == pytest.approx(sigma * BOUND / BATCH, rel=0.01)


def check_noise_is_new_every_step():
    noise = make().noise(KEY)
    first, second = noise.sample(0, "a", (1000,)), noise.sample(1, "a", (1000,))
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.15


def check_a_neighbour_moves_the_sum_by_the_bound_at_most():
    """Record-play: the same step with and without one unit; everything else, noise included, is the same."""
    plan, net, noise = make(), model(), make().noise(KEY)
    everyone = list(range(20))
    for left_out in everyone:
        remaining = [unit for unit in everyone if unit != left_out]
        pair = [plan.release(gradients(plan, units, net), noise, 0) for units in (everyone, remaining)]
        moved = math.sqrt(
            sum(float((pair[0][name] - pair[1][name]).double().square().sum()) for name in pair[0])
        )
        assert moved * BATCH <= BOUND * (1 + 1e-4)


def check_a_patient_with_many_records_and_views_moves_the_sum_by_the_bound_at_most():
    net, (inputs, targets) = model(), data(24)
    for views in (1, 2):
        plan, records = make(unit="patient", views=views), 24 // views
        unit = torch.tensor([0] * (records - 2) + [1, 2])
        total = plan.clipped_sum(net, CE, inputs, targets, unit_index=unit, n_units=records)
        one, rest = slice(0, (records - 2) * views), slice((records - 2) * views, None)
        without = plan.clipped_sum(
            net, CE, inputs[rest], targets[rest], unit_index=unit[-2:], n_units=records
        )
        alone = plan.clipped_sum(net, CE, inputs[one], targets[one], unit_index=unit[:-2], n_units=records)
        moved = sum(
            float((total.gradients[name] - without.gradients[name]).double().square().sum())
            for name in total.gradients
        )
        length = sum(float(value.double().square().sum()) for value in alone.gradients.values())
        assert max(math.sqrt(moved), math.sqrt(length)) <= BOUND * (1 + 1e-4)


def check_views_are_averaged_before_clipping():
    plan, net, (inputs, targets) = make(views=4), model(), data(8)
    total = plan.clipped_sum(net, CE, inputs, targets, unit_index=torch.arange(2), n_units=2)
    means = [
        torch.cat(
            [
                v.flatten()
                for v in torch.autograd.grad(CE(net(inputs[r]), targets[r]).mean(), list(net.parameters()))
            ]
        )
        for r in (slice(0, 4), slice(4, 8))
    ]
    expected = sum(value * min(1.0, BOUND / float(value.norm())) for value in means)
    found = torch.cat([value.flatten() for value in total.gradients.values()])
    assert torch.allclose(found, expected, atol=1e-6)


def check_a_unit_that_is_not_finite_contributes_nothing():
    plan, net, (inputs, targets) = make(), model(), data(6)
    broken = inputs.clone()
    broken[2] = math.nan
    found = plan.clipped_sum(net, CE, broken, targets, unit_index=torch.arange(6), n_units=6)
    rest = torch.tensor([0, 1, 3, 4, 5])
    expected = plan.clipped_sum(net, CE, inputs[rest], targets[rest], unit_index=rest, n_units=6)
    for name, value in found.gradients.items():
        assert torch.allclose(value, expected.gradients[name], atol=1e-6)


def check_the_denominator_is_a_public_constant():
    """The scale of the release is the same whatever the number of units that are there or were drawn."""
    plan, net = make(), model()
    empty = ClippedSum.empty(net, max_grad_norm=BOUND)
    noise = plan.noise(KEY)
    for units in (1, 5, 20):
        total = gradients(plan, list(range(units)), net)
        released = plan.release(total, noise, 0)
        alone = plan.release(empty, noise, 0)
        for name, value in total.gradients.items():
            assert torch.allclose(released[name] - alone[name], value / BATCH, atol=1e-7)


def check_sampling_is_poisson():
    """Sizes spread as a binomial, and a unit's coin does not depend on who else is there."""
    plan = make()
    sizes = np.array([len(plan.sampler(KEY).draw(step)) for step in range(400)])
    assert sizes.mean() == pytest.approx(BATCH, rel=0.03)
    assert sizes.var() == pytest.approx(UNITS * 0.1 * 0.9, rel=0.35)
    for step in range(30):
        with_it, without = (plan.sampler(KEY, count).draw(step) for count in (UNITS, UNITS - 1))
        assert np.array_equal(with_it[with_it < UNITS - 1], without)


def check_other_samplers_are_refused():
    for name in ("shuffle", "weighted"):
        with pytest.raises(PrivacyRefusal):
            make(sampling=name)


def check_a_resumed_ledger_keeps_what_was_spent():
    text, ledger, plan = "", Ledger(), make()
    for step in range(5):
        ledger, line = ledger.next(plan, step)
        text += line
    assert Ledger.parse(text).epsilon(plan.delta) == plan.epsilon(5)


CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS)
def test_the_mechanism_passes(check):
    check()


# the faults


def half_noise(monkeypatch):
    honest = GaussianNoise.sample
    monkeypatch.setattr(GaussianNoise, "sample", lambda self, *rest, **more: honest(self, *rest, **more) / 2)


def no_noise(monkeypatch):
    monkeypatch.setattr(
        GaussianNoise,
        "add",
        lambda self, values, step, divisor: {name: value / divisor for name, value in values.items()},
    )


def doubled_noise(monkeypatch):
    honest = GaussianNoise.add

    def twice(self, values, step, divisor):
        return honest(self, honest(self, values, step), step + 10**6, divisor=divisor)

    monkeypatch.setattr(GaussianNoise, "add", twice)


def constant_noise(monkeypatch):
    honest = GaussianNoise.sample
    monkeypatch.setattr(
        GaussianNoise, "sample", lambda self, step, *rest, **more: honest(self, 0, *rest, **more)
    )


def skipped_clip(monkeypatch):
    honest = engine.clip_factors

    def loose(squares, bound, clipping):
        factor, keep = honest(squares, bound, clipping)
        return torch.ones_like(factor), keep

    monkeypatch.setattr(engine, "clip_factors", loose)


def per_layer_clip(monkeypatch):
    """Each layer clipped to C on its own: sensitivity C * sqrt(number of layers)."""
    honest = engine.clip_factors
    monkeypatch.setattr(
        engine, "clipping_groups", lambda parameters, clipping: {name: i for i, name in enumerate(parameters)}
    )
    monkeypatch.setattr(
        engine,
        "clip_factors",
        lambda squares, bound, how: honest(squares, bound * squares.shape[1] ** 0.5, how),
    )


def one_layer_unclipped(monkeypatch):
    honest = GradientRecord.total

    def total(self, name, factor, keep):
        return honest(self, name, torch.ones_like(factor) if name == "2.bias" else factor, keep)

    monkeypatch.setattr(GradientRecord, "total", total)


def one_layer_left_out_of_the_norm(monkeypatch):
    honest = GradientRecord._add
    left_out = {"0.weight"}
    monkeypatch.setattr(
        GradientRecord,
        "_add",
        lambda self, name, *rest: None if name in left_out else honest(self, name, *rest),
    )


def records_clipped_one_by_one(monkeypatch):
    """Each record of a patient clipped to C: the patient contributes as often as it has records."""
    honest = engine.clipped_gradient_sum

    def split(model, loss, inputs, targets, *, unit_index, n_units, **settings):
        unit_index = torch.arange(len(unit_index))
        return honest(
            model, loss, inputs, targets, unit_index=unit_index, n_units=len(unit_index), **settings
        )

    monkeypatch.setattr(engine, "clipped_gradient_sum", split)


def views_clipped_one_by_one(monkeypatch):
    """Each view clipped to C, then added."""
    honest = engine.clipped_gradient_sum

    def split(model, loss, inputs, targets, *, unit_index, n_units, views=1, **settings):
        unit_index = torch.arange(len(inputs))
        return honest(
            model, loss, inputs, targets, unit_index=unit_index, n_units=len(unit_index), **settings
        )

    monkeypatch.setattr(engine, "clipped_gradient_sum", split)


def units_share_a_factor(monkeypatch):
    """One factor for the batch: the mean is clipped, not its parts."""
    honest = engine.clip_factors

    def shared(squares, bound, clipping):
        factor, keep = honest(squares, bound, clipping)
        return factor.mean(0, keepdim=True).expand_as(factor).clone(), keep

    monkeypatch.setattr(engine, "clip_factors", shared)


def norms_of_neighbours(monkeypatch):
    """Every unit is scaled by the norm of the next one."""
    honest = engine.clip_factors
    monkeypatch.setattr(
        engine, "clip_factors", lambda squares, bound, how: honest(squares.roll(1, 0), bound, how)
    )


def broken_units_kept(monkeypatch):
    honest = engine.clip_factors

    def keeping(squares, bound, clipping):
        factor, keep = honest(squares, bound, clipping)
        return factor, torch.ones_like(keep)

    monkeypatch.setattr(engine, "clip_factors", keeping)


def mean_over_the_batch(monkeypatch):
    honest = Plan.release

    def release(self, total, noise, step):
        scale = self.expected_batch_size / max(1, total.units)
        return {name: value * scale for name, value in honest(self, total, noise, step).items()}

    monkeypatch.setattr(Plan, "release", release)


@dataclass(frozen=True, kw_only=True)
class Shuffled:
    sample_rate: float
    n_units: int
    key: bytes

    def draw(self, step):
        size = round(self.sample_rate * self.n_units)
        order = np.random.default_rng([step * size // self.n_units, 7]).permutation(self.n_units)
        start = step * size % self.n_units
        return np.sort(order[start : start + size])


def shuffled_sampler(monkeypatch):
    monkeypatch.setattr(plans, "PoissonSampler", Shuffled)


def shuffle_accepted(monkeypatch):
    monkeypatch.setattr(plans, "_refuse_other_sampling", lambda sampling: None)


def rate_too_high(monkeypatch):
    def drawn(self, step):
        coins = np.frombuffer(
            streams.keystream(self.key, "poisson", step).read(8 * self.n_units), dtype="<u8"
        )
        return np.flatnonzero(coins < np.uint64(int(1.2 * self.sample_rate * 2**64)))

    monkeypatch.setattr(PoissonSampler, "draw", drawn)


def ledger_reset_on_resume(monkeypatch):
    monkeypatch.setattr(Ledger, "parse", classmethod(lambda cls, text, anchor=None: cls()))


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (half_noise, check_noise_is_as_accounted),
        (no_noise, check_noise_is_as_accounted),
        (doubled_noise, check_noise_is_as_accounted),
        (constant_noise, check_noise_is_new_every_step),
        (skipped_clip, check_a_neighbour_moves_the_sum_by_the_bound_at_most),
        (per_layer_clip, check_a_neighbour_moves_the_sum_by_the_bound_at_most),
        (one_layer_unclipped, check_a_neighbour_moves_the_sum_by_the_bound_at_most),
        (one_layer_left_out_of_the_norm, check_a_neighbour_moves_the_sum_by_the_bound_at_most),
        (units_share_a_factor, check_a_neighbour_moves_the_sum_by_the_bound_at_most),
        (norms_of_neighbours, check_a_neighbour_moves_the_sum_by_the_bound_at_most),
        (
            records_clipped_one_by_one,
            check_a_patient_with_many_records_and_views_moves_the_sum_by_the_bound_at_most,
        ),
        (
            views_clipped_one_by_one,
            check_a_patient_with_many_records_and_views_moves_the_sum_by_the_bound_at_most,
        ),
        (views_clipped_one_by_one, check_views_are_averaged_before_clipping),
        (broken_units_kept, check_a_unit_that_is_not_finite_contributes_nothing),
        (mean_over_the_batch, check_the_denominator_is_a_public_constant),
        (mean_over_the_batch, check_a_neighbour_moves_the_sum_by_the_bound_at_most),
        (shuffled_sampler, check_sampling_is_poisson),
        (rate_too_high, check_sampling_is_poisson),
        (shuffle_accepted, check_other_samplers_are_refused),
        (ledger_reset_on_resume, check_a_resumed_ledger_keeps_what_was_spent),
    ],
)
def test_a_planted_fault_is_caught(monkeypatch, fault, check):
    fault(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check()
