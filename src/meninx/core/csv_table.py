"""Tables of any published layout, read strictly: an error names the file, the column and the row.

A table is UTF-8, with or without a byte-order mark, or Latin-1. Its cells are separated by commas, semicolons
or tabs. Both are determined by fixed rules and never guessed; a table for which they give no unique answer,
or with two columns of the same name, is refused:

- Bytes that are valid UTF-8 are UTF-8. Other bytes are Latin-1, unless they hold a control character of
  Latin-1 (0x80 to 0x9F) or a sequence that is valid UTF-8: the table is then damaged or in another encoding.
- The separator is the one that occurs in the header row. If several occur, it is the only one with which each
  row has as many cells as the header row.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections import Counter
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
        """Return the cell, stripped; empty if there is no such column."""
        return self.cells.get(column, "").strip()

    def need(self, column: str) -> str:
        """Return the cell, stripped.

        Raises:
            LayoutError: the cell is empty.
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
    """A CSV table in memory.

    Attributes:
        name: file name, for messages.
        columns: names of the columns; columns without a name are left out.
        rows: the rows that are not empty.
        form: deviations from UTF-8 with commas, e.g. ``Latin-1`` or ``cells separated by semicolons``.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[CsvRow, ...]
    form: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[CsvRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def needs(self, columns: Iterable[str]) -> CsvTable:
        """Return the table itself, after checking that it has the columns.

        Raises:
            LayoutError: a column is missing; the message suggests a similar one.
        """
        for column in columns:
            if column not in self.columns:
                fix = check.did_you_mean(column, self.columns) or f"its columns are {', '.join(self.columns)}"
                raise LayoutError(
                    problem(f"there is no column {column!r}", where=f"{self.name}, row 1", fix=fix)
                )
        return self

    def having(self, require: Iterable[str]) -> CsvTable:
        """Return the rows that satisfy every ``column=value`` or ``column=one|other`` in ``require``."""
        rows = self.rows
        for rule in require:
            column, _, values = rule.partition("=")
            self.needs([column])
            rows = tuple(row for row in rows if row.get(column) in values.split("|"))
        if self.rows and not rows:
            raise ConfigError(
                problem("no row meets every rule of require", where=self.name, fix="check require")
            )
        return CsvTable(self.name, self.columns, rows, self.form)


def read_table(path: Path, needed: Iterable[str] = (), *, header: Iterable[str] | None = None) -> CsvTable:
    """Return a table (CSV, TSV or semicolons; UTF-8 or Latin-1; also with a byte-order mark or as ``.gz``).

    Args:
        path: the file.
        needed: columns that must exist.
        header: column names of a table without a header row.

    Raises:
        LayoutError: no such file, not text, an ambiguous encoding or separator, larger than
            ``files.TABLE_LIMIT``, a missing column, two columns with one name, a cell of more than 128 kB, or
            a row with too many or too few cells.
    """
    text, encoding = _text(path)
    separator = _separator(text, path.name)
    lines = _lines(text, separator, path.name)
    if header is None and not lines:
        raise LayoutError(expected("a header row", got="an empty file", where=path.name))
    names = tuple(header) if header is not None else _columns(lines.pop(0), path.name)
    first = 1 if header is not None else 2
    rows = tuple(
        _row(cells, names, path.name, number) for number, cells in enumerate(lines, start=first) if any(cells)
    )
    form = (*([encoding] if encoding else []), *([SEPARATORS[separator]] if separator != "," else []))
    return CsvTable(path.name, tuple(name for name in names if name), rows, form).needs(needed)


SEPARATORS = {
    ",": "cells separated by commas",
    ";": "cells separated by semicolons",
    "\t": "cells separated by tabs",
}


def _columns(cells: Iterable[str], table: str) -> tuple[str, ...]:
    """Return the names of the columns; a column may have none.

    Raises:
        LayoutError: two columns have the same name, so that it would be ambiguous.
    """
    columns = tuple(name.strip() for name in cells)
    repeated = next((name for name, count in Counter(columns).items() if name and count > 1), "")
    if repeated:
        fix = "rename or remove one of them"
        raise LayoutError(
            problem(f"several columns have the name {repeated!r}", where=f"{table}, row 1", fix=fix)
        )
    return columns


_UTF8_PAIR = re.compile(rb"[\xc2-\xf4][\x80-\xbf]")
_LATIN1_CONTROL = re.compile(rb"[\x80-\x9f]")


def _separator(text: str, name: str) -> str:
    """Return the separator of a table's cells.

    Raises:
        LayoutError: several separators are possible.
    """
    header = next((line for line in text.splitlines() if line.strip()), "")
    unquoted = re.sub(r'"[^"]*"', "", header)
    there = [separator for separator in SEPARATORS if separator in unquoted]
    if len(there) < 2:
        return there[0] if there else ","
    regular = [separator for separator in there if _is_regular(text, separator, name)]
    if len(regular) != 1:
        which = " and ".join(SEPARATORS[separator].split()[-1] for separator in regular or there)
        raise LayoutError(
            expected(
                "one separator of the cells",
                got=which,
                where=f"{name}, row 1",
                fix="save it as CSV with commas",
            )
        )
    return regular[0]


def _is_regular(text: str, separator: str, name: str) -> bool:
    """Return whether every row has as many cells as the header, with this separator."""
    try:
        return len({len(cells) for cells in _lines(text, separator, name) if any(cells)}) == 1
    except LayoutError:
        return False


def _lines(text: str, separator: str, name: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        return list(reader)
    except csv.Error as error:
        raise LayoutError(
            expected("a CSV table", got=str(error), where=f"{name}, line {reader.line_num}")
        ) from error


def _text(path: Path) -> tuple[str, str]:
    """Return the text of a table, and the name of its encoding if that is not UTF-8."""
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # the name is too long or contains a NUL
        is_file = False
    if not is_file:
        raise LayoutError(
            problem(f"no such file: table {path.name[:80]!r}", where=f"folder {path.parent.name[:80]}")
        )
    try:
        data = files.read_bytes(path, limit=files.TABLE_LIMIT)
        if path.suffix == ".gz":
            with gzip.open(io.BytesIO(data)) as stream:
                # Bounded: a small .gz file can unpack to terabytes.
                data = stream.read(files.TABLE_LIMIT + 1)
            if len(data) > files.TABLE_LIMIT:
                raise LayoutError(
                    problem(f"the table is larger than {files.TABLE_LIMIT:,} bytes", where=path.name)
                )
    except (OSError, EOFError, zlib.error) as error:
        raise LayoutError(expected("a UTF-8 table", got=type(error).__name__, where=path.name)) from error
    return _decoded(data, path.name)


def _decoded(data: bytes, name: str) -> tuple[str, str]:
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError as error:
        if b"\0" in data or _LATIN1_CONTROL.search(data) or _UTF8_PAIR.search(data):
            line = data[: error.start].count(b"\n") + 1
            fix = "save the table as UTF-8"
            raise LayoutError(
                problem(
                    "the table is neither UTF-8 nor Latin-1",
                    where=f"{name}, line {line}",
                    fix=fix,
                )
            ) from error
    return data.decode("latin-1"), "Latin-1"


def _row(cells: list[str], names: tuple[str, ...], table: str, number: int) -> CsvRow:
    named = sum(1 for name in names if name)
    if len(cells) < named or any(cell.strip() for cell in cells[len(names) :]):
        raise LayoutError(expected(f"{named} cells", got=len(cells), where=f"{table}, row {number}"))
    return CsvRow({name: cell for name, cell in zip(names, cells, strict=False) if name}, table, number)
