"""The question behind an evaluation, checked once: truth, patients, which labels are asked about, how a case is decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.core import check
from meninx.core.errors import DataError, expected
from meninx.metrics.bootstrap import Draws, interval
from meninx.metrics.cells import Calls, Cell, Measured, decisions
from meninx.metrics.classification import checked, mean_defined
from meninx.metrics.groups import MIN_CELL, Grouping, grouping, strata
from meninx.metrics.tables import Estimate
from meninx.metrics.thresholds import Threshold

Array = npt.NDArray[np.float64]
_CURVES = ("auroc", "average_precision", "brier")
_RATES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "f1", "mcc")


@dataclass(frozen=True)
class Problem:
    """What is asked of a classifier on one set of cases.

    Attributes:
        truth: shape (cases, labels), 1, 0 or NaN.
        labels: names of the columns.
        task: ``multiclass`` or ``multilabel``.
        groupings: the attributes that divide the cases.
        draws: the resamples of patients.
    """

    truth: Array
    labels: tuple[str, ...]
    task: str
    groupings: tuple[Grouping, ...]
    draws: Draws

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
    ) -> Problem:
        """Return the checked problem.

        Raises:
            ConfigError: the task is no classification.
            DataError: shapes differ or there is no case.
        """
        check.one_of(("multiclass", "multilabel"), task=task)
        table, patient = checked_table(truth, patient_index, labels, where="truth")
        groupings = tuple(grouping(name, values, patient) for name, values in sorted(attributes.items()))
        return cls(
            table, tuple(labels), task, groupings, Draws(patient, draws, seed, strata(groupings, patient))
        )

    @property
    def focus(self) -> list[int]:
        """Columns that are asked about: of two classes only the second, which is the positive one."""
        return [1] if self.task == "multiclass" and len(self.labels) == 2 else list(range(len(self.labels)))

    @property
    def names(self) -> list[str]:
        """Names of the columns in :attr:`focus`."""
        return [self.labels[label] for label in self.focus]

    def calls(self, scores: Array, thresholds: Sequence[Threshold]) -> Calls:
        """Return the decisions, shape (cases, labels): 1, 0, or NaN for a label without threshold.

        None when none has one.
        """
        value = {item.label: item.value for item in thresholds}
        if self.task == "multiclass":
            if len(self.labels) == 2 and self.labels[1] in value:
                second = scores[:, 1] >= value[self.labels[1]]
                return np.column_stack((~second, second)).astype(np.float64)
            return np.asarray(np.arange(len(self.labels)) == scores.argmax(axis=1)[:, None], dtype=np.float64)
        limits = np.array([value.get(label, np.nan) for label in self.labels])
        return np.where(np.isnan(limits), np.nan, scores >= limits) if value else None

    def cells(self, scores: Array, calls: Calls) -> list[Cell]:
        """Return one cell for each label of :attr:`focus`, over all cases."""
        checked(self.truth, scores)
        return [
            Cell(self.truth[:, label], scores[:, label], decisions(calls, label), (*_CURVES, *_RATES))
            for label in self.focus
        ]


def checked_table(
    values: npt.ArrayLike, patient_index: npt.ArrayLike, labels: Sequence[str], *, where: str
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return values (cases, labels) as floats and the patients renumbered without holes, shape (cases,).

    Raises:
        DataError: there is no case, or a shape does not fit.
    """
    table, patient = np.asarray(values, dtype=np.float64), np.asarray(patient_index, dtype=np.int64)
    if table.ndim != 2 or table.shape[1] != len(labels) or not len(table):
        raise DataError(
            expected(f"at least one case and {len(labels)} labels", got=f"shape {table.shape}", where=where)
        )
    if patient.shape != (len(table),):
        what = f"one patient a case, shape ({len(table)},)"
        raise DataError(expected(what, got=f"shape {patient.shape}", where="patient_index"))
    return table, np.unique(patient, return_inverse=True)[1].astype(np.int64)


def estimates(
    names: Sequence[str], measured: Sequence[Measured], extra: Sequence[Estimate] = ()
) -> tuple[Estimate, ...]:
    """Return every metric of every label; of several labels their mean and ``extra`` come first."""
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
        low, high = interval(mean_defined(np.array([item.samples[metric] for item in having]).T))
        means.append(
            Estimate(
                name=metric, value=value, low=low, high=high, n=n, patients=patients, note="mean over labels"
            )
        )
    return (*means, *extra, *rows)


def estimate(metric: str, label: str, item: Measured) -> Estimate:
    """Return one metric of one measured cell; a small one is noted."""
    low, high = interval(item.samples[metric])
    few = bool(label) and item.smaller < MIN_CELL
    return Estimate(
        name=metric,
        value=item.values[metric],
        low=low,
        high=high,
        n=item.n,
        patients=item.patients,
        label=label,
        positives=item.positives if label else None,
        note=f"fewer than {MIN_CELL} positive or negative patients" if few else "",
    )
