"""Rank-1 identification: its scores, its bound, its ladder of encoders, and its negative control."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from meninx.audit.reconstruction import counting
from meninx.audit.reconstruction.candidates import NO_NOISE, NoiseLevel
from meninx.audit.reconstruction.config import ReconstructionConfig
from meninx.audit.reconstruction.encoders import fit_encoder
from meninx.audit.reconstruction.identification import (
    gradients,
    identify,
    identify_in_sets,
    step_scores,
)
from meninx.audit.reconstruction.levels import OWN, Attacked
from meninx.audit.reconstruction.pools import Patients, Pools
from meninx.audit.reconstruction.rank_one import (
    ALL_ENCODERS,
    ON_CANDIDATES,
    Identification,
    Steps,
    judged_identification,
)
from meninx.core.errors import DataError
from meninx.core.progress import SILENT
from meninx.privacy.accounting import Phase
from meninx.privacy.risk import risk_curve
from meninx.synthetic.dataset import render
from meninx.synthetic.people import subjects

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
REAL = DATA / "kermany_cxr_28/kermany_28.npz"
CONFIGURATIONS = [  # candidates, q, sigma, T: risk of the seven settings of Hayes et al.'s attack
    (10, 1.0, 30.0, 100),
    (10, 1.0, 10.0, 100),
    (10, 0.1, 1.5, 200),
    (64, 0.1, 1.0, 200),
    (64, 0.02, 0.6, 500),
    (256, 0.2525, 3.18, 300),
    (256, 0.2525, 1.6, 300),
]


def one_step(noise):
    return [Phase(sample_rate=1.0, noise_multiplier=noise, steps=1)]


def bound_of(phases, candidates):
    return risk_curve(phases, rates=[1 / candidates]).gamma(1 / candidates).upper


def test_the_score_is_the_log_likelihood_ratio_of_the_formula():
    rng = np.random.default_rng(0)
    candidates, seen = rng.normal(size=(3, 5)), rng.normal(size=(2, 4, 5))
    q, noise = 0.3, 1.7
    wanted = np.zeros((2, 3))
    for trial in range(2):
        for number, gradient in enumerate(candidates):
            for step in seen[trial]:
                exponent = gradient @ step / noise**2 - gradient @ gradient / (2 * noise**2)
                wanted[trial, number] += math.log(1 - q + q * math.exp(exponent))
    assert np.allclose(step_scores(seen, candidates, sample_rate=q, noise=noise), wanted)


def test_a_score_that_exceeds_all_numbers_is_finite():
    scores = step_scores(np.full((1, 1, 2), 1e3), np.eye(2), sample_rate=0.5, noise=1e-3)
    assert np.isfinite(scores).all()


def test_every_code_is_clipped_to_the_same_norm_and_nothing_stays_nothing():
    found = gradients(np.array([[3.0, 4.0], [1e-200, 0.0], [1e200, 1e200], [0.0, 0.0]]), 2.0)
    assert np.allclose(np.linalg.norm(found, axis=1), [2, 2, 2, 0])


@pytest.mark.slow
@pytest.mark.parametrize(("candidates", "rate", "noise", "steps"), CONFIGURATIONS)
def test_the_attack_reaches_four_fifths_of_the_bound_and_never_exceeds_it(candidates, rate, noise, steps):
    phases = [Phase(sample_rate=rate, noise_multiplier=noise, steps=steps)]
    trials = 6000 if candidates == 10 else 2000
    found = identify(np.eye(candidates), phases, trials=trials, seed=1)
    success, bound = found.right / trials, bound_of(phases, candidates)
    deviation = math.sqrt(success * (1 - success) / trials)
    assert 0.8 * bound <= success <= bound + 3 * deviation


@pytest.mark.parametrize(("candidates", "rate", "noise", "steps"), CONFIGURATIONS[:3])
def test_a_short_form_of_the_seven_settings(candidates, rate, noise, steps):
    phases = [Phase(sample_rate=rate, noise_multiplier=noise, steps=steps)]
    found = identify(np.eye(candidates), phases, trials=1500, seed=2)
    bound = bound_of(phases, candidates)
    assert 0.75 * bound <= found.right / 1500 <= bound + 3 * math.sqrt(bound * (1 - bound) / 1500)


def test_several_phases_add_up():
    parts = [Phase(sample_rate=1.0, noise_multiplier=5.0, steps=steps) for steps in (10, 30)]
    whole = [Phase(sample_rate=1.0, noise_multiplier=5.0, steps=40)]
    rates = [identify(np.eye(10), phases, trials=3000, seed=3).right / 3000 for phases in (parts, whole)]
    assert rates[0] == pytest.approx(rates[1], abs=0.04)


def test_a_patient_that_took_no_part_is_found_as_often_as_by_guessing():
    """The negative control; with the patient in the training the same attack is right in most cases."""
    phases = one_step(0.3)
    absent = identify(np.eye(10), phases, trials=2000, seed=0, takes_part=False)
    present = identify(np.eye(10), phases, trials=2000, seed=0)
    assert absent.right / 2000 == pytest.approx(0.1, abs=0.025)
    assert present.right / 2000 > 0.8
    quiet = identify(np.eye(10), one_step(0.0), trials=2000, seed=0, takes_part=False)
    assert quiet.right / 2000 == pytest.approx(0.1, abs=0.025)


def test_without_noise_everybody_who_took_part_is_found_and_twins_are_guessed_between():
    codes = np.concatenate([np.eye(4), np.eye(4)[:1]])  # candidates 0 and 4 are the same image
    found = identify(codes, one_step(0.0), trials=2000, seed=0)
    assert found.right / 2000 == pytest.approx(0.8, abs=0.03)  # 3/5 + 2/5 * 1/2
    rarely = [Phase(sample_rate=0.5, noise_multiplier=0.0, steps=1)]
    found = identify(np.eye(10), rarely, trials=4000, seed=0)
    assert found.right / 4000 == pytest.approx(0.5 + 0.5 / 10, abs=0.03)


@pytest.mark.parametrize("noise", [1e-18, 1e-9, 1e-4])
def test_hardly_any_noise_is_no_overflow(noise):
    assert identify(np.eye(10), one_step(noise), trials=50, seed=0).right == 50


def test_the_same_seed_gives_the_same_numbers_and_memory_limits_do_not_matter(monkeypatch):
    phases = [Phase(sample_rate=0.5, noise_multiplier=2.0, steps=30)]
    first = identify(np.eye(10), phases, trials=200, seed=5)
    assert identify(np.eye(10), phases, trials=200, seed=5) == first
    monkeypatch.setattr("meninx.audit.reconstruction.identification._MOST_VALUES", 100)
    other = identify(np.eye(10), phases, trials=200, seed=5)
    assert other.right == pytest.approx(first.right, abs=40)


def test_what_is_no_set_of_candidates_is_refused():
    for call in (
        lambda: identify(np.eye(1), one_step(1.0), trials=1, seed=0),
        lambda: identify(np.full((2, 2), np.nan), one_step(1.0), trials=1, seed=0),
        lambda: identify_in_sets(lambda chosen: np.eye(9), 4, one_step(1.0), candidates=9, trials=1, seed=0),
    ):
        with pytest.raises(DataError):
            call()


# images


def chests(first, count, size):
    people = subjects(first + count, 7)[first:]
    drawn = np.stack([render(one, 0, size, 7).array for one in people]).astype(np.float32) / 4095
    return torch.from_numpy(drawn)[:, None]


@pytest.fixture(scope="module")
def invented():
    """Images of 120 candidates and of 120 other patients."""
    images = chests(0, 240, 28)
    return images[:120], images[120:]


def ladder(images, public, noise, trials=1500):
    """Encoder -> success of rank-1 identification in one step, among all images."""
    phases = one_step(noise)
    codes = {
        name: fit_encoder(name, public, components=64).encode(images).numpy()
        for name in ("raw", "centred", "whitened")
    }
    own = fit_encoder("whitened", images, components=len(images) - 1).encode(images).numpy()
    return {
        name: identify(values, phases, trials=trials, seed=1).right / trials
        for name, values in {**codes, ON_CANDIDATES: own}.items()
    }


@pytest.mark.parametrize("noise", [0.1, 0.2, 0.3, 0.5, 1.0])
def test_the_ladder_of_encoders_on_invented_images_stays_below_the_bound(invented, noise):
    found, bound = ladder(*invented, noise), bound_of(one_step(noise), 120)
    for success in found.values():
        assert success <= bound + 3 * math.sqrt(bound * (1 - bound) / 1500 + 1e-6)
    if noise == 0.2:
        assert found["raw"] < 0.3 < 0.85 < found[ON_CANDIDATES]
        assert found["raw"] < found["centred"] < found["whitened"]


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_file(), reason="the real images are not here")
def test_the_ladder_of_encoders_on_radiographs():
    """1,000 children's radiographs at 28 x 28, one for each patient; 1,233 other patients are public."""
    with np.load(REAL, allow_pickle=True) as table:  # names of patients are an array of texts
        patients, pixels = table["patient_id"], table["images"]
    _, first = np.unique(patients.astype(str), return_index=True)
    images = torch.from_numpy(pixels[np.random.default_rng(0).permutation(first)] / np.float32(255))[:, None]
    pool, public = images[:1000], images[1000:]
    for noise, whitened in ((0.05, 0.99), (0.1, 0.99), (0.2, 0.85), (0.3, 0.35), (0.5, 0.0), (1.0, 0.0)):
        found, bound = ladder(pool, public, noise, 2000), bound_of(one_step(noise), 1000)
        for success in found.values():
            assert success <= bound + 3 * math.sqrt(bound * (1 - bound) / 2000 + 1e-7)
        assert found["whitened"] >= whitened
        if noise == 0.2:
            assert found["raw"] <= 0.1


