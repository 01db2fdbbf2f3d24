"""Digests of published files: one ``checksums.sha256`` per folder, in the format of ``sha256sum``.

``sha256sum -c checksums.sha256`` checks a folder without meninx; :func:`damage` does the same and also finds
files that are not in the list. The digest of the list itself (:func:`digest_of`) identifies the content of
the whole folder. A single file that is rewritten often, such as a checkpoint, ends in its own digest
(:func:`seal`).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from meninx.core import files
from meninx.core.errors import DataError, expected, problem
from meninx.core.progress import SILENT, Progress, task

CHECKSUMS = "checksums.sha256"
_PRIVATE = "private"  # the folder of core.workspace, which is not listed
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_LIMIT = 1 << 30
_LONGEST, _LONGEST_PART, _MOST_PARTS = 1024, 255, 64  # bytes of a path and of a name in it; names in it
_SEAL = b"\nmeninx-sha256:"
_SEAL_BYTES = len(_SEAL) + 64 + 1
_PIECE = 16 << 20  # bytes read at a time


@dataclass(frozen=True)
class Damage:
    """Differences between a folder and its list.

    Attributes:
        missing: listed files that do not exist.
        changed: listed files with other bytes, or behind a link that leads out of the folder.
        unlisted: existing files that are not in the list.
    """

    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.changed or self.unlisted)


def write(root: Path, digests: Mapping[str, str]) -> str:
    """Write ``root/checksums.sha256`` and return its own SHA-256.

    Args:
        root: the folder.
        digests: relative POSIX path -> SHA-256 of the file.

    Raises:
        DataError: a name that the format cannot express, e.g. one with a line feed.
        StorageError: the disk refused.
    """
    return write_sorted(root, sorted(digests.items()))


def write_sorted(root: Path, digests: Iterable[tuple[str, str]]) -> str:
    """Write ``root/checksums.sha256`` from (relative POSIX path, SHA-256), sorted by path.

    Only one line at a time is held in memory. The function returns the SHA-256 of the list and raises as
    :func:`write`.
    """
    own = hashlib.sha256()
    with files.atomic(root / CHECKSUMS) as stream:
        for name, value in digests:
            line = _line(name, value)
            own.update(line)
            stream.write(line)
    return own.hexdigest()


def list_digest(digests: Mapping[str, str]) -> str:
    """Return the SHA-256 that a list of these digests would have; raises as :func:`write`."""
    own = hashlib.sha256()
    for name, value in sorted(digests.items()):
        own.update(_line(name, value))
    return own.hexdigest()


def _line(name: str, value: str) -> bytes:
    if _name(name, where=CHECKSUMS) != name:
        raise DataError(problem("a path is not relative, or takes a detour", where=CHECKSUMS))
    return f"{value}  {name}\n".encode()


def _name(text: str, *, where: str) -> str:
    """Return a path of a list as a relative POSIX path that every file system can hold.

    Raises:
        DataError: it leads elsewhere, is too long, or has a part that is too long.
    """
    path = files.relative(text, where=where)
    if len(os.fsencode(text)) > _LONGEST or len(path.parts) > _MOST_PARTS:
        raise DataError(expected(f"a path of at most {_LONGEST} bytes", got="a longer one", where=where))
    if any(len(os.fsencode(part)) > _LONGEST_PART for part in path.parts):
        rule = f"names of at most {_LONGEST_PART} bytes in a path"
        raise DataError(expected(rule, got="a longer one", where=where))
    return path.as_posix()


def measured(root: Path, paths: Iterable[Path]) -> dict[str, str]:
    """Return relative POSIX path -> SHA-256 of files below ``root``."""
    return {path.relative_to(root).as_posix(): files.digest(path) for path in paths}


def read(root: Path) -> dict[str, str]:
    """Return the list of a folder; empty if it has none.

    Raises:
        DataError: a line is not ``<sha256>  <path below the folder>``.
    """
    path = root / CHECKSUMS
    if not path.is_file():
        return {}
    digests: dict[str, str] = {}
    for number, line in enumerate(files.read_text(path, limit=_LIMIT).split("\n"), start=1):
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise DataError(problem("the line is not one of sha256sum", where=f"{CHECKSUMS}, line {number}"))
        name = _name(match[2], where=f"{CHECKSUMS}, line {number}")
        if name in digests:
            raise DataError(problem("a file is listed twice", where=f"{CHECKSUMS}, line {number}"))
        digests[name] = match[1]
    return digests


def digest_of(root: Path) -> str:
    """Return the SHA-256 of a folder's list, which identifies its whole content; empty without a list."""
    path = root / CHECKSUMS
    return files.digest(path) if path.is_file() else ""


def damage(root: Path, *, leave_out: Iterable[str] = (), progress: Progress = SILENT) -> Damage:
    """Return the differences between a folder and its list.

    Args:
        root: the folder, with a list.
        leave_out: top-level files that the list does not cover, and the folder ``private``.
        progress: advanced by every file.
    """
    listed = read(root)
    missing, changed = [], []
    with task(progress, "checksums", len(listed)):
        for name, value in listed.items():
            path = root / name
            if not path.is_file():
                missing.append(name)
            elif not _inside(root, name) or files.digest(path) != value:
                changed.append(name)
            progress.advance()
    skipped = {CHECKSUMS, *leave_out}
    unlisted = [name for name in _files_below(root, skipped) if name not in listed]
    return Damage(tuple(missing), tuple(changed), tuple(sorted(unlisted)))


def seal(content: bytes) -> bytes:
    """Return the content of a file followed by its digest, which readers of torch's format ignore."""
    return b"%b%b%b\n" % (content, _SEAL, hashlib.sha256(content).hexdigest().encode())


def unseal(whole: bytes) -> tuple[bytes, bool]:
    """Return the content, and whether it was followed by its correct digest.

    Without a digest the content is ``whole`` itself.

    Example::

        >>> unseal(seal(b"weights")), unseal(b"weights")
        ((b'weights', True), (b'weights', False))
    """
    content, end = whole[:-_SEAL_BYTES], whole[-_SEAL_BYTES:]
    if not end.startswith(_SEAL):
        return whole, False
    return content, end == seal(content)[-_SEAL_BYTES:]


def is_whole(path: Path) -> bool | None:
    """Return whether the digest at the end of a file is correct; None if the file has none.

    Raises:
        DataError: the file cannot be read.
    """
    with files.regular(path) as stream:
        left = stream.seek(0, os.SEEK_END) - _SEAL_BYTES
        stream.seek(max(0, left))
        end = stream.read(_SEAL_BYTES)
        if not end.startswith(_SEAL):
            return None
        stream.seek(0)
        total = hashlib.sha256()
        while left > 0:
            piece = stream.read(min(left, _PIECE))
            total.update(piece)
            left -= len(piece) or left  # ends the loop if another process truncates the file
    return end == b"%b%b\n" % (_SEAL, total.hexdigest().encode())


def _inside(root: Path, name: str) -> bool:
    """Return whether a listed file is in the folder, and not behind a link that leads out of it."""
    try:
        files.below(root, name, where=CHECKSUMS)
    except DataError:
        return False
    return True


def _files_below(root: Path, skipped: set[str]) -> Iterator[str]:
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        first, below, _ = name.partition("/")
        # A folder with the name of a file that is left out would hide whatever lies in it.
        left_out = first in skipped and (not below or first == _PRIVATE)
        if not left_out and (path.is_symlink() or not path.is_dir()):
            yield name
