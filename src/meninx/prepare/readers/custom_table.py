"""A table and a folder of images, every column configurable.

Layout: ``labels.csv`` (or ``table``) with ``image_column`` naming a file below ``image_folder``,
    ``patient_column``, and
``label_columns`` or one ``class_column``; masks by ``mask_column`` (paths from the table's folder) or
``mask_folder`` (files named like the images). Graded master lists (1-2 negative, 3-4 positive) are read with
``positive_from=3``.
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
    path = resolve(config.table or "labels.csv", root, site)
    optional = (config.study_column, config.split_column, config.class_column, config.mask_column)
    table = read_table(
        path, (config.image_column, config.patient_column, *filter(None, optional), *config.label_columns)
    )
    folder = resolve(config.image_folder, root, site)
    by_column = config.site_mode == "column"
    if by_column:
        table.needs([config.site_column])
    layout = Layout(
        image=lambda row: _image(folder, row.need(config.image_column)),
        patient=lambda row: row.need(config.patient_column),
        study=lambda row: row.get(config.study_column),
        split=lambda row: row.get(config.split_column),
        site=lambda row: row.get(config.site_column) if by_column else "",
        mask=_Masks(
            config, path.parent, resolve(config.mask_folder, root, site) if config.mask_folder else None
        ),
        classes=(lambda row: row.get(config.class_column)) if config.class_column else None,
        labels=config.label_columns,
        sex=config.sex_column,
        age=config.age_column,
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
        if self._config.mask_column:
            name = row.get(self._config.mask_column)
            return FileSource(self._base / name) if name else None
        name = Path(row.need(self._config.image_column)).name
        path = self._by_name.get(name) or self._by_name.get(stem(name))
        return FileSource(path) if path else None
