"""DICOM images to :class:`Image`: single instances, multi-frame objects, and series as volumes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from meninx.core import check, files
from meninx.core.errors import DataError, expected, problem
from meninx.core.progress import SILENT, Progress, task
from meninx.imaging import decode, lut, slice_geometry
from meninx.imaging.image import Image

Intensity = Literal["stored", "modality", "display"]
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_SLICE = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "FrameOfReferenceUID",
    "NumberOfFrames",
    "SOPClassUID",
)
_WIDEST = 4  # bytes of a decoded value


def read_instance(path: Path, *, intensity: Intensity = "modality", bits: int = 8) -> Image:
    """Return the image of one DICOM file.

    Grey images have one channel; RGB, YBR and palette images three (RGB). A single frame is (channels, rows,
    columns). Several frames are a volume (channels, columns, rows, frames): sorted and placed by their
    positions when the object has them, else in stored order with the pixel spacing as affine.

    Args:
        path: the file; needs no suffix.
        intensity: ``"stored"``: numbers as stored. ``"modality"``: after Modality LUT or rescale (Hounsfield
            units). ``"display"``: also after VOI LUT or window, with MONOCHROME1 inverted, stretched to
            ``bits``. Colours are the same in all three, but have 8 bits in the last.
        bits: 8 or 16 bits of a grey display image.

    Raises:
        DataError: not DICOM, no pixels, pixels that cannot be decoded (names transfer syntax and plug-in), or
            frames whose positions make no volume. Never quotes a value or a file name.
    """
    _check(intensity, bits)
    dataset = _whole(path)
    with decode.guarded():
        return image_of(dataset, intensity=intensity, bits=bits)


def image_of(dataset: Dataset, *, intensity: Intensity = "modality", bits: int = 8) -> Image:
    """Return the image of an open data set; see :func:`read_instance`."""
    _refuse_large([dataset])
    pixels = _pixels(dataset, intensity)
    array = pixels.shown(bits) if intensity == "display" else pixels.values
    header = {**facts_of(dataset), "intensity": intensity}
    if array.shape[1] == 1:
        rows, columns = pixel_spacing(dataset)
        return Image(array[:, 0], np.diag([rows, columns, 1.0, 1.0]), header)
    order, affine = _place_frames(dataset, array.shape[1])
    return Image(np.ascontiguousarray(array[:, order].transpose(0, 3, 2, 1)), affine, header)


def read_series(
    paths: Sequence[Path], *, intensity: Intensity = "modality", bits: int = 8, progress: Progress = SILENT
) -> Image:
    """Return the volume of a series, shape (channels, columns, rows, slices), with its RAS+ affine.

    Slices are sorted by their positions, never by InstanceNumber or name, which may be wrong. Each slice is
    rescaled by its own slope and intercept; a display volume uses the window of its middle slice.

    Args:
        paths: the files of one series and one orientation, in any order; or one multi-frame file.
        intensity: as in :func:`read_instance`.
        bits: as in :func:`read_instance`.
        progress: advanced by every slice.

    Raises:
        DataError: no files, several orientations, sizes or frames of reference, slices without a position, at
            one position, missing or unevenly spaced; or any error of :func:`read_instance`.
    """
    _check(intensity, bits)
    if not paths:
        raise DataError(problem("no file was given", where="paths"))
    headers = [decode.open_dataset(path, pixels=False, keywords=_SLICE) for path in paths]
    with decode.guarded():
        if len(paths) == 1 and int(headers[0].get("NumberOfFrames") or 1) > 1:
            return read_instance(paths[0], intensity=intensity, bits=bits)
        _refuse_large(headers)
        order, affine = order_slices(headers)
        slices: list[_Pixels] = []
        facts: dict[str, Any] = {}
        with task(progress, "read series", len(paths)):
            for index in order:
                dataset = _whole(paths[index])
                facts = facts or facts_of(dataset)
                slices.append(_pixels(dataset, intensity))
                progress.advance()
        whole = _join(slices)
    array = whole.shown(bits) if intensity == "display" else whole.values
    return Image(np.ascontiguousarray(array.transpose(0, 3, 2, 1)), affine, {**facts, "intensity": intensity})


def _whole(path: Path) -> Dataset:
    """Return the data set of a file, after checking that its size permits reading it at once."""
    if path.is_file() and path.stat().st_size > files.IMAGE_LIMIT:
        raise DataError(
            problem(f"a DICOM file is larger than {files.IMAGE_LIMIT:,} bytes", where="DICOM file")
        )
    return decode.open_dataset(path)


def _refuse_large(headers: Sequence[Dataset]) -> None:
    """Raise DataError if headers announce more pixels than may be decoded, at 4 bytes per value."""
    promised = 0
    for header in headers:
        counts = [
            int(header.get(name) or 1) for name in ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel")
        ]
        promised += math.prod(counts) * _WIDEST
    if promised > files.IMAGE_LIMIT:
        got = f"{promised:,} promised by Rows, Columns and NumberOfFrames"
        raise DataError(
            expected(f"an image of at most {files.IMAGE_LIMIT:,} bytes", got=got, where="DICOM file")
        )


def split_orientations(paths: Sequence[Path]) -> list[list[Path]]:
    """Return the files of a series in groups of one slice orientation, e.g. for the planes of a localiser.

    Raises:
        DataError: a file is not DICOM or has no position.
    """
    with decode.guarded():
        headers = [decode.open_dataset(path, pixels=False, keywords=_SLICE) for path in paths]
        planes = [
            _plane(header, f"instance {number} of {len(paths)}") for number, header in enumerate(headers, 1)
        ]
    return [[paths[index] for index in group] for group in slice_geometry.group_by_orientation(planes)]


def order_slices(headers: Sequence[Dataset]) -> tuple[list[int], npt.NDArray[np.float64]]:
    """Return the indices of the slices along their normal, and the RAS+ affine of the volume.

    Only headers are needed.

    Raises:
        DataError: the slices make no volume; see :func:`read_series`.
    """
    _refuse_mixture(headers)
    return slice_geometry.stack(
        [_plane(header, f"instance {n} of {len(headers)}") for n, header in enumerate(headers, 1)]
    )


def has_place(header: Dataset) -> bool:
    """Return whether a data set gives the position of its slice in the patient."""
    return bool(header.get("ImagePositionPatient")) and bool(header.get("ImageOrientationPatient"))


@dataclass(frozen=True)
class _Pixels:
    """Decoded frames, shape (channels, frames, rows, columns), and the parameters to display them."""

    values: npt.NDArray[Any]
    voi: lut.LookupTable | lut.Window | None = None
    padding: npt.NDArray[np.bool_] | None = None
    full_range: tuple[float, float] | None = None
    invert: bool = False
    colour: bool = False

    def shown(self, bits: int) -> npt.NDArray[Any]:
        if not self.colour:
            return lut.display(
                self.values,
                self.voi,
                bits=bits,
                full_range=self.full_range,
                padding=self.padding,
                invert=self.invert,
            )
        return lut.display(self.values, None, bits=8, full_range=self.full_range)


def _pixels(dataset: Dataset, intensity: Intensity) -> _Pixels:
    stored = decode.pixels_of(dataset)
    kind = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    palette = kind == "PALETTE COLOR"
    frames = (
        stored.reshape(-1, *stored.shape[-3:])
        if int(dataset.get("SamplesPerPixel") or 1) > 1
        else stored[..., None]
    )
    frames = frames if frames.ndim == 4 else frames[None]
    if palette:
        frames = lut.palette_to_rgb(frames[..., 0], dataset)
    depth = 8 if palette else int(dataset.get("BitsStored") or 8 * stored.dtype.itemsize)
    signed = not palette and stored.dtype.kind == "i"
    limits = (-(2.0 ** (depth - 1)), 2.0 ** (depth - 1) - 1) if signed else (0.0, 2.0**depth - 1)
    if frames.shape[-1] == 3:
        return _Pixels(np.moveaxis(frames, -1, 0), full_range=limits, colour=True)
    grey = frames[..., 0]
    if intensity == "stored":
        return _Pixels(grey[None])
    sources = [_functional(dataset, index) for index in range(len(grey))]
    originals = list(grey)
    values = [lut.modality(frame, source) for frame, source in zip(originals, sources, strict=True)]
    untouched = all(value is frame for value, frame in zip(values, originals, strict=True))
    padding = lut.padding_of(grey, dataset)
    return _Pixels(
        (grey if untouched else np.stack(values))[None],
        voi=lut.voi_of(sources[len(sources) // 2]),
        padding=None if padding is None else padding[None],
        full_range=limits if untouched and depth <= 8 else None,
        invert=kind == "MONOCHROME1",
    )


def _join(slices: list[_Pixels]) -> _Pixels:
    middle = slices[len(slices) // 2]
    padding = None
    if any(item.padding is not None for item in slices):
        masks = [
            np.zeros(item.values.shape, np.bool_) if item.padding is None else item.padding for item in slices
        ]
        padding = np.concatenate(masks, axis=1)
    full = middle.full_range if all(item.full_range == middle.full_range for item in slices) else None
    values = np.concatenate([item.values for item in slices], axis=1)
    return _Pixels(values, middle.voi, padding, full, middle.invert, middle.colour)


def _functional(dataset: Dataset, frame: int) -> Dataset:
    """Return the data set itself, or for enhanced objects a copy with the frame's own rescale and window."""
    merged = Dataset()
    for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
        item = functional_group(dataset, frame, name)
        if item is not None:
            merged.update(item)
    if len(merged) == 0:
        return dataset
    for keyword in ("ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"):
        if keyword in dataset and keyword not in merged:
            merged[keyword] = dataset[keyword]
    return merged


