"""Arrays in one ``.npz`` file: MedMNIST's six arrays, or plain ``images`` with ``labels`` and further arrays.

Layout: ``train_images``, ``train_labels``, ``val_images``, ``val_labels``, ``test_images``, ``test_labels``
(published split), or ``images`` (N, rows, columns[, 3]) with 0/1 arrays named by ``label_columns``, or one
class array (``class_column``, default ``labels``); ``patient_column`` names an array of patients. A last axis
of 3 is colour; (N, x, y, z) with z other than 3 is a volume. Without an array of patients each image counts
as a patient. An image is identified by its pixels, not by its position in the array, so that removing one
changes no other; equal images of one patient are counted.

References:
    Yang et al., MedMNIST v2, Scientific Data 2023.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from meninx.core import files
from meninx.core.errors import ConfigError, LayoutError, expected, problem
from meninx.core.manifest import TaskKind
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import values
from meninx.prepare.readers.source_files import table_path
from meninx.prepare.setting_tables import InputConfig, LabelsConfig
from meninx.prepare.source_cases import ArraySource, ReaderOutput, SourceCase

Arrays = Mapping[str, npt.NDArray[Any]]
PARTS = (("train_", "train"), ("val_", "valid"), ("test_", "test"))


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return one case per image of an ``.npz`` file: ``root`` itself, ``table`` below it, or the only one.

    Raises:
        LayoutError: an array is missing or has another length; names file and array.
    """
    path = _file(root, config.input)
    arrays = read_arrays(path)
    parts = [(prefix, split) for prefix, split in PARTS if f"{prefix}images" in arrays] or [("", "")]
    cases: list[SourceCase] = []
    skipped: list[tuple[str, str]] = []
    labels, columns = _columns(arrays, parts, config, path.name)
    copies: Counter[str] = Counter()
    people_name = config.input.patient_column or "patient_id"
    for prefix, split in parts:
        images = _images(arrays, prefix, path.name)
        people = _optional(arrays, f"{prefix}{people_name}", len(images), path.name)
        cells = {
            name: _optional(arrays, f"{prefix}{name}", len(images), path.name)
            for name in _extra(arrays, prefix, config.labels)
        }
        for index in range(len(images)):
            where = f"{path.name}, array '{prefix}images', item {index}"
            found = columns(prefix, index)
            if not found:
                skipped.append(("no class that was asked for", where))
                continue
            image = ArraySource(_channel_first(images[index]))
            patient = str(people[index]) if people is not None else ""
            key = f"{patient}/{image.digest()}" if patient else image.digest()
            copies[key] += 1
            key = f"{key}/{copies[key]}" if copies[key] > 1 else key
            cases.append(
                SourceCase(
                    key=key,
                    patient=patient or key,
                    image=image,
                    where=where,
                    labels=found,
                    attributes={name: _text(name, array, index) for name, array in cells.items()},
                    split=split,
                )
            )
    first = cases[0].image.load().spatial_dims if cases else 2
    attributes = _extra(arrays, parts[0][0], config.labels)
    return ReaderOutput(
        cases=tuple(cases),
        labels=labels,
        task=_task(config, arrays, parts),
        attributes=attributes,
        skipped=tuple(skipped),
        patients_known=f"{parts[0][0]}{people_name}" in arrays,
        spatial_dims=first,
    )


class _Labels:
    """The labels of one image, from label arrays, a class array, or MedMNIST's label matrix."""

    def __init__(self, arrays: Arrays, names: tuple[str, ...], config: PrepareConfig) -> None:
        self._arrays, self._names, self._config = arrays, names, config

    def __call__(self, prefix: str, index: int) -> dict[str, float | None]:
        """Return the labels; empty for a class that the settings exclude."""
        if self._config.labels.label_columns and not _matrix(self._arrays, prefix):
            return {
                name: _binary(self._arrays[f"{prefix}{name}"][index], f"array {prefix}{name!r}")
                for name in self._names
            }
        row = np.atleast_1d(self._arrays[f"{prefix}{self._config.labels.class_column or 'labels'}"][index])
        if len(row) > 1:
            published = [f"label_{number}" for number in range(len(row))]
            cells = dict(zip(published, row, strict=True))
            return {name: _binary(cells[name], f"array '{prefix}labels'") for name in self._names}
        return values.of_class(str(row[0]), self._config.labels)


def _columns(
    arrays: Arrays, parts: list[tuple[str, str]], config: PrepareConfig, where: str
) -> tuple[tuple[str, ...], _Labels]:
    first = parts[0][0]
    matrix = _matrix(arrays, first)
    if matrix:
        names = values.chosen(
            config.labels.label_columns, [f"label_{number}" for number in range(matrix)], where
        )
    elif config.labels.label_columns:
        names = config.labels.label_columns
        for name in (f"{prefix}{name}" for prefix, _ in parts for name in names):
            _need(arrays, name, where)
    else:
        name = config.labels.class_column or "labels"
        seen = [
            np.atleast_1d(item)[0] for prefix, _ in parts for item in _need(arrays, f"{prefix}{name}", where)
        ]
        names = values.class_names(config.labels, [str(item) for item in sorted(set(seen))], where)
        names = (
            names
            if config.labels.classes or config.labels.positive
            else tuple(str(item) for item in sorted(set(seen)))
        )
    return names, _Labels(arrays, names, config)


