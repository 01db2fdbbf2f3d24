"""The truth, labels, groups and resamples on which classifiers are evaluated, and the rows of all cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.core import check
from meninx.metrics.bootstrap import (
    BinaryProblem,
    Calls,
    Draws,
    Measured,
    decisions,
    mean_ends,
    mean_kind,
)
from meninx.metrics.classification import checked, checked_table, mean_defined
from meninx.metrics.estimates import Estimate
from meninx.metrics.groups import MIN_CELL, Grouping, grouping, strata
from meninx.metrics.thresholds import Threshold

Array = npt.NDArray[np.float64]
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
