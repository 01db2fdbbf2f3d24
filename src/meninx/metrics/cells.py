"""Every metric of every cell (label, group, model) in one pass over the draws, so that all of them are paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.metrics.bootstrap import Areas, Draws, sum_by_patient
from meninx.metrics.counts import METRICS, Counts, ratio
from meninx.metrics.groups import patients_of
from meninx.metrics.ranking import Ranking

Array = npt.NDArray[np.float64]
Calls = Array | None
CURVES = ("auroc", "average_precision")
_COLUMNS = 6
_CHUNK = 64


@dataclass(frozen=True)
class Cell:
    """One two-class question on some of the cases.

    Attributes:
        truth: shape (cases,), 1, 0, or NaN for a case that is unknown or outside the cell.
        scores: shape (cases,).
        calls: shape (cases,), the decisions; None when there is no threshold.
        metrics: names to compute: :data:`CURVES`, ``brier``, and those of
            :data:`meninx.metrics.counts.METRICS`.
    """

    truth: Array
    scores: Array
    calls: npt.NDArray[np.bool_] | None
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """What a cell measures.

    Attributes:
        values: each metric on the data itself.
        samples: each metric in every draw, shape (draws,).
        n: cases with known truth.
        patients: patients of those.
        positives: positive cases among them.
        smaller: patients with a positive case or patients with a negative one, whichever are fewer.
    """

    values: dict[str, float]
    samples: dict[str, Array]
    n: int
    patients: int
    positives: int
    smaller: int


def decisions(calls: Calls, label: int) -> npt.NDArray[np.bool_] | None:
    """Return the decisions on one label, shape (cases,); None for a label that nothing decides.

    Args:
        calls: shape (cases, labels), 1, 0, or NaN in the column of a label without threshold; None without
            any.
        label: column.
    """
    if calls is None or np.isnan(calls[:, label]).any():
        return None
    return np.asarray(calls[:, label] == 1)


def measure(cells: Sequence[Cell], draws: Draws) -> list[Measured]:
    """Return each cell's metrics with their draws, in order; the draws are the same for all cells.

    Args:
        cells: arrays of one length, the number of cases of ``draws``.
        draws: the resamples of patients.
    """
    measured: list[Measured] = []
    for start in range(0, len(cells), _CHUNK):
        measured += _measure(cells[start : start + _CHUNK], draws)
    return measured


def _measure(cells: Sequence[Cell], draws: Draws) -> list[Measured]:
    rankings = [Ranking.of(cell.truth, cell.scores) for cell in cells]
    areas = {name: [index for index, cell in enumerate(cells) if name in cell.metrics] for name in CURVES}
    curves = {name: Areas([rankings[index] for index in areas[name]], draws.patient_index) for name in CURVES}
    columns = np.concatenate([sum_by_patient(_columns(cell), draws) for cell in cells], axis=1)
    once = np.ones((1, draws.patients), dtype=np.int64)
    blocks = [once, *draws.blocks()]
    sums = np.concatenate([block.astype(np.float64) @ columns for block in blocks])
    drawn: dict[str, list[Array]] = {name: [] for name in CURVES}
    for block in blocks:
        drawn["auroc"].append(curves["auroc"].auroc(block))
        drawn["average_precision"].append(curves["average_precision"].average_precision(block))
    of_curves = {name: np.concatenate(drawn[name]) for name in CURVES}
    result = []
    for index, cell in enumerate(cells):
        table = _rates(cell, sums[:, _COLUMNS * index : _COLUMNS * (index + 1)])
        for name in CURVES:
            if index in areas[name]:
                table[name] = of_curves[name][:, areas[name].index(index)]
        result.append(_measured(cell, table, draws))
    return result


def _columns(cell: Cell) -> Array:
    """Return tp, fp, fn, tn, squared error and 1 for each known case, shape (cases, 6), zeros elsewhere."""
    known, yes, no = ~np.isnan(cell.truth), cell.truth == 1, cell.truth == 0
    calls = np.zeros(cell.truth.size, dtype=bool) if cell.calls is None else cell.calls
    error = np.where(known, (cell.scores - np.where(known, cell.truth, 0)) ** 2, 0.0)
    return np.column_stack((yes & calls, no & calls, yes & ~calls, no & ~calls, error, known)).astype(
        np.float64
    )


def _rates(cell: Cell, sums: Array) -> dict[str, Array]:
    counts = Counts(sums[:, 0], sums[:, 1], sums[:, 2], sums[:, 3])
    table = {
        name: METRICS[name](counts) for name in cell.metrics if name in METRICS and cell.calls is not None
    }
    if "brier" in cell.metrics:
        table["brier"] = ratio(sums[:, 4], sums[:, 5])
    return table


def _measured(cell: Cell, table: dict[str, Array], draws: Draws) -> Measured:
    known = ~np.isnan(cell.truth)
    names = [name for name in cell.metrics if name in table]
    return Measured(
        values={name: float(table[name][0]) for name in names},
        samples={name: table[name][1:] for name in names},
        n=int(known.sum()),
        patients=int(np.unique(draws.patient_index[known]).size),
        positives=int((cell.truth == 1).sum()),
        smaller=min(patients_of(cell.truth, draws.patient_index)),
    )
