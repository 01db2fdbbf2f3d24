"""The table a dataset is: one row a case, patients whole, plus what the columns mean.

On disk a dataset is a folder with ``manifest.csv`` (one row a case), ``dataset.toml`` (task, label
names, attributes, spacing, intensity) and the images and masks the rows point to.
"""

from __future__ import annotations

import csv
import io
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tomli_w

from meninx.core import check, files
from meninx.core.errors import DataError, LayoutError, expected

MANIFEST_NAME = "manifest.csv"
INFO_NAME = "dataset.toml"
SPLITS = ("train", "valid", "test")
FIRST_ROW = 2  # of a table whose first row is its header
_FIXED = ("case_id", "patient_id", "study", "site", "split", "image", "mask")


class Task(StrEnum):
    """What a model is asked: one class of several, any of several labels, or a label map."""

    MULTICLASS = "multiclass"
    MULTILABEL = "multilabel"
    SEGMENTATION = "segmentation"


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """How voxel values become network input: ``(value - shift) / scale`` after clipping to the window.

    Attributes:
        window: lowest and highest value kept, in the units of the file.
        shift: subtracted after clipping.
        scale: divided by after that, > 0.
        source: where the numbers came from: ``"format"`` (bit depth, public), ``"standard"`` (a published
            window, public) or ``"train"`` (statistics of the private training split: outside a DP guarantee).
    """

    window: tuple[float, float] = (0.0, 255.0)
    shift: float = 127.5
    scale: float = 127.5
    source: str = "format"

    def __post_init__(self) -> None:
        check.positive(scale=self.scale)
        check.one_of(("format", "standard", "train"), source=self.source)


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What the columns and files of a dataset mean.

    Attributes:
        name: short name of the dataset.
        task: what is to be learnt.
        labels: label columns, in output order. MULTICLASS: one column per class, exactly one is 1.
            MULTILABEL: 0, 1 or empty (unknown). SEGMENTATION: names of the label values 1, 2, ... of the masks.
        attributes: attribute columns (``sex``, ``age``, ...), never model input.
        spatial_dims: 2 or 3.
        channels: image channels, 1 or 3.
        size: spatial size all images share, or empty when sizes differ.
        spacing_mm: voxel spacing all images share, or empty when unknown or different.
        intensity: normalisation and where it came from.
        laterality: pairs of labels that a left-right flip exchanges.
        patients_known: False when the source names no patients, so that every image (or lesion) counts as one.
        synthetic: True when no patient stands behind the images.
    """

    name: str
    task: Task
    labels: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    spatial_dims: int = 2
    channels: int = 1
    size: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    intensity: Intensity = field(default_factory=Intensity)
    laterality: tuple[tuple[str, str], ...] = ()
    patients_known: bool = True
    synthetic: bool = False

    def to_toml(self) -> str:
        """Return the content of ``dataset.toml``."""
        table = {item.name: getattr(self, item.name) for item in fields(self)}
        table["task"] = str(self.task)
        table["intensity"] = {item.name: getattr(self.intensity, item.name) for item in fields(Intensity)}
        return tomli_w.dumps(table)

    @classmethod
    def from_toml(cls, text: str, where: str) -> DatasetInfo:
        """Return the information in ``dataset.toml``; LayoutError names the file and key."""
        try:
            table: dict[str, Any] = tomllib.loads(text)
            table["task"] = Task(table["task"])
            intensity = dict(table.get("intensity", {}))
            if "window" in intensity:
                intensity["window"] = tuple(intensity["window"])
            table["intensity"] = Intensity(**intensity)
            for name in ("labels", "attributes", "size", "spacing_mm"):
                table[name] = tuple(table.get(name, ()))
            table["laterality"] = tuple((left, right) for left, right in table.get("laterality", ()))
            return cls(**table)
        except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
            raise LayoutError(expected("a dataset.toml as `meninx prepare` writes it", got=error, where=where)) from error


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row: an image (with its mask) of one patient.

    ``image`` and ``mask`` are POSIX paths relative to the dataset folder; ``mask`` may be empty.
    ``labels`` maps a label name to 0.0, 1.0 or None (unknown); ``attributes`` maps a name to text, empty when unknown.
    """

    case_id: str
    patient_id: str
    image: str
    study: str = ""
    site: str = ""
    split: str = "train"
    mask: str = ""
    labels: Mapping[str, float | None] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """A dataset: its folder, its meaning and its cases.

    Guarantee: a Manifest with a patient in two splits or at two sites, a case twice, or an image
    twice cannot be constructed (DataError).
    """

    root: Path
    info: DatasetInfo
    cases: tuple[Case, ...]

    def __post_init__(self) -> None:
        _refuse_duplicates(self.cases)
        _refuse_divided_patients(self.cases)

    def __len__(self) -> int:
        return len(self.cases)

    def select(self, keep: Callable[[Case], bool]) -> Manifest:
        """Return the manifest of the cases for which ``keep`` is true, in the same order."""
        return Manifest(self.root, self.info, tuple(case for case in self.cases if keep(case)))

    def split(self, name: str) -> Manifest:
        """Return the cases of one split: ``train``, ``valid`` or ``test``."""
        return self.select(lambda case: case.split == name)

    def site(self, name: str) -> Manifest:
        """Return the cases of one site."""
        return self.select(lambda case: case.site == name)

    @property
    def sites(self) -> tuple[str, ...]:
        """Site names, sorted; empty names left out."""
        return tuple(sorted({case.site for case in self.cases if case.site}))

    @property
    def patients(self) -> tuple[str, ...]:
        """Distinct patient pseudonyms, sorted."""
        return tuple(sorted({case.patient_id for case in self.cases}))

    def patient_index(self) -> npt.NDArray[np.int64]:
        """Return for each case the position of its patient in :attr:`patients`, shape (cases,)."""
        position = {patient: index for index, patient in enumerate(self.patients)}
        return np.array([position[case.patient_id] for case in self.cases], dtype=np.int64)

    def targets(self) -> npt.NDArray[np.float32]:
        """Return the label matrix, shape (cases, labels), NaN where unknown."""
        rows = [[_number(case.labels.get(name)) for name in self.info.labels] for case in self.cases]
        return np.array(rows, dtype=np.float32).reshape(len(self.cases), len(self.info.labels))

    def attribute(self, name: str) -> tuple[str, ...]:
        """Return one attribute of every case as text, empty when unknown."""
        return tuple(case.attributes.get(name, "") for case in self.cases)

    def write(self, root: Path | None = None) -> None:
        """Write ``manifest.csv`` and ``dataset.toml`` into ``root`` (default: the manifest's own)."""
        folder = root or self.root
        header = [*_FIXED, *self.info.labels, *self.info.attributes]
        if self.info.task is Task.SEGMENTATION:
            header = [*_FIXED, *self.info.attributes]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(header)
        for case in self.cases:
            fixed = [getattr(case, name) for name in _FIXED]
            labels = [] if self.info.task is Task.SEGMENTATION else [_written(case.labels.get(name)) for name in self.info.labels]
            writer.writerow([*fixed, *labels, *(case.attributes.get(name, "") for name in self.info.attributes)])
        files.write_text(folder / INFO_NAME, self.info.to_toml())
        files.write_text(folder / MANIFEST_NAME, buffer.getvalue())

    @classmethod
    def read(cls, root: Path) -> Manifest:
        """Return the dataset in a folder.

        Raises:
            LayoutError: a file or column is missing, or a label is not a number; names file, column and row.
            DataError: the cases break the guarantee above.
        """
        info_path, table_path = root / INFO_NAME, root / MANIFEST_NAME
        for path in (info_path, table_path):
            if not path.is_file():
                fix = "make it with `meninx prepare`"
                raise LayoutError(expected(f"a prepared dataset with {path.name}", got="no such file", where=str(root), fix=fix))
        info = DatasetInfo.from_toml(_text(info_path), str(info_path))
        reader = csv.DictReader(io.StringIO(_text(table_path), newline=""))
        needed = [*_FIXED, *(() if info.task is Task.SEGMENTATION else info.labels), *info.attributes]
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            raise LayoutError(expected(f"a column {missing[0]!r}", got="none", where=f"{table_path}, row 1"))
        rows = enumerate(reader, start=FIRST_ROW)
        return cls(root, info, tuple(_case(row, info, f"{table_path}, row {number}") for number, row in rows))


