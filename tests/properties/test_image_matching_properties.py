"""What must hold for similarities, matching, thresholds and identification, whatever the images are."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from meninx.audit.reconstruction.encoders import ENCODERS, fit_encoder
from meninx.audit.reconstruction.identification import gradients, identify, step_scores
from meninx.metrics.image_matching import IMAGE_METRICS, match, paired_similarity, similarity
from meninx.metrics.null_threshold import null_threshold, rate_above
from meninx.privacy.accounting import Phase

few = settings(max_examples=60, deadline=None)
fewer = settings(max_examples=20, deadline=None)
unit = st.floats(0.0, 1.0, width=32)
score = st.floats(-1e6, 1e6)


@st.composite
def image_pairs(draw):
    sides = draw(st.sampled_from([(1, 5, 4), (2, 8, 7), (1, 3, 4, 5)]))
    first = draw(hnp.arrays(np.float64, (draw(st.integers(1, 3)), *sides), elements=unit))
    second = draw(hnp.arrays(np.float64, (draw(st.integers(1, 4)), *sides), elements=unit))
    return first, second


@few
@given(image_pairs(), st.sampled_from(IMAGE_METRICS), st.randoms())
def test_similarities_are_finite_symmetric_and_follow_the_order_of_images(pair, metric, random):
    first, second = pair
    found = similarity(metric, first, second)
    assert np.isfinite(found).all()
    assert np.allclose(found, similarity(metric, second, first).T, atol=1e-8)
    order = list(range(len(second)))
    random.shuffle(order)
    assert np.allclose(similarity(metric, first, second[order]), found[:, order], atol=1e-8)


@few
@given(image_pairs(), st.sampled_from(IMAGE_METRICS))
def test_nothing_is_more_alike_than_the_image_itself(pair, metric):
    first, second = pair
    itself = paired_similarity(metric, first, first)
    most = {"ncc": 1.0, "ssim": 1.0, "mse": 0.0, "psnr": 100.0}[metric]
    assert (similarity(metric, first, second) <= most + 1e-9).all()
    if metric != "ncc":  # an image of one value correlates with nothing, not even itself
        assert np.allclose(itself, most)


@few
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=score), st.randoms())
def test_a_matching_is_one_to_one_complete_and_indifferent_to_the_order_of_candidates(table, random):
    found = match(table)
    chosen = found.chosen[found.chosen >= 0]
    assert len(set(chosen.tolist())) == len(chosen) == min(table.shape)
    order = list(range(table.shape[1]))
    random.shuffle(order)
    other = match(table[:, order])
    total, again = (one.values[np.isfinite(one.values)].sum() for one in (found, other))
    assert np.isclose(total, again)
    rows = found.chosen >= 0
    assert np.array_equal(found.values[rows], table[rows, found.chosen[rows]])


@few
@given(hnp.arrays(np.float64, st.integers(1, 300), elements=score), st.floats(0.005, 0.5))
def test_no_more_of_the_null_than_its_share_is_above_the_threshold(values, share):
    eta, level = null_threshold(values, share)
    assert level >= share or np.isclose(level, share)
    assert rate_above(values, eta).share <= share
    assert eta in values


@few
@given(
    hnp.arrays(np.float64, st.integers(1, 40), elements=score),
    score,
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_intervals_hold_the_rate_and_grouped_images_are_worth_no_more_than_all(values, eta, people, steps):
    numbers = np.arange(values.size)
    alone = rate_above(values, eta)
    found = rate_above(values, eta, patients=numbers % people, steps=numbers % steps)
    assert 0 <= found.low <= found.share <= found.high <= 1
    assert found.share == alone.share
    assert found.patients <= alone.patients == values.size


@fewer
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(2, 6), st.just(1), st.integers(2, 5), st.integers(2, 5)),
        elements=unit,
    ),
    st.sampled_from(ENCODERS),
)
def test_encoders_are_linear(images, name):
    public = torch.from_numpy(images) + torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    encoder = fit_encoder(name, public, components=3)
    one, other = public[:1], public[1:2]
    middle = encoder.encode((one + other) / 2)
    assert torch.allclose(middle, (encoder.encode(one) + encoder.encode(other)) / 2, atol=1e-3, rtol=1e-3)
    again = encoder.encode(encoder.decode(middle))
    assert torch.allclose(again, middle, atol=1e-3, rtol=1e-3)


@fewer
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(2, 5), st.integers(1, 4)), elements=st.floats(-1e3, 1e3)),
    st.floats(0.01, 1.0),
    st.floats(1e-6, 1e6),
)
def test_scores_are_finite_and_turning_all_vectors_changes_none(codes, rate, noise):
    known = gradients(codes)
    assert (np.linalg.norm(known, axis=1) <= 1 + 1e-9).all()
    seen = np.random.default_rng(0).normal(size=(2, 3, codes.shape[1])) * noise
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(codes.shape[1], codes.shape[1])))[0]
    plain = step_scores(seen, known, sample_rate=rate, noise=noise)
    turned = step_scores(seen @ turn, known @ turn, sample_rate=rate, noise=noise)
    assert np.isfinite(plain).all()
    assert np.allclose(plain, turned, rtol=1e-6, atol=1e-6)


@fewer
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(2, 5), st.integers(1, 4)), elements=st.floats(-10, 10)),
    st.just(0.0) | st.floats(1e-3, 5.0),
    st.floats(0.05, 1.0),
    st.integers(0, 2**31),
)
def test_identification_counts_every_trial_once(codes, noise, rate, seed):
    phases = [Phase(sample_rate=rate, noise_multiplier=noise, steps=3)]
    found = identify(codes, phases, trials=20, seed=seed)
    assert 0 <= found.right <= found.trials == 20
    assert found == identify(codes, phases, trials=20, seed=seed)
