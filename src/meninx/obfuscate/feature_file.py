"""A user's own feature vectors: ``.npz`` or CSV, read as files that anybody may have written.

========================  ==================================================================================
``.npz``                  ``features`` (n, d) numbers, and one array of n texts or numbers per column
``.csv``                  one row per vector, its numbers in the columns ``feature_0``, ``feature_1``, ...
========================  ==================================================================================

Columns are ``case_id``, ``patient_id``, ``split`` (``train``, ``valid``, ``test``; without it patients are
divided by the seed), attributes and labels. Nothing in a file is executed. The header of each array is
checked before the array is read, and a packed file that would grow to more than 64 MiB and 200 times its size
is refused, so that a small file never takes much memory.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from meninx.core import csv_table, files
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.manifest import FIRST_ROW, SPLITS, Case, DatasetInfo, Manifest, TaskKind
from meninx.core.randomness import child
from meninx.obfuscate.obfuscator import Values

FEATURES, CASE, PATIENT, SPLIT, RELEASED = "features", "case_id", "patient_id", "split", "obfuscated"
SUFFIXES = (".npz", ".csv")
_PREFIX = "feature_"
_MOST_BYTES, _MOST_MEMBERS, _MOST_FEATURES, _MOST_ROWS = 1 << 30, 64, 65536, 2_000_000
_LONGEST = 512  # characters of a text
_LONGEST_HEADER = 4096
_FREE_BYTES, _MOST_GROWTH = 64 << 20, 200  # unpacked bytes that any file may have, and per packed byte
_SHARES = (0.6, 0.8)  # of the patients in order: training, and training with validation
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
Column = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """The content of a file of feature vectors.

    Attributes:
        features: shape (n, d), float32, finite.
        manifest: cases, patients, splits, labels and attributes; there are no images.
        digest: SHA-256 of the file.
        divided: the file has no splits, so patients were divided by the seed.
        unused: columns that were not read.
    """

    features: Values
    manifest: Manifest
    digest: str
    divided: bool
    unused: tuple[str, ...] = ()


def read_features(
    path: Path,
    *,
    attributes: Sequence[str],
    others: Sequence[str] = (),
    labels: Sequence[str] = (),
    seed: int,
) -> FeatureFile:
    """Return the vectors and columns of a file.

    Args:
        path: ``.npz`` or ``.csv``.
        attributes: columns that are to be hidden.
        others: further attribute columns, which the release keeps.
        labels: columns of labels: 0, 1 or empty. By default every column that holds a 0, a 1 and nothing
            else.
        seed: divides patients where the file has no splits.

    Raises:
        DataError: not such a file, a missing column, numbers that are not finite, names that are not allowed,
            or a patient in two splits. The message contains no value of the file.
        UsageError: a label is an attribute.
    """
    if set(labels) & set(attributes):
        raise UsageError(problem("a label to keep is the attribute to hide", where="labels"))
    packed = path.suffix.lower() == ".npz"
    features, columns = _of_arrays(path) if packed else _of_table(path)
    where = path.name
    if RELEASED in columns:
        fix = "give the features before their release"
        raise DataError(problem("the features were obfuscated before", where=where, fix=fix))
    named = (*attributes, *others)
    for name in (CASE, PATIENT, *named, *labels):
        if name not in columns:
            raise DataError(problem(f"there is no column {name!r}", where=where))
    if any(len(column) != len(features) for column in columns.values()):
        raise DataError(problem("the columns have different lengths", where=where))
    patients = columns[PATIENT]
    split = columns.get(SPLIT) or _divided(patients, seed)
    for row, name in enumerate(split):
        if name not in SPLITS:
            what = f"the split is not one of {', '.join(SPLITS)}"
            raise DataError(problem(what, where=f"{where}, row {row + FIRST_ROW}"))
    labels = tuple(labels) or _label_like(columns, leave_out=(CASE, PATIENT, SPLIT, *named))
    kept = {name: _numbers(columns[name], name, where) for name in labels}
    info = DatasetInfo(name=path.stem, task=TaskKind.MULTILABEL, labels=tuple(labels), attributes=named)
    cases = tuple(
        Case(
            case_id=columns[CASE][row],
            patient_id=patients[row],
            image=f"{FEATURES}/{row}",
            split=split[row],
            labels={name: kept[name][row] for name in labels},
            attributes={name: columns[name][row] for name in named},
        )
        for row in range(len(features))
    )
    used = {CASE, PATIENT, SPLIT, *named, *labels}
    return FeatureFile(
        features=features,
        manifest=Manifest(path.parent, info, cases),
        digest=files.digest(path),
        divided=SPLIT not in columns,
        unused=tuple(name for name in columns if name not in used),
    )


def _label_like(columns: Mapping[str, Column], *, leave_out: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that hold both labels, unknown ones and nothing else."""
    found = {name: {_plain(text) for text in column} for name, column in columns.items()}
    labels = ({"0", "1"}, {"", "0", "1"})
    return tuple(name for name, values in found.items() if name not in leave_out and values in labels)


