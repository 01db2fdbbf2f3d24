"""Tables of any published layout, read strictly: an error names the file, the column and the row."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from meninx.core import check, files
from meninx.core.errors import ConfigError, LayoutError, expected, problem


@dataclass(frozen=True)
class CsvRow:
    """One row of a table: its cells by column, and its place for messages."""

    cells: dict[str, str]
    table: str
    number: int

    @property
    def where(self) -> str:
        """The row's place, e.g. ``labels.csv, row 7`` (the header is row 1)."""
        return f"{self.table}, row {self.number}"

    def get(self, column: str) -> str:
        """Return the cell, stripped; empty when the column is not there."""
        return self.cells.get(column, "").strip()

    def need(self, column: str) -> str:
        """Return the cell, stripped.

        Raises:
            LayoutError: it is empty.
        """
        value = self.get(column)
        if not value:
            raise LayoutError(problem("an empty cell", where=f"{self.where}, column {column!r}"))
        return value

    def has(self, column: str) -> bool:
        """Return whether the table has the column."""
        return column in self.cells


@dataclass(frozen=True)
class CsvTable:
    """A CSV table in memory."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[CsvRow, ...]

    def __iter__(self) -> Iterator[CsvRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def needs(self, columns: Iterable[str]) -> CsvTable:
        """Return the table itself.

        Raises:
            LayoutError: a column is missing; names the nearest one.
        """
        for column in columns:
            if column not in self.columns:
                fix = check.did_you_mean(column, self.columns) or f"its columns are {', '.join(self.columns)}"
                raise LayoutError(
                    problem(f"there is no column {column!r}", where=f"{self.name}, row 1", fix=fix)
                )
        return self

    def having(self, require: Iterable[str]) -> CsvTable:
        """Return the rows that meet every ``column=value`` or ``column=one|other`` of ``require``."""
        rows = self.rows
        for rule in require:
            column, _, values = rule.partition("=")
            self.needs([column])
            rows = tuple(row for row in rows if row.get(column) in values.split("|"))
        if self.rows and not rows:
            raise ConfigError(
                problem("no row meets every rule of require", where=self.name, fix="check require")
            )
        return CsvTable(self.name, self.columns, rows)


def read_table(path: Path, needed: Iterable[str] = (), *, header: Iterable[str] | None = None) -> CsvTable:
    """Return a CSV table (UTF-8, byte-order mark and ``.gz`` welcome).

    Args:
        path: the file.
        needed: columns that must be there.
        header: column names of a table without a header row.

    Raises:
        LayoutError: no such file, not text, larger than ``files.TABLE_LIMIT``, a missing column, a cell of
            more than 128 kB, a row with too many or too few cells.
    """
    lines = _lines(path)
    if header is None and not lines:
        raise LayoutError(expected("a header row", got="an empty file", where=path.name))
    names = tuple(header) if header is not None else tuple(name.strip() for name in lines.pop(0))
    first = 1 if header is not None else 2
    rows = tuple(
        _row(cells, names, path.name, number) for number, cells in enumerate(lines, start=first) if any(cells)
    )
    return CsvTable(path.name, tuple(name for name in names if name), rows).needs(needed)


def _lines(path: Path) -> list[list[str]]:
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        return list(reader)
    except csv.Error as error:
        raise LayoutError(
            expected("a CSV table", got=str(error), where=f"{path.name}, line {reader.line_num}")
        ) from error


def _text(path: Path) -> str:
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        is_file = False
    if not is_file:
        raise LayoutError(
            problem(f"no such file: table {path.name[:80]!r}", where=f"folder {path.parent.name[:80]}")
        )
    try:
        data = files.read_bytes(path, limit=files.TABLE_LIMIT)
        if path.suffix == ".gz":
            with gzip.open(io.BytesIO(data)) as stream:
                data = stream.read(files.TABLE_LIMIT + 1)
            if len(data) > files.TABLE_LIMIT:
                raise LayoutError(
                    problem(f"the table is larger than {files.TABLE_LIMIT:,} bytes", where=path.name)
                )
        return data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise LayoutError(expected("a UTF-8 table", got=type(error).__name__, where=path.name)) from error


def _row(cells: list[str], names: tuple[str, ...], table: str, number: int) -> CsvRow:
    named = sum(1 for name in names if name)
    if len(cells) < named or any(cell.strip() for cell in cells[len(names) :]):
        raise LayoutError(expected(f"{named} cells", got=len(cells), where=f"{table}, row {number}"))
    return CsvRow({name: cell for name, cell in zip(names, cells, strict=False) if name}, table, number)
