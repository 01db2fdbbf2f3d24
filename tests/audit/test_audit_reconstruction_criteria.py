"""Criteria of success: images that look like no patient any more, yet tell one patient from all others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from meninx.audit.reconstruction import criteria
from meninx.audit.reconstruction.candidates import CandidateRecord, CandidateSet, NoiseLevel
from meninx.audit.reconstruction.criteria import CLOSE, FIRST
from meninx.audit.reconstruction.knowledge import Knowledge
from meninx.audit.reconstruction.matching import PopulationImages, judged_matches, matched, measured
from meninx.audit.reconstruction.member_ranking import ranked
from meninx.audit.reconstruction.pools import Patients
from meninx.audit.reconstruction.reconstruction_verdict import verdict_of
from meninx.audit.reconstruction.trials import Trials, reconstruct
from meninx.audit.reconstruction.victim import VictimStep
from meninx.core.reconstruction_records import IdentificationRecord
from meninx.metrics.null_threshold import public_threshold
from meninx.privacy.plan import Plan
from meninx.synthetic.dataset import render
from meninx.synthetic.people import subjects

SIGMAS = (0.0, 0.02, 0.04, 2.0)
QUIET = IdentificationRecord(
    level="", encoder="whitened", candidates=10, trials=1000, success=0.1, low=0.08, high=0.12, bound=0.2
)


def people(images):
    targets = torch.arange(len(images)) % 2
    return Patients(images=images, targets=targets, cases=tuple(f"c{n}" for n in range(len(images))))


@pytest.fixture(scope="module")
def readout():
    """The attack on single images of 40 invented patients at 16 x 16, judged at four levels of noise."""
    drawn = np.stack([render(one, 0, 16, 3).array for one in subjects(120, 3)]).astype(np.float32) / 4095
    images = torch.from_numpy(drawn)[:, None]
    public, members, heldout = images[:40], images[40:80], images[80:]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 2)).eval()
    plan = Plan.build(
        n_units=40, expected_batch_size=8, steps=10, noise_multiplier=1.0, max_grad_norm=1.0, delta=1e-3
    )
    found = reconstruct(
        "readout",
        [NoiseLevel(name=f"sigma {sigma:g}", noise_multiplier=sigma) for sigma in SIGMAS],
        trials=Trials(members=people(members), heldout=people(heldout), count=5),
        knowledge=Knowledge(public=public, network=network, batch=8),
        victim=VictimStep(
            plan=plan, loss=lambda out, to: functional.cross_entropy(out, to, reduction="none")
        ),
        outputs=2,
    )
    population = PopulationImages(first=public.numpy(), second=heldout.numpy())
    records = [
        measured(
            matched(one, ("ncc",), members=members.numpy()), population, metric="ncc", threshold=None,
            noise=one.about.level.noise_multiplier,
        )
        for one in found
    ]  # fmt: skip
    return {record.noise_multiplier: record for record in judged_matches(records, 0.05)}


@pytest.mark.parametrize(("sigma", "verdict"), [(0.02, "exposed"), (0.04, "exposed"), (2.0, "nothing found")])
def test_noisy_images_that_single_out_their_patient_are_found(readout, sigma, verdict):
    record = readout[sigma]
    assert record.works
    assert record.found == (verdict == "exposed")
    matches = tuple(readout.values())
    assert verdict_of((QUIET,), QUIET, matches, own=record.level, significance=0.05) == (verdict, "")
    if record.found:
        assert criteria.beyond_null(record, 0.005)[-1] == FIRST
        assert record.ranking.success > 0.8
        assert record.ranking.pool == 40
        assert record.ranking.null < 0.2


def test_the_threshold_does_not_fall_with_noise_and_public_images_do_not_reach_it(readout):
    assert max(record.kappa for record in readout.values()) < 0.1
    first = readout[0.0]
    assert criteria.beyond_null(first, 0.005) == (CLOSE, FIRST)
    assert first.self_test == 1.0
    assert min(record.threshold for record in readout.values()) > 0.9 * first.threshold


def test_the_limit_of_public_images_is_that_of_a_further_patient():
    rng = np.random.default_rng(0)
    above = []
    for _ in range(300):
        first, second, new = rng.random((3, 100, 1, 2, 2))
        eta, share = public_threshold("ncc", first, second)
        assert share == 0.01
        across = public_threshold("ncc", second, first)
        assert across == (eta, share)
        flat = [
            images.reshape(100, 4) - images.reshape(100, 4).mean(1, keepdims=True) for images in (first, new)
        ]
        unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in flat]
        above.append(((unit[1] @ unit[0].T).max(1) > eta).mean())
    assert np.mean(above) < 0.02


def noise_set(rng, members, leaked=0):
    """Steps of 8 of the members with 16 candidates each, which hold the first ``leaked`` originals."""
    about = CandidateRecord(
        attack="trap", encoder="", view="step", sites=1, view_noise=1.0,
        level=NoiseLevel(name="this run", noise_multiplier=1.0), max_grad_norm=1.0, clipping="flat", batch=8,
        participations=1, network="", server="malicious", knowledge=(), seed=0, shape=(1, 6, 6), trials=4,
        originals=8, candidates=16, works=True, self_test=1.0, signal=1.0, cases=(), seconds=0.0,
    )  # fmt: skip
    originals = members[rng.permutation(len(members))[:32]].reshape(4, 8, 1, 6, 6)
    made = [rng.random((4, 16, 1, 6, 6)).astype(np.float32) for _ in range(3)]
    made[0][:, :leaked] = originals[:, :leaked]
    heldout = rng.random((4, 8, 1, 6, 6)).astype(np.float32)
    tensors = (torch.from_numpy(images) for images in (originals, heldout, *made))
    names = ("originals", "heldout", "candidates", "noise_null", "heldout_null")
    return CandidateSet(about=about, **dict(zip(names, tensors, strict=True)))


def test_noise_puts_the_right_image_first_no_more_often_than_a_guess():
    """Planted fault: originals that stay among their own rivals could never be first."""
    rng = np.random.default_rng(1)
    members = rng.random((40, 1, 6, 6)).astype(np.float32)
    population = PopulationImages(first=rng.random((30, 1, 6, 6)), second=rng.random((30, 1, 6, 6)))
    firsts, alarms = [], 0
    for _ in range(25):
        found = matched(noise_set(rng, members), ("ncc",), members=members)
        record = measured(found, population, metric="ncc", threshold=None, noise=1.0)
        firsts.append(record.ranking.success)
        alarms += bool(criteria.beyond_null(record, 0.025))
    assert found.ranking.pool == 33
    assert np.mean(firsts) == pytest.approx(1 / 33, abs=0.02)
    assert alarms <= 2


def test_images_that_come_back_are_first_and_those_that_do_not_are_not():
    rng = np.random.default_rng(2)
    members = rng.random((40, 1, 6, 6)).astype(np.float32)
    found = ranked(noise_set(rng, members, leaked=4), members, 4)
    assert found.first[:, :4].all()
    assert found.first[:, 4:].mean() < 0.2
    assert max(null.mean() for null in (found.noise_null, found.heldout_null, found.steps_null)) < 0.1


def test_without_members_that_took_no_part_nothing_is_ranked():
    rng = np.random.default_rng(3)
    members = rng.random((32, 1, 6, 6)).astype(np.float32)
    found = noise_set(rng, members)
    one = {name: getattr(found, name)[:1] for name in ("originals", "heldout", "candidates", "noise_null")}
    alone = CandidateSet(about=found.about, heldout_null=found.heldout_null[:1], **one)
    assert ranked(alone, None, 1) is None
    assert ranked(alone, members, 1).pool == 25
    assert not ranked(alone, members, 1).steps_null.size
