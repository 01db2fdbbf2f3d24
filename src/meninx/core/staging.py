"""Results that become visible as a whole: files are built separately and moved when all are complete.

:func:`building` is for a folder of plain files without a private folder, such as the output of `meninx
dicom`. :mod:`meninx.core.workspace` manages the output folders of the stages.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "images"
    >>> with building(folder, fingerprint="settings-1") as build:
    ...     files.write_text(build.new("a/one.txt"), "one")
    ...     (folder / "a").exists()
    False
    >>> (folder / "a" / "one.txt").read_text()
    'one'
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from meninx.core import files
from meninx.core.errors import Interrupted, RunLocked, UsageError, problem

FOLDER = ".meninx-building"
"""Hidden folder in the output while a result is built, with the lock, the fingerprint and the files."""
_LOCK, _FINGERPRINT, _FILES = "lock", "fingerprint", "files"


@dataclass(frozen=True)
class Build:
    """A folder of plain files that this process builds; created by :func:`building`.

    Attributes:
        out: the final folder of the files.
        staged: the folder where they are built, with the same relative paths.
    """

    out: Path
    staged: Path

    def new(self, relative: str | PurePosixPath) -> Path:
        """Return the path to which a file is to be written."""
        return self.staged / relative

    def existing(self, relative: str | PurePosixPath) -> Path | None:
        """Return the file for a path, if it is already built or in the output; else None."""
        return next((path for path in (self.staged / relative, self.out / relative) if _lies(path)), None)

    def in_output(self, relative: str | PurePosixPath) -> bool:
        """Return whether the output holds a file at a path, so that a new one would replace it."""
        return _lies(self.out / relative)


@contextmanager
def building(out: Path, *, fingerprint: str, last: str = "") -> Iterator[Build]:
    """Lock a folder of plain files for this process; built files move into it when the block ends.

    Other files in the folder are not changed. After an error all built files are removed. After an
    interruption or a kill, the next call with the same fingerprint finds the finished files through
    :meth:`Build.existing`.

    Args:
        out: the folder; created if it does not exist.
        fingerprint: digest of everything that determines the result; empty if the result cannot be continued.
        last: relative path of the file that marks the result as complete.

    Raises:
        RunLocked: another process builds a result there.
        UsageError: the folder is a file, or the hidden folder or a folder of a file is a link.
        StorageError: the disk refused.
    """
    room = out / FOLDER
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    with _locked(room):
        try:
            build = Build(out, room / _FILES)
            _begin(room, fingerprint)
            yield build
            move_files(build.staged, out, last=last)
        except (Interrupted, KeyboardInterrupt):
            raise
        except BaseException:
            _clear(room, new)
            raise
        _clear(room, ())


def check(out: Path, names: Iterable[str]) -> None:
    """Refuse an output folder that :func:`building` would refuse, and create nothing: for dry runs.

    Args:
        out: the folder; it need not exist.
        names: paths of the files that would be built, relative to ``out``.

    Raises:
        UsageError: the folder is a file, or the hidden folder or a folder of a file is a link.
    """
    _refuse_place(out)
    _refuse_links(out, map(PurePosixPath, names))


def move_files(source: Path, target: Path, *, last: str = "") -> None:
    """Move every file below a folder to the same relative path below another; existing ones are replaced.

    Guarantee: every file ends up inside ``target``; the targets of links in it are not changed.

    Args:
        source: on the same file system as ``target``.
        target: destination; subfolders are created. It may be a link itself.
        last: relative path of the file that moves after all others.

    Raises:
        UsageError: a folder below ``target`` is a link; nothing has moved.
        StorageError: the disk refused, or a folder has the name of a file.
    """
    paths = [path for path in source.rglob("*") if path.is_file() or path.is_symlink()]
    _refuse_links(target, (PurePosixPath(path.relative_to(source).as_posix()) for path in paths))
    for path in sorted(paths, key=lambda path: (path == source / last, path)):
        place = target / path.relative_to(source)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
        except OSError as error:
            raise files.storage_error(error, place) from error


def move_whole(source: Path, target: Path, aside: Path, *, last: Iterable[str] = ()) -> None:
    """Move the items of a folder into another; replaced items stay in ``aside`` until all have moved.

    Args:
        source: folder of finished files and folders; it is removed.
        target: destination.
        aside: folder for replaced items; it is removed at the end.
        last: names that move after all others, such as a list of checksums that marks completeness.

    Raises:
        StorageError: the disk refused.
    """
    final = set(last)
    try:
        aside.mkdir(mode=0o700, exist_ok=True)
        for item in sorted(source.iterdir(), key=lambda path: (path.name in final, path.name)):
            place = target / item.name
            if _lies(place):
                files.remove(aside / item.name)
                place.rename(aside / item.name)
            item.rename(place)
        files.remove(aside)
        source.rmdir()
    except OSError as error:
        raise files.storage_error(error, target) from error


def _refuse_links(target: Path, names: Iterable[PurePosixPath]) -> None:
    """Refuse a link among the folders below ``target`` that files go into; it may lead nowhere.

    Args:
        target: the folder; it may be a link itself.
        names: paths of the files, relative to ``target``.

    Raises:
        UsageError: there is one.
    """
    folders = {folder for name in names for folder in name.parents if folder.parts}
    for folder in sorted(folders):
        if (target / folder).is_symlink():
            fix = "remove the link, or choose another output folder"
            raise UsageError(
                problem("a folder in the output folder is a link", where=folder.as_posix(), fix=fix)
            )


def _begin(room: Path, fingerprint: str) -> None:
    """Keep the files finished by an interrupted call with the same fingerprint, and remove all others."""
    known = room / _FINGERPRINT
    continued = bool(fingerprint) and known.is_file() and files.read_text(known) == fingerprint
    try:
        if not continued or (room / _FILES).is_symlink():
            files.remove(room / _FILES)
        (room / _FILES).mkdir(exist_ok=True)
        for path in (room / _FILES).rglob(f"{files.PARTIAL}*"):  # incomplete files of a killed process
            files.remove(path)
    except OSError as error:
        raise files.storage_error(error, room) from error
    files.write_text(known, fingerprint)


def _clear(room: Path, new: Iterable[Path]) -> None:
    """Remove the hidden folder, and the folders that were created for it if they are empty."""
    shutil.rmtree(room, ignore_errors=True)
    with contextlib.suppress(OSError):
        for folder in new:
            folder.rmdir()


@contextmanager
def _locked(room: Path) -> Iterator[None]:
    _refuse_place(room.parent)
    try:
        room.mkdir(parents=True, exist_ok=True)
        lock = FileLock(room / _LOCK, mode=files.PRIVATE_MODE)
        lock.acquire(timeout=0)
    except Timeout as error:
        message = (
            f"another process writes to {room.parent.name}; wait for it, or choose another output folder"
        )
        raise RunLocked(message) from error
    except OSError as error:
        raise files.storage_error(error, room) from error
    try:
        if not (room / _LOCK).exists():  # the previous holder removed the folder in the meantime
            raise RunLocked(f"another process has just written to {room.parent.name}; run the command again")
        yield
    finally:
        lock.release()
        if os.name == "nt":  # Windows cannot remove an open file, so _clear has left the lock
            with contextlib.suppress(OSError):
                (room / _LOCK).unlink()
                room.rmdir()


def _refuse_place(out: Path) -> None:
    """Refuse an output folder that is a file, or in which the folder of the build is a link."""
    files.refuse_place_below_file(out)
    if out.exists() and not out.is_dir():
        raise UsageError("the output folder is a file; choose another name")
    if (out / FOLDER).is_symlink():
        raise UsageError(
            f"{FOLDER} in the output folder is a link; remove it, or choose another output folder"
        )


def _lies(path: Path) -> bool:
    return path.exists() or path.is_symlink()
