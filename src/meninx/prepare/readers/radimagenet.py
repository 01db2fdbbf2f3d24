"""RadImageNet: 165 classes of CT, MR and ultrasound slices with a published split.

Layout: ``RadiologyAI_train.csv``, ``RadiologyAI_val.csv``, ``RadiologyAI_test.csv`` (columns filename, label)
and the images at ``radiology_ai/<MODALITY>/<region>/<class>/*.png`` below the same folder. The tables name no
patients: each image counts as its own, so use ``split="published"``, whose parts were made by patient; a
privacy unit of patient means image here.

References:
    Mei et al., RadImageNet, Radiology: Artificial Intelligence 2022.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from meninx.core.csv_table import CsvRow, read_table
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers.layout import Layout, read_rows
from meninx.prepare.readers.source_files import first_of
from meninx.prepare.source_cases import ReaderOutput

TABLES = ("RadiologyAI_train.csv", "RadiologyAI_val.csv", "RadiologyAI_test.csv")


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return the cases of RadImageNet.

    Raises:
        LayoutError: a table or column is missing; names file, column and row.
    """
    first_of(root, TABLES)
    layout = Layout(
        image=lambda row: _path(root, row),
        patient=lambda row: "",
        split=lambda row: row.table.removeprefix("RadiologyAI_").removesuffix(".csv"),
        classes=lambda row: row.need("label"),
        patients_known=False,
    )
    tables = [read_table(root / name, ("filename", "label")) for name in TABLES if (root / name).is_file()]
    return read_rows(root, tables, layout, config)


def _path(root: Path, row: CsvRow) -> Path:
    name = row.need("filename")
    path = root / name
    parts = PurePosixPath(name).parts
    return path if path.is_file() or parts[0] == "radiology_ai" else root / "radiology_ai" / name
