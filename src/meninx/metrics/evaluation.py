"""Entry point of :mod:`meninx.metrics`: evaluation of a classifier."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from meninx.core.randomness import child
from meninx.metrics.age_trend import age_trends, trend_rows
from meninx.metrics.bootstrap import BinaryProblem, Calls, decisions, measure
from meninx.metrics.calibration import Calibration, calibration
from meninx.metrics.classification import Ranking, confusion
from meninx.metrics.classification_problem import ClassificationProblem, estimate, estimates
from meninx.metrics.disparity import GroupProblem, group_problems, group_tables
from meninx.metrics.estimates import ROC_GRID, Estimate, Evaluation, GroupCurve
from meninx.metrics.group_ranges import range_table
from meninx.metrics.groups import MIN_CELL, stratified, sufficient, years
from meninx.metrics.thresholds import Threshold

Array = npt.NDArray[np.float64]
_IN_GROUPS, _DIGITS = ("ece", "ece_null", "intercept", "slope", "brier"), 4  # as precise as groups are
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
    asked: Sequence[str] = (),
) -> Evaluation:
    """Return the evaluation of a classifier.

    With two classes only the second, positive one is reported. With more classes each is evaluated against
    the rest, and the highest score decides. Labels are decided by thresholds; for a label without a threshold
    only metrics that need no decision are reported.

    Args:
        y_true: shape (cases, labels): a single 1 per row for classes; 1, 0 or NaN (unknown) for labels.
        scores: shape (cases, labels), probabilities.
        patient_index: shape (cases,), numbered from 0.
        labels: names of the columns.
        attributes: attribute -> its text for each case, empty if unknown.
        thresholds: fitted on the validation split, one per label; for two classes that of the second.
        task: ``multiclass`` or ``multilabel``.
        seed: public seed of the resamples.
        draws: number of resamples.
        split: name of the split.
        asked: labels to report; all by default. The decision between classes always uses all of them.

    Raises:
        DataError: shapes differ, there is no case, or a score is not finite.
    """
    problem = ClassificationProblem.of(
        y_true, patient_index, labels, attributes, task=task, seed=seed, draws=draws, asked=asked
    )
    scores_ = np.asarray(scores, dtype=np.float64)
    calls = problem.calls(scores_, thresholds)
    problems = [*problem.binary_problems(scores_, calls), *_right_or_wrong(problem, calls)]
    width = len(problem.focus)
    bare = group_problems(
        problem.truth, scores_, calls, problem.focus, labels, problem.groupings, problem.draws.patient_index
    )
    measured = measure([*problems, *(item.problem for item in bare)], problem.draws)
    whole = [
        GroupProblem.of(item, found) for item, found in zip(bare, measured[len(problems) :], strict=True)
    ]
    groups, gaps = group_tables(whole, _age_trend(problem, scores_, labels, attributes))
    areas = {name: item.values["auroc"] for name, item in zip(problem.names, measured, strict=False)}
    return Evaluation(
        task=task,
        split=split,
        labels=tuple(label for label in problem.labels if label in problem.asked),
        n_cases=len(problem.truth),
        n_patients=problem.draws.patients,
        draws=draws,
        seed=seed,
        metrics=estimates(
            problem.names,
            measured[:width],
            [estimate("accuracy", "", item) for item in measured[width : len(problems)]],
        ),
        groups=groups,
        gaps=gaps,
        ranges=range_table(whole, problem.groupings, areas, problem.draws),
        thresholds=tuple(item for item in thresholds if item.label in problem.names),
        confusion=_confusion(problem, calls),
        calibration=tuple(_calibrations(problem, scores_, seed)),
        group_calibration=tuple(_in_groups(problem, scores_, seed)),
        roc=_roc(problem, scores_),
        group_roc=tuple(_group_roc(problem, scores_)),
        notes=_notes(problem),
    )


def _right_or_wrong(problem: ClassificationProblem, calls: Calls) -> Iterator[BinaryProblem]:
    """Yield the problem of multi-class accuracy: all cases are positive, and called so if correct."""
    if problem.task == "multiclass" and calls is not None:
        right = calls.argmax(axis=1) == problem.truth.argmax(axis=1)
        yield BinaryProblem(np.ones(len(right)), np.zeros(len(right)), right, ("accuracy",))


def _confusion(problem: ClassificationProblem, calls: Calls) -> dict[str, Matrix]:
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


def _calibrations(problem: ClassificationProblem, scores: Array, seed: int) -> Iterator[Calibration]:
    for label, name in zip(problem.focus, problem.names, strict=True):
        truth, column = problem.truth[:, label], scores[:, label]
        if sufficient(truth, problem.draws.patient_index) and bool(((column >= 0) & (column <= 1)).all()):
            yield calibration(
                truth, column, name, child(seed, "calibration", name), problem.draws.patient_index
            )


def _in_groups(problem: ClassificationProblem, scores: Array, seed: int) -> Iterator[Calibration]:
    """Yield the calibration of each label in each group with enough patients, without its bins.

    If another group of the attribute has too few, prevalences are left out: their sum would give its own.
    """
    cells = list(_cells(problem))
    present = {item.attribute: np.unique(item.index[item.index >= 0]).size for item in problem.groupings}
    filled = Counter((attribute, label) for attribute, _, label, _ in cells)
    for attribute, group, label, truth in cells:
        name, column = problem.labels[label], scores[:, label]
        if bool(((column >= 0) & (column <= 1)).all()):
            rng = child(seed, "calibration", name, attribute, group)
            found = calibration(truth, column, name, rng, problem.draws.patient_index)
            share = found.prevalence if filled[attribute, label] == present[attribute] else math.nan
            numbers = {name: round(getattr(found, name), _DIGITS) for name in _IN_GROUPS}
            bare = dataclasses.replace(found, **numbers, predicted=(), observed=())
            yield dataclasses.replace(
                bare, attribute=attribute, group=group, prevalence=round(share, _DIGITS)
            )


def _group_roc(problem: ClassificationProblem, scores: Array) -> Iterator[GroupCurve]:
    for attribute, group, label, truth in _cells(problem):
        curve = Ranking.of(truth, scores[:, label]).curve(ROC_GRID)
        rates = tuple(round(float(rate), _DIGITS) for rate in curve)
        yield GroupCurve(label=problem.labels[label], attribute=attribute, group=group, tpr=rates)


def _cells(problem: ClassificationProblem) -> Iterator[tuple[str, str, int, Array]]:
    """Yield attribute, group, column and truth inside the group of every cell with enough patients."""
    for item in problem.groupings:
        present = [group for group in range(len(item.names)) if item.rows(group).any()]
        for group in present if len(present) > 1 else ():
            for label in problem.focus:
                inside = np.where(item.rows(group), problem.truth[:, label], np.nan)
                if sufficient(inside, problem.draws.patient_index):
                    yield item.attribute, item.names[group], label, inside


def _age_trend(
    problem: ClassificationProblem,
    scores: Array,
    labels: Sequence[str],
    attributes: Mapping[str, Sequence[str]],
) -> list[tuple[Estimate, float]]:
    if "age" not in attributes:
        return []
    ages = years(attributes["age"])
    trends = age_trends(problem.truth, scores, problem.focus, ages, problem.draws)
    return trend_rows(problem.truth, trends, problem.focus, labels, ages, problem.draws)


def _roc(problem: ClassificationProblem, scores: Array) -> dict[str, tuple[float, ...]]:
    return {
        name: tuple(Ranking.of(problem.truth[:, label], scores[:, label]).curve(ROC_GRID).tolist())
        for label, name in zip(problem.focus, problem.names, strict=True)
        if sufficient(problem.truth[:, label], problem.draws.patient_index)
    }


def _notes(problem: ClassificationProblem) -> tuple[str, ...]:
    rule = "each label is decided by its threshold"
    if problem.task == "multiclass":
        two = "two classes are one question, the second is positive"
        rule = two if len(problem.labels) == 2 else "the class with the highest score is called"
    return (
        (
            "95 % intervals of rates by Clopper and Pearson with effective patients, other percentile "
            f"intervals from {problem.draws.count} resamples of patients{stratified(problem.groupings)}"
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
