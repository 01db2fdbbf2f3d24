"""Rank-1 search and verification: chance, ties, exclusions, intervals, null, refusals."""

import numpy as np
import pytest

from meninx.core.errors import ConfigError, DataError
from meninx.metrics import classification
from meninx.metrics.descriptors import (
    edge_histograms,
    fit_description,
    fit_whitening,
    standardised,
    unit_rows,
)
from meninx.metrics.linkage import OWN, Owners, measure_claims, measure_linkage


def owners(counts, studies=None):
    patients = tuple(f"p{person}" for person, count in enumerate(counts) for _ in range(count))
    return Owners(patients, tuple(f"i{row}" for row in range(len(patients))), studies or ())


def vectors(people, gain, seed=0, size=16):
    rng = np.random.default_rng(seed)
    numbers = np.unique(np.array(people.patients), return_inverse=True)[1]
    return unit_rows(
        gain * rng.normal(size=(len(people), size))[numbers] + rng.normal(size=(len(people), size))
    )


def test_chance_is_exact_and_counts_images():
    people = owners([1, 2, 3] + [2] * 10)
    found = measure_linkage("hog", np.zeros((len(people),) * 2), people, permutations=9)
    others = [count - 1 for count in [2] * 2 + [3] * 3 + [2] * 20]
    assert found.chance == pytest.approx(np.mean(others) / (len(people) - 1))
    assert found.p_at_1 == pytest.approx(found.chance)  # all tie, so the answer is a random one
    assert found.auc == 0.5
    assert (found.probes, found.patients, found.gallery) == (25, 12, 26)


def test_a_perfect_attack_finds_everybody_and_its_intervals_have_width():
    people = owners([2] * 20)
    numbers = np.arange(40) // 2
    found = measure_linkage("hog", (numbers[:, None] == numbers[None]).astype(float), people)
    assert found.p_at_1 == found.per_patient == found.auc == 1.0
    assert max(found.p_at_1_low, found.per_patient_low, found.auc_low) < 1
    assert found.p_value == 0.001


def test_an_image_is_no_answer_to_itself_nor_are_images_of_its_study():
    people = owners([2] * 12)
    similarity = np.eye(24)
    assert measure_linkage("hog", similarity, people, permutations=9).p_at_1 < 0.2
    same = Owners(people.patients, people.images, tuple(people.patients))
    refused = measure_linkage("hog", similarity, same)
    assert refused.p_at_1 is None
    assert refused.refusal == "too few patients with another image: 10 needed, 0 there"


def test_what_carries_no_identity_stays_at_chance():
    people = owners([1, 2, 3, 4] * 15)
    p_values = []
    for seed in range(20):
        found = vectors(people, 0.0, seed)
        p_values.append(measure_linkage("hog", found @ found.T, people, permutations=99, seed=seed).p_value)
    assert min(p_values) > 0.002
    assert 0.25 < np.mean(p_values) < 0.75


def test_the_interval_of_the_auc_covers_the_area_of_many_patients():
    truth_people = owners([3] * 300)
    found = vectors(truth_people, 0.8)
    truth = measure_linkage("hog", found @ found.T, truth_people, permutations=1).auc
    inside = 0
    for seed in range(1, 31):
        people = owners([3] * 30)
        found = vectors(people, 0.8, seed)
        record = measure_linkage("hog", found @ found.T, people, permutations=1)
        inside += record.auc_low <= truth <= record.auc_high
    assert inside >= 26


def test_the_area_is_that_of_the_pairs():
    people = owners([1, 2, 5, 3] * 4)
    found = vectors(people, 0.7)
    similarity = np.round(found @ found.T, 1)
    one = np.array(people.patients)
    pairs = np.triu_indices(len(people), 1)
    wanted = classification.auroc((one[:, None] == one[None])[pairs].astype(float), similarity[pairs])
    assert measure_linkage("hog", similarity, people, permutations=1).auc == pytest.approx(wanted)


