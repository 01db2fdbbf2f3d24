"""The images below a folder to which a model can be applied: files and DICOM instances or series.

`meninx predict` and a released bundle find images with this module. A bundle contains its source
(``train/bundle_source.py``), so it needs only pydicom, nibabel and Pillow.

    >>> import tempfile
    >>> from PIL import Image as Pillow
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Pillow.new("L", (4, 4)).save(Path(folder, "a.png"))
    ...     [image.name for image in find(Path(folder), Preprocessing())]
    ['a.png']
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from meninx.core import names
from meninx.core.errors import DataError, problem
from meninx.imaging import decode, load
from meninx.imaging.preprocessing import NUMBERING, Preprocessing

UNREADABLE, TWICE = "unreadable image", "instance that is there twice"
NO_IMAGE, ONE_SLICE = "no image (report, segmentation, ...)", "single slice for a model of volumes"
LINKED = "linked folder that is not searched (give its target as input)"
MISSING, UNKNOWN = "file of a channel is missing", "file of a channel that the model does not know"
FILES = (*load.PICTURES, *load.VOLUMES)
DEID, DATASET, RUN = "deid.json", ("manifest.csv", "dataset.toml"), "run.json"
"""Files that mark an archive of `meninx deid`, a prepared dataset and a run."""
_LEFT_OUT = (NO_IMAGE, TWICE)
_NOT_IMAGES = ("SEG", "SR", "PR", "KO", "REG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "DOC", "PLAN")
"""Modalities of objects whose pixels, if any, are not those of an image."""
_SERIES = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
_KEYWORDS = (*_SERIES, "SOPInstanceUID", "Modality", "Rows", "NumberOfFrames", "PatientIdentityRemoved")
_FORMATS = "PNG, JPEG, TIFF, NIfTI or DICOM"
_CHANNEL = re.compile(r"(.+)_([0-9]{4})")
_MODALITY = re.compile(r"[A-Z]{2,16}")


@dataclass(frozen=True)
class ImageFiles:
    """The file or files of one image.

    Attributes:
        name: path below the folder, with ``/``: of the file, or of a DICOM series of several files its folder
            (its first file where two series share a folder). Channels in several files have one name.
        paths: the file, the sorted files of one series, or one file per channel in the order of the channels.
        kind: ``DICOM`` and its modality, or the suffix of the file without its dot.
        uid: of the DICOM instance (2-D) or series (3-D), as in the header; empty for other files.
        clean: whether it is marked as de-identified; True for files that are not DICOM.
    """

    name: str
    paths: tuple[Path, ...]
    kind: str = ""
    uid: str = ""
    clean: bool = True

    @property
    def dicom(self) -> bool:
        """Whether the image is DICOM."""
        return self.kind.startswith("DICOM ")


@dataclass(frozen=True)
class LeftOut:
    """Files that are not images, or images to which the model cannot be applied.

    Attributes:
        files: the files.
        reason: why, in words that contain no value of the image.
        example: numbers that explain the reason; may be empty.
    """

    files: ImageFiles
    reason: str
    example: str = ""

    @property
    def words(self) -> str:
        """Reason and example."""
        return f"{self.reason} ({self.example})" if self.example else self.reason


@dataclass(frozen=True, kw_only=True)
class FoundImages:
    """The files found below a folder.

    Attributes:
        root: folder to which names are relative.
        images: the images, sorted by name.
        unusable: files to which the model cannot be applied.
        ignored: number of files of other kinds.
        not_deidentified: number of DICOM files that are not marked as de-identified.
    """

    root: Path
    images: tuple[ImageFiles, ...]
    unusable: tuple[LeftOut, ...]
    ignored: int
    not_deidentified: int


def find(source: Path, steps: Preprocessing, refused: list[LeftOut] | None = None) -> list[ImageFiles]:
    """Return the images in a file or below a folder, sorted by name.

    Segmentations, reports and duplicates of an instance are left out; see :func:`search`.

    Args:
        source: a file or a folder.
        steps: how the images of the training were stored.
        refused: receives the files that cannot be used; without this list the first such file is an error.

    Raises:
        DataError: the source does not exist, has no image, or a file cannot be used; the message names it.
    """
    found = search(source, steps)
    unusable = [item for item in found.unusable if item.reason not in _LEFT_OUT]
    if refused is not None:
        refused += unusable
    elif unusable:
        raise DataError(problem(unusable[0].words, where=names.printable(unusable[0].files.name)))
    if not found.images and not refused:
        raise DataError(problem("there are no images", where="input", fix=f"give {_FORMATS}"))
    return list(found.images)


def search(source: Path, steps: Preprocessing) -> FoundImages:
    """Return the images in a file or below a folder, and the files that cannot be used.

    In 2-D every PNG, JPEG, TIFF or NIfTI file and every DICOM instance is an image. In 3-D every file and
    every DICOM series is one. Hidden files are passed over, and the private rooms of archives, datasets and
    runs. Of an archive of `meninx deid`, ``images`` alone is searched. Links to folders are named and not
    followed.

    Where each channel is an image of its own (``steps.each_channel``), files that end in ``_0000``,
    ``_0001``, ... are the channels of one image, numbered as in the source of the training
    (``steps.channel_positions``), else in the order of the model's channels.

    Args:
        source: a file or a folder.
        steps: how the images of the training were stored.

    Raises:
        DataError: the source does not exist, or contains a prepared dataset, whose images are already
            converted.
    """
    if not source.exists():
        raise DataError(problem("there is no such file or folder", where="input", fix="check the path"))
    archive = source / DEID
    root = source / "images" if archive.is_file() and (source / "images").is_dir() else source
    root = root if root.is_dir() else root.parent
    entries = [source] if source.is_file() else list(_visible(root))
    paths = [path for path in entries if not path.is_dir()]
    plain = [path for path in paths if load.suffix(path) in FILES]
    instances = [path for path in paths if load.suffix(path) not in FILES and decode.is_dicom(path)]
    found = _Collected(root, steps)
    for name, members in _grouped(plain, root, steps).items():
        found.add_file(name, members)
    headers: dict[Path, Mapping[str, str]] = {}
    for number, path in enumerate(instances, start=1):
        header = _header(path)
        if header is None:
            files = ImageFiles(found.name(path), (path,), kind="DICOM other")
            found.unusable.append(LeftOut(files, UNREADABLE, f"DICOM file {number} of {len(instances)}"))
        else:
            headers[path] = header
    found.add_dicom(headers)
    linked = [ImageFiles(found.name(path), (path,), kind="link") for path in entries if path.is_dir()]
    found.unusable += [LeftOut(files, LINKED) for files in linked]
    return FoundImages(
        root=root,
        images=tuple(sorted(found.images, key=lambda image: image.name)),
        unusable=tuple(found.unusable),
        ignored=len(paths) - len(plain) - len(instances),
        not_deidentified=sum(not _is_clean(header) for header in headers.values()),
    )


def _visible(root: Path) -> Iterator[Path]:
    """Yield the files and linked folders that are neither hidden nor in a private room, sorted.

    Raises:
        DataError: a prepared dataset lies below the folder.
    """
    verdicts: dict[PurePosixPath, bool] = {PurePosixPath("."): True}

    def open_to_search(folder: PurePosixPath) -> bool:
        """Return whether a folder below the root may be searched."""
        if folder not in verdicts:
            parent = folder.parent
            verdicts[folder] = open_to_search(parent) and _may_enter(root / parent, folder.name)
        return verdicts[folder]

    for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).as_posix()):
        relative = PurePosixPath(path.relative_to(root).as_posix())
        linked = path.is_symlink() and path.is_dir()
        if not (linked or path.is_file()) or path.name.startswith("."):
            continue
        if not open_to_search(relative if linked else relative.parent):
            continue
        if path.name == DATASET[0] and (path.parent / DATASET[1]).is_file():
            what = "a prepared dataset lies below the input: its images were converted already"
            fix = "give the original images; `meninx predict` also takes the dataset's folder itself"
            raise DataError(problem(what, where="input", fix=fix))
        yield path


def _may_enter(parent: Path, name: str) -> bool:
    """Return whether a folder may be searched: not the private folder of an archive, dataset or run."""
    if name.startswith("."):
        return False
    archive = (parent / DEID).is_file()
    if archive and name != "images" and (parent / "images").is_dir():
        return False
    marks = (*DATASET, RUN)
    return name != "private" or not (archive or any((parent / mark).is_file() for mark in marks))


def _grouped(
    paths: Sequence[Path], root: Path, steps: Preprocessing
) -> dict[tuple[str, bool], dict[int, Path]]:
    """Return (name, whether its files are numbered) -> channel number -> file, per image."""
    numbers = steps.each_channel and max(steps.channels, steps.source_channels) > 1
    groups: dict[tuple[str, bool], dict[int, Path]] = defaultdict(dict)
    for path in paths:
        name = path.relative_to(root).as_posix()
        end = name[len(name) - len(load.suffix(path)) :]
        match = _CHANNEL.fullmatch(name[: -len(end)]) if numbers else None
        if match:
            groups[match[1] + end, True][int(match[2])] = path
        else:
            groups[name, False][0] = path
    return groups


def _header(path: Path) -> Mapping[str, str] | None:
    """Return the attributes that identify images; None if the file cannot be read."""
    try:
        header = decode.open_dataset(path, pixels=False, keywords=_KEYWORDS)
        with decode.guarded():
            return {name: str(header.get(name) or "").strip() for name in _KEYWORDS}
    except (DataError, OSError, ValueError):
        return None


def _is_clean(header: Mapping[str, str]) -> bool:
    return decode.is_marked_clean(header["PatientIdentityRemoved"])


@dataclass
class _Collected:
    """Images and unusable files while they are being collected."""

    root: Path
    steps: Preprocessing
    images: list[ImageFiles] = field(default_factory=list)
    unusable: list[LeftOut] = field(default_factory=list)

    def name(self, path: Path) -> str:
        """Return the path below the root, with ``/``."""
        return path.relative_to(self.root).as_posix()

    def add_file(self, name: tuple[str, bool], members: Mapping[int, Path]) -> None:
        """Add an image other than DICOM, in one file or in one file per channel."""
        kind = load.suffix(Path(name[0]))[1:]
        wanted = self.steps.channel_positions or tuple(range(self.steps.channels))
        reason, example = self._channel_problem(members, wanted) if name[1] else ("", "")
        if reason:
            paths = tuple(path for _, path in sorted(members.items()))
            self.unusable.append(LeftOut(ImageFiles(name[0], paths, kind=kind), reason, example))
            return
        chosen = wanted if name[1] else (0,)
        self.images.append(ImageFiles(name[0], tuple(members[number] for number in chosen), kind=kind))

    def _channel_problem(self, members: Mapping[int, Path], wanted: Sequence[int]) -> tuple[str, str]:
        """Return why numbered files are not the channels of one image, and the numbers; else ('', '')."""
        held = self.steps.source_channels
        if held and not self.steps.channel_positions:
            return NUMBERING, ""
        unknown = [number for number in sorted(members) if number >= (held or self.steps.channels)]
        missing = [number for number in wanted if number not in members]
        if unknown:
            return UNKNOWN, _numbers(unknown)
        return (MISSING, _numbers(missing)) if missing else ("", "")

    def add_dicom(self, headers: Mapping[Path, Mapping[str, str]]) -> None:
        """Add each DICOM instance (2-D) or series (3-D) once."""
        seen: set[tuple[str, str]] = set()
        series: dict[tuple[str, ...], list[Path]] = defaultdict(list)
        for path, header in headers.items():
            instance = (header["PatientID"], header["SOPInstanceUID"])
            if header["Modality"] in _NOT_IMAGES or not header["Rows"]:
                cut = not header["Modality"] and not header["Rows"] and path.name.upper() != "DICOMDIR"
                self._refuse_dicom(path, header, UNREADABLE if cut else NO_IMAGE)
            elif instance[1] and instance in seen:
                self._refuse_dicom(path, header, TWICE)
            else:
                seen.add(instance)
                volumes = self.steps.spatial_dims == 3
                series[tuple(header[part] for part in _SERIES) if volumes else (str(path),)].append(path)
        groups = list(series.values())
        folders = [PurePosixPath(self.name(group[0])).parent.as_posix() for group in groups]
        for group, folder in zip(groups, folders, strict=True):
            alone = len(group) > 1 and folder != "." and folders.count(folder) == 1
            self._add_group(folder if alone else self.name(group[0]), group, headers)

    def _add_group(self, name: str, paths: Sequence[Path], headers: Mapping[Path, Mapping[str, str]]) -> None:
        """Add the instance or the series in some files."""
        first, volumes = headers[paths[0]], self.steps.spatial_dims == 3
        modality = first["Modality"]
        found = ImageFiles(
            name,
            tuple(sorted(paths)),
            kind=f"DICOM {modality if _MODALITY.fullmatch(modality) else 'other'}",
            uid=first["SeriesInstanceUID" if volumes else "SOPInstanceUID"],
            clean=all(_is_clean(headers[path]) for path in paths),
        )
        if volumes and len(paths) == 1 and first["NumberOfFrames"] in ("", "1"):
            self.unusable.append(LeftOut(found, ONE_SLICE))
        else:
            self.images.append(found)

    def _refuse_dicom(self, path: Path, header: Mapping[str, str], reason: str) -> None:
        files = ImageFiles(self.name(path), (path,), kind="DICOM other", uid=header["SOPInstanceUID"])
        self.unusable.append(LeftOut(files, reason))


def _numbers(values: Sequence[int]) -> str:
    """Return channel numbers in the form used in file names."""
    return ", ".join(f"_{value:04}" for value in values)
