"""Canaries in real private steps: planted faults are found, honest runs are not accused, nothing leaks."""

import copy
import functools
import shutil
import stat

import numpy as np
import pytest
import torch
from audited_runs import (
    FAULTS,
    audited,
    clipping_per_batch,
    half_noise,
    images_as_patients,
    network,
    no_noise,
    noise_over_accumulation,
    parts,
    plan_of,
    quarter_noise,
)
from scipy import stats

from meninx.core.budget import PrivacyUnit
from meninx.core.errors import DataError, PrivacyRefusal, UsageError
from meninx.core.run import Run
from meninx.learn import Canaries, Hook
from meninx.learn.canaries import LENGTH
from meninx.privacy import Claim, audit_scores
from meninx.privacy.clipping.point_gradients import PointGradients, clipped_point_sum

SEEDS = 10
FOUND_BY = (
    (half_noise, "noise"), (quarter_noise, "noise"), (no_noise, "noise"), (clipping_per_batch, "length"),
    (noise_over_accumulation, "noise"), (images_as_patients, "length"),
)  # fmt: skip


@functools.cache
def claim(plan):
    return Claim.of_mechanism([plan.phase()], delta=plan.delta)


def verdict(folder, plan, **options):
    scores = audited(folder, plan, **options)
    return audit_scores(scores.included(), scores.excluded(), claim(plan))


@pytest.mark.parametrize("fault", [half_noise, *FAULTS], ids=lambda fault: fault.__name__)
def test_planted_faults_are_found(fault, tmp_path, monkeypatch):
    plan = plan_of()
    fault(monkeypatch, plan)
    audit = verdict(tmp_path, plan)
    assert audit.verdict == "refuted", audit
    assert "certified" in {check.basis for check in audit.checks if check.refuted}


def test_an_honest_run_is_not_accused(tmp_path):
    audit = verdict(tmp_path, plan_of())
    assert audit.verdict == "consistent", audit
    assert audit.mu == pytest.approx(audit.claim_mu, abs=0.25)  # the audit is about as strong as can be


@pytest.mark.parametrize(("fault", "name"), FOUND_BY, ids=lambda value: getattr(value, "__name__", ""))
def test_noise_and_length_show_faults_that_a_huge_epsilon_allows(fault, name, tmp_path, monkeypatch):
    plan = plan_of(noise_multiplier=1e-3)
    fault(monkeypatch, plan)
    scores = audited(tmp_path, plan)
    audit = audit_scores(scores.included(), scores.excluded(), claim(plan))
    assert audit.verdict == "consistent"  # an epsilon of millions allows every score
    assert name in scores.mechanism(plan).refuted_by


