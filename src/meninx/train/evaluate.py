"""Evaluation of a run: thresholds from validation, estimates from test, intervals over patients.

It also gives differences to a baseline.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from meninx.core import artifacts, belonging, integrity, settings
from meninx.core import run as runs
from meninx.core.artifacts import ComparisonRecord, EvaluationRecord, Origin, SettingDifference
from meninx.core.errors import DataError, problem
from meninx.core.manifest import DatasetInfo, Manifest, TaskKind
from meninx.core.progress import SILENT, Progress, task
from meninx.core.result import Result
from meninx.core.run import Run
from meninx.learn.config import LearnConfig
from meninx.learn.inference import load_model, predict, predict_maps, released_step, weights_digest
from meninx.metrics import evaluation, segmentation, thresholds
from meninx.metrics.estimates import Estimate, Evaluation
from meninx.models import registry
from meninx.train import effect, identity, predictions, testdata
from meninx.train.comparison import Arm, differing_settings
from meninx.train.config import EvaluateConfig, TrainConfig
from meninx.train.identity import dataset_of

Array = npt.NDArray[np.float64]
_MEASUREMENTS = (
    "evaluation",
    "comparison",
)  # first words of the names of files that an evaluation writes itself


@dataclass(frozen=True, kw_only=True)
class EvaluateResult(Result):
    """The headline of an evaluation; the whole of it lies in ``out``.

    Attributes:
        split: the split measured.
        cases: its cases.
        patients: its patients; of images where the source names no patients.
        patients_known: the dataset names its patients.
        metrics: the first metrics with their intervals, by name.
        difference: the headline's difference to the baseline; None without one.
        external: measured on another dataset than the run's own.
        notes: caveats of these numbers.
    """

    split: str
    cases: int
    patients: int
    metrics: dict[str, Estimate] = field(default_factory=dict)
    difference: Estimate | None = None
    external: bool = False
    patients_known: bool = True
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return the result in a few lines for people."""
        where = f"{self.split} split{' of another dataset' if self.external else ''}"
        lines = [f"out: {self.out}", f"{where}: {_counted(self.cases, self.patients, self.patients_known)}"]
        lines += [
            f"  {name:<22} {said(row, known=self.patients_known)}" for name, row in self.metrics.items()
        ]
        if self.difference is not None:
            lines.append(
                f"{self.difference.name.replace('_', ' ')} to the baseline: "
                f"{said(self.difference, known=self.patients_known)}"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def run(
    config: EvaluateConfig,
    run_folder: Path,
    data: Path | None = None,
    *,
    progress: Progress = SILENT,
    network: nn.Module | None = None,
) -> EvaluateResult:
    """Measure a finished run and write its evaluation, with a baseline also the comparison.

    ``release/evaluation.json`` is the test split of the run's own dataset alone; other splits and other
    datasets have names of their own. Exact numbers about training patients of a private run go to
    ``private/``.

    Args:
        config: split, thresholds, resamples, baseline.
        run_folder: the run.
        data: dataset folder; the one the run was trained on by default.
        progress: shows the cases predicted.
        network: the architecture of a run that was given a network of its own; a copy of it is filled.

    Raises:
        DataError: the split is empty or has no truth, asks something else than the model learnt, or holds
            patients who took part in training; the weights are not the released ones; or config.toml or a
            file of release/ was changed.
        UsageError: not a finished run, a setting without effect, or DICOM segmentations without their source.
        RunLocked: the run is being trained or measured by another process.
    """
    folder = runs.open_run(run_folder)
    with folder.lock():
        notes = testdata.finished(folder)
        _refuse_changed(folder)
        dataset = Manifest.read(data or dataset_of(folder))
        measurement = _Measurement(
            config, folder, dataset, given=data is not None, progress=progress, network=network
        )
        return measurement.result(notes)


def _refuse_changed(folder: Run) -> None:
    """Refuse a finished run whose settings or released files are not those that it was released with.

    Evaluations and comparisons are not compared: they are written again, and a killed evaluation leaves one
    that is not listed.
    """
    record = folder.record
    if record is None or not record.config:
        return  # of an earlier version, which kept no digests
    if folder.config_digest != record.config:
        fix = "restore the file; a changed config belongs to another run"
        where = f"{folder.name}/{folder.config_path.name}"
        raise DataError(problem("the config was changed since the run was made", where=where, fix=fix))
    if not record.release:
        return
    where, fix = (
        f"{folder.name}/{folder.release.name}",
        "restore it, or train again; `meninx verify` names every change",
    )
    if not record.names_list(integrity.digest_of(folder.release)):
        raise DataError(
            problem(
                "the list of digests is missing, or is not the one that run.json names", where=where, fix=fix
            )
        )
    found = integrity.damage(folder.release)
    for what, names in (("changed", found.changed), ("missing", found.missing)):
        other = [name for name in names if not name.startswith(_MEASUREMENTS)]
        if other:
            more = f" and {len(other) - 1} more" if len(other) > 1 else ""
            raise DataError(
                problem(f"released files were altered: {other[0]}{more} {what}", where=where, fix=fix)
            )


class _Measurement:
    """One call of :func:`run`: all numbers are made before the first file is written."""

    def __init__(
        self,
        config: EvaluateConfig,
        folder: Run,
        dataset: Manifest,
        *,
        given: bool,
        progress: Progress,
        network: nn.Module | None,
    ) -> None:
        self.config, self.folder, self.dataset, self.progress = config, folder, dataset, progress
        self.network = network
        self.chosen = dataset.split(config.split)
        if not len(self.chosen):
            raise DataError(problem("the split has no cases", where=f"split {config.split!r}"))
        self.model = _Model.of(folder, network)
        testdata.check_meaning(self.model.info, dataset, self.chosen)
        self.standing = testdata.standing(folder, dataset, self.chosen, given=given)
        own = self.standing.own
        self.valid = own.split("valid") if own is not None else dataset.select(lambda case: False)
        effect.refuse_idle_evaluation(config, dataset.info, len(self.valid))
        self.private = testdata.is_private(folder) and config.split == "train" and not self.standing.external
        self.baseline, self.baseline_name = Origin(run="", data=""), ""
        self.differing: tuple[SettingDifference, ...] = ()
        self.compared_note = ""

    def result(self, notes: Sequence[str]) -> EvaluateResult:
        """Measure, write, and return the headline."""
        config, dataset = self.config, self.dataset
        maps = predictions.PredictionFiles(self.folder, self.chosen, config, self.standing.short)
        measured, truth = _outcome(config, self.model, self.chosen, self.valid, self.progress, maps)
        found = _evaluation(config, dataset, self.chosen, measured, truth, self._fitted(measured))
        if not any(np.isfinite(row.value) for row in found.metrics):
            raise DataError(problem("no metric can be computed", where=f"split {config.split!r}"))
        rows = self._differences(measured, truth)
        maps.publish(measured.scores, self.model.info.labels)
        path = self._write(found, rows)
        first = [row for row in found.metrics if not row.label] or list(found.metrics)
        return EvaluateResult(
            out=path,
            split=config.split,
            cases=found.n_cases,
            patients=found.n_patients,
            metrics={row.name: row for row in first},
            difference=rows[0] if rows else None,
            external=self.standing.external,
            patients_known=dataset.info.patients_known,
            notes=(*notes, *self._notes()),
        )

    def _notes(self) -> list[str]:
        notes = [self.compared_note] if self.compared_note else []
        if self.private:
            notes.append("exact numbers about training patients of a private run: they stay in private/")
        if not self.standing.compared and self.config.split == "test":
            notes.append("whether measured patients took part in training could not be compared")
        if self.standing.own is None and self.dataset.info.task is not TaskKind.SEGMENTATION:
            notes.append("no thresholds: the validation split that they are fitted on is not there as it was")
        return notes

    def _fitted(self, measured: _Outcome) -> tuple[Any, ...]:
        """Return thresholds fitted on the run's own validation split, or none without such a split."""
        if measured.validation is None:
            return ()
        return thresholds.fit_thresholds(
            self.valid.targets(), measured.validation, self.dataset.info.labels, rule=self.config.threshold
        )

    def _differences(self, measured: _Outcome, truth: Array) -> list[Estimate]:
        """Return the differences to the baseline; none without one."""
        if self.config.baseline is None:
            return []
        other = runs.open_run(self.config.baseline)
        testdata.finished(other)
        _refuse_changed(other)
        model = _Model.of(other, self.network)
        testdata.check_meaning(model.info, self.dataset, self.chosen)
        testdata.refuse_trained_on(other, self.chosen, self.dataset)
        nothing = self.dataset.select(lambda case: False)
        outcome, _ = _outcome(self.config, model, self.chosen, nothing, self.progress, None)
        self.baseline = identity.origin(
            other, weights=model.weights, step=model.step, split=self.config.split
        )
        self.baseline_name = other.name
        self.differing = differing_settings(
            Arm(self.folder, self.model.learned, self.model.info), Arm(other, model.learned, model.info)
        )
        return _differences(self.config, self.dataset, self.chosen, measured.scores, outcome.scores, truth)

    def _origin(self) -> Origin:
        return identity.origin(
            self.folder,
            weights=self.model.weights,
            step=self.model.step,
            split=self.config.split,
            data=self.standing.data,
            dataset=self.dataset.info.name,
        )

    def _write(self, found: Evaluation, rows: Sequence[Estimate]) -> Path:
        """Write the evaluation, then the comparison; remove a comparison that belongs to another model."""
        place: dict[str, Any] = {
            "split": self.config.split,
            "dataset": self.standing.short,
            "private": self.private,
        }
        origin, known = self._origin(), self.dataset.info.patients_known
        fitted = (
            f"valid of {self.standing.own.info.name}"
            if self.standing.own is not None and found.thresholds
            else ""
        )
        path = artifacts.write(
            self.folder.root,
            EvaluationRecord(
                origin=origin,
                evaluation=found.to_table(),
                external=self.standing.external,
                patients_compared=self.standing.compared,
                patients_known=known,
                thresholds_from=fitted,
            ),
            **place,
        )
        compared = self.folder.root / artifacts.place(ComparisonRecord, **place)
        added, removed = [path], []
        if rows:
            table = ComparisonRecord(
                origin=origin,
                baseline=self.baseline,
                baseline_name=self.baseline_name,
                differences=tuple(row.to_table() for row in rows),
                differing=self.differing,
            )
            self.compared_note = table.note()
            added.append(artifacts.write(self.folder.root, table, **place))
        elif compared.is_file() and not self._still_holds(compared, origin):
            compared.unlink()
            removed.append(compared)
        if not self.private:
            self.folder.enlist(added=added, removed=removed)
        return path

    def _still_holds(self, path: Path, origin: Origin) -> bool:
        """Return whether a comparison is listed and belongs to the weights and the dataset just measured."""
        record = self.folder.record
        if (
            not self.private
            and record is not None
            and belonging.unlisted(self.folder.root, record, path.name)
        ):
            return False
        comparison = artifacts.read_file(path, ComparisonRecord)
        made = comparison.origin if comparison is not None else None
        return made is not None and made.same_model(origin) and made.data == origin.data


def said(row: Estimate, *, known: bool = True) -> str:
    """Return an estimate as text: value, interval, cases and patients.

    Images are counted where patients are not ``known``.
    """
    return f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}], {_counted(row.n, row.patients, known)}"


