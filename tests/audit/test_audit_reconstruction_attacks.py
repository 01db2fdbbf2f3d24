"""Reconstruction attacks on the program's own private step: strength without noise, noise that stops them."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from meninx.audit.reconstruction.attack_registry import attack_kind
from meninx.audit.reconstruction.attacks import ATTACKS, HONEST
from meninx.audit.reconstruction.candidates import NoiseLevel
from meninx.audit.reconstruction.front_block import FrontBlock
from meninx.audit.reconstruction.honest_server import GradientMatching, LinearReadout
from meninx.audit.reconstruction.imprint import Imprint
from meninx.audit.reconstruction.knowledge import Knowledge
from meninx.audit.reconstruction.pools import Patients
from meninx.audit.reconstruction.trials import Trials, reconstruct
from meninx.audit.reconstruction.victim import STEP, VictimStep, View
from meninx.core.errors import DataError, UsageError
from meninx.core.manifest import TaskKind
from meninx.learn.task import ImageTask
from meninx.metrics.image_matching import similarity
from meninx.models import registry
from meninx.privacy.plan import Plan
from meninx.synthetic.dataset import render, volumes
from meninx.synthetic.people import subjects

PLAN = Plan.build(
    n_units=200, expected_batch_size=16, steps=100, noise_multiplier=1.0, max_grad_norm=1.0, delta=1e-5
)


def cross_entropy(outputs, targets):
    return functional.cross_entropy(outputs, targets, reduction="none")


def binary(outputs, targets):
    return functional.binary_cross_entropy_with_logits(outputs[:, 0], targets, reduction="none")


def small_cnn(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 12, 5, stride=2, padding=2), nn.ReLU(),
        nn.Conv2d(12, 12, 5, stride=2, padding=2), nn.ReLU(),
        nn.Conv2d(12, 12, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(588, 2),
    ).eval()  # fmt: skip


def readout_error(images, noise_multiplier):
    """Return the expected MSE and correlation of images read from one linear row, each (n,).

    The clipped gradient of the row is the image divided by its norm. Multiplied by the norm it is the image
    with noise of standard deviation ``noise_multiplier`` times the norm in every value.
    """
    flat = images.flatten(1)
    noise = (noise_multiplier * flat.norm(dim=1)).square()
    variance = flat.var(dim=1, unbiased=False)
    return noise, (variance / (variance + noise)).sqrt()


def normed_cnn(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.GroupNorm(1, 1), nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 2),
    ).eval()  # fmt: skip


def patients(images, labels=2):
    targets = torch.arange(len(images)) % labels
    return Patients(images=images, targets=targets, cases=tuple(f"c{n}" for n in range(len(images))))


@pytest.fixture(scope="module")
def images():
    """One radiograph of each of 120 invented patients, float32 in [0, 1]."""
    people = list(subjects(110, 3))
    drawn = np.stack([render(one, 0, 28, 3).array for one in people]).astype(np.float32)
    return torch.from_numpy(drawn / 4095)[:, None]


@pytest.fixture(scope="module")
def world(images):
    """Trials of 2 x 16 members, with public images of other patients."""
    public, members, heldout = images[:60], images[60:92], images[92:]
    trials = Trials(members=patients(members), heldout=patients(heldout), count=2)
    return trials, Knowledge(public=public, network=small_cnn(), batch=16, bins=128)


def attacked(world, attack, sigmas, *, loss=cross_entropy, outputs=2, plan=PLAN, **rest):
    trials, knowledge = world
    victim = VictimStep(plan=plan, loss=loss)
    levels = [NoiseLevel(name=f"sigma {sigma:g}", noise_multiplier=sigma) for sigma in sigmas]
    return list(
        reconstruct(
            attack, levels, trials=trials, knowledge=knowledge, victim=victim, outputs=outputs, **rest
        )
    )


def best(originals, candidates, metric="ncc"):
    """Largest similarity of each original with a candidate of its trial."""
    return np.concatenate(
        [
            similarity(metric, one.numpy(), other.numpy()).max(1)
            for one, other in zip(originals, candidates, strict=True)
        ]
    )


# strength without noise


@pytest.mark.parametrize("attack", ["imprint-raw", "imprint-centred"])
def test_most_images_of_a_batch_come_back_without_noise(world, attack):
    (found,) = attacked(world, attack, (0,))
    assert found.about.works
    assert (best(found.originals, found.candidates, "ssim") > 0.5).mean() >= 0.85
    assert found.candidates.shape[:2] == (2, found.about.candidates)
    assert found.about.cases[0][0].startswith("c")


def test_single_images_come_back_almost_exactly_without_noise(world):
    """Criterion 10 for one image in a step: mean SSIM above .9 and correlation above .95."""
    trials, knowledge = world
    single = Knowledge(public=knowledge.public, network=knowledge.network, batch=1)
    alone = Trials(members=trials.members, heldout=trials.heldout, count=8)
    for attack in ("imprint-raw", "cumulative", "trap", "readout"):
        (found,) = attacked((alone, single), attack, (0,))
        assert best(found.originals, found.candidates, "ssim").mean() > 0.9
        assert best(found.originals, found.candidates).mean() > 0.95


def test_every_encoder_finds_more_than_its_null_without_noise(world):
    for attack in ("imprint-whitened", "imprint-pca"):
        (found,) = attacked(world, attack, (0,))
        real, null = best(found.originals, found.candidates), best(found.originals, found.heldout_null)
        assert found.about.works
        assert real.mean() > null.mean() + 0.04
        assert best(found.heldout, found.candidates).mean() < real.mean() - 0.04  # the negative control


@pytest.mark.parametrize(
    ("attack", "lives", "dies"),
    [
        ("cumulative", 1e-4, 1e-2),
        ("trap", 1e-3, 3e-2),
        ("imprint-raw", 1e-3, 3e-2),
        ("readout", 1e-3, 3e-2),
        ("imprint-centred", 1e-2, 0.3),
        ("imprint-whitened", 3e-2, 2.0),
    ],
)
def test_each_attack_stops_at_its_own_noise(world, attack, lives, dies):
    """The ladder: what stops raw pixels leaves an encoder that knows public images untouched."""
    before, after = attacked(world, attack, (lives, dies))
    real, null = best(before.originals, before.candidates), best(before.originals, before.heldout_null)
    threshold = np.quantile(null, 0.95)
    assert (real > threshold).mean() > 0.5
    real, null = best(after.originals, after.candidates), best(after.originals, after.heldout_null)
    assert (real > max(0.8, np.quantile(null, 0.95))).mean() < 0.25


def test_the_readout_has_the_error_of_its_closed_form(images):
    """Criterion 11: MSE within 2 % of sigma^2 ||x||^2, correlation within .01, on a logistic regression."""
    knowledge = Knowledge(public=images[:60], network=small_cnn(), batch=1)
    attack, victim, sigma = LinearReadout(knowledge, 1), VictimStep(plan=PLAN, loss=binary), 5e-3
    errors, correlations = [], []
    chosen = images[60:100]
    for number, image in enumerate(chosen):
        clean = victim.clipped_sum(attack.network, attack.watched, image[None], torch.ones(1))
        seen = victim.seen(clean, sigma, seed=1, purpose=str(number))
        read = -seen[attack.watched[0]][0] * image.norm()
        errors.append(float((read - image.flatten()).square().mean()))
        found = attack.decode([seen], torch.ones(1, 1), sigma)[0]
        correlations.append(float(similarity("ncc", image[None].numpy(), found.numpy())[0, 0]))
    error, correlation = readout_error(chosen, sigma)
    assert np.mean(errors) == pytest.approx(float(error.mean()), rel=0.02)
    assert np.mean(correlations) == pytest.approx(float(correlation.mean()), abs=0.01)
    assert torch.allclose(error, (sigma * chosen.flatten(1).norm(dim=1)).square())


@pytest.mark.slow
def test_gradient_matching_recovers_images_of_a_small_network(world):
    """Near .9 without noise (8,714 parameters, 8 invented patients; .97 on radiographs), and lost at .3."""
    none, much = attacked(world, "matching", (0, 0.3))
    assert none.about.works
    assert len(none.originals) == 8
    assert best(none.originals, none.candidates).mean() > 0.85
    assert best(much.originals, much.candidates).mean() < 0.5


def test_gradient_matching_moves_towards_the_image(images):
    knowledge = Knowledge(public=images[:60], network=small_cnn(), batch=1, iterations=25)
    attack, victim = GradientMatching(knowledge, cross_entropy), VictimStep(plan=PLAN, loss=cross_entropy)
    image, target = images[70:71], torch.zeros(1, dtype=torch.int64)
    clean = victim.clipped_sum(attack.network, attack.watched, image, target)
    found = attack.decode([clean], target[None], 0.0)[0]
    assert similarity("ncc", image.numpy(), found.numpy())[0, 0] > 0.75
    nothing = attack.decode(
        [{name: torch.zeros_like(value) for name, value in clean.items()}], target[None], 0.0
    )
    assert not nothing.any()


def test_gradient_matching_refuses_a_large_network(images):
    big = nn.Sequential(nn.Flatten(), nn.Linear(784, 500))
    with pytest.raises(UsageError, match="392,500 parameters"):
        GradientMatching(Knowledge(public=images[:4], network=big), cross_entropy)


# tasks and dimensions


def test_a_segmentation_network_leaks_its_images(images):
    """Criterion 14: at least .8 above a correlation of .8 without noise, at most .02 above the null at .1."""
    torch.manual_seed(0)
    network = registry.build("unet-small", spatial_dims=2, in_channels=1, out_channels=2, depth=2).eval()
    task = ImageTask(TaskKind.SEGMENTATION, ("lesion",), "dice+ce")
    masks = (images[:, 0] > images.flatten(1).quantile(0.9, dim=1)[:, None, None]).long()
    people = Patients(images=images, targets=masks)
    members, heldout = people.take(torch.arange(60, 92)), people.take(torch.arange(92, 110))
    world = (
        Trials(members=members, heldout=heldout, count=2),
        Knowledge(public=images[:60], network=network, batch=16, bins=128),
    )
    none, much = attacked(world, "imprint-raw", (0, 0.1), loss=task.loss)
    assert none.about.works
    assert (best(none.originals, none.candidates) > 0.8).mean() >= 0.8
    above = (best(much.originals, much.candidates) > 0.8).mean()
    assert above <= (best(much.originals, much.heldout_null) > 0.8).mean() + 0.02


def test_volumes_are_attacked_like_images():
    scans = volumes(40, size=(16, 16, 8), seed=1)
    values = torch.from_numpy(scans.images.astype(np.float32))[:, None].clamp(-200, 300)
    values, maps = (values + 200) / 500, torch.from_numpy(scans.labels.astype(np.int64))
    network = registry.build("unet-small", spatial_dims=3, in_channels=1, out_channels=3, depth=2).eval()
    task = ImageTask(TaskKind.SEGMENTATION, ("organ", "lesion"), "dice+ce")
    people = Patients(images=values, targets=maps)
    trials = Trials(
        members=people.take(torch.arange(24, 32)), heldout=people.take(torch.arange(32, 40)), count=2
    )
    knowledge = Knowledge(public=values[:24], network=network, batch=4)
    for attack in ("imprint-raw", "imprint-pca"):
        (found,) = attacked((trials, knowledge), attack, (0,), loss=task.loss)
        assert found.originals.shape == (2, 4, 1, 16, 16, 8)
        assert best(found.originals, found.candidates).mean() > 0.8


# controls


def test_a_block_that_a_norm_layer_removes_is_noticed_as_broken(world):
    """Planted fault: a constant added in front of a norm layer has no gradient, so nothing is imprinted."""
    trials, knowledge = world
    broken = Imprint(
        Knowledge(public=knowledge.public, network=normed_cnn(), batch=16, bins=128),
        "raw", "steps", connection="input", gain=None,
    )  # fmt: skip
    victim = VictimStep(plan=PLAN, loss=cross_entropy)
    people = trials.members.take(torch.arange(16))
    clean = victim.clipped_sum(broken.network, broken.watched, people.images, people.targets)
    assert float(clean["rows.weight"].norm()) < 1e-3


def test_the_self_test_names_a_broken_attack(world):
    trials, knowledge = world
    behind_a_norm = Knowledge(public=knowledge.public, network=normed_cnn(), batch=16, bins=128)
    for found in attacked((trials, behind_a_norm), "cumulative-input", (0, 1e-3)):
        assert not found.about.works
        assert found.about.signal < 0.01


def test_noise_alone_and_held_out_patients_give_no_member(world):
    (found,) = attacked(world, "imprint-raw", (1e-3,))
    assert best(found.originals, found.noise_null).max() < 0.5
    real, null = best(found.originals, found.candidates), best(found.originals, found.heldout_null)
    threshold = np.quantile(null, 0.95)
    assert (real > threshold).mean() > 0.7
    assert (best(found.heldout, found.candidates) > threshold).mean() < 0.3


# what is seen


def test_averaging_participations_lets_an_attack_survive_more_noise(world):
    once, often = (attacked(world, "imprint-raw", (1.5e-2,), participations=n)[0] for n in (1, 75))
    assert best(often.originals, often.candidates).mean() > best(once.originals, once.candidates).mean() + 0.2
    assert often.about.participations == 75
    assert any("75 steps of the same patients" in sentence for sentence in often.about.knowledge)


def test_a_sum_over_sites_hides_more_than_one_site_does(images):
    people = patients(images)
    trials = Trials(
        members=people.take(torch.arange(40, 88)), heldout=people.take(torch.arange(88, 110)), count=1
    )
    knowledge = Knowledge(public=images[:40], network=small_cnn(), batch=4)
    found = {
        view.name: attacked((trials, knowledge), "imprint-raw", (4e-3,), view=view)[0]
        for view in (STEP, View(sites=3), View(sites=3, colluders=2), View(sites=5, difference=True))
    }
    quality = {name: best(one.originals, one.candidates).mean() for name, one in found.items()}
    assert quality["step"] > quality["sum of 3 sites"]
    assert quality["sum of 3 sites, 2 colluding"] == pytest.approx(quality["step"], abs=0.1)
    assert quality["difference of two rounds of 5 sites, others the same"] < quality["step"]
    sizes = [one.originals.shape[1] for one in found.values()]
    assert sizes == [4, 12, 4, 4]


def test_a_view_knows_its_noise():
    assert View(sites=10).noise == pytest.approx(math.sqrt(10))
    assert View(sites=10, colluders=7).noise == pytest.approx(math.sqrt(3))
    assert View(sites=3, difference=True).noise == pytest.approx(math.sqrt(5))
    redrawn = View(sites=3, difference=True, redrawn=True)
    assert (redrawn.added, redrawn.subtracted) == (3, 2)
    with pytest.raises(UsageError):
        View(sites=2, colluders=2)


def test_the_noise_of_a_step_is_that_of_its_plan():
    """What is attacked is what is run: standard deviation sigma C, from the program's own noise."""
    clean = {"rows.weight": torch.zeros(200, 200)}
    victim = VictimStep(plan=PLAN, loss=cross_entropy)
    seen = victim.seen(clean, 0.5, seed=0, purpose="a")["rows.weight"]
    assert float(seen.std()) == pytest.approx(0.5, rel=0.02)
    again = victim.seen(clean, 0.5, seed=0, purpose="a")["rows.weight"]
    assert torch.equal(seen, again)
    other = victim.seen(clean, 0.5, seed=0, purpose="b")["rows.weight"]
    assert abs(float((seen * other).mean())) < 0.01