def resplit(manifest: Manifest, split_of: Mapping[str, str]) -> Manifest:
    """Return the manifest with each patient moved to ``split_of[patient_id]``."""
    return replace(manifest, cases=tuple(replace(case, split=split_of[case.patient_id]) for case in manifest.cases))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _written(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LayoutError(expected("a readable UTF-8 file", got=type(error).__name__, where=str(path))) from error


def _case(row: Mapping[str, str], info: DatasetInfo, where: str) -> Case:
    if None in row or None in row.values():
        raise LayoutError(expected("one cell a column", got="more or fewer", where=where))
    labels: dict[str, float | None] = {}
    for name in () if info.task is Task.SEGMENTATION else info.labels:
        try:
            labels[name] = float(row[name]) if row[name] != "" else None
        except (TypeError, ValueError) as error:
            raise LayoutError(expected("a number or nothing", got="other text", where=f"{where}, column {name!r}")) from error
    if row["split"] not in SPLITS:
        got = "another word" if row["split"] else "nothing"
        raise LayoutError(expected(f"one of {', '.join(SPLITS)}", got=got, where=f"{where}, column 'split'"))
    fixed = {name: row[name] or "" for name in _FIXED}
    return Case(**fixed, labels=labels, attributes={name: row[name] or "" for name in info.attributes})


def _refuse_duplicates(cases: Iterable[Case]) -> None:
    seen: dict[tuple[str, str], int] = {}
    for number, case in enumerate(cases, start=FIRST_ROW):
        for key in (("case_id", case.case_id), ("image", case.image)):
            if key in seen:
                got = f"the same value in rows {seen[key]} and {number}"
                raise DataError(expected(f"each {key[0]} once", got=got, where=MANIFEST_NAME, fix="remove the duplicate"))
            seen[key] = number


def _refuse_divided_patients(cases: Iterable[Case]) -> None:
    home: dict[str, tuple[str, str, int]] = {}
    for number, case in enumerate(cases, start=FIRST_ROW):
        split, site, first = home.setdefault(case.patient_id, (case.split, case.site, number))
        for what, here, there in (("split", case.split, split), ("site", case.site, site)):
            if here != there:
                got = f"one patient in {there!r} (row {first}) and {here!r} (row {number})"
                fix = f"assign each patient to one {what}"
                raise DataError(expected(f"every patient in one {what}", got=got, where=MANIFEST_NAME, fix=fix))
