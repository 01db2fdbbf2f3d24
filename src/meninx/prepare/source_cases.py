"""What a reader returns: one entry per case, whose image is still on the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from meninx.core import files
from meninx.core.manifest import TaskKind
from meninx.imaging import load, rle
from meninx.imaging.image import Image


class Source(Protocol):
    """Pixels that can be read when they are wanted."""

    def load(self, display: int = 0) -> Image:
        """Return the image; DataError, OSError or ValueError when it cannot be read.

        Args:
            display: 8 or 16 for DICOM pixels as a screen shows them in so many bits; 0 for modality values.
        """

    def digest(self) -> str:
        """Return a digest of the stored bytes, without decoding them."""

    def missing(self) -> bool:
        """Return whether a file is not there."""


@dataclass(frozen=True)
class FileSource:
    """One image file (PNG, JPEG, NIfTI, DICOM)."""

    path: Path

    def load(self, display: int = 0) -> Image:
        """Return the image in the file."""
        return load.load(self.path, display_bits=display)

    def digest(self) -> str:
        """Return the digest of the file."""
        return files.digest(self.path)

    def missing(self) -> bool:
        """Return whether the file is not there."""
        return not _is_file(self.path)


@dataclass(frozen=True)
class SeriesSource:
    """The slices of one DICOM series, in any order."""

    paths: tuple[Path, ...]

    def load(self, display: int = 0) -> Image:
        """Return the volume."""
        return load.load_series(self.paths, display_bits=display)

    def digest(self) -> str:
        """Return one digest over the slices, independent of their order."""
        return hashlib.sha256("".join(sorted(files.digest(path) for path in self.paths)).encode()).hexdigest()

    def missing(self) -> bool:
        """Return whether a slice is not there."""
        return not all(map(_is_file, self.paths))


@dataclass(frozen=True)
class ArraySource:
    """An array in memory: channel-first, shape (channels, spatial...)."""

    array: npt.NDArray[Any]

    def load(self, display: int = 0) -> Image:
        """Return the array as an image with an identity affine."""
        return Image(self.array)

    def digest(self) -> str:
        """Return the digest of values, shape and type."""
        return array_digest(self.array)

    def missing(self) -> bool:
        """Return False: the array is here."""
        return False


@dataclass(frozen=True)
class RunsSource:
    """A mask as run-length text; several rows of one image are merged."""

    runs: tuple[str, ...]
    shape: tuple[int, int]
    where: str = "mask"

    def load(self, display: int = 0) -> Image:
        """Return the mask, shape (1, rows, columns), values 0 and 1."""
        return Image(rle.decode_rows(self.runs, self.shape, where=self.where).astype(np.uint8)[None])

    def digest(self) -> str:
        """Return the digest of the text."""
        return hashlib.sha256("\n".join((*sorted(self.runs), str(self.shape))).encode()).hexdigest()

    def missing(self) -> bool:
        """Return False: the text is here."""
        return False


@dataclass(frozen=True, kw_only=True)
class SourceCase:
    """One case as a reader found it, with the source's own identifiers.

    Attributes:
        key: identity of the case in the source, stable between listings (relative path, UID); becomes a
            pseudonym.
        patient: identity of the patient in the source; the unit that never crosses splits and sites.
        image: where the pixels are.
        where: place for messages, e.g. ``labels.csv, row 7``; never a patient's value.
        study: identity of the study, empty when unknown.
        mask: label map, None when there is none.
        labels: label name to 0, 1 or None (unknown); in a multi-class task only the classes that are 1.
        attributes: attribute name to text.
        site: site named by the source.
        split: split named by the source: train, valid, test or empty.
        pseudonymous: the identifiers are already pseudonyms of `meninx deid`, so the patient's is kept.
    """

    key: str
    patient: str
    image: Source
    where: str
    study: str = ""
    mask: Source | None = None
    labels: Mapping[str, float | None] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    site: str = ""
    split: str = ""
    pseudonymous: bool = False


@dataclass(frozen=True, kw_only=True)
class ReaderOutput:
    """Everything a reader found below one source folder.

    Attributes:
        cases: the cases, in any order.
        labels: label names in output order.
        task: what the layout asks.
        attributes: attribute names.
        skipped: reason and place of every row that is no case.
        notes: what else should be said about the source: reason and place; never a patient's value.
        patients_known: False when the layout names no patients, so that every image counts as its own.
        spatial_dims: 2 or 3.
    """

    cases: tuple[SourceCase, ...]
    labels: tuple[str, ...]
    task: TaskKind
    attributes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    patients_known: bool = True
    spatial_dims: int = 2


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False


def array_digest(array: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of an array's values, shape and type."""
    total = hashlib.sha256(f"{array.shape}{array.dtype.str}".encode())
    total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


@dataclass(frozen=True, kw_only=True)
class DatasetCase:
    """A case with its pseudonyms.

    The pseudonyms of sources that `meninx deid` did not write are hashes of dataset name and identifier: they
    keep identifiers out of sight but protect nobody, since whoever knows an identifier can compute them.
    """

    case_id: str
    patient_id: str
    study: str
    source: SourceCase
