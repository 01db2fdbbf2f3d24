"""A tree that cuts scores into leaves of equal mass within every group, so that no leaf tells the group.

Each axis in turn cuts every node into parts with equally many patients. Each group has its own thresholds
and all groups the same order of cuts, so a leaf has the same share of every group::

    >>> rng = np.random.default_rng(0)
    >>> group = rng.integers(0, 2, 4000)
    >>> scores = rng.normal(size=(4000, 2)) + 2.0 * group[:, None]  # the scores tell the groups apart
    >>> tree = equal_mass_tree(scores, group, np.ones(4000), (4, 2))
    >>> leaves = tree(scores, group)
    >>> [float(np.bincount(leaves[group == one]).std().round()) for one in (0, 1)]
    [0.0, 0.0]

:func:`best_levels` chooses the number of parts of each axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
_LEAST_GAIN = 0.004
"""Fewest points of AUROC that doubling the number of leaves must gain."""


@dataclass(frozen=True, eq=False)
class EqualMassTree:
    """Maps scores and groups to leaves.

    Attributes:
        levels: number of parts of each axis.
        thresholds: for each axis the cuts of every group and node, shape (groups, nodes, parts - 1).
    """

    levels: tuple[int, ...]
    thresholds: tuple[Array, ...]

    @property
    def size(self) -> int:
        """Number of leaves."""
        return math.prod(self.levels)

    def __call__(self, scores: Array, groups: Numbers) -> Numbers:
        """Return the leaf of each row, shape (rows,), from 0 to ``size - 1``.

        Args:
            scores: shape (rows, axes).
            groups: group of each row, from 0, shape (rows,).
        """
        leaf = np.zeros(len(scores), dtype=np.int64)
        for axis, (parts, cuts) in enumerate(zip(self.levels, self.thresholds, strict=True)):
            above = scores[:, axis, None] > cuts[groups, leaf]
            leaf = leaf * parts + above.sum(axis=1)
        return leaf


def equal_mass_tree(
    scores: Array, groups: Numbers, weights: Array, levels: Sequence[int], *, count: int | None = None
) -> EqualMassTree:
    """Return the tree whose leaves have the same mass in every group, as far as rows can be divided.

    Args:
        scores: shape (rows, axes), without ties.
        groups: group of each row, from 0, shape (rows,).
        weights: mass of each row: 1 divided by the rows of its patient in the group, shape (rows,).
        levels: parts of each axis, at least 1.
        count: number of groups; by default the largest group plus one.
    """
    number = int(groups.max()) + 1 if count is None else count
    leaf = np.zeros(len(scores), dtype=np.int64)
    nodes = 1
    thresholds = []
    for axis, parts in enumerate(levels):
        cuts = np.zeros((number, nodes, parts - 1))
        for group in range(number):
            for node in range(nodes) if parts > 1 else ():
                rows = (groups == group) & (leaf == node)
                cuts[group, node] = _quantiles(scores[rows, axis], weights[rows], parts)
        thresholds.append(cuts)
        leaf = leaf * parts + (scores[:, axis, None] > cuts[groups, leaf]).sum(axis=1)
        nodes *= parts
    return EqualMassTree(tuple(levels), tuple(thresholds))


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


def best_levels(axes: int, most: int, worth: Callable[[tuple[int, ...]], float]) -> tuple[int, ...]:
    """Return how many parts each axis has, for at most ``most`` leaves, by greedy search.

    In every step the axis gets more parts whose parts gain most per doubling of the number of leaves.

    Args:
        axes: number of axes, in the order of cuts.
        most: largest number of leaves.
        worth: from parts of each axis to a value that should be large, in points of AUROC.
    """
    levels = (1,) * axes
    reached = worth(levels)
    while True:
        found: list[tuple[float, float, tuple[int, ...]]] = []
        for axis in range(axes):
            for parts in sorted({levels[axis] + 1, levels[axis] + 2, 2 * levels[axis]} - {levels[axis]}):
                tried = (*levels[:axis], parts, *levels[axis + 1 :])
                if math.prod(tried) <= most:
                    value = worth(tried)
                    found.append(((value - reached) / math.log2(parts / levels[axis]), value, tried))
        if not found or max(found)[0] < _LEAST_GAIN:
            return levels
        _, reached, levels = max(found)


def _quantiles(values: Array, weights: Array, parts: int) -> Array:
    """Return the cuts between ``parts`` parts of equal mass, each halfway between two neighbouring values."""
    if len(values) < parts:
        return np.full(parts - 1, np.inf)
    order = np.argsort(values, kind="stable")
    rising, mass = values[order], np.cumsum(weights[order])
    wanted = mass[-1] * np.arange(1, parts) / parts
    # The number of rows below a cut whose mass is nearest to the wanted one.
    below = np.searchsorted(mass, wanted - 1e-9)
    nearer = np.abs(mass[below] - wanted) <= np.abs(np.where(below > 0, mass[below - 1], 0.0) - wanted)
    below = np.clip(below + nearer, 1, len(values) - 1)
    return np.asarray((rising[below - 1] + rising[below]) / 2)
