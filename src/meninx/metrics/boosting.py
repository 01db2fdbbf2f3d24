"""Gradient-boosted trees on histograms: they find the one number among thousands that tells a class.

They are made for many features, few rows, and early stopping on validation rows. ::

    >>> rng = np.random.default_rng(0)
    >>> values, truth = rng.normal(size=(400, 300)), rng.integers(0, 2, 400)
    >>> values[:, 17] += 2.0 * truth
    >>> score = fit_boosting(values[:200], truth[:200], values[200:300], truth[200:300])
    >>> float(((score(values[300:]) > 0) == truth[300:]).mean()) > 0.75
    True

References:
    Friedman (2001), Greedy function approximation. Chen and Guestrin (2016), XGBoost (second-order gain).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected
from meninx.core.randomness import child

Array = npt.NDArray[np.float64]
Bins = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
TREES = 150
_BINS, _DEPTH = 16, 2
_RATE, _PENALTY, _LEAST_WEIGHT = 0.15, 1.0, 1.0
_SHARE = 0.3  # of the features, drawn anew for each tree
_ALL_BELOW = 64  # so many features are never drawn from
_MOST_ROWS = 2000  # of each tree, drawn anew
_PATIENCE = 25


@dataclass(frozen=True, eq=False)
class Tree:
    """A complete binary tree of depth 2 over bins.

    Attributes:
        features: feature of each inner node, root first, shape (3,).
        cuts: a row goes right where its bin is larger, shape (3,).
        values: of the leaves, left to right, shape (4,).
    """

    features: Numbers
    cuts: Numbers
    values: Array

    def __call__(self, bins: Bins) -> Array:
        """Return the value of each row of bins (rows, features)."""
        node = np.zeros(len(bins), dtype=np.int64)
        for level in range(_DEPTH):
            place = node + 2**level - 1
            right = bins[np.arange(len(bins)), self.features[place]] > self.cuts[place]
            node = 2 * node + right
        return self.values[node]


def fit_boosting(
    values: npt.ArrayLike,
    truth: npt.ArrayLike,
    valid_values: npt.ArrayLike,
    valid_truth: npt.ArrayLike,
    *,
    trees: int = TREES,
    seed: int = 0,
) -> Callable[[npt.ArrayLike], Array]:
    """Return a map from features (rows, features) to log-odds (rows,), both classes weighted alike.

    Args:
        values: features to learn from, shape (rows, features).
        truth: 0 or 1, shape (rows,).
        valid_values: features of the rows that decide when to stop.
        valid_truth: 0 or 1 of these rows.
        trees: most trees.
        seed: of the features that each tree may use.

    Raises:
        DataError: features that are not finite, or one class only.
    """
    known, wanted = _checked(values, truth)
    edges = np.quantile(known, np.arange(1, _BINS) / _BINS, axis=0)
    bins, valid_bins = _binned(known, edges), _binned(np.asarray(valid_values, np.float64), edges)
    valid_wanted = np.asarray(valid_truth, np.float64)
    weights, valid_weights = _balanced(wanted), _balanced(valid_wanted)
    scores, valid_scores = np.zeros(len(wanted)), np.zeros(len(valid_wanted))
    grown: list[Tree] = []
    best, kept = _loss(valid_scores, valid_wanted, valid_weights), 0
    rng = child(seed, "boosting")
    for _ in range(trees):
        chance = 1 / (1 + np.exp(-scores))
        slopes, curves = weights * (chance - wanted), weights * chance * (1 - chance)
        tree = _grown(bins, slopes, curves, rng)
        grown.append(tree)
        scores += tree(bins)
        valid_scores += tree(valid_bins)
        loss = _loss(valid_scores, valid_wanted, valid_weights)
        if loss < best:
            best, kept = loss, len(grown)
        if len(grown) - kept >= _PATIENCE:
            break
    chosen = grown[: max(1, kept)]

    def score(asked: npt.ArrayLike) -> Array:
        there = _binned(np.asarray(asked, np.float64), edges)
        return np.asarray(sum(tree(there) for tree in chosen), dtype=np.float64)

    return score


def _checked(values: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[Array, Array]:
    known, wanted = np.asarray(values, np.float64), np.asarray(truth, np.float64)
    if known.ndim != 2 or len(known) != len(wanted) or not np.isfinite(known).all():
        got = f"shapes {known.shape} and {wanted.shape}"
        raise DataError(expected("finite features and a truth per row", got=got, where="boosting"))
    if set(np.unique(wanted).tolist()) != {0.0, 1.0}:
        raise DataError(expected("rows of both classes", got="one", where="boosting"))
    return known, wanted


def _binned(values: Array, edges: Array) -> Bins:
    """Return the number of edges below each value, shape (rows, features)."""
    bins = np.zeros(values.shape, dtype=np.uint8)
    for edge in edges:
        bins += values > edge
    return bins


def _balanced(truth: Array) -> Array:
    """Return weights of mean 1 with which both classes weigh the same."""
    share = np.where(truth == 1, truth.mean(), 1 - truth.mean())
    return np.asarray(0.5 / np.maximum(share, 1e-12), dtype=np.float64)


def _loss(scores: Array, truth: Array, weights: Array) -> float:
    return float((weights * (np.logaddexp(0, scores) - truth * scores)).mean())


def _grown(bins: Bins, slopes: Array, curves: Array, rng: np.random.Generator) -> Tree:
    """Return the tree that lowers the loss most, level by level, on random features and rows."""
    features = bins.shape[1]
    some = np.arange(features)
    if features > _ALL_BELOW:
        some = np.sort(rng.choice(features, max(_ALL_BELOW, round(_SHARE * features)), replace=False))
    part = bins[:, some]
    drawn = np.arange(len(bins))
    if len(bins) > _MOST_ROWS:
        drawn = np.sort(rng.choice(len(bins), _MOST_ROWS, replace=False))
    bins, slopes, curves, part = bins[drawn], slopes[drawn], curves[drawn], part[drawn]
    node = np.zeros(len(bins), dtype=np.int64)
    chosen, cuts = np.zeros(2**_DEPTH - 1, np.int64), np.zeros(2**_DEPTH - 1, np.int64)
    for level in range(_DEPTH):
        for number in range(2**level):
            rows = np.flatnonzero(node == number)
            place = number + 2**level - 1
            feature, cuts[place] = _cut(part[rows], slopes[rows], curves[rows])
            chosen[place] = some[feature]
        place = node + 2**level - 1
        node = 2 * node + (bins[np.arange(len(bins)), chosen[place]] > cuts[place])
    leaves = 2**_DEPTH
    slope, curve = (np.bincount(node, weights=item, minlength=leaves) for item in (slopes, curves))
    return Tree(chosen, cuts, -_RATE * slope / (curve + _PENALTY))


def _cut(bins: Bins, slopes: Array, curves: Array) -> tuple[int, int]:
    """Return feature and bin after which to cut some rows; (0, last bin) cuts nothing, where no cut helps."""
    rows, features = bins.shape
    if rows < 2:
        return 0, _BINS
    place = (bins.astype(np.int64) + np.arange(features) * _BINS).ravel()
    sums = [
        np.bincount(place, weights=np.repeat(item, features), minlength=features * _BINS)
        .reshape(features, _BINS)
        .cumsum(axis=1)[:, :-1]
        for item in (slopes, curves)
    ]
    total, weight = slopes.sum(), curves.sum()
    left, right = sums[1], weight - sums[1]
    gain = sums[0] ** 2 / (left + _PENALTY) + (total - sums[0]) ** 2 / (right + _PENALTY)
    gain = np.where(np.minimum(left, right) * 4 >= _LEAST_WEIGHT, gain, -np.inf)
    best = int(gain.argmax())
    if not gain.flat[best] > total**2 / (weight + _PENALTY):
        return 0, _BINS
    return best // (_BINS - 1), best % (_BINS - 1)
