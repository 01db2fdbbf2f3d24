"""Entry point of :mod:`meninx.metrics`: evaluation of a classifier, and the paired comparison of two."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.core import check
from meninx.core.randomness import child
from meninx.metrics.bootstrap import (
    BinaryProblem,
    Calls,
    Draws,
    Measured,
    decisions,
    mean_ends,
    mean_kind,
    measure,
)
from meninx.metrics.calibration import Calibration, calibration
from meninx.metrics.classification import Ranking, checked, checked_table, confusion, mean_defined
from meninx.metrics.disparity import GroupProblem, group_problems, group_tables
from meninx.metrics.estimates import ROC_GRID, Estimate, Evaluation
from meninx.metrics.groups import INSUFFICIENT, MIN_CELL, Grouping, grouping, strata, stratified, sufficient
from meninx.metrics.intervals import PERCENTILE, percentile_interval
from meninx.metrics.thresholds import Threshold

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
    groups, gaps = group_tables(
        [GroupProblem.of(item, found) for item, found in zip(bare, measured[len(problems) :], strict=True)]
    )
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
        thresholds=tuple(item for item in thresholds if item.label in problem.names),
        confusion=_confusion(problem, calls),
        calibration=tuple(_calibrations(problem, scores_, seed)),
        roc=_roc(problem, scores_),
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


MARGIN = 0.02
"""The largest difference that counts as no difference."""

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
    asked: Sequence[str] = (),
) -> list[Estimate]:
    """Return AUROC differences of two models on the same cases, a minus b (private minus non-private).

    They are ``auroc_difference`` over all cases and within each group (the cost of privacy for that group),
    and ``auroc_gap_difference``, the signed gap of a group with a minus that with b. Each note is the
    :func:`verdict` of its interval.

    Args:
        a_scores: shape (cases, labels), of the private model.
        b_scores: shape (cases, labels), of the other.
        y_true: shape (cases, labels): a single 1 per row for classes; 1, 0 or NaN (unknown) for labels.
        patient_index: shape (cases,), numbered from 0.
        labels: names of the columns.
        attributes: attribute -> its text for each case.
        task: ``multiclass`` or ``multilabel``.
        seed: public seed of the resamples.
        draws: number of resamples.
        margin: the largest difference that counts as no difference.
        asked: labels to report; all by default.

    Raises:
        DataError: shapes differ, there is no case, or a score is not finite.
    """
    problem = ClassificationProblem.of(
        y_true, patient_index, labels, attributes, task=task, seed=seed, draws=draws, asked=asked
    )
    problems, bare = [], []
    for values in (a_scores, b_scores):
        scores = np.asarray(values, dtype=np.float64)
        problems += problem.binary_problems(scores, None)
        bare = group_problems(
            problem.truth, scores, None, problem.focus, labels, problem.groupings, problem.draws.patient_index
        )
        problems += [item.problem for item in bare]
    measured = measure(problems, problem.draws)
    half = len(measured) // 2
    differences = [
        _difference(one, other) for one, other in zip(measured[:half], measured[half:], strict=True)
    ]
    width = len(problem.focus)
    rows = estimates(problem.names, differences[:width])
    groups, gaps = group_tables(
        [GroupProblem.of(item, found) for item, found in zip(bare, differences[width:], strict=True)]
    )
    return [_judged(item, margin) for item in (*rows, *groups, *gaps) if item.name in _NAMES]


def verdict(low: float, high: float, margin: float) -> str:
    """Return the verdict of a difference's 95 % interval: within the margin, worse, better or not decided.

    Examples:
        >>> verdict(-0.01, 0.005, 0.02), verdict(-0.09, -0.03, 0.02), verdict(-0.09, 0.03, 0.02)
        ('within the margin', 'worse', 'not decided')
    """
    if math.isnan(low) or math.isnan(high):
        return "not decided"
    if -margin <= low and high <= margin:
        return "within the margin"
    if high < 0:
        return "worse"
    return "better" if low > 0 else "not decided"


def _difference(one: Measured, other: Measured) -> Measured:
    values = {name: one.values[name] - other.values[name] for name in one.values}
    samples = {name: one.samples[name] - other.samples[name] for name in one.samples}
    ends = {name: percentile_interval(drawn) for name, drawn in samples.items()}
    kinds = dict.fromkeys(ends, PERCENTILE)
    return Measured(values, samples, ends, kinds, one.n, one.patients, one.positives, one.smaller)


def _judged(item: Estimate, margin: float) -> Estimate:
    note = item.note
    if note != INSUFFICIENT:
        # The sign of a gap shows which group is worse off; only a difference of areas is better or worse.
        found = verdict(item.low, item.high, margin)
        changed = {"worse": "lower", "better": "higher"} if item.name == "auroc_gap" else {}
        note = changed.get(found, found)
    return dataclasses.replace(item, name=_NAMES[item.name], note=note)


_CURVES = ("auroc", "average_precision", "brier")
_RATES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "f1", "mcc")


@dataclass(frozen=True)
class ClassificationProblem:
    """The truth, labels, groups and resamples on which classifiers are evaluated.

    Attributes:
        truth: shape (cases, labels), 1, 0 or NaN.
        labels: names of the columns.
        task: ``multiclass`` or ``multilabel``.
        groupings: the attributes that divide the cases.
        draws: the resamples of patients.
        asked: the labels to report.
    """

    truth: Array
    labels: tuple[str, ...]
    task: str
    groupings: tuple[Grouping, ...]
    draws: Draws
    asked: tuple[str, ...]

    @classmethod
    def of(
        cls,
        truth: npt.ArrayLike,
        patient_index: npt.ArrayLike,
        labels: Sequence[str],
        attributes: Mapping[str, Sequence[str]],
        *,
        task: str,
        seed: int,
        draws: int,
        asked: Sequence[str] = (),
    ) -> ClassificationProblem:
        """Return the checked problem.

        Raises:
            ConfigError: the task is not a classification.
            DataError: shapes differ or there is no case.
        """
        check.one_of(("multiclass", "multilabel"), task=task)
        table, patient = checked_table(truth, patient_index, labels, where="truth")
        groupings = tuple(grouping(name, values, patient) for name, values in sorted(attributes.items()))
        resamples = Draws(patient, draws, seed, strata(groupings, patient))
        return cls(table, tuple(labels), task, groupings, resamples, tuple(asked or labels))

    @property
    def focus(self) -> list[int]:
        """Columns to report; with two classes only the second, which is the positive one."""
        if self.task == "multiclass" and len(self.labels) == 2:
            return [1]
        return [column for column, label in enumerate(self.labels) if label in self.asked]

    @property
    def names(self) -> list[str]:
        """Names of the columns in :attr:`focus`."""
        return [self.labels[label] for label in self.focus]

    def calls(self, scores: Array, thresholds: Sequence[Threshold]) -> Calls:
        """Return the decisions, shape (cases, labels): 1, 0, or NaN for a label without a threshold.

        The result is None if no label has a threshold.
        """
        value = {item.label: item.value for item in thresholds}
        if self.task == "multiclass":
            if len(self.labels) == 2:
                if self.labels[1] not in value:
                    return None
                second = scores[:, 1] >= value[self.labels[1]]
                return np.column_stack((~second, second)).astype(np.float64)
            return np.asarray(np.arange(len(self.labels)) == scores.argmax(axis=1)[:, None], dtype=np.float64)
        limits = np.array([value.get(label, np.nan) for label in self.labels])
        return np.where(np.isnan(limits), np.nan, scores >= limits) if value else None

    def binary_problems(self, scores: Array, calls: Calls) -> list[BinaryProblem]:
        """Return one two-class problem per label of :attr:`focus`, over all cases."""
        checked(self.truth, scores)
        return [
            BinaryProblem(
                self.truth[:, label], scores[:, label], decisions(calls, label), (*_CURVES, *_RATES)
            )
            for label in self.focus
        ]


def estimates(
    names: Sequence[str], measured: Sequence[Measured], extra: Sequence[Estimate] = ()
) -> tuple[Estimate, ...]:
    """Return every metric of every label; with several labels their mean and ``extra`` come first."""
    rows = [
        estimate(metric, label, item)
        for label, item in zip(names, measured, strict=True)
        for metric in item.values
    ]
    if len(names) == 1:
        return tuple(rows)
    means = []
    n, patients = max(item.n for item in measured), max(item.patients for item in measured)
    metrics = dict.fromkeys(name for item in measured for name in item.values if name != "accuracy")
    for metric in metrics:
        having = [item for item in measured if metric in item.values]
        value = float(mean_defined([item.values[metric] for item in having]))
        low, high = mean_ends(having, metric)
        means.append(
            Estimate(
                name=metric,
                value=value,
                low=low,
                high=high,
                n=n,
                patients=patients,
                note="mean over labels",
                interval=mean_kind(having, metric),
            )
        )
    return (*means, *extra, *rows)


def estimate(metric: str, label: str, item: Measured) -> Estimate:
    """Return one metric of one measured problem, with a note if it has few patients."""
    low, high = item.ends[metric]
    note = f"fewer than {MIN_CELL} positive or negative patients" if item.smaller < MIN_CELL else ""
    if not item.smaller:
        note = "one class only"
    return Estimate(
        name=metric,
        value=item.values[metric],
        low=low,
        high=high,
        n=item.n,
        patients=item.patients,
        label=label,
        positives=item.positives if label else None,
        note=note if label else "",
        interval=item.kinds[metric],
    )
