"""Checks of paths before a verb imports anything slow, so that a misspelt folder is reported immediately.

The stages check again, for those who call them from Python.
"""

from __future__ import annotations

from pathlib import Path

from meninx.core import artifacts
from meninx.core.artifacts import BundleRecord, RunRecord
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.manifest import INFO_NAME, MANIFEST_NAME, Manifest
from meninx.core.run import open_run


def dataset(folder: Path | None) -> None:
    """Refuse a folder that is no prepared dataset; None passes.

    Raises:
        LayoutError: ``manifest.csv`` or ``dataset.toml`` is missing; names it.
    """
    if folder is not None and not all((folder / name).is_file() for name in (INFO_NAME, MANIFEST_NAME)):
        Manifest.read(folder)


def runs(*folders: Path | None) -> None:
    """Refuse a folder that is no run; None passes.

    Raises:
        UsageError: it is none.
    """
    for folder in folders:
        if folder is not None:
            open_run(folder)


def model(folder: Path) -> None:
    """Refuse a folder that holds no trained model.

    Raises:
        UsageError: it is no run, no release and no bundle.
    """
    record = artifacts.place(BundleRecord)
    marks = (record, f"bundle/{record}", "config.toml", artifacts.place(RunRecord))
    if not any((folder / name).is_file() for name in marks):
        got = "another folder" if folder.exists() else "no such folder"
        fix = "give a run folder, its release/ or release/bundle"
        raise UsageError(expected("a trained model", got=got, where=str(folder), fix=fix))


def exists(path: Path) -> None:
    """Refuse a path that leads nowhere.

    Raises:
        DataError: there is no file or folder.
    """
    if not path.exists():
        raise DataError(problem("there is no such file or folder", where=str(path), fix="check the path"))
