"""Reading and writing files: bounded reads, paths that stay inside their folder, atomic writes.

Every value from a file is treated as hostile. :func:`read_bytes` and :func:`read_text` check the size before
they read, :func:`below` turns a name from a file into a path only if it stays below its folder, and
:func:`atomic` writes a temporary file, synchronises it to disk and renames it, so that a reader never sees a
partial file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from meninx.core.errors import DataError, StorageError, UsageError, expected, problem

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o666  # reduced by the umask of the process
PARTIAL = ".partial-"  # prefix of a file that is being written; a killed process can leave one
TEXT_LIMIT = 64 << 20  # largest untrusted JSON, TOML or Markdown file, in bytes
TABLE_LIMIT = 512 << 20  # largest CSV table, in bytes after decompression
IMAGE_LIMIT = 4 << 30  # largest image or array, in bytes as stored and as decoded
PICTURE_PIXELS = 178_956_970  # largest 2-D image, the limit of Pillow: 512 MiB of RGB
_PLAIN_PATH = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*")
_LONGEST_PATH = 4096


@contextmanager
def atomic(path: Path, *, mode: int | None = None) -> Iterator[IO[bytes]]:
    """Open ``path`` for writing bytes; it appears only when the block ends without an error.

    Args:
        path: final name; its folder is created.
        mode: permission bits of the file, e.g. ``0o600``; None for 0666 minus the umask.

    Raises:
        UsageError: a link, device, pipe or folder is there (:func:`refuse_special`).
        StorageError: the disk is full or read-only, or the folder refuses the file.
    """
    refuse_special(path)
    # A random name with O_EXCL: nobody can place a link there that the write would follow. The mode is set
    # at creation, because a chmod afterwards would leave a private file readable for a moment.
    partial = path.with_name(f"{PARTIAL}{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(
            partial,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0),
            PUBLIC_MODE if mode is None else mode,
        )
    except OSError as error:
        raise storage_error(error, path) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        # Only after the content is on disk: some file systems otherwise keep the rename but lose the content
        # in a power cut.
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise storage_error(error, path) from error
        raise


def refuse_special(path: Path) -> None:
    """Refuse a target that is anything but a regular file or a new name.

    A rename would replace the link or the device itself: as root, ``/dev/stdout`` of the machine.

    Raises:
        UsageError: it is a link, device, pipe, socket or folder.
    """
    try:
        mode = path.lstat().st_mode
    except (OSError, ValueError):  # nothing is there, or the write itself tells the reason
        return
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"))
        got = next((word for is_kind, word in kinds if is_kind(mode)), "a device, pipe or socket")
        fix = "give the path of a file; nothing was replaced"
        raise UsageError(expected("a regular file or a new name", got=got, where=str(path), fix=fix))


def write_bytes(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic(path, mode=mode) as stream:
        stream.write(content)


def write_text(path: Path, content: str, *, mode: int | None = None) -> None:
    """Write UTF-8 text to ``path`` atomically."""
    write_bytes(path, content.encode(), mode=mode)


def append_line(path: Path, line: str, *, mode: int = PUBLIC_MODE) -> None:
    """Append one line and synchronise it to disk before returning.

    Args:
        path: the file; created if it does not exist.
        line: the text, with or without its newline.
        mode: permission bits of a new file, reduced by the umask.

    Raises:
        StorageError: the disk refused the write.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), mode)
        with os.fdopen(handle, "ab") as stream:
            stream.write(line.rstrip("\n").encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise storage_error(error, path) from error


def read_bytes(path: Path, *, limit: int = TEXT_LIMIT) -> bytes:
    """Return the content of a regular file, after checking its size.

    Args:
        path: the file.
        limit: largest number of bytes to read.

    Raises:
        DataError: there is no such file, it is a device or a pipe, it is larger than ``limit``, or it cannot
            be read.
    """
    with regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise DataError(expected(f"a file of at most {limit:,} bytes", got=f"{size:,}", where=path.name))
        try:
            content = stream.read(size + 1)
            if len(content) > size:  # the file grew, or its file system reports no size in advance
                content += stream.read(limit + 1 - size)
        except OSError as error:
            raise DataError(expected("a readable file", got=_reason(error), where=path.name)) from error
    if len(content) > limit:
        raise DataError(problem(f"the file is larger than {limit:,} bytes", where=path.name))
    return content


def read_text(path: Path, *, limit: int = TEXT_LIMIT) -> str:
    """Return the text of a UTF-8 file; raises as :func:`read_bytes`, and DataError for other encodings."""
    try:
        return read_bytes(path, limit=limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(problem("the file is not UTF-8 text", where=path.name)) from error


def below(root: Path, name: str, *, where: str) -> Path:
    """Return the path of ``name``, a relative POSIX path from a file, below ``root``.

    Guarantee: the result lies below ``root``, also after following existing symbolic links.

    Args:
        root: the folder that must not be left.
        name: e.g. ``images/c001.png``.
        where: file, row or key of the name, for the message.

    Raises:
        DataError: the name is empty or absolute, contains ``..``, a backslash, a drive or a control
            character, or leads out of the folder.
    """
    path = root.joinpath(*relative(name, where=where).parts)
    endless = DataError(problem("the path cannot be followed", where=where))
    try:
        place, home = path.resolve(), root.resolve()
    except (OSError, RuntimeError) as error:  # a cycle of links, before Python 3.13
        raise endless from error
    if _loops(path):
        raise endless
    if place == home or not place.is_relative_to(home):
        raise DataError(problem("a link leads out of the folder", where=where))
    return path


def _loops(path: Path) -> bool:
    """Return whether the links of a path form a cycle, which ``resolve`` ignores since Python 3.13."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def relative(name: str, *, where: str) -> PurePosixPath:
    """Return a name from a file as a relative path without ``..``.

    Links on disk are not checked (:func:`below` checks them).

    Args:
        name: e.g. ``images/c001.png``.
        where: file, row or key of the name, for the message.

    Raises:
        DataError: as :func:`below`, apart from links.
    """
    if not is_inside(name):
        raise DataError(problem("the path does not lead to a file inside the folder", where=where))
    return PurePosixPath(name)


def is_inside(name: str) -> bool:
    """Return whether a name from a file is a relative POSIX path that does not leave its folder.

    Links on disk are not checked; :func:`below` checks them.

    Example::

        >>> is_inside("images/c001.png"), is_inside("../secret"), is_inside("C:/secret")
        (True, False, False)
    """
    if len(name) > _LONGEST_PATH:
        return False
    if _PLAIN_PATH.fullmatch(name):  # a fast path for nearly every name of a dataset
        return True
    path = PurePosixPath(name)
    odd = "\\" in name or any(unicodedata.category(character) in ("Cc", "Cs") for character in name)
    absolute = bool(path.anchor) or any(PureWindowsPath(part).anchor for part in path.parts)
    return bool(path.parts) and not (odd or absolute or ".." in path.parts)


def digest(path: Path) -> str:
    """Return the SHA-256 of a regular file's bytes as hexadecimal digits.

    Raises:
        DataError: there is no such file, it is a folder, device or pipe, or it cannot be read.
    """
    with regular(path) as stream:
        try:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise DataError(expected("a readable file", got=_reason(error), where=path.name)) from error


def is_file_of(path: Path, wanted: str) -> bool:
    """Return whether a path is a regular file, not a link, with the SHA-256 ``wanted``."""
    try:
        return path.is_file() and not path.is_symlink() and digest(path) == wanted
    except (DataError, OSError):
        return False


def taken_over(there: Path, here: Path, wanted: str) -> bool:
    """Return whether a finished file is at ``here``, after linking it from ``there`` if necessary.

    Args:
        there: path in an earlier result, which is not changed.
        here: path in the result that is being built.
        wanted: SHA-256 of the finished file; any other file counts as missing.
    """
    if is_file_of(here, wanted):
        return True
    if not is_file_of(there, wanted):
        return False
    try:
        here.parent.mkdir(parents=True, exist_ok=True)
        here.unlink(missing_ok=True)
        here.hardlink_to(there)
    except OSError:  # a file system without hard links
        write_bytes(here, there.read_bytes())
    return True


def regular(path: Path) -> BufferedReader:
    """Return a regular file opened for reading; a pipe does not block and a device is not read.

    Raises:
        DataError: there is no such file, it is a folder, device or pipe, or it cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # ValueError: the name contains a NUL or cannot be encoded
        got = _reason(error) if isinstance(error, OSError) else "an impossible name"
        raise DataError(expected("a readable file", got=got, where=path.name)) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DataError(expected("a regular file", got="a folder, device or pipe", where=path.name))
    return os.fdopen(handle, "rb")


def refuse_place_below_file(out: Path) -> None:
    """Refuse a folder that cannot be made, because a part of its path is a file.

    Raises:
        UsageError: it is so.
    """
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    if there != out and not there.is_dir():
        fix = "choose another folder"
        raise UsageError(problem("the output folder lies below a file", where=there.name, fix=fix))


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with its content, if it exists.

    Raises:
        OSError: the disk refused.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def storage_error(error: OSError, path: Path) -> StorageError:
    """Return the error for an operating system's refusal to write, with a remedy."""
    fix = (
        "free some space and run again with --resume"
        if error.errno == errno.ENOSPC
        else "choose another output folder"
    )
    return StorageError(
        expected("a writable folder", got=_reason(error, "a write error"), where=str(path.parent), fix=fix)
    )


def _reason(error: OSError, otherwise: str = "a read error") -> str:
    known = {
        errno.ENOSPC: "no space left",
        errno.EROFS: "a read-only file system",
        errno.EACCES: "permission denied",
        errno.ENOENT: "no such file",
        errno.EISDIR: "a folder",
    }
    return known.get(error.errno or 0, error.strerror or otherwise)
