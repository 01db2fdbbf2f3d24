"""What must hold for any erasure: on the fitted rows no linear attacker is better than a constant."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from meninx.obfuscate.erasure import fit_least_squares, fit_quadratic

some = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, classes: int, features: int, rows: int = 200):
    """Return vectors whose mean and covariance depend on the class, classes, and weights by patient."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(rows) % classes
    vectors = rng.normal(size=(rows, features)) @ rng.normal(size=(features, features))
    vectors = vectors * (1 + kinds[:, None]) + np.outer(kinds, rng.normal(size=features) * 3)
    weights = rng.integers(1, 5, rows).astype(float)
    return vectors, kinds, weights / weights.sum()


def covariance(vectors, kinds, weights):
    """Return the covariance of each vector's numbers with each class, of deviations of the numbers."""
    hot = (kinds[:, None] == np.unique(kinds)).astype(float)
    centred = vectors - weights @ vectors
    return (centred * weights[:, None]).T @ (hot - weights @ hot)


@some
@given(seeds, st.integers(2, 5), st.integers(1, 12), st.booleans())
def test_no_linear_attacker_has_an_advantage_on_the_fitted_rows(seed, classes, features, shrunk):
    vectors, kinds, weights = drawn(seed, classes, features)
    eraser = fit_least_squares(vectors, kinds, weights, shrunk=shrunk)
    erased = eraser(vectors)
    size = np.abs(covariance(vectors, kinds, weights)).max()
    assert np.abs(covariance(erased, kinds, weights)).max() <= 1e-8 * size
    assert eraser.rank <= min(classes - 1, features)
    np.testing.assert_allclose(eraser(erased), erased, atol=1e-8 * np.abs(vectors).max())
    np.testing.assert_allclose(weights @ erased, weights @ vectors, atol=1e-8 * np.abs(vectors).max())


@some
@given(seeds, st.integers(2, 4))
def test_the_best_linear_attacker_ranks_no_better_than_a_constant(seed, classes):
    vectors, kinds, weights = drawn(seed, classes, 6)
    erased = fit_least_squares(vectors, kinds, weights)(vectors)
    design = np.column_stack([np.ones(len(erased)), erased]) * np.sqrt(weights)[:, None]
    hot = (kinds == 0).astype(float)
    fitted = np.linalg.lstsq(design, hot * np.sqrt(weights), rcond=1e-9)[0]
    assert np.abs(fitted[1:] @ (erased - weights @ erased).T).max() <= 1e-6


@some
@given(seeds, st.integers(2, 4))
def test_it_changes_the_vectors_least_among_maps_that_erase(seed, classes):
    vectors, kinds, weights = drawn(seed, classes, 5)
    erased = fit_least_squares(vectors, kinds, weights, shrunk=False)(vectors)
    crossed = covariance(vectors, kinds, weights)
    axes = np.linalg.svd(crossed, full_matrices=False)[0][:, : classes - 1]
    centred = vectors - weights @ vectors
    orthogonal = vectors - centred @ axes @ axes.T  # erases too
    assert np.abs(covariance(orthogonal, kinds, weights)).max() <= 1e-8 * np.abs(crossed).max()
    change, other = (weights @ ((one - vectors) ** 2).sum(axis=1) for one in (erased, orthogonal))
    assert change <= other * (1 + 1e-9)


@some
@given(seeds, st.integers(2, 4), st.integers(1, 6))
def test_the_quadratic_variant_makes_means_and_covariances_equal(seed, classes, features):
    vectors, kinds, weights = drawn(seed, classes, features)
    erased = fit_quadratic(vectors, kinds, weights)(vectors, kinds)
    moments = []
    for kind in range(classes):
        own = weights[kinds == kind] / weights[kinds == kind].sum()
        mean = own @ erased[kinds == kind]
        centred = erased[kinds == kind] - mean
        moments.append((mean, (centred * own[:, None]).T @ centred))
    for mean, matrix in moments[1:]:
        np.testing.assert_allclose(mean, moments[0][0], atol=1e-7 * np.abs(vectors).max())
        np.testing.assert_allclose(matrix, moments[0][1], atol=1e-6 * np.abs(moments[0][1]).max())
