"""Evaluations and comparisons that belong to a run's released weights, and why others are left out."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from meninx.core import artifacts, belonging, plain
from meninx.core.artifacts import (
    CaseValuesRecord,
    ComparisonRecord,
    EvaluationRecord,
    Origin,
    RunRecord,
)
from meninx.core.errors import DataError, problem
from meninx.metrics.estimates import ROC_GRID, Estimate, Evaluation
from meninx.metrics.intervals import CLOPPER_PEARSON, COMBINED, PERCENTILE, UNSEEN

TEST = "test"
_TASKS = ("multiclass", "multilabel", "segmentation")
_MOST = 200  # evaluations of one run that are read


@dataclass(frozen=True, kw_only=True)
class MeasuredSplit:
    """One evaluation that belongs to the released weights.

    Attributes:
        record: the file.
        origin: its origin.
        evaluation: its numbers.
        tag: what tells it from an evaluation on another dataset of the same name: the first digits of the
            dataset's digest, or more; empty where the name is the only one.
        case_values: label -> Dice of each case in ascending order, of a segmentation; empty without a record
            of the same weights and cases.
    """

    record: EvaluationRecord
    origin: Origin
    evaluation: Evaluation
    tag: str = ""
    case_values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def unseen(self) -> bool:
        """Whether measured patients were compared with the training patients and none is shared."""
        return self.record.patients_compared and self.record.patients_known

    @property
    def dataset(self) -> str:
        """The name of the dataset, told from others of the same name."""
        name = self.origin.dataset or "unnamed dataset"
        return f"{name} ({self.tag})" if self.tag else name

    @property
    def where(self) -> str:
        """The split and dataset in words."""
        name = self.dataset
        part = "all cases" if self.origin.split == "all" else f"{self.origin.split} split"
        return f"{part} of {name}" + (" (another dataset than the run's own)" if self.record.external else "")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One comparison that belongs to the released weights.

    Attributes:
        record: the file.
        origin: the run that was measured.
        baseline: the run it is compared with.
        differences: run minus baseline.
    """

    record: ComparisonRecord
    origin: Origin
    baseline: Origin
    differences: tuple[Estimate, ...]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was measured of one run.

    Attributes:
        own: evaluations on the run's own dataset, that of the test split first.
        external: evaluations on other datasets.
        comparisons: differences to other runs.
        refused: sentences about what is not shown, and why.
    """

    own: tuple[MeasuredSplit, ...] = ()
    external: tuple[MeasuredSplit, ...] = ()
    comparisons: tuple[Compared, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def test(self) -> MeasuredSplit | None:
        """The evaluation on the test split of the run's own dataset."""
        return next((item for item in self.own if item.origin.split == TEST), None)


def read(root: Path, run: RunRecord, name: str, *, closed: bool) -> Evidence:
    """Return what belongs to a run's released weights.

    Args:
        root: the run folder.
        run: its record; that of an older run has no identity.
        name: the run's name on the page.
        closed: exact numbers about training cases must not be shown: the run is private.

    Raises:
        DataError: a file is damaged; names it.
    """
    refused: list[str] = []
    measured = _evaluations(root, run, name, refused, closed=closed)
    own = [item for item in measured if not item.record.external]
    own.sort(key=lambda item: (item.origin.split != TEST, item.origin.split))
    return Evidence(
        own=tuple(own),
        external=_distinct([item for item in measured if item.record.external]),
        comparisons=tuple(_comparisons(root, run, name, refused)),
        refused=tuple(refused),
    )


def _evaluations(
    root: Path, run: RunRecord, name: str, refused: list[str], *, closed: bool
) -> list[MeasuredSplit]:
    found = []
    shown: dict[tuple[str, str], str] = {}
    for path in _files(root, EvaluationRecord):
        problem = belonging.unlisted(root, run, path.name)
        record = artifacts.read_file(path, EvaluationRecord) if not problem else None
        if record is None:
            refused += (
                [f"The evaluation in {path.name} of run {name} {problem}: not shown."] if problem else []
            )
            continue
        origin = record.origin
        problem = belonging.measured(record, run, path.name)
        if origin is not None and not problem:
            evaluation = typed(record.evaluation, f"{root.name}/{path.name}")
            problem = _unlike(origin, evaluation, closed=closed)
            if record.external and (origin.data, origin.split) in shown:
                problem = f"repeats that of {shown[origin.data, origin.split]}, on the same dataset"
            if not problem:
                values = _case_values(root, origin) if not record.external else {}
                shown |= {(origin.data, origin.split): path.name} if record.external else {}
                found.append(
                    MeasuredSplit(record=record, origin=origin, evaluation=evaluation, case_values=values)
                )
        if problem:
            refused.append(f"The evaluation in {path.name} of run {name} {problem}: not shown.")
    return found


def _distinct(measured: Sequence[MeasuredSplit]) -> tuple[MeasuredSplit, ...]:
    """Return evaluations on other datasets, those of one name with digits of their digests."""
    digests: dict[str, set[str]] = {}
    for item in measured:
        digests.setdefault(item.origin.dataset, set()).add(item.origin.data)
    return tuple(
        replace(item, tag=_shortest(item.origin.data, digests[item.origin.dataset])) for item in measured
    )


def _shortest(digest: str, every: Collection[str]) -> str:
    """Return the first digits of a digest, at least eight, that no other one has; empty without another."""
    others = [other for other in every if other != digest]
    length = next((n for n in range(8, len(digest)) if not any(o[:n] == digest[:n] for o in others)), None)
    return digest[:length] if others else ""


