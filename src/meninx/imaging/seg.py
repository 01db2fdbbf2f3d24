"""Label maps as DICOM segmentations that refer to their source images.

This is the only module that uses highdicom, which is imported only when a segmentation is written.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from meninx.core import files
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.imaging import decode, dicom_image, resample
from meninx.imaging.image import Image
from meninx.imaging.tags import new_uid

MAKER = "meninx"
_TISSUE = ("85756007", "SCT", "Tissue")
_DEFAULTS = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
)


def write_seg(
    label_map: Image | npt.NDArray[Any],
    source_paths: Sequence[Path],
    labels: Sequence[str],
    out: Path,
    *,
    uid: Callable[[str], str] = new_uid,
    overwrite: bool = False,
) -> None:
    """Write a label map as a binary DICOM SEG that refers to its source instances.

    Args:
        label_map: integers 0 (background), 1, ..., len(labels): (1, rows, columns) or (rows, columns) for one
            source image; (1, columns, rows, slices) or (columns, rows, slices) for a series, as from
            :func:`.dicom_image.read_series`. The affine of an Image must be that of the series.
        source_paths: the DICOM files of the source, in any order.
        labels: names of the values 1, 2, ...
        out: the file to write.
        uid: returns a new UID for a name (``"series"``, ``"instance"``, ``"frame of reference"``); random by
            default.
        overwrite: whether to replace an existing file.

    Raises:
        UsageError: highdicom is not installed, or ``out`` exists.
        DataError: shape, values or affine do not fit the sources.
        StorageError: the disk refused.
    """
    if out.exists() and not overwrite:
        raise UsageError(problem("the file exists already", where=out.name, fix="set overwrite=True"))
    sources, frames = _matched(label_map, source_paths)
    if frames.min(initial=0) < 0 or frames.max(initial=0) > len(labels):
        got = "a value outside"
        raise DataError(
            expected(
                f"values 0 to {len(labels)}, one per label",
                got=got,
                where="label map",
                fix="give every label a name",
            )
        )
    with decode.quiet():
        try:
            dataset = _segmentation(
                sources, frames.astype(np.uint8 if len(labels) < 256 else np.uint16), labels, uid
            )
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            got = f"others ({type(error).__name__})"
            fix = "a cross-section needs its position, and every source its UIDs"
            what = "sources that a segmentation can refer to"
            raise DataError(expected(what, got=got, where="source_paths", fix=fix)) from None
        stream = io.BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
    files.write_bytes(out, stream.getvalue())


def place_on_source(
    label_map: npt.NDArray[Any], affine: npt.NDArray[np.float64], source_paths: Sequence[Path], aspect: str
) -> Image:
    """Return a label map on the grid of its DICOM source, by nearest neighbour.

    Args:
        label_map: (rows, columns) or (x, y, z), integers, on the grid of the stored image.
        affine: of the stored image; not used in 2-D.
        source_paths: the instance, or the files of the series.
        aspect: how the image was resized in 2-D: ``stretch`` or ``pad``.

    Raises:
        DataError: the files make no volume.
    """
    headers = [decode.open_dataset(path, pixels=False) for path in source_paths]
    rows, columns = int(headers[0].Rows), int(headers[0].Columns)
    if label_map.ndim == 2:
        return Image(resample.picture_on_source(label_map, (rows, columns), aspect)[None])
    with decode.guarded():
        _, target = dicom_image.order_slices(headers)
    placed = resample.volume_on_source(label_map, affine, (columns, rows, len(headers)), target)
    return Image(placed[None], target)


def _matched(
    label_map: Image | npt.NDArray[Any], paths: Sequence[Path]
) -> tuple[list[Dataset], npt.NDArray[Any]]:
    """Return the sources in the order of the map's slices, and the map as (slices, rows, columns)."""
    array = label_map.array if isinstance(label_map, Image) else label_map
    sources, affine = _in_order(paths)
    if array.dtype.kind not in "iub":
        raise DataError(expected("whole numbers", got=str(array.dtype), where="label map"))
    volume = len(sources) > 1
    array = (
        array[0] if array.ndim == (4 if volume or array.ndim == 4 else 3) and array.shape[0] == 1 else array
    )
    frames = array.transpose(2, 1, 0) if array.ndim == 3 else array[None]
    wanted = (len(sources), int(sources[0].Rows), int(sources[0].Columns))
    if frames.shape != wanted:
        got = " x ".join(str(n) for n in frames.shape)
        raise DataError(
            expected(
                f"{' x '.join(str(n) for n in wanted)} (slices, rows, columns)", got=got, where="label map"
            )
        )
    if volume and isinstance(label_map, Image) and not np.allclose(label_map.affine, affine, atol=1e-2):
        fix = "resample the label map to the series"
        raise DataError(
            problem("the label map does not have the affine of the series", where="label map", fix=fix)
        )
    return sources, frames


def _in_order(paths: Sequence[Path]) -> tuple[list[Dataset], npt.NDArray[np.float64]]:
    if not paths:
        raise DataError(problem("no source image was given", where="source_paths"))
    headers = [decode.open_dataset(path, pixels=False) for path in paths]
    if len(headers) == 1:
        rows, columns = dicom_image.pixel_spacing(headers[0])
        return headers, np.diag([rows, columns, 1.0, 1.0])
    with decode.guarded():
        order, affine = dicom_image.order_slices(headers)
    for header in headers:
        if not header.get("SliceThickness"):  # highdicom requires it, but some series do not state it
            header.SliceThickness = f"{np.linalg.norm(affine[:3, 2]):.6g}"
    return [headers[index] for index in order], affine


def _segmentation(
    sources: list[Dataset], frames: npt.NDArray[Any], labels: Sequence[str], uid: Callable[[str], str]
) -> Dataset:
    try:
        import highdicom
        from highdicom.seg import (
            SegmentAlgorithmTypeValues,
            Segmentation,
            SegmentationTypeValues,
            SegmentDescription,
        )
    except ImportError as error:
        raise UsageError(
            problem("highdicom is not installed", where="seg", fix="pip install 'meninx[export]'")
        ) from error
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=MAKER, version="1", family=highdicom.sr.CodedConcept("123110", "DCM", "Artificial Intelligence")
    )
    tissue = highdicom.sr.CodedConcept(*_TISSUE)
    descriptions = [
        SegmentDescription(number, name[:64], tissue, tissue, SegmentAlgorithmTypeValues.AUTOMATIC, algorithm)
        for number, name in enumerate(labels, start=1)
    ]
    if dicom_image.has_place(sources[0]) and not sources[0].get("FrameOfReferenceUID"):
        frame_of_reference = uid("frame of reference")
        for source in sources:
            source.FrameOfReferenceUID = frame_of_reference
    for source in sources:
        source.decode()
        source.SpecificCharacterSet = (
            "ISO_IR 192"  # highdicom copies it and knows neither code extensions nor an empty first value
        )
        for keyword in _DEFAULTS:
            if keyword not in source:
                setattr(source, keyword, "")
    segmentation: Dataset = Segmentation(
        source_images=sources,
        pixel_array=frames,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=uid("series"),
        series_number=int(sources[0].get("SeriesNumber") or 0) + 1000,
        sop_instance_uid=uid("instance"),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions="1",
        device_serial_number="0",
        omit_empty_frames=bool(frames.any()),
    )
    return segmentation
