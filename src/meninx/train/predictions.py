"""Per-case predictions, which stay in ``private/predictions``: a table, label maps as NIfTI or PNG, DICOM SEG."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core import files
from meninx.core.manifest import Case, Manifest
from meninx.core.run import Run
from meninx.imaging import load, seg
from meninx.imaging.image import Image
from meninx.train.dicom_source import DicomSources

FOLDER = "predictions"


def write_table(
    run: Run, split: str, chosen: Manifest, values: npt.NDArray[np.float64], labels: Sequence[str], wanted: Collection[str]
) -> None:
    """Write one row a case: its probabilities, or its Dice coefficients (empty where truth and prediction are both empty)."""
    if "csv" not in wanted:
        return
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["case_id", "patient_id", *labels])
    for case, row in zip(chosen.cases, values, strict=True):
        writer.writerow([case.case_id, case.patient_id, *("" if np.isnan(value) else f"{value:.6f}" for value in row)])
    files.write_text(run.private / FOLDER / f"{split}.csv", buffer.getvalue(), mode=0o600)


def read_mask(manifest: Manifest, case: Case) -> npt.NDArray[Any]:
    """Return the true label map of a case, shape (*spatial), zeros when it has none."""
    if not case.mask:
        return np.zeros(load.load(manifest.root / case.image).size, dtype=np.uint8)
    mask: npt.NDArray[Any] = load.load(manifest.root / case.mask).array[0]
    return mask


def keep_map(
    run: Run, manifest: Manifest, case: Case, label_map: npt.NDArray[Any], wanted: Collection[str], sources: DicomSources | None
) -> None:
    """Write the predicted label map of a case in the formats wanted; ``sources`` are needed for ``dicom-seg``."""
    folder = run.private / FOLDER
    affine = load.load(manifest.root / case.image).affine if {"nifti", "dicom-seg"} & set(wanted) else np.eye(4)
    if "nifti" in wanted:
        suffix = ".nii.gz" if label_map.ndim == 3 else ".png"
        load.save(folder / f"{case.case_id}{suffix}", Image(label_map[None], affine))
    if "dicom-seg" in wanted and sources is not None:
        placed, paths = sources.placed(case, label_map, affine)
        seg.write_seg(placed, paths, manifest.info.labels, folder / f"{case.case_id}.seg.dcm", overwrite=True)
