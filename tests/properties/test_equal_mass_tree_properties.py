"""What must hold for any tree of equal mass: its leaves do not tell the groups of the fitted rows apart."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from meninx.obfuscate.equal_mass_tree import best_cuts, equal_mass_tree, even_cuts, merged_leaves

some = settings(max_examples=40, deadline=None)
parts = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


@some
@given(st.integers(0, 2**32 - 1), parts, st.integers(1, 4))
def test_every_leaf_has_its_share_of_every_group_up_to_one_patient_per_cut(seed, levels, groups):
    rng = np.random.default_rng(seed)
    patient = np.sort(rng.integers(0, 120, 400))
    group = (patient % groups).astype(np.int64)
    weights = 1 / np.bincount(patient)[patient]
    scores = rng.normal(size=(400, len(levels))) * 3 + group[:, None]
    tree = equal_mass_tree(scores, group, weights, tuple(even_cuts(part) for part in levels))
    leaves = tree(scores, group)
    assert leaves.min() >= 0
    assert leaves.max() < tree.size == math.prod(levels)
    for number in range(groups):
        rows = group == number
        masses = np.bincount(leaves[rows], weights=weights[rows], minlength=tree.size)
        if rows.sum() >= 8 * tree.size:
            assert np.abs(masses - weights[rows].sum() / tree.size).max() <= len(levels) + 1e-9


@some
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 3), st.integers(1, 20))
def test_merged_leaves_have_enough_patients_and_keep_their_order(seed, leaves, groups, least):
    counts = np.random.default_rng(seed).integers(0, 12, (leaves, groups))
    codes = merged_leaves(counts, least)
    assert (np.diff(codes) >= 0).all()
    assert sorted(set(codes.tolist())) == list(range(codes.max() + 1))
    totals = np.stack([counts[codes == code].sum(axis=0) for code in range(codes.max() + 1)])
    assert totals.min() >= least or len(totals) == 1
    if counts.min() >= least:
        assert codes.max() + 1 == leaves


@some
@given(st.integers(1, 3), st.integers(2, 40))
def test_cuts_never_make_more_than_the_most_leaves(axes, most):
    cuts = best_cuts(axes, most, lambda tried: 1 - sum(1 / (len(shares) + 1) for shares in tried) / axes)
    assert math.prod(len(shares) + 1 for shares in cuts) <= most
    assert all(list(shares) == sorted(set(shares)) for shares in cuts)
    assert best_cuts(axes, most, lambda tried: 0.5) == ((),) * axes
