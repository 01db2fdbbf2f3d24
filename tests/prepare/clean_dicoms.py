"""De-identified DICOM files for the tests, made from arrays; no data of anyone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

DX, CT = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.2"


def uid(*names: object) -> str:
    return generate_uid(entropy_srcs=[str(name) for name in names])


def image(pixels: np.ndarray, *, patient="P1", series="s1", number=1, clean=True, **more) -> Dataset:
    colour = pixels.ndim == 3
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = more.pop("SOPClassUID", DX), uid(patient, series, number)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(patient, "study"), uid(patient, series)
    dataset.PatientID, dataset.PatientName, dataset.Modality = patient, "Planted^Person", "DX"
    dataset.PatientSex, dataset.PatientAge, dataset.StudyDescription = "F", "057Y", "planted description"
    if clean:
        dataset.PatientIdentityRemoved = "YES"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
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


def series(folder: Path, volume: np.ndarray, *, patient="P1", name="ct", heights=None, **more) -> list[Path]:
    """One file a slice of (slices, rows, columns), 2 mm apart."""
    paths = []
    for index, plane in enumerate(volume):
        place = {
            "ImagePositionPatient": [1, 2, heights[index] if heights else 2 * index],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [0.5, 0.75],
            "FrameOfReferenceUID": uid(patient, "frame"),
        }
        dataset = image(
            plane,
            patient=patient,
            series=name,
            number=index,
            SOPClassUID=CT,
            **(place | {"Modality": "CT"} | more),
        )
        paths.append(write(folder / f"{name}-{len(volume) - index}.dcm", dataset))
    return paths


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
