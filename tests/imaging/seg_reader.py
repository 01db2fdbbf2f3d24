"""Reads a binary DICOM SEG back onto the grid of its sources, so that tests see what was written."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from meninx.core.errors import DataError, expected
from meninx.imaging import decode, dicom_image
from meninx.imaging.image import Image
from meninx.imaging.seg import _in_order


def read_seg(path: Path, source_paths: Sequence[Path]) -> Image:
    """Return the label map of a binary DICOM SEG on the grid of its source instances.

    Shape (1, rows, columns) for one source image, else (1, columns, rows, slices) with the affine of the
    series. Where segments overlap, the higher number wins.

    Raises:
        DataError: not a binary segmentation, or it refers to none of the sources.
    """
    with decode.guarded():
        return _read(decode.open_dataset(path), source_paths)


def _read(dataset: Dataset, source_paths: Sequence[Path]) -> Image:
    if str(dataset.get("SegmentationType", "")) != "BINARY":
        raise DataError(expected("a binary segmentation", got="another object", where="SegmentationType"))
    sources, affine = _in_order(source_paths)
    place = {str(source.SOPInstanceUID): index for index, source in enumerate(sources)}
    grid = np.zeros((len(sources), int(sources[0].Rows), int(sources[0].Columns)), np.uint16)
    pixels = decode.pixels_of(dataset)
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    for position, frame in enumerate(pixels):
        index = place.get(
            _referred(dicom_image.functional_group(dataset, position, "DerivationImageSequence"))
        )
        segment = dicom_image.functional_group(dataset, position, "SegmentIdentificationSequence")
        if index is None or segment is None or frame.shape != grid.shape[1:]:
            got = "one that refers to another image"
            raise DataError(
                expected("frames on the given source images", got=got, where="SourceImageSequence")
            )
        number = int(segment.ReferencedSegmentNumber)
        grid[index][frame > 0] = np.maximum(grid[index][frame > 0], number)
    grid = grid.astype(np.uint8) if grid.max(initial=0) < 256 else grid
    header = {"labels": [str(item.SegmentLabel) for item in dataset.SegmentSequence]}
    if len(sources) == 1:
        return Image(grid, affine, header)
    return Image(np.ascontiguousarray(grid.transpose(2, 1, 0)[None]), affine, header)


def _referred(derivation: Dataset | None) -> str:
    """Return the SOPInstanceUID of the first source image of a frame; empty when it names none."""
    sources = (derivation.get("SourceImageSequence") if derivation is not None else None) or []
    return str(sources[0].get("ReferencedSOPInstanceUID", "")) if sources else ""
