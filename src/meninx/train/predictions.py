"""Per-case predictions, which stay in ``private/predictions``: a table, label maps as NIfTI or PNG, DICOM SEG."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core import files
from meninx.core.errors import DataError, expected
from meninx.core.manifest import Case, Manifest
from meninx.core.run import Run
from meninx.imaging import load, seg
from meninx.imaging.image import Image

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


def keep_map(run: Run, manifest: Manifest, case: Case, label_map: npt.NDArray[Any], wanted: Collection[str]) -> None:
    """Write the predicted label map of a case in the formats wanted."""
    if "nifti" in wanted:
        image = load.load(manifest.root / case.image)
        suffix = ".nii.gz" if label_map.ndim == 3 else ".png"
        path = run.private / FOLDER / f"{case.case_id}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        load.save(path, Image(label_map[None], image.affine))
    if "dicom-seg" in wanted:
        sources = dicom_sources(manifest, case)
        target = run.private / FOLDER / f"{case.case_id}.seg.dcm"
        seg.write_seg(label_map, sources, manifest.info.labels, target, overwrite=True)


def dicom_sources(manifest: Manifest, case: Case) -> list[Path]:
    """Return the DICOM files that a case was made of, as ``prepare`` wrote them down in the dataset's private room.

    Raises:
        DataError: the dataset was not made of DICOM, or was moved without its private room.
    """
    table = manifest.root / "private" / "cases.csv"
    if table.is_file():
        with table.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                if row.get("case_id") == case.case_id and row.get("dicom"):
                    return [Path(item) for item in row["dicom"].split("|")]
    fix = "prepare the dataset from DICOM and keep its private folder"
    raise DataError(expected("a dataset that knows its DICOM source", got="none", where="private/cases.csv", fix=fix))