def _plain(text: str) -> str:
    return text.removesuffix(".0")


def _of_arrays(path: Path) -> tuple[Values, Mapping[str, Column]]:
    """Return vectors and columns of an ``.npz`` file."""
    arrays = _arrays(path)
    where = f"{path.name}, array {FEATURES}"
    if FEATURES not in arrays:
        fix = f"write it with numpy.savez(path, {FEATURES}=..., {CASE}=..., {PATIENT}=...)"
        raise DataError(problem(f"there is no array {FEATURES!r}", where=path.name, fix=fix))
    values = arrays.pop(FEATURES)
    if values.dtype.kind not in "fiu":
        raise DataError(expected("numbers", got=f"type {values.dtype.kind}", where=where))
    columns = {
        name: _texts(array, f"{path.name}, array {number}")
        for number, (name, array) in enumerate(arrays.items(), start=1)
    }
    return _checked(values, where), columns


def _of_table(path: Path) -> tuple[Values, Mapping[str, Column]]:
    """Return vectors and columns of a CSV file."""
    table = csv_table.read_table(path, (CASE, PATIENT))
    names = [name for name in table.columns if name.startswith(_PREFIX)]
    wanted = [f"{_PREFIX}{number}" for number in range(len(names))]
    if not names or sorted(names) != sorted(wanted) or len(names) > _MOST_FEATURES:
        what = f"the columns are not {_PREFIX}0, {_PREFIX}1, ... without a gap"
        raise DataError(problem(what, where=f"{path.name}, row 1"))
    values = np.empty((len(table), len(wanted)))
    for row, cells in enumerate(table):
        for place, name in enumerate(wanted):
            try:
                values[row, place] = float(cells.need(name))
            except ValueError:
                raise DataError(expected("a number", got="text", where=f"{cells.where}, {name}")) from None
    rest = [name for name in table.columns if name not in names]
    return _checked(values, path.name), {name: tuple(cells.get(name) for cells in table) for name in rest}


