"""A tree that cuts scores into leaves of equal mass in all groups, so that no leaf tells the group.

Each axis in turn cuts every node at the same shares of its patients, e.g. at the upper fifth. Each group has
its own thresholds and all groups the same order of cuts, so a leaf has the same share of every group::

    >>> rng = np.random.default_rng(0)
    >>> group = rng.integers(0, 2, 4000)
    >>> scores = rng.normal(size=(4000, 2)) + 2.0 * group[:, None]  # the scores tell the groups apart
    >>> tree = equal_mass_tree(scores, group, np.ones(4000), (even_cuts(2), (0.8,)))
    >>> leaves = tree(scores, group)
    >>> [[round(float((leaves[group == one] == leaf).mean()), 2) for leaf in range(4)] for one in (0, 1)]
    [[0.4, 0.1, 0.4, 0.1], [0.4, 0.1, 0.4, 0.1]]

:func:`best_cuts` chooses where each axis is cut.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Cuts = tuple[tuple[float, ...], ...]
"""For each axis the shares of mass below its cuts, ascending, each inside (0, 1)."""
_TRIED = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_LEAST_GAIN = 0.005
"""Fewest points of AUROC that doubling the number of leaves must gain."""


@dataclass(frozen=True, eq=False)
class EqualMassTree:
    """Maps scores and groups to leaves.

    Attributes:
        cuts: shares of mass below the cuts of each axis.
        thresholds: for each axis the scores at the cuts of every group and node, shape (groups, nodes, cuts).
    """

    cuts: Cuts
    thresholds: tuple[Array, ...]

    @property
    def size(self) -> int:
        """Number of leaves."""
        return math.prod(len(shares) + 1 for shares in self.cuts)

    def __call__(self, scores: Array, groups: Numbers) -> Numbers:
        """Return the leaf of each row, shape (rows,), from 0 to ``size - 1``.

        Args:
            scores: shape (rows, axes).
            groups: group of each row, from 0, shape (rows,).
        """
        leaf = np.zeros(len(scores), dtype=np.int64)
        for axis, places in enumerate(self.thresholds):
            leaf = _below(leaf, scores[:, axis], places[groups, leaf])
        return leaf


def equal_mass_tree(
    scores: Array, groups: Numbers, weights: Array, cuts: Cuts, strata: Numbers | None = None
) -> EqualMassTree:
    """Return the tree whose leaves have the same mass in every group, as far as rows can be divided.

    With strata the mass of a leaf is the same in the groups of one stratum, and differs between strata as it
    does in a tree that is the same for all rows.

    Args:
        scores: shape (rows, axes), without ties.
        groups: group of each row, from 0, shape (rows,).
        weights: mass of each row: 1 divided by the rows of its patient in the group, shape (rows,).
        cuts: where each axis is cut; see :data:`Cuts`.
        strata: stratum of each group, shape (groups,); a group without rows is cut like all rows.
    """
    number = int(groups.max()) + 1 if strata is None else len(strata)
    plain = None if strata is None else equal_mass_tree(scores, np.zeros_like(groups), weights, cuts)
    leaf, common = (np.zeros(len(scores), dtype=np.int64) for _ in range(2))
    nodes = 1
    thresholds = []
    for axis, shares in enumerate(cuts):
        places = np.zeros((number, nodes, len(shares)))
        if plain is not None:
            places[:] = plain.thresholds[axis]
        for group, node in itertools.product(np.unique(groups), range(nodes) if shares else ()):
            wanted = np.array(shares)
            if strata is not None and plain is not None:
                there = (strata[groups] == strata[group]) & (common == node)
                wanted = _masses_below(scores[there, axis], weights[there], places[group, node], wanted)
            rows = (groups == group) & (leaf == node)
            if rows.any():
                places[group, node] = _quantiles(scores[rows, axis], weights[rows], wanted)
        thresholds.append(places)
        leaf = _below(leaf, scores[:, axis], places[groups, leaf])
        if plain is not None:
            common = _below(common, scores[:, axis], plain.thresholds[axis][0, common])
        nodes *= len(shares) + 1
    return EqualMassTree(cuts, tuple(thresholds))


def even_cuts(parts: int) -> tuple[float, ...]:
    """Return the cuts of an axis into parts of equal mass.

    >>> even_cuts(4), even_cuts(1)
    ((0.25, 0.5, 0.75), ())
    """
    return tuple(part / parts for part in range(1, parts))


def merged_leaves(patients: Numbers, least: int) -> Numbers:
    """Return the code of each leaf after merging neighbours until each has enough patients of every group.

    Neighbours in order differ in the last cuts alone, unless a whole node is merged.

    Args:
        patients: patients of each leaf and group, shape (leaves, groups).
        least: fewest patients of each group.

    Returns:
        Codes from 0 in the order of the leaves, shape (leaves,).
    """
    blocks = [[leaf] for leaf in range(len(patients))]
    totals = [row.astype(np.int64) for row in patients]
    while len(blocks) > 1:
        smallest = [int(row.min()) for row in totals]
        at = int(np.argmin(smallest))
        if smallest[at] >= least:
            break
        beside = [place for place in (at - 1, at + 1) if 0 <= place < len(blocks)]
        other = min(beside, key=lambda place: smallest[place])
        first, second = sorted((at, other))
        blocks[first] += blocks.pop(second)
        totals[first] = totals[first] + totals.pop(second)
    codes = np.empty(len(patients), dtype=np.int64)
    for code, leaves in enumerate(blocks):
        codes[leaves] = code
    return codes


def best_cuts(axes: int, most: int, worth: Callable[[Cuts], float]) -> Cuts:
    """Return where each axis is cut, for at most ``most`` leaves, by greedy search.

    Every step adds the cut that gains most per doubling of the number of leaves. A rare label is cut near its
    upper end, where cuts into equal parts would need many of them.

    Args:
        axes: number of axes, in the order of cuts.
        most: largest number of leaves.
        worth: from cuts to a value that should be large, in points of AUROC.
    """
    cuts: Cuts = ((),) * axes
    reached = worth(cuts)
    while True:
        found: list[tuple[float, float, Cuts]] = []
        for axis, shares in enumerate(cuts):
            size = math.prod(len(own) + 1 for own in cuts) // (len(shares) + 1) * (len(shares) + 2)
            for share in (share for share in _TRIED if share not in shares and size <= most):
                tried = (*cuts[:axis], tuple(sorted((*shares, share))), *cuts[axis + 1 :])
                value = worth(tried)
                found.append(
                    ((value - reached) / math.log2((len(shares) + 2) / (len(shares) + 1)), value, tried)
                )
        if not found or max(found)[0] < _LEAST_GAIN:
            return cuts
        _, reached, cuts = max(found)


def _below(leaf: Numbers, scores: Array, places: Array) -> Numbers:
    """Return the leaves below the nodes that rows are in, by the thresholds of each row's node."""
    return np.asarray(leaf * (places.shape[1] + 1) + (scores[:, None] > places).sum(axis=1))


def _masses_below(values: Array, weights: Array, places: Array, otherwise: Array) -> Array:
    """Return the share of mass below each place, or ``otherwise`` without any rows."""
    if not len(values):
        return otherwise
    return np.asarray((weights[:, None] * (values[:, None] <= places)).sum(axis=0) / weights.sum())


def _quantiles(values: Array, weights: Array, shares: Array) -> Array:
    """Return thresholds with given shares of the mass below them, each halfway between two of the rows."""
    order = np.argsort(values, kind="stable")
    rising = np.concatenate([[-np.inf], values[order], [np.inf]])
    mass = np.concatenate([[0.0], np.cumsum(weights[order])])
    wanted = mass[-1] * shares
    # The number of rows below a threshold is the one whose mass is nearest to the wanted one.
    above = np.clip(np.searchsorted(mass, wanted), 1, max(1, len(values)))
    below = above - (wanted - mass[above - 1] < mass[above] - wanted) if len(values) else above - 1
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(below == 0, -np.inf, (rising[below] + rising[below + 1]) / 2))
