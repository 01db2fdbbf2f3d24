"""Class folders: one folder per label, from attributes, tables, folders or patterns, and back to a table."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from meninx.core import check, files
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.progress import SILENT, Progress, task
from meninx.core.result import Result
from meninx.dicom import copies, label_rules, sidecar
from meninx.imaging import decode, load

MISSING = "missing"
"""Name of the folder for files without a label."""
TABLE_COLUMNS = ("file", "label", "original")


@dataclass(frozen=True, kw_only=True)
class FoldersResult(Result):
    """Counts of the images that were sorted into class folders or found in them.

    Attributes:
        classes: number of images of each class.
        missing: images without a label.
        placed: images copied or linked in this run.
        unchanged: images that were already in the output.
        passed_over: files that are not images (a side-car counts with its image).
    """

    classes: dict[str, int] = field(default_factory=dict)
    missing: int = 0
    placed: int = 0
    unchanged: int = 0
    passed_over: int = 0


def class_folders(
    source: Path,
    out: Path,
    rule: label_rules.Rule,
    *,
    way: str = "copy",
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> FoldersResult:
    """Sort the images below a folder into ``out/<label>/<relative path>``.

    Images without a label go into ``out/missing/``.

    DICOM, PNG, JPEG and NIfTI files count as images; a JSON side-car stays with its image.
    Characters of a label that are unsuitable for the name of a folder become ``_``.

    Args:
        source: folder of images, searched recursively.
        out: folder of the class folders, outside the source.
        rule: source of the label; attributes of pictures and volumes are read from their side-cars.
        way: copy, hardlink or symlink.
        overwrite: replace other files at the output.
        progress: advanced by every file.

    Raises:
        UsageError: one folder is inside the other, or the output contains another file of that name.
        DataError: two labels have the same folder name, a label is named ``missing``, or a file cannot be
            read.
        StorageError: the disk refused.
    """
    check.one_of(copies.WAYS, way=way)
    copies.refuse_inside(source, out)
    label_of, keywords = label_rules.labeller(rule), label_rules.needed(rule)
    counts: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    spelled: dict[str, str] = {}
    paths = decode.find_files(source)
    with (
        copies.building(source, out, rule, way) as build,
        task(progress, "class folders", len(paths)),
        decode.quiet(),
    ):
        for number, path in enumerate(paths, start=1):
            progress.advance()
            if not is_image(path):
                counts["passed_over"] += not _has_image(path)
                continue
            relative = PurePosixPath(path.relative_to(source).as_posix())
            where = f"file {number} of the sorted source"
            try:
                label = label_of(relative, sidecar.facts(path, keywords))
            except DataError as error:
                raise DataError(problem(f"no label can be read ({error})", where=where)) from None
            name = PurePosixPath(_folder_name(label, spelled))
            classes[name.name] += 1
            is_new = copies.place_file(path, build, name / relative, where, way=way, overwrite=overwrite)
            counts["placed" if is_new else "unchanged"] += 1
            beside = sidecar.path_of(path)
            if beside.is_file():
                table = (name / relative).with_name(beside.name)
                copies.place_file(beside, build, table, where, way=way, overwrite=overwrite)
    missing = classes.pop(MISSING, 0)
    return FoldersResult(out=out, classes=dict(sorted(classes.items())), missing=missing, **counts)


def class_table(
    source: Path, out: Path, *, overwrite: bool = False, progress: Progress = SILENT
) -> FoldersResult:
    """Write the table of a folder of class folders: columns ``file``, ``label`` and ``original``.

    ``file`` is the path below ``source``.

    ``original`` is the path below the class folder, the relative path that :func:`class_folders` was given.
    Files in the folder ``missing`` get an empty label; files outside class folders are skipped.

    Raises:
        UsageError: another table exists at ``out``.
        DataError: the source folder does not exist.
        StorageError: the disk refused.
    """
    copies.refuse_empty(source)
    classes: Counter[str] = Counter()
    passed_over = 0
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(TABLE_COLUMNS)
    paths = decode.find_files(source)
    with task(progress, "class table", len(paths)):
        for path in paths:
            progress.advance()
            relative = PurePosixPath(path.relative_to(source).as_posix())
            if len(relative.parts) < 2 or not is_image(path):
                passed_over += not _has_image(path)
                continue
            name = relative.parts[0]
            classes[name] += 1
            writer.writerow([relative, "" if name == MISSING else name, PurePosixPath(*relative.parts[1:])])
    content = buffer.getvalue().encode()
    if not out.exists() or out.read_bytes() != content:
        if out.exists() and not overwrite:
            fix = "choose another file, or allow overwriting"
            raise UsageError(problem("another table lies at the output", where=out.name, fix=fix))
        files.write_bytes(out, content)
    missing = classes.pop(MISSING, 0)
    return FoldersResult(
        out=out, classes=dict(sorted(classes.items())), missing=missing, passed_over=passed_over
    )


def is_image(path: Path) -> bool:
    """Return whether a file is a picture or volume by its suffix, or DICOM by its first bytes."""
    return load.suffix(path) in (*load.PICTURES, *load.VOLUMES) or decode.is_dicom(path)


def _has_image(path: Path) -> bool:
    """Return whether a file is the side-car of an image in the same folder."""
    kinds = (*load.PICTURES, *load.VOLUMES, ".dcm", "")
    return path.suffix == ".json" and any(path.with_name(path.stem + kind).is_file() for kind in kinds)


def _folder_name(label: str, spelled: dict[str, str]) -> str:
    """Return the folder of a label; ``spelled`` maps each folder to its label and is extended."""
    if not label:
        return MISSING
    name = re.sub(r"[^\w .+=-]", "_", label).strip(" .") or "_"
    if name == MISSING or spelled.setdefault(name.casefold(), label) != label:
        got = "one that is reserved for files without a label" if name == MISSING else "two labels with one"
        raise DataError(
            expected(
                "a folder name of its own for each label",
                got=got,
                where="label",
                fix="spell the labels otherwise",
            )
        )
    return name