def _checked(values: npt.NDArray[Any], where: str) -> Values:
    """Return vectors as float32 after checking shape and numbers."""
    if values.ndim != 2 or not 1 <= values.shape[1] <= _MOST_FEATURES or not 1 <= len(values) <= _MOST_ROWS:
        what = f"1 to {_MOST_ROWS:,} vectors of 1 to {_MOST_FEATURES:,} numbers"
        raise DataError(expected(what, got=f"shape {values.shape}"[:80], where=where))
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.ascontiguousarray(values, dtype=np.float32)
    largest = max(float(found.max()), -float(found.min()))  # NaN where one number is
    if not largest <= np.sqrt(np.finfo(np.float32).max):
        raise DataError(expected("finite numbers", got="NaN, infinity or larger ones", where=where))
    return found


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an ``.npz`` file by name.

    Raises:
        DataError: no such file, objects, or sizes that do not fit.
    """
    what = "an .npz file of plain arrays"
    fix = "write it with numpy.savez, texts as numpy.array(texts, dtype=str)"
    try:
        with files.regular(path) as packed, zipfile.ZipFile(packed) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            most = min(_MOST_BYTES, _FREE_BYTES + _MOST_GROWTH * os.fstat(packed.fileno()).st_size)
            if len(members) > _MOST_MEMBERS or total > most:
                got = f"{len(members)} arrays, or too many bytes"
                rule = f"at most {_MOST_MEMBERS} arrays of {most >> 20:,} MiB together"
                raise DataError(expected(rule, got=got, where=path.name))
            found: dict[str, npt.NDArray[Any]] = {}
            for number, member in enumerate(members, start=1):
                name = member.filename.removesuffix(".npy")
                if name in found:
                    raise DataError(problem("an array is there twice", where=path.name))
                with archive.open(member) as stream:  # never gives more bytes than the member states
                    found[name] = _array(stream, member.file_size, f"{path.name}, array {number}")
            return found
    except DataError:
        raise
    except Exception as error:  # zipfile and zlib raise many kinds on a damaged file
        raise DataError(expected(what, got=type(error).__name__, where=path.name, fix=fix)) from error


def _array(stream: IO[bytes], size: int, where: str) -> npt.NDArray[Any]:
    """Return one array; its header is compared with the member's size before the rest is read."""
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran, kind = _READERS[version](stream, max_header_size=_LONGEST_HEADER)
    except Exception as error:  # whatever numpy meets in foreign bytes
        raise DataError(expected("a plain array", got="something else", where=where)) from error
    if (
        kind.hasobject
        or kind.kind not in "fiubU"
        or kind.subdtype is not None
        or kind.itemsize > 4 * _LONGEST
    ):
        fix = "store texts as numpy.array(texts, dtype=str)"
        raise DataError(problem("the array holds neither numbers nor short texts", where=where, fix=fix))
    if (
        len(shape) not in (1, 2)
        or min(shape) < 0
        or not kind.itemsize
        or size - stream.tell() != math.prod(shape) * kind.itemsize
    ):
        raise DataError(problem("the array does not hold what its header says", where=where))
    if math.prod(shape) * 4 > _MOST_BYTES:  # they become float32
        raise DataError(expected(f"at most {_MOST_BYTES // 4:,} numbers", got="more", where=where))
    flat = np.frombuffer(stream.read(), dtype=kind)
    return flat.reshape(shape, order="F" if fortran else "C")


def _texts(array: npt.NDArray[Any], where: str) -> Column:
    """Return a column as texts; whole numbers without a point, unknown ones empty."""
    if array.ndim != 1:
        raise DataError(expected("one value per vector", got=f"{array.ndim} axes", where=where))
    if array.dtype.kind == "U":
        try:
            return tuple(str(text).strip() for text in array)
        except ValueError as error:  # code points beyond Unicode
            raise DataError(problem("a text is no valid Unicode", where=where)) from error
    return tuple("" if number != number else f"{number:.10g}" for number in array.astype(np.float64).tolist())


def _numbers(column: Column, name: str, where: str) -> list[float | None]:
    """Return a label: 0, 1 or None."""
    known = {"": None, "0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}
    for row, text in enumerate(column, start=FIRST_ROW):
        if text not in known:
            what = f"the label {name!r} is not 0, 1 or empty"
            raise DataError(problem(what, where=f"{where}, row {row}"))
    return [known[text] for text in column]


def _divided(patients: Column, seed: int) -> Column:
    """Return the split of each row: three in five patients train, one in five each choose and judge."""
    people = sorted(set(patients))
    order = child(seed, "splits of features").permutation(len(people))
    ends = [round(share * len(people)) for share in _SHARES]
    of = {
        people[who]: SPLITS[int(np.searchsorted(ends, place, side="right"))]
        for place, who in enumerate(order)
    }
    return tuple(of[patient] for patient in patients)
