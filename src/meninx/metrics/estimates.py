"""The results of an evaluation, as frozen values and as JSON: aggregates, never values of single cases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from meninx.core import plain
from meninx.core.errors import LayoutError, expected
from meninx.metrics.calibration import Calibration
from meninx.metrics.thresholds import Threshold

Built = TypeVar("Built")
VERSION = 1
ROC_GRID = tuple(number / 100 for number in range(101))
"""The false positive rates at which a ROC curve is stored."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One number with its interval and sample size.

    Attributes:
        name: the metric, e.g. ``auroc``.
        value: the value on the data; NaN if undefined or withheld.
        low: lower end of the 95 % interval; NaN if undefined.
        high: upper end of the 95 % interval.
        n: number of cases; 0 for a group of so few patients that its size is not published.
        patients: number of their patients; 0 likewise.
        label: the label; empty for all labels together.
        note: a remark for readers, e.g. ``insufficient``.
        attribute: the attribute that divides the cases; empty for all cases.
        group: the group of that attribute.
        positives: number of positive cases; None if it has no meaning or is too small to publish.
        p_holm: p-value of "no gap", adjusted for the whole table; NaN if it is not a test.
        chance: the value that groups drawn by chance stay below in 95 % of permutations; NaN if unknown.
        by_run: the value of each pair of runs, when the estimate is the mean over several; empty without a
            value.
        interval: method of the interval: ``percentile`` (of resamples of patients), ``Clopper-Pearson``
            (with effective patients), ``combined`` (from the intervals of its parts), or ``unseen patient``
            (of resamples, with a patient more); empty if unknown.
        before: of a difference of gaps: the gap of the model without privacy; NaN if unknown.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    patients: int
    label: str = ""
    note: str = ""
    attribute: str = ""
    group: str = ""
    positives: int | None = None
    p_holm: float = math.nan
    interval: str = ""
    chance: float = math.nan
    by_run: tuple[float, ...] = ()
    before: float = math.nan

    def to_table(self) -> dict[str, Any]:
        """Return the fields as JSON values; NaN is null."""
        return dict(plain.to_plain(self))

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Estimate:
        """Return the estimate from a table of :meth:`to_table`; unknown keys are refused."""
        return _build(cls, table)


