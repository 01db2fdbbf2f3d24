"""Copies that never touch their source and never replace anything unless asked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from meninx.core import files, workspace
from meninx.core.errors import DataError, UsageError, expected

WAYS = ("copy", "hardlink", "symlink")


def refuse_inside(source: Path, out: Path) -> None:
    """Refuse a source that is no folder, and an output that is the source, lies in it or holds it.

    Raises:
        DataError: ``source`` is no folder.
        UsageError: one folder lies within the other.
    """
    if not source.is_dir():
        raise DataError(
            expected("a source folder", got="no such folder", where="source", fix="check the path")
        )
    workspace.apart(out, [source])


def place_bytes(content: bytes, target: Path, where: str, *, overwrite: bool) -> bool:
    """Write ``content`` to ``target``; return False when the same bytes lie there already.

    Raises:
        UsageError: other bytes lie there and ``overwrite`` is False.
        StorageError: the disk refused.
    """
    if target.exists():
        if target.read_bytes() == content:
            return False
        _refuse_replacing(where, overwrite=overwrite)
    files.write_bytes(target, content)
    return True


def place_file(source: Path, target: Path, where: str, *, way: str, overwrite: bool) -> bool:
    """Copy or link ``source`` to ``target``; return False when it lies there already.

    Args:
        source: the file.
        target: its new place; folders are made.
        where: what an error calls it.
        way: one of :data:`WAYS`.
        overwrite: True replaces another file at ``target``.

    Raises:
        UsageError: another file lies there and ``overwrite`` is False.
        StorageError: the disk refused.
    """
    if target.exists() or target.is_symlink():
        if _is_placed(source, target, way):
            return False
        _refuse_replacing(where, overwrite=overwrite)
    if way == "copy":
        with source.open("rb") as reader, files.atomic(target) as writer:
            shutil.copyfileobj(reader, writer)
        return True
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
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


def _is_placed(source: Path, target: Path, way: str) -> bool:
    if way == "symlink":
        return target.is_symlink() and target.resolve() == source.resolve()
    if not target.exists() or target.is_symlink():
        return False
    if way == "hardlink":
        return target.samefile(source)
    one, other = source.stat(), target.stat()
    return (
        not target.samefile(source)
        and one.st_size == other.st_size
        and files.digest(source) == files.digest(target)
    )


def _refuse_replacing(where: str, *, overwrite: bool) -> None:
    if not overwrite:
        fix = "choose another output folder, or allow overwriting"
        raise UsageError(
            expected("nothing, or the same, at the output", got="another file", where=where, fix=fix)
        )