def functional_group(dataset: Dataset, frame: int, name: str) -> Dataset | None:
    """Return the first item of a functional group of a frame: the frame's own, or the shared one."""
    own, shared = (
        dataset.get("PerFrameFunctionalGroupsSequence"),
        dataset.get("SharedFunctionalGroupsSequence"),
    )
    for holder in (own[frame] if own and frame < len(own) else None, shared[0] if shared else None):
        if holder is not None and holder.get(name):
            item: Dataset = holder[name].value[0]
            return item
    return None


def _place_frames(dataset: Dataset, frames: int) -> tuple[list[int], npt.NDArray[np.float64]]:
    """Return the order and affine of the frames of one object."""
    planes = []
    for frame in range(frames):
        parts = Dataset()
        for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"):
            parts.update(functional_group(dataset, frame, name) or Dataset())
        if not has_place(parts):
            rows, columns = pixel_spacing(dataset)
            return list(range(frames)), np.diag(
                [columns, rows, float(dataset.get("SliceThickness") or 1), 1.0]
            )
        planes.append(_plane(parts, f"frame {frame + 1} of {frames}"))
    return slice_geometry.stack(planes)


def _plane(header: Dataset, where: str) -> slice_geometry.Plane:
    if not has_place(header) or not header.get("PixelSpacing"):
        missing = next(
            n
            for n in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
            if not header.get(n)
        )
        raise DataError(
            problem(f"a slice has no {missing}", where=where, fix="leave this image out of the volume")
        )
    thickness = header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 0.0
    try:
        return slice_geometry.plane(
            [float(x) for x in header.ImagePositionPatient],
            [float(x) for x in header.ImageOrientationPatient],
            [float(x) for x in header.PixelSpacing],
            abs(float(thickness)),
        )
    except (TypeError, ValueError):
        raise DataError(
            problem("expected numbers, got text", where=f"ImagePositionPatient, {where}")
        ) from None


