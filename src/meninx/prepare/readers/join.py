"""Label tables joined to DICOM images by clean identifiers, or by original ones and a crosswalk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from meninx.core.csv_table import Row, Table, read_table, resolve
from meninx.core.errors import ConfigError, DataError, LayoutError, expected
from meninx.core.manifest import Task
from meninx.prepare.config import PrepareConfig
from meninx.prepare.found import FileSource, Source
from meninx.prepare.readers import values

KEYS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "AccessionNumber", "PatientID")
"""Identifiers from the most to the least specific."""


@dataclass(frozen=True)
class Labelled:
    """What the table says of one image; ``wanted`` is False for a class that was not asked for."""

    labels: dict[str, float | None]
    mask: Source | None
    attributes: dict[str, str]
    where: str
    wanted: bool = True


@dataclass
class LabelTable:
    """The rows of a label table, found by the identifiers of an image."""

    labels: tuple[str, ...]
    task: Task
    attributes: tuple[str, ...]
    config: PrepareConfig
    base: Path
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    used: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def read(cls, root: Path, config: PrepareConfig, site: str) -> LabelTable:
        """Return the table of the config.

        Raises:
            LayoutError: a column is missing, or two rows name the same image; names file, column and row.
        """
        if not config.table:
            fix = "give the label table"
            raise ConfigError(expected("a table", got="none", where="table, reader dicom", fix=fix))
        path = resolve(config.table, root, site)
        table = read_table(path)
        keys = [name for name in KEYS if name in table.columns]
        if not keys:
            raise LayoutError(
                expected(f"a column {' or '.join(KEYS)}", got="none", where=f"{table.name}, row 1")
            )
        task, labels = _meaning(table, config, keys)
        attributes = _further(table, config)
        found = cls(labels, task, attributes, config, path.parent)
        clean = _crosswalk([resolve(text, root, site) for text in config.crosswalks])
        for row in table.having(config.require):
            found._add(row, keys, clean)
        return found

    def find(self, header: dict[str, str], *, whole_series: bool) -> Labelled | None:
        """Return what the table says of an image, by its most specific identifier; None when no row fits."""
        for name in KEYS[1:] if whole_series else KEYS:
            key = (name, header[name])
            if header[name] and key in self.rows:
                self.used.add(key)
                return self._labelled(self.rows[key])
        return None

    def unused(self, have_images: bool) -> list[tuple[str, str]]:
        """Return reason and place of the rows that fit no image.

        Raises:
            DataError: no row fits any of the images.
        """
        if self.rows and have_images and not self.used:
            fix = "give crosswalks when the table holds original identifiers"
            raise DataError(
                expected(
                    "rows that name an image", got=f"0 of {len(self.rows)}", where="label table", fix=fix
                )
            )
        return [
            ("label row without an image", row.where)
            for key, row in self.rows.items()
            if key not in self.used
        ]

    def _add(self, row: Row, keys: list[str], clean: dict[str, set[str]]) -> None:
        name = next((name for name in keys if row.get(name)), "")
        if not name:
            raise LayoutError(
                expected("an identifier", got="empty cells", where=f"{row.where}, columns {', '.join(keys)}")
            )
        new = clean.get(row.get(name), {row.get(name)})
        if len(new) > 1:
            fix = (
                "give a more specific identifier, or each site its own crosswalk with {source} or "
                "{site} in the path"
            )
            got = f"{len(new)} in the crosswalks"
            raise LayoutError(
                expected("one clean identifier", got=got, where=f"{row.where}, column {name!r}", fix=fix)
            )
        key = (name, next(iter(new)))
        if key in self.rows:
            fix = "keep one row an image"
            raise LayoutError(
                expected(
                    "each image once", got=f"it again, after {self.rows[key].where}", where=row.where, fix=fix
                )
            )
        self.rows[key] = row

    def _labelled(self, row: Row) -> Labelled:
        config = self.config
        name = row.get(config.mask_column) if config.mask_column else ""
        mask = FileSource(self.base / name) if name else None
        attributes = {column: row.get(column) for column in self.attributes}
        if self.task is Task.SEGMENTATION:
            return Labelled({}, mask, attributes, row.where)
        if config.class_column:
            labels = values.of_class(row.get(config.class_column), config)
            return Labelled(labels, mask, attributes, row.where, bool(labels))
        return Labelled(
            {name: values.label(row, name, config) for name in self.labels}, mask, attributes, row.where
        )


def _meaning(table: Table, config: PrepareConfig, keys: list[str]) -> tuple[Task, tuple[str, ...]]:
    task = values.task_of(config)
    if task is Task.SEGMENTATION:
        table.needs([config.mask_column] if config.mask_column else [])
        return task, config.mask_labels or ("foreground",)
    if config.class_column:
        table.needs([config.class_column])
        return task, values.class_names(config, [row.get(config.class_column) for row in table], table.name)
    beside = {*keys, config.mask_column, *config.attribute_columns, config.site_column}
    labels = config.label_columns or tuple(name for name in table.columns if name not in beside)
    if not labels:
        raise ConfigError(
            expected("something to learn", got="no label column", where=table.name, fix="give label_columns")
        )
    table.needs(labels)
    return task, labels


def _further(table: Table, config: PrepareConfig) -> tuple[str, ...]:
    table.needs(config.attribute_columns)
    extra = config.site_column if config.site_column in table.columns else ""
    names = (*config.attribute_columns, *([extra] if extra else []))
    return tuple(dict.fromkeys(name for name in names if name not in ("sex", "age", "view")))


def _crosswalk(paths: list[Path]) -> dict[str, set[str]]:
    """Return original to clean identifiers.

    One original may stand for several, where hospitals gave a number twice.
    """
    clean: dict[str, set[str]] = {}
    for path in paths:
        for row in read_table(path, ("id_old", "id_new")):
            clean.setdefault(row.need("id_old"), set()).add(row.need("id_new"))
    return clean
