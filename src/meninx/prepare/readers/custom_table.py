"""A table and a folder of images, with configurable columns.

Layout: ``labels.csv``, the only table of the source, or ``table``. Columns that no setting names are found by
these names alone, in any case and with any of ``_``, ``-`` and blanks between the words:

============= =======================================================================================
image         file, filename, image, image path, image name, image id, path, img, img id
patient       patient, patient id, subject, subject id, participant id
class         label, class, diagnosis, dx, category, target; one label if all cells are 0, 1, -1 or empty
============= =======================================================================================

If several columns have one of these names, or none has, the settings must say which one it is.
``patient_column="none"`` says that the table names no patients. A cell of the image column is a path from
``image_folder``, from the table's folder or from the source, or the name of a file below ``image_folder``,
with or without its suffix. Masks are given by ``mask_column`` (paths from the table's folder) or
``mask_folder`` (files named like the images). Graded master lists (1-2 negative, 3-4 positive) are read with
``positive_from=3``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from meninx.core.csv_table import CsvRow, CsvTable, read_table
from meninx.core.errors import LayoutError, problem
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers.layout import Layout, read_rows
from meninx.prepare.readers.source_files import (
    IMAGES,
    TABLES,
    ImageIndex,
    files_below,
    folders_in,
    is_file,
    is_stray,
    note_without_row,
    resolve,
    table_path,
)
from meninx.prepare.source_cases import FileSource, ReaderOutput, Source

IMAGE_NAMES = (
    "file", "filename", "image", "imagepath", "imagename", "imageid", "path", "img", "imgid",
)  # fmt: skip
PATIENT_NAMES = ("patient", "patientid", "subject", "subjectid", "participantid")
CLASS_NAMES = ("label", "class", "diagnosis", "dx", "category", "target")
NO_PATIENTS = "none"
FOUND = "column found by its name"


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return the cases of a table.

    Raises:
        LayoutError: a file, column or cell is not as configured, or not exactly one column has a name
            of those above; names file, column and row.
    """
    path = table_path(config.input.table, root, site) if config.input.table else only_table(root)
    table = read_table(path)
    notes = [] if config.input.table or path.name == "labels.csv" else [("table found", path.name)]
    image = config.input.image_column or _found(table, IMAGE_NAMES, "image_column", "images", notes)
    none = f", or patient_column {NO_PATIENTS} if no patient has several images"
    patient = config.input.patient_column or _found(
        table, PATIENT_NAMES, "patient_column", "patients", notes, fix=none
    )
    config = _with_labels(table, config, notes)
    known = patient != NO_PATIENTS or NO_PATIENTS in table.columns
    by_column = config.sites.mode == "column"
    optional = (
        patient if known else "",
        config.input.study_column,
        config.split.column,
        config.labels.class_column,
        config.masks.column,
        config.sites.column if by_column else "",
    )
    table.needs([image, *filter(None, optional), *config.labels.label_columns])
    place = _Images(root, path.parent, config, site)
    masks = _Masks(config, path.parent, resolve(config.masks.folder, root, site), image)
    layout = Layout(
        image=lambda row: place(row.need(image), row.where),
        indices=(place.index, *([masks.index] if masks.index else [])),
        patient=lambda row: row.need(patient) if known else "",
        study=lambda row: row.get(config.input.study_column),
        split=lambda row: row.get(config.split.column),
        site=lambda row: row.get(config.sites.column) if by_column else "",
        mask=masks,
        classes=(lambda row: row.get(config.labels.class_column)) if config.labels.class_column else None,
        labels=config.labels.label_columns,
        sex=config.labels.sex_column,
        age=config.labels.age_column,
        patients_known=known,
        notes=tuple(notes),
    )
    reading = read_rows(root, [table], layout, config)
    unnamed = _without_row(reading, table, image, place, masks)
    return replace(reading, notes=(*reading.notes, *unnamed))


def tables_in(root: Path) -> list[Path]:
    """Return the tables directly in a folder, sorted."""
    paths = [path for path in sorted(root.iterdir()) if path.name.lower().endswith(TABLES)]
    return [path for path in paths if not is_stray(path.name) and path.is_file()]


def only_table(root: Path) -> Path:
    """Return ``labels.csv`` of a source, else its only table, also below a chain of single folders.

    Raises:
        LayoutError: there is no table, or there are several.
    """
    if (root / "labels.csv").is_file():
        return root / "labels.csv"
    found = tables_in(root) if root.is_dir() else []
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise LayoutError(
            problem(f"there are {len(found)} tables: {names}", where=f"folder {root.name}", fix="give table")
        )
    if found:
        return found[0]
    below = folders_in(root) if root.is_dir() else []
    if len(below) == 1 and tables_in(below[0]):
        return only_table(below[0])
    raise LayoutError(
        problem("there is no table (.csv or .tsv)", where=f"folder {root.name}", fix="give table")
    )


