"""CheXpert (and CheXpert-small): 14 findings with uncertain labels, patients and studies in the path.

Layout: ``train.csv`` and ``valid.csv`` with columns Path, Sex, Age, Frontal/Lateral and the findings;
``Path`` holds ``patientXXXXX/studyN/``, with or without the name of the dataset folder in front. Empty cells
mean not mentioned and become 0 unless ``blank="unknown"``; -1 follows ``uncertain``.
``require=("Frontal/Lateral=Frontal",)`` keeps the frontal views.

References:
    Irvin et al., CheXpert, AAAI 2019.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from meninx.core.csv_table import CsvRow, read_table
from meninx.core.errors import LayoutError, problem
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import values
from meninx.prepare.readers.layout import Layout, read_rows
from meninx.prepare.source_cases import ReaderOutput

FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
_WHOSE = re.compile(r"(patient\d+)/(study\d+)/")


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return the cases of CheXpert.

    Raises:
        LayoutError: a table or column is missing, or a path names no patient; names file, column and row.
    """
    labels = values.chosen(config.labels.label_columns, FINDINGS, "train.csv")
    columns = ("Path", "Sex", "Age", *labels)
    names = ("train.csv", "valid.csv") if (root / "valid.csv").is_file() else ("train.csv",)
    layout = Layout(
        image=lambda row: _path(root, row.need("Path")),
        patient=lambda row: _whose(row)[0],
        study=lambda row: "/".join(_whose(row)),
        split=lambda row: row.table.removesuffix(".csv"),
        labels=labels,
        blank="zero",
        sex="Sex",
        age="Age",
    )
    return read_rows(root, [read_table(root / name, columns) for name in names], layout, config)


def _whose(row: CsvRow) -> tuple[str, str]:
    match = _WHOSE.search(row.need("Path"))
    if match is None:
        where = f"{row.where}, column 'Path'"
        raise LayoutError(problem("the path does not hold patientXXXXX/studyN/", where=where))
    return match[1], match[2]


def _path(root: Path, text: str) -> Path:
    path = root / text
    parts = PurePosixPath(text).parts
    return path if path.is_file() or len(parts) < 2 else root.joinpath(*parts[1:])
