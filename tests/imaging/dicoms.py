"""DICOM files for the tests, made from arrays; no data of anyone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

STUDY, SERIES = generate_uid(entropy_srcs=["study"]), generate_uid(entropy_srcs=["series"])


def image(
    pixels: np.ndarray,
    photometric: str = "MONOCHROME2",
    *,
    bits: int | None = None,
    frames: bool = False,
    **more,
) -> Dataset:
    """A data set with these pixels: (rows, columns), (rows, columns, 3), or with a leading axis of frames."""
    colour = photometric.startswith(("RGB", "YBR"))
    rows, columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = more.pop("SOPInstanceUID", generate_uid())
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, SERIES
    dataset.PatientID, dataset.PatientName, dataset.Modality = "P1", "Planted^Person", "CT"
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = photometric
    if colour:
        dataset.PlanarConfiguration = 0
    if frames:
        dataset.NumberOfFrames = pixels.shape[0]
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    content = pixels.tobytes()
    dataset.add_new(
        "PixelData", "OB" if pixels.dtype.itemsize == 1 else "OW", content + b"\0" * (len(content) % 2)
    )
    for keyword, value in more.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def write(path: Path, dataset: Dataset) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def oblique() -> tuple[np.ndarray, np.ndarray]:
    """Two orthonormal directions that lie along no axis."""
    across = np.array([0.9, 0.3, 0.1])
    across /= np.linalg.norm(across)
    down = np.cross(across, [0.2, -0.4, 0.89])
    down /= np.linalg.norm(down)
    return across, down


def series(
    folder: Path,
    volume: np.ndarray,
    *,
    step: float = 2.5,
    spacing: tuple[float, float] = (0.7, 0.8),
    directions: tuple[np.ndarray, np.ndarray] | None = None,
    origin: tuple[float, float, float] = (-30.0, 12.0, 7.5),
    offsets: list[float] | None = None,
    **more,
) -> list[Path]:
    """One file a slice of ``volume`` (slices, rows, columns), at ``origin + offset * normal``.

    Names say nothing.
    """
    across, down = directions or (np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))
    normal = np.cross(across, down)
    places = offsets or [step * index for index in range(len(volume))]
    paths = []
    for index, (plane, place) in enumerate(zip(volume, places, strict=True)):
        dataset = image(
            plane,
            ImagePositionPatient=[f"{x:.10g}" for x in np.array(origin) + place * normal],
            ImageOrientationPatient=[f"{x:.10g}" for x in (*across, *down)],
            PixelSpacing=list(spacing),
            SliceThickness=step,
            InstanceNumber=len(volume) - index,
            **more,
        )
        paths.append(write(folder / f"{(index * 7) % len(volume):03d}_{index}", dataset))
    return paths