def plain_name(name: str) -> str:
    """Return a column name without case, blanks, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name).lower()


def _found(
    table: CsvTable,
    names: tuple[str, ...],
    setting: str,
    what: str,
    notes: list[tuple[str, str]],
    *,
    fix: str = "",
) -> str:
    """Return the only column with one of the documented names.

    Raises:
        LayoutError: there is no such column, or there are several.
    """
    found = [column for column in table.columns if plain_name(column) in names]
    if len(found) == 1:
        notes.append((FOUND, f"{setting} {found[0]!r}"))
        return found[0]
    got = (
        f"several columns may name the {what}: {', '.join(found)}" if found else f"no column names the {what}"
    )
    advice = f"give {setting}{fix}; the columns are {', '.join(table.columns)}"
    raise LayoutError(problem(got, where=f"{table.name}, row 1", fix=advice))


def _with_labels(table: CsvTable, config: PrepareConfig, notes: list[tuple[str, str]]) -> PrepareConfig:
    """Return the config with the class or label column found by its name, if the config has none."""
    asked = config.labels.label_columns or config.labels.class_column or config.task == "segmentation"
    if asked or config.masks.column or config.masks.folder or config.masks.labels:
        return config
    found = [column for column in table.columns if plain_name(column) in CLASS_NAMES]
    if len(found) > 1:
        fix = "give class_column or label_columns"
        what = f"several columns may hold the classes: {', '.join(found)}"
        raise LayoutError(problem(what, where=f"{table.name}, row 1", fix=fix))
    if not found:
        return config
    cells = {row.get(found[0]) for row in table}
    binary = cells <= {"0", "1", "-1", "0.0", "1.0", "-1.0", ""}
    setting = "label_columns" if binary else "class_column"
    notes.append((FOUND, f"{setting} {found[0]!r}"))
    return config.replace(**{setting: found[0]})


def _without_row(
    reading: ReaderOutput, table: CsvTable, image: str, images: _Images, masks: _Masks
) -> list[tuple[str, str]]:
    """Return a note with the number of image files that no row names as image or mask."""
    cells = [(cell, row.where) for row in table if (cell := row.get(image)) and "\0" not in cell]
    named = {images(cell, where).resolve() for cell, where in cells}
    named |= {case.mask.path.resolve() for case in reading.cases if isinstance(case.mask, FileSource)}
    others = [path.resolve() for path in files_below(images.index.root, IMAGES)]
    if masks.index is not None:
        folder = masks.index.root.resolve()
        others = [path for path in others if not path.is_relative_to(folder)]
    return note_without_row(others, named)


class _Images:
    """Search for the image that a cell names."""

    def __init__(self, root: Path, base: Path, config: PrepareConfig, site: str) -> None:
        given = config.input.image_folder
        usual = next((place for place in (base / "images", root / "images") if place.is_dir()), base)
        folder = resolve(given, root, site) if given else usual
        if not folder.is_dir():
            raise LayoutError(problem(f"there is no folder {folder.name[:80]!r}", where="image_folder"))
        # A folder given by a setting is the only place; otherwise a path may be relative to three folders.
        self._places = (folder,) if given else tuple(dict.fromkeys((folder, base, root)))
        self.index = ImageIndex(folder, IMAGES)

    def __call__(self, name: str, where: str) -> Path:
        """Return the image's path; if it is missing, a path without a file."""
        there = {path.resolve(): path for place in self._places if is_file(path := place / name)}
        if len(there) > 1:
            self.index.ambiguous[name] = where, len(there)
        if there:
            return next(iter(there.values()))
        return self.index.find(name, where) or self._places[0] / name


class _Masks:
    """Search for the mask of a row, by a column or in a folder with equal names."""

    def __init__(self, config: PrepareConfig, base: Path, folder: Path, image: str) -> None:
        self._config, self._base, self._image = config, base, image
        by_name = bool(config.masks.folder) and not config.masks.column
        self.index = ImageIndex(folder, IMAGES) if by_name else None

    def __call__(self, row: CsvRow) -> Source | None:
        """Return the mask, or None."""
        if self._config.masks.column:
            name = row.get(self._config.masks.column)
            return FileSource(self._base / name) if name else None
        if self.index is None:
            return None
        name = Path(row.need(self._image)).name
        path = self.index.find(name, row.where) or self.index.find(Path(name).stem, row.where)
        return FileSource(path) if path else None
