"""`meninx predict`: applies a trained model to new images and writes probabilities and label maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from meninx.core import artifacts, names, plain, pool, provenance, settings, workspace
from meninx.core import progress as bars
from meninx.core.artifacts import Noticed, PredictRecord
from meninx.core.errors import DataError, PrivacyRefusal, StorageError, UsageError, expected, problem
from meninx.core.manifest import TaskKind
from meninx.core.result import Result
from meninx.imaging.preprocessing import Preprocessing
from meninx.learn import runtime
from meninx.learn.data import unpadded
from meninx.learn.inference import batched
from meninx.learn.task import ImageTask, image_task
from meninx.predict import results
from meninx.predict.config import WORK_FIELDS, PredictConfig
from meninx.predict.conversion import Converted, Converter
from meninx.predict.inputs import InputImage, Inputs, find_images
from meninx.predict.noticed import Refusals, Remarks
from meninx.predict.results import CasePrediction, ResultFolder
from meninx.predict.trained import Trained, open_trained

NO_SEG = "label map that a DICOM SEG cannot hold"
_PICTURES, _VOLUMES = 32, 1  # default number of images in a batch


@dataclass(frozen=True, kw_only=True)
class PredictResult(Result):
    """The result of `meninx predict`: counts and identifiers of images, without values of patients.

    Attributes:
        cases: images with a prediction.
        reused: number of these that an earlier call predicted.
        input: images found, by modality of DICOM and kind of file.
        refused: reason -> images without a prediction.
        warnings: difference from the training images -> predicted images with it.
        thresholds: label -> operating threshold of the decisions.
        thresholds_from: source of the thresholds, or why there are none.
        notes: further observations.
        dry_run: nothing was written.
    """

    cases: int
    reused: int = 0
    input: dict[str, int] = field(default_factory=dict)
    refused: dict[str, Noticed] = field(default_factory=dict)
    warnings: dict[str, Noticed] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    thresholds_from: str = ""
    notes: tuple[str, ...] = ()
    dry_run: bool = False

    def summary(self) -> str:
        """Return the result in a few lines of text."""
        verb = "to predict" if self.dry_run else "predicted"
        again = f" ({self.reused} of them were there already)" if self.reused else ""
        found = ", ".join(f"{kind} {count}" for kind, count in self.input.items())
        lines = [f"out: {self.out}", f"input: {found}", f"{verb}: {_images(self.cases)}{again}"]
        for title, rows in (("not predicted", self.refused), ("warning", self.warnings)):
            lines += [f"{title}: {_images(row.count)}: {_words(kind, row)}" for kind, row in rows.items()]
        if self.thresholds:
            shown = ", ".join(f"{label} {value:.3f}" for label, value in self.thresholds.items())
            lines.append(f"thresholds: {names.printable(shown)} ({self.thresholds_from})")
        elif self.thresholds_from:
            lines.append(f"thresholds: {self.thresholds_from}; the table has probabilities alone")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, *(["dry run: nothing was written"] if self.dry_run else [])])


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def _words(kind: str, row: Noticed) -> str:
    first = f", first {row.cases[0]}" if row.cases else ""
    return f"{kind}{f' ({row.example})' if row.example else ''}{first}"


def run(
    config: PredictConfig,
    model: Path,
    source: Path,
    out: Path,
    *,
    progress: bars.Progress = bars.SILENT,
    network: nn.Module | None = None,
) -> PredictResult:
    """Predict new images and return counts.

    Writes ``predictions.csv`` (one row per image), ``refused.csv`` (one row per image without a prediction,
    with the reason), ``label_maps/`` of a segmentation, ``probability_maps/`` if they are wanted,
    ``predict.json`` and ``checksums.sha256``. A stopped call continues when it is started again.

    Guarantee: an image goes through the preprocessing that the model records, with the same bytes as
        `meninx prepare` would have stored. Outputs and messages contain no value of a patient: images are
        named by their UIDs, or by their paths below ``source``. Only a DICOM SEG repeats the patient's
        attributes of its source, which must be marked as de-identified unless ``identified`` is set. An
        earlier result in ``out`` stays whole until the new one is complete.

    Args:
        config: the settings.
        model: a run folder, its ``release/``, or the ``bundle/`` in it.
        source: DICOM, PNG, JPEG, TIFF or NIfTI: a file or a folder; or a prepared dataset.
        out: folder of the predictions; must be new or empty unless ``resume`` or ``overwrite``.
        progress: advanced by every image.
        network: architecture of a run that was given its own network; a copy of it receives the weights.

    Raises:
        UsageError: ``model`` is not a model, ``out`` contains something, or a setting has no effect.
        DataError: no image can be predicted, or with ``strict`` one cannot; the model is damaged.
        RunLocked: another process writes to ``out``.
        Interrupted: stopped by the user; the same command continues.
    """
    trained = open_trained(model, network=network)
    _refuse_idle(config, trained)
    device = runtime.device(config.device)
    made_of = results.fingerprint(config, trained)
    sources = (source, model)
    workspace.outside(
        out.parent
    )  # a dataset or archive with further files would not agree with its list of digests
    results.check(out, config, made_of, sources)
    refusals = Refusals(strict=config.strict)
    steps = trained.preprocessing or Preprocessing(spatial_dims=trained.info.spatial_dims)
    inputs = find_images(source, steps, refusals)
    _refuse_no_dicom(config, inputs)
    converter = Converter(trained, inputs.dataset, refusals)
    if config.dry_run:
        record = _record(config, trained, inputs, refusals, [])
        return _result(
            out, trained, record, inputs, converter.caveats, cases=len(inputs.images), dry_run=True
        )
    with results.claimed(out, config, trained, made_of, sources) as folder:
        lines = folder.finished(inputs.images)
        reused = len(lines)
        todo = [image for image in inputs.images if image.case_id not in lines]
        work = _Work(config, trained, folder, converter)
        try:
            with bars.task(progress, "predict", len(todo)), pool.Stop(progress.note) as stop:
                for line in work.done(todo, device, progress, stop):
                    lines[line.case_id] = line
        except KeyboardInterrupt:
            raise pool.interrupted() from None
        if not lines:
            rows = refusals.to_table().items()
            got = ", ".join(f"{_images(row.count)}: {_words(kind, row)}" for kind, row in rows)
            fix = "give images like those of the training"
            raise DataError(
                expected("at least one image that can be predicted", got=got, where=source.name, fix=fix)
            )
        record = _record(config, trained, inputs, refusals, lines.values())
        record = folder.finish(lines, record, refusals.every)
    return _result(out, trained, record, inputs, converter.caveats, cases=len(lines), reused=reused)


class _Work:
    """The images of one call, from files to lines of the journal."""

    def __init__(
        self, config: PredictConfig, model: Trained, folder: ResultFolder, converter: Converter
    ) -> None:
        self.config, self.model, self.folder, self.converter = config, model, folder, converter
        self.task: ImageTask = image_task(model.info, model.config.task)

    def done(
        self, images: Sequence[InputImage], device: torch.device, progress: bars.Progress, stop: pool.Stop
    ) -> Iterator[CasePrediction]:
        """Yield the prediction of every image that can be predicted, after writing it to the journal."""
        large = self.model.info.spatial_dims == 3
        size = self.config.batch or (_VOLUMES if large else _PICTURES)
        network = self.model.network.to(device)
        inputs = self.converter.converted(_until_stopped(images, progress, stop))
        with self.folder.journal.appending() as journal:
            for note, logits in batched(network, inputs, self.model.config, device, size=size):
                line = self._line(note, logits)
                if line is not None:
                    # After the label map is written: a line in the journal promises that its files exist.
                    journal.add(plain.to_plain(line))
                    yield line

    def _line(self, note: Converted, logits: Tensor) -> CasePrediction | None:
        """Return the prediction of an image, or None if its label map cannot be written."""
        if self.model.info.task is not TaskKind.SEGMENTATION:
            values = self.task.probabilities(logits[None].float())[0]
            return self.folder.probabilities(note, values.numpy())
        kind = np.uint8 if len(self.model.info.labels) < 256 else np.uint16
        padded = self.task.label_map(logits[None])[0].numpy().astype(kind)
        maps = None
        if self.config.probabilities:
            count = len(self.model.info.labels)  # without the background, which has no label
            found = self.task.probabilities(logits[None].float())[0, -count:].numpy()
            maps = unpadded(found, note.size)
        try:
            return self.folder.label_map(note, unpadded(padded, note.size), maps)
        except (StorageError, UsageError):
            raise
        except DataError as error:  # its message contains no value of the header
            self.converter.refusals.add(NO_SEG, note.image.case_id, str(error))
            return None


def _until_stopped(
    images: Sequence[InputImage], progress: bars.Progress, stop: pool.Stop
) -> Iterator[InputImage]:
    """Yield images until a stop is requested; the progress bar moves when the next one is requested."""
    for image in images:
        if stop.wanted:
            raise KeyboardInterrupt
        yield image
        progress.advance()


def _refuse_idle(config: PredictConfig, model: Trained) -> None:
    """Refuse a format without an effect, and a format whose package is missing."""
    if config.format and model.info.task is not TaskKind.SEGMENTATION:
        what = "a classifier predicts no label map; its probabilities are always written"
        raise UsageError(problem(what, where="format", fix="leave format out"))
    if config.probabilities and model.info.task is not TaskKind.SEGMENTATION:
        what = "predictions.csv always holds the probabilities of a classifier"
        raise UsageError(problem(what, where="probabilities", fix="leave probabilities out"))
    if "dicom-seg" in config.format and util.find_spec("highdicom") is None:
        raise UsageError(
            problem("highdicom is not installed", where="format", fix="pip install 'meninx[export]'")
        )


def _refuse_no_dicom(config: PredictConfig, inputs: Inputs) -> None:
    """Refuse DICOM segmentations if no image can have one."""
    if "dicom-seg" not in config.format:
        return
    dicom = [image for image in inputs.images if image.dicom]
    if not dicom:
        raise UsageError(
            problem("dicom-seg needs DICOM input", where="format", fix="use nifti, or give the DICOM files")
        )
    if not config.identified and not any(image.clean for image in dicom):
        what = "a DICOM SEG repeats the patient's name and number, and no file is marked as de-identified"
        fix = "run `meninx deid` first, or give --identified"
        raise PrivacyRefusal(problem(what, where="format", fix=fix))


def _record(
    config: PredictConfig,
    model: Trained,
    inputs: Inputs,
    refusals: Refusals,
    lines: Iterable[CasePrediction],
) -> PredictRecord:
    warnings, cases = Remarks(), 0
    for line in sorted(lines, key=lambda line: line.case_id):
        cases += 1
        for kind, example in line.remarks:
            warnings.add(kind, line.case_id, example)
    shown = {key: value for key, value in settings.to_flat(config).items() if key not in WORK_FIELDS}
    return PredictRecord(
        model=model.info.name,
        run=model.run,
        weights=model.weights,
        network=model.config.model.name,
        task=str(model.info.task),
        labels=model.info.labels,
        cases=cases,
        input=inputs.kinds,
        refused=refusals.to_table(),
        warnings=warnings.to_table(),
        thresholds=dict(model.thresholds),
        thresholds_from=model.thresholds_from,
        not_deidentified=inputs.not_deidentified,
        ignored=inputs.ignored,
        settings=shown,
        device=str(runtime.device(config.device)),
        versions=provenance.packages(),
        made=artifacts.now(),
    )


def _not_marked(count: int) -> str:
    """Return the note on DICOM files that do not state ``PatientIdentityRemoved YES``."""
    one = (
        "1 DICOM file is not marked as de-identified: the output holds its UIDs and is as "
        "confidential as it is"
    )
    several = (
        f"{count} DICOM files are not marked as de-identified: the output holds their UIDs and is as "
        "confidential as they are"
    )
    why = (
        "`meninx deid` writes PatientIdentityRemoved NO while the pixels are not reviewed, and gives the "
        "reason in DeidentificationMethod"
    )
    return f"{one if count == 1 else several}. {why}"


def _result(
    out: Path,
    model: Trained,
    record: PredictRecord,
    inputs: Inputs,
    caveats: Sequence[str],
    **counts: Any,
) -> PredictResult:
    notes = list(caveats)
    modalities = [kind.removeprefix("DICOM ") for kind in record.input if kind.startswith("DICOM ")]
    if len(modalities) > 1:
        shown = ", ".join(modalities)
        notes.append(f"the input holds several modalities ({shown}): the model does not tell them apart")
    if inputs.not_deidentified:
        notes.append(_not_marked(inputs.not_deidentified))
        if "dicom-seg" in record.settings["format"] and not record.settings["identified"]:
            notes.append("they have no DICOM SEG, which would repeat the patient's name and number")
    changed = inputs.dataset.info.obfuscated if inputs.dataset is not None else ""
    if model.info.obfuscated != changed:
        was, plain_ones = model.info.obfuscated, "images that were not obfuscated"
        notes.append(f"the model was trained on {was or plain_ones}; the input holds {changed or plain_ones}")
    if inputs.ignored:
        other = "other file below the input is no image"
        others = "other files below the input are no images"
        notes.append(f"{inputs.ignored} {other if inputs.ignored == 1 else others}")
    return PredictResult(
        out=out,
        input=record.input,
        refused=record.refused,
        warnings=record.warnings,
        thresholds=record.thresholds,
        thresholds_from=model.thresholds_from,
        notes=tuple(notes),
        **counts,
    )
