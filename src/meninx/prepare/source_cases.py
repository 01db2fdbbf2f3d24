"""Data types that readers return: one entry per case, whose image is not loaded yet."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from meninx.core import files
from meninx.core.errors import DataError, LayoutError, expected, problem
from meninx.core.manifest import TaskKind
from meninx.imaging import label_objects, load, rle
from meninx.imaging.image import Image, same_grid, stacked


class Source(Protocol):
    """An image that is loaded on demand."""

    def load(self, display: int = 0) -> Image:
        """Return the image, or raise DataError, OSError or ValueError if it cannot be read.

        Args:
            display: 8 or 16 for DICOM pixels as displayed with that many bits; 0 for modality values.
        """

    def digest(self) -> str:
        """Return a digest of the stored bytes, without decoding them."""

    def missing(self) -> bool:
        """Return whether a file is not there."""


@dataclass(frozen=True)
class FileSource:
    """One image file (PNG, JPEG, TIFF, NIfTI, DICOM)."""

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
    """An array in memory, channel first, of shape (channels, spatial...)."""

    array: npt.NDArray[Any]

    def load(self, display: int = 0) -> Image:
        """Return the array as an image with an identity affine."""
        return Image(self.array)

    def digest(self) -> str:
        """Return the digest of values, shape and type."""
        return array_digest(self.array)

    def missing(self) -> bool:
        """Return False, as the array is in memory."""
        return False


@dataclass(frozen=True)
class RunsSource:
    """A mask given as run-length text; several rows of one image are merged."""

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
        """Return False, as the text is in memory."""
        return False


@dataclass(frozen=True)
class ChannelSource:
    """The channels of one volume, one file per channel, all on one grid.

    Attributes:
        channels: the files, in the order of the channels.
        where: place for messages.
    """

    channels: tuple[Source, ...]
    where: str

    def load(self, display: int = 0) -> Image:
        """Return the channels as one image, shape (channels, spatial...).

        Raises:
            LayoutError: a file holds several channels, or the files are on different grids.
            DataError: the image would be larger than ``files.IMAGE_LIMIT``.
        """
        images: list[Image] = []
        for source in self.channels:
            image = source.load(display)
            if image.array.nbytes * len(self.channels) > files.IMAGE_LIMIT:
                raise DataError(
                    problem(f"the image is larger than {files.IMAGE_LIMIT:,} bytes", where=self.where)
                )
            images.append(image)
        try:
            return stacked(images)
        except ValueError as error:
            fix = "resample the channels to one grid, one file per channel"
            raise LayoutError(problem(str(error), where=self.where, fix=fix)) from error

    def digest(self) -> str:
        """Return one digest over the files in their order."""
        return hashlib.sha256("\n".join(source.digest() for source in self.channels).encode()).hexdigest()

    def missing(self) -> bool:
        """Return whether a file is not there."""
        return any(source.missing() for source in self.channels)


@dataclass(frozen=True)
class SelectedChannels:
    """Some channels of an image that holds several.

    Attributes:
        image: the image.
        held: number of channels that the image must have.
        positions: the channels to take, counted from 0, in their new order.
        where: place for messages.
    """

    image: Source
    held: int
    positions: tuple[int, ...]
    where: str

    def load(self, display: int = 0) -> Image:
        """Return the chosen channels, shape (channels, spatial...).

        Raises:
            LayoutError: the image has another number of channels than the layout says.
        """
        image = self.image.load(display)
        if image.channels != self.held:
            what = f"{self.held} channel{'s' * (self.held > 1)}, as the layout names them"
            raise LayoutError(expected(what, got=image.channels, where=self.where))
        return Image(image.array[list(self.positions)], image.affine, image.header)

    def digest(self) -> str:
        """Return a digest of the file and the choice."""
        return hashlib.sha256(f"{self.image.digest()}{self.held}{self.positions}".encode()).hexdigest()

    def missing(self) -> bool:
        """Return whether the file is not there."""
        return self.image.missing()


@dataclass(frozen=True)
class MaskPerLabel:
    """A label map made of one mask file per label: voxels that are not 0 in the n-th file get the value n.

    Attributes:
        masks: the mask of each label, None where the case has none.
        overlap: refuse, or last: where masks overlap, the later one counts.
        where: place for messages.
    """

    masks: tuple[Source | None, ...]
    overlap: str
    where: str

    def load(self, display: int = 0) -> Image:
        """Return the label map, shape (1, spatial...), whole numbers.

        Raises:
            LayoutError: the masks are on different grids, or overlap where that is refused.
        """
        first: Image | None = None
        values: npt.NDArray[np.uint8] | None = None
        for number, source in enumerate(self.masks, start=1):
            if source is None:
                continue
            mask = source.load()
            if first is None or values is None:
                first, values = mask, np.zeros((1, *mask.size), np.uint8)
            elif not same_grid(mask, first):
                raise LayoutError(problem(f"mask {number} is on another grid", where=self.where))
            label_objects.draw(values[0], mask.array[0] > 0, number, overlap=self.overlap, where=self.where)
        if first is None or values is None:
            raise LayoutError(problem("the case has no mask of any label", where=self.where))
        return Image(values, first.affine)

    def digest(self) -> str:
        """Return one digest over the files in the order of the labels."""
        parts = [source.digest() if source else "" for source in self.masks]
        return hashlib.sha256("\n".join([*parts, self.overlap]).encode()).hexdigest()

    def missing(self) -> bool:
        """Return whether a file is not there."""
        return any(source.missing() for source in self.masks if source)


@dataclass(frozen=True)
class ObjectSource:
    """The label map in a DICOM SEG or RTSTRUCT, on the grid of the images that it refers to.

    Attributes:
        path: the object.
        images: the files of the series, or the one image.
        volume: whether the images are the slices of a volume.
        numbers: segment or ROI number to the label's number; other segments are left out.
        overlap: refuse, or last: where labels overlap, the later one counts.
        where: place for messages.
    """

    path: Path
    images: tuple[Path, ...]
    volume: bool
    numbers: Mapping[int, int]
    overlap: str
    where: str

    def load(self, display: int = 0) -> Image:
        """Return the label map, shape (1, spatial...), values 0 to the number of labels.

        Raises:
            LayoutError: the object does not lie on the grid of the images, or labels overlap.
            DataError: the object cannot be read.
        """
        return label_objects.label_map(
            self.path,
            self.images,
            self.numbers,
            volume=self.volume,
            overlap=self.overlap,
            where=self.where,
        )

    def digest(self) -> str:
        """Return a digest of the object and of the chosen labels, without the images."""
        choice = sorted(self.numbers.items())
        return hashlib.sha256(f"{files.digest(self.path)}{choice}{self.overlap}".encode()).hexdigest()

    def missing(self) -> bool:
        """Return whether the object is not there."""
        return not _is_file(self.path)


@dataclass(frozen=True, kw_only=True)
class SourceCase:
    """One case as a reader found it, with the source's own identifiers.

    Attributes:
        key: identity of the case in the source, stable between listings (relative path, UID); becomes a
            pseudonym.
        patient: identity of the patient in the source; all cases of a patient share one split and site.
        image: where the pixels are.
        where: place for messages, e.g. ``labels.csv, row 7``; never a patient's value.
        study: identity of the study, empty when unknown.
        mask: label map, None when there is none.
        mask_values: value in the label map to the label's number (1, 2, ...), or to 0 for background. A value
            without an entry stops the work. If empty, the values are the numbers.
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
    mask_values: Mapping[int, int] = field(default_factory=dict)
    labels: Mapping[str, float | None] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    site: str = ""
    split: str = ""
    pseudonymous: bool = False


