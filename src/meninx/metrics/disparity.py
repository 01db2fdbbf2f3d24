"""Metrics within groups, and the signed gap of each group to the rest, from cells that share their draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.metrics.bootstrap import holm, interval, p_value
from meninx.metrics.cells import Calls, Cell, Measured, decisions
from meninx.metrics.classification import mean_defined
from meninx.metrics.groups import GAPS, INSUFFICIENT, Grouping, sufficient
from meninx.metrics.tables import Estimate

Array = npt.NDArray[np.float64]
GROUP_METRICS = ("auroc", "sensitivity", "specificity", "false_positive_rate", "selection_rate", "accuracy")


@dataclass(frozen=True)
class GroupCell:
    """A cell that is one label in one group, or in all other groups (``rest``).

    Attributes:
        attribute: what divides the cases.
        group: the group's name.
        label: the label's name.
        rest: True when the cell holds the other groups' cases.
        enough: whether it has the least number of positive and of negative patients.
        cell: the two-class question.
        measured: what it measures; None before measuring.
    """

    attribute: str
    group: str
    label: str
    rest: bool
    enough: bool
    cell: Cell
    measured: Measured | None = None

    @classmethod
    def of(cls, bare: GroupCell, measured: Measured) -> GroupCell:
        """Return ``bare`` with what it measures."""
        return dataclasses.replace(bare, measured=measured)


def group_cells(
    truth: Array,
    scores: Array,
    calls: Calls,
    focus: Sequence[int],
    labels: Sequence[str],
    groupings: Sequence[Grouping],
    patient_index: npt.NDArray[np.int64],
) -> list[GroupCell]:
    """Return two cells for each label and group of each attribute: the group, and the rest.

    Cells that are too small compute nothing. An attribute with one group has no gap and is left out.
    """
    found = []
    for item in groupings:
        present = [group for group in range(len(item.names)) if item.rows(group).any()]
        for group in present if len(present) > 1 else ():
            for label in focus:
                for rest, rows in ((False, item.rows(group)), (True, item.rest(group))):
                    inside = np.where(rows, truth[:, label], np.nan)
                    enough = sufficient(inside, patient_index)
                    cell = Cell(
                        inside, scores[:, label], decisions(calls, label), GROUP_METRICS if enough else ()
                    )
                    found.append(
                        GroupCell(item.attribute, item.names[group], labels[label], rest, enough, cell)
                    )
    return found


def group_tables(cells: Sequence[GroupCell]) -> tuple[tuple[Estimate, ...], tuple[Estimate, ...]]:
    """Return (metrics within groups, signed gaps of each group to the rest) of measured cells.

    With several labels, the mean AUROC over the labels that are large enough comes first, noted with their
    number. Of an attribute with two groups only the first group's gap is given: the other's is the same with
    the other sign. Holm's adjustment runs over all gaps of the table.
    """
    groups: list[Estimate] = []
    gaps: list[tuple[Estimate, float]] = []
    for attribute in dict.fromkeys(cell.attribute for cell in cells):
        members = list(dict.fromkeys(cell.group for cell in cells if cell.attribute == attribute))
        for group in members:
            mine = [cell for cell in cells if (cell.attribute, cell.group) == (attribute, group)]
            inside, outside = [c for c in mine if not c.rest], [c for c in mine if c.rest]
            groups += _group_rows(inside)
            if len(members) > 2 or group == members[0]:
                gaps += _gap_rows(inside, outside)
    adjusted = holm([p for _, p in gaps])
    return tuple(groups), tuple(
        dataclasses.replace(gap, p_holm=p) for (gap, _), p in zip(gaps, adjusted, strict=True)
    )


def _group_rows(inside: Sequence[GroupCell]) -> Iterator[Estimate]:
    enough = [cell for cell in inside if cell.enough]
    if len(inside) > 1:
        yield _row(
            "auroc", "", inside[0], _mean(enough, "auroc"), _sizes(enough or inside), _over(enough, inside)
        )
    for cell in inside:
        for metric in GROUP_METRICS if cell.enough else ("auroc",):
            if not cell.enough or (cell.measured is not None and metric in cell.measured.values):
                yield _row(
                    metric, cell.label, cell, _mean([cell] if cell.enough else [], metric), _sizes([cell])
                )


def _gap_rows(inside: Sequence[GroupCell], outside: Sequence[GroupCell]) -> Iterator[tuple[Estimate, float]]:
    pairs = [(mine, rest) for mine, rest in zip(inside, outside, strict=True)]
    enough = [(mine, rest) for mine, rest in pairs if mine.enough and rest.enough]
    if len(pairs) > 1:
        yield _gap("auroc_gap", "", pairs, enough)
    for pair in pairs:
        for name, metric in GAPS.items():
            if pair not in enough:
                if name == "auroc_gap":
                    yield _gap(name, pair[0].label, [pair], [])
            elif pair[0].measured is not None and metric in pair[0].measured.values:
                yield _gap(name, pair[0].label, [pair], [pair])


def _gap(
    name: str,
    label: str,
    pairs: Sequence[tuple[GroupCell, GroupCell]],
    enough: Sequence[tuple[GroupCell, GroupCell]],
) -> tuple[Estimate, float]:
    value, samples = _mean([mine for mine, _ in enough], GAPS[name])
    other, rest = _mean([rest for _, rest in enough], GAPS[name])
    difference = (value - other, samples - rest)
    note = "" if label else _over(enough, pairs)
    row = _row(name, label, pairs[0][0], difference, _sizes([mine for mine, _ in enough or pairs]), note)
    return row, p_value(*difference)


def _mean(cells: Sequence[GroupCell], metric: str) -> tuple[float, Array]:
    """Return the mean of a metric over cells, on the data and in every draw; NaN without a cell."""
    measured = [cell.measured for cell in cells if cell.measured is not None]
    if not measured:
        return float("nan"), np.full(1, np.nan)
    value = float(mean_defined([item.values[metric] for item in measured]))
    return value, mean_defined(np.array([item.samples[metric] for item in measured]).T)


def _sizes(cells: Sequence[GroupCell]) -> tuple[int, int, int]:
    measured = [cell.measured for cell in cells if cell.measured is not None]
    return (
        max((item.n for item in measured), default=0),
        max((item.patients for item in measured), default=0),
        sum(item.positives for item in measured),
    )


def _over(enough: Sequence[object], every: Sequence[object]) -> str:
    return f"mean over {len(enough)} of {len(every)} labels"


def _row(
    name: str,
    label: str,
    cell: GroupCell,
    drawn: tuple[float, Array],
    sizes: tuple[int, int, int],
    note: str = "",
) -> Estimate:
    value, samples = drawn
    low, high = interval(samples)
    n, patients, positives = sizes
    return Estimate(
        name=name,
        value=value,
        low=low,
        high=high,
        n=n,
        patients=patients,
        label=label,
        attribute=cell.attribute,
        group=cell.group,
        positives=positives if label and not np.isnan(value) else None,
        note=INSUFFICIENT if np.isnan(value) else note,
    )
