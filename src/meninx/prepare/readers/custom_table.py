"""A table and a folder of images, every column configurable.

Layout: ``labels.csv`` (or ``table``) with ``image_column`` naming a file below ``image_folder``,
``patient_column``, and ``label_columns`` or one ``class_column``; masks by ``mask_column`` (paths from the
table's folder) or ``mask_folder`` (files named like the images). Graded master lists (1-2 negative, 3-4
positive) are read with ``positive_from=3``.
"""

from __future__ import annotations

from pathlib import Path

from meninx.core.csv_table import CsvRow, read_table
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers.layout import Layout, read_rows
from meninx.prepare.readers.source_files import IMAGES, index_files, resolve, stem
from meninx.prepare.source_cases import FileSource, ReaderOutput, Source


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return the cases of a table.

    Raises:
        LayoutError: a file, column or cell is not as configured; names file, column and row.
    """
    path = resolve(config.input.table or "labels.csv", root, site)
    optional = (
        config.input.study_column,
        config.split.column,
        config.labels.class_column,
        config.masks.column,
    )
    table = read_table(
        path,
        (
            config.input.image_column,
            config.input.patient_column,
            *filter(None, optional),
            *config.labels.label_columns,
        ),
    )
    folder = resolve(config.input.image_folder, root, site)
    by_column = config.sites.mode == "column"
    if by_column:
        table.needs([config.sites.column])
    layout = Layout(
        image=lambda row: _image(folder, row.need(config.input.image_column)),
        patient=lambda row: row.need(config.input.patient_column),
        study=lambda row: row.get(config.input.study_column),
        split=lambda row: row.get(config.split.column),
        site=lambda row: row.get(config.sites.column) if by_column else "",
        mask=_Masks(
            config, path.parent, resolve(config.masks.folder, root, site) if config.masks.folder else None
        ),
        classes=(lambda row: row.get(config.labels.class_column)) if config.labels.class_column else None,
        labels=config.labels.label_columns,
        sex=config.labels.sex_column,
        age=config.labels.age_column,
    )
    return read_rows(root, [table], layout, config)


def _image(folder: Path, name: str) -> Path:
    return folder / name


class _Masks:
    """Finds the mask of a row, by column or by a folder of equal names."""

    def __init__(self, config: PrepareConfig, base: Path, folder: Path | None) -> None:
        self._config, self._base = config, base
        self._by_name = index_files(folder, IMAGES) if folder else {}

    def __call__(self, row: CsvRow) -> Source | None:
        """Return the mask, or None."""
        if self._config.masks.column:
            name = row.get(self._config.masks.column)
            return FileSource(self._base / name) if name else None
        name = Path(row.need(self._config.input.image_column)).name
        path = self._by_name.get(name) or self._by_name.get(stem(name))
        return FileSource(path) if path else None
