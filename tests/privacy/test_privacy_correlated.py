"""Correlated noise and cyclic sampling: their sensitivity, covariance and event."""

import dataclasses
import math

import dp_accounting as dpa
import numpy as np
import pytest
import torch

from meninx.core.errors import ConfigError, PrivacyRefusal
from meninx.privacy import noise
from meninx.privacy import plan as plans
from meninx.privacy.clipping import ClippedSum
from meninx.privacy.noise import BandedNoise, GaussianNoise, strategy
from meninx.privacy.plan import Plan
from meninx.privacy.sampling import CyclicSampler, PoissonSampler

KEY = bytes(range(32))


def matrix(bands, steps):
    """Return the strategy matrix C for some steps."""
    values = strategy(bands)
    return sum(np.diag(np.full(steps - lag, values[lag]), -lag) for lag in range(min(bands, steps)))


def make(**changes):
    given = {
        "n_units": 1000,
        "expected_batch_size": 20.0,
        "steps": 50,
        "noise_multiplier": 1.2,
        "max_grad_norm": 0.5,
    }
    return Plan.build(**(given | {"delta": 1e-5, "noise_bands": 4} | changes))


def test_the_coefficients_are_those_of_the_square_root():
    values = np.array(strategy(5))
    assert values / values[0] == pytest.approx([math.comb(2 * k, k) / 4**k for k in range(5)])
    assert np.linalg.norm(values) == pytest.approx(1)
    assert strategy(1) == (1.0,)


@pytest.mark.parametrize(("bands", "steps"), [(2, 9), (4, 14), (6, 5)])
def test_a_unit_moves_each_of_its_steps_by_the_bound_at_most_and_no_row_twice(bands, steps):
    """The claim that the accounted event rests on, for every pattern a unit of one group can have."""
    strategy_matrix = matrix(bands, steps)
    generator = np.random.default_rng(0)
    for group in range(bands):
        own = range(group, steps, bands)
        for pattern in range(2 ** len(own)):
            taken = [step for bit, step in enumerate(own) if pattern >> bit & 1]
            gradient = np.zeros((steps, 3))
            for step in taken:
                direction = generator.normal(size=3)
                gradient[step] = direction / np.linalg.norm(direction)
            moved = np.square(strategy_matrix @ gradient).sum()
            assert moved <= len(taken) * (1 + 1e-12)
            rows = [set(np.flatnonzero(strategy_matrix[:, step])) for step in taken]
            assert sum(map(len, rows)) == len(set().union(*rows))


def test_steps_nearer_than_the_bands_would_break_the_claim():
    moved = matrix(4, 9) @ np.eye(9)[:, [2, 4]].sum(1)
    assert np.square(moved).sum() > 2.5


@pytest.mark.parametrize("bands", [2, 3, 5])
def test_the_noise_has_the_promised_covariance(bands):
    steps, many = 7, 400_000
    noise = BandedNoise(key=KEY, std=1.5, bands=bands)
    rows = torch.stack([noise.sample(step, "w", (many,)) for step in range(steps)]).double().numpy()
    inverse = np.linalg.inv(matrix(bands, steps))
    promised = 1.5**2 * inverse @ inverse.T
    found = rows @ rows.T / many
    assert np.allclose(found, promised, atol=6 * 1.5**2 * (inverse**2).sum(1).max() / math.sqrt(many))
    white = matrix(bands, steps) @ rows  # turning back gives the independent noise, step by step
    base = GaussianNoise(key=KEY, std=1.5)
    assert all(
        np.allclose(white[step], base.sample(step, "w", (many,)).numpy(), atol=1e-5) for step in range(steps)
    )


def test_less_noise_on_the_sum_of_many_steps():
    """The errors of the weights, which sum over steps, are smaller at the same noise multiplier."""
    steps = 64
    errors = [
        np.square(np.tril(np.ones((steps, steps))) @ np.linalg.inv(matrix(bands, steps))).sum()
        for bands in (1, 4, 16)
    ]
    assert errors[0] > 1.5 * errors[1] > 1.5 * errors[2]


def test_the_values_do_not_depend_on_what_was_asked_before():
    steady = BandedNoise(key=KEY, std=1.0, bands=3)
    values = [steady.sample(step, "w", (5, 2)) for step in range(8)]
    for order in ([7], [3, 7, 2, 2, 5], [0, 6, 1]):
        fresh = BandedNoise(key=KEY, std=1.0, bands=3)
        assert all(torch.equal(fresh.sample(step, "w", (5, 2)), values[step]) for step in order)
    late = steady.sample(7, "unfrozen later", (5, 2))
    assert torch.equal(late, BandedNoise(key=KEY, std=1.0, bands=3).sample(7, "unfrozen later", (5, 2)))
    assert steady.sample(7, "w", (3,)).shape == (3,)
    assert "_seen" not in repr(steady)
    assert "key" not in repr(steady)


def test_groups_take_turns_and_every_unit_has_its_rate():
    sampler = CyclicSampler(sample_rate=0.05, groups=4, n_units=2000, key=KEY)
    steps = {unit: [] for unit in range(2000)}
    for step in range(400):
        for unit in sampler.draw(step):
            steps[int(unit)].append(step)
    assert all(len({step % 4 for step in own}) <= 1 for own in steps.values())
    counts = np.array([len(own) for own in steps.values()])
    assert abs(counts.mean() - 20) < 4 * math.sqrt(100 * 0.2 * 0.8 / 2000)
    assert counts.var() == pytest.approx(100 * 0.2 * 0.8, rel=0.15)
    assert np.bincount(sampler.group, minlength=4) == pytest.approx([500] * 4, rel=0.2)


