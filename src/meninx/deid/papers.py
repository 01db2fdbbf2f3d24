"""Writing tables so that a run that changes nothing touches nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from meninx.core import files

PRIVATE_MODE = 0o600


def write_changed(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write ``content`` atomically unless the file holds it already.

    Raises:
        StorageError: the disk refused the write.
    """
    if not path.is_file() or path.read_bytes() != content:
        files.write_bytes(path, content, mode=mode)


def write_private_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file of the private room: every value quoted, rows sorted, mode 0600."""
    text = io.StringIO(newline="")
    table = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    table.writerow(columns)
    table.writerows(sorted(set(map(tuple, rows))))
    write_changed(path, text.getvalue().encode("utf-8", "surrogateescape"), mode=PRIVATE_MODE)
