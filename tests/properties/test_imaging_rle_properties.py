from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from meninx.imaging import rle

masks = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda shape: arrays(np.bool_, shape))
variants = st.sampled_from(["relative", "absolute"])


@settings(max_examples=200, deadline=None)
@given(masks, variants)
def test_decoding_undoes_encoding(mask, variant):
    np.testing.assert_array_equal(
        rle.decode(rle.encode(mask, variant=variant), mask.shape, variant=variant), mask
    )


@settings(max_examples=100, deadline=None)
@given(masks, variants)
def test_runs_are_maximal_and_count_the_pixels(mask, variant):
    words = rle.encode(mask, variant=variant).split()
    if words == ["-1"]:
        assert not mask.any()
        return
    numbers = [int(word) for word in words]
    assert sum(numbers[1::2]) == mask.sum()
    if variant == "relative":
        assert all(gap > 0 for gap in numbers[2::2])


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(
        lambda s: st.lists(arrays(np.bool_, s), min_size=1, max_size=4)
    )
)
def test_the_union_of_rows_is_the_union_of_masks(parts):
    merged = rle.decode_rows([rle.encode(part) for part in parts], parts[0].shape)
    np.testing.assert_array_equal(merged, np.logical_or.reduce(parts))
