"""One original, its clean file, and identifiers planted into the clean file."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from meninx.deid.deidentifier import Deidentifier

ROOT = "1.2.826.0.1.3680043.10.999"
SURNAME, PATIENT_ID, BIRTH, STUDY_UID = "Quillfeather", "MRN-5512347", "19610502", f"{ROOT}.1.1"
ADDRESS = "Willowmere Infirmary"


def original(number: int = 1) -> Dataset:
    """Return a CT slice of 24 x 24 pixels of an invented patient."""
    ds = Dataset()
    ds.SpecificCharacterSet, ds.ImageType = "ISO_IR 100", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"{ROOT}.3.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY_UID, f"{ROOT}.2.1"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20190314"
    ds.StudyTime, ds.AccessionNumber, ds.Modality = "101500", "ACC778812", "CT"
    ds.Manufacturer, ds.InstitutionName = "ACME", ADDRESS
    ds.ReferringPhysicianName = "Brambleton^Ichabod"
    ds.StudyDescription, ds.SeriesDescription = "CT CHEST", "Thorax axial"
    ds.PatientName, ds.PatientID = f"{SURNAME}^Marigold", PATIENT_ID
    ds.PatientBirthDate, ds.PatientSex, ds.SliceThickness = BIRTH, "F", "2.5"
    ds.InstanceNumber, ds.ImagePositionPatient = str(number), [0, 0, number]
    ds.SamplesPerPixel, ds.Rows, ds.Columns = 1, 24, 24
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    values = np.random.default_rng(number).integers(0, 4096, 576)
    ds.PixelData = values.astype("<u2").tobytes()
    return ds


def saved(ds: Dataset) -> bytes:
    """Return the bytes of a DICOM file."""
    if "TransferSyntaxUID" not in getattr(ds, "file_meta", {}):
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@cache
def clean(number: int = 1) -> bytes:
    """Return the clean file of an original."""
    made = Deidentifier(key=bytes(range(7, 47)), site="north").deidentify(saved(original(number)))
    return made.content


def archive(folder: Path, count: int = 1) -> Path:
    """Write originals and return their folder."""
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        (folder / f"{number}.dcm").write_bytes(saved(original(number)))
    return folder


def changed(change: Callable[[Dataset], None]) -> bytes:
    """Return the clean file after a change."""
    ds = pydicom.dcmread(BytesIO(clean()))
    change(ds)
    return saved(ds)


def nested(ds: Dataset, keyword: str, value: object, depth: int) -> None:
    """Put a value into an attribute ``depth`` sequences deep."""
    inside = ds
    for _ in range(depth):
        deeper = Dataset()
        inside.DerivationImageSequence = Sequence([deeper])
        inside = deeper
    setattr(inside, keyword, value)
