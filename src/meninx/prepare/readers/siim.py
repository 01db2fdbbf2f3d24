"""SIIM-ACR pneumothorax: DICOM files named by their UID and a table of run-length masks.

Layout: ``<SOPInstanceUID>.dcm`` anywhere below the source and ``train-rle.csv`` with ImageId and
EncodedPixels (published files have blanks before the name, no header, or a byte-order mark).
``-1`` means no pneumothorax; several rows of one image are merged. Runs are relative and column-major.
``task="multilabel"`` gives the label pneumothorax instead of masks.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from meninx.core.csv_table import CsvRow, CsvTable, read_table
from meninx.core.errors import DataError, LayoutError, expected
from meninx.core.manifest import TaskKind
from meninx.imaging import decode
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import values
from meninx.prepare.readers.source_files import DICOM, ImageIndex, first_of, relative, resolve, table_path
from meninx.prepare.setting_tables import AUTO
from meninx.prepare.source_cases import FileSource, ReaderOutput, RunsSource, SourceCase

COLUMNS = ("ImageId", "EncodedPixels")
TABLES = ("train-rle.csv", "train-rle-sample.csv", "stage_2_train.csv")
_HEADER = ("PatientID", "PatientSex", "PatientAge", "ViewPosition", "StudyInstanceUID", "Rows", "Columns")


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return one case per image that the table names.

    Raises:
        LayoutError: the table is missing or a row has no runs; names file, column and row.
    """
    named = config.input.table
    table = _table(table_path(named, root, site) if named else first_of(root, TABLES))
    runs: dict[str, list[CsvRow]] = defaultdict(list)
    for row in table.having(config.input.require):
        runs[row.need("ImageId")].append(row)
    folder = config.input.image_folder
    index = ImageIndex(resolve(folder, root, site) if folder else root, DICOM)
    task = TaskKind.SEGMENTATION if config.task == AUTO else TaskKind(config.task)
    cases, skipped = [], []
    for name, rows in runs.items():
        path = index.find(name, rows[0].where)
        header = _header(path) if path else None
        if path is None or header is None:
            skipped.append(("missing file" if path is None else "unreadable image", rows[0].where))
            continue
        cases.append(_case(root, path, header, rows, task))
    index.refuse_ambiguous()
    labels = ("pneumothorax",)
    return ReaderOutput(
        cases=tuple(cases),
        labels=labels,
        task=task,
        attributes=("sex", "age", "view"),
        skipped=tuple(skipped),
        spatial_dims=2,
    )


def _case(root: Path, path: Path, header: dict[str, str], rows: list[CsvRow], task: TaskKind) -> SourceCase:
    texts = tuple(text for row in rows if (text := row.need("EncodedPixels")) != "-1")
    key = relative(path, root)
    shape = (int(header["Rows"]), int(header["Columns"]))
    return SourceCase(
        key=key,
        patient=header["PatientID"] or key,
        study=header["StudyInstanceUID"],
        image=FileSource(path),
        where=rows[0].where,
        mask=RunsSource(texts, shape, rows[0].where) if task is TaskKind.SEGMENTATION else None,
        labels={} if task is TaskKind.SEGMENTATION else {"pneumothorax": float(bool(texts))},
        attributes={
            "sex": values.sex(header["PatientSex"], {}),
            "age": values.age(header["PatientAge"]),
            "view": header["ViewPosition"],
        },
    )


def _table(path: Path) -> CsvTable:
    table = read_table(path)
    if set(COLUMNS) <= set(table.columns):
        return table
    if len(table.columns) == 2:
        return read_table(path, header=COLUMNS)
    raise LayoutError(
        expected("columns ImageId and EncodedPixels", got=len(table.columns), where=f"{path.name}, row 1")
    )


def _header(path: Path) -> dict[str, str] | None:
    try:
        header = decode.open_dataset(path, pixels=False, keywords=_HEADER)
        found = decode.header_texts(header, _HEADER)
    except DataError:
        return None
    return found if found["Rows"].isdigit() and found["Columns"].isdigit() else None