def _counted(cases: int, patients: int, known: bool) -> str:
    return f"{cases} cases of {patients} patients" if known else f"{cases} images"


@dataclass(frozen=True)
class _Model:
    """A trained network and what it was trained for."""

    network: nn.Module
    learned: LearnConfig
    info: DatasetInfo
    weights: str
    step: int

    @classmethod
    def of(cls, folder: Run, network: nn.Module | None) -> _Model:
        """Return the released model of a run; refuse a checkpoint with other weights."""
        settled = settings.resolve_recipe(TrainConfig, str(folder.config_path))
        own = network if settled.model.name.startswith(registry.OWN_PREFIX) else None
        network, learned, info = load_model(folder, network=copy.deepcopy(own))
        weights = weights_digest(network)
        testdata.check_weights(folder, weights)
        return cls(network, learned, info, weights, released_step(folder))


@dataclass(frozen=True)
class _Outcome:
    """Output of a model on the chosen split and on validation: scores, or the Dice of each case."""

    scores: Array
    validation: Array | None = None


def _outcome(
    config: EvaluateConfig,
    model: _Model,
    chosen: Manifest,
    valid: Manifest,
    progress: Progress,
    maps: predictions.PredictionFiles | None,
) -> tuple[_Outcome, Array]:
    learned = model.learned.replace(device=config.device)
    with task(progress, f"predicting {config.split}", len(chosen)):
        if chosen.info.task is TaskKind.SEGMENTATION:
            dice = []
            for case, label_map in predict_maps(model.network, model.info, chosen, learned):
                dice.append(
                    segmentation.dice(label_map, predictions.read_mask(chosen, case), len(model.info.labels))
                )
                if maps is not None:
                    maps.keep(case, label_map)
                progress.advance()
            return _Outcome(np.array(dice, dtype=np.float64)), np.zeros((0, 0))
        said_of = predict(model.network, model.info, chosen, learned).probabilities.astype(np.float64)
        on_valid = None
        if len(valid):
            on_valid = predict(model.network, model.info, valid, learned).probabilities.astype(np.float64)
        return _Outcome(said_of, on_valid), chosen.targets().astype(np.float64)