def _refuse_mixture(headers: Sequence[Dataset]) -> None:
    for keywords in (("Rows", "Columns"), ("SamplesPerPixel",), ("FrameOfReferenceUID",)):
        found = {tuple(header.get(name) for name in keywords) for header in headers}
        if len(found) > 1:
            where = ", ".join(keywords)
            fix = "read each part of the series alone"
            raise DataError(
                expected("the same in every slice", got=f"{len(found)} different", where=where, fix=fix)
            )
    if any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers):
        raise DataError(
            expected("single frames", got="a multi-frame object", where="NumberOfFrames", fix="read it alone")
        )


def pixel_spacing(dataset: Dataset) -> tuple[float, float]:
    """Return the distance between rows and between columns in mm; 1 if unknown."""
    for holder in (dataset, functional_group(dataset, 0, "PixelMeasuresSequence") or Dataset()):
        for keyword in _SPACINGS:
            value = holder.get(keyword)
            try:
                rows, columns = (float(item) for item in value or ())
            except (TypeError, ValueError):
                continue
            if rows > 0 and columns > 0:
                return rows, columns
    return 1.0, 1.0


def _check(intensity: str, bits: int) -> None:
    check.one_of(get_args(Intensity), intensity=intensity)
    check.one_of(("8", "16"), bits=str(bits))


FACTS = (
    "Modality",
    "ImageType",
    "PhotometricInterpretation",
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ViewPosition",
    "ImageLaterality",
    "Laterality",
    "BodyPartExamined",
    "PatientPosition",
    "PatientOrientation",
    "PresentationIntentType",
    "PresentationLUTShape",
    "PixelIntensityRelationship",
    "PixelIntensityRelationshipSign",
    "BurnedInAnnotation",
    "LossyImageCompression",
    "LossyImageCompressionMethod",
    "LossyImageCompressionRatio",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
    "SliceThickness",
    "SpacingBetweenSlices",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "KVP",
    "MagneticFieldStrength",
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "MRAcquisitionType",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
    "EchoTrainLength",
)
"""Keywords that :func:`facts_of` may return; no other attribute is ever copied from a file."""

_CODES = {"CS", "LO", "SH"}
_CODE = re.compile(r"[A-Z0-9 _.+-]{1,16}")


def facts_of(dataset: Dataset) -> dict[str, Any]:
    """Return the facts of a data set as JSON values by keyword.

    Guarantee: only attributes of the list :data:`FACTS`, only numbers and code strings of at most 16
        capitals, digits,
    blanks and ``_.+-``; other text in these attributes is left out.
    """
    facts: dict[str, Any] = {}
    for keyword in FACTS:
        element = dataset.get(keyword) if keyword in dataset else None
        if element is None or element == "" or isinstance(element, bytes):
            continue
        values = list(element) if isinstance(element, (MultiValue, list, tuple)) else [element]
        plain = [_plain(value, dataset[keyword].VR) for value in values]
        if plain and all(value is not None for value in plain):
            facts[keyword] = plain if len(plain) > 1 else plain[0]
    return facts


def _plain(value: Any, vr: str) -> int | float | str | None:
    if vr in _CODES:
        text = str(value).strip()
        return text if _CODE.fullmatch(text) else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else number