def test_a_unit_more_moves_nobody():
    small, large = (CyclicSampler(sample_rate=0.2, groups=3, n_units=count, key=KEY) for count in (99, 100))
    assert np.array_equal(small.group, large.group[:99])
    for step in range(20):
        drawn = large.draw(step)
        assert np.array_equal(small.draw(step), drawn[drawn < 99])


def test_one_group_is_plain_poisson_and_too_many_are_refused():
    plain = make(noise_bands=1).sampler(KEY)
    one = CyclicSampler(sample_rate=0.02, groups=1, n_units=1000, key=KEY)
    assert all(np.array_equal(plain.draw(step), one.draw(step)) for step in range(10))
    full = CyclicSampler(sample_rate=0.25, groups=4, n_units=100, key=KEY)
    assert sorted(unit for step in range(4) for unit in full.draw(step)) == list(range(100))
    with pytest.raises(PrivacyRefusal, match="use fewer noise_bands"):
        CyclicSampler(sample_rate=0.3, groups=4, n_units=100, key=KEY)
    with pytest.raises(ConfigError, match="noise_bands <= 1 / sample_rate = 50"):
        make(noise_bands=51)
    with pytest.raises(ConfigError, match="noise_bands > 0"):
        make(noise_bands=0)


def test_the_plan_ties_noise_sampler_and_event_together():
    plan = make()
    assert plan.event() == dpa.SelfComposedDpEvent(
        dpa.PoissonSampledDpEvent(0.08, dpa.GaussianDpEvent(1.2)), 13
    )
    assert [plan.phase(steps).steps for steps in (0, 1, 4, 5)] == [0, 1, 1, 2]
    sampler, noise = plan.sampler(KEY), plan.noise(KEY)
    assert (sampler.groups, sampler.sample_rate, noise.bands, noise.std) == (4, 0.02, 4, 0.6)
    spent = plan.spent(9)
    assert (spent.steps, spent.sample_rate, spent.sampler) == (9, 0.02, "cyclic poisson in 4 groups")
    assert (
        plan.fingerprint() != make(noise_bands=1).fingerprint() == make(noise_bands=1, steps=3).fingerprint()
    )
    empty = ClippedSum.empty(torch.nn.Linear(2, 2), max_grad_norm=0.5)
    for wrong in (
        GaussianNoise(key=KEY, std=0.6),
        BandedNoise(key=KEY, std=0.6, bands=3),
        BandedNoise(key=KEY, std=0.5, bands=4),
    ):
        with pytest.raises(PrivacyRefusal, match=r"take the noise from plan\.noise"):
            plan.release(empty, wrong, 0)
    with pytest.raises(PrivacyRefusal, match=r"take the noise from plan\.noise"):
        make(noise_bands=1).release(empty, noise, 0)
    released = plan.release(empty, noise, 6)
    assert torch.equal(released["weight"], noise.sample(6, "weight", (2, 2)) / 20.0)
    assert dataclasses.replace(plan, noise_bands=1).noise(KEY).std == 0.6


def check_a_cyclic_run_is_what_is_accounted():
    """Everything that is drawn and added, against the one accounted event.

    What a mechanism of other parts would not pass.
    """
    plan, bands, steps = make(), 4, 13
    event, rounds = plan.event(steps).event, plan.event(steps).count
    sampler = plan.sampler(KEY, 4000)
    taken = np.zeros((4000, steps), dtype=bool)
    for step in range(steps):
        taken[sampler.draw(step), step] = True
    own = [np.flatnonzero(row) for row in taken]
    assert all((np.diff(steps_of) % bands == 0).all() for steps_of in own)
    assert max(map(len, own)) <= rounds
    chances = sum(
        len(range(group, steps, bands))
        for group in CyclicSampler(sample_rate=0.02, groups=bands, n_units=4000, key=KEY).group
    )
    spread = math.sqrt(chances * event.sampling_probability)
    assert abs(taken.sum() - chances * event.sampling_probability) < 4 * spread
    noise, many = plan.noise(KEY), 100_000
    rows = np.stack([noise.sample(step, "w", (many,)).double().numpy() for step in range(steps)])
    inner = plan.max_grad_norm**2 * np.linalg.inv(
        rows @ rows.T / many
    )  # of a unit's moves, in standard deviations
    assert np.sqrt(np.diag(inner)).max() <= 1.02 / event.event.noise_multiplier
    apart = np.abs(np.subtract.outer(range(steps), range(steps))) >= bands
    assert np.abs(inner[apart]).max() < 0.02


def test_a_cyclic_run_is_what_is_accounted():
    check_a_cyclic_run_is_what_is_accounted()


def plain_sampler(monkeypatch):
    monkeypatch.setattr(plans, "CyclicSampler", lambda groups, **given: PoissonSampler(**given))


def rate_of_a_step_accounted(monkeypatch):
    honest = Plan.phase

    def phase(self, steps=None):
        return dataclasses.replace(honest(self, steps), sample_rate=self.sample_rate)

    monkeypatch.setattr(Plan, "phase", phase)


def too_few_rounds(monkeypatch):
    honest = Plan.phase
    monkeypatch.setattr(
        Plan, "phase", lambda self, steps=None: dataclasses.replace(honest(self, steps), steps=1)
    )


def coefficients_not_rescaled(monkeypatch):
    honest = noise.strategy
    monkeypatch.setattr(
        noise, "strategy", lambda bands: tuple(value / honest(bands)[0] for value in honest(bands))
    )


def longer_columns(monkeypatch):
    honest = noise.strategy
    monkeypatch.setattr(noise, "strategy", lambda bands: tuple(1.15 * value for value in honest(bands)))


FAULTS = [plain_sampler, rate_of_a_step_accounted, too_few_rounds, coefficients_not_rescaled, longer_columns]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(monkeypatch, fault):
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        check_a_cyclic_run_is_what_is_accounted()
