"""The images of an input under their identifiers: those that a search found, or the cases of a dataset."""

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
        """Return one digest of its files; the order of channels counts, that of slices does not."""
        parts = [files.digest(path) for path in self.paths]
        if self.dicom:
            parts.sort()
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


def find_images(source: Path, steps: Preprocessing, refusals: Refusals) -> Inputs:
    """Return the images below a folder, or the one in a file; see :func:`meninx.imaging.image_files.search`.

    A folder with ``manifest.csv`` and ``dataset.toml`` is a prepared dataset.

    Args:
        source: file or folder.
        steps: how the images of the training were stored.
        refusals: receives what cannot be predicted.

    Raises:
        DataError: no such file or folder, or no image below it.
    """
    if (source / MANIFEST_NAME).is_file() and (source / INFO_NAME).is_file():
        return _of_dataset(Manifest.read(source))
    found = image_files.search(source, steps)
    for item in found.unusable:
        refusals.add(item.reason, _identifier(item.files), item.example)
    taken: set[str] = set()
    images = [
        InputImage(
            case_id=_unique(_identifier(image), image.name, taken),
            paths=image.paths,
            dicom=image.dicom,
            clean=image.clean,
            kind=image.kind,
        )
        for image in found.images
    ]
    if not images and not refusals.count:
        got = f"{found.ignored} other files" if found.ignored else "no file"
        fix = f"give DICOM, {', '.join(FILES)}, or a prepared dataset"
        raise DataError(expected("images", got=got, where=str(source), fix=fix))
    return Inputs(
        images=tuple(sorted(images, key=lambda image: image.case_id)),
        ignored=found.ignored,
        not_deidentified=found.not_deidentified,
    )


def _of_dataset(manifest: Manifest) -> Inputs:
    images = tuple(
        InputImage(case_id=case.case_id, paths=(manifest.root / case.image,), kind="prepared")
        for case in manifest.cases
    )
    return Inputs(images=images, dataset=manifest)


def _identifier(image: ImageFiles) -> str:
    """Return a UID, a digest of a DICOM file's name, which may hold a patient's name, or a path as a name.

    The path is that below the input, without separators and suffix.
    """
    if image.dicom:
        return image.uid if _UID.fullmatch(image.uid) else f"dicom-{_short(image.name)}"
    kind = load.suffix(Path(image.name))
    plain = image.name[: -len(kind)] if kind in FILES else image.name
    flat = _UNSAFE.sub("_", names.encodable(plain).replace("/", "__"))
    if flat == plain.replace("/", "__") and flat[:1] not in ".-" and len(flat) <= _LONGEST:
        return flat
    return f"{flat.lstrip('.-')[:_LONGEST]}-{_short(image.name)}"


def _unique(identifier: str, name: str, taken: set[str]) -> str:
    """Return an identifier that no other image has, also where a file system ignores case."""
    found = f"{identifier}-{_short(name)}" if identifier.casefold() in taken else identifier
    taken.add(found.casefold())
    return found


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
