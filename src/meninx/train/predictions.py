"""Predictions per case in ``private/predictions``: a table, label maps as NIfTI or PNG, DICOM SEG."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core import files, names, staging
from meninx.core.errors import DataError, expected
from meninx.core.manifest import Case, Manifest
from meninx.core.run import Run
from meninx.imaging import load, seg
from meninx.imaging.image import Image
from meninx.metrics.surface import SurfaceTable
from meninx.train.config import EvaluateConfig
from meninx.train.dicom_source import DicomSources

FOLDER = "predictions"
STAGING = ".predictions"


class PredictionFiles:
    """Writer of the predictions of one evaluation; earlier ones are kept until these are complete.

    Args:
        run: the run folder.
        chosen: the measured cases.
        config: formats that are wanted, and the DICOM source for ``dicom-seg``.
        labels: names of the model's labels.
        other: name of another dataset than the run's own, whose predictions have a folder of their own.

    Raises:
        UsageError, DataError: DICOM segmentations are wanted, but their source does not fit.
    """

    def __init__(
        self, run: Run, chosen: Manifest, config: EvaluateConfig, labels: Sequence[str], other: str = ""
    ) -> None:
        self.chosen, self.config, self.labels = chosen, config, tuple(labels)
        self.folder = run.private / FOLDER / (f"external-{other}" if other else "")
        self.staging = run.private / STAGING
        self.sources = DicomSources.find(chosen, config.dicom) if "dicom-seg" in config.predictions else None
        shutil.rmtree(self.staging, ignore_errors=True)

    def keep(self, case: Case, label_map: npt.NDArray[Any]) -> None:
        """Write the predicted label map of a case in the wanted formats."""
        wanted = set(self.config.predictions)
        if not {"nifti", "dicom-seg"} & wanted:
            return
        affine = load.load(self.chosen.root / case.image).affine
        if "nifti" in wanted:
            suffix = ".nii.gz" if label_map.ndim == 3 else ".png"
            load.save(self._path(f"{case.case_id}{suffix}"), Image(label_map[None], affine))
        if self.sources is not None:
            placed, paths = self.sources.placed(case, label_map, affine)
            seg.write_seg(placed, paths, self.labels, self._path(f"{case.case_id}.seg.dcm"), overwrite=True)

    def publish(
        self, values: npt.NDArray[np.float64], labels: Sequence[str], surfaces: SurfaceTable | None = None
    ) -> None:
        """Write one row per case, and move everything to its final place.

        Args:
            values: probabilities of each case, or its Dice coefficients, NaN where truth and prediction are
                both empty.
            labels: names of the columns.
            surfaces: surface distances of the same cases; further columns for a segmentation.
        """
        columns = list(labels)
        if surfaces is not None:
            columns = [f"{label} {name}" for name in ("dice", "hd95", "surface_dice") for label in labels]
            values = np.concatenate((values, surfaces.hd95, surfaces.surface_dice), axis=1)
        if "csv" in self.config.predictions:
            buffer = io.StringIO()
            writer = csv.writer(buffer, lineterminator="\n")
            writer.writerow(["case_id", "patient_id", *(names.csv_cell(name) for name in columns)])
            for case, row in zip(self.chosen.cases, values, strict=True):
                identifiers = (names.csv_cell(case.case_id), names.csv_cell(case.patient_id))
                writer.writerow([*identifiers, *("" if np.isnan(value) else f"{value:.6f}" for value in row)])
            files.write_text(
                self._path(f"{self.config.split}.csv"), buffer.getvalue(), mode=files.PRIVATE_MODE
            )
        if not self.staging.is_dir():
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise files.storage_error(error, self.folder) from error
        staging.move_files(self.staging, self.folder)
        shutil.rmtree(self.staging, ignore_errors=True)

    def _path(self, name: str) -> Path:
        """Return the path at which a file is built; names that lead out of the folder are refused."""
        if "/" in name:
            raise DataError(expected("a case_id that is a file name", got="a path", where="manifest.csv"))
        self.staging.mkdir(mode=0o700, exist_ok=True)
        return files.below(self.staging, name, where="manifest.csv, case_id")


def read_mask(manifest: Manifest, case: Case) -> tuple[npt.NDArray[Any], tuple[float, ...]]:
    """Return the true label map of a case, shape (*spatial), and its spacing; all zeros without a mask.

    The spacing is in millimetres, and empty if it is not recorded for a picture.
    """
    info = manifest.info
    if case.mask:
        manifest.check_file(case.mask)
    image = load.load(manifest.root / (case.mask or case.image))
    found = image.array[0] if case.mask else np.zeros(image.size, dtype=np.uint8)
    return found, image.spacing_mm if info.spatial_dims == 3 else info.spacing_mm
