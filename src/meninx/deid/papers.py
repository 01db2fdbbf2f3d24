"""Tables that are sorted without holding them in memory, and written only where they differ from what is there."""

from __future__ import annotations

import csv
import filecmp
import io
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from meninx.core import files


class SortedLines:
    """Distinct lines in ascending order of their bytes, kept in a file while they are collected."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(
            "CREATE TABLE lines (name TEXT, line BLOB, PRIMARY KEY (name, line)) WITHOUT ROWID"
        )

    def add(self, name: str, line: bytes) -> None:
        """Add a line to one of the tables."""
        self.connection.execute("INSERT OR IGNORE INTO lines VALUES (?, ?)", (name, line))

    def of(self, name: str) -> Iterator[bytes]:
        """Yield the lines of one table."""
        for (line,) in self.connection.execute(
            "SELECT line FROM lines WHERE name = ? ORDER BY line", (name,)
        ):
            yield line


@contextmanager
def sorted_lines(folder: Path) -> Iterator[SortedLines]:
    """Open an empty collection whose file lies in a private folder and goes at the end.

    Raises:
        StorageError: the disk refused.
    """
    path = folder / "sorting.sqlite"
    path.unlink(missing_ok=True)
    try:
        path.touch(mode=files.PRIVATE_MODE)
        connection = sqlite3.connect(path)
        try:
            yield SortedLines(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise files.storage_error(OSError(str(error)), path) from error
    except OSError as error:
        raise files.storage_error(error, path) from error
    finally:
        path.unlink(missing_ok=True)


def csv_line(values: Sequence[str]) -> bytes:
    """Return a line of a CSV table with every value quoted."""
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(values)
    return text.getvalue().encode("utf-8", "surrogateescape")


def write_lines(path: Path, lines: Iterable[bytes], *, mode: int | None = None) -> None:
    """Write lines atomically unless the file holds them already.

    Raises:
        StorageError: the disk refused the write.
    """
    fresh = path.with_name(f".fresh-{path.name}")
    with files.atomic(fresh, mode=mode) as stream:
        stream.writelines(lines)
    try:
        if path.is_file() and filecmp.cmp(fresh, path, shallow=False):
            fresh.unlink()
        else:
            fresh.replace(path)
    except OSError as error:
        raise files.storage_error(error, path) from error
