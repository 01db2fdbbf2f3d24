"""The files below a source, in the same order on every machine.

Links that leave the source are never followed.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from meninx.core.errors import DataError, expected
from meninx.deid.quarantine import Reason


@dataclass(frozen=True, order=True, slots=True)
class SourceFile:
    """One file.

    Attributes:
        path: relative to the source, with forward slashes.
        refused: reason code of an entry that is never opened (a link that leaves the source or is broken, or
            no regular file); empty for others.
    """

    path: str
    refused: str = ""


def files_below(source: Path) -> list[SourceFile]:
    """Return every file below ``source`` (or the one file it is), sorted by path.

    Raises:
        DataError: there is no such folder or file, or it cannot be listed.
    """
    check_source(source)
    if source.is_file():
        return [SourceFile(source.name)]
    root = source.resolve()
    found: list[SourceFile] = []

    def failed(error: OSError) -> None:
        raise DataError(
            expected("a readable folder", got=error.strerror or "an error", where="a folder of the source")
        ) from error

    for folder, folders, names in os.walk(root, onerror=failed, followlinks=False):
        here = Path(folder)
        links = [name for name in folders if (here / name).is_symlink() and _leaves(here / name, root)]
        found += [
            SourceFile((here / name).relative_to(root).as_posix(), refused=Reason.SYMLINK_OUTSIDE)
            for name in links
        ]
        for name in names:
            path = here / name
            found.append(SourceFile(path.relative_to(root).as_posix(), refused=_refused(path, root)))
    return sorted(found)


def check_source(source: Path) -> None:
    """Refuse a source that is neither folder nor file.

    Raises:
        DataError: with what to do.
    """
    if not source.is_dir() and not source.is_file():
        raise DataError(
            expected("a folder of DICOM files", got="nothing there", where="source", fix="check the path")
        )


def _leaves(path: Path, root: Path) -> bool:
    try:
        return path.is_symlink() and not path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link that leads to itself
        return False


def _refused(path: Path, root: Path) -> str:
    """Return the reason why a directory entry is never opened, empty for a file."""
    if _leaves(path, root):
        return Reason.SYMLINK_OUTSIDE
    try:
        return "" if stat.S_ISREG(path.stat().st_mode) else Reason.NOT_A_FILE
    except OSError:  # also a link that leads to itself
        return Reason.BROKEN_LINK if path.is_symlink() else Reason.UNREADABLE
