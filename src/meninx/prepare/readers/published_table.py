"""Reader of published datasets that are described by data: tables, columns, and places of the images.

:class:`PublishedTable` describes one dataset. It is a reader: calling it reads the dataset. The
datasets are listed in :mod:`meninx.prepare.readers.published_layouts`; a further one is one more entry there.

A column may have had several names in the versions of a dataset. All names that were published are listed,
the cells are read under the first one, and a renamed column is noted in the result. A label column that has
none of its names is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from re import Pattern

from meninx.core import check, files
from meninx.core.csv_table import CsvRow, CsvTable, read_table
from meninx.core.errors import ConfigError, LayoutError, expected, problem
from meninx.imaging.load import PICTURES
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import values
from meninx.prepare.readers.layout import Layout, read_rows
from meninx.prepare.readers.source_files import (
    ImageIndex,
    NoSuchTable,
    first_of,
    is_file,
    note_without_row,
    resolve,
    table_path,
)
from meninx.prepare.setting_tables import AUTO
from meninx.prepare.source_cases import ReaderOutput

Names = tuple[str, ...]
RENAMED, NO_ATTRIBUTE = "label read from a renamed column", "no column of this name"
NO_ROW, ABSENT = "no label row", "table that is not there"
AGE = "computed age"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One table of cases.

    Attributes:
        names: file names under which it was published.
        split: published split of all its rows.
        needed: whether the dataset is unreadable without it.
    """

    names: Names
    split: str = ""
    needed: bool = True


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A table whose cells are added to the rows of the cases.

    Attributes:
        names: file names under which it was published.
        key: column that it shares with the cases.
        columns: columns that must exist.
        needed: whether the table must exist; rows of the cases without a row here are then left out.
    """

    names: Names
    key: str
    columns: Names = ()
    needed: bool = False


@dataclass(frozen=True, kw_only=True)
class FindingsColumn:
    """A column with all findings of an image.

    Attributes:
        column: the column.
        parts: returns the findings in a cell, or None for an empty cell.
        nothing: entries that mean that there is no finding.
        known: all findings that exist, in output order; empty where the user must choose.
    """

    column: str
    parts: Callable[[str], set[str] | None]
    nothing: frozenset[str] = frozenset()
    known: Names = ()


@dataclass(frozen=True, kw_only=True)
class Expanded:
    """The rows that a layout derives from the rows of its table.

    Attributes:
        table: the new rows.
        skipped: rows that are left out: reason and place.
        left_out: names of the images of rows that are left out.
    """

    table: CsvTable
    skipped: tuple[tuple[str, str], ...] = ()
    left_out: Names = ()


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """The layout of one dataset; calling it reads the dataset.

    Attributes:
        tables: the tables of cases.
        image: names of the column with the image's name or path, with or without a suffix.
        depth: how many parts at the end of that path identify an image.
        suffixes: endings of image files.
        place: where an image belongs below the source, with column names in braces; decides among images of
            one name.
        patient: names of the column with the patient, or with what stands for the patient; empty where each
            image counts as its own.
        whose: patient and study in the image's path, as two groups.
        study: names of the column with the study.
        labels: labels and the names of their columns.
        one_hot: the label columns are classes, of which each row has one.
        diagnosis: names of the column with the one class of a row.
        findings: a column with several findings.
        joined: further tables.
        expanded: rows of cases in place of the rows of the table.
        split_lists: text files that list the images of a split.
        blank: meaning of an empty label.
        several_rows: how rows of one image are merged: refuse, any, majority.
        sex: names of the column of the sex.
        age: names of the column of the age.
        age_of: computes the age where the table does not contain it.
        age_from: columns from which the age is computed.
        view: names of the column of the view.
        codes: codes of the sex.
        malignant: classes that the setting ``malignant`` merges.
        patients_known: False if the dataset names no patients.
    """

    tables: tuple[Part, ...]
    image: Names
    depth: int = 1
    suffixes: Names = PICTURES
    place: str = ""
    patient: Names = ()
    whose: Pattern[str] | None = None
    study: Names = ()
    labels: Mapping[str, Names] = field(default_factory=dict)
    one_hot: bool = False
    diagnosis: Names = ()
    findings: FindingsColumn | None = None
    joined: tuple[Joined, ...] = ()
    expanded: Callable[[CsvTable], Expanded] | None = None
    split_lists: tuple[tuple[str, str], ...] = ()
    blank: str = "unknown"
    several_rows: str = "refuse"
    sex: Names = ()
    age: Names = ()
    age_of: Callable[[CsvRow], str] | None = None
    age_from: Names = ()
    view: Names = ()
    codes: dict[str, str] = field(default_factory=dict)
    malignant: Names = ()
    patients_known: bool = True

    def __call__(self, root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
        """Return the cases of the dataset.

        Raises:
            LayoutError: a table or column is missing, a cell is empty or not as published, or several files
                have the name of one image; names file, column and row.
            ConfigError: the dataset does not have a label of the settings.
        """
        if config.labels.malignant:
            config = config.replace(positive=self.malignant, positive_name="malignant", malignant=False)
        classes = bool(self.diagnosis or self.one_hot or config.labels.class_column)
        if config.task == "segmentation" or (config.task == "multiclass" and not classes):
            # The layout determines the task; the caller refuses a setting that contradicts it.
            config = config.replace(task=AUTO)
        return _Reading(self, root, config, site).output()


class _Reading:
    """State of reading one dataset: its tables under the published column names, and its images."""

    def __init__(self, layout: PublishedTable, root: Path, config: PrepareConfig, site: str) -> None:
        self._layout, self._root, self._config, self._site = layout, root, config, site
        self._notes: list[tuple[str, str]] = []
        self._skipped: list[tuple[str, str]] = []
        self._left_out: list[str] = []  # images of rows that are left out before they are read
        self._places: dict[tuple[str, str], Path] = {}
        self._column = config.labels.class_column or (layout.diagnosis[0] if layout.diagnosis else "")
        folder = config.input.image_folder
        self._base = resolve(folder, root, site) if folder else root
        self._index = ImageIndex(self._base, layout.suffixes, layout.depth)

    def output(self) -> ReaderOutput:
        """Return the cases."""
        layout = self._layout
        labels = self._labels()
        tables = [self._named(table, labels) for table in self._tables()]
        lists = self._lists()
        parts = {name: part.split for part in layout.tables for name in part.names}
        if layout.findings and not layout.findings.known:
            _refuse_absent(tables, layout.findings, labels)

        def split(row: CsvRow) -> str:
            name = PurePosixPath(row.get(layout.image[0])).name
            return lists.get(name, "") or parts.get(row.table, "") or row.get("split")

        classes = self._classes(labels)
        reading = read_rows(
            self._root,
            tables,
            Layout(
                image=self._image,
                indices=(self._index,),
                patient=self._patient,
                study=self._study,
                split=split,
                classes=classes,
                labels=() if classes else labels,
                label=partial(_finding, findings=layout.findings) if layout.findings else None,
                blank=layout.blank,
                sex=layout.sex[0] if layout.sex else "",
                age=AGE if layout.age_of else next(iter(layout.age), ""),
                further={"view": layout.view[0]} if layout.view and _has(tables, layout.view[0]) else {},
                codes=layout.codes,
                several_rows=layout.several_rows,
                patients_known=layout.patients_known,
                notes=tuple(self._notes),
                skipped=tuple(self._skipped),
            ),
            self._config,
        )
        return replace(reading, notes=(*reading.notes, *self._without_row(tables)))

    def _without_row(self, tables: Sequence[CsvTable]) -> list[tuple[str, str]]:
        """Return a note with the number of image files that no row names, counting unused rows as well."""
        column = self._layout.image[0]
        named = {self._image(row) for table in tables for row in table if row.get(column)}
        named |= {path for text in self._left_out if text and (path := self._index.find(text)) is not None}
        return note_without_row(self._index.files, named)

    def _classes(self, labels: Names) -> Callable[[CsvRow], str] | None:
        """Return the function that returns the class of a row, or None for a dataset of labels."""
        column = self._column
        if column:
            published = bool(self._layout.diagnosis) and not self._config.labels.class_column
            return (lambda row: row.need(column)) if published else (lambda row: row.get(column))
        return partial(_hot, labels=labels) if self._layout.one_hot else None

    def _labels(self) -> Names:
        """Return the labels that are read."""
        chosen, layout = self._config.labels.label_columns, self._layout
        if self._column:
            return ()
        if layout.findings is not None:
            if not layout.findings.known and not chosen:
                fix = "give label_columns: the findings that are to be learnt"
                where = f"column {layout.findings.column!r}"
                raise ConfigError(problem("the layout has no fixed list of findings", where=where, fix=fix))
            return (
                values.chosen(chosen, layout.findings.known, "findings") if layout.findings.known else chosen
            )
        return values.chosen(chosen, layout.labels, layout.tables[0].names[0])

    def _tables(self) -> list[CsvTable]:
        """Return the tables of cases, with the cells of the joined tables."""
        found = []
        for part in self._layout.tables:
            if self._config.input.table:
                path = table_path(self._config.input.table, self._root, self._site)
            elif part.needed:
                path = first_of(self._root, part.names)
            else:
                there = _first_or_none(self._root, part.names)
                if there is None:
                    continue
                path = there
            table = read_table(path)
            if self._layout.expanded is not None:
                expanded = self._layout.expanded(table)
                table = expanded.table
                self._skipped += expanded.skipped
                self._left_out += expanded.left_out
            found.append(table)
        return self._joined(found)

    def _joined(self, tables: list[CsvTable]) -> list[CsvTable]:
        for other in self._layout.joined:
            path = (
                first_of(self._root, other.names) if other.needed else _first_or_none(self._root, other.names)
            )
            if path is None:
                self._notes.append((ABSENT, other.names[-1]))
                continue
            cells = {row.need(other.key): row.cells for row in read_table(path, (other.key, *other.columns))}
            tables = [self._with_cells(table, other, cells) for table in tables]
        return tables

    def _with_cells(self, table: CsvTable, other: Joined, cells: Mapping[str, dict[str, str]]) -> CsvTable:
        rows = []
        for row in table.needs([other.key]):
            found = cells.get(row.need(other.key))
            if found is None and other.needed:
                self._skipped.append((NO_ROW, row.where))
                self._left_out += [row.get(name) for name in self._layout.image]
                continue
            rows.append(CsvRow({**(found or {}), **row.cells}, row.table, row.number))
        new = tuple(dict.fromkeys(name for found in cells.values() for name in found))
        columns = tuple(dict.fromkeys((*table.columns, *new)))
        return CsvTable(table.name, columns, tuple(rows), table.form)

    def _named(self, table: CsvTable, labels: Names) -> CsvTable:
        """Return the table with each column also under the first of its published names."""
        layout = self._layout
        by_label = {name: layout.labels[name] for name in labels if name in layout.labels}
        lacking = [name for name, names in by_label.items() if not set(names) & set(table.columns)]
        if lacking:
            fix = f"give label_columns without them; its columns are {', '.join(table.columns)}"
            what = f"{len(lacking)} of {len(by_label)} label columns are missing: {', '.join(lacking)}"
            raise LayoutError(problem(what, where=f"{table.name}, row 1", fix=fix))
        renamed = {name: _column(table, names) for name, names in by_label.items()}
        for name, column in renamed.items():
            if column != by_label[name][0]:
                self._notes.append((RENAMED, f"{table.name}, {column!r} as {name!r}"))
        owner = layout.patient if self._needs_patient else ()
        for names in filter(None, (layout.image, owner, layout.study, layout.diagnosis)):
            renamed[names[0]] = _column(table, names)
        optional = () if self._needs_patient else layout.patient
        for names in filter(None, (optional, layout.sex, layout.age, layout.age_from[:1], layout.view)):
            if set(names) & set(table.columns):
                renamed[names[0]] = _column(table, names)
            else:
                self._notes.append((NO_ATTRIBUTE, f"{table.name}, {' or '.join(map(repr, names))}"))
        if self._config.labels.class_column:
            table.needs([self._column])
        if layout.findings is not None:
            table.needs([layout.findings.column])
        return self._under(table, renamed)

    @property
    def _needs_patient(self) -> bool:
        """Whether each row must name its patient; lesions of a joined table may be unknown."""
        return self._layout.patients_known or not self._layout.joined

    def _under(self, table: CsvTable, renamed: Mapping[str, str]) -> CsvTable:
        """Return the table with further columns, and the computed age."""
        layout = self._layout
        age_of = layout.age_of if set(layout.age_from) <= set(table.columns) else None
        rows = tuple(
            CsvRow(
                {
                    **row.cells,
                    **{name: row.cells.get(column, "") for name, column in renamed.items()},
                    **({AGE: age_of(row)} if age_of else {}),
                },
                row.table,
                row.number,
            )
            for row in table
        )
        columns = (*table.columns, *renamed, *((AGE,) if age_of else ()))
        return CsvTable(table.name, tuple(dict.fromkeys(columns)), rows, table.form)

    def _image(self, row: CsvRow) -> Path:
        """Return the image's path; if it is missing, a path without a file."""
        text = row.need(self._layout.image[0])
        if (text, row.where) not in self._places:
            self._places[text, row.where] = self._located(text, row)
        return self._places[text, row.where]

    def _located(self, text: str, row: CsvRow) -> Path:
        parts = PurePosixPath(text.replace("\\", "/")).parts
        # A path in the table, or the published place, decides among files of one name. Cells are untrusted,
        # but they cannot lead out of the source.
        tried = [text, "/".join(parts[1:])] if len(parts) > 1 else []
        if self._layout.place:
            tried.append(_filled(self._layout.place, row))
        for place in tried:
            if place and ".." not in PurePosixPath(place).parts and not place.startswith("/"):
                path = self._base / place
                if is_file(path):
                    return path
        return self._index.find(text, row.where) or self._base / "/".join(
            part for part in parts if part not in ("..", "/")
        )

    def _patient(self, row: CsvRow) -> str:
        layout = self._layout
        if layout.whose is not None:
            return self._owner(row)[0]
        if not layout.patient:
            return ""
        return row.need(layout.patient[0]) if self._needs_patient else row.get(layout.patient[0])

    def _study(self, row: CsvRow) -> str:
        if self._layout.whose is not None:
            return "/".join(self._owner(row))
        return row.get(self._layout.study[0]) if self._layout.study else ""

    def _owner(self, row: CsvRow) -> tuple[str, str]:
        assert self._layout.whose is not None
        match = self._layout.whose.search(row.need(self._layout.image[0]))
        if match is None:
            where = f"{row.where}, column {self._layout.image[0]!r}"
            raise LayoutError(problem("the path does not hold patientXXXXX/studyN/", where=where))
        return match[1], match[2]

    def _lists(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, split in self._layout.split_lists:
            path = _first_or_none(self._root, (name,))
            if path is not None:
                found.update(dict.fromkeys(files.read_text(path).split(), split))
        return found


def _first_or_none(root: Path, names: Names) -> Path | None:
    try:
        return first_of(root, names)
    except NoSuchTable:
        return None


def _column(table: CsvTable, names: Names) -> str:
    """Return the only one of several published names that a table has.

    Raises:
        LayoutError: the table has none of the names, or several.
    """
    there = [name for name in names if name in table.columns]
    if len(there) > 1:
        raise LayoutError(
            expected("one of these columns", got=" and ".join(there), where=f"{table.name}, row 1")
        )
    if there:
        return there[0]
    if len(names) == 1:
        table.needs(names)
    fix = check.did_you_mean(names[0], table.columns) or f"its columns are {', '.join(table.columns)}"
    which = " or ".join(map(repr, names))
    raise LayoutError(problem(f"there is no column {which}", where=f"{table.name}, row 1", fix=fix))


def _hot(row: CsvRow, *, labels: Names) -> str:
    """Return the class of a row whose columns are classes."""
    classes = [name for name in labels if row.get(name) in ("1", "1.0")]
    others = [name for name in labels if row.get(name) not in ("0", "0.0", "1", "1.0")]
    if others or len(classes) > 1:
        got = f"{len(classes)} and {len(others)} cells that are neither 0 nor 1"
        raise LayoutError(expected("one class of 1, the others 0", got=got, where=row.where))
    return classes[0] if classes else ""


def _finding(row: CsvRow, name: str, *, findings: FindingsColumn | None) -> float | None:
    """Return whether a row has a finding, or None for an empty cell."""
    assert findings is not None
    present = findings.parts(row.get(findings.column))
    if present is None:
        return None
    if findings.known and present - set(findings.known) - findings.nothing:
        where = f"{row.where}, column {findings.column!r}"
        raise LayoutError(problem("a finding is not one of the published ones", where=where))
    return float(name in present)


def _refuse_absent(tables: list[CsvTable], findings: FindingsColumn, labels: Names) -> None:
    """Refuse labels that occur in no row, because they are usually spelled wrongly."""
    rows = (row for table in tables for row in table)
    seen = {name for row in rows for name in findings.parts(row.get(findings.column)) or ()}
    for name in labels:
        if name not in seen:
            fix = check.did_you_mean(name, seen) or f"{len(seen)} findings occur"
            where = f"label_columns, column {findings.column!r}"
            raise ConfigError(expected("findings that occur", got=repr(name), where=where, fix=fix))


def _has(tables: list[CsvTable], column: str) -> bool:
    return all(column in table.columns for table in tables)


def _filled(template: str, row: CsvRow) -> str:
    try:
        return template.format_map({name: cell.strip() for name, cell in row.cells.items()})
    except (KeyError, ValueError, IndexError):
        return ""
