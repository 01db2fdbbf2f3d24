"""The history file: what a site wrote down before it answered, for all runs of a study.

It is no :mod:`meninx.core.journal`: a record is bytes, up to the upload of a large model, and a whole line
that is damaged is never passed over, because the site could then sign twice.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from meninx.core import files
from meninx.core.errors import DataError, StorageError, problem

_LIMIT = 1 << 28  # bytes of a history


class HistoryFile:
    """What a site wrote down before it answered, one record per line; readable by its owner alone.

    Args:
        path: the file; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[bytes, ...]:
        """Return the records; a line that was cut short by a crash was never answered and is left out.

        Raises:
            DataError: the file is damaged before its end.
        """
        if not self._path.is_file():
            return ()
        *lines, torn = files.read_bytes(self._path, limit=_LIMIT).split(b"\n")
        if torn:
            self.rewrite(tuple(map(self._decoded, lines)))
        return tuple(map(self._decoded, lines))

    def add(self, record: bytes) -> None:
        """Append a record and wait until it is on the disk.

        Raises:
            StorageError: the disk refused; the file is as before.
        """
        before = self._path.stat().st_size if self._path.is_file() else 0
        try:
            files.append_line(self._path, base64.b64encode(record).decode(), mode=files.PRIVATE_MODE)
        except StorageError:
            with contextlib.suppress(OSError):  # a full disk takes part of a line
                os.truncate(self._path, before)
            raise

    def rewrite(self, records: Sequence[bytes]) -> None:
        """Replace the file by the records that are still needed."""
        text = b"".join(base64.b64encode(record) + b"\n" for record in records)
        files.write_bytes(self._path, text, mode=files.PRIVATE_MODE)

    def tidy(self, needed: Sequence[bytes]) -> None:
        """Replace the file where it holds more than is still needed: secrets of earlier rounds and runs."""
        if len(self.read()) > len(needed):
            self.rewrite(needed)

    def _decoded(self, line: bytes) -> bytes:
        try:
            return base64.b64decode(line, validate=True)
        except binascii.Error as error:
            fix = "restore it from a backup, or leave the run; without it the site could sign twice"
            raise DataError(problem("the history is damaged", where=self._path.name, fix=fix)) from error
