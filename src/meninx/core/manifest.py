"""The dataset table: one row per case, the meaning of its columns, its digests; a patient is never split.

On disk a dataset is a folder with ``manifest.csv`` (one row per case), ``dataset.toml`` (task, label
names, attributes, spacing, intensity), the images and masks named in the rows, and ``checksums.sha256``
with the digests of all of these.

Names and paths in a table are treated as hostile: a :class:`Case` or :class:`DatasetInfo` with a name that
another program could execute, or with a path that leaves the folder, cannot be constructed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import tomli_w

from meninx.core import check, files, integrity, names, plain, workspace
from meninx.core.errors import DataError, LayoutError, MeninxError, expected, problem
from meninx.core.intensity import Intensity, Observed

MANIFEST_NAME = "manifest.csv"
SOURCES_NAME = "private/cases.csv"  # identifiers of the source by case; written by prepare
INFO_NAME = "dataset.toml"
Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
FIRST_ROW = 2  # of a table whose first row is its header
LONGEST_TEXT = 4096  # characters of an attribute
FIXED_COLUMNS = ("case_id", "patient_id", "study", "site", "split", "image", "mask")
_LARGEST_AXIS = 1 << 20
_MOST_CHANNELS = 64
_CASE_ID = re.compile(r'[^./\\:*?"<>|][^/\\:*?"<>|]{0,127}')  # may name a file on every platform
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,255}")  # a fast test for names that names.problem accepts


class TaskKind(StrEnum):
    """Task of a model: one class of several, any of several labels, or a label map."""

    MULTICLASS = "multiclass"
    MULTILABEL = "multilabel"
    SEGMENTATION = "segmentation"


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The meaning of the columns and files of a dataset.

    Attributes:
        name: short name of the dataset.
        task: multiclass, multilabel or segmentation.
        labels: label columns, in output order. MULTICLASS: one column per class, exactly one is 1.
            MULTILABEL: 0, 1 or empty (unknown). SEGMENTATION: names of the label values 1, 2, ... of the
                masks.
        attributes: attribute columns (``sex``, ``age``, ...), never model input.
        spatial_dims: 2 or 3.
        channels: image channels: 1 (grey), 3 (colour), or the number that the source has.
        channel_names: names of channels that are separate images (T1, T2, ...), in order; empty for grey and
            colour images.
        size: common spatial size of all images; empty if sizes differ.
        spacing_mm: common voxel spacing of all images in millimetres; empty if unknown or different.
        intensity: normalisation and its origin.
        laterality: pairs of labels that a left-right flip exchanges.
        patients_known: False if the source names no patients, so that every image (or lesion) counts as one.
        synthetic: True if the images are not of real patients.
        split_rule: how patients were assigned to splits. ``stable`` and ``published`` use the patient alone;
            ``exact`` also uses the labels of others, so that removing one patient may move another; empty if
            unknown.
        preprocessing: steps from a decoded to a stored image, as the table of
            ``imaging.preprocessing.Preprocessing``; empty in datasets of older versions.
        observed: statistics of the training images; None if unknown, or withheld by a private run.
        obfuscated: how the images were changed to hide an attribute, as one sentence; empty for images that
            were not.

    Raises:
        DataError: a name is not allowed (see ``core.names``), or a number is out of range.
    """

    name: str
    task: TaskKind
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
    split_rule: str = ""
    channel_names: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    observed: Observed | None = None
    obfuscated: str = ""

    def __post_init__(self) -> None:
        where = "dataset"
        names.check([self.name], what="dataset", where=where)
        names.check(self.labels, what="label", where=where)
        names.check(self.attributes, what="attribute", where=where)
        names.check(self.channel_names, what="channel", where=where)
        names.check([side for pair in self.laterality for side in pair], what="laterality", where=where)
        columns = (
            *FIXED_COLUMNS,
            *self.attributes,
            *(() if self.task is TaskKind.SEGMENTATION else self.labels),
        )
        if len(set(columns)) != len(columns):
            raise DataError(problem("a label or attribute is named twice", where=where))
        if self.spatial_dims not in (2, 3) or not 1 <= self.channels <= _MOST_CHANNELS:
            what = f"2 or 3 spatial axes and 1 to {_MOST_CHANNELS} channels"
            raise DataError(expected(what, got=f"{self.spatial_dims} and {self.channels}", where=where))
        if self.channel_names and (
            len(self.channel_names) != self.channels or len(set(self.channel_names)) != self.channels
        ):
            raise DataError(problem("channel_names do not name each channel once", where=where))
        if self.size and not (
            len(self.size) == self.spatial_dims and all(1 <= n <= _LARGEST_AXIS for n in self.size)
        ):
            raise DataError(
                expected(f"a size of 1 to {_LARGEST_AXIS} along each axis", got=self.size, where=where)
            )
        if self.spacing_mm and not all(math.isfinite(step) and step > 0 for step in self.spacing_mm):
            raise DataError(expected("a spacing > 0 along each axis", got=self.spacing_mm, where=where))
        check.one_of(("", "stable", "exact", "published"), split_rule=self.split_rule)
        if self.obfuscated:
            names.check_sentence(self.obfuscated, what="obfuscated", where=where)

    def to_toml(self) -> str:
        """Return the content of ``dataset.toml``."""
        table = {item.name: getattr(self, item.name) for item in fields(self)}
        table["task"] = str(self.task)
        table["intensity"] = {item.name: getattr(self.intensity, item.name) for item in fields(Intensity)}
        table["observed"] = plain.to_plain(self.observed)
        absent = [name for name in ("preprocessing", "observed", "obfuscated") if not table[name]]
        return tomli_w.dumps({name: value for name, value in table.items() if name not in absent})

    @classmethod
    def from_toml(cls, text: str, where: str) -> DatasetInfo:
        """Return the information in ``dataset.toml``.

        Raises:
            LayoutError: the text is not valid; the message names file and key.
        """
        what = "a dataset.toml as `meninx prepare` writes it"
        try:
            table = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise LayoutError(expected(what, got=f"text that is no TOML ({error})", where=where)) from error
        unknown = sorted(set(table) - {item.name for item in fields(cls)})
        if unknown:
            raise LayoutError(expected(what, got=f"{len(unknown)} unknown keys", where=where))
        try:
            return plain.from_plain(table, cls, where=where)
        except MeninxError as error:
            raise LayoutError(expected(what, got=f"another value: {error}", where=where)) from error


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row: an image (with its mask) of one patient.

    ``image`` and ``mask`` are POSIX paths relative to the dataset folder; ``mask`` may be empty. ``labels``
    maps a label name to 0.0, 1.0 or None (unknown); ``attributes`` maps a name to text, empty if unknown.
    Later stages name files after ``case_id``, so it has at most 128 characters, all of them allowed in file
    names on every platform.

    Raises:
        DataError: an identifier or name is not allowed, or a path would leave the dataset folder.
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

    def __post_init__(self) -> None:
        _refuse_odd({name: getattr(self, name) for name in FIXED_COLUMNS}, self.attributes, "a case")


