"""Evaluation of a run: thresholds from validation, numbers from test, intervals over patients, differences to a baseline."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core import run as runs
from meninx.core.errors import DataError, UsageError, expected
from meninx.core.manifest import Manifest, Task
from meninx.core.progress import SILENT, Progress, task
from meninx.core.result import Result
from meninx.core.run import Run
from meninx.learn.predict import load_model, predict, predict_maps
from meninx.metrics import evaluation, segmentation, thresholds
from meninx.metrics.evaluation import Estimate, Evaluation
from meninx.train import predictions
from meninx.train.config import EvaluateConfig
from meninx.train.dicom_source import DicomSources
from meninx.train.stage import dataset_of

Array = npt.NDArray[np.float64]
EVALUATION = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class EvaluateResult(Result):
    """The headline of an evaluation; the whole of it lies in ``release/evaluation.json``.

    Attributes:
        split: the split measured.
        cases: its cases.
        patients: its patients.
        headline: the first metrics with their intervals.
        difference: the headline's difference to the baseline, when one was given.
    """

    split: str
    cases: int
    patients: int
    headline: dict[str, str] = field(default_factory=dict)
    difference: str = ""


def run(config: EvaluateConfig, run_folder: Path, data: Path | None = None, *, progress: Progress = SILENT) -> EvaluateResult:
    """Measure a run and write ``release/evaluation.json``, with a baseline also ``release/comparison.json``.

    Another split than test goes to ``release/evaluation-<split>.json``, so that it never takes the test's place.

    Args:
        config: split, thresholds, resamples, baseline.
        run_folder: the run.
        data: dataset folder; the one the run was trained on by default.
        progress: shows the cases predicted.

    Raises:
        DataError: the split is empty, or the model does not fit the data.
        UsageError: not a run folder, label maps wanted of a classifier, or DICOM segmentations without their source.
    """
    folder = runs.open_run(run_folder)
    dataset = Manifest.read(data or dataset_of(folder))
    chosen = dataset.split(config.split)
    if not len(chosen):
        raise DataError(expected("at least one case", got="none", where=f"split {config.split!r}"))
    _refuse_maps_of_no_map(config, dataset)
    measured, truth = _outcome(config, folder, dataset, chosen, progress)
    found = _evaluation(config, dataset, chosen, measured, truth, _fitted(config, folder, dataset, measured))
    name = EVALUATION if config.split == "test" else f"evaluation-{config.split}.json"
    folder.write_json(f"release/{name}", found.to_table())
    difference = ""
    if config.baseline is not None:
        other = runs.open_run(config.baseline)
        outcome, _ = _outcome(replace(config, predictions=()), other, dataset, chosen, progress)  # its folder stays as it is
        rows = _differences(config, dataset, chosen, measured.scores, outcome.scores, truth)
        table = {"run": folder.name, "baseline": other.name, "differences": [row.to_table() for row in rows]}
        folder.write_json("release/comparison.json", table)
        difference = said(rows[0])
    first = [row for row in found.metrics if not row.label] or list(found.metrics)
    return EvaluateResult(
        out=folder.release / name, split=config.split, cases=found.n_cases, patients=found.n_patients,
        headline={row.name: said(row) for row in first}, difference=difference,
    )  # fmt: skip


def _refuse_maps_of_no_map(config: EvaluateConfig, dataset: Manifest) -> None:
    maps = [name for name in config.predictions if name != "csv"]
    if maps and dataset.info.task is not Task.SEGMENTATION:
        got = f"{', '.join(maps)} for {dataset.info.task}"
        raise UsageError(expected("predictions as csv", got=got, where="predictions", fix="only segmentation has label maps"))


def said(row: Estimate) -> str:
    """Return an estimate as text: value, interval, cases and patients."""
    return f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}], n = {row.n} of {row.patients} patients"


@dataclass(frozen=True)
class _Outcome:
    """What a model said about the chosen split (scores, or Dice of each case) and about the validation split."""

    scores: Array
    validation: Array | None = None


def _outcome(
    config: EvaluateConfig, folder: Run, dataset: Manifest, chosen: Manifest, progress: Progress
) -> tuple[_Outcome, Array]:
    model, learned, info = load_model(folder)
    learned = replace(learned, device=config.device)
    sources = DicomSources.find(chosen, config.dicom) if "dicom-seg" in config.predictions else None
    with task(progress, f"predicting {config.split}", len(chosen)):
        if dataset.info.task is Task.SEGMENTATION:
            dice = []
            for case, label_map in predict_maps(model, info, chosen, learned):
                truth_map = predictions.read_mask(chosen, case)
                dice.append(segmentation.dice(label_map, truth_map, len(info.labels)))
                predictions.keep_map(folder, chosen, case, label_map, config.predictions, sources)
                progress.advance()
            table = np.array(dice, dtype=np.float64)
            predictions.write_table(folder, config.split, chosen, table, info.labels, config.predictions)
            return _Outcome(table), np.zeros((0, 0))
        said_of = predict(model, info, chosen, learned).probabilities.astype(np.float64)
        valid = dataset.split("valid")
        on_valid = predict(model, info, valid, learned).probabilities.astype(np.float64) if len(valid) else None
        predictions.write_table(folder, config.split, chosen, said_of, info.labels, config.predictions)
        return _Outcome(said_of, on_valid), chosen.targets().astype(np.float64)


def _fitted(config: EvaluateConfig, folder: Run, dataset: Manifest, outcome: _Outcome) -> tuple[Any, ...]:
    """Return thresholds fitted on the validation split, and none when there is no such split."""
    if outcome.validation is None or dataset.info.task is Task.SEGMENTATION:
        return ()
    truth = dataset.split("valid").targets()
    return thresholds.fit(truth, outcome.validation, dataset.info.labels, rule=config.threshold)


def _evaluation(
    config: EvaluateConfig, dataset: Manifest, chosen: Manifest, outcome: _Outcome, truth: Array, fitted: tuple[Any, ...]
) -> Evaluation:
    attributes = {name: chosen.attribute(name) for name in dataset.info.attributes}
    common: dict[str, Any] = {"seed": config.seed, "draws": config.draws, "split": config.split}
    labels = dataset.info.labels
    if dataset.info.task is Task.SEGMENTATION:
        return evaluation.evaluate_segmentation(outcome.scores, chosen.patient_index(), labels, attributes, **common)
    return evaluation.evaluate_classification(
        truth, outcome.scores, chosen.patient_index(), labels, attributes, fitted, task=str(dataset.info.task), **common
    )


def _differences(
    config: EvaluateConfig, dataset: Manifest, chosen: Manifest, mine: Array, theirs: Array, truth: Array
) -> list[Estimate]:
    attributes = {name: chosen.attribute(name) for name in dataset.info.attributes}
    common: dict[str, Any] = {"seed": config.seed, "draws": config.draws}
    labels, patients = dataset.info.labels, chosen.patient_index()
    if dataset.info.task is Task.SEGMENTATION:
        return evaluation.compare_segmentation(mine, theirs, patients, labels, attributes, **common)
    return evaluation.compare(mine, theirs, truth, patients, labels, attributes, task=str(dataset.info.task), **common)