def _evaluation(
    config: EvaluateConfig,
    dataset: Manifest,
    chosen: Manifest,
    outcome: _Outcome,
    truth: Array,
    fitted: tuple[Any, ...],
) -> Evaluation:
    attributes = {name: chosen.attribute(name) for name in dataset.info.attributes}
    common: dict[str, Any] = {"seed": config.seed, "draws": config.draws, "split": config.split}
    labels = dataset.info.labels
    if dataset.info.task is TaskKind.SEGMENTATION:
        return segmentation.evaluate_segmentation(
            outcome.scores, chosen.patient_index(), labels, attributes, **common
        )
    return evaluation.evaluate_classification(
        truth,
        outcome.scores,
        chosen.patient_index(),
        labels,
        attributes,
        fitted,
        task=str(dataset.info.task),
        **common,
    )


def _differences(
    config: EvaluateConfig, dataset: Manifest, chosen: Manifest, mine: Array, theirs: Array, truth: Array
) -> list[Estimate]:
    attributes = {name: chosen.attribute(name) for name in dataset.info.attributes}
    common: dict[str, Any] = {"seed": config.seed, "draws": config.draws}
    labels, patients = dataset.info.labels, chosen.patient_index()
    if dataset.info.task is TaskKind.SEGMENTATION:
        return segmentation.compare_segmentation(mine, theirs, patients, labels, attributes, **common)
    return evaluation.compare(
        mine, theirs, truth, patients, labels, attributes, task=str(dataset.info.task), **common
    )
