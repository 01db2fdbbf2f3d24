"""nnU-Net folders: ``DatasetXXX_Name`` with ``dataset.json``, ``imagesTr`` and ``labelsTr``.

Layout: ``imagesTr/<case>_0000.nii.gz``, ``_0001`` and so on are the channels that ``channel_names`` numbers
(``modality`` in version 1), ``labelsTr/<case>.nii.gz`` is the label map whose values ``labels`` names, and
``file_ending`` is the suffix (NIfTI or PNG). A ``dataset`` table of files replaces the two folders.
``imagesTs`` is left out, unless ``labelsTs`` has its label maps and the split is published: then it is the
test split. Region-based labels and voxels to ignore are refused by name. Each case is its own patient.

References:
    Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation,
    Nature Methods 2021; documentation/dataset_format.md of its repository.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meninx.core.errors import LayoutError, expected, problem
from meninx.core.manifest import TaskKind
from meninx.prepare.config import PrepareConfig
from meninx.prepare.readers import dataset_json, mask_labels
from meninx.prepare.readers.channels import positions_of
from meninx.prepare.source_cases import ChannelSource, FileSource, ReaderOutput, Source, SourceCase

ENDINGS = {".nii.gz": 3, ".nii": 3, ".png": 2}
"""Suffixes that are read, with the spatial axes of their images."""
_NUMBERED = re.compile(r"(.+)_(\d{4})", re.DOTALL)


@dataclass
class _Listed:
    """The files of a case, before they are checked.

    Attributes:
        key: identity of the case: its name, after that of its folder for test cases.
        images: channel number to file.
        label: the label map.
        where: place for messages.
        split: published split.
    """

    key: str
    images: dict[int, Path]
    label: Path | None
    where: str
    split: str


def read(root: Path, config: PrepareConfig, site: str = "") -> ReaderOutput:
    """Return one case per label map, with channels and labels named as in ``dataset.json``.

    Raises:
        LayoutError: ``dataset.json`` or a folder is missing or has another structure, or the number of
            training cases differs from it.
        ConfigError: ``mask_labels`` or ``channels`` name something that the dataset does not have.
    """
    table = dataset_json.read(root)
    labels = mask_labels.of_names(config.masks.labels, dataset_json.labels_of(table), where=dataset_json.NAME)
    known = dataset_json.channels_of(table)
    ending = _ending(table)
    skipped: list[tuple[str, str]] = []
    listed = list(_from_table(root, table) if "dataset" in table else _from_folders(root, ending, skipped))
    _refuse_other_number(table, listed)
    if config.split.rule == "published":
        listed += _tests(root, ending, skipped)
    elif (root / "imagesTs").is_dir():
        skipped += [
            ("test image", f"imagesTs, file {n + 1}") for n in range(_count(root / "imagesTs", ending))
        ]
    colour = ENDINGS[ending] == 2 and len(known) == 3 and all(len(case.images) == 1 for case in listed)
    if ENDINGS[ending] == 2 and len(known) > 1 and not colour:
        got = f"{len(known)} channels in files of their own"
        raise LayoutError(expected("pictures of one channel, or of colour", got=got, where=dataset_json.NAME))
    positions = positions_of(config.images.channels, known, where=dataset_json.NAME)
    several = len(known) > 1 and not colour
    cases = []
    for case in listed:
        reason = _unfit(case, 1 if colour else len(known))
        if reason or case.label is None:
            skipped.append((reason or "image without a label map", case.where))
            continue
        image = FileSource(case.images[0]) if colour else _image(case, positions)
        cases.append(
            SourceCase(
                key=case.key, patient=case.key, image=image, mask=FileSource(case.label),
                mask_values=labels.values, where=case.where, split=case.split,
            )
        )  # fmt: skip
    return ReaderOutput(
        cases=tuple(cases),
        labels=labels.names,
        task=TaskKind.SEGMENTATION,
        skipped=tuple(skipped),
        patients_known=False,
        spatial_dims=ENDINGS[ending],
        channels=() if colour else tuple(known[position] for position in positions),
        channel_positions=positions if several else (),
        source_channels=len(known) if several else 0,
    )


def _ending(table: Mapping[str, Any]) -> str:
    ending = table.get("file_ending", ".nii.gz")
    if ending not in ENDINGS:
        where = "dataset.json, key 'file_ending'"
        got = (
            repr(ending) if isinstance(ending, str) and re.fullmatch(r"\.[a-z.]{1,12}", ending) else "another"
        )
        fix = "convert the images to .nii.gz"
        raise LayoutError(expected(f"one of {', '.join(ENDINGS)}", got=got, where=where, fix=fix))
    return str(ending)


def _from_folders(root: Path, ending: str, skipped: list[tuple[str, str]]) -> Iterator[_Listed]:
    """Yield the training cases of ``imagesTr`` and ``labelsTr``; other files are added to ``skipped``."""
    images = _images(root / "imagesTr", ending, skipped)
    labels = _labels(root / "labelsTr", ending)
    for number, (name, files) in enumerate(images.items(), start=1):
        yield _Listed(name, files, labels.get(name), f"imagesTr, case {number} of {len(images)}", "train")
    alone = sum(name not in images for name in labels)
    skipped += [("label map without an image", f"labelsTr, file {n + 1} of {alone}") for n in range(alone)]


def _tests(root: Path, ending: str, skipped: list[tuple[str, str]]) -> list[_Listed]:
    """Return the test cases, with their label maps if they have any."""
    if not (root / "imagesTs").is_dir():
        return []
    images = _images(root / "imagesTs", ending, skipped)
    labels = _labels(root / "labelsTs", ending) if (root / "labelsTs").is_dir() else {}
    return [
        _Listed(f"imagesTs/{name}", files, labels.get(name), f"imagesTs, case {n} of {len(images)}", "test")
        for n, (name, files) in enumerate(images.items(), start=1)
    ]


def _from_table(root: Path, table: Mapping[str, Any]) -> Iterator[_Listed]:
    """Yield the training cases that ``dataset.json`` lists file by file."""
    entries = table["dataset"]
    if not isinstance(entries, dict):
        raise LayoutError(problem("there is no table of cases", where="dataset.json, key 'dataset'"))
    for number, (name, entry) in enumerate(entries.items(), start=1):
        where = f"dataset.json, key 'dataset', case {number} of {len(entries)}"
        if not isinstance(entry, dict) or not isinstance(entry.get("images"), list) or "label" not in entry:
            raise LayoutError(problem("a case is not a list of images with a label", where=where))
        paths = [dataset_json.path_of(root, item, where=where) for item in entry["images"]]
        label = dataset_json.path_of(root, entry["label"], where=where)
        yield _Listed(name, dict(enumerate(paths)), label, where, "train")


def _images(folder: Path, ending: str, skipped: list[tuple[str, str]]) -> dict[str, dict[int, Path]]:
    """Return a map from the name of each case to its channels."""
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    paths = _files(folder, ending)
    for number, path in enumerate(paths, start=1):
        match = _NUMBERED.fullmatch(path.name[: -len(ending)])
        if match is None:
            skipped.append(("file name without a channel number", f"{folder.name}, file {number}"))
            continue
        found[match[1]][int(match[2])] = path
    if paths and not found:
        what = f"images named <case>_0000{ending}"
        raise LayoutError(expected(what, got=f"{len(paths)} of other names", where=f"folder {folder.name}"))
    return dict(found)


def _labels(folder: Path, ending: str) -> dict[str, Path]:
    return {path.name[: -len(ending)]: path for path in _files(folder, ending)}


def _files(folder: Path, ending: str) -> list[Path]:
    if not folder.is_dir():
        where = f"folder {folder.parent.name}"
        raise LayoutError(problem(f"there is no folder {folder.name}", where=where))
    return [
        path
        for path in sorted(folder.iterdir())
        if path.name.endswith(ending) and not path.name.startswith(".")
    ]


def _count(folder: Path, ending: str) -> int:
    return sum(path.name.endswith(f"_0000{ending}") for path in _files(folder, ending))


def _refuse_other_number(table: Mapping[str, Any], listed: list[_Listed]) -> None:
    """Refuse a folder whose number of training cases differs from ``dataset.json``."""
    promised = table.get("numTraining")
    complete = sum(case.label is not None for case in listed)
    if promised is None or promised == complete:
        return
    where, fix = "dataset.json, key 'numTraining'", "copy the missing files, or correct numTraining"
    if isinstance(promised, bool) or not isinstance(promised, int):
        raise LayoutError(problem("the number of training cases is not a whole number", where=where))
    what = f"{promised} training cases with images and label maps"
    raise LayoutError(expected(what, got=complete, where=where, fix=fix))


def _unfit(case: _Listed, channels: int) -> str:
    """Return why the images of a case cannot be used; empty if they can.

    Raises:
        LayoutError: there are more channels than ``dataset.json`` names.
    """
    if max(case.images) >= channels:
        what = f"channels up to {channels - 1:04}, as dataset.json names them"
        raise LayoutError(expected(what, got=f"{max(case.images):04}", where=case.where))
    return "case without all channels" if len(case.images) != channels else ""


def _image(case: _Listed, positions: tuple[int, ...]) -> Source:
    return ChannelSource(tuple(FileSource(case.images[position]) for position in positions), case.where)
