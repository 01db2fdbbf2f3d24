"""The images of an input with their identifiers: files found by a search, or the cases of a dataset."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from meninx.core import files, names
from meninx.core.errors import DataError, expected
from meninx.core.manifest import INFO_NAME, MANIFEST_NAME, Manifest
from meninx.imaging import image_files, load
from meninx.imaging.image_files import FILES, ImageFiles
from meninx.imaging.preprocessing import Preprocessing
from meninx.predict.noticed import Refusals

_UID = re.compile(r"[0-9.]{1,64}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST = 100  # characters of an identifier made of a path


@dataclass(frozen=True, kw_only=True)
class InputImage:
    """One image to predict.

    Attributes:
        case_id: UID of the DICOM instance or series, or the file's path below the input; safe as a file name.
        paths: its file, those of its series, or one file per channel in the order of the channels.
        dicom: whether it is DICOM.
        clean: whether it is marked as de-identified; True for other files than DICOM.
        kind: modality of DICOM, or suffix of the file.
        file: its path below the input, by which a user finds it again; for DICOM ``case_id``, because names
            of DICOM files may contain a patient's name.
    """

    case_id: str
    paths: tuple[Path, ...]
    dicom: bool = False
    clean: bool = True
    kind: str = ""
    file: str = ""

    def digest(self) -> str:
        """Return one digest of its files, which depends on the order of channels but not of slices."""
        parts = [files.digest(path) for path in self.paths]
        if self.dicom:
            parts.sort()
        return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The images found below an input.

    Attributes:
        images: the images, sorted by identifier.
        dataset: the prepared dataset that the images belong to; None for other inputs.
        ignored: number of files that are not images.
        not_deidentified: number of DICOM files that are not marked as de-identified.
    """

    images: tuple[InputImage, ...]
    dataset: Manifest | None = None
    ignored: int = 0
    not_deidentified: int = 0

    @property
    def kinds(self) -> dict[str, int]:
        """Number of images by DICOM modality or kind of file."""
        return dict(sorted(Counter(image.kind for image in self.images).items()))


def find_images(source: Path, steps: Preprocessing, refusals: Refusals) -> Inputs:
    """Return the images of a folder or a single file; see :func:`meninx.imaging.image_files.search`.

    A folder with ``manifest.csv`` and ``dataset.toml`` is a prepared dataset.

    Args:
        source: file or folder.
        steps: how the images of the training were stored.
        refusals: receives the images that cannot be predicted.

    Raises:
        DataError: the file or folder does not exist or contains no image.
    """
    if (source / MANIFEST_NAME).is_file() and (source / INFO_NAME).is_file():
        return _of_dataset(Manifest.read(source))
    found = image_files.search(source, steps)
    for item in found.unusable:
        refusals.add(item.reason, _identifier(item.files), item.example)
    taken: set[str] = set()
    images = [_named(image, taken) for image in found.images]
    if not images and not refusals.count:
        got = f"{found.ignored} other files" if found.ignored else "no file"
        fix = f"give DICOM, {', '.join(FILES)}, or a prepared dataset"
        raise DataError(expected("images", got=got, where=str(source), fix=fix))
    return Inputs(
        images=tuple(sorted(images, key=lambda image: image.case_id)),
        ignored=found.ignored,
        not_deidentified=found.not_deidentified,
    )


def _named(image: ImageFiles, taken: set[str]) -> InputImage:
    """Return an image with an identifier that no other image has."""
    case_id = _unique(_identifier(image), image.name, taken)
    return InputImage(
        case_id=case_id,
        paths=image.paths,
        dicom=image.dicom,
        clean=image.clean,
        kind=image.kind,
        file=case_id if image.dicom else names.encodable(image.name),
    )


def _of_dataset(manifest: Manifest) -> Inputs:
    images = tuple(
        InputImage(
            case_id=case.case_id, paths=(manifest.root / case.image,), kind="prepared", file=case.image
        )
        for case in manifest.cases
    )
    return Inputs(images=images, dataset=manifest)


def _identifier(image: ImageFiles) -> str:
    """Return the UID of DICOM, or a digest of the file name if it has no valid one, or a path as a name.

    File names of DICOM are hashed, because they may contain a patient's name. The path is relative to the
    input, without separators and suffix.
    """
    if image.dicom:
        return image.uid if _UID.fullmatch(image.uid) else f"dicom-{_short(image.name)}"
    kind = load.suffix(Path(image.name))
    plain = image.name[: -len(kind)] if kind in FILES else image.name
    # The identifier becomes a file name: no separators, no leading dot or dash, and a digest where the
    # replacement or the cut could make two names equal.
    flat = _UNSAFE.sub("_", names.encodable(plain).replace("/", "__"))
    if flat == plain.replace("/", "__") and flat[:1] not in ".-" and len(flat) <= _LONGEST:
        return flat
    return f"{flat.lstrip('.-')[:_LONGEST]}-{_short(image.name)}"


def _unique(identifier: str, name: str, taken: set[str]) -> str:
    """Return an identifier that no other image has, even on a file system that ignores case."""
    found = f"{identifier}-{_short(name)}" if identifier.casefold() in taken else identifier
    taken.add(found.casefold())
    return found


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