def test_the_clipped_sum_is_the_plans(images):
    plan = Plan.build(
        n_units=200, expected_batch_size=8, steps=10, noise_multiplier=1.0, max_grad_norm=0.25, delta=1e-5
    )
    network = small_cnn()
    victim = VictimStep(plan=plan, loss=cross_entropy)
    names = tuple(name for name, _ in network.named_parameters())
    one = victim.clipped_sum(network, names, images[:1], torch.zeros(1, dtype=torch.int64))
    assert float(torch.cat([value.flatten() for value in one.values()]).norm()) == pytest.approx(
        1.0, rel=1e-4
    )


def test_trials_share_no_patient_while_there_are_enough(images):
    people = patients(images)
    trials = Trials(members=people, heldout=people, count=3)
    drawn = [set(trials.drawn(number, 16, 0)[0].cases) for number in range(6)]
    assert all(len(names) == 16 for names in drawn)
    assert max(Counter(name for names in drawn for name in names).values()) == 1
    with pytest.raises(DataError, match="at least 200"):
        trials.drawn(0, 200, 0)


# names and refusals


def test_an_unknown_attack_is_named():
    with pytest.raises(UsageError, match="imprint-whitened"):
        attack_kind("magic")
    assert ATTACKS["readout"].server == HONEST


def test_a_front_block_needs_public_images_that_differ(images):
    same = images[:1].expand(10, -1, -1, -1)
    with pytest.raises(UsageError, match="different brightness"):
        Imprint(Knowledge(public=same, network=small_cnn()), "raw")


def test_rows_of_bins_are_excited_by_one_image_each(images):
    """One active row per image, whatever its brightness: also beyond the public range."""
    from meninx.audit.reconstruction.encoders import fit_encoder

    block = FrontBlock(small_cnn(), fit_encoder("raw", images[:60]), images[:60], rows=32)
    bright = torch.cat([images[60:], torch.ones(1, 1, 28, 28), torch.full((1, 1, 28, 28), 0.01)])
    for image in bright:
        block.zero_grad()
        block.reaction(image[None]).sum().backward()
        assert int((block.rows.weight.grad.norm(dim=1) > 0).sum()) == 1
