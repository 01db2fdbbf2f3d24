"""From scores and truth to an :class:`Evaluation`: the door of this room."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from meninx.core.randomness import child
from meninx.metrics.calibration import Calibration, calibration
from meninx.metrics.cells import Calls, Cell, decisions, measure
from meninx.metrics.classification import confusion
from meninx.metrics.comparison import compare
from meninx.metrics.disparity import GroupCell, group_cells, group_tables
from meninx.metrics.groups import MIN_CELL, stratified, sufficient
from meninx.metrics.overlap import compare_segmentation, evaluate_segmentation
from meninx.metrics.problem import Problem, estimate, estimates
from meninx.metrics.ranking import Ranking
from meninx.metrics.tables import ROC_GRID, Estimate, Evaluation
from meninx.metrics.thresholds import Threshold

__all__ = [
    "Estimate",
    "Evaluation",
    "compare",
    "compare_segmentation",
    "evaluate_classification",
    "evaluate_segmentation",
]

Array = npt.NDArray[np.float64]
Matrix = tuple[tuple[int, ...], ...]


def evaluate_classification(
    y_true: npt.ArrayLike,
    scores: npt.ArrayLike,
    patient_index: npt.ArrayLike,
    labels: Sequence[str],
    attributes: Mapping[str, Sequence[str]],
    thresholds: Sequence[Threshold] = (),
    *,
    task: str,
    seed: int,
    draws: int = 1000,
    split: str = "test",
) -> Evaluation:
    """Return the evaluation of a classifier.

    Two classes are one question: only the second, the positive one, is reported. More classes are each one
        against the
    rest, decided by the highest score. Labels are decided by thresholds; without, what needs none is
    reported.

    Args:
        y_true: shape (cases, labels): one 1 in a row for classes; 1, 0 or NaN (unknown) for labels.
        scores: shape (cases, labels), probabilities.
        patient_index: shape (cases,), numbered from 0.
        labels: names of the columns.
        attributes: text of each case for each attribute, empty when unknown.
        thresholds: fitted on the validation split, one a label; for two classes that of the second.
        task: ``multiclass`` or ``multilabel``.
        seed: public seed of the resamples.
        draws: how many resamples.
        split: name of the split.

    Raises:
        DataError: shapes differ, there is no case, or a score is not finite.
    """
    problem = Problem.of(y_true, patient_index, labels, attributes, task=task, seed=seed, draws=draws)
    scores_ = np.asarray(scores, dtype=np.float64)
    calls = problem.calls(scores_, thresholds)
    cells = [*problem.cells(scores_, calls), *_right_or_wrong(problem, calls)]
    width = len(problem.focus)
    bare = group_cells(
        problem.truth, scores_, calls, problem.focus, labels, problem.groupings, problem.draws.patient_index
    )
    measured = measure([*cells, *(item.cell for item in bare)], problem.draws)
    groups, gaps = group_tables(
        [GroupCell.of(item, found) for item, found in zip(bare, measured[len(cells) :], strict=True)]
    )
    return Evaluation(
        task=task,
        split=split,
        labels=problem.labels,
        n_cases=len(problem.truth),
        n_patients=problem.draws.patients,
        draws=draws,
        seed=seed,
        metrics=estimates(
            problem.names,
            measured[:width],
            [estimate("accuracy", "", item) for item in measured[width : len(cells)]],
        ),
        groups=groups,
        gaps=gaps,
        thresholds=tuple(item for item in thresholds if item.label in problem.names),
        confusion=_confusion(problem, calls),
        calibration=tuple(_calibrations(problem, scores_, seed)),
        roc=_roc(problem, scores_),
        notes=_notes(problem),
    )


def _right_or_wrong(problem: Problem, calls: Calls) -> Iterator[Cell]:
    """Yield, for classes, a cell where every case is positive and called so when its class was right: for the accuracy."""
    if problem.task == "multiclass" and calls is not None:
        right = calls.argmax(axis=1) == problem.truth.argmax(axis=1)
        yield Cell(np.ones(len(right)), np.zeros(len(right)), right, ("accuracy",))


def _confusion(problem: Problem, calls: Calls) -> dict[str, Matrix]:
    if calls is None:
        return {}
    truth, patient = problem.truth, problem.draws.patient_index
    if problem.task == "multiclass":
        if not all(sufficient(truth[:, column], patient) for column in range(len(problem.labels))):
            return {}
        return {"": _rows(confusion(truth.argmax(axis=1), calls.argmax(axis=1), len(problem.labels)))}
    known = ~np.isnan(truth)
    return {
        label: _rows(confusion(truth[known[:, column], column], calls[known[:, column], column], 2))
        for column, label in enumerate(problem.labels)
        if decisions(calls, column) is not None and sufficient(truth[:, column], patient)
    }


def _rows(matrix: npt.NDArray[np.int64]) -> Matrix:
    return tuple(tuple(int(value) for value in row) for row in matrix)


def _calibrations(problem: Problem, scores: Array, seed: int) -> Iterator[Calibration]:
    for label, name in zip(problem.focus, problem.names, strict=True):
        truth, column = problem.truth[:, label], scores[:, label]
        if sufficient(truth, problem.draws.patient_index) and bool(((column >= 0) & (column <= 1)).all()):
            yield calibration(
                truth, column, name, child(seed, "calibration", name), problem.draws.patient_index
            )


def _roc(problem: Problem, scores: Array) -> dict[str, tuple[float, ...]]:
    return {
        name: tuple(Ranking.of(problem.truth[:, label], scores[:, label]).curve(ROC_GRID).tolist())
        for label, name in zip(problem.focus, problem.names, strict=True)
        if sufficient(problem.truth[:, label], problem.draws.patient_index)
    }


def _notes(problem: Problem) -> tuple[str, ...]:
    rule = "each label is decided by its threshold"
    if problem.task == "multiclass":
        two = "two classes are one question, the second is positive"
        rule = two if len(problem.labels) == 2 else "the class with the highest score is called"
    return (
        (
            f"95 % percentile intervals from {problem.draws.count} resamples of "
            f"patients{stratified(problem.groupings)}"
        ),
        rule,
        (
            "a gap is the group's value minus that of all other cases together; p-values are adjusted "
            "by Holm's method"
        ),
        (
            f"groups with fewer than {MIN_CELL} positive or {MIN_CELL} negative patients are "
            "insufficient and get no number"
        ),
    )
