"""Cutting a logical batch into physical ones without cutting a unit in two."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from meninx.core import check


def slice_units(unit_index: npt.ArrayLike, max_cases: int) -> list[npt.NDArray[np.int64]]:
    """Return index arrays into the cases, each holding whole units and at most ``max_cases`` cases.

    A unit with more cases than that gets an array of its own, longer than ``max_cases``; clipping
    accumulates its gradient in pieces before the one clipping. Units keep the order of their
    numbers, cases the order given; every case is in exactly one array.

    Args:
        unit_index: (cases,) integers, the unit of every case.
        max_cases: most cases a physical batch should hold, >= 1.
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
