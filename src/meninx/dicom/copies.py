"""Copies that never change their source, replace files only on request, and appear when all are complete."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from meninx.core import files, staging, workspace
from meninx.core.errors import DataError, UsageError, problem
from meninx.core.staging import Build

WAYS = ("copy", "hardlink", "symlink")


@contextmanager
def building(source: Path, out: Path, *settings: object, last: str = "") -> Iterator[Build]:
    """Lock ``out`` for a result made from ``source``; its files move into place when the block ends.

    Args:
        source: the folder that is read.
        out: the folder that is written.
        settings: everything else that determines the result.
        last: relative path of the file that marks the result as complete.

    Raises:
        DataError: ``source`` is no folder.
        UsageError: one folder lies within the other.
        RunLocked: another process writes to ``out``.
        StorageError: the disk refused.
    """
    refuse_inside(source, out)
    fingerprint = hashlib.sha256(repr((str(source.resolve()), *settings)).encode()).hexdigest()
    with staging.building(out, fingerprint=fingerprint, last=last) as build:
        yield build


def refuse_inside(source: Path, out: Path) -> None:
    """Refuse a source that is not a folder, and an output that is the source, inside it or around it.

    Raises:
        DataError: ``source`` is not a folder, or is empty.
        UsageError: one folder lies within the other.
    """
    if not source.is_dir():
        raise DataError(problem("there is no such folder", where="source", fix="check the path"))
    workspace.apart(out, [source])
    refuse_empty(source)


def refuse_empty(source: Path) -> None:
    """Refuse a folder without files.

    Raises:
        DataError: the folder contains no file.
    """
    if not any(path.is_file() for path in source.rglob("*")):
        raise DataError(problem("the folder holds no files", where=source.name, fix="check the path"))


def place_bytes(
    content: bytes, build: Build, relative: str | PurePosixPath, where: str, *, overwrite: bool
) -> bool:
    """Write ``content`` to a path of a result; return False if the same bytes are already there.

    Raises:
        UsageError: the output contains other bytes there and ``overwrite`` is False.
        StorageError: the disk refused.
    """
    there = build.existing(relative)
    if there is not None and there.read_bytes() == content:
        return False
    refuse_replacing(build, relative, where, overwrite=overwrite)
    files.write_bytes(build.new(relative), content)
    return True


def place_file(
    source: Path, build: Build, relative: str | PurePosixPath, where: str, *, way: str, overwrite: bool
) -> bool:
    """Copy or link ``source`` to a path of a result; return False if it is already there.

    Args:
        source: the file.
        build: the result.
        relative: the path of the copy in it.
        where: name of the file in errors.
        way: one of :data:`WAYS`.
        overwrite: True replaces another file in the output.

    Raises:
        UsageError: the output contains another file there and ``overwrite`` is False.
        StorageError: the disk refused.
    """
    if is_there(source, build, relative, where, way=way, overwrite=overwrite):
        return False
    target = build.new(relative)
    if way == "copy":
        with source.open("rb") as reader, files.atomic(target) as writer:
            shutil.copyfileobj(reader, writer)
        return True
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Links are made under another name and renamed, because a link cannot replace an existing file
        # atomically.
        partial = target.with_name(f"{files.PARTIAL}{os.getpid()}-{target.name}")
        partial.unlink(missing_ok=True)
        if way == "hardlink":
            partial.hardlink_to(source.resolve())
        else:
            partial.symlink_to(source.resolve())
        partial.replace(target)
    except OSError as error:
        raise files.storage_error(error, target) from error
    return True


def is_there(
    source: Path, build: Build, relative: str | PurePosixPath, where: str, *, way: str, overwrite: bool
) -> bool:
    """Return whether a result holds a file already, as :func:`place_file` would put it there.

    Raises:
        UsageError: the output contains another file there and ``overwrite`` is False.
    """
    there = build.existing(relative)
    if there is not None and _is_placed(source, there, way):
        return True
    refuse_replacing(build, relative, where, overwrite=overwrite)
    return False


def refuse_replacing(build: Build, relative: str | PurePosixPath, where: str, *, overwrite: bool) -> None:
    """Refuse to replace a file of the output unless that was requested.

    Raises:
        UsageError: the output contains a file at the path and ``overwrite`` is False.
    """
    if build.in_output(relative) and not overwrite:
        fix = "choose another output folder, or allow overwriting"
        raise UsageError(problem("another file lies at the output", where=where, fix=fix))


def _is_placed(source: Path, target: Path, way: str) -> bool:
    if way == "symlink":
        return target.is_symlink() and target.resolve() == source.resolve()
    if not target.exists() or target.is_symlink():
        return False
    if way == "hardlink":
        return target.samefile(source)
    one, other = source.stat(), target.stat()
    return (
        # A hard link has the same content, but is not a copy: a later change of one would change the other.
        not target.samefile(source)
        and one.st_size == other.st_size
        and files.digest(source) == files.digest(target)
    )
