"""MIMIC-CXR-JPG: 14 findings a study, patients, published split.

Layout: ``mimic-cxr-2.0.0-chexpert.csv.gz`` (labels a study), ``-split.csv.gz`` and ``-metadata.csv.gz`` (one
row an image), images at ``files/p10/p10000032/s50414267/<dicom_id>.jpg``; a ``patients.csv.gz`` of MIMIC-IV
(subject_id, gender, anchor_age) beside them gives sex and age. Tables may be unpacked. Empty labels become 0
unless ``blank="unknown"``. ``require=("ViewPosition=PA|AP",)`` keeps the frontal views.

References:
    Johnson et al., MIMIC-CXR-JPG, 2019, arXiv:1901.07042.
"""

from __future__ import annotations

from pathlib import Path

from meninx.core.csv_table import CsvRow, CsvTable, read_table
from meninx.core.errors import LayoutError, problem
from meninx.core.manifest import TaskKind
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import values
from meninx.prepare.readers.layout import split_name
from meninx.prepare.readers.source_files import first_of, relative
from meninx.prepare.source_cases import FileSource, ReaderOutput, SourceCase

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return the cases of MIMIC-CXR-JPG; images of studies without labels are skipped and counted.

    Raises:
        LayoutError: a table, column or cell is not as published; names file, column and row.
    """
    labels = values.chosen(config.labels.label_columns, FINDINGS, "mimic-cxr chexpert table")
    studies = {
        row.need("study_id"): row for row in _table(root, "chexpert", ("subject_id", "study_id", *labels))
    }
    splits = {row.need("dicom_id"): row.get("split") for row in _table(root, "split", ("dicom_id", "split"))}
    images = _table(root, "metadata", ("dicom_id", "subject_id", "study_id")).having(config.input.require)
    people = _people(root)
    images.needs(config.labels.attribute_columns)
    names = (*(("sex", "age") if people else ()), "view", *config.labels.attribute_columns)
    cases, skipped = [], []
    for row in images:
        study = studies.get(row.need("study_id"))
        if study is None:
            skipped.append(("no label row", row.where))
            continue
        image = _place(root, row)
        cases.append(
            SourceCase(
                key=relative(image, root),
                patient=row.need("subject_id"),
                study=row.need("study_id"),
                image=FileSource(image),
                where=row.where,
                labels={name: values.label(study, name, config.labels, blank="zero") for name in labels},
                attributes={
                    **people.get(row.need("subject_id"), {}),
                    "view": row.get("ViewPosition"),
                    **{name: row.get(name) for name in config.labels.attribute_columns},
                },
                split=split_name(splits.get(row.need("dicom_id"), "")),
            )
        )
    return ReaderOutput(
        cases=tuple(cases), labels=labels, task=TaskKind.MULTILABEL, attributes=names, skipped=tuple(skipped)
    )


def _table(root: Path, kind: str, columns: tuple[str, ...]) -> CsvTable:
    name = f"mimic-cxr-2.0.0-{kind}.csv"
    return read_table(first_of(root, (f"{name}.gz", name)), columns)


def _people(root: Path) -> dict[str, dict[str, str]]:
    for name in ("patients.csv.gz", "patients.csv"):
        if (root / name).is_file():
            table = read_table(root / name, ("subject_id", "gender", "anchor_age"))
            return {
                row.need("subject_id"): {
                    "sex": values.sex(row.get("gender"), {}),
                    "age": values.age(row.get("anchor_age")),
                }
                for row in table
            }
    return {}


def _place(root: Path, row: CsvRow) -> Path:
    patient, study = row.need("subject_id"), row.need("study_id")
    if not (patient.isdigit() and study.isdigit()):
        column = "study_id" if patient.isdigit() else "subject_id"
        raise LayoutError(problem("expected a number, got text", where=f"{row.where}, column {column!r}"))
    return root / "files" / f"p{patient[:2]}" / f"p{patient}" / f"s{study}" / f"{row.need('dicom_id')}.jpg"
