"""The paired difference of two classifiers on the same cases, with the same draws for both."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from meninx.metrics.cells import Measured, measure
from meninx.metrics.disparity import GroupCell, group_cells, group_tables
from meninx.metrics.groups import INSUFFICIENT
from meninx.metrics.problem import Problem, estimates
from meninx.metrics.tables import Estimate

MARGIN = 0.02
"""The largest difference that counts as none."""

_NAMES = {"auroc": "auroc_difference", "auroc_gap": "auroc_gap_difference"}


def compare(
    a_scores: npt.ArrayLike,
    b_scores: npt.ArrayLike,
    y_true: npt.ArrayLike,
    patient_index: npt.ArrayLike,
    labels: Sequence[str],
    attributes: Mapping[str, Sequence[str]],
    *,
    task: str,
    seed: int,
    draws: int = 1000,
    margin: float = MARGIN,
) -> list[Estimate]:
    """Return AUROC differences of two models on the same cases, a minus b (private minus non-private).

    ``auroc_difference`` over all cases and within each group (what privacy costs that group), and
    ``auroc_gap_difference``: how much larger the signed gap of a group is with a than with b. Each note is
        the
    :func:`verdict` of its interval.

    Args:
        a_scores: shape (cases, labels), of the private model.
        b_scores: shape (cases, labels), of the other.
        y_true: shape (cases, labels): one 1 in a row for classes; 1, 0 or NaN (unknown) for labels.
        patient_index: shape (cases,), numbered from 0.
        labels: names of the columns.
        attributes: text of each case for each attribute.
        task: ``multiclass`` or ``multilabel``.
        seed: public seed of the resamples.
        draws: how many resamples.
        margin: the largest difference that counts as none.

    Raises:
        DataError: shapes differ, there is no case, or a score is not finite.
    """
    problem = Problem.of(y_true, patient_index, labels, attributes, task=task, seed=seed, draws=draws)
    cells, bare = [], []
    for values in (a_scores, b_scores):
        scores = np.asarray(values, dtype=np.float64)
        cells += problem.cells(scores, None)
        bare = group_cells(
            problem.truth, scores, None, problem.focus, labels, problem.groupings, problem.draws.patient_index
        )
        cells += [item.cell for item in bare]
    measured = measure(cells, problem.draws)
    half = len(measured) // 2
    differences = [
        _difference(one, other) for one, other in zip(measured[:half], measured[half:], strict=True)
    ]
    width = len(problem.focus)
    rows = estimates(problem.names, differences[:width])
    groups, gaps = group_tables(
        [GroupCell.of(item, found) for item, found in zip(bare, differences[width:], strict=True)]
    )
    return [_judged(item, margin) for item in (*rows, *groups, *gaps) if item.name in _NAMES]


def verdict(low: float, high: float, margin: float) -> str:
    """Return what the 95 % interval of a difference says: within the margin, worse, better or not decided.

    Examples:
        >>> verdict(-0.01, 0.005, 0.02), verdict(-0.09, -0.03, 0.02), verdict(-0.09, 0.03, 0.02)
        ('within the margin', 'worse', 'not decided')
    """
    if math.isnan(low) or math.isnan(high):
        return "not decided"
    if -margin <= low and high <= margin:
        return "within the margin"
    return "worse" if high < 0 else "better" if low > 0 else "not decided"


def _difference(one: Measured, other: Measured) -> Measured:
    values = {name: one.values[name] - other.values[name] for name in one.values}
    samples = {name: one.samples[name] - other.samples[name] for name in one.samples}
    return Measured(values, samples, one.n, one.patients, one.positives, one.smaller)


def _judged(item: Estimate, margin: float) -> Estimate:
    note = item.note
    if note != INSUFFICIENT:
        # The sign of a gap says who is behind, not whether that is worse; only differences of areas are
        # judged so.
        found = verdict(item.low, item.high, margin)
        changed = {"worse": "lower", "better": "higher"} if item.name == "auroc_gap" else {}
        note = changed.get(found, found)
    return dataclasses.replace(item, name=_NAMES[item.name], note=note)
