"""Evaluation of a run: thresholds from validation, estimates from test, intervals over patients.

Differences to a baseline are measured on the same resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from meninx.core import artifacts, belonging, integrity, names
from meninx.core import run as runs
from meninx.core.artifacts import (
    CaseValuesRecord,
    ComparisonRecord,
    EvaluationRecord,
    Origin,
    RepeatedPair,
    SettingDifference,
)
from meninx.core.errors import DataError, UsageError, problem
from meninx.core.manifest import Manifest, TaskKind, refuse_other_task
from meninx.core.progress import SILENT, Progress
from meninx.core.result import Result
from meninx.core.run import Run
from meninx.learn.dataset_fit import check_images
from meninx.metrics import evaluation, paired_difference, segmentation, thresholds
from meninx.metrics.estimates import Estimate, Evaluation, counted, in_words
from meninx.metrics.thresholds import Threshold
from meninx.train import bundle, effect, identity, other_intensity, predictions, repeats, testdata
from meninx.train.comparison import Arm, differing_settings
from meninx.train.config import EvaluateConfig
from meninx.train.external import LabelMatch
from meninx.train.identity import dataset_folder
from meninx.train.model_outputs import EvaluatedModel, ModelOutputs, outputs_of
from meninx.train.repeats import RunPair

Array = npt.NDArray[np.float64]
_MEASUREMENTS = (
    "evaluation",
    "comparison",
    bundle.THRESHOLDS_IN_RELEASE,
)  # first words of the names of files that an evaluation writes itself


@dataclass(frozen=True, kw_only=True)
class EvaluateResult(Result):
    """The main results of an evaluation; the full record is in ``out``.

    Attributes:
        split: the split measured, ``all`` of another dataset.
        dataset: short name of the measured dataset.
        cases: number of measured cases.
        patients: number of their patients, or of images where the source names no patients.
        patients_known: the dataset names its patients.
        metrics: the main metrics with their intervals, by name: means over labels, or the values of the only
            label.
        by_label: label -> the same metrics of that label.
        thresholds: label -> decision threshold, from the validation split of the run's own dataset. A label
            without one has no entry.
        difference: the headline's difference to the baseline; None without one.
        baseline: name of the baseline; empty without one.
        gap_differences: how much more each group loses than the others, with the verdict in ``note``; empty
            without a baseline or groups.
        external: whether it was measured on another dataset than the run's own.
        notes: caveats of these numbers.

    Examples:
        >>> auroc = Estimate(name="auroc", value=0.9, low=0.8, high=1.0, n=40, patients=20)
        >>> result = EvaluateResult(
        ...     out=Path("evaluation.json"), split="test", cases=40, patients=20, metrics={"auroc": auroc}
        ... )
        >>> result.metrics["auroc"].value, result.metrics["auroc"].low, result.metrics["auroc"].n
        (0.9, 0.8, 40)
    """

    split: str
    cases: int
    patients: int
    metrics: dict[str, Estimate] = field(default_factory=dict)
    by_label: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    difference: Estimate | None = None
    baseline: str = ""
    gap_differences: tuple[Estimate, ...] = ()
    dataset: str = ""
    external: bool = False
    patients_known: bool = True
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return the result in a few lines of text."""
        known = self.patients_known
        measured = counted(self.cases, self.patients, known=known)
        part = "all cases" if self.split == "all" else f"{self.split} split"
        if self.external:
            other = (
                f"{names.printable(self.dataset)}, {part}: {measured} (another dataset, not the test split"
            )
            lines = [f"out: {self.out}", f"{other} of the run's own)"]
        else:
            lines = [f"out: {self.out}", f"{part}: {measured}"]
        lines += [f"  {name:<22} {in_words(row, known=known)}" for name, row in self.metrics.items()]
        if self.difference is not None:
            what = self.difference.name.replace("_", " ")
            lines.append(f"{what} to the baseline {self.baseline}: {in_words(self.difference, known=known)}")
        lines += _gap_lines(self.gap_differences, known=known)
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _gap_lines(gaps: Sequence[Estimate], *, known: bool) -> list[str]:
    """Return how many group differences have each verdict, and those that are amplified or closed."""
    if not gaps:
        return []
    words = (
        paired_difference.AMPLIFIED, paired_difference.CLOSED, paired_difference.NOT_AMPLIFIED,
        paired_difference.NOT_DECIDED,
    )  # fmt: skip
    found = Counter(paired_difference.gap_verdict(item) for item in gaps)
    counts = ", ".join(f"{found[word]} {word}" for word in words)
    lines = [f"loss of a group beyond that of the others, {len(gaps)} rows: {counts}"]
    for item in gaps:
        if paired_difference.gap_verdict(item) in words[:2]:
            where = ", ".join(part for part in (item.label or "mean over labels", item.attribute) if part)
            lines.append(
                f"  {names.printable(f'{where} {item.group}')}: {in_words(item, known=known)}, {item.note}"
            )
    return lines


