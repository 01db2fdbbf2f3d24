"""The rows of a batch by privacy unit: order with adjacent rows per unit, and cuts into physical batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from meninx.core import check


@dataclass(frozen=True)
class Bucket:
    """Adjacent units with the same number of rows each.

    Attributes:
        first: first row.
        units: number of units, >= 1.
        size: rows of each unit, >= 1.
        member: position of the first unit among the members.
    """

    first: int
    units: int
    size: int
    member: int

    @property
    def rows(self) -> slice:
        """The rows of the bucket."""
        return slice(self.first, self.first + self.units * self.size)

    @property
    def members(self) -> slice:
        """The positions of its units."""
        return slice(self.member, self.member + self.units)

    def times(self, entries: int) -> Bucket:
        """Return the bucket of a tensor with ``entries`` adjacent entries per row (attention windows)."""
        return Bucket(self.first * entries, self.units, self.size * entries, self.member)

    def cut(self, most: int | None) -> list[Bucket]:
        """Return buckets of at most ``most`` units each; None for no limit."""
        if most is None or most >= self.units:
            return [self]
        return [
            Bucket(self.first + unit * self.size, min(most, self.units - unit), self.size, self.member + unit)
            for unit in range(0, self.units, most)
        ]

    def summed(self, value: Tensor) -> Tensor:
        """Return (units, ...) sums of the bucket's rows of ``value`` (rows, ...)."""
        part = value[self.rows]
        return part if self.size == 1 else by_unit(part, self.units).sum(1)


def by_unit(value: Tensor, units: int) -> Tensor:
    """Return (units, rows, ...) of (units * rows, ...)."""
    return value.reshape(units, value.shape[0] // units, *value.shape[1:])


@dataclass(frozen=True)
class Rows:
    """How the rows of one forward pass belong to privacy units.

    Attributes:
        order: (rows,) index of each row in the batch as given; None if the batch is already in order.
        members: (units,) numbers of the units that are present, in the order of their rows.
        buckets: runs of units of equal size, which together cover all rows.
        count: number of rows.
    """

    order: Tensor | None
    members: Tensor
    buckets: tuple[Bucket, ...]
    count: int

    def arranged(self, value: Tensor) -> Tensor:
        """Return ``value`` (rows, ...) in the engine's order."""
        # Indexing preserves channels_last, which index_select does not.
        return value if self.order is None else value[self.order.to(value.device)]


def rows_of(unit_index: Tensor, views: int) -> Rows:
    """Return the layout of a batch of ``cases * views`` rows, the views of a case next to each other.

    Args:
        unit_index: (cases,) unit of every case.
        views: rows of each case, >= 1.
    """
    unit_of_case = unit_index.detach().cpu()
    members, position, cases = torch.unique(unit_of_case, return_inverse=True, return_counts=True)
    by_size = torch.argsort(cases, stable=True)
    rank = torch.empty_like(by_size)
    rank[by_size] = torch.arange(len(by_size))
    order = torch.argsort(rank[position], stable=True)
    in_order = bool((order == torch.arange(len(order))).all())
    if views > 1 and not in_order:
        order = (order[:, None] * views + torch.arange(views)).flatten()
    buckets: list[Bucket] = []
    first = member = 0
    sizes, counts = torch.unique_consecutive(cases[by_size], return_counts=True)
    for size, units in zip(sizes.tolist(), counts.tolist(), strict=True):
        buckets.append(Bucket(first, units, size * views, member))
        first, member = first + units * size * views, member + units
    return Rows(None if in_order else order, members[by_size], tuple(buckets), len(unit_of_case) * views)


def slice_units(unit_index: npt.ArrayLike, max_cases: int) -> list[npt.NDArray[np.int64]]:
    """Return index arrays into the cases, each holding whole units and at most ``max_cases`` cases.

    A unit with more cases than that gets an array of its own, longer than ``max_cases``; clipping
    accumulates its gradient in pieces before the one clipping. Units keep the order of their
    numbers, cases the order given; every case is in exactly one array.

    Args:
        unit_index: (cases,) integers, the unit of every case.
        max_cases: largest number of cases in a physical batch, >= 1.

    Example::

        >>> [part.tolist() for part in slice_units([0, 1, 0, 2], max_cases=2)]
        [[0, 2], [1, 3]]
    """
    check.positive(max_cases=max_cases)
    units = np.asarray(unit_index, dtype=np.int64)
    if not len(units):
        return []
    order = np.argsort(units, kind="stable").astype(np.int64, copy=False)
    changes = np.flatnonzero(np.diff(units[order])) + 1
    groups: list[npt.NDArray[np.int64]] = []
    begin = end = 0
    for stop in [*changes.tolist(), len(order)]:
        if stop - begin > max_cases and end > begin:
            groups.append(order[begin:end])
            begin = end
        end = stop
    return [*groups, order[begin:end]]
