"""Guarantees of the synthetic cohort, for any seed."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from meninx import synthetic
from meninx.synthetic import abdomen, anatomy, chest, plants
from meninx.synthetic.people import FINDINGS, finding_probability, subjects

seeds = st.integers(0, 2**31)


@given(seed=seeds, size=st.sampled_from([24, 33, 64]))
@settings(max_examples=10, deadline=None)
def test_a_seed_gives_one_set_of_images(seed, size):
    one, two = synthetic.radiographs(3, size, seed), synthetic.radiographs(3, size, seed)
    other = synthetic.radiographs(3, size, seed + 1)
    assert np.array_equal(one.images, two.images)
    assert np.array_equal(one.masks, two.masks)
    assert not np.array_equal(one.images, other.images)
    assert one.images.max() <= chest.HIGHEST


@given(seed=seeds)
@settings(max_examples=8, deadline=None)
def test_the_mask_marks_a_pneumothorax_and_nothing_else(seed):
    data = synthetic.radiographs(8, 48, seed, prevalence=0.5)
    assert np.array_equal(data.masks.any(axis=(1, 2)), data.labels["pneumothorax"] == 1)
    assert set(np.unique(data.masks)) <= {0, 1}


@given(prevalence=st.floats(0, 1), correlation=st.floats(-1, 1))
@settings(max_examples=60, deadline=None)
def test_correlation_moves_findings_between_the_sexes_and_keeps_their_number(prevalence, correlation):
    men, women = (finding_probability(sex, prevalence, correlation) for sex in "MF")
    assert min(men, women) >= -1e-12
    assert max(men, women) <= 1 + 1e-12
    assert abs((men + women) / 2 - prevalence) < 1e-12
    assert (men - women) * correlation >= 0


@given(seed=seeds, correlation=st.sampled_from([-0.8, 0.0, 0.8]))
@settings(max_examples=6, deadline=None)
def test_findings_follow_prevalence_and_correlation(seed, correlation):
    people = subjects(600, seed, prevalence=0.4, attribute_correlation=correlation)
    has = np.array([one.has for one in people])
    men = np.array([one.sex == "M" for one in people])
    assert np.abs(has.mean(axis=0) - 0.4).max() < 0.12
    assert np.abs((has[men].mean(axis=0) - has[~men].mean(axis=0)) - 0.8 * correlation).max() < 0.2
    assert {len(one.images) for one in people} == {1, 2, 3, 4}
    assert all(18 <= one.age <= 93 for one in people)
    assert all(len(one.has) == len(FINDINGS) for one in people)


@given(seed=seeds, index=st.integers(0, 500), angles=st.tuples(st.floats(-30, 30), st.floats(-30, 30)))
@settings(max_examples=10, deadline=None)
def test_slices_and_labels_share_one_geometry(seed, index, angles):
    volume = abdomen.volume(seed, index, (20, 16, 10))
    stack = abdomen.slices(volume, tilt=angles)
    first, last = stack.places[0], stack.places[-1]
    assert abs(first.across @ first.down) < 1e-9
    normal = np.cross(first.across, first.down)
    assert np.allclose(last.position - first.position, normal * first.thickness * 9)
    for place, k in ((first, 0), (last, 9)):
        for row, column in ((0, 0), (15, 19), (4, 7)):
            lps = (
                place.position
                + place.across * column * place.spacing[1]
                + place.down * row * place.spacing[0]
            )
            ras = stack.affine @ [column, row, k, 1]
            assert np.allclose(ras[:3], lps * [-1, -1, 1])
    assert stack.slices.shape == (10, 16, 20)
    assert np.array_equal(stack.slices[3], volume.array[::-1, ::-1, 3].T)
    assert np.array_equal(stack.labels[..., 3], volume.labels[::-1, ::-1, 3])


@given(seed=seeds, index=st.integers(0, 1000), size=st.sampled_from([32, 64]))
@settings(max_examples=10, deadline=None)
def test_a_pose_projects_points_to_the_pixels_that_its_grid_gives_them(seed, index, size):
    pose = chest.Pose.sample(np.random.default_rng([seed, index]))
    x, y = pose.grid(size)
    row, column = size // 3, size // 2
    back = pose.project(np.array([[x[row, column], y[row, column]]], np.float32), size)
    assert np.allclose(back, [[column, row]], atol=0.01)


@given(words=st.lists(st.text("ABCdefg 0123", min_size=1, max_size=12), min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_letters_stay_inside_their_boxes(words):
    letters, boxes = plants.bitmap(words, 64, 96)
    outside = letters.copy()
    for left, top, right, bottom in boxes:
        outside[top:bottom, left:right] = False
    assert not outside.any()
    assert len(plants.packed(letters)) % 2 == 0


@given(seed=seeds, index=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_an_anatomy_belongs_to_its_patient(seed, index):
    one, again, other = (
        anatomy.random_anatomy(seed, number, "F", 40) for number in (index, index, index + 1)
    )
    assert one.width == again.width
    assert np.array_equal(one.vessels, again.vessels)
    assert one.width != other.width