@dataclass(frozen=True, kw_only=True)
class ReaderOutput:
    """Everything that a reader found below one source folder.

    Attributes:
        cases: the cases, in any order.
        labels: label names in output order.
        task: task of the layout.
        attributes: attribute names.
        skipped: reason and place of every row that is not a case.
        patients_known: False if the layout names no patients, so that every image counts as a patient.
        spatial_dims: 2 or 3.
        channels: names of the channels of every image; empty for grey or colour images.
        channel_positions: for each of ``channels`` its position in the numbering of the source; empty where
            the source numbers none, or where several sources number them differently.
        source_channels: number of channels that the source numbers; 0 where it numbers none.
        notes: other observations with their place; they exclude nothing.
    """

    cases: tuple[SourceCase, ...]
    labels: tuple[str, ...]
    task: TaskKind
    attributes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    patients_known: bool = True
    spatial_dims: int = 2
    channels: tuple[str, ...] = ()
    channel_positions: tuple[int, ...] = ()
    source_channels: int = 0
    notes: tuple[tuple[str, str], ...] = ()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name from the source may be too long or contain a NUL
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
    keep identifiers out of the tables but do not protect them, since anyone who knows an identifier can
    compute it.
    """

    case_id: str
    patient_id: str
    study: str
    source: SourceCase