def run(
    config: EvaluateConfig,
    run_folder: Path,
    data: Path | None = None,
    *,
    progress: Progress = SILENT,
    network: nn.Module | None = None,
) -> EvaluateResult:
    """Measure a finished run and write its evaluation and, with a baseline, the comparison.

    ``release/evaluation.json`` is only for the test split of the run's own dataset; other splits and other
    datasets have other file names. Exact numbers about training patients of a private run are written to
    ``private/``, because the privacy guarantee does not cover them.

    Args:
        config: split, thresholds, resamples, baseline.
        run_folder: the run.
        data: dataset folder; the one the run was trained on by default.
        progress: shows the cases predicted.
        network: architecture of a run that was given its own network; a copy of it receives the weights.

    Raises:
        DataError: the split is empty or has no truth, its task is not the model's, or it contains
            patients who took part in training; the weights are not the released ones; or config.toml or a
            file of release/ was changed.
        UsageError: the run is not finished, a setting has no effect, or the source of DICOM segmentations is
            missing.
        RunLocked: the run is being trained or measured by another process.
    """
    folder = runs.open_run(run_folder)
    with folder.lock():
        notes = testdata.finished(folder)
        _refuse_changed(folder)
        dataset = Manifest.read(data or dataset_folder(folder))
        measurement = _Measurement(
            config, folder, dataset, given=data is not None, progress=progress, network=network
        )
        return measurement.result(notes)


def _refuse_changed(folder: Run) -> None:
    """Refuse a finished run whose settings or released files were changed since its release.

    Evaluations and comparisons are not checked: they are written again, and a killed evaluation leaves one
    that is not listed.
    """
    record = folder.record
    if record is None or not record.config:
        return  # a run of an earlier version, which has no digests
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
    for what, altered in (("changed", found.changed), ("missing", found.missing)):
        other = [name for name in altered if not name.startswith(_MEASUREMENTS)]
        if other:
            more = f" and {len(other) - 1} more" if len(other) > 1 else ""
            raise DataError(
                problem(f"released files were altered: {other[0]}{more} {what}", where=where, fix=fix)
            )


@dataclass(frozen=True)
class _OtherRun:
    """Another run with its outputs on the measured cases, shape (cases, labels)."""

    arm: Arm
    model: EvaluatedModel
    scores: Array


