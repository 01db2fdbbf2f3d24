"""Writing files so that a reader never sees half of one: temporary name, flush, atomic rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from meninx.core.errors import StorageError, expected


@contextmanager
def atomic(path: Path, *, mode: int | None = None) -> Iterator[IO[bytes]]:
    """Open ``path`` for writing bytes; it appears only when the block ends without an error.

    Args:
        path: final name; its folder is created.
        mode: permission bits of the file, e.g. ``0o600``; None keeps the default.

    Raises:
        StorageError: the disk is full, read-only or the folder refuses the file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
    except OSError as error:
        raise storage_error(error, path) from error
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.chmod(0o644 if mode is None else mode)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise storage_error(error, path) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic(path, mode=mode) as stream:
        stream.write(content)


def write_text(path: Path, content: str, *, mode: int | None = None) -> None:
    """Write UTF-8 text to ``path`` atomically."""
    write_bytes(path, content.encode(), mode=mode)


def write_json(path: Path, content: Any, *, mode: int | None = None) -> None:
    """Write indented JSON with sorted keys to ``path`` atomically."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", mode=mode)


def append_line(path: Path, line: str) -> None:
    """Append one line and force it to the disk before returning (for ledgers and journals).

    Raises:
        StorageError: the disk refused the write.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(line.rstrip("\n").encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise storage_error(error, path) from error


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def storage_error(error: OSError, path: Path) -> StorageError:
    """Return the house form of an operating system's refusal to write."""
    reason = {errno.ENOSPC: "no space left", errno.EROFS: "a read-only file system", errno.EACCES: "permission denied"}.get(
        error.errno or 0, error.strerror or "a write error"
    )
    fix = "free some space and run again with --resume" if error.errno == errno.ENOSPC else "choose another output folder"
    return StorageError(expected("a writable folder", got=reason, where=str(path.parent), fix=fix))
