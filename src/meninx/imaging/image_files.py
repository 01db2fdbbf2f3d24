"""Images below a folder that a network can be applied to: single files in 2-D, files or DICOM series in 3-D.

A released bundle ships this source (see ``train/bundle.py``), so it needs no more than pydicom.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from meninx.core.errors import DataError, problem
from meninx.imaging import decode, load

_KEYWORDS = ("Rows", "Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID")
_NO_IMAGES = ("SEG",)
"""Modalities of objects whose pixels are not those of an image."""
_ARCHIVE = ("deid.json", "images")
"""File that marks the output of `meninx deid`, and the folder in it that holds its images."""
_FORMATS = "PNG, JPEG, TIFF, NIfTI or DICOM"
_CHANNEL = re.compile(r"(.+)_[0-9]{4}")


@dataclass(frozen=True)
class ImageFiles:
    """The file or files of one image.

    Attributes:
        name: path below the folder, with ``/``: of the file, or of a DICOM series of several files its folder
            (its first file where two series share a folder).
        paths: the file, the files of one series, or one file per channel, sorted.
    """

    name: str
    paths: tuple[Path, ...]


def find(source: Path, spatial_dims: int, *, channels: int = 1) -> list[ImageFiles]:
    """Return the images in a file or below a folder, sorted by name.

    In 2-D every PNG, JPEG, TIFF, NIfTI or DICOM file is an image. In 3-D every NIfTI file and every DICOM
    series is one. Files of other kinds, hidden files, DICOM objects without pixels and segmentations are
    left out. Of a folder that `meninx deid` wrote, ``images`` is searched.

    Args:
        source: a file or a folder.
        spatial_dims: 2 or 3.
        channels: of the network. With several, files that end in ``_0000``, ``_0001``, ... are the channels
            of one image, as in nnU-Net; it is named without these digits.

    Raises:
        DataError: nothing is there, no image is found, or a DICOM header cannot be read.
    """
    if not source.exists():
        raise DataError(problem("there is no such file or folder", where="input", fix="check the path"))
    root, paths = _candidates(source)
    names = {path: path.relative_to(root).as_posix() for path in paths}
    kinds = load.VOLUMES if spatial_dims == 3 else (*load.PICTURES, *load.VOLUMES)
    found = _of_channels([path for path in paths if load.suffix(path) in kinds], names, channels)
    others = [path for path in paths if load.suffix(path) not in (*load.PICTURES, *load.VOLUMES)]
    series = _series(path for path in others if decode.is_dicom(path))
    if spatial_dims == 3:
        found += _named([[names[path] for path in group] for group in series], root)
    else:
        found += [ImageFiles(names[path], (path,)) for group in series for path in group]
    if not found:
        raise DataError(problem("there are no images", where="input", fix=f"give {_FORMATS}"))
    return sorted(found, key=lambda item: item.name)


def _candidates(source: Path) -> tuple[Path, list[Path]]:
    """Return the folder that names are relative to, and the files in question."""
    if source.is_file():
        return source.parent, [source]
    mark, images = (source / name for name in _ARCHIVE)
    root = images if mark.is_file() and images.is_dir() else source
    paths = decode.find_files(root)
    return root, [
        path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]


def _of_channels(paths: list[Path], names: dict[Path, str], channels: int) -> list[ImageFiles]:
    """Return files, of a network with several channels in groups of one image each."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        end = load.suffix(path)
        numbered = _CHANNEL.fullmatch(names[path][: -len(end)]) if channels > 1 else None
        groups[f"{numbered[1]}{names[path][-len(end) :]}" if numbered else names[path]].append(path)
    return [ImageFiles(name, tuple(sorted(group))) for name, group in groups.items()]


def _series(paths: Iterable[Path]) -> list[list[Path]]:
    """Return DICOM files with pixels, in groups of one series each."""
    groups: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for path in paths:
        header = decode.open_dataset(path, pixels=False, keywords=_KEYWORDS)
        with decode.guarded():
            values = {name: str(header.get(name) or "").strip() for name in _KEYWORDS}
        if values["Rows"] and values["Modality"] not in _NO_IMAGES:
            groups[tuple(values[name] for name in _KEYWORDS[2:])].append(path)
    return list(groups.values())


def _named(groups: list[list[str]], root: Path) -> list[ImageFiles]:
    """Return series under the names of their folders, or of their first files where folders are shared."""
    folders = [PurePosixPath(group[0]).parent.as_posix() for group in groups]
    found = []
    for group, folder in zip(groups, folders, strict=True):
        alone = len(group) > 1 and folder != "." and folders.count(folder) == 1
        found.append(ImageFiles(folder if alone else group[0], tuple(root / name for name in group)))
    return found
