"""One folder per class: ``<source>/<class>/**/*.png`` (or JPEG, TIFF, NIfTI, DICOM).

With folders named train, valid (val) and test at the first level the classes lie below them, and the split is
published. One folder that wraps everything is passed over, as are folders of operating systems (``__MACOSX``)
and folders without an image. Folders that are parts of another layout (``images``, ``masks``, ``labelsTr``,
``sub-01``, ...) are refused as classes or inside of them, and so are files like ``a_mask.png`` beside
``a.png``: a mask would become an image of a class. The layout names no patients: each image counts as its
own, so give a table (reader csv) where a patient has several.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from meninx.core.errors import LayoutError, expected, problem
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import values
from meninx.prepare.readers.custom_table import tables_in
from meninx.prepare.readers.layout import NOT_ASKED_FOR, split_name
from meninx.prepare.readers.source_files import IMAGES, files_below, folders_in, is_stray, relative, stem
from meninx.prepare.source_cases import FileSource, ReaderOutput, SourceCase

OUTSIDE, EMPTY = "image outside of a class folder", "folder without an image"
_IMAGE_WORDS = {"image", "images", "img", "imgs", "imagestr", "imagests", "imagesval"}
_MASK_WORDS = {
    "mask", "masks", "label", "labels", "labelstr", "labelsts", "labelsval", "annotation", "annotations",
    "segmentation", "segmentations", "groundtruth", "gt",
}  # fmt: skip
_IN_LONGER_NAMES = {"images", "masks", "labels", "annotations", "segmentations", "groundtruth"}
_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")  # of BIDS
_BESIDE_SUBJECTS = ("code", "derivatives", "rawdata", "sourcedata", "stimuli")
_MASK_FILE = re.compile(r"(.+?)[ _-]?(?:mask|seg|segmentation|label|gt)(?:[ _-]?[0-9]+)?", re.IGNORECASE)
WRAPPED, NOT_READ = "read below one folder", "table that this reader does not read"


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return one case per image, with its class from its folder.

    Raises:
        LayoutError: there are no class folders, only one, folders of splits beside others, or folders and
            files of another layout.
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
    """Return the folder that contains the class or split folders: ``root``, or below single folders."""
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
    _refuse_other_layout(root, [path for _, path, _ in found])
    _refuse_mask_files(root, found)
    return found, skipped


def part_of_layout(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the folder names that mean images, and those that mean masks, in other layouts.

    The subject folders of BIDS count as masks if there are no other folders.

    >>> part_of_layout(["imagesTr", "labelsTr", "cat"]), part_of_layout(["train_masks", "with_mask"])
    ((['imagesTr'], ['labelsTr']), ([], ['train_masks']))
    """
    given = list(names)
    images = [name for name in given if _has_word(name, _IMAGE_WORDS)]
    masks = [name for name in given if _has_word(name, _MASK_WORDS)]
    others = [name for name in given if name not in _BESIDE_SUBJECTS]
    subjects = bool(others) and all(map(_SUBJECT.fullmatch, others))
    return images, others if subjects else masks


def _has_word(name: str, words: set[str]) -> bool:
    plain = re.sub(r"[\s_-]+", "", name).lower()
    parts = re.split(r"[\s_-]+", name.lower())
    return plain in words or any(part in words & _IN_LONGER_NAMES for part in parts)


def _refuse_other_layout(root: Path, classes: Sequence[Path]) -> None:
    """Refuse classes with the names of another layout's folders, or with such mask folders inside."""
    images, masks = part_of_layout(sorted({path.name for path in classes}))
    if masks and _SUBJECT.fullmatch(masks[0]):
        what = f"{len(masks)} folders have names of subjects of BIDS (sub-...), not of classes"
        fix = "give reader bids, or the folder that holds dataset_description.json"
        raise LayoutError(problem(what, where=f"folder {root.name}", fix=fix))
    if images or masks:
        what = f"these folders are parts of another layout, not classes: {', '.join([*images, *masks])}"
        raise LayoutError(problem(what, where=f"folder {root.name}", fix=_fix_of_parts(images, masks)))
    for path in classes:
        images, masks = part_of_layout(folder.name for folder in folders_in(path))
        if masks:
            subjects = _SUBJECT.fullmatch(masks[0])
            got = "subjects of BIDS (sub-...)" if subjects else ", ".join(masks)
            fix = "give the folder of one layout, or move masks out of the folders of classes"
            what = f"folder {path.name} holds folders of another layout: {got}"
            raise LayoutError(problem(what, where=f"folder {root.name}", fix=fix))


def _fix_of_parts(images: Sequence[str], masks: Sequence[str]) -> str:
    if not images or not masks:
        return "give the reader of that layout, or rename the folders if all are classes"
    listed = "a dataset.json makes this nnunet or msd; " if images[0].lower() == "imagestr" else ""
    names = f"image_folder {images[0]}, mask_folder {masks[0]}"
    return f"{listed}for images and masks of equal names give reader pairs, {names} and mask_labels"


def _refuse_mask_files(root: Path, places: Sequence[tuple[str, Path, list[Path]]]) -> None:
    """Refuse files whose names mark them as masks of images in the same folder."""
    for _, folder, images in places:
        there = {(path.parent, stem(path.name)) for path in images}
        beside = Counter(parent for parent, _ in there)
        named = ((path.parent, _MASK_FILE.fullmatch(stem(path.name))) for path in images)
        count = sum(match is not None and (parent, match[1]) in there for parent, match in named)
        count += sum(name.lower() in _MASK_WORDS and beside[parent] > 1 for parent, name in there)
        if count:
            what = f"{count:,} files are named as masks of images beside them (..._mask)"
            fix = "move the masks to another folder"
            raise LayoutError(problem(what, where=f"folder {relative(folder, root)}", fix=fix))


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
