"""The output folder: the journal of finished images, reuse of earlier predictions, and the final files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core import artifacts, files, integrity, names, plain, settings, workspace
from meninx.core.artifacts import PredictRecord
from meninx.core.check import is_probability
from meninx.core.errors import DataError, problem
from meninx.core.journal import Journal
from meninx.core.manifest import TaskKind
from meninx.imaging import load, nifti, resample, seg
from meninx.imaging.image import Image
from meninx.predict.config import WORK_FIELDS, PredictConfig
from meninx.predict.conversion import Converted
from meninx.predict.fitness import Remark
from meninx.predict.inputs import InputImage
from meninx.predict.trained import Trained

STAGE = "predict"
TABLE, MAPS, JOURNAL = "predictions.csv", "label_maps", "journal.jsonl"
PROBABILITY_MAPS = "probability_maps"
REFUSED = "refused.csv"
RECORD = artifacts.place(PredictRecord)
PUBLISHED = (MAPS, PROBABILITY_MAPS, TABLE, REFUSED, integrity.CHECKSUMS, RECORD)
"""Files of a result outside the private folder; the last one is written last and marks completeness."""
POSITIVE = "positive:"


@dataclass(frozen=True, kw_only=True)
class CasePrediction:
    """The prediction of one image, which is one line of the journal.

    Attributes:
        case_id: identifier of the image.
        made_of: digest of model and settings.
        source: digest of the image's files.
        probabilities: one probability per label of a classification.
        voxels: number of voxels (pixels) of each label of a segmentation, on the grid of the image.
        voxel_mm3: volume of a voxel; 0 for 2-D images.
        files: file of a label map or of probability maps below the output folder -> its SHA-256.
        remarks: differences of the image from the training images.
        file: path of the image below the input; its identifier for DICOM.
    """

    case_id: str
    made_of: str
    source: str
    probabilities: tuple[float, ...] = ()
    voxels: tuple[int, ...] = ()
    voxel_mm3: float = 0.0
    files: dict[str, str]
    remarks: tuple[Remark, ...] = ()
    file: str = ""


def fingerprint(config: PredictConfig, model: Trained) -> str:
    """Return a digest of everything except the images that determines a prediction."""
    table = {key: value for key, value in settings.to_flat(config).items() if key not in WORK_FIELDS}
    table |= {"weights": model.weights, "info": plain.to_plain(model.info)}
    return hashlib.sha256(json.dumps(table, sort_keys=True, default=str).encode()).hexdigest()


def check(out: Path, config: PredictConfig, made_of: str, sources: Iterable[Path]) -> None:
    """Raise the errors of :func:`claimed` without creating anything."""
    workspace.check(out, **_claim(config, made_of, sources))


@contextmanager
def claimed(
    out: Path, config: PredictConfig, model: Trained, made_of: str, sources: Iterable[Path]
) -> Iterator[ResultFolder]:
    """Lock an output folder; an earlier result in it stays whole until the new one is complete.

    Raises:
        UsageError: it contains something else, or a complete result and neither ``resume`` nor ``overwrite``
            is given, or it is inside a source.
        RunLocked: another process has locked it.
    """
    with workspace.claim(out, **_claim(config, made_of, sources)) as space:
        yield ResultFolder(space, config, model, made_of)


def _claim(config: PredictConfig, made_of: str, sources: Iterable[Path]) -> dict[str, Any]:
    return {
        "stage": STAGE,
        "fingerprint": made_of,
        "sources": tuple(sources),
        "resume": config.resume,
        "overwrite": config.overwrite,
    }


class ResultFolder:
    """An output folder that is being written by this process.

    Attributes:
        journal: one line for each image that is finished.
    """

    def __init__(
        self, space: workspace.Workspace, config: PredictConfig, model: Trained, made_of: str
    ) -> None:
        self._space, self._config, self._model, self._made_of = space, config, model, made_of
        self._staging = space.staging
        self.journal = Journal(space.staging / workspace.PRIVATE / JOURNAL)

    def finished(self, images: Sequence[InputImage]) -> dict[str, CasePrediction]:
        """Return the predictions of an earlier or interrupted call that are still valid, by identifier."""
        before: dict[str, CasePrediction] = {}
        for journal in (Journal(self._space.private / JOURNAL), self.journal):
            for table in journal.tables():
                with suppress(DataError):  # a line of another version: the image is predicted again
                    line = plain.from_plain(table, CasePrediction, where=JOURNAL)
                    before[line.case_id] = line
        return {
            image.case_id: before[image.case_id]
            for image in images
            if image.case_id in before
            and before[image.case_id].file == image.file
            and self._holds(before[image.case_id], image)
        }

    def _holds(self, line: CasePrediction, image: InputImage) -> bool:
        """Return whether a prediction is of these files and this model; its label maps are then linked."""
        if line.made_of != self._made_of or not self._is_prediction(line):
            return False
        try:
            if line.source != image.digest():
                return False
        except DataError:
            return False
        return all(
            files.taken_over(self._space.root / name, self._staging / name, digest)
            for name, digest in line.files.items()
        )

    def _is_prediction(self, line: CasePrediction) -> bool:
        """Return whether a line of a journal could have been written for this model."""
        labels = len(self._model.info.labels)
        texts = [text for remark in line.remarks for text in remark]
        if self._model.info.task is TaskKind.SEGMENTATION:
            sizes = (*line.voxels, line.voxel_mm3)
            whole = len(line.voxels) == labels and all(0 <= size < math.inf for size in sizes)
        else:
            whole = len(line.probabilities) == labels and all(map(is_probability, line.probabilities))
            whole = whole and not line.files
        # The journal may have been edited or come from another machine, and its texts and file names are used
        # below.
        plain_texts = all(names.printable(text) == text for text in texts)
        return whole and plain_texts and all(map(_is_own_file, line.files))

    def probabilities(self, note: Converted, values: npt.NDArray[np.float32]) -> CasePrediction:
        """Return the prediction of a classified image."""
        return CasePrediction(
            case_id=note.image.case_id,
            made_of=self._made_of,
            source=note.digest,
            probabilities=tuple(float(value) for value in values),
            files={},
            remarks=note.remarks,
            file=note.image.file,
        )

    def label_map(
        self, note: Converted, array: npt.NDArray[Any], maps: npt.NDArray[np.float32] | None = None
    ) -> CasePrediction:
        """Write a predicted label map on the grid of its image, and return the prediction.

        Args:
            note: the image.
            array: whole numbers 0 to the number of labels, of the stored image's spatial size.
            maps: the probability of each label, (labels, ...), which is then written as well.

        Raises:
            DataError: a DICOM segmentation cannot refer to the image's files.
            StorageError: a file cannot be written.
        """
        placed = Image(self._on_source(note, array[None]), note.source_affine)
        written: list[str] = []
        wanted = self._config.format or ("nifti",)
        if "nifti" in wanted:
            written.append(f"{MAPS}/{note.image.case_id}{'.nii.gz' if array.ndim == 3 else '.png'}")
            load.save(self._staging / written[-1], placed)
        if self._wants_seg(note.image):
            written.append(f"{MAPS}/{note.image.case_id}.seg.dcm")
            self._write_seg(note, array, self._staging / written[-1])
        if maps is not None:
            written.append(f"{PROBABILITY_MAPS}/{note.image.case_id}.nii.gz")
            path = self._staging / written[-1]
            nifti.write_maps(path, self._on_source(note, maps), note.source_affine)
        count = len(self._model.info.labels)
        voxels = np.bincount(placed.array.ravel(), minlength=count + 1)[1:]
        size = abs(float(np.linalg.det(placed.affine[:3, :3]))) if array.ndim == 3 else 0.0
        return CasePrediction(
            case_id=note.image.case_id,
            made_of=self._made_of,
            source=note.digest,
            voxels=tuple(int(number) for number in voxels),
            voxel_mm3=size,
            files=integrity.measured(self._staging, [self._staging / name for name in written]),
            remarks=note.remarks,
            file=note.image.file,
        )

    def _wants_seg(self, image: InputImage) -> bool:
        return "dicom-seg" in self._config.format and image.dicom and (image.clean or self._config.identified)

    def _on_source(self, note: Converted, maps: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return maps (maps, ...) on the grid of the decoded image, by nearest neighbour."""
        if maps.ndim == 4:
            return resample.volume_on_source(maps, note.affine, note.source_size, note.source_affine)
        rows, columns = note.source_size
        return resample.picture_on_source(maps, (rows, columns), self._aspect)

    def _write_seg(self, note: Converted, array: npt.NDArray[Any], path: Path) -> None:
        placed = seg.place_on_source(array, note.affine, note.image.paths, self._aspect)
        seg.write_seg(placed, note.image.paths, self._model.info.labels, path, overwrite=True)

    @property
    def _aspect(self) -> str:
        steps = self._model.preprocessing
        return steps.aspect if steps is not None else "stretch"

    def finish(
        self,
        lines: Mapping[str, CasePrediction],
        record: PredictRecord,
        refused: Iterable[tuple[str, str, str]] = (),
    ) -> PredictRecord:
        """Write tables and record, replace an earlier result, and return the record.

        Args:
            lines: the predictions by identifier.
            record: record of the call, without the digest of the list of checksums.
            refused: identifier, reason and details of every image without a prediction.
        """
        maps = {name: digest for line in lines.values() for name, digest in line.files.items()}
        for folder in (self._staging / MAPS, self._staging / PROBABILITY_MAPS):
            for path in folder.glob("*"):
                if path.relative_to(self._staging).as_posix() not in maps:
                    path.unlink()  # of an image that is not in the input any more, or of a killed call
        ordered = [lines[case_id] for case_id in sorted(lines)]
        self.journal.rewrite(plain.to_plain(line) for line in ordered)
        files.write_text(self._staging / TABLE, _table(ordered, self._model))
        tables = [self._staging / TABLE]
        (self._staging / REFUSED).unlink(missing_ok=True)  # left by an interrupted call
        if rows := sorted(refused):
            tables.append(self._staging / REFUSED)
            files.write_text(tables[-1], _csv([("case_id", "reason", "details"), *rows]))
        digests = maps | integrity.measured(self._staging, tables)
        # The record contains the digest of the list of checksums, so the list is written first.
        done = plain.from_plain(
            {**plain.to_plain(record), "checksums": integrity.write(self._staging, digests)},
            PredictRecord,
            where=RECORD,
        )
        artifacts.write(self._staging, done)
        there = [name for name in PUBLISHED if (self._staging / name).exists()]
        self._space.publish(there, remove=set(PUBLISHED) - set(there), secret=(JOURNAL,))
        return done