@dataclass(frozen=True, kw_only=True)
class GroupCurve:
    """The ROC curve of one label in one group.

    Attributes:
        label: the label.
        attribute: the attribute that divides the cases.
        group: the group.
        tpr: true positive rates at the false positive rates of ``roc_grid``, to four digits.
    """

    label: str
    attribute: str
    group: str
    tpr: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The evaluation of a model on one split.

    The JSON of :meth:`to_table` has the same keys as the attributes, plus ``version`` (1) and ``roc_grid``.
    An estimate is an object with the keys of :class:`Estimate`. NaN is null.

    Guarantee: no number describes a single case. Curves, calibration, confusion and groups need at least ten
        patients with a positive case and ten with a negative one, and a group of fewer than ten patients is
        not named.

    Attributes:
        task: ``multiclass``, ``multilabel`` or ``segmentation``.
        split: the split that was evaluated.
        labels: label names in output order.
        n_cases: number of cases.
        n_patients: number of patients.
        draws: number of resamples for the intervals.
        seed: public seed of the resamples.
        metrics: estimates over all cases, per label and (with an empty label) for all labels together.
        groups: the same within groups of an attribute.
        gaps: signed differences, group minus rest, and the change of the AUROC per decade of age, with
            p-values adjusted within the table.
        ranges: worst group, and the largest difference between two groups, of each label and attribute.
        thresholds: the frozen decision thresholds.
        confusion: matrices, row = true, column = called; the key is empty for classes, else a label ([[tn,
            fp], [fn, tp]]).
        calibration: calibration of each label.
        group_calibration: calibration of each label in each group, without bins.
        roc: true positive rate of each label at the false positive rates of ``roc_grid``.
        group_roc: the same in each group.
        empty_masks: segmentation: cases of each label where truth and prediction are both empty.
        notes: conventions in words.
    """

    task: str
    split: str
    labels: tuple[str, ...]
    n_cases: int
    n_patients: int
    draws: int
    seed: int
    metrics: tuple[Estimate, ...]
    groups: tuple[Estimate, ...] = ()
    gaps: tuple[Estimate, ...] = ()
    ranges: tuple[Estimate, ...] = ()
    thresholds: tuple[Threshold, ...] = ()
    confusion: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    calibration: tuple[Calibration, ...] = ()
    group_calibration: tuple[Calibration, ...] = ()
    roc: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    group_roc: tuple[GroupCurve, ...] = ()
    empty_masks: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> Estimate:
        """The main result: mean AUROC (or Dice) over labels, or that of the only label."""
        name = "dice" if self.task == "segmentation" else "auroc"
        found = [item for item in self.metrics if item.name == name]
        return next((item for item in found if not item.label), found[0])

    def find(self, name: str, label: str = "", attribute: str = "", group: str = "") -> Estimate | None:
        """Return an estimate of ``metrics`` or ``groups`` by name, or None."""
        key = (name, label, attribute, group)
        every = (*self.metrics, *self.groups)
        return next(
            (item for item in every if (item.name, item.label, item.attribute, item.group) == key), None
        )

    def to_table(self) -> dict[str, Any]:
        """Return the evaluation as JSON values; NaN is null."""
        return {"version": VERSION, "roc_grid": list(ROC_GRID), **plain.to_plain(self)}

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str = "evaluation.json") -> Evaluation:
        """Return the evaluation from a table of :meth:`to_table`.

        Raises:
            LayoutError: another version, or a missing or unknown key; the message contains ``where``.
        """
        if table.get("version") != VERSION:
            raise LayoutError(
                expected(f"an evaluation of version {VERSION}", got=table.get("version"), where=where)
            )
        newer: dict[str, Any] = dict.fromkeys(("ranges", "group_calibration", "group_roc"), ())
        values = newer | {key: value for key, value in table.items() if key not in ("version", "roc_grid")}
        try:
            for key in ("metrics", "groups", "gaps", "ranges"):
                values[key] = tuple(Estimate.from_table(item) for item in values[key])
            values["thresholds"] = tuple(Threshold(**item) for item in values["thresholds"])
            for key in ("calibration", "group_calibration"):
                values[key] = tuple(_build(Calibration, item) for item in values[key])
            values["group_roc"] = tuple(_build(GroupCurve, item) for item in values["group_roc"])
            values["confusion"] = {
                key: tuple(tuple(row) for row in rows) for key, rows in values["confusion"].items()
            }
            values["roc"] = {key: tuple(curve) for key, curve in values["roc"].items()}
            values["labels"], values["notes"] = tuple(values["labels"]), tuple(values["notes"])
            return cls(**values)
        except (KeyError, TypeError, AttributeError) as error:
            raise LayoutError(expected("the keys of an evaluation", got=error, where=where)) from error


def _build(kind: type[Built], table: Mapping[str, Any]) -> Built:
    """Return ``kind(**table)`` with null as NaN in number fields and lists as tuples."""
    numbers = {name for name, hint in kind.__annotations__.items() if hint == "float"}
    values = {key: math.nan if value is None and key in numbers else value for key, value in table.items()}
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def in_words(row: Estimate, *, known: bool = True) -> str:
    """Return an estimate as text: value, interval, cases and patients, or images if patients are unknown."""
    rests_on = counted(row.n, row.patients, known=known)
    if math.isnan(row.value):
        return f"undefined ({row.note or 'not enough cases'}), {rests_on}"
    ends = "no interval" if math.isnan(row.low) else f"[{row.low:.3f}, {row.high:.3f}]"
    unit = f" ({row.note})" if row.name == "hd95" and row.note else ""
    return f"{row.value:.3f} {ends}{unit}, {rests_on}"


def counted(cases: int, patients: int, *, known: bool = True) -> str:
    """Return numbers of cases and patients in words, or only of images if patients are unknown."""
    return f"{cases} cases of {patients} patients" if known else f"{cases} images"
