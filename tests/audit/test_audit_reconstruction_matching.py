"""Matching of candidates against nulls, with decoders that know what images look like."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from meninx.audit.reconstruction import counting
from meninx.audit.reconstruction.candidates import (
    CandidateIndex,
    CandidateRecord,
    CandidateSet,
    NoiseLevel,
    write_candidates,
)
from meninx.audit.reconstruction.config import ReconstructionConfig
from meninx.audit.reconstruction.encoders import ENCODERS, fit_encoder
from meninx.audit.reconstruction.levels import OWN, Attacked
from meninx.audit.reconstruction.matching import (
    PopulationImages,
    judged_matches,
    matched,
    measured,
    quantile_places,
)
from meninx.audit.reconstruction.pools import Patients, Pools
from meninx.audit.reconstruction.victim import View
from meninx.core.origin import Origin
from meninx.core.progress import SILENT
from meninx.core.reconstruction_records import IdentificationRecord
from meninx.privacy.accounting import Phase
from meninx.privacy.risk import risk_curve
from meninx.synthetic.dataset import render
from meninx.synthetic.people import subjects

METRICS = ("ncc", "ssim", "mse")
TRIALS, ORIGINALS, CANDIDATES = 12, 16, 64


@pytest.fixture(scope="module")
def chests():
    """Images of 300 invented patients at 20 x 20."""
    drawn = np.stack([render(one, 0, 20, 3).array for one in subjects(300, 3)]).astype(np.float32) / 4095
    return torch.from_numpy(drawn)[:, None]


def record(**changes):
    known = {
        "attack": "imprint-pca", "encoder": "pca", "view": "step", "sites": 1, "view_noise": 1.0,
        "level": NoiseLevel(name="this run", noise_multiplier=1.0), "max_grad_norm": 1.0, "clipping": "flat",
        "batch": ORIGINALS, "participations": 1, "network": "", "server": "malicious", "knowledge": (),
        "seed": 0, "shape": (1, 20, 20), "trials": TRIALS, "originals": ORIGINALS,
        "candidates": CANDIDATES, "cases": (), "signal": 1.0, "works": True, "self_test": 1.0, "seconds": 0.0,
    }  # fmt: skip
    names = {field.name for field in dataclasses.fields(CandidateRecord)}
    return CandidateRecord(**{name: value for name, value in (known | changes).items() if name in names})


def noise_images(encoder, generator):
    """What a decoder makes of noise: images that look like the public ones where it is fitted on them."""
    codes = torch.randn(TRIALS * CANDIDATES, encoder.size, generator=generator)
    lengths = codes.norm(dim=1, keepdim=True)
    return encoder.decode(4.0 * codes / lengths).reshape(TRIALS, CANDIDATES, 1, 20, 20)


def candidate_set(chests, encoder, seed, leaked=0):
    """A set whose candidates are noise, of which the first ``leaked`` of each trial are the originals."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(TRIALS * ORIGINALS, generator=generator)
    pool = chests[108:]
    originals = pool[order].reshape(TRIALS, ORIGINALS, 1, 20, 20)
    heldout = chests[60:108].repeat(4, 1, 1, 1).reshape(TRIALS, ORIGINALS, 1, 20, 20)
    made = [noise_images(encoder, generator) for _ in range(3)]
    made[0][:, :leaked] = originals[:, :leaked]
    made[2][:, :leaked] = heldout[:, :leaked]  # a decoder that leaks also leaks these
    return CandidateSet(
        about=record(), originals=originals, heldout=heldout, candidates=made[0], noise_null=made[1],
        heldout_null=made[2],
    )  # fmt: skip


def counted(found, chests, threshold=None, metric="ncc"):
    population = PopulationImages(first=chests[:30].numpy(), second=chests[30:60].numpy())
    return measured(matched(found, (metric,)), population, metric=metric, threshold=threshold, noise=1.0)


@pytest.mark.parametrize("name", ENCODERS)
def test_noise_counts_as_reconstruction_in_one_of_a_hundred_whatever_the_decoder_knows(chests, name):
    """Criterion: at most 1.5 % with the threshold of the null, over independent noise."""
    encoder = fit_encoder(name, chests[:60], components=32)
    hits = images = 0
    for seed in range(4):
        found = counted(candidate_set(chests, encoder, seed), chests)
        hits += round(found.success * found.originals)
        images += found.originals
        assert found.noise_null <= 0.01
        assert found.heldout_null <= 0.01
    assert images == 4 * TRIALS * ORIGINALS
    assert hits / images <= 0.015


def test_a_planted_leak_is_counted_and_patients_that_took_no_part_are_not(chests):
    encoder = fit_encoder("pca", chests[:60], components=32)
    found = counted(candidate_set(chests, encoder, 0, leaked=4), chests)
    assert found.success >= 0.25  # 4 of 16 originals of each trial are among the candidates
    assert found.control <= 0.03
    assert found.low > found.level_of_null


