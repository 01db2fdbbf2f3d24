"""Reconstruction: an image that is alone in its row comes back whatever it shows, and files keep it."""

import tempfile
from pathlib import Path

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn import functional

from meninx.audit.reconstruction.candidates import (
    CandidateRecord,
    CandidateSet,
    NoiseLevel,
    read_candidates,
    write_candidates,
)
from meninx.audit.reconstruction.imprint import Imprint
from meninx.audit.reconstruction.knowledge import Knowledge
from meninx.audit.reconstruction.victim import VictimStep, View
from meninx.privacy.plan import Plan


def cross_entropy(outputs, targets):
    return functional.cross_entropy(outputs, targets, reduction="none")


def images(count, shape, seed):
    """Images of different brightness and contrast, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.rand(count, *shape, generator=generator)
    scale = torch.rand(count, *[1] * len(shape), generator=generator)
    return base * (0.2 + 0.8 * scale)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    clipping=st.sampled_from(["flat", "auto-s", "per-layer", "adaptive"]),
    threshold=st.floats(1e-3, 1e3),
    encoder=st.sampled_from(["raw", "centred"]),
    gate=st.sampled_from(["bins", "steps"]),
    volume=st.booleans(),
)
def test_a_single_image_comes_back_whatever_the_clipping(seed, clipping, threshold, encoder, gate, volume):
    shape = (1, 4, 6, 5) if volume else (2, 7, 6)
    public, image = images(12, shape, seed), images(1, shape, seed + 1)
    torch.manual_seed(seed)
    values = image[0].numel()
    network = nn.Sequential(nn.Flatten(), nn.Linear(values, 6), nn.Tanh(), nn.Linear(6, 3))
    attack = Imprint(Knowledge(public=public, network=network, batch=1), encoder, gate)
    plan = Plan.build(
        n_units=50, expected_batch_size=5, steps=3, noise_multiplier=1.0, max_grad_norm=threshold,
        delta=1e-4, clipping=clipping,
    )  # fmt: skip
    victim = VictimStep(plan=plan, loss=cross_entropy)
    clean = victim.clipped_sum(attack.network, attack.watched, image, torch.tensor([seed % 3]))
    found = attack.decode([clean], torch.tensor([[0]]), 0.0)[0].flatten(1)
    wanted = image.flatten(1)
    if encoder == "centred":  # the scale of what differs from the mean is lost, its direction is not
        mean = public.flatten(1).mean(0)
        found, wanted = found - mean, wanted - mean
    likeness = functional.cosine_similarity(found, wanted.expand_as(found))
    assert float(likeness.max()) > 0.999


@settings(max_examples=25, deadline=None)
@given(sites=st.integers(1, 12), data=st.data(), difference=st.booleans(), redrawn=st.booleans())
def test_more_unknown_sites_never_lower_the_noise(sites, data, difference, redrawn):
    colluders = data.draw(st.integers(0, sites - 1))
    view = View(sites=sites, colluders=colluders, difference=difference, redrawn=redrawn)
    wider = View(sites=sites + 1, colluders=colluders, difference=difference, redrawn=redrawn)
    assert 1 <= view.noise < wider.noise
    assert view.noise >= view.honest**0.5
    assert 1 <= view.added <= view.honest
    assert view.name != wider.name


@settings(max_examples=15, deadline=None)
@given(
    trials=st.integers(1, 3),
    originals=st.integers(1, 3),
    candidates=st.integers(1, 5),
    words=st.text(min_size=1, max_size=40),
    seed=st.integers(0, 100),
)
def test_sets_survive_the_disk_whatever_their_level_is_called(trials, originals, candidates, words, seed):
    shape = (1, 3, 4)
    generator = torch.Generator().manual_seed(seed)
    sets = [
        torch.rand(trials, count, *shape, generator=generator)
        for count in (originals, originals, candidates, candidates, candidates)
    ]
    about = CandidateRecord(
        attack="imprint-raw", encoder="raw", view=words, sites=1, view_noise=1.0,
        level=NoiseLevel(name=words, noise_multiplier=0.5), max_grad_norm=1.0, clipping="flat", batch=1,
        participations=1, network="", server="", knowledge=(), seed=seed, shape=shape, trials=trials,
        originals=originals, candidates=candidates, works=True, self_test=1.0, signal=1.0,
        cases=(("a",),), seconds=0.0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as room:
        record = write_candidates(Path(room), CandidateSet(
            about=about, originals=sets[0], heldout=sets[1], candidates=sets[2], noise_null=sets[3],
            heldout_null=sets[4],
        ))  # fmt: skip
        assert [path.name for path in Path(room).iterdir()] == [f"{record.stem}.npy"]
        found = read_candidates(Path(room), record)
    assert torch.allclose(found.originals, sets[0], atol=1e-3)
    assert torch.allclose(found.candidates, sets[2], atol=1e-3)
    assert torch.allclose(found.heldout_null, sets[4], atol=1e-3)
