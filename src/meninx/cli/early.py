"""Checks of paths before a verb imports anything slow, so that a misspelt folder is reported immediately.

The stages check again, for those who call them from Python.
"""

from __future__ import annotations

from pathlib import Path

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
