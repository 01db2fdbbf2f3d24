"""``.npz`` files read without running what they hold: numbers and text only, also text stored as objects."""

from __future__ import annotations

import math
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from meninx.core import files
from meninx.core.errors import LayoutError, expected

# What numpy writes for an array of Python strings, under its old and new module names; nothing else may be
# called.
_ALLOWED = {
    (f"numpy.{package}.multiarray", "_reconstruct") for package in ("core", "_core")
} | {("numpy", "ndarray"), ("numpy", "dtype")}  # fmt: skip
_ALL_ARRAYS = 2 * files.IMAGE_LIMIT  # bytes of all arrays of a file
_MOST_TEXTS = 50_000_000  # items of an array of text


class _TextOnly(pickle.Unpickler):
    """Unpickles arrays of plain values and refuses every other name, so that a file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of three numpy names."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError("an object that is neither number nor text")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an ``.npz`` file by name.

    Raises:
        LayoutError: not an ``.npz`` file, an array of more than ``files.IMAGE_LIMIT`` bytes, more than twice
            as much in all, or an array that holds objects other than numbers and text.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_large(archive, path.name)
            found = {}
            for member in archive.infolist():
                with archive.open(member) as stream:
                    found[member.filename.removesuffix(".npy")] = _array(
                        stream, member.file_size, path.name, member.filename
                    )
            return found
    except LayoutError:
        raise
    except Exception as error:  # a broken file makes zipfile, zlib and numpy raise anything
        raise LayoutError(expected("an .npz file", got=type(error).__name__, where=path.name)) from error


def _refuse_large(archive: zipfile.ZipFile, where: str) -> None:
    sizes = [member.file_size for member in archive.infolist()]
    for number, size in enumerate(sizes, start=1):
        if size > files.IMAGE_LIMIT:
            got = f"{size:,} in array {number}"
            raise LayoutError(
                expected(f"arrays of at most {files.IMAGE_LIMIT:,} bytes", got=got, where=where)
            )
    if sum(sizes) > _ALL_ARRAYS:
        fix = "split it into several sources"
        raise LayoutError(
            expected(f"at most {_ALL_ARRAYS:,} bytes of arrays", got=f"{sum(sizes):,}", where=where, fix=fix)
        )


def _array(stream: IO[bytes], size: int, where: str, name: str) -> npt.NDArray[Any]:
    """Return one array; its header is compared with the size of the member before anything is read."""
    version = npy.read_magic(stream)
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, kind = header(stream)
    items = math.prod(shape)
    if any(n < 0 for n in shape) or (items > _MOST_TEXTS if kind.hasobject else items * kind.itemsize > size):
        raise LayoutError(
            expected("as many values as the header says", got="fewer", where=f"{where}, array {name!r}")
        )
    if not kind.hasobject:
        if not items * kind.itemsize:
            return np.zeros(shape, kind)
        content = stream.read(items * kind.itemsize)
        found = np.frombuffer(content, dtype=kind, count=items)
        return found.reshape(shape, order="F" if fortran else "C")
    try:
        objects = np.asarray(_TextOnly(stream).load())
        texts = np.array([str(item) for item in objects.ravel()[: items + 1]])
        return texts.reshape(shape)
    except Exception as error:
        raise LayoutError(
            expected("numbers or text", got="other objects", where=f"{where}, array {name!r}")
        ) from error
