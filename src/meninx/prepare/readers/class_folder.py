"""One folder per class: ``<source>/<class>/**/*.png`` (or JPEG, TIFF, NIfTI, DICOM).

With folders named train, valid (val) and test at the first level the classes lie below them, and the split is
published. One folder that wraps everything is passed over, as are folders of operating systems (``__MACOSX``)
and folders without an image. The layout names no patients: each image counts as its own, so give a table
(reader csv) where a patient has several.
"""

from __future__ import annotations

from pathlib import Path

from meninx.core.errors import LayoutError, expected, problem
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import values
from meninx.prepare.readers.custom_table import tables_in
from meninx.prepare.readers.layout import NOT_ASKED_FOR, split_name
from meninx.prepare.readers.source_files import IMAGES, files_below, folders_in, is_stray, relative
from meninx.prepare.source_cases import FileSource, ReaderOutput, SourceCase

OUTSIDE, EMPTY = "image outside of a class folder", "folder without an image"
WRAPPED, NOT_READ = "read below one folder", "table that this reader does not read"


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return one case per image, with its class from its folder.

    Raises:
        LayoutError: there are no class folders, only one, or folders of splits beside others.
    """
    top = unwrapped(root)
    notes = [] if top == root else [(WRAPPED, relative(top, root))]
    places, skipped = _class_folders(top, notes)
    notes += [(NOT_READ, path.name) for path in tables_in(top)]
    labels = values.class_names(
        config.labels, [folder.name for _, folder, _ in places], f"folder {root.name}"
    )
    cases: list[SourceCase] = []
    for split, folder, images in places:
        found = values.of_class(folder.name, config.labels)
        for number, path in enumerate(images, start=1):
            where = f"folder {relative(folder, root)}, file {number}"
            if not found:
                skipped.append((NOT_ASKED_FOR, where))
                continue
            key = relative(path, root)
            cases.append(
                SourceCase(
                    key=key, patient=key, image=FileSource(path), where=where, labels=found, split=split
                )
            )
    return ReaderOutput(
        cases=tuple(cases),
        labels=labels,
        task=values.task_of(config, one_class=True),
        skipped=tuple(skipped),
        notes=tuple(notes),
        patients_known=False,
        spatial_dims=3 if cases and cases[0].key.lower().endswith((".nii", ".nii.gz")) else 2,
    )


def unwrapped(root: Path) -> Path:
    """Return the folder of the class or split folders: ``root``, or below single folders that wrap them."""
    tops = folders_in(root)
    if len(tops) == 1 and not split_name(tops[0].name) and not _images_in(root) and folders_in(tops[0]):
        return unwrapped(tops[0]) if not _images_in(tops[0]) else root
    return root


def _class_folders(
    root: Path, notes: list[tuple[str, str]]
) -> tuple[list[tuple[str, Path, list[Path]]], list[tuple[str, str]]]:
    """Return split, class folder and images of each class, and the images outside of these folders."""
    tops = []
    for path in folders_in(root):
        if next(files_below(path, IMAGES), None) is not None:
            tops.append(path)
        else:
            notes.append((EMPTY, f"folder {path.name}"))
    if not tops:
        raise LayoutError(
            problem("expected one folder per class, found no images in folders", where=f"folder {root.name}")
        )
    splits = [path for path in tops if split_name(path.name)]
    if splits and len(splits) < len(tops):
        others = ", ".join(path.name for path in tops if path not in splits)
        got = f"folders of splits ({', '.join(path.name for path in splits)}) beside others ({others})"
        fix = "move the others away, or rename the folders if all are classes"
        raise LayoutError(
            expected("folders of classes, or of splits", got=got, where=f"folder {root.name}", fix=fix)
        )
    skipped = [(OUTSIDE, f"folder {root.name}, {len(_images_in(root))} files")] * len(_images_in(root))
    places = [("", top) for top in tops]
    if splits:
        places = [(split_name(top.name), path) for top in tops for path in folders_in(top)]
        for top in tops:
            skipped += [(OUTSIDE, f"folder {top.name}")] * len(_images_in(top))
    found = [(split, path, list(files_below(path, IMAGES))) for split, path in places]
    notes += [(EMPTY, f"folder {relative(path, root)}") for _, path, images in found if not images]
    found = [place for place in found if place[2]]
    _refuse_one_class(root, {path.name for _, path, _ in found})
    return found, skipped


def _refuse_one_class(root: Path, classes: set[str]) -> None:
    if len(classes) > 1:
        return
    tables = ", ".join(path.name for path in tables_in(root))
    got = f"{len(classes)}" + (f", beside a table ({tables})" if tables else "")
    fix = "give reader csv, which reads the table" if tables else "sort the images into one folder per class"
    raise LayoutError(
        expected(
            "two or more folders of images, one per class", got=got, where=f"folder {root.name}", fix=fix
        )
    )


def _images_in(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.name.lower().endswith(IMAGES) and not is_stray(path.name) and path.is_file()
    ]
