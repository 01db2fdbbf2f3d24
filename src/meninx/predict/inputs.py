"""The images below an input: DICOM instances or series, image files, or the cases of a prepared dataset."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from meninx.core import artifacts, files, names
from meninx.core.artifacts import DeidRecord, RunRecord
from meninx.core.errors import DataError, expected, problem
from meninx.core.manifest import INFO_NAME, MANIFEST_NAME, Manifest
from meninx.imaging import decode, load
from meninx.predict.noticed import Refusals

FILES = (*load.PICTURES, *load.VOLUMES)
KEYWORDS = (
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "Modality",
    "Rows",
    "NumberOfFrames",
    "PatientIdentityRemoved",
)
UNREADABLE, TWICE = "unreadable image", "instance that is there twice"
NO_IMAGE, ONE_SLICE = "no image (report, segmentation, ...)", "single slice for a model of volumes"
_NOT_IMAGES = ("SEG", "SR", "PR", "KO", "REG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "DOC", "PLAN")
_UID = re.compile(r"[0-9.]{1,64}")
_CHANNEL = re.compile(r"(.+)_[0-9]{4}")
_MODALITY = re.compile(r"[A-Z]{2,16}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_PRIVATE = "private"
_MARKS = (artifacts.place(DeidRecord), MANIFEST_NAME, artifacts.place(RunRecord))  # beside a private room
_LONGEST = 100  # characters of an identifier made of a path


@dataclass(frozen=True, kw_only=True)
class InputImage:
    """One image to predict.

    Attributes:
        case_id: UID of the DICOM instance or series, or the file's path below the input; safe as a file name.
        paths: its file, or those of its series.
        dicom: it is DICOM.
        clean: it is marked as de-identified; True for what is no DICOM.
        kind: modality of DICOM, or suffix of the file.
    """

    case_id: str
    paths: tuple[Path, ...]
    dicom: bool = False
    clean: bool = True
    kind: str = ""

    def digest(self) -> str:
        """Return one digest of its files, independent of their order."""
        parts = sorted(files.digest(path) for path in self.paths)
        return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What lies below an input.

    Attributes:
        images: the images, sorted by identifier.
        dataset: the prepared dataset whose images they are, stored already; None for other inputs.
        ignored: files that are no images.
        not_deidentified: DICOM files that are not marked as de-identified.
    """

    images: tuple[InputImage, ...]
    dataset: Manifest | None = None
    ignored: int = 0
    not_deidentified: int = 0

    @property
    def kinds(self) -> dict[str, int]:
        """Number of images of each modality of DICOM and each kind of file."""
        return dict(sorted(Counter(image.kind for image in self.images).items()))


def find_images(source: Path, spatial_dims: int, refusals: Refusals, *, channels: int = 1) -> Inputs:
    """Return the images below a folder, or the one in a file.

    A folder with ``manifest.csv`` and ``dataset.toml`` is a prepared dataset. Hidden files and the private
    rooms of archives and datasets are passed over.

    Args:
        source: file or folder.
        spatial_dims: of the model. 2: each DICOM instance is an image; 3: each series.
        refusals: receives what cannot be predicted.
        channels: of the model. With several, files that end in ``_0000``, ``_0001``, ... are the channels of
            one image, as in nnU-Net.

    Raises:
        DataError: no such file or folder, or no image below it.
    """
    if (source / MANIFEST_NAME).is_file() and (source / INFO_NAME).is_file():
        return _of_dataset(Manifest.read(source))
    if not source.exists():
        raise DataError(problem("there is no such file or folder", where=str(source), fix="check the path"))
    root = source if source.is_dir() else source.parent
    pictures: list[Path] = []
    headers: dict[Path, dict[str, str]] = {}
    ignored = 0
    every = list(_files(source))
    for number, path in enumerate(every, start=1):
        if load.suffix(path) in FILES:
            pictures.append(path)
        elif decode.is_dicom(path):
            header = _header(path)
            if header is None:
                refusals.add(UNREADABLE, f"file {number} of {len(every)}")
            else:
                headers[path] = header
        else:
            ignored += 1
    taken: set[str] = set()
    found = list(_dicom(headers, root, spatial_dims, taken, refusals))
    for name, paths in _of_channels(pictures, channels):
        case_id = _unique(_path_id(name, root), name, root, taken)
        found.append(InputImage(case_id=case_id, paths=paths, kind=load.suffix(name)[1:]))
    if not found and not refusals.count:
        got = f"{ignored} other files" if ignored else "no file"
        fix = f"give DICOM, {', '.join(FILES)}, or a prepared dataset"
        raise DataError(expected("images", got=got, where=str(source), fix=fix))
    dirty = sum(header["PatientIdentityRemoved"] != "YES" for header in headers.values())
    images = tuple(sorted(found, key=lambda image: image.case_id))
    return Inputs(images=images, ignored=ignored, not_deidentified=dirty)


