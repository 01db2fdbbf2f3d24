"""The DICOM files from which a dataset was prepared, and predicted label maps on their grid."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core import artifacts
from meninx.core.artifacts import PrepareRecord
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.manifest import SOURCES_NAME, Case, Manifest
from meninx.imaging import decode, seg
from meninx.imaging.image import Image

Array = npt.NDArray[Any]
ASPECTS = ("stretch", "pad")


@dataclass(frozen=True)
class DicomSources:
    """The source files of each case.

    Attributes:
        paths: case to its instances: one in 2-D, a series in 3-D.
        aspect: how images were fitted to the dataset's size in 2-D: ``stretch`` or ``pad``.
    """

    paths: Mapping[str, tuple[Path, ...]]
    aspect: str = "stretch"

    @classmethod
    def find(cls, manifest: Manifest, folder: Path | None) -> DicomSources:
        """Return the sources of a dataset, found below ``folder`` by the clean UIDs of ``prepare``.

        Raises:
            UsageError: ``folder`` is None.
            DataError: the dataset has no ``private/cases.csv``, or the folder lacks the files of a case.
        """
        if folder is None:
            fix = "give --dicom with the folder that the dataset was prepared from"
            raise UsageError(
                problem("dicom-seg needs the DICOM source of the dataset", where="dicom", fix=fix)
            )
        identities, found = (
            _identities(manifest),
            _files(folder, whole_series=manifest.info.spatial_dims == 3),
        )
        paths = {}
        for case in manifest.cases:
            if identities.get(case.case_id) not in found:
                got, fix = "a case without them", "give the folder that the dataset was prepared from"
                raise DataError(
                    expected("the DICOM files of every case", got=got, where=SOURCES_NAME, fix=fix)
                )
            paths[case.case_id] = tuple(found[identities[case.case_id]].values())
        return cls(paths, _aspect(manifest))

    def placed(
        self, case: Case, label_map: Array, affine: npt.NDArray[np.float64]
    ) -> tuple[Image, tuple[Path, ...]]:
        """Return a label map on the grid of its source by nearest neighbour, and the files of the source.

        Args:
            case: case of the label map.
            label_map: (rows, columns) or (x, y, z), whole numbers, on the grid of the dataset.
            affine: affine of the dataset's image; not used in 2-D.
        """
        paths = self.paths[case.case_id]
        return seg.place_on_source(label_map, affine, paths, self.aspect), paths


def _identities(manifest: Manifest) -> dict[str, str]:
    """Return a map from case to clean UID: of the instance in 2-D, of the series in 3-D."""
    path = manifest.root / SOURCES_NAME
    if not path.is_file():
        fix = "prepare the dataset from DICOM and keep its private folder"
        raise DataError(problem("the dataset does not record its DICOM source", where=SOURCES_NAME, fix=fix))
    with path.open(newline="", encoding="utf-8") as stream:
        return {row["case_id"]: row["key"].rpartition("/")[2] for row in csv.DictReader(stream)}


def _files(folder: Path, *, whole_series: bool) -> dict[str, dict[str, Path]]:
    """Return a map from UID (of series or instance) to instance UIDs and files, each instance once."""
    found: dict[str, dict[str, Path]] = {}
    for path in decode.find_files(folder):
        with suppress(DataError):  # damaged and other files cannot be the source
            header = decode.open_dataset(path, pixels=False, keywords=("SOPInstanceUID", "SeriesInstanceUID"))
            instance = str(header.get("SOPInstanceUID", ""))
            group = str(header.get("SeriesInstanceUID", "")) if whole_series else instance
            found.setdefault(group, {}).setdefault(instance, path)
    return found


def _aspect(manifest: Manifest) -> str:
    """Return how images were fitted to the dataset's size; ``stretch`` without a record of the preparation.

    Raises:
        DataError: the record is damaged or names another way.
    """
    record = artifacts.read(manifest.root, PrepareRecord)
    aspect = record.settings.get("aspect", "stretch") if record is not None else "stretch"
    if aspect not in ASPECTS:
        raise DataError(problem("the aspect of the dataset is unknown", where=artifacts.place(PrepareRecord)))
    return str(aspect)
