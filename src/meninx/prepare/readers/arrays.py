"""``.npz`` files read without running what they hold: numbers and text only, also text stored as objects."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from meninx.core.errors import LayoutError, expected

# What numpy writes for an array of Python strings, under its old and new module names; nothing else may be called.
_ALLOWED = {
    (f"numpy.{package}.multiarray", "_reconstruct") for package in ("core", "_core")
} | {("numpy", "ndarray"), ("numpy", "dtype")}  # fmt: skip


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
        LayoutError: not an ``.npz`` file, or an array holds objects other than numbers and text.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy"): _array(archive.read(name), path.name, name) for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise LayoutError(expected("an .npz file", got=type(error).__name__, where=path.name)) from error


def _array(content: bytes, where: str, name: str) -> npt.NDArray[Any]:
    stream = io.BytesIO(content)
    version = npy.read_magic(stream)
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, kind = header(stream)
    if not kind.hasobject:
        return np.load(io.BytesIO(content), allow_pickle=False)  # type: ignore[no-any-return]
    try:
        found = np.asarray(_TextOnly(stream).load()).reshape(shape)
    except Exception as error:
        raise LayoutError(expected("numbers or text", got="other objects", where=f"{where}, array {name!r}")) from error
    return np.array([str(item) for item in found.ravel()]).reshape(shape)