@pytest.mark.parametrize("noise", [1.5, 1e-3])
@pytest.mark.parametrize("clipping", ["flat", "auto-s", "per-layer", "adaptive"])
def test_an_honest_run_has_the_promised_noise_and_length(clipping, noise, tmp_path):
    plan = plan_of(noise_multiplier=noise, clipping=clipping)
    found = audited(tmp_path, plan).mechanism(plan)
    assert found.refuted_by == ()
    assert found.noise == pytest.approx(1.0, abs=0.05)
    if clipping == "per-layer" and noise > 1:
        assert found.length is None  # a canary in one of several layers is short, and the noise hides it
    else:
        assert found.length == pytest.approx(1.0, abs=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_planted_faults_are_found_in_nine_of_ten_seeds(fault, tmp_path, monkeypatch):
    plan = plan_of()
    fault(monkeypatch, plan)
    found = [verdict(tmp_path / str(seed), plan, seed=seed).verdict == "refuted" for seed in range(SEEDS)]
    assert sum(found) >= 9, found


@pytest.mark.slow
def test_at_most_one_in_twenty_of_fifty_honest_runs_is_accused(tmp_path):
    plan = plan_of()
    audits = [verdict(tmp_path / str(seed), plan, seed=seed) for seed in range(50)]
    assert sum(audit.verdict == "refuted" for audit in audits) <= 2
    for bound in ("one_run_epsilon", "fdp_epsilon", "fdp_split_epsilon", "rates_epsilon"):
        assert sum(getattr(audit, bound) > audit.claim_epsilon for audit in audits) <= 2, bound


@pytest.mark.parametrize("clipping", ["flat", "auto-s", "per-layer", "adaptive"])
def test_a_canary_adds_what_the_plan_allows_and_no_more(clipping, tmp_path):
    plan = plan_of(clipping=clipping, steps=1, noise_multiplier=1e-4, expected_batch_size=60)
    trainer, scores = parts(tmp_path, plan, count=100)
    seen, slots = [], []
    observe = scores.loader.observe

    class Slots(Hook):
        def on_gradients(self, state, report):
            slots.append(report.slots["canaries"])

    def listen(residuals, threshold):
        seen.append(residuals)
        observe(residuals, threshold)

    scores.loader.observe = listen
    trainer.hooks = (*trainer.hooks, Slots())
    trainer.run(until=1)
    (residuals,), (part,) = seen, slots
    added = scores.loader.along(residuals)
    included = scores.canaries.included
    expected = plan.max_grad_norm * scores.loader.share
    assert added[included] == pytest.approx(expected, rel=2e-3)
    assert added[~included] == pytest.approx(0, abs=2e-3)
    assert part.units == included.sum()
    assert torch.allclose(part.unit_norms, torch.tensor(2 * LENGTH * plan.max_grad_norm, dtype=torch.float64))


@pytest.mark.parametrize("clipping", ["flat", "per-layer"])
def test_a_score_is_the_log_likelihood_ratio_of_the_length_that_clipping_allows(clipping):
    plan = plan_of(clipping=clipping)
    loader = Canaries(bytes(32), 100).source(plan).loader
    loader.begin(network())
    assert (loader.share < 1) == (clipping == "per-layer")
    deviation = plan.gradient_noise_multiplier * plan.max_grad_norm
    generator = torch.Generator().manual_seed(0)
    residuals = {
        name: deviation * torch.randn(len(places), generator=generator, dtype=torch.float64)
        for name, places in loader.watched.items()
    }
    seen = loader.along(residuals)
    loader.observe(residuals, plan.max_grad_norm)
    absent = stats.norm.pdf(seen, 0, deviation)
    drawn = stats.norm.pdf(seen, plan.max_grad_norm * loader.share, deviation)
    rate = plan.sample_rate
    assert loader.scores == pytest.approx(np.log(((1 - rate) * absent + rate * drawn) / absent))


def test_the_cost_of_the_patients_is_that_of_the_plan(tmp_path):
    plan = plan_of(steps=3)
    trainer, _ = parts(tmp_path, plan, count=100)
    trainer.run(until=3)
    assert trainer.step.ledger.epsilon(plan.delta) == pytest.approx(plan.epsilon())


def test_scores_hold_no_patients_gradient(tmp_path):
    """Other patients' data with the same keys: the same scores, up to rounding."""
    plan, key = plan_of(steps=4), bytes(32)
    totals = []
    for seed in (1, 2):
        trainer, scores = parts(tmp_path / str(seed), plan, count=100, key=key, seed=seed)
        trainer.step.noise = plan.noise(key)
        trainer.run(until=4)
        totals.append(scores.loader.scores)
    assert totals[0] == pytest.approx(totals[1], abs=1e-3)
    assert np.abs(totals[0]).max() > 0.1


def test_a_run_that_goes_on_has_the_scores_of_one_that_was_not_stopped(tmp_path):
    plan, key = plan_of(steps=6), bytes(range(32))
    trainer, scores = parts(tmp_path, plan, count=100, key=key)
    trainer.run(until=3, horizon=6)
    checkpoint = copy.deepcopy(trainer.state.state_dict())
    trainer.run(until=4, horizon=6)  # its scores are kept, and then the process is killed
    folder = Run(shutil.copytree(trainer.step.run.root, tmp_path / "copy"))
    again, resumed = parts(tmp_path, plan, count=100, key=key, resumed=True, run=folder)
    again.state.load_state_dict(checkpoint)
    again.run(until=6, horizon=6)
    trainer.run(until=6, horizon=6)
    assert np.array_equal(resumed.loader.scores, scores.loader.scores)
    again.state.step = 5
    with pytest.raises(DataError, match="no scores of step 5"):
        resumed.on_round_start(again.state, None)


def test_scores_are_private_and_damaged_ones_are_refused(tmp_path):
    plan = plan_of(steps=1)
    trainer, scores = parts(tmp_path, plan, count=100)
    trainer.run(until=1)
    assert scores.path.parent.name == "private"
    assert stat.S_IMODE(scores.path.stat().st_mode) == 0o600
    whole = scores.path.read_bytes()
    scores.path.write_bytes(whole[:-3])
    with pytest.raises(DataError, match="damaged"):
        scores.on_round_start(trainer.state, None)
    np.save(scores.path, np.zeros((1, 7)))
    with pytest.raises(PrivacyRefusal, match="other canaries"):
        scores.on_round_start(trainer.state, None)


def test_half_of_the_canaries_take_part_by_their_own_key():
    first, second = (Canaries(bytes([number]) * 32, 4_000).included for number in (1, 2))
    assert abs(first.mean() - 0.5) < 0.04
    assert abs((first == second).mean() - 0.5) < 0.04


def test_what_cannot_be_audited_is_refused(tmp_path):
    with pytest.raises(UsageError, match="adds no noise"):
        Canaries(bytes(32), 100).source(plan_of(noise_multiplier=0.0))
    with pytest.raises(UsageError, match="noise_bands = 1"):
        Canaries(bytes(32), 100).source(plan_of(noise_bands=2))
    with pytest.raises(UsageError, match="at least 100 canaries"):
        Canaries(bytes(32), 99)
    source = Canaries(bytes(32), 10_000).source(plan_of())
    with pytest.raises(UsageError, match="fewer --canaries"):
        source.loader.begin(network())


@pytest.mark.parametrize("unit", list(PrivacyUnit))
def test_canaries_have_the_unit_of_the_run(unit):
    source = Canaries(bytes(32), 100).source(plan_of(unit=unit))
    cases = 2 if unit is PrivacyUnit.PATIENT else 1
    assert {len(cases_of) for cases_of in source.sampler.members} == {cases}


def test_point_gradients_of_a_unit_are_added_before_they_are_clipped():
    model = network()
    name = "0.weight"
    points = PointGradients(
        names=(name,),
        parameter=torch.zeros(4, dtype=torch.int64),
        place=torch.tensor([5, 5, 6, 7]),
        value=torch.tensor([3.0, 1.0, 3.0, 0.25], dtype=torch.float64),
        case=torch.arange(4),
        unit=torch.tensor([0, 0, 0, 2]),
    )
    total = clipped_point_sum(model, points, n_units=3, max_grad_norm=1.0)
    flat = total.gradients[name].flatten()
    assert flat[[5, 6, 7]].tolist() == pytest.approx([0.8, 0.6, 0.25])  # 4 and 3, scaled to norm 1
    assert total.unit_norms.tolist() == pytest.approx([5.0, 0.0, 0.25])
    assert total.present.tolist() == [True, False, True]
    assert float(sum(value.abs().sum() for value in total.gradients.values())) == pytest.approx(1.65)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_point_gradient_without_a_finite_norm_adds_exactly_nothing(value):
    model = network()
    points = PointGradients(
        names=("0.weight",),
        parameter=torch.zeros(2, dtype=torch.int64),
        place=torch.tensor([5, 6]),
        value=torch.tensor([value, 0.25], dtype=torch.float64),
        case=torch.arange(2),
        unit=torch.tensor([0, 1]),
    )
    total = clipped_point_sum(model, points, n_units=2, max_grad_norm=1.0)
    assert total.gradients["0.weight"].flatten()[[5, 6]].tolist() == [0.0, 0.25]


def points_at(names, parameter, place, unit):
    rows = len(place)
    return PointGradients(
        names=names,
        parameter=torch.tensor(parameter, dtype=torch.int64),
        place=torch.tensor(place, dtype=torch.int64),
        value=torch.full((rows,), 3.0, dtype=torch.float64),
        case=torch.arange(rows),
        unit=torch.tensor(unit, dtype=torch.int64),
    )


def test_each_entry_of_point_gradients_counts_for_its_own_unit_parameter_and_place():
    model = network()
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    names = tuple(sizes)
    units, n_units = [0, 0, 1, 2, 2, 2], 3
    parameter = [0, 1, 0, 1, 0, len(names) - 1]
    place = [sizes[names[number]] - 1 if row % 2 else 0 for row, number in enumerate(parameter)]
    total = clipped_point_sum(
        model, points_at(names, parameter, place, units), n_units=n_units, max_grad_norm=1.0
    )
    wanted = {name: torch.zeros(size) for name, size in sizes.items()}
    for number, where, unit in zip(parameter, place, units, strict=True):
        wanted[names[number]][where] += 1 / units.count(unit) ** 0.5
    for name, value in total.gradients.items():
        assert torch.allclose(value.flatten().float(), wanted[name]), name
    assert total.unit_norms.tolist() == pytest.approx([3 * units.count(unit) ** 0.5 for unit in range(3)])


@pytest.mark.parametrize(("parameter", "place"), [([0], [-1]), ([-1], [0]), ([2], [0])])
def test_point_gradients_outside_every_parameter_are_refused(parameter, place):
    names = tuple(name for name, _ in network().named_parameters())[:2]
    with pytest.raises(DataError, match="positions"):
        clipped_point_sum(network(), points_at(names, parameter, place, [0]), n_units=1, max_grad_norm=1.0)


def test_no_point_gradients_make_an_empty_sum():
    total = clipped_point_sum(network(), points_at((), [], [], []), n_units=2, max_grad_norm=1.0)
    assert total.units == 0
    assert not any(value.any() for value in total.gradients.values())
