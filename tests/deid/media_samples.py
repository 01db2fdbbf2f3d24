"""Media with pydicom's own DICOMDIR, and the reader of such media."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
from deid_samples import image, save
from pydicom.fileset import FileSet


@contextmanager
def file_set(directory: Path | None = None) -> Iterator[FileSet]:
    """Yield an empty file-set, or the one of a DICOMDIR; pydicom leaves its temporary folder open."""
    files = FileSet(directory)
    try:
        yield files
    finally:
        files._stage["t"].cleanup()


def original(folder: Path, count: int = 3) -> Path:
    """Write a medium of a patient as a scanner does, and return its folder."""
    with file_set() as files:
        for number in range(count):
            save(image(number + 1, SeriesNumber="1"), folder / "x")
            files.add(pydicom.dcmread(folder / "x"))
        (folder / "x").unlink()
        files.write(folder / "cd")
    return folder / "cd"
