"""Baselines of obfuscation: their distortion is the budget, and a release depends on case and draw alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meninx.core.errors import DataError
from meninx.core.progress import SILENT
from meninx.obfuscate.baselines import _blurred, _pixelated
from meninx.obfuscate.config import ObfuscateConfig
from meninx.obfuscate.obfuscator import FittedObfuscator, ImageTable, create, stored

BASELINES = ("noise", "blur", "pixelation", "dp-pix")
KEY = bytes(range(32))
seeds = st.integers(0, 2**31)


def smooth(seed: int, count: int = 24, size: int = 24, channels: int = 1) -> ImageTable:
    """Images that change slowly, one of each patient; the last quarter is the test split."""
    rng = np.random.default_rng(seed)
    rough = rng.random((count, channels, size, size), dtype=np.float32)
    values = stored(np.clip((_blurred(rough, 3.0) - 0.5) * 6 + 0.5, 0, 1))
    names = tuple(f"c{number}" for number in range(count))
    split = ("train",) * (count * 3 // 4) + ("test",) * (count - count * 3 // 4)
    return ImageTable(values=values, cases=names, patients=names, split=split)


def fitted(method: str, table: ImageTable, **given) -> FittedObfuscator:
    config = ObfuscateConfig.of(method=method, **given)
    return create(method, config, key=KEY).fit(table, seed=0, progress=SILENT)


@pytest.mark.parametrize("method", BASELINES)
@settings(max_examples=8, deadline=None)
@given(seed=seeds, budget=st.floats(0.03, 0.12), channels=st.sampled_from([1, 3]))
def test_the_training_images_change_by_the_budget(method, seed, budget, channels):
    table = smooth(seed, channels=channels)
    released = fitted(method, table, budget=budget).release(table)
    train = table.where("train")
    change = np.abs(released - table.values)[train].mean(dtype=np.float64)
    tolerance = 0.02 if method == "pixelation" else 0.002  # pixelation chooses a whole number of images
    assert change == pytest.approx(budget, rel=tolerance)


@pytest.mark.parametrize("method", BASELINES)
@settings(max_examples=5, deadline=None)
@given(seed=seeds)
def test_a_release_depends_on_case_and_draw_alone(method, seed):
    table = smooth(seed)
    method_at_work = fitted(method, table)
    whole = method_at_work.release(table, draw=1)
    order = np.random.default_rng(seed).permutation(len(table))[:5]
    np.testing.assert_array_equal(method_at_work.release(table.select(order), draw=1), whole[order])
    again = method_at_work.release(table, draw=2)
    assert (method in ("noise", "dp-pix")) == bool((again != whole).any())


@pytest.mark.parametrize("method", BASELINES)
def test_what_is_released_fits_into_a_file_of_8_bits(method):
    table = smooth(0)
    released = fitted(method, table, budget=0.1).release(table)
    assert released.dtype == np.float32
    np.testing.assert_array_equal(released, stored(released))
    assert released.min() >= 0
    assert released.max() <= 1


@pytest.mark.parametrize("method", BASELINES)
def test_images_of_the_test_split_do_not_decide_on_the_strength(method):
    table = smooth(3)
    other = table.values.copy()
    other[table.where("test")] = 0.0
    assert fitted(method, table).facts() == fitted(method, replace(table, values=other)).facts()


@pytest.mark.parametrize("method", ["noise", "dp-pix", "pixelation"])
def test_another_key_gives_another_release(method):
    table, config = smooth(1), ObfuscateConfig.of(method=method)
    one, other = (
        create(method, config, key=key).fit(table, seed=0, progress=SILENT).release(table)
        for key in (KEY, bytes(32))
    )
    assert (one != other).any()


@pytest.mark.parametrize("method", ["blur", "pixelation"])
def test_a_budget_out_of_reach_is_refused_with_what_can_be_reached(method):
    with pytest.raises(DataError, match="at most"):
        fitted(method, smooth(0), budget=0.9)


def test_a_block_that_changes_more_than_the_budget_is_refused():
    with pytest.raises(DataError, match="smaller block"):
        fitted("dp-pix", smooth(0), budget=0.01, block=12)


@given(seed=seeds, sigma=st.floats(0.01, 100))
@settings(max_examples=20, deadline=None)
def test_blur_keeps_the_mean_and_leaves_the_range_by_ringing_only(seed, sigma):
    values = np.random.default_rng(seed).random((2, 1, 9, 14), dtype=np.float32)
    after = _blurred(values, sigma)
    np.testing.assert_allclose(after.mean(axis=(2, 3)), values.mean(axis=(2, 3)), atol=1e-5)
    ringing = 1e-5 if sigma >= 2 else 0.2
    assert after.min() >= values.min() - ringing
    assert after.max() <= values.max() + ringing


def test_blur_is_convolution_with_a_gaussian_in_a_mirror():
    from scipy.ndimage import gaussian_filter

    values = np.random.default_rng(0).random((1, 1, 40, 40), dtype=np.float32)
    wanted = gaussian_filter(values[0, 0].astype(np.float64), 2.0, mode="reflect", truncate=8)
    np.testing.assert_allclose(_blurred(values, 2.0)[0, 0], wanted, atol=2e-3)


@given(side=st.integers(1, 20), height=st.integers(1, 13), width=st.integers(1, 13), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_a_pixelated_image_has_the_mean_of_each_block(side, height, width, seed):
    values = np.random.default_rng(seed).random((1, 2, height, width), dtype=np.float32)
    found = _pixelated(values, side)
    for row in range(0, height, side):
        for column in range(0, width, side):
            part = np.s_[:, :, row : row + side, column : column + side]
            means = values[part].mean(axis=(2, 3), keepdims=True)
            np.testing.assert_allclose(found[part], np.broadcast_to(means, found[part].shape), atol=1e-6)


@given(side=st.integers(1, 8), pixels=st.integers(1, 20), channels=st.sampled_from([1, 3]), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_no_change_of_m_pixels_moves_the_means_further_than_dp_pix_assumes(side, pixels, channels, seed):
    rng = np.random.default_rng(seed)
    before = rng.random((1, channels, 11, 13), dtype=np.float32)
    after = before.copy()
    places = rng.permutation(11 * 13)[:pixels]
    for row, column in zip(*np.unravel_index(places, (11, 13)), strict=True):
        after[0, :, row, column] = np.round(1 - before[0, :, row, column])
    # One value per block, so that each block counts once.
    firsts = np.s_[:, :, ::side, ::side]
    moved = np.abs(_pixelated(before, side)[firsts] - _pixelated(after, side)[firsts]).sum()
    table = ImageTable(values=before, cases=("a",), patients=("a",), split=("train",))
    facts = fitted("dp-pix", table, block=side, pixels=pixels, pixel_epsilon=1.0).facts()
    assert moved <= facts["laplace_scale"] * facts["pixel_epsilon"] + 1e-5


def test_laplace_noise_has_the_scale_that_the_facts_state():
    values = np.full((400, 1, 8, 8), 0.5, dtype=np.float32)
    names = tuple(f"c{number}" for number in range(400))
    table = ImageTable(values=values, cases=names, patients=names, split=("train",) * 400)
    method = fitted("dp-pix", table, block=4, pixels=4, pixel_epsilon=5.0)
    noise = (method.release(table) - values)[:, :, ::4, ::4]
    scale = method.facts()["laplace_scale"]
    assert scale == pytest.approx(4 / 16 / 5)
    assert np.abs(noise).mean() == pytest.approx(scale, rel=0.08)
    np.testing.assert_allclose(np.sort(noise.ravel())[len(noise.ravel()) // 2], 0, atol=0.01)
