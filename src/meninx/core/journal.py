"""An append-only file of JSON lines that survives a crash: only an incomplete last line is dropped.

    >>> import tempfile
    >>> journal = Journal(Path(tempfile.mkdtemp()) / "journal.jsonl")
    >>> with journal.appending() as lines:
    ...     lines.add({"case": "c1"})
    >>> [table["case"] for table in journal.tables()]
    ['c1']

The privacy ledger is not such a journal: there an incomplete line counts as a spent step
(``privacy.ledger``).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from meninx.core import files
from meninx.core.errors import DataError, expected

LINE_LIMIT = 16 << 20


class Journal:
    """JSON lines in one file.

    Args:
        path: the file; need not exist.
        mode: permission bits of a new file.
    """

    def __init__(self, path: Path, *, mode: int = files.PRIVATE_MODE) -> None:
        self.path, self.mode = path, mode

    def tables(self) -> Iterator[dict[str, Any]]:
        """Yield the complete lines in order, one at a time in memory; an incomplete last line is left out.

        Raises:
            DataError: complete lines follow a damaged one, or the file cannot be read.
        """
        for table, _ in self._lines():
            yield table

    def picked(self, key: Callable[[dict[str, Any]], str]) -> Iterator[dict[str, Any]]:
        """Yield the last line of each key in the order of keys; keys and places are in memory, lines are not.

        Raises:
            DataError: as :meth:`tables`.
        """
        places, start = dict[str, int](), 0
        for table, end in self._lines():
            places[key(table)], start = start, end
        if places:
            with files.regular(self.path) as stream:
                for _, place in sorted(places.items()):
                    stream.seek(place)
                    yield _table(stream.readline(LINE_LIMIT)) or {}

    @contextmanager
    def appending(self, *, durable: bool = False) -> Iterator[Appender]:
        """Open the journal for adding lines, after removing an incomplete last line.

        Args:
            durable: synchronise every line to disk; otherwise lines are handed to the operating system, which
                protects against a killed process but not against a power cut.

        Raises:
            StorageError: the disk refused.
        """
        self.cut()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(
                self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), self.mode
            )
        except OSError as error:
            raise files.storage_error(error, self.path) from error
        with os.fdopen(handle, "ab", buffering=0) as stream:  # each line is written with one system call
            yield Appender(stream, self.path, durable)

    def cut(self) -> None:
        """Remove an incomplete last line.

        Raises:
            DataError: complete lines follow a damaged one, which a crash cannot cause; nothing is removed.
            StorageError: the disk refused.
        """
        if not self.path.is_file():
            return
        whole = max((end for _, end in self._lines()), default=0)
        if whole < self.path.stat().st_size:
            try:
                with self.path.open("r+b") as stream:
                    stream.truncate(whole)
            except OSError as error:
                raise files.storage_error(error, self.path) from error

    def rewrite(self, tables: Iterable[Mapping[str, Any]]) -> None:
        """Replace all lines atomically."""
        with files.atomic(self.path, mode=self.mode) as stream:
            for table in tables:
                stream.write(_line(table))

    def _lines(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield each complete line and the position of its end."""
        if not self.path.is_file():
            return
        end, damaged = 0, False
        with files.regular(self.path) as stream:
            for number in itertools.count(1):
                line = stream.readline(LINE_LIMIT)
                if not line:
                    return
                table = _table(line)
                if table is None:
                    damaged = True
                elif damaged:
                    fix = "restore it, or take it away to begin again"
                    got = "a damaged line before whole ones"
                    raise DataError(
                        expected(
                            "a journal as it was written",
                            got=got,
                            where=f"{self.path.name}, line {number}",
                            fix=fix,
                        )
                    )
                else:
                    end += len(line)
                    yield table, end


class Appender:
    """Adds lines to an open journal."""

    def __init__(self, stream: IO[bytes], path: Path, durable: bool) -> None:
        self._stream, self._path, self._durable = stream, path, durable

    def add(self, table: Mapping[str, Any]) -> None:
        """Append one line and hand it to the operating system.

        Raises:
            StorageError: the disk refused.
        """
        line = _line(table)
        before = os.fstat(self._stream.fileno()).st_size
        try:
            while line:
                line = line[self._stream.write(line) :]
            if self._durable:
                os.fsync(self._stream.fileno())
        except OSError as error:
            # A full disk accepts a part of a line. A later line appended to it would be lost, too.
            with contextlib.suppress(OSError):
                os.ftruncate(self._stream.fileno(), before)
            raise files.storage_error(error, self._path) from error


def _line(table: Mapping[str, Any]) -> bytes:
    line = json.dumps(table, sort_keys=True).encode() + b"\n"
    if len(line) > LINE_LIMIT:
        raise DataError(
            expected(f"a line of at most {LINE_LIMIT:,} bytes", got=f"{len(line):,}", where="journal")
        )
    return line


def _table(line: bytes) -> dict[str, Any] | None:
    """Return the table in a line; None for an incomplete or damaged line."""
    try:
        table = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return table if isinstance(table, dict) else None
