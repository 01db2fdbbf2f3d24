"""Guarantees of splits, sites, resampling and duplicate checks, for any patients and settings."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from meninx.imaging import resample
from meninx.imaging.image import Image
from meninx.prepare import assignment, checks

names = st.lists(st.text("abcdefgh0123456789", min_size=1, max_size=6), min_size=1, max_size=60, unique=True)
seeds = st.integers(0, 2**31)
weights = st.tuples(st.integers(1, 20), st.integers(0, 20), st.integers(0, 20))
few = settings(max_examples=60, deadline=None)


def shares_of(parts: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(part / sum(parts) for part in parts)


def strata_of(patients: list[str], kinds: int) -> dict[str, str]:
    return {patient: str(sum(map(ord, patient)) % kinds) for patient in patients}


@given(names, names, weights, seeds)
@few
def test_adding_patients_moves_nobody(old, new, parts, seed):
    shares = shares_of(parts)
    before = assignment.stable_splits(old, shares, seed)
    after = assignment.stable_splits([*new, *reversed(old)], shares, seed)
    assert all(after[patient] == before[patient] for patient in old)


@given(names, weights, seeds, st.integers(1, 4), st.randoms(use_true_random=False))
@few
def test_order_of_listing_changes_nothing(patients, parts, seed, kinds, random):
    shares, shuffled = shares_of(parts), list(patients)
    random.shuffle(shuffled)
    assert assignment.stable_splits(patients, shares, seed) == assignment.stable_splits(
        shuffled, shares, seed
    )
    one, other = strata_of(patients, kinds), strata_of(shuffled, kinds)
    assert assignment.exact_splits(one, shares, seed) == assignment.exact_splits(other, shares, seed)
    assert assignment.iid_sites(patients, ("a", "b"), (0.3, 0.7), seed) == assignment.iid_sites(
        shuffled, ("a", "b"), (0.3, 0.7), seed
    )
    if len(patients) >= 2:
        assert assignment.skewed_sites(one, ("a", "b"), (), 0.5, seed) == assignment.skewed_sites(
            other, ("a", "b"), (), 0.5, seed
        )


@given(names, weights, seeds, st.integers(1, 4))
@few
def test_exact_fractions_are_within_one_patient(patients, parts, seed, kinds):
    shares = shares_of(parts)
    counts = Counter(assignment.exact_splits(strata_of(patients, kinds), shares, seed).values())
    for name, share in zip(("train", "valid", "test"), shares, strict=True):
        assert abs(counts[name] - share * len(patients)) < 1


@given(names, names, weights, seeds)
@few
def test_kept_patients_stay_and_the_others_make_up_the_fractions(old, new, parts, seed):
    shares = shares_of(parts)
    kept = assignment.exact_splits(strata_of(old, 2), shares, seed)
    found = assignment.exact_splits(strata_of(list(dict.fromkeys([*new, *old])), 2), shares, seed + 1, kept)
    assert all(found[patient] == kept[patient] for patient in old)
    assert set(found) == set(old) | set(new)


@given(names, st.lists(st.integers(1, 9), min_size=2, max_size=6), seeds)
@few
def test_iid_sites_have_their_shares_within_one_and_lose_nobody(patients, parts, seed):
    shares = shares_of(tuple(parts))
    labels = tuple(f"s{index}" for index in range(len(parts)))
    found = assignment.iid_sites(patients, labels, shares, seed)
    assert set(found) == set(patients)
    counts = Counter(found.values())
    assert all(
        abs(counts[label] - share * len(patients)) < 1 for label, share in zip(labels, shares, strict=True)
    )


@given(names, st.integers(2, 5), st.floats(0.01, 100), seeds, st.integers(1, 4))
@few
def test_skewed_sites_lose_nobody_and_leave_no_site_empty(patients, count, alpha, seed, kinds):
    labels = tuple(f"s{index}" for index in range(count))
    if len(patients) < count:
        return
    found = assignment.skewed_sites(strata_of(patients, kinds), labels, (), alpha, seed)
    assert set(found) == set(patients)
    assert set(found.values()) == set(labels)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=30), st.booleans())
@few
def test_no_image_is_kept_twice_and_none_of_two_patients(pairs, shared):
    content = {f"c{index}": str(image) for index, (image, _) in enumerate(pairs)}
    patient = {f"c{index}": f"p{who if shared else image}" for index, (image, who) in enumerate(pairs)}
    findings = checks.Findings()
    kept = checks.without_duplicates(content, patient, dict.fromkeys(content, "row"), findings, drop=True)
    assert len({content[case] for case in kept}) == len(kept)
    owners = {
        image: {patient[case] for case in content if content[case] == image} for image in content.values()
    }
    assert all(len(owners[content[case]]) == 1 for case in kept)
    assert len(kept) + sum(findings.counts().values()) == len(content)


@given(
    st.tuples(*[st.integers(1, 7)] * 3),
    st.tuples(*[st.floats(0.5, 3)] * 3),
    st.permutations([0, 1, 2]),
    st.tuples(*[st.sampled_from([-1, 1])] * 3),
)
@few
def test_canonical_axes_keep_every_voxel_at_its_place(size, spacing, order, signs):
    rotation = np.zeros((4, 4))
    for axis in range(3):
        rotation[order[axis], axis] = signs[axis] * spacing[axis]
    rotation[:, 3] = (5, -3, 2, 1)
    values = np.arange(np.prod(size)).reshape(1, *size)
    image = Image(values, rotation)
    turned = resample.canonical(image)

    def places(each: Image) -> dict[int, tuple[float, ...]]:
        found = {}
        for index in np.ndindex(*each.size):
            found[int(each.array[(0, *index)])] = tuple(np.round((each.affine @ [*index, 1])[:3], 6))
        return found

    assert places(image) == places(turned)
    assert (np.diag(turned.affine)[:3] > 0).all()


@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.floats(0.4, 3)] * 3))
@few
def test_resampling_never_leaves_the_range_of_values(size, spacing):
    values = np.random.default_rng(0).normal(size=(1, *size)).astype(np.float32)
    out = resample.volume(Image(values), spacing_mm=spacing)
    assert out.array.min() >= values.min() - 1e-5
    assert out.array.max() <= values.max() + 1e-5
    assert np.allclose(out.spacing_mm, spacing)
