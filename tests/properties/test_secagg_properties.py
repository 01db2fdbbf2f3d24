"""Properties of the quantiser, the masks and the shares, over generated inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from meninx.core.errors import ConfigError, DataError
from meninx.secagg import Quantiser
from meninx.secagg.masks import Mask, apply_masks
from meninx.secagg.shares import join_secret, split_secret

shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
quantisers = st.builds(
    Quantiser,
    clip=st.floats(1e-6, 1e6),
    sites=st.integers(1, 32),
    bits=st.sampled_from([32, 64]),
    max_weight=st.integers(1, 1_000_000),
    metrics=st.integers(0, 2),
)


def update(shape, clip, seed):
    """Values within the clip, at it and beyond it."""
    rng = np.random.default_rng(seed)
    return (rng.choice([0, 0.3, 1, 1.7], size=shape) * rng.uniform(-1, 1, size=shape) * clip).astype(
        np.float32
    )


@given(quantisers, shapes, st.integers(0, 2**32 - 1), st.data())
@settings(max_examples=80, deadline=None)
def test_mean_is_within_the_error_bound(quantiser, shape, seed, data):
    survivors = data.draw(st.integers(1, quantiser.sites))
    weights = [data.draw(st.integers(0, quantiser.max_weight)) for _ in range(survivors)]
    assume(sum(weights) > 0)
    updates = [update(shape, quantiser.clip, seed + number) for number in range(survivors)]
    vectors = [
        quantiser.encode(one, weight, [1.0] * quantiser.metrics)
        for one, weight in zip(updates, weights, strict=True)
    ]
    total = np.sum(vectors, axis=0, dtype=vectors[0].dtype)
    decoded = quantiser.decode(total)
    clipped = [np.clip(one.astype(np.float64), -quantiser.clip, quantiser.clip) for one in updates]
    wanted = sum(one * weight for one, weight in zip(clipped, weights, strict=True)) / sum(weights)
    bound = quantiser.error_bound(survivors, sum(weights))
    assert decoded.weight == sum(weights)
    assert bound <= decoded.error  # the sum does not say how many survived
    assert decoded.mean.shape == (math.prod(shape),)
    assert np.abs(decoded.mean.astype(np.float64) - np.ravel(wanted)).max(initial=0) <= bound
    for metric in decoded.metrics:
        assert abs(metric - 1.0) <= bound / quantiser.clip * quantiser.metric_clip


@given(st.integers(3, 32), st.sampled_from([32, 64]), st.integers(1, 10_000))
@settings(max_examples=60, deadline=None)
def test_largest_sum_never_wraps(sites, bits, max_weight):
    """All sites send the clip with the largest weight: the sum is theirs in plain integers."""
    quantiser = Quantiser(clip=1.0, sites=sites, bits=bits, max_weight=max_weight, metrics=1)
    for sign in (1.0, -1.0):
        one = quantiser.encode(np.array([sign, sign * 9], np.float32), max_weight, [sign * 1e9])
        signed = one.view(np.dtype(f"<i{bits // 8}"))
        plain = [sites * int(value) for value in signed]
        total = np.zeros_like(one)
        for _ in range(sites):
            total += one
        assert total.view(np.dtype(f"<i{bits // 8}")).tolist() == plain
        decoded = quantiser.decode(total)
        assert decoded.mean == pytest.approx([sign, sign], abs=1e-6)
        assert decoded.metrics == pytest.approx((sign * quantiser.metric_clip,), rel=1e-6)


@given(st.integers(3, 32), st.sampled_from([32, 64]), st.integers(1, 2**40))
@settings(max_examples=60, deadline=None)
def test_settings_that_could_wrap_are_refused_before_a_round(sites, bits, factor):
    room = 2 ** (bits - 1) - 1
    with pytest.raises(ConfigError, match="a sum of weights of at most"):
        Quantiser(clip=1.0, sites=sites, bits=bits, max_weight=room // sites + factor)
    with pytest.raises(ConfigError, match="cannot overflow"):
        Quantiser(clip=1.0, sites=sites, bits=bits, levels=room // sites + factor)


def test_default_precision_is_below_two_to_minus_twenty_of_the_clip():
    for sites in range(3, 33):
        quantiser = Quantiser(clip=0.3, sites=sites)
        assert quantiser.error_bound(sites, sites) <= 2**-20 * 0.3


@given(st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 40_000))
@settings(max_examples=30, deadline=None)
def test_values_that_are_not_finite_are_refused_by_name(value, position):
    vector = np.zeros(40_001, np.float32)
    vector[position] = value
    names = {"conv1.weight": 10, "norm.bias": 0, "head.weight": 39_991}
    part = "conv1.weight" if position < 10 else "head.weight"
    with pytest.raises(DataError, match=f"the update holds a value that is (NaN|infinite) \\({part}\\)"):
        Quantiser(clip=1.0, sites=4).encode(vector, parts=names)


def test_values_of_other_kinds_are_refused():
    quantiser = Quantiser(clip=1.0, sites=4, max_weight=10, metrics=1)
    vector = np.zeros(3, np.float32)
    for arguments, reason in (
        ((np.zeros(3, np.int64), 1, [0.0]), "leave integer buffers out of the sum"),
        ((vector, 11, [0.0]), "a weight of 0 to 10, got 11"),
        ((vector, -1, [0.0]), "a weight of 0 to 10, got -1"),
        ((vector, 1, []), "1 metrics, got 0"),
        ((vector, 1, [np.nan]), "NaN"),
    ):
        with pytest.raises(DataError, match=reason):
            quantiser.encode(*arguments)
    total = quantiser.encode(vector, 10, [0.0])
    for wrong, reason in (
        (total[:1], "32-bit elements"),
        (total.astype(np.uint64), "32-bit elements"),
        (total * 0, "a total weight of 1 to 40, got 0"),
        (total + np.uint32(1 << 20), "a total weight"),
    ):
        with pytest.raises(DataError, match=reason):
            quantiser.decode(wrong)
    for settings_, reason in (
        ({"clip": 0.0}, "above 0"),
        ({"clip": math.nan}, "above 0"),
        ({"sites": 33}, "1 to 32 sites"),
        ({"bits": 16}, "32 or 64 bits"),
        ({"max_weight": 0}, "max_weight >= 1"),
    ):
        with pytest.raises(ConfigError, match=reason):
            Quantiser(**({"clip": 1.0, "sites": 4} | settings_))
    assert quantiser.clipped(np.array([0.5, -1.5, 2.0], np.float32)) == 2


@given(
    st.binary(min_size=32, max_size=32), st.integers(0, 70_000), st.integers(0, 300), st.sampled_from([4, 8])
)
@settings(max_examples=60, deadline=None)
def test_masks_cancel_from_any_position(seed, start, length, size):
    vector = np.arange(length, dtype=np.dtype(f"<u{size}"))
    masked = vector.copy()
    apply_masks(masked, [Mask(seed)], start=start)
    apply_masks(masked, [Mask(seed, add=False)], start=start)
    assert (masked == vector).all()


@given(st.binary(min_size=32, max_size=32), st.integers(1, 8), st.data())
@settings(max_examples=60, deadline=None)
def test_shares_rebuild_from_any_set(secret, threshold, data):
    count = data.draw(st.integers(threshold, 10))
    points = data.draw(st.lists(st.integers(1, 2**20), min_size=count, max_size=count, unique=True))
    shares = dict(zip(points, split_secret(secret, points, threshold), strict=True))
    chosen = data.draw(st.permutations(points))[:threshold]
    assert join_secret({point: shares[point] for point in chosen}, threshold) == secret
