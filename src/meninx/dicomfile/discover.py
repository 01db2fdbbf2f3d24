"""The files below a source, in the same order on every machine; members of zip archives are files, too.

Links that leave the source are never followed. An archive is recognised by its content. The path of a member
is that of the archive, two slashes and the member's name, e.g. ``delivery.zip//folder/IM0001``.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from meninx.core.errors import DataError, expected
from meninx.dicomfile import zip_archive
from meninx.dicomfile.refusals import Reason, Refused
from meninx.dicomfile.zip_archive import ZipMember


@dataclass(frozen=True, order=True, slots=True)
class SourceFile:
    """One file.

    Attributes:
        path: relative to the source, with forward slashes.
        refused: reason code of an entry that is never opened (a link that leaves the source or is broken, no
            regular file, or an archive or member that the rules for archives refuse); empty for others.
        archive: path of the zip archive that holds the file; empty for a file of its own.
        member: where the archive holds it.
    """

    path: str
    refused: str = ""
    archive: str = ""
    member: ZipMember | None = field(default=None, compare=False)


def files_below(source: Path) -> list[SourceFile]:
    """Return every file below ``source`` (or in the one file it is), sorted by path.

    Raises:
        DataError: there is no such folder or file, or it cannot be listed.
    """
    check_source(source)
    if source.is_file():
        return sorted(_with_members(source.parent, SourceFile(source.name)))
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
            entry = SourceFile(path.relative_to(root).as_posix(), refused=_refused(path, root))
            found += _with_members(root, entry)
    return sorted(found)


def member_at(root: Path, path: str) -> SourceFile:
    """Return the file at a path that :func:`files_below` gave.

    Raises:
        Refused: its archive can no longer be read, or does not hold it.
    """
    archive, separator, name = path.partition(zip_archive.SEPARATOR)
    if not separator:
        return SourceFile(path)
    for member in zip_archive.members_of(root / archive):
        if member.name == name and not member.refused:
            return SourceFile(path, archive=archive, member=member)
    raise Refused(Reason.UNREADABLE)


def _with_members(root: Path, entry: SourceFile) -> list[SourceFile]:
    """Return an entry, or the members of the archive that it is."""
    if entry.refused or not zip_archive.is_zip(_head(root / entry.path)):
        return [entry]
    try:
        members = zip_archive.members_of(root / entry.path)
    except Refused as refused:
        return [SourceFile(entry.path, refused=refused.reason)]
    return [
        SourceFile(
            f"{entry.path}{zip_archive.SEPARATOR}{member.name}",
            refused=member.refused,
            archive=entry.path,
            member=member,
        )
        for member in members
    ]


def _head(path: Path) -> bytes:
    """Return the first bytes of a file; empty where it cannot be read, which its worker finds, too."""
    try:
        with path.open("rb", buffering=0) as stream:
            return stream.read(4)
    except OSError:
        return b""


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