def _of_dataset(manifest: Manifest) -> Inputs:
    images = tuple(
        InputImage(case_id=case.case_id, paths=(manifest.root / case.image,), kind="prepared")
        for case in manifest.cases
    )
    return Inputs(images=images, dataset=manifest)


def _files(source: Path) -> Iterator[Path]:
    """Yield the files of an input, sorted; none of a private room, where originals may lie."""
    if source.is_file():
        yield source
        return
    for path in decode.find_files(source):
        parts = path.relative_to(source).parts
        if any(part.startswith(".") for part in parts) or _in_private_room(source, parts):
            continue
        yield path


def _in_private_room(source: Path, parts: tuple[str, ...]) -> bool:
    """Return whether a path leads through ``private/`` of an archive, a dataset or a run."""
    folder = source
    for part in parts[:-1]:
        if part == _PRIVATE and any((folder / name).is_file() for name in _MARKS):
            return True
        folder = folder / part
    return False


def _of_channels(paths: list[Path], channels: int) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """Yield the name and the files of each image that is no DICOM."""
    groups: dict[Path, list[Path]] = {}
    for path in paths:
        kind = load.suffix(path)
        numbered = _CHANNEL.fullmatch(path.name[: -len(kind)]) if channels > 1 else None
        name = path.with_name(numbered[1] + path.name[-len(kind) :]) if numbered else path
        groups.setdefault(name, []).append(path)
    for name, members in groups.items():
        yield name, tuple(sorted(members))


def _header(path: Path) -> dict[str, str] | None:
    try:
        header = decode.open_dataset(path, pixels=False, keywords=KEYWORDS)
        with decode.quiet():
            return {name: str(header.get(name) or "").strip() for name in KEYWORDS}
    except (DataError, ValueError):
        return None


def _dicom(
    headers: dict[Path, dict[str, str]], root: Path, spatial_dims: int, taken: set[str], refusals: Refusals
) -> Iterator[InputImage]:
    """Yield each instance or series once."""
    seen: set[tuple[str, str]] = set()
    series: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for path, header in headers.items():
        uid = header["SOPInstanceUID"]
        name = _dicom_id(uid, path, root)
        if header["Modality"] in _NOT_IMAGES or not header["Rows"]:
            refusals.add(NO_IMAGE, name)
        elif uid and (header["PatientID"], uid) in seen:
            refusals.add(TWICE, name)
        else:
            seen.add((header["PatientID"], uid))
            key = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
            group = tuple(header[part] for part in key) if spatial_dims == 3 else (name, str(path))
            series[group].append(path)
    keyword = "SeriesInstanceUID" if spatial_dims == 3 else "SOPInstanceUID"
    for paths in series.values():
        first = headers[paths[0]]
        frames = first["NumberOfFrames"]
        name = _dicom_id(first[keyword], paths[0], root)
        if spatial_dims == 3 and len(paths) == 1 and frames in ("", "1"):
            refusals.add(ONE_SLICE, name)
            continue
        clean = all(headers[path]["PatientIdentityRemoved"] == "YES" for path in paths)
        yield InputImage(
            case_id=_unique(name, paths[0], root, taken),
            paths=tuple(sorted(paths)),
            dicom=True,
            clean=clean,
            kind=f"DICOM {first['Modality'] if _MODALITY.fullmatch(first['Modality']) else 'other'}",
        )


def _dicom_id(uid: str, path: Path, root: Path) -> str:
    """Return a UID, or a digest of the path: names of files may hold a patient's name."""
    return uid if _UID.fullmatch(uid) else f"dicom-{_short(path.relative_to(root).as_posix())}"


def _path_id(path: Path, root: Path) -> str:
    """Return a file's path below the input as one name without separators; its suffix is left out."""
    relative = path.relative_to(root).as_posix()
    kind = load.suffix(path)
    plain = relative[: -len(kind)] if kind in FILES else relative
    flat = _UNSAFE.sub("_", names.encodable(plain).replace("/", "__"))
    if flat == plain.replace("/", "__") and flat[:1] not in ".-" and len(flat) <= _LONGEST:
        return flat
    return f"{flat.lstrip('.-')[:_LONGEST]}-{_short(relative)}"


def _unique(name: str, path: Path, root: Path, taken: set[str]) -> str:
    """Return an identifier that no other image has, also where a file system ignores case."""
    found = name
    if name.casefold() in taken:
        found = f"{name}-{_short(path.relative_to(root).as_posix())}"
    taken.add(found.casefold())
    return found


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