class _Measurement:
    """The state of one call of :func:`run`; all numbers are computed before the first file is written."""

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
        self.model = EvaluatedModel.of(folder, network)
        refuse_other_task(self.model.info, dataset.info)
        wanted = dataset if config.split == "all" else dataset.split(config.split)
        if not len(wanted):
            raise DataError(testdata.empty_split(dataset, config.split))
        self.match = LabelMatch.of(self.model.info.labels, dataset.info.labels, config.rename_labels)
        self.chosen = self.match.usable(wanted)
        self.left_out = len(wanted) - len(self.chosen)
        testdata.check_truth(self.match, self.chosen)
        self.caveats = check_images(self.model.info, dataset.info, self.model.learned.model)
        self.standing = testdata.standing(
            folder, dataset, self.chosen, given=given, other_patients=config.other_patients
        )
        self._refuse_idle()
        self.caveats += self.standing.notes()
        if self.standing.external:
            self.caveats += self._intensity_caveats(self.folder, self.model)
        own = self.standing.own
        self.valid = own.split("valid") if own is not None else dataset.select(lambda case: False)
        effect.refuse_idle_evaluation(config, dataset.info, len(self.valid))
        self.private = testdata.is_private(folder) and config.split == "train" and not self.standing.external
        self.baseline, self.baseline_name = Origin(run="", data=""), ""
        self.differing: tuple[SettingDifference, ...] = ()
        self.repeats: tuple[RepeatedPair, ...] = ()
        self.compared_note = ""

    def _intensity_caveats(self, folder: Run, model: EvaluatedModel) -> list[str]:
        """Return caveats about how the brightness of another dataset differs from the training images."""
        private, allowed = testdata.is_private(folder), self.config.allow_other_intensity
        return other_intensity.check(model.info, self.chosen, private=private, allowed=allowed)

    def _refuse_idle(self) -> None:
        """Refuse settings that only apply to another dataset than the run's own."""
        if self.standing.external:
            return
        if self.config.rename_labels:
            raise UsageError("rename_labels has no effect on the run's own dataset; leave it out")
        if self.config.allow_other_intensity:
            raise UsageError("allow_other_intensity has no effect on the run's own dataset; leave it out")
        if self.config.split == "all":
            fix = "name a split; all is for another dataset, of which training saw no case"
            raise UsageError(
                problem("the run's own dataset holds its training cases", where="split", fix=fix)
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the evaluated columns; for classes these are all, since the highest score decides."""
        multiclass = self.model.info.task is TaskKind.MULTICLASS
        return self.model.info.labels if multiclass else self.match.measured

    def _columns(self, table: Array) -> Array:
        """Return the columns of :attr:`labels` from a table with one column per output of the model."""
        return table[:, [self.model.info.labels.index(label) for label in self.labels]]

    def result(self, notes: Sequence[str]) -> EvaluateResult:
        """Compute and write everything, and return the main results."""
        config, labels = self.config, self.model.info.labels
        maps = predictions.PredictionFiles(self.folder, self.chosen, config, labels, self.standing.short)
        measured = outputs_of(config, self.model, self.match, self.chosen, self.valid, self.progress, maps)
        truth = self._columns(self.match.targets(self.chosen)) if measured.surfaces is None else None
        found = self._evaluation(measured, truth)
        if not any(np.isfinite(row.value) for row in found.metrics):
            fix = "measure cases that have the label and cases that do not"
            raise DataError(problem("no metric can be computed", where=f"split {config.split!r}", fix=fix))
        rows = self._differences(measured, truth)
        maps.publish(measured.scores, labels, measured.surfaces)
        path = self._write(found, rows)
        if measured.surfaces is not None:
            self._write_case_values(measured.scores)
        first = [row for row in found.metrics if not row.label] or list(found.metrics)
        return EvaluateResult(
            out=path,
            split=config.split,
            dataset=self.dataset.info.name,
            cases=found.n_cases,
            patients=found.n_patients,
            metrics={row.name: row for row in first},
            by_label=_by_label(found),
            thresholds={item.label: item.value for item in found.thresholds},
            difference=rows[0] if rows else None,
            baseline=self.baseline_name,
            gap_differences=tuple(row for row in rows if row.name in paired_difference.GAP_NAMES),
            external=self.standing.external,
            patients_known=self.dataset.info.patients_known,
            notes=(*notes, *self._notes(), *self._own_notes(found)),
        )

    def _own_notes(self, found: Evaluation) -> list[str]:
        """Return caveats of these numbers for record and result, besides the general conventions."""
        decided = {item.label for item in found.thresholds}
        undecided = [row.label for row in found.metrics if row.name == "auroc" and row.label not in decided]
        notes = [*self.match.notes(self.left_out), *self.caveats]
        known = self.model.info.task is TaskKind.MULTILABEL or len(self.model.info.labels) == 2
        undecided = [label for label in undecided if label] if known else []
        if undecided and decided | set(self._one_class()):
            names_of = ", ".join(names.printable(label) for label in undecided)
            notes.append(
                f"no threshold, so no decisions, for {names_of}: one class of it is absent in validation"
            )
        return notes

    def _one_class(self) -> list[str]:
        """Return notes on labels for which the validation split contains only one class."""
        truth = self.valid.targets()
        return [
            label
            for column, label in enumerate(self.valid.info.labels)
            if len(truth) and not {0.0, 1.0} <= set(truth[:, column].tolist())
        ]

    def _notes(self) -> list[str]:
        notes = [self.compared_note] if self.compared_note else []
        if self.private:
            notes.append("exact numbers about training patients of a private run: they stay in private/")
        unequal = self.standing.equal_identifiers == 0  # equal identifiers have a note of their own
        if not self.standing.compared and unequal and (self.standing.external or self.config.split == "test"):
            notes.append("whether measured patients took part in training could not be compared")
        if self.standing.external and self.config.split == "test" and len(self.chosen) < len(self.dataset):
            every = len(self.dataset.patients) if self.dataset.info.patients_known else len(self.dataset)
            unit = "patients" if self.dataset.info.patients_known else "images"
            notes.append(f"the dataset has {every} {unit}; `--split all` measures all of them")
        return notes

    def _fitted(self, measured: ModelOutputs) -> tuple[Threshold, ...]:
        """Return thresholds fitted on the run's own validation split, or those of its earlier evaluation.

        Nothing is fitted on another dataset, which would make its results too good.
        """
        if measured.surfaces is not None:
            return ()
        if measured.validation is None:
            return self._released_thresholds()
        return thresholds.fit_thresholds(
            self.valid.targets(), measured.validation, self.model.info.labels, rule=self.config.threshold
        )

    def _released_thresholds(self) -> tuple[Threshold, ...]:
        """Return the thresholds of the run's own evaluation, if there is one of the released weights."""
        run, record = self.folder.record, artifacts.read(self.folder.root, EvaluationRecord)
        name = Path(artifacts.place(EvaluationRecord)).name
        if run is None or record is None or not self.standing.external:
            return ()
        if belonging.measured(record, run, name) or belonging.unlisted(self.folder.root, run, name):
            return ()
        return tuple(
            item
            for item in Evaluation.from_table(record.evaluation).thresholds
            if item.rule == self.config.threshold
        )

    def _evaluation(self, measured: ModelOutputs, truth: Array | None) -> Evaluation:
        """Return all metrics of the chosen cases."""
        config, chosen = self.config, self.chosen
        attributes = {name: chosen.attribute(name) for name in self.dataset.info.attributes}
        common: dict[str, Any] = {"seed": config.seed, "draws": config.draws, "split": config.split}
        scores, patients = self._columns(measured.scores), chosen.patient_index()
        if truth is None or measured.surfaces is not None:
            surfaces = measured.surfaces.columns(self.match.columns) if measured.surfaces else None
            found = segmentation.evaluate_segmentation(
                scores, patients, self.labels, attributes, surfaces=surfaces, **common
            )
        else:
            fitted = self._fitted(measured)
            found = evaluation.evaluate_classification(
                truth,
                scores,
                patients,
                self.labels,
                attributes,
                fitted,
                asked=self.match.measured,
                task=str(self.dataset.info.task),
                **common,
            )
            if not fitted and (self.standing.own is None or not len(self.valid)):
                self.caveats.append(
                    "no thresholds: the validation split that they are fitted on is not there as it was"
                )
        return replace(found, notes=(*found.notes, *self._own_notes(found)))

    def _differences(self, measured: ModelOutputs, truth: Array | None) -> list[Estimate]:
        """Return the differences to the baseline, if there is one."""
        if self.config.baseline is None:
            return []
        pair = self._other(self.config.baseline)
        self.baseline, self.baseline_name = self._origin_of(pair.arm, pair.model), pair.arm.run.name
        mine = Arm(self.folder, self.model.learned, self.model.info)
        self.differing = differing_settings(mine, pair.arm)
        scores = [(self._columns(measured.scores), pair.scores)]
        compared = [RunPair(mine, pair.arm)]
        for run_folder, baseline in repeats.paths(self.config.repeats):
            one, other = self._other(run_folder), self._other(baseline)
            scores.append((one.scores, other.scores))
            compared.append(RunPair(one.arm, other.arm))
            self.repeats += (
                RepeatedPair(
                    run=self._origin_of(one.arm, one.model),
                    baseline=self._origin_of(other.arm, other.model),
                    run_name=one.arm.run.name,
                    baseline_name=other.arm.run.name,
                ),
            )
        if self.repeats:
            repeats.refuse_strangers(compared)
        return self._compared(scores, truth)

    def _other(self, folder: Path) -> _OtherRun:
        """Return another run with its outputs on the measured cases.

        Raises:
            DataError: it has other labels, was changed, or saw measured patients in training.
        """
        other = runs.open_run(folder)
        testdata.finished(other)
        _refuse_changed(other)
        model = EvaluatedModel.of(other, self.network)
        refuse_other_task(model.info, self.dataset.info)
        if set(model.info.labels) != set(self.model.info.labels):
            fix = "compare runs that were trained for the same labels"
            raise DataError(problem("the baseline has other labels", where=other.name, fix=fix))
        check_images(model.info, self.dataset.info, model.learned.model)
        if not identity.is_own(other, self.dataset.root):
            self._intensity_caveats(other, model)
        testdata.refuse_trained_on(
            other, self.chosen, self.dataset, other_patients=self.config.other_patients
        )
        nothing = self.dataset.select(lambda case: False)
        match = LabelMatch.of(model.info.labels, self.dataset.info.labels, self.config.rename_labels)
        outcome = outputs_of(self.config, model, match, self.chosen, nothing, self.progress, None)
        theirs = outcome.scores[:, [model.info.labels.index(label) for label in self.labels]]
        return _OtherRun(Arm(other, model.learned, model.info), model, theirs)

    def _origin_of(self, arm: Arm, model: EvaluatedModel) -> Origin:
        return identity.origin(arm.run, weights=model.weights, step=model.step, split=self.config.split)

    def _compared(self, scores: Sequence[tuple[Array, Array]], truth: Array | None) -> list[Estimate]:
        """Return the differences of pairs of outputs, averaged over the pairs."""
        attributes = {name: self.chosen.attribute(name) for name in self.dataset.info.attributes}
        common: dict[str, Any] = {"seed": self.config.seed, "draws": self.config.draws}
        mine, theirs = ([pair[side] for pair in scores] for side in (0, 1))
        patients = self.chosen.patient_index()
        if truth is None:
            return segmentation.compare_segmentation(
                mine[0], theirs[0], patients, self.labels, attributes, **common
            )
        return paired_difference.compare(
            np.stack(mine),
            np.stack(theirs),
            truth,
            patients,
            self.labels,
            attributes,
            asked=self.match.measured,
            task=str(self.dataset.info.task),
            **common,
        )

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
                repeats=self.repeats,
                margin=paired_difference.MARGIN,
            )
            self.compared_note = table.note()
            added.append(artifacts.write(self.folder.root, table, **place))
        elif compared.is_file() and not self._still_holds(compared, origin):
            compared.unlink()
            removed.append(compared)
        if path == self.folder.root / artifacts.place(EvaluationRecord):
            place_of = self.folder.release / bundle.FOLDER
            written, gone = bundle.write_thresholds(
                place_of,
                found.thresholds,
                weights=self.model.weights,
                source=fitted,
                private=testdata.is_private(self.folder),
            )
            added, removed = [*added, *written], [*removed, *gone]
        if not self.private:
            self.folder.enlist(added=added, removed=removed)
        return path

    def _write_case_values(self, dice: Array) -> None:
        """Write the sorted Dice of all cases, for the figure of the report."""
        values = {}
        for label, column in zip(self.labels, self._columns(dice).T, strict=True):
            values[label] = tuple(sorted(float(value) for value in column[~np.isnan(column)]))
        record = CaseValuesRecord(origin=self._origin(), metric="dice", values=values)
        artifacts.write(
            self.folder.root, record, split=self.config.split, dataset=self.standing.short, private=True
        )

    def _still_holds(self, path: Path, origin: Origin) -> bool:
        """Return whether a comparison is listed and belongs to the measured weights and dataset."""
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


def _by_label(found: Evaluation) -> dict[str, dict[str, Estimate]]:
    """Return label -> metric -> estimate, labels in the order of the evaluation."""
    table: dict[str, dict[str, Estimate]] = {}
    for row in found.metrics:
        if row.label:
            table.setdefault(row.label, {})[row.name] = row
    return table