def test_experiments_at_a_run_try_everything_and_at_other_levels_the_strong_encoders(invented):
    images, public = invented
    tried = Identification(images, public, components=16, trials=60, seed=0)
    own = Steps(level="this run", phases=tuple(one_step(0.4)), own=True)
    other = Steps(level="epsilon 1e+03", phases=tuple(one_step(0.1)))
    counts = tried.counts((2, 10, 1000))
    assert counts == (2, 10, 120)  # all images of the pool stand for a number that it has too few for
    plan = list(tried.experiments((own, other), counts, 10))
    assert len(plan) == len(ALL_ENCODERS) * 3 + 2
    found = judged_identification(
        [tried.found(steps, encoder, count) for steps, encoder, count in plan], 0.05
    )
    assert not any(one.excess for one in found)
    assert all(one.low <= one.success <= one.high for one in found)
    assert {one.candidates for one in found if one.level == other.level} == {10}


def test_an_attack_above_its_bound_is_called_so(invented):
    """Planted fault: half of the noise of what is claimed."""
    images, public = invented
    tried = Identification(images, public, components=16, trials=400, seed=0)
    honest = Steps(level="this run", phases=tuple(one_step(1.0)), own=True)
    faulty = Steps(level="this run", phases=tuple(one_step(0.5)), own=True)
    claimed = tried.found(honest, ON_CANDIDATES, 10)
    measured = tried.found(faulty, ON_CANDIDATES, 10)
    lying = measured.__class__(**{**measured.__dict__, "bound": claimed.bound})
    assert [one.excess for one in judged_identification((claimed, lying), 0.05)] == [False, True]