def _task(config: PrepareConfig, arrays: Arrays, parts: list[tuple[str, str]]) -> TaskKind:
    task = values.task_of(
        config, one_class=not config.labels.label_columns and not _matrix(arrays, parts[0][0])
    )
    if task is TaskKind.SEGMENTATION:
        raise ConfigError(expected("a classification task", got="segmentation", where="task, reader npz"))
    return task


def _matrix(arrays: Arrays, prefix: str) -> int:
    labels = arrays.get(f"{prefix}labels")
    return int(labels.shape[1]) if labels is not None and labels.ndim == 2 and labels.shape[1] > 1 else 0


def _file(root: Path, config: InputConfig) -> Path:
    if root.is_file():
        return root
    found = [table_path(config.table, root)] if config.table else sorted(root.glob("*.npz"))
    if len(found) != 1 or not found[0].is_file():
        raise LayoutError(
            expected("one .npz file", got=len(found), where=f"folder {root.name}", fix="name it in table")
        )
    return found[0]


def _images(arrays: Arrays, prefix: str, where: str) -> npt.NDArray[Any]:
    images = _need(arrays, f"{prefix}images", where)
    if images.ndim not in (3, 4, 5):
        raise LayoutError(
            expected("images of 3 to 5 axes", got=images.ndim, where=f"{where}, array '{prefix}images'")
        )
    if images.dtype.kind not in "iufb":
        raise LayoutError(
            expected("images of numbers", got=str(images.dtype), where=f"{where}, array '{prefix}images'")
        )
    for name in ("labels",):
        _optional(arrays, f"{prefix}{name}", len(images), where)
    return images


def _need(arrays: Arrays, name: str, where: str) -> npt.NDArray[Any]:
    if name not in arrays:
        fix = f"its arrays are {', '.join(sorted(arrays))}"
        raise LayoutError(problem(f"there is no array {name!r}", where=where, fix=fix))
    return arrays[name]


def _optional(arrays: Arrays, name: str, length: int, where: str) -> npt.NDArray[Any] | None:
    array = arrays.get(name)
    if array is not None and len(array) != length:
        raise LayoutError(expected(f"{length} items", got=len(array), where=f"{where}, array {name!r}"))
    return array


def _extra(arrays: Arrays, prefix: str, config: LabelsConfig) -> tuple[str, ...]:
    for name in config.attribute_columns:
        _need(arrays, f"{prefix}{name}", "attribute_columns")
    known = [name for name in (config.sex_column, config.age_column) if f"{prefix}{name}" in arrays]
    return (*known, *(name for name in config.attribute_columns if name not in known))


def _text(name: str, array: npt.NDArray[Any] | None, index: int) -> str:
    value = "" if array is None else str(np.atleast_1d(array[index])[0])
    if name == "sex":
        return values.sex(value, {})
    return values.age(value) if name == "age" else value


def _binary(value: Any, where: str) -> float | None:
    number = float(np.atleast_1d(value)[0])
    if np.isnan(number):
        return None
    if number not in (0, 1):
        raise LayoutError(problem("a label is not 0, 1 or NaN", where=where))
    return number


def _channel_first(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.moveaxis(image, -1, 0) if image.ndim > 2 and image.shape[-1] == 3 else image[None]


# The names that numpy writes for an array of Python strings, in its old and new modules. Nothing else may be
# called, because unpickling calls whatever a file names.
_ALLOWED = {
    (f"numpy.{package}.multiarray", "_reconstruct") for package in ("core", "_core")
} | {("numpy", "ndarray"), ("numpy", "dtype")}  # fmt: skip
_ALL_ARRAYS = 2 * files.IMAGE_LIMIT  # bytes of all arrays of a file
_MOST_TEXTS = 50_000_000  # items of an array of text


class _TextOnly(pickle.Unpickler):
    """Unpickler for arrays of plain values; it refuses all other names, so that a file cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the allowed numpy names."""
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
    except Exception as error:  # zipfile, zlib and numpy may raise any exception on a damaged file
        raise LayoutError(expected("an .npz file", got=type(error).__name__, where=path.name)) from error


def _refuse_large(archive: zipfile.ZipFile, where: str) -> None:
    # These sizes come from the file, but zipfile never returns more bytes than stated, so the limit holds.
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
    """Return one array; its header is checked against the size of the member before memory is allocated."""
    version = npy.read_magic(stream)
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, kind = header(stream)
    items = math.prod(shape)
    # The header is untrusted: it may state a shape that is far larger than the data, or negative.
    if any(n < 0 for n in shape) or (items > _MOST_TEXTS if kind.hasobject else items * kind.itemsize > size):
        raise LayoutError(
            problem("the array holds fewer values than its header says", where=f"{where}, array {name!r}")
        )
    if not kind.hasobject:
        if not items * kind.itemsize:
            return np.zeros(shape, kind)
        content = stream.read(items * kind.itemsize)
        found = np.frombuffer(content, dtype=kind, count=items)
        return found.reshape(shape, order="F" if fortran else "C")
    try:
        objects = np.asarray(_TextOnly(stream).load())
        # Converted item by item: the objects may be mixed, and their total number may differ from the header.
        texts = np.array([str(item) for item in objects.ravel()[: items + 1]])
        return texts.reshape(shape)
    except Exception as error:
        raise LayoutError(
            problem("the array holds objects other than numbers and text", where=f"{where}, array {name!r}")
        ) from error