@dataclass(frozen=True)
class DataDigest:
    """The identity of a dataset folder's content.

    Attributes:
        digest: SHA-256 over ``manifest.csv``, ``dataset.toml`` and, if it exists, ``checksums.sha256``.
        images: whether the digest covers the images, because there is a list of checksums with which readers
            compare them.
    """

    digest: str
    images: bool


@dataclass(frozen=True)
class Manifest:
    """A dataset: its folder, its description and its cases.

    Example::

        >>> info = DatasetInfo(name="demo", task=TaskKind.MULTILABEL, labels=("effusion",))
        >>> cases = (Case(case_id="c1", patient_id="p1", image="c1.png", labels={"effusion": 1.0}),
        ...          Case(case_id="c2", patient_id="p2", image="c2.png", split="test"))
        >>> manifest = Manifest(Path("data"), info, cases)
        >>> len(manifest.split("train")), manifest.patients, manifest.targets().tolist()
        (1, ('p1', 'p2'), [[1.0], [nan]])

    Guarantee: a Manifest with a patient in two splits or at two sites, a duplicate case, or a duplicate image
        cannot be constructed (DataError).
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
        part = Manifest(self.root, self.info, tuple(case for case in self.cases if keep(case)))
        if "checksums" in self.__dict__:  # shared, so that the list is read only once
            part.__dict__["checksums"] = self.checksums
        return part

    def split(self, name: str) -> Manifest:
        """Return the cases of one split: ``train``, ``valid`` or ``test``."""
        return self.select(lambda case: case.split == name)

    @property
    def empty_splits(self) -> tuple[str, ...]:
        """Those of ``valid`` and ``test`` that have no cases."""
        used = {case.split for case in self.cases}
        return tuple(name for name in ("valid", "test") if name not in used)

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

    @cached_property
    def checksums(self) -> Mapping[str, str]:
        """Relative path -> SHA-256 of the files that ``prepare`` wrote; empty for older datasets.

        Raises:
            DataError: the list is damaged.
        """
        return integrity.read(self.root)

    def check_file(self, name: str) -> None:
        """Raise DataError unless a file of the dataset has its recorded digest.

        A dataset without a list of checksums is not compared.

        Args:
            name: relative path as in the manifest, e.g. ``images/c1.png``.

        Raises:
            DataError: the file is missing, was changed, or is not in the list.
        """
        if self.checksums:
            self.verified_bytes(name)

    def verified_bytes(self, name: str) -> bytes:
        """Return the bytes of a file of the dataset, after comparing them with their digest if there is one.

        Args:
            name: relative path as in the manifest, e.g. ``images/c1.png``.

        Raises:
            DataError: as :meth:`check_file`, or the file is larger than ``files.IMAGE_LIMIT``.
        """
        try:
            content = files.read_bytes(
                files.below(self.root, name, where=MANIFEST_NAME), limit=files.IMAGE_LIMIT
            )
        except DataError as error:
            got = "none, or one that is too large"
            raise DataError(expected("a readable file", got=got, where=self._place(name))) from error
        if self.checksums and hashlib.sha256(content).hexdigest() != self.checksums.get(name):
            got = "other bytes" if name in self.checksums else f"one that is not in {integrity.CHECKSUMS}"
            fix = "prepare the dataset again"
            raise DataError(expected("the file that was prepared", got=got, where=self._place(name), fix=fix))
        return content

    def image_digests(self) -> dict[str, str]:
        """Return case -> SHA-256 of its image file; empty without checksums.

        Raises:
            DataError: an image is not in the list of checksums.
        """
        if not self.checksums:
            return {}
        found = {case.case_id: self.checksums.get(case.image, "") for case in self.cases}
        missing = sum(not value for value in found.values())
        if missing:
            got, fix = f"{missing} without", "prepare the dataset again"
            raise DataError(expected("a digest of every image", got=got, where=integrity.CHECKSUMS, fix=fix))
        return found

    def _place(self, name: str) -> str:
        rows = enumerate(self.cases, start=FIRST_ROW)
        return next(
            (f"{MANIFEST_NAME}, row {row}" for row, case in rows if name in (case.image, case.mask)),
            self.root.name,
        )

    def write(self, root: Path | None = None) -> None:
        """Write ``manifest.csv`` and ``dataset.toml`` into ``root`` (default: the manifest's own).

        An attribute that a spreadsheet would execute as a formula is quoted; numbers are not.
        """
        folder = root or self.root
        header = [*FIXED_COLUMNS, *self.info.labels, *self.info.attributes]
        if self.info.task is TaskKind.SEGMENTATION:
            header = [*FIXED_COLUMNS, *self.info.attributes]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(header)
        for case in self.cases:
            fixed = [getattr(case, name) for name in FIXED_COLUMNS]
            labels = (
                []
                if self.info.task is TaskKind.SEGMENTATION
                else [_written(case.labels.get(name)) for name in self.info.labels]
            )
            texts = [names.csv_cell(case.attributes.get(name, "")) for name in self.info.attributes]
            writer.writerow([*fixed, *labels, *texts])
        files.write_text(folder / INFO_NAME, self.info.to_toml())
        files.write_text(folder / MANIFEST_NAME, buffer.getvalue())

    @classmethod
    def read(cls, root: Path) -> Manifest:
        """Return the dataset in a folder.

        Raises:
            LayoutError: a file or column is missing, or a cell is invalid; the message names file, column and
                row.
            DataError: the cases violate the guarantee of this class.
        """
        info_path, table_path = root / INFO_NAME, root / MANIFEST_NAME
        for path in (info_path, table_path):
            if not path.is_file():
                fix = "make it with `meninx prepare`"
                raise LayoutError(
                    problem(f"this is no prepared dataset: {path.name} is missing", where=str(root), fix=fix)
                )
        if _is_being_replaced(root):
            fix = "run `meninx prepare` again: it completes what was stopped"
            raise LayoutError(problem("the dataset is being replaced", where=root.name, fix=fix))
        info = DatasetInfo.from_toml(_text(info_path, files.TEXT_LIMIT), str(info_path))
        table = _rows(_text(table_path, files.TABLE_LIMIT), str(table_path))
        header = next(table, [])
        needed = [
            *FIXED_COLUMNS,
            *(() if info.task is TaskKind.SEGMENTATION else info.labels),
            *info.attributes,
        ]
        for name in needed:
            if header.count(name) != 1:
                got = "two" if name in header else "none"
                raise LayoutError(expected(f"a column {name!r}", got=got, where=f"{table_path}, row 1"))
        rows = enumerate((cells for cells in table if cells), start=FIRST_ROW)
        cases = tuple(_case(cells, header, info, f"{table_path}, row {number}") for number, cells in rows)
        _refuse_links(root, cases, str(table_path))
        return cls(root, info, cases)


EMPTY_SPLITS = {
    "valid": "the validation split has no cases: no metric in training, no thresholds, no model selection",
    "test": "the test split has no cases: `meninx evaluate` can measure on another dataset only",
}
"""Consequences of a split without cases."""


def read_info(root: Path) -> DatasetInfo:
    """Return the description of a dataset without reading its table.

    Raises:
        LayoutError: ``dataset.toml`` is not valid; the message names file and key.
    """
    return DatasetInfo.from_toml(_text(root / INFO_NAME, files.TEXT_LIMIT), str(root / INFO_NAME))


def refuse_other_task(learned: DatasetInfo, here: DatasetInfo) -> None:
    """Refuse a dataset whose task differs from that of a model.

    Raises:
        DataError: the tasks differ.
    """
    if learned.task is not here.task:
        fix = f"give a {learned.task} dataset, or a run that was trained for {here.task}"
        what = f"task {learned.task} as in training"
        raise DataError(expected(what, got=str(here.task), where=INFO_NAME, fix=fix))


def dataset_digest(root: Path, *, images: bool = True) -> DataDigest:
    """Return the digest of a dataset folder: of its table, its description and, with checksums, its images.

    Args:
        root: the folder.
        images: False for a digest of table and description only, as for datasets without checksums.

    Raises:
        DataError: a file cannot be read.
    """
    listed = images and (root / integrity.CHECKSUMS).is_file()
    digests = {
        name: files.digest(root / name)
        for name in (MANIFEST_NAME, INFO_NAME, *((integrity.CHECKSUMS,) if listed else ()))
    }
    text = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return DataDigest(hashlib.sha256(text.encode()).hexdigest(), listed)


def _is_being_replaced(root: Path) -> bool:
    """Return whether a publication was interrupted; False if this user may not read the private folder."""
    try:
        marker = workspace.read_marker(root)
    except OSError:
        return False
    return marker is not None and bool(marker.publishing or marker.removing)


def is_odd_text(text: str) -> bool:
    """Return whether a text is not allowed as an attribute: too long, with a NUL, or not valid Unicode."""
    return len(text) > LONGEST_TEXT or "\0" in text or names.encodable(text) != text


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _written(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _text(path: Path, limit: int) -> str:
    try:
        return files.read_bytes(path, limit=limit).decode("utf-8-sig")
    except (DataError, UnicodeDecodeError) as error:
        got = str(error) if isinstance(error, DataError) else type(error).__name__
        raise LayoutError(expected("a readable UTF-8 file", got=got, where=str(path))) from error


def _rows(text: str, where: str) -> Iterator[list[str]]:
    """Yield the rows of a table; raise LayoutError if csv cannot read it, e.g. a cell of more than 128 kB."""
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        yield from reader
    except csv.Error as error:
        raise LayoutError(
            expected("a CSV table", got=str(error), where=f"{where}, line {reader.line_num}")
        ) from error


def _case(cells: list[str], header: list[str], info: DatasetInfo, where: str) -> Case:
    if len(cells) != len(header):
        raise LayoutError(problem("the row does not have one cell per column", where=where))
    row = dict(zip(header, cells, strict=True))
    labels: dict[str, float | None] = {}
    for name in () if info.task is TaskKind.SEGMENTATION else info.labels:
        try:
            labels[name] = float(row[name]) if row[name] != "" else None
        except ValueError as error:
            raise LayoutError(
                problem("expected a number or an empty cell, got text", where=f"{where}, column {name!r}")
            ) from error
        if not 0 <= (labels[name] or 0) <= 1:
            raise LayoutError(problem("expected a number from 0 to 1", where=f"{where}, column {name!r}"))
    if row["split"] not in SPLITS:
        got = "another word" if row["split"] else "nothing"
        raise LayoutError(expected(f"one of {', '.join(SPLITS)}", got=got, where=f"{where}, column 'split'"))
    fixed = {name: row[name] for name in FIXED_COLUMNS}
    attributes = {name: row[name] for name in info.attributes}
    _refuse_odd(fixed, attributes, where)
    return Case(**fixed, labels=labels, attributes=attributes)


def _refuse_odd(fixed: Mapping[str, str], attributes: Mapping[str, str], where: str) -> None:
    """Raise DataError for an identifier, name, path or text that is not allowed.

    The message names the column and never the value, which may identify a patient.
    """
    if not _CASE_ID.fullmatch(fixed["case_id"]):
        what = (
            "the case_id cannot be used as a file name, which has 1 to 128 characters, no leading "
            "dot and none "
            'of / \\ : * ? " < > |'
        )
        raise DataError(problem(what, where=f"{where}, column 'case_id'"))
    for column in ("case_id", "patient_id", "study", "site"):
        text = fixed[column]
        if _PLAIN.fullmatch(text) or not (text or column == "patient_id"):
            continue
        found = names.problem(text, hash_sign=True)
        if found:
            raise DataError(expected(f"a plain {column}", got=found, where=f"{where}, column {column!r}"))
    for column in ("image", "mask"):
        if (fixed[column] or column == "image") and not files.is_inside(fixed[column]):
            raise DataError(
                problem(
                    "the path is not a relative path inside the dataset folder",
                    where=f"{where}, column {column!r}",
                )
            )
    for name, text in attributes.items():
        if is_odd_text(text):
            what = f"the text has more than {LONGEST_TEXT} characters, a NUL or invalid Unicode"
            raise DataError(problem(what, where=f"{where}, column {name!r}"))


def _refuse_links(root: Path, cases: Iterable[Case], where: str) -> None:
    """Raise DataError for an image or mask behind a link that leads out of the dataset folder."""
    # One check per folder and per link: resolving every path of a large dataset would take minutes.
    folders: set[PurePosixPath] = set()
    for number, case in enumerate(cases, start=FIRST_ROW):
        for name in filter(None, (case.image, case.mask)):
            folder = PurePosixPath(name).parent
            if folder not in folders or (root / name).is_symlink():
                files.below(root, name, where=f"{where}, row {number}")
                folders.add(folder)


def _refuse_duplicates(cases: Iterable[Case]) -> None:
    seen: dict[tuple[str, str], int] = {}
    for number, case in enumerate(cases, start=FIRST_ROW):
        for key in (("case_id", case.case_id), ("image", case.image)):
            if key in seen:
                got = f"the same value in rows {seen[key]} and {number}"
                raise DataError(
                    expected(f"each {key[0]} once", got=got, where=MANIFEST_NAME, fix="remove the duplicate")
                )
            seen[key] = number


def _refuse_divided_patients(cases: Iterable[Case]) -> None:
    home: dict[str, tuple[str, str, int]] = {}
    for number, case in enumerate(cases, start=FIRST_ROW):
        split, site, first = home.setdefault(case.patient_id, (case.split, case.site, number))
        for what, here, there in (("split", case.split, split), ("site", case.site, site)):
            if here != there:
                got = f"one patient in {there!r} (row {first}) and {here!r} (row {number})"
                fix = f"assign each patient to one {what}"
                raise DataError(
                    expected(f"every patient in one {what}", got=got, where=MANIFEST_NAME, fix=fix)
                )