def test_changed_images_ask_for_another_image_or_their_own():
    people = owners([2] * 15)
    gallery = vectors(people, 2.0)
    own = measure_linkage("hog", gallery @ gallery.T, people, people, question=OWN)
    assert own.p_at_1 == 1.0
    assert own.chance == pytest.approx(1 / 30)
    assert own.p_value == 0.001
    other = measure_linkage("hog", gallery @ gallery.T, people, people)
    alone = measure_linkage("hog", gallery @ gallery.T, people)
    assert (other.p_at_1, other.chance, other.auc) == (alone.p_at_1, alone.chance, alone.auc)


def test_claims_count_for_any_patient_of_their_batch():
    people = owners([1] * 40)
    trials = [f"t{row // 2}" for row in range(40)]
    answers = np.array([[row // 2 == place // 2 for place in range(40)] for row in range(40)])
    right = measure_claims("hog", answers + 0.0, answers, trials, people)
    assert right.p_at_1 == 1.0
    assert right.chance == pytest.approx(2 / 40)
    assert right.patients == 20
    noise = np.random.default_rng(0).normal(size=(40, 40))
    assert measure_claims("hog", noise, answers, trials, people).p_value > 0.01


@pytest.mark.parametrize("wrong", [np.zeros((3, 3)), np.full((24, 24), np.nan)])
def test_similarities_of_another_shape_or_that_are_not_finite_are_refused(wrong):
    with pytest.raises(DataError, match="finite similarities"):
        measure_linkage("hog", wrong, owners([2] * 12))


def test_owners_without_a_name_for_each_image_are_refused():
    with pytest.raises(DataError, match="owners"):
        Owners(("a", "b"), ("x",))


@pytest.mark.parametrize(
    ("shape", "kind"), [((1, 32, 32), "pixels"), ((3, 40, 24), "hog"), ((1, 16, 20, 12), "hog")]
)
def test_descriptions_link_images_of_one_patient(shape, kind):
    people = owners([2] * 60)
    rng = np.random.default_rng(0)
    numbers = np.arange(120) // 2
    images = rng.normal(size=(60, *shape))[numbers] + 0.7 * rng.normal(size=(120, *shape))
    describe = fit_description(kind, images[:60], components=20)
    found = describe(images[60:])
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
    late = people.rows(range(60, 120))
    assert measure_linkage(kind, found @ found.T, late).p_value == 0.001


def test_a_description_ignores_exposure_and_refuses_another_size():
    images = np.random.default_rng(0).normal(size=(20, 1, 32, 32))
    describe = fit_description("hog", images)
    assert np.allclose(describe(images), describe(3 * images + 5), atol=1e-3)
    with pytest.raises(DataError, match="features"):
        describe(np.zeros((1, 1, 64, 64)))


def test_edges_of_a_slope_lie_in_one_direction():
    rows = np.tile(np.arange(32.0)[:, None], (1, 32))
    found = edge_histograms(rows[None, None]).reshape(-1, 9)
    turned = edge_histograms(rows.T[None, None]).reshape(-1, 9)
    assert set(found.argmax(axis=1)) != set(turned.argmax(axis=1))
    assert len(set(found.argmax(axis=1))) == 1


def test_whitening_gives_every_direction_the_same_weight():
    features = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32) * [100, 10, 1, 1, 1, 0.1]
    whitening = fit_whitening(features.astype(np.float32), components=6)
    found = (features - whitening.mean) @ whitening.directions
    assert np.allclose(np.cov(found.T), np.eye(6), atol=0.02)


def test_images_that_cannot_be_described_are_refused():
    with pytest.raises(DataError, match="images that differ"):
        fit_description("pixels", np.ones((4, 1, 8, 8)))
    with pytest.raises(DataError, match="two images"):
        fit_description("pixels", np.zeros((1, 1, 8, 8)))
    with pytest.raises(DataError, match="finite images"):
        standardised(np.full((2, 1, 8, 8), np.inf))
    with pytest.raises(ConfigError):
        fit_description("other", np.zeros((4, 1, 8, 8)))
