"""The label floor: what the true labels tell about an attribute, and which targets are refused for it."""

from __future__ import annotations

import numpy as np
import pytest

from meninx.core.errors import DataError, PrivacyRefusal
from meninx.metrics.groups import Grouping
from meninx.metrics.label_floor import label_floor, refuse_below_floor


def cohort(patients=800, images=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng, np.repeat(np.arange(patients), images), np.repeat(rng.integers(0, 2, patients), images)


def sex(index):
    return Grouping("sex", ("F", "M"), index)


def test_a_label_that_equals_the_attribute_with_a_known_probability_has_that_floor():
    rng, patient, index = cohort(3000, 1)
    label = np.where(rng.random(len(index)) < 0.75, index, 1 - index).astype(float)
    floor = label_floor(sex(index), {"effusion": label}, patient, draws=200)
    assert floor.value == pytest.approx(0.75, abs=0.02)  # sensitivity = specificity = 0.75
    assert floor.low < 0.75 < floor.high
    assert (floor.rows, floor.patients, floor.labels) == (3000, 3000, ("effusion",))


def test_labels_that_tell_only_together_are_found():
    """No single label tells anything: the attribute is whether both agree."""
    rng, patient, index = cohort()
    first = rng.integers(0, 2, len(index))
    second = np.where(index == 1, first, 1 - first)
    floor = label_floor(sex(index), {"a": first, "b": second}, patient, draws=100)
    assert floor.value > 0.99


def test_labels_that_tell_nothing_have_a_floor_near_one_half():
    values = []
    for seed in range(20):
        rng, patient, index = cohort(100, 2, seed)
        labels = {name: rng.integers(0, 2, 200).astype(float) for name in "abc"}
        values.append(label_floor(sex(index), labels, patient, draws=20, seed=seed).value)
    assert min(values) >= 0.5
    assert np.mean(values) < 0.54


def test_the_interval_of_a_floor_lies_above_one_half_and_contains_it():
    """With few patients the area may fall below 1/2 by chance; the interval was [0.218, 0.500]."""
    for seed in range(12):
        rng, patient, index = cohort(30, 2, seed)
        floor = label_floor(sex(index), {"a": rng.integers(0, 2, 60).astype(float)}, patient, draws=50)
        assert 0.5 <= floor.low <= floor.value <= floor.high
        assert floor.high > 0.55


def test_two_images_of_one_patient_lie_in_one_fold():
    """A table of unique combinations would otherwise name the patient, and with him the attribute."""
    rng, patient, index = cohort(120, 4)
    mark = rng.integers(0, 2, (120, 8)).astype(float)[patient]
    floor = label_floor(sex(index), {f"bit {n}": mark[:, n] for n in range(8)}, patient, draws=50)
    assert floor.value < 0.62


def test_an_unknown_label_is_a_value_of_its_own():
    rng, patient, index = cohort()
    label = np.where(index == 1, np.nan, rng.integers(0, 2, len(index)))
    assert label_floor(sex(index), {"a": label}, patient, draws=50).value > 0.99


def test_the_group_that_is_told_best_counts():
    rng, patient, _ = cohort(900, 1)
    index = rng.integers(0, 3, 900)
    index[:30] = -1
    age = Grouping("age", ("young", "middle", "old"), index)
    floor = label_floor(age, {"a": (index == 2).astype(float)}, patient, draws=50)
    assert floor.group == "old"
    assert floor.value > 0.99
    assert floor.rows == 870


def test_the_floor_is_at_least_that_of_each_two_groups_that_attackers_are_asked():
    """One label of young, middle and old: old against rest 0.80, old against young 0.90."""
    rng, patient, _ = cohort(3000, 1)
    index = rng.integers(0, 3, 3000)
    label = (rng.random(3000) < np.array([0.1, 0.5, 0.9])[index]).astype(float)
    floor = label_floor(Grouping("age", ("young", "middle", "old"), index), {"a": label}, patient, draws=200)
    assert floor.group == "old against young"
    assert floor.value == pytest.approx(0.9, abs=0.02)
    with pytest.raises(PrivacyRefusal, match="old against young"):
        refuse_below_floor(floor, target=0.85)


def independent_bins(seed, draws):
    """Return the floor of two labels that know nothing of four groups of 150 patients."""
    rng = np.random.default_rng(seed)
    groups = Grouping("age", tuple("abcd"), rng.integers(0, 4, 150))
    labels = {name: rng.integers(0, 2, 150).astype(float) for name in "yz"}
    return label_floor(groups, labels, np.arange(150), draws=draws, seed=seed)


def test_labels_that_tell_nothing_refuse_no_target():
    """The point estimate is above 0.55 in about half of such datasets."""
    floors = [independent_bins(seed, 400) for seed in range(12)]
    assert sum(floor.value > 0.55 for floor in floors) >= 3
    assert sum(floor.beyond_chance for floor in floors) <= 1
    noise = next(floor for floor in floors if floor.value > 0.55 and not floor.beyond_chance)
    refuse_below_floor(noise, target=0.52)
    assert noise.in_words.endswith("; not beyond chance)")


@pytest.mark.slow
def test_labels_that_tell_nothing_refuse_a_target_in_at_most_five_percent_of_datasets():
    assert sum(independent_bins(seed, 400).beyond_chance for seed in range(200)) <= 10


def test_a_target_below_the_floor_is_refused_with_both_numbers():
    _, patient, index = cohort()
    floor = label_floor(sex(index), {"a": index.astype(float)}, patient, draws=50)
    with pytest.raises(PrivacyRefusal, match=r"0\.6 is below the floor of 1\.000.*columns a alone"):
        refuse_below_floor(floor, target=0.6)
    refuse_below_floor(floor, target=1.0)


def test_the_same_seed_gives_the_same_floor():
    rng, patient, index = cohort()
    label = {"a": rng.integers(0, 2, len(index)).astype(float)}
    first, again, other = (label_floor(sex(index), label, patient, draws=50, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("labels", "index", "message"),
    [
        ({}, [0, 1], "at least one label"),
        ({"a": [0.0]}, [0, 1], "at least one label"),
        ({"a": [0.0, 0.5]}, [0, 1], "not 0, 1"),
        ({"a": [0.0, 1.0]}, [0, 0], "two groups"),
        ({"a": [0.0, 1.0]}, [-1, -1], "known group"),
    ],
)
def test_odd_tables_are_refused(labels, index, message):
    with pytest.raises(DataError, match=message):
        label_floor(sex(np.array(index)), labels, [0, 1])
