"""Label maps and probability maps on the pixels of their source images, written without torch or meninx.

Images without a prediction are listed in ``refused.csv``.

A bundle ships this source as ``scripts/maps.py``. The workflow for MONAI (``scripts/inference.py``) and the
program for ONNX Runtime (``scripts/segment_with_onnx.py``) write their results with it.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meninx.core import files, names
from meninx.core.errors import DataError, problem
from meninx.imaging import load, nifti
from meninx.imaging.image import Image

REFUSED = "refused.csv"
PROBABILITY_MAPS = "probability_maps"
_SUFFIXES = (*load.PICTURES, *load.VOLUMES, ".dcm")


class LabelMapFiles:
    """Writer of label maps on the pixels of their source images: PNG in 2-D, NIfTI in 3-D.

    Items with ``probabilities``, shape (labels, ...), also get a NIfTI file below ``probability_maps``, with
    the labels along its fourth axis.

    Args:
        output_dir: folder for the maps, which are named like their images.
    """

    def __init__(self, output_dir: str) -> None:
        self.folder = Path(output_dir)
        self.used: set[str] = set()
        refuse_present(self.folder / REFUSED)

    def add(self, item: Mapping[str, Any]) -> None:
        """Write the label map ``pred`` (1, ...) of one image, and its probabilities where there are any."""
        source: Image = item["source"]
        values = np.asarray(item["pred"])[0]
        kind = np.uint8 if values.max(initial=0) < 256 else np.uint16
        placed = item["reader"].on_source(values.astype(kind), item["stored"], source)
        stem = self._stem(item["files"].name)
        path = self.folder / f"{stem}{'.png' if source.spatial_dims == 2 else '.nii.gz'}"
        refuse_present(path)
        load.save(path, Image(placed[None], source.affine))
        if "probabilities" in item:
            maps = np.asarray(item["probabilities"], dtype=np.float32)
            path = self.folder / PROBABILITY_MAPS / f"{stem}.nii.gz"
            refuse_present(path)
            nifti.write_maps(path, item["reader"].maps_on_source(maps, item["stored"], source), source.affine)

    def close(self, refused: Sequence[tuple[str, str]] = ()) -> None:
        """Write the table of refused images; the maps are already written."""
        write_refused(self.folder, refused)

    def _stem(self, name: str) -> str:
        """Return the name of an image's maps; images that differ only in their suffix get different names."""
        end = load.suffix(Path(name))
        stem = name[: len(name) - len(end)] if end in _SUFFIXES else name
        stem = name if stem in self.used else stem
        self.used.add(stem)
        return stem


def name_refused(name: str, reason: str) -> None:
    """Print to stderr that an image has no prediction, and why."""
    print(f"not predicted: {names.printable(f'{name}: {reason}')}", file=sys.stderr)


def write_refused(folder: Path, refused: Sequence[tuple[str, str]]) -> None:
    """Write ``refused.csv`` with name and reason of each image without a prediction, if there are any."""
    if refused:
        rows = [("image", "reason"), *sorted(refused)]
        write_table(folder / REFUSED, [[names.csv_cell(text) for text in row] for row in rows])


def write_table(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write rows of cells as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    files.write_text(path, buffer.getvalue())


def refuse_present(path: Path) -> None:
    """Refuse to replace a file.

    Raises:
        DataError: the file exists.
    """
    if path.exists():
        fix = "give an empty folder as output_dir"
        raise DataError(
            problem(f"{names.printable(path.name)} is there already", where="output_dir", fix=fix)
        )
