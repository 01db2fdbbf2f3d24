"""ChestX-ray14 of the NIH Clinical Center: 14 findings, patients, sex, age, published split.

Layout: ``Data_Entry_2017.csv`` (or ``Data_Entry_2017_v2020.csv``), ``images_001/images/*.png`` ... or
``images/*.png``, and for the published split ``train_val_list.txt`` and ``test_list.txt`` (one file name per
line).

References:
    Wang et al., ChestX-ray8, CVPR 2017.
"""

from __future__ import annotations

from pathlib import Path

from meninx.core import files
from meninx.core.csv_table import CsvRow, read_table
from meninx.core.errors import LayoutError, problem
from meninx.core.manifest import TaskKind
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import values
from meninx.prepare.readers.source_files import first_of, index_files, relative, resolve
from meninx.prepare.source_cases import FileSource, ReaderOutput, SourceCase

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
NAMES, FOUND, PATIENT, AGE, SEX, VIEW = (
    "Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position",
)  # fmt: skip


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return the cases of ChestX-ray14.

    Raises:
        LayoutError: a column is missing or a finding is unknown; names file, column and row.
    """
    tables = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")
    path = resolve(config.input.table, root, site) if config.input.table else first_of(root, tables)
    table = read_table(path, (NAMES, FOUND, PATIENT, AGE, SEX)).having(config.input.require)
    labels = values.chosen(config.labels.label_columns, FINDINGS, path.name)
    names = (
        *values.columns_of(table, config, sex_column=SEX, age_column=AGE),
        *(("view",) if VIEW in table.columns else ()),
    )
    places, splits, codes = index_files(root, (".png",)), _splits(root), values.sex_codes(config.labels)
    cases = []
    for row in table:
        name = row.need(NAMES)
        attributes = values.attributes(row, names, codes, sex_column=SEX, age_column=AGE)
        image = places.get(name, root / "images" / name)
        cases.append(
            SourceCase(
                key=relative(image, root),
                patient=row.need(PATIENT),
                image=FileSource(image),
                where=row.where,
                labels=_labels(row, labels),
                attributes={**attributes, **({"view": row.get(VIEW)} if "view" in names else {})},
                split=splits.get(name, ""),
            )
        )
    return ReaderOutput(cases=tuple(cases), labels=labels, task=TaskKind.MULTILABEL, attributes=names)


def _labels(row: CsvRow, wanted: tuple[str, ...]) -> dict[str, float | None]:
    present = {name.strip() for name in row.need(FOUND).split("|")} - {"No Finding"}
    if present - set(FINDINGS):
        where = f"{row.where}, column {FOUND!r}"
        raise LayoutError(problem("a finding is not one of the published ones, joined by |", where=where))
    return {name: float(name in present) for name in wanted}


def _splits(root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, split in (("train_val_list.txt", "train"), ("test_list.txt", "test")):
        if (root / name).is_file():
            found.update(dict.fromkeys(files.read_text(root / name).split(), split))
    return found
