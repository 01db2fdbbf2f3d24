"""Matching of candidates against nulls, with decoders that know what images look like."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from meninx.audit.reconstruction.candidates import CandidateRecord, CandidateSet, NoiseLevel
from meninx.audit.reconstruction.encoders import ENCODERS, fit_encoder
from meninx.audit.reconstruction.matching import Reference, judged, matched, measured, quantile_places
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
    reference = Reference(first=chests[:30].numpy(), second=chests[30:60].numpy())
    return measured(matched(found, (metric,)), reference, metric=metric, threshold=threshold, noise=1.0)


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
    assert not any(one.excess for one in judged((strict, lax), 0.05))


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
    reference = Reference(first=chests[:30].numpy(), second=chests[30:60].numpy())
    known = matched(found, ("ncc",))
    strong = measured(known, reference, metric="ncc", threshold=0.999, noise=20.0)
    assert strong.success == 1.0
    assert strong.kappa < strong.bound < 0.1
    weak = measured(known, reference, metric="ncc", threshold=0.999, noise=0.05)
    assert weak.bound > 0.99
    assert [one.excess for one in judged((strong, weak), 0.05)] == [True, False]


def test_more_participations_and_less_noise_allow_more(chests):
    found = candidate_set(chests, fit_encoder("raw", chests[:60]), 0)
    reference = Reference(first=chests[:30].numpy(), second=chests[30:60].numpy())
    bounds = []
    for count in (1, 4, 16):
        known = matched(dataclasses.replace(found, about=record(participations=count)), ("ncc",))
        bounds.append(measured(known, reference, metric="ncc", threshold=0.999, noise=2.0).bound)
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[-1]


def test_pictures_show_the_best_the_median_and_the_worst():
    values = np.array([[0.5, 0.9, 0.1], [0.7, 0.3, 0.2]])
    places = quantile_places(values, 3)
    assert places[0] == (0, 1)
    assert places[-1] == (0, 2)
    assert len(places) == 3
    assert len(quantile_places(values, 1)) == 1
    assert len(quantile_places(values, 50)) == 6
