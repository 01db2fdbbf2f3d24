"""Recognition of the reader that a source needs if no setting names it (``reader="auto"``).

A reader is chosen if the source has files that only this layout has, in this order:

1. an ``.npz`` file; a ``deid.json`` of `meninx deid`; ``dataset.json`` with channels (nnunet) or without
   (msd); ``sub-*`` folders beside ``dataset_description.json`` or ``participants.tsv`` (bids);
   ``segmentations`` folders (totalsegmentator); volumes named BraTS (brats); the tables of a published
   dataset, with their columns;
2. a table that names images of the source (csv);
3. folders of classes or of splits (folder); ``images/`` and ``labels/`` (pairs); DICOM files (dicom).

If several readers fit equally well, or none does, the source is refused with what was found. So is a source
whose first two levels of folders contain a layout of 1 or 2: its folders are not classes. The message gives
the command that names the folder of the layout.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from meninx.core import files
from meninx.core.artifacts import DeidRecord, place
from meninx.core.csv_table import CsvTable, read_table
from meninx.core.errors import ConfigError, DataError, LayoutError, MeninxError, problem
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import bids, dataset_json
from meninx.prepare.readers.class_folder import part_of_layout, unwrapped
from meninx.prepare.readers.custom_table import IMAGE_NAMES, NO_PATIENTS, only_table, plain_name, tables_in
from meninx.prepare.readers.published_layouts import PUBLISHED
from meninx.prepare.readers.published_table import PublishedTable
from meninx.prepare.readers.siim import TABLES as SIIM_TABLES
from meninx.prepare.readers.source_files import (
    DICOM,
    IMAGES,
    ImageIndex,
    files_below,
    first_of,
    folders_in,
    table_path,
)
from meninx.prepare.setting_tables import AUTO

_JSON_LIMIT = 1 << 26  # bytes of a dataset.json
_FOLDERS_SEARCHED = 200  # number of folders in one folder that are searched for layouts
_LAYOUTS_LISTED = 5


def recognised(config: PrepareConfig, source: Path | Sequence[Path]) -> PrepareConfig:
    """Return the config with the reader that the source needs; unchanged if it names one.

    Raises:
        DataError: there is no such folder, or no layout is recognised.
        ConfigError: several readers fit, or a setting has no effect with the reader.
    """
    if config.reader != AUTO:
        return config
    roots = [source] if isinstance(source, Path) else list(source)
    found = {reader_of_source(root, config) for root in roots}
    if len(found) > 1:
        what = f"the sources have several layouts: {', '.join(sorted(found))}"
        raise ConfigError(problem(what, where="source", fix="give reader, or prepare them one by one"))
    return config.replace(reader=found.pop())


def reader_of_source(root: Path, config: PrepareConfig) -> str:
    """Return the name of the reader that a source needs.

    Raises:
        DataError: there is no such folder, or no layout is recognised.
        ConfigError: several readers fit.
    """
    if not root.exists():
        raise DataError(problem("there is no such folder", where=root.name, fix="check the path"))
    if root.is_file():
        if root.suffix == ".npz":
            return "npz"
        raise DataError(problem("the source is a file, not a folder", where=root.name, fix="give its folder"))
    for find in (_by_marks, _by_published_tables, _by_own_table, _refuse_layout_below, _by_folders):
        found = find(root, config)
        if len(found) > 1:
            what = f"several readers fit this source: {', '.join(found)}"
            raise ConfigError(problem(what, where=f"folder {root.name}", fix="give reader"))
        if found:
            return found[0]
    raise _unknown(root, config)


def _unknown(root: Path, config: PrepareConfig) -> DataError:
    """Return the error for a source of unknown layout, with the tables that were examined."""
    images = sum(1 for _ in islice(files_below(root, IMAGES), 1000))
    found = f"{images} image{'' if images == 1 else 's'}{' or more' if images == 1000 else ''}"
    fix = "give reader and table, or sort the images into one folder per class"
    path = _table_of(root, config)
    if path is None:
        what = f"no known layout: {found} and no table that names them"
        return DataError(problem(what, where=f"folder {root.name}", fix=fix))
    try:
        columns = ", ".join(read_table(path).columns)
    except MeninxError as error:
        what = f"no known layout: {found}, and the table {path.name} cannot be read: {error}"
        return DataError(problem(what, where=f"folder {root.name}"))
    what = f"no known layout: {found}, and no column of {path.name} is known to name them ({columns})"
    patients = f"--patient-column COLUMN (or {NO_PATIENTS})"
    fix = f"give --reader csv --table {shlex.quote(str(path))} --image-column COLUMN {patients} and "
    fix += "--class-column COLUMN, or --label-columns for columns of 0 and 1"
    return DataError(problem(what, where=f"folder {root.name}", fix=fix))


def _table_of(root: Path, config: PrepareConfig) -> Path | None:
    """Return the table from which a custom layout would be read, or None."""
    try:
        path = table_path(config.input.table, root) if config.input.table else only_table(root)
    except MeninxError:
        return None
    return path if path.is_file() else None


def _by_marks(root: Path, config: PrepareConfig) -> list[str]:
    record = place(DeidRecord)
    if (root / record).is_file() or any((folder / record).is_file() for folder in folders_in(root)):
        return ["dicom"]
    if list(root.glob("*.npz")):
        return ["npz"]
    listed = _json_keys(root / dataset_json.NAME)
    if "labels" in listed:
        return ["nnunet" if {"channel_names", "file_ending"} & listed else "msd"]
    if any((root / name).is_file() for name in ("dataset_description.json", bids.PATIENTS)):
        return ["bids"] if any(root.glob("sub-*/**/*.nii*")) else []
    if any(root.glob("*/segmentations/*.nii.gz")):
        return ["totalsegmentator"]
    volumes = islice(files_below(root, (".nii", ".nii.gz")), 4)
    return ["brats"] if any(path.name.lower().startswith("brats") for path in volumes) else []


def _by_published_tables(root: Path, config: PrepareConfig) -> list[str]:
    if config.input.table:
        return []
    found = [name for name, layout in PUBLISHED.items() if _fits(root, layout)]
    try:
        first_of(root, SIIM_TABLES)
    except LayoutError:
        return found
    return [*found, "siim"]


def _fits(root: Path, layout: PublishedTable) -> bool:
    """Return whether the required tables of a layout exist with its columns."""
    try:
        tables = [read_table(first_of(root, part.names)) for part in layout.tables if part.needed]
    except MeninxError:
        return False
    return all(_has_columns(table, layout) for table in tables)


def _has_columns(table: CsvTable, layout: PublishedTable) -> bool:
    there = set(table.columns)
    labels = [*layout.labels.values(), layout.diagnosis] if layout.diagnosis else [*layout.labels.values()]
    in_main = any(there & set(names) for names in labels) or bool(layout.joined)
    if layout.findings is not None:
        in_main = layout.findings.column in there
    images = bool(there & set(layout.image)) or layout.expanded is not None
    patient = not layout.patient or bool(layout.joined) or bool(there & set(layout.patient))
    return images and in_main and patient


def _by_own_table(root: Path, config: PrepareConfig) -> list[str]:
    """Return csv if a table names an image of the source, dicom if it names DICOM identifiers.

    Raises:
        LayoutError: there are several tables beside images outside class folders; lists them.
    """
    if not config.input.table and len(tables_in(root)) > 1 and not _by_folders(root, config):
        only_table(root)
    try:
        path = table_path(config.input.table, root) if config.input.table else only_table(root)
        table = read_table(path)
    except MeninxError:
        return []
    if any(name.endswith("InstanceUID") for name in table.columns):
        return ["dicom"]
    columns = [config.input.image_column] if config.input.image_column else [
        name for name in table.columns if plain_name(name) in IMAGE_NAMES
    ]  # fmt: skip
    index = ImageIndex(root, IMAGES)
    for column in columns:
        cells = [row.get(column) for row in islice(table, 20)]
        if any(cell and (index.find(cell) or cell in index.ambiguous) for cell in cells):
            return ["csv"]
    return []


def _refuse_layout_below(root: Path, config: PrepareConfig) -> list[str]:
    """Return nothing.

    Raises:
        LayoutError: a folder one or two levels down contains a layout of its own.
    """
    found: dict[Path, str] = {}
    for folder in islice(folders_in(root), _FOLDERS_SEARCHED):
        for inner in (folder, *islice(folders_in(folder), _FOLDERS_SEARCHED)):
            if inner.parent not in found and (reader := _layout_of(inner, config)):
                found[inner] = reader
    if not found:
        return []
    names = [f"{path.relative_to(root).as_posix()} ({reader})" for path, reader in found.items()]
    more = f" and {len(names) - _LAYOUTS_LISTED} more" if len(names) > _LAYOUTS_LISTED else ""
    what = f"the layout lies in a folder below: {', '.join(names[:_LAYOUTS_LISTED])}{more}"
    if len(found) > 1:
        what = f"{len(found)} layouts lie in folders below: {', '.join(names[:_LAYOUTS_LISTED])}{more}"
    each = "" if len(found) == 1 else ", and so on, one by one"
    command = f"meninx prepare {shlex.quote(str(next(iter(found))))} OUT"
    fix = f"run {command}{each}, or give reader folder if the folders are classes"
    raise LayoutError(problem(what, where=f"folder {root.name}", fix=fix))


def _layout_of(folder: Path, config: PrepareConfig) -> str:
    """Return the reader of the layout that a folder's own files show, or an empty text."""
    own = () if config.input.table else (_by_own_table,)
    for find in (_by_marks, _by_published_tables, *own):
        try:
            found: list[str] = find(folder, config)
        except MeninxError:  # several tables, from which nothing follows for the folder above
            continue
        if found:
            return found[0]
    images, masks = part_of_layout(path.name for path in folders_in(folder))
    return "pairs" if images and masks else ""


def _by_folders(root: Path, config: PrepareConfig) -> list[str]:
    top = unwrapped(root)
    folders = [folder for folder in folders_in(top) if next(files_below(folder, IMAGES), None) is not None]
    names = {folder.name.lower() for folder in folders}
    first = next(files_below(root, IMAGES), None)
    if names == {"images", "labels"}:
        return ["pairs"]
    if first is not None and first.name.lower().endswith(DICOM):
        return ["dicom"]
    return ["folder"] if len(folders) > 1 else []


def _json_keys(path: Path) -> set[str]:
    try:
        found = json.loads(files.read_text(path, limit=_JSON_LIMIT)) if path.is_file() else {}
    except (MeninxError, ValueError, RecursionError):
        return set()
    return set(found) if isinstance(found, dict) else set()