def test_the_negative_control_has_the_noise_of_the_run_and_no_patient_of_the_step():
    generator = torch.Generator().manual_seed(0)
    members, public = (
        Patients(images=torch.rand(12, 1, 8, 8, generator=generator), targets=torch.zeros(12))
        for _ in range(2)
    )
    pools = Pools(members=members, public=public, heldout=public, lowest=0.0, span=1.0, source="")
    phases = (Phase(sample_rate=1.0, noise_multiplier=0.01, steps=1),)  # the right image is always picked
    about = Attacked(
        sample_rate=1.0, steps=1, delta=1e-5, sampler="poisson", noise_multiplier=0.01, epsilon=1.0,
        phases=phases,
    )  # fmt: skip
    levels = (NoiseLevel(name=OWN, noise_multiplier=0.01), NO_NOISE)
    config = ReconstructionConfig(candidates=(2, 10), trials=200, components=4)
    found, without = counting.identifications(config, pools, levels, about, SILENT)
    assert (without.level, without.candidates, without.encoder) == (OWN, 10, ON_CANDIDATES)
    (own,) = (
        one
        for one in found
        if (one.level, one.encoder, one.candidates) == (OWN, ON_CANDIDATES, without.candidates)
    )
    assert own.success == 1.0
    assert without.low < without.guess < without.high
