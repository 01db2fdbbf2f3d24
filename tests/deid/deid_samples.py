"""Small DICOM files with a patient's data in them, made anew for every test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from meninx.deid.config import DeidConfig
from meninx.deid.deid_result import DeidResult
from meninx.deid.stage import run

ROOT = "1.2.826.0.1.3680043.10.999"
NAME, PATIENT_ID, ACCESSION, DOCTOR = (
    "Quillfeather^Marigold^Ann",
    "0000123",
    "ACC-778812",
    "Brambleton^Ichabod",
)
PLANTED = (
    "Quillfeather",
    "Marigold",
    "0000123",
    "ACC-778812",
    "Brambleton",
    "Ichabod",
    "Willowmere",
    "20190314",
    "19610502",
)
KEY = bytes(range(7, 47))


def image(number: int = 1, *, study: int = 1, series: int = 1, **changes: Any) -> Dataset:
    """Return a CT slice of 8 x 8 pixels with a full header.

    Keyword arguments change or (None) remove attributes.
    """
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = f"{ROOT}.3.{study}.{series}.{number}"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20190314"
    ds.StudyTime = ds.ContentTime = "101500.25"
    ds.AccessionNumber = ACCESSION
    ds.Modality = "CT"
    ds.Manufacturer = "ACME"
    ds.InstitutionName = "Willowmere Infirmary"
    ds.ReferringPhysicianName = DOCTOR
    ds.StudyDescription = "CT CHEST for Marigold"
    ds.SeriesDescription = "Thorax axial"
    ds.PatientName = NAME
    ds.PatientID = PATIENT_ID
    ds.PatientBirthDate = "19610502"
    ds.PatientSex = "F"
    ds.PatientWeight = "61.5"
    ds.SliceThickness = "2.5"
    ds.KVP = "120"
    ds.StudyInstanceUID = f"{ROOT}.1.{study}"
    ds.SeriesInstanceUID = f"{ROOT}.2.{study}.{series}"
    ds.FrameOfReferenceUID = f"{ROOT}.4.{study}"
    ds.StudyID = "S77"
    ds.InstanceNumber = str(number)
    ds.ImagePositionPatient = [0, 0, number]
    ds.SamplesPerPixel, ds.Rows, ds.Columns = 1, 8, 8
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = np.arange(64, dtype="<u2").tobytes()
    for keyword, value in changes.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    return ds


def save(
    ds: Dataset,
    path: Path,
    *,
    syntax: str = ExplicitVRLittleEndian,
    preamble: bytes = bytes(128),
    **meta: Any,
) -> Path:
    """Write a data set as a DICOM file and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", CTImageStorage)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", f"{ROOT}.9")
    ds.file_meta.TransferSyntaxUID = syntax
    for keyword, value in meta.items():
        setattr(ds.file_meta, keyword, value)
    ds.preamble = preamble
    little, implicit = syntax != "1.2.840.10008.1.2.2", syntax == "1.2.840.10008.1.2"
    pydicom.dcmwrite(path, ds, implicit_vr=implicit, little_endian=little, force_encoding=True)
    return path


def item(**values: Any) -> Dataset:
    """Return a sequence item."""
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def nested(levels: int, inside: Dataset) -> Dataset:
    """Return an item that holds ``inside`` that many sequences deeper."""
    for _ in range(levels):
        inside = item(DerivationImageSequence=Sequence([inside]))
    return inside


def key_file(folder: Path, secret: bytes = KEY, name: str = "site.key") -> Path:
    """Write a site key and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(secret)
    (folder / name).chmod(0o600)
    return folder / name


def clean(tmp: Path, out: str = "out", source: str = "in", **config: Any) -> DeidResult:
    """De-identify ``tmp/in`` into ``tmp/out`` in this process."""
    config.setdefault("key", key_file(tmp))
    config.setdefault("site", "north")
    config.setdefault("workers", 1)
    return run(DeidConfig(**config), tmp / source, tmp / out)


def one(
    tmp: Path, ds: Dataset, *, out: str = "out", syntax: str = ExplicitVRLittleEndian, **config: Any
) -> pydicom.FileDataset:
    """Return what becomes of one data set, read back."""
    save(ds, tmp / "in" / "a", syntax=syntax)
    result = clean(tmp, out, **config)
    assert result.files_written == 1, result.quarantined
    return pydicom.dcmread(images(tmp / out)[0])


def images(out: Path) -> list[Path]:
    """Return the written instances, sorted."""
    return sorted((out / "images").rglob("*.dcm"))


def tree(out: Path) -> dict[str, bytes]:
    """Return every file below ``out`` with its bytes."""
    return {
        str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
    }


def leaks(out: Path, planted: tuple[str, ...] = PLANTED) -> list[str]:
    """Return the planted strings that occur anywhere outside the private room, names of files included."""
    content = {name: data for name, data in tree(out).items() if not name.startswith("private/")}
    return [
        f"{text} in {name}"
        for name, data in content.items()
        for text in planted
        if text.lower().encode() in data.lower() + name.lower().encode()
    ]