def _is_own_file(name: str) -> bool:
    """Return whether a file name in a journal has the form that :meth:`ResultFolder.label_map` uses."""
    folder, _, rest = name.partition("/")
    return files.is_inside(name) and folder in (MAPS, PROBABILITY_MAPS) and bool(rest) and "/" not in rest


def _table(lines: Iterable[CasePrediction], model: Trained) -> str:
    """Return ``predictions.csv``."""
    labels, segmentation = model.info.labels, model.info.task is TaskKind.SEGMENTATION
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if segmentation:
        unit = "ml" if model.info.spatial_dims == 3 else "pixels"
        header = ["case_id", "file", *(f"{label}_{unit}" for label in labels)]
    else:
        decided = [label for label in labels if label in model.thresholds]
        most = ["most_probable"] if model.info.task is TaskKind.MULTICLASS else []
        header = ["case_id", "file", *labels, *(f"{POSITIVE}{label}" for label in decided), *most]
    if len(set(header)) != len(header):
        fix = "rename the label in the source table, prepare and train again"
        raise DataError(problem(f"a label has the name of a column of {TABLE}", where="labels", fix=fix))
    writer.writerow(names.csv_cell(name) for name in header)
    for line in lines:
        cells = _volumes(line) if segmentation else _decisions(line, model)
        writer.writerow([names.csv_cell(line.case_id), names.csv_cell(line.file), *cells])
    return buffer.getvalue()


def _csv(rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose cells a spreadsheet does not execute as formulas."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(map(names.csv_cell, row) for row in rows)
    return buffer.getvalue()


def _volumes(line: CasePrediction) -> list[str]:
    if not line.voxel_mm3:
        return [str(number) for number in line.voxels]
    return [f"{number * line.voxel_mm3 / 1000:.4f}" for number in line.voxels]


def _decisions(line: CasePrediction, model: Trained) -> list[str]:
    labels = model.info.labels
    cells = [f"{value:.8f}" for value in line.probabilities]
    found = dict(zip(labels, line.probabilities, strict=True))
    cells += [
        str(int(found[label] >= model.thresholds[label])) for label in labels if label in model.thresholds
    ]
    if model.info.task is TaskKind.MULTICLASS:
        cells.append(names.csv_cell(max(labels, key=found.__getitem__)))
    return cells
