"""Label maps from DICOM segmentations (SEG) and structure sets (RTSTRUCT), on the grid of their images.

Both refer to the images on which they were drawn by UID. A SEG holds one frame per segment and slice, placed
by its position in the patient. An RTSTRUCT holds closed polygons in the patient's coordinates, one per region
(ROI) and slice. A voxel belongs to a region when its centre lies inside an odd number of the region's
polygons, so that a polygon within another is a hole.

Nothing is resampled: a frame or polygon that does not lie on a slice of the series is refused.

References:
    DICOM PS3.3, A.51 (Segmentation IOD) and A.19 (RT Structure Set IOD).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from meninx.core import files
from meninx.core.errors import DataError, LayoutError, expected, problem
from meninx.imaging import decode, dicom_image
from meninx.imaging.image import Image
from meninx.imaging.slice_geometry import LPS_TO_RAS

Kind = Literal["seg", "rtstruct"]
CLASSES: dict[str, Kind] = {
    "1.2.840.10008.5.1.4.1.1.66.4": "seg",
    "1.2.840.10008.5.1.4.1.1.66.7": "seg",  # label map segmentation
    "1.2.840.10008.5.1.4.1.1.481.3": "rtstruct",
}
OFF_GRID = 0.1  # largest distance of a frame or polygon from its slice, in voxels; headers are rounded
REMOVED = "REMOVED"  # placeholder by which de-identification replaces a name that must not be empty
_CROSSINGS = 1 << 20  # crossings of edges and rows computed at once, about 80 MB
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


@dataclass(frozen=True)
class LabelObject:
    """The header of a SEG or RTSTRUCT.

    Attributes:
        kind: seg or rtstruct.
        patient: PatientID.
        series: SeriesInstanceUIDs of the referenced images.
        instances: SOPInstanceUIDs of these images, as far as they are listed.
        names: segment or ROI number -> name; empty if there is none or de-identification removed it.
        titles: its SeriesDescription, and its ContentLabel or StructureSetLabel; empty ones left out.
    """

    kind: Kind
    patient: str
    series: frozenset[str]
    instances: frozenset[str]
    names: Mapping[int, str]
    titles: tuple[str, ...]


def read_object(path: Path) -> LabelObject:
    """Return the header of a SEG or RTSTRUCT; pixels are not decoded.

    Raises:
        LayoutError: two segments or regions have the same number.
        DataError: the file is neither, or damaged.
    """
    dataset = _opened(path, pixels=False)
    with decode.guarded():
        kind = _kind(dataset)
        items = dataset.get("SegmentSequence" if kind == "seg" else "StructureSetROISequence") or []
        number, name = ("SegmentNumber", "SegmentLabel") if kind == "seg" else ("ROINumber", "ROIName")
        found = {int(item[number].value): str(item.get(name) or "").strip() for item in items}
        names = {key: text if text != REMOVED else "" for key, text in found.items()}
        if len(names) != len(items):
            raise LayoutError(problem("two segments have one number", where=f"DICOM {kind}"))
        label = dataset.get("ContentLabel" if kind == "seg" else "StructureSetLabel")
        titles = [str(text or "").strip() for text in (dataset.get("SeriesDescription"), label)]
        references = list(_series(dataset, kind))
        return LabelObject(
            kind=kind,
            patient=str(dataset.get("PatientID") or "").strip(),
            series=frozenset(str(item.get("SeriesInstanceUID", "")) for item in references) - {""},
            instances=frozenset(_instances(dataset, references, kind)),
            names=names,
            titles=tuple(title for title in titles if title),
        )


def label_map(
    path: Path,
    images: Sequence[Path],
    numbers: Mapping[int, int],
    *,
    volume: bool = True,
    overlap: str = "refuse",
    where: str = "label object",
) -> Image:
    """Return the labels of a SEG or RTSTRUCT on the grid of its images.

    Args:
        path: the object.
        images: the files of the series in any order, one multi-frame file, or one image.
        numbers: segment or ROI number -> label number, from 1; others are left out.
        volume: whether the images are the slices of a volume, which may be a single one.
        overlap: ``refuse``, or ``last``: the larger number wins where labels overlap.
        where: place for messages.

    Returns:
        A label map of shape (1, columns, rows, slices) with the affine of the series, or (1, rows, columns)
        for one image.

    Raises:
        LayoutError: a frame or polygon is not on a slice of the series, or labels overlap.
        DataError: a file cannot be read, or holds more than ``files.IMAGE_LIMIT``.
    """
    dataset = _opened(path, pixels=True)
    with decode.guarded():
        kind = _kind(dataset)
        grid = _Grid.of(images, volume=volume)
        values = np.zeros((len(grid.instances), grid.rows, grid.columns), np.uint8)
        parts = _frames(dataset, grid, where) if kind == "seg" else _regions(dataset, grid, numbers, where)
        for number, index, mask in parts:
            if number in numbers:
                draw(values[index], mask, numbers[number], overlap=overlap, where=where)
    if grid.affine is None:
        return Image(values)
    return Image(np.ascontiguousarray(values.transpose(2, 1, 0)[None]), grid.affine)


def draw(
    values: npt.NDArray[Any], mask: npt.NDArray[np.bool_], number: int, *, overlap: str, where: str
) -> None:
    """Write the number of a label into a label map where its mask is True, in any order of labels.

    Args:
        values: the label map, changed in place.
        mask: where the label is, same shape.
        number: the label's number.
        overlap: ``refuse``, or ``last``: the larger number wins.
        where: place for the message.

    Raises:
        LayoutError: labels overlap, and overlaps are refused.
    """
    if overlap == "refuse":
        there = values[mask]
        taken = int(np.count_nonzero((there != 0) & (there != number)))
        if taken:
            fix = "set mask_overlap to last: the later label counts; mask_labels gives the order"
            raise LayoutError(
                expected("labels that do not overlap", got=f"{taken:,} voxels of two", where=where, fix=fix)
            )
    np.maximum(values, number, out=values, where=mask)


def filled(polygons: Sequence[npt.NDArray[np.float64]], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return which pixel centres lie inside an odd number of closed polygons, shape (rows, columns).

    A centre on the left edge counts as outside, one on the right edge as inside, so that neighbouring
    polygons share no pixel.

    >>> square = np.array([[0.5, 0.5], [3.5, 0.5], [3.5, 2.5], [0.5, 2.5]])
    >>> filled([square], (4, 5)).astype(int).tolist()
    [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]

    Args:
        polygons: corners as (column, row), shape (corners, 2) each.
        shape: rows and columns.
    """
    rows, columns = shape
    crossings = np.zeros((rows, columns + 1), np.int64)
    several = max(1, _CROSSINGS // max(1, rows))
    for polygon in polygons:
        following = np.roll(polygon, -1, axis=0)
        for at in range(0, len(polygon), several):  # in parts, because a tall edge crosses every row
            _cross(crossings, polygon[at : at + several], following[at : at + several])
    return np.asarray(np.cumsum(crossings, axis=1)[:, :columns] % 2 == 1)


def _cross(
    crossings: npt.NDArray[np.int64], starts: npt.NDArray[np.float64], ends: npt.NDArray[np.float64]
) -> None:
    """Count the crossings of edges and rows.

    Args:
        crossings: shape (rows, columns + 1), changed in place: the first pixel centre right of each crossing.
        starts: corners as (column, row), shape (edges, 2).
        ends: the next corners.
    """
    rows, columns = crossings.shape[0], crossings.shape[1] - 1
    (x, y), (next_x, next_y) = starts.T, ends.T
    first, last = (np.clip(np.ceil(end(y, next_y)), 0, rows).astype(int) for end in (np.minimum, np.maximum))
    counts = last - first  # number of rows that each edge crosses; 0 for a horizontal edge
    edge = np.repeat(np.arange(len(x)), counts)
    row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    slope = (next_x[edge] - x[edge]) / (next_y[edge] - y[edge])
    place = x[edge] + (row - y[edge]) * slope
    column = np.clip(np.floor(place) + 1, 0, columns).astype(int)
    np.add.at(crossings, (row, column), 1)


@dataclass(frozen=True)
class _Grid:
    """The grid of the images.

    Attributes:
        instances: SOPInstanceUID of each slice, in order.
        rows: rows of a slice.
        columns: columns of a slice.
        affine: (column, row, slice) to millimetres in RAS+; None for one image.
    """

    instances: tuple[str, ...]
    rows: int
    columns: int
    affine: npt.NDArray[np.float64] | None

    @classmethod
    def of(cls, images: Sequence[Path], *, volume: bool) -> _Grid:
        headers = [decode.open_dataset(path, pixels=False) for path in images]
        rows, columns = int(headers[0].Rows), int(headers[0].Columns)
        instances = [str(header.get("SOPInstanceUID", "")) for header in headers]
        single = int(headers[0].get("NumberOfFrames") or 1) == 1
        if len(headers) > 1 or (volume and single):
            order, affine = dicom_image.order_slices(headers)
            return cls(tuple(instances[index] for index in order), rows, columns, affine)
        if single:
            return cls(tuple(instances), rows, columns, None)
        whole = dicom_image.read_instance(images[0])
        return cls((instances[0],) * whole.size[2], rows, columns, whole.affine)

    def place(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return points in the patient (LPS+, shape (n, 3)) as (column, row, slice)."""
        if self.affine is None:
            raise DataError(problem("one image has no place in the patient", where="DICOM series"))
        homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
        return np.asarray((np.linalg.inv(self.affine) @ LPS_TO_RAS @ homogeneous.T)[:3].T)

    def slice_of(self, heights: npt.NDArray[np.float64], what: str, where: str) -> int:
        """Return the slice at heights that are all on one.

        Raises:
            LayoutError: the heights are between two slices, or outside the series.
        """
        index = round(float(heights[0]))
        if np.abs(heights - index).max() > OFF_GRID or not 0 <= index < len(self.instances):
            raise LayoutError(
                expected(f"{what} on the slices of the series", got="one that lies elsewhere", where=where)
            )
        return index


def _opened(path: Path, *, pixels: bool) -> Dataset:
    if path.is_file() and path.stat().st_size > files.IMAGE_LIMIT:
        raise DataError(problem(f"the file is larger than {files.IMAGE_LIMIT:,} bytes", where="DICOM file"))
    return decode.open_dataset(path, pixels=pixels)


def _kind(dataset: Dataset) -> Kind:
    kind = CLASSES.get(str(dataset.get("SOPClassUID", "")))
    if kind is None:
        raise DataError(problem("the object is neither a SEG nor an RTSTRUCT", where="SOPClassUID"))
    return kind


# References to images


def _series(dataset: Dataset, kind: Kind) -> Iterator[Dataset]:
    """Yield the items that describe a referenced series."""
    if kind == "seg":
        yield from dataset.get("ReferencedSeriesSequence") or []
        return
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            yield from study.get("RTReferencedSeriesSequence") or []


def _instances(dataset: Dataset, references: Sequence[Dataset], kind: Kind) -> Iterator[str]:
    """Yield the SOPInstanceUIDs of the referenced images."""
    sequence = "ReferencedInstanceSequence" if kind == "seg" else "ContourImageSequence"
    for series in references:
        for item in series.get(sequence) or []:
            yield str(item.get("ReferencedSOPInstanceUID", ""))
    for frame in range(len(dataset.get("PerFrameFunctionalGroupsSequence") or [])):
        yield _source(dataset, frame)


def _source(dataset: Dataset, frame: int) -> str:
    """Return the SOPInstanceUID of the image on which a frame was drawn; empty if it names none."""
    derivation = dicom_image.functional_group(dataset, frame, "DerivationImageSequence")
    sources = (derivation.get("SourceImageSequence") if derivation is not None else None) or []
    return str(sources[0].get("ReferencedSOPInstanceUID", "")) if sources else ""


# Segmentations

Part = tuple[int, int, npt.NDArray[np.bool_]]
"""Number of a segment or region, index of a slice, and its mask there, shape (rows, columns)."""


def _frames(dataset: Dataset, grid: _Grid, where: str) -> Iterator[Part]:
    """Yield the frames of a SEG."""
    kind = str(dataset.get("SegmentationType", ""))
    if kind not in ("BINARY", "LABELMAP"):
        got = "fractions" if kind == "FRACTIONAL" else "another kind"
        fix = "convert it to a binary segmentation"
        raise LayoutError(expected("a binary segmentation", got=got, where=where, fix=fix))
    count = int(dataset.get("NumberOfFrames") or 1)
    size = int(dataset.Rows), int(dataset.Columns)
    if count * size[0] * size[1] > files.IMAGE_LIMIT:
        raise DataError(
            problem(f"the segmentation is larger than {files.IMAGE_LIMIT:,} bytes", where="DICOM file")
        )
    if size != (grid.rows, grid.columns):
        raise LayoutError(problem("the segmentation has another grid than its images", where=where))
    pixels = decode.pixels_of(dataset).reshape(count, *size)
    for frame, values in enumerate(pixels):
        index = _slice_of_frame(dataset, frame, grid, where)
        if kind == "LABELMAP":
            for number in np.unique(values[values > 0]):
                yield int(number), index, values == number
            continue
        segment = dicom_image.functional_group(dataset, frame, "SegmentIdentificationSequence")
        if segment is None:
            raise LayoutError(problem("a frame names no segment", where=where))
        yield int(segment.ReferencedSegmentNumber), index, values > 0


def _slice_of_frame(dataset: Dataset, frame: int, grid: _Grid, where: str) -> int:
    """Return the slice of a frame: by its position in the patient, else by the image that it references."""
    parts = Dataset()
    for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"):
        parts.update(dicom_image.functional_group(dataset, frame, name) or Dataset())
    source = _source(dataset, frame)
    if grid.affine is None or not dicom_image.has_place(parts):
        if source not in grid.instances:
            raise LayoutError(problem("a frame refers to another image", where=where))
        return grid.instances.index(source)
    origin = np.array(parts.ImagePositionPatient, dtype=float)
    across, down = np.array(parts.ImageOrientationPatient, dtype=float).reshape(2, 3)
    row_step, column_step = (float(step) for step in parts.PixelSpacing)
    ends = np.array([[0, 0], [grid.columns - 1, 0], [0, grid.rows - 1]], dtype=float)
    steps = np.stack([across * column_step, down * row_step])
    places = grid.place(origin + ends @ steps)
    if np.abs(places[:, :2] - ends).max() > OFF_GRID:
        raise LayoutError(problem("the segmentation has another grid than its images", where=where))
    return grid.slice_of(places[:, 2], "frames", where)


# Structure sets


def _regions(dataset: Dataset, grid: _Grid, numbers: Mapping[int, int], where: str) -> Iterator[Part]:
    """Yield the requested regions of an RTSTRUCT, slice by slice."""
    if grid.affine is None:
        fix = "set spatial_dims to 3"
        raise LayoutError(problem("contours lie in volumes, not on single images", where=where, fix=fix))
    for region in dataset.get("ROIContourSequence") or []:
        number = int(region.ReferencedROINumber)
        if number not in numbers:
            continue
        polygons: dict[int, list[npt.NDArray[np.float64]]] = defaultdict(list)
        for contour in region.get("ContourSequence") or []:
            kind = str(contour.get("ContourGeometricType", ""))
            if kind not in _CLOSED:
                got = "others (points or open lines)"
                fix = "choose other regions with mask_labels"
                raise LayoutError(expected("closed planar contours", got=got, where=where, fix=fix))
            points = np.array(contour.get("ContourData") or [], dtype=float)
            if points.size % 3 or points.size < 9 or not np.isfinite(points).all():
                raise LayoutError(problem("a contour is not a list of three or more points", where=where))
            places = grid.place(points.reshape(-1, 3))
            polygons[grid.slice_of(places[:, 2], "contours", where)].append(places[:, :2])
        for index, of_slice in polygons.items():
            yield number, index, filled(of_slice, (grid.rows, grid.columns))