def _case_values(root: Path, origin: Origin) -> dict[str, tuple[float, ...]]:
    """Return the values of single cases of an evaluation on the run's own dataset; empty without any."""
    record = artifacts.read(root, CaseValuesRecord, split=origin.split, private=True)
    if record is None or not record.origin.same_model(origin) or record.origin.data != origin.data:
        return {}
    possible = all(0 <= value <= 1 for values in record.values.values() for value in values)
    if not possible or any(list(values) != sorted(values) for values in record.values.values()):
        where = f"{root.name}/{artifacts.place(CaseValuesRecord, split=origin.split)}"
        raise DataError(problem("the file does not hold the values of cases in order", where=where))
    return record.values


def _unlike(origin: Origin, evaluation: Evaluation, *, closed: bool) -> str:
    """Return why an evaluation of the released weights is not shown all the same; empty when it is."""
    if evaluation.split != origin.split:
        return "names two different splits"
    if closed and origin.split == "train":
        return "holds exact numbers about training cases of a private run"
    return ""


def _comparisons(root: Path, run: RunRecord, name: str, refused: list[str]) -> list[Compared]:
    found = []
    for path in _files(root, ComparisonRecord):
        problem = belonging.unlisted(root, run, path.name)
        record = artifacts.read_file(path, ComparisonRecord) if not problem else None
        if record is None:
            refused += (
                [f"The comparison in {path.name} of run {name} {problem}: not shown."] if problem else []
            )
            continue
        origin = record.origin
        problem = belonging.measured(record, run, path.name)
        if origin is not None and not problem:
            compared = _compared(record, origin, f"{root.name}/{path.name}")
            found += [compared] if compared is not None else []
            problem = "" if compared is not None else "is one with other cases or with no known run"
        if problem:
            refused.append(f"The comparison in {path.name} of run {name} {problem}: not shown.")
    return found


def typed(table: Mapping[str, Any], where: str) -> Evaluation:
    """Return the evaluation of a table, every type, length and range checked.

    Raises:
        DataError: something has another type or cannot be; names ``where``.
    """
    try:
        read_as = Evaluation.from_table(table, where)
        found = plain.from_plain(msgspec.to_builtins(read_as), Evaluation, where=where)
    except (ValueError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise DataError(
            problem("the file does not hold the numbers of an evaluation", where=where)
        ) from error
    name = "dice" if found.task == "segmentation" else "auroc"
    shape = {len(curve) for curve in found.roc.values()} <= {len(ROC_GRID)}
    square = all(len(row) in (2, len(found.labels)) for rows in found.confusion.values() for row in rows)
    square = square and len(found.confusion.get("", found.labels)) == len(found.labels)
    shape = shape and all(
        len(item.tpr) == len(ROC_GRID) and all(0 <= rate <= 1 for rate in item.tpr)
        for item in found.group_roc
    )
    every = (*found.calibration, *found.group_calibration)
    paired = all(len(item.predicted) == len(item.observed) for item in every)
    known = found.task in _TASKS and any(item.name == name and not item.attribute for item in found.metrics)
    if not (
        shape
        and square
        and paired
        and known
        and all(map(_possible, (*found.metrics, *found.groups, *found.gaps, *found.ranges)))
    ):
        raise DataError(problem("the evaluation holds impossible numbers", where=where))
    return found


def _possible(item: Estimate) -> bool:
    """Return whether an estimate is possible: area in [0, 1], ordered interval, counts from 0."""
    bounded = item.name not in ("auroc", "dice") or math.isnan(item.value) or 0 <= item.value <= 1
    ordered = math.isnan(item.low) or math.isnan(item.high) or item.low <= item.high
    named = item.interval in ("", PERCENTILE, CLOPPER_PEARSON, COMBINED, UNSEEN)
    return named and bounded and ordered and item.patients >= 0 and item.n >= 0 and not math.isinf(item.value)


def _files(root: Path, kind: type) -> Iterator[Path]:
    """Yield the files of a kind in the release, of the test split and of other splits and datasets."""
    place = PurePosixPath(artifacts.place(kind))
    folder = root / place.parent
    named = sorted(folder.glob(f"{place.stem}-*{place.suffix}")) if folder.is_dir() else []
    yield from (path for path in (root / place, *named[:_MOST]) if path.is_file())


def _paired(record: ComparisonRecord, origin: Origin, rows: Sequence[Estimate]) -> bool:
    """Return whether all pairs of a comparison are different runs on the same cases, with a value each."""
    first = [item for item in (record.origin, record.baseline) if item is not None]
    further = [item for pair in record.repeats for item in (pair.run, pair.baseline)]
    same = all((item.split, item.dataset) == (origin.split, origin.dataset) for item in further)
    named = [item.run for item in (*first, *further)]
    apart = all(named) and (not further or len(set(named)) == len(named))
    pairs = len(record.repeats) + 1 if further else 0
    valued = all(len(row.by_run) == (0 if math.isnan(row.value) else pairs) for row in rows)
    return same and apart and valued and 0 <= record.margin < 1


def _compared(record: ComparisonRecord, origin: Origin, where: str) -> Compared | None:
    """Return a comparison of two known runs on the same cases, None when it is none."""
    other = record.baseline
    if other is None or not other.run or (other.split, other.dataset) != (origin.split, origin.dataset):
        return None
    try:
        rows = tuple(Estimate.from_table(row) for row in record.differences)
        checked = plain.from_plain(msgspec.to_builtins(rows), tuple[Estimate, ...], where=where)
    except (TypeError, ValueError) as error:
        raise DataError(problem("the file does not hold estimates of differences", where=where)) from error
    if not checked or not all(map(_possible, checked)):
        raise DataError(problem("the comparison holds impossible differences", where=where))
    if not _paired(record, origin, checked):
        raise DataError(problem("the comparison holds pairs of runs that do not belong", where=where))
    return Compared(record=record, origin=origin, baseline=other, differences=checked)
