"""Similarities of images against slow reference implementations, and one-to-one matching."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from scipy import ndimage

from meninx.core.errors import DataError
from meninx.metrics.image_matching import (
    HIGHEST_PSNR,
    IMAGE_METRICS,
    match,
    paired_similarity,
    similarity,
)

SHAPES = [(1, 16, 12), (3, 9, 20), (1, 8, 10, 9), (1, 5, 4)]


def images(shape, count=4, seed=0):
    return np.random.default_rng(seed).random((count, *shape))


def reference_ssim(first, second, data_range=1.0):
    """The definition of Wang et al. (2004), window by window, with sample covariances as in scikit-image."""
    small, tiny = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for one, other in zip(first, second, strict=True):
        sides = [min(7, side) for side in one.shape]
        for corner in itertools.product(
            *(range(length - side + 1) for length, side in zip(one.shape, sides, strict=True))
        ):
            box = tuple(slice(start, start + side) for start, side in zip(corner, sides, strict=True))
            a, b = one[box].ravel(), other[box].ravel()
            covariance = np.cov(a, b)
            top = (2 * a.mean() * b.mean() + small) * (2 * covariance[0, 1] + tiny)
            bottom = (a.mean() ** 2 + b.mean() ** 2 + small) * (covariance[0, 0] + covariance[1, 1] + tiny)
            values.append(top / bottom)
    return float(np.mean(values))


REFERENCES = {
    "ncc": lambda a, b: float(np.corrcoef(a.ravel(), b.ravel())[0, 1]),
    "mse": lambda a, b: -float(((a - b) ** 2).mean()),
    "psnr": lambda a, b: 10 * math.log10(1 / ((a - b) ** 2).mean()),
    "ssim": reference_ssim,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("metric", IMAGE_METRICS)
def test_every_pair_has_the_similarity_of_a_slow_reference(metric, shape):
    first, second = images(shape), images(shape, 3, seed=1)
    found = similarity(metric, first, second)
    wanted = [[REFERENCES[metric](a, b) for b in second] for a in first]
    assert np.allclose(found, wanted, atol=1e-9)
    pairs = paired_similarity(metric, first[:3], second)
    assert np.allclose(pairs, np.diag(np.array(wanted)), atol=1e-9)


def test_ssim_filters_like_scipy():
    first, second = images((1, 24, 24), 1)[0, 0], images((1, 24, 24), 1, seed=1)[0, 0]
    small, tiny, edge = 1e-4, 9e-4, slice(3, -3)
    mean_a, mean_b = ndimage.uniform_filter(first, 7), ndimage.uniform_filter(second, 7)
    sample = 49 / 48
    spread_a = sample * (ndimage.uniform_filter(first**2, 7) - mean_a**2)
    spread_b = sample * (ndimage.uniform_filter(second**2, 7) - mean_b**2)
    both = sample * (ndimage.uniform_filter(first * second, 7) - mean_a * mean_b)
    wanted = (2 * mean_a * mean_b + small) * (2 * both + tiny)
    wanted /= (mean_a**2 + mean_b**2 + small) * (spread_a + spread_b + tiny)
    found = similarity("ssim", first[None, None], second[None, None])[0, 0]
    assert found == pytest.approx(wanted[edge, edge].mean(), abs=1e-12)


@pytest.mark.parametrize("metric", IMAGE_METRICS)
def test_equal_images_are_the_most_alike(metric):
    same = images((1, 10, 10))
    best = {"ncc": 1.0, "ssim": 1.0, "mse": 0.0, "psnr": HIGHEST_PSNR}[metric]
    assert np.allclose(paired_similarity(metric, same, same), best, atol=1e-9)


def test_an_image_without_contrast_correlates_with_nothing():
    flat = np.full((1, 1, 8, 8), 0.3)
    assert similarity("ncc", images((1, 8, 8)), flat).tolist() == [[0.0]] * 4


def test_correlation_does_not_see_brightness_and_contrast():
    first = images((1, 8, 8))
    assert np.allclose(similarity("ncc", first, 5 * first + 3), similarity("ncc", first, first))


def test_no_reconstruction_belongs_to_two_originals():
    originals = images((1, 8, 8), 5)
    reconstructions = np.concatenate([originals[:1], images((1, 8, 8), 9, seed=3)])
    found = match(similarity("ncc", originals, reconstructions))
    assert found.chosen[0] == 0
    assert len(set(found.chosen.tolist())) == 5


def test_the_sum_of_all_pairs_counts_not_the_first_best_pair():
    found = match([[0.9, 0.8], [0.85, 0.1]])
    assert found.chosen.tolist() == [1, 0]


def test_originals_without_a_reconstruction_have_none():
    found = match([[0.5], [0.9], [0.1]])
    assert found.chosen.tolist() == [-1, 0, -1]
    assert found.values.tolist() == [-math.inf, 0.9, -math.inf]


def test_a_thousand_originals_and_candidates_take_less_than_five_seconds():
    rng = np.random.default_rng(0)
    originals = rng.random((1000, 1, 64, 64), dtype=np.float32)
    order = rng.permutation(1000)
    reconstructions = originals[order] + 0.3 * rng.standard_normal(originals.shape, dtype=np.float32)
    begun = time.process_time()
    found = match(similarity("ncc", originals, reconstructions))
    assert time.process_time() - begun < 5
    assert (order[found.chosen] == np.arange(1000)).all()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.zeros((2, 1, 8, 8)), np.zeros((2, 1, 8, 9))),
        (np.zeros((2, 8, 8)), np.zeros((2, 8, 8))),
        (np.zeros((0, 1, 8, 8)), np.zeros((2, 1, 8, 8))),
        (np.zeros((2, 1, 8, 8)), np.full((2, 1, 8, 8), np.nan)),
        (np.broadcast_to(0.0, (2**12, 1, 2**10, 2**10)), np.zeros((1, 1, 2**10, 2**10))),
    ],
)
def test_what_cannot_be_compared_is_refused(first, second):
    with pytest.raises(DataError):
        similarity("ncc", first, second)


def test_a_metric_that_does_not_exist_and_a_range_of_nothing_are_refused():
    one = images((1, 8, 8))
    for call in (
        lambda: similarity("lpips", one, one),
        lambda: paired_similarity("lpips", one, one),
        lambda: similarity("ssim", one, one, data_range=0.0),
        lambda: paired_similarity("mse", one, one[:2]),
        lambda: match([[0.1, np.nan]]),
        lambda: match([0.1, 0.2]),
    ):
        with pytest.raises(DataError):
            call()