def test_a_threshold_of_the_user_takes_the_place_of_the_null(chests):
    encoder = fit_encoder("pca", chests[:60], components=32)
    strict, lax = (counted(candidate_set(chests, encoder, 0), chests, eta) for eta in (0.9999, -1.0))
    assert (strict.success, lax.success) == (0.0, 1.0)
    assert lax.noise_null == 1.0
    assert lax.kappa == 1.0
    assert not any(one.excess for one in judged_matches((strict, lax), 0.05))


def test_other_orders_of_candidates_change_no_value(chests):
    found = candidate_set(chests, fit_encoder("pca", chests[:60], components=8), 0, leaked=2)
    order = torch.randperm(CANDIDATES, generator=torch.Generator().manual_seed(5))
    few = {name: getattr(found, name)[:2] for name in ("originals", "heldout", "noise_null", "heldout_null")}
    found = dataclasses.replace(found, candidates=found.candidates[:2], **few)
    turned = dataclasses.replace(found, candidates=found.candidates[:, order])
    for metric in METRICS:
        one, other = matched(found, (metric,)), matched(turned, (metric,))
        assert np.allclose(one.values[metric], other.values[metric])
        assert (order.numpy()[other.chosen] == one.chosen).all()


def test_bound_and_kappa_of_a_success_beyond_what_the_noise_allows(chests):
    """Planted fault: all images are among the candidates, although the noise allows almost nothing."""
    encoder = fit_encoder("raw", chests[:60])
    found = candidate_set(chests, encoder, 0, leaked=16)
    population = PopulationImages(first=chests[:30].numpy(), second=chests[30:60].numpy())
    known = matched(found, ("ncc",))
    strong = measured(known, population, metric="ncc", threshold=0.999, noise=20.0)
    assert strong.success == 1.0
    assert strong.kappa < strong.bound < 0.1
    weak = measured(known, population, metric="ncc", threshold=0.999, noise=0.05)
    assert weak.bound > 0.99
    assert [one.excess for one in judged_matches((strong, weak), 0.05)] == [True, False]


def test_more_participations_and_less_noise_allow_more(chests):
    found = candidate_set(chests, fit_encoder("raw", chests[:60]), 0)
    population = PopulationImages(first=chests[:30].numpy(), second=chests[30:60].numpy())
    bounds = []
    for count in (1, 4, 16):
        known = matched(dataclasses.replace(found, about=record(participations=count)), ("ncc",))
        bounds.append(measured(known, population, metric="ncc", threshold=0.999, noise=2.0).bound)
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[-1]


def test_the_noise_of_all_sites_bounds_what_is_seen_in_their_sum(tmp_path, monkeypatch):
    choice = IdentificationRecord(
        level=OWN, encoder="candidates", candidates=2, trials=10, success=0.5, low=0.2, high=0.8, bound=1.0
    )
    monkeypatch.setattr(counting, "identifications", lambda *a: ((choice,), choice))
    images = torch.rand(24, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    empty = Patients(images=images, targets=torch.zeros(24))
    pools = Pools(members=empty, public=empty, heldout=empty, lowest=0.0, span=1.0, source="")
    sets = []
    for sites in (1, 9):
        view = View(sites=sites)
        about = record(
            view=view.name, sites=sites, view_noise=view.noise, shape=(1, 12, 12), trials=2, originals=4,
            candidates=8, level=NoiseLevel(name=OWN, noise_multiplier=1.0),
        )  # fmt: skip
        originals, heldout, *rest = (
            images[start : start + 8].reshape(2, 4, 1, 12, 12) for start in (0, 8, 0, 4, 8)
        )
        candidates, noise_null, heldout_null = (torch.cat([one, one], dim=1) for one in rest)
        made = CandidateSet(
            about=about, originals=originals, heldout=heldout, candidates=candidates,
            noise_null=noise_null, heldout_null=heldout_null,
        )  # fmt: skip
        sets.append(write_candidates(tmp_path, made))
    training = Attacked(
        sample_rate=0.5, steps=2, delta=1e-5, sampler="poisson", noise_multiplier=1.0, epsilon=1.0, phases=()
    )
    origin = Origin(run="a", data="b", dataset="c", made="", command=(), versions={})
    audit, _ = counting.counted(
        ReconstructionConfig(metrics=("ncc",)), CandidateIndex(made_for="", sets=tuple(sets)), tmp_path,
        pools, training, origin=origin, progress=SILENT,
    )  # fmt: skip
    for match, noise in zip(audit.matches, (1.0, 3.0), strict=True):
        phase = Phase(sample_rate=1.0, noise_multiplier=noise, steps=1)
        allowed = risk_curve([phase], rates=[match.kappa]).gamma(match.kappa)
        assert match.bound == pytest.approx(allowed.upper, rel=1e-9)
    step, total = audit.matches
    assert total.bound < step.bound


def test_pictures_show_the_best_the_median_and_the_worst():
    values = np.array([[0.5, 0.9, 0.1], [0.7, 0.3, 0.2]])
    places = quantile_places(values, 3)
    assert places[0] == (0, 1)
    assert places[-1] == (0, 2)
    assert len(places) == 3
    assert len(quantile_places(values, 1)) == 1
    assert len(quantile_places(values, 50)) == 6
