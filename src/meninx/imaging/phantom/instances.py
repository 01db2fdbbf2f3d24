"""Valid DX and CT instances of invented patients: every Type 1 and 2 attribute of the IOD, nothing unusual yet."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, DigitalXRayImageStorageForPresentation

from meninx.imaging.phantom.geometry import SlicePlace
from meninx.imaging.phantom.people import Hospital, Person
from meninx.imaging.phantom.record import Record, code


@dataclass(frozen=True)
class Visit:
    """One instance's place in the archive: who, where, when, and its original identifiers."""

    home: Hospital
    who: Person
    patient: str
    sex: str
    age: int
    date: datetime.date
    time: str
    accession: str
    study_uid: str
    series_uid: str
    sop_uid: str
    frame_uid: str
    patient_id: str
    series_number: int = 1
    instance_number: int = 1

    @property
    def day(self) -> str:
        """The study date as DICOM writes it."""
        return self.date.strftime("%Y%m%d")


def uid(seed: int, *names: str | int) -> str:
    """Return a valid UID (root 2.25) that depends on the seed and the names only."""
    text = "/".join(map(str, ("phantom uid", seed, *names)))
    return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:15], 'big')}"


def base(visit: Visit, record: Record, modality: str, sop_class: str) -> Dataset:
    """Return a data set with the modules that all images share: patient, study, series, equipment, SOP common."""
    data = Dataset()
    who, home = visit.who, visit.home
    if who.charset:
        data.SpecificCharacterSet = list(who.charset)
    record.put(data, "SOPInstanceUID", visit.sop_uid, "uid")
    record.put(data, "StudyInstanceUID", visit.study_uid, "uid")
    record.put(data, "SeriesInstanceUID", visit.series_uid, "uid")
    data.SOPClassUID = sop_class
    record.put(data, "PatientName", who.name, "name", hide=_parts(who.name))
    record.put(data, "PatientID", visit.patient_id, "id", hide=[who.patient_id])
    record.put(data, "PatientBirthDate", who.birth_date.strftime("%Y%m%d"), "date")
    data.PatientSex = visit.sex
    record.put(
        data, "PatientAge", f"{visit.age:03d}Y", "age", hide=[f"{visit.age:03d}Y"] if visit.age > 89 else []
    )
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        record.put(data, keyword, visit.day, "date")
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(data, keyword, visit.time)
    record.put(data, "AccessionNumber", visit.accession, "id")
    data.StudyID = "1"
    record.put(
        data, "ReferringPhysicianName", home.physicians[0], "physician", hide=_parts(home.physicians[0])
    )
    record.put(data, "InstitutionName", home.institution, "institution")
    record.put(data, "StationName", home.station, "device")
    record.put(data, "DeviceSerialNumber", home.serial, "device")
    data.Modality, data.Manufacturer, data.ManufacturerModelName = modality, home.maker, home.model
    data.SoftwareVersions = "2.1"
    data.SeriesNumber, data.InstanceNumber = visit.series_number, visit.instance_number
    data.PatientOrientation = ["L", "F"]
    data.BurnedInAnnotation, data.LossyImageCompression = "NO", "00"
    return data


def dx(
    visit: Visit,
    record: Record,
    array: npt.NDArray[np.uint16],
    *,
    inverted: bool = False,
    burned: bool = False,
) -> Dataset:
    """Return a Digital X-Ray Image - For Presentation.

    Args:
        visit: identity and identifiers.
        record: notes what is written.
        array: uint16, shape (rows, columns), 0 to 4095, air dark.
        inverted: write MONOCHROME1 (stored values count the other way, the picture is the same).
        burned: the pixels hold text.
    """
    data = base(visit, record, "DX", DigitalXRayImageStorageForPresentation)
    data.ImageType = ["DERIVED", "PRIMARY"]
    data.PresentationIntentType = "FOR PRESENTATION"
    data.BodyPartExamined, data.ImageLaterality, data.ViewPosition = "CHEST", "U", "PA"
    data.AnatomicRegionSequence = Items([code("51185008", "SCT", "Chest")])
    data.ViewCodeSequence = Items([code("399348003", "SCT", "postero-anterior")])
    data.ViewCodeSequence[0].ViewModifierCodeSequence = Items()
    data.AcquisitionContextSequence = Items()
    record.keep(data, "StudyDescription", "CHEST PA", "descriptor")
    record.keep(data, "ProtocolName", "CHEST PA ADULT", "descriptor")
    data.KVP, data.Exposure, data.ExposureTime = "120", "3", "8"
    data.DetectorType = "DIRECT"
    pitch = f"{360 / array.shape[1]:.6g}"
    data.ImagerPixelSpacing = [pitch, pitch]
    data.PixelIntensityRelationship, data.PixelIntensityRelationshipSign = "LOG", 1
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = "0", "1", "US"
    data.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    data.WindowCenter, data.WindowWidth = "2048", "4096"
    data.BurnedInAnnotation = "YES" if burned else "NO"
    _pixels(data, (4095 - array) if inverted else array, "MONOCHROME1" if inverted else "MONOCHROME2", 12)
    if inverted:
        data.PixelIntensityRelationshipSign = -1
    return data


def ct(visit: Visit, record: Record, array: npt.NDArray[np.int16], place: SlicePlace) -> Dataset:
    """Return one CT slice.

    Args:
        visit: identity and identifiers.
        record: notes what is written.
        array: Hounsfield units, int16, shape (rows, columns); stored as unsigned values 1024 higher.
        place: where the slice lies.
    """
    data = base(visit, record, "CT", CTImageStorage)
    del data.PatientOrientation
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.BodyPartExamined, data.PatientPosition = "ABDOMEN", "HFS"
    record.keep(data, "StudyDescription", "CT ABDOMEN", "descriptor")
    record.keep(data, "SeriesDescription", "ABDOMEN VENOUS 3.0 B30F", "descriptor")
    record.put(data, "FrameOfReferenceUID", visit.frame_uid, "uid")
    data.PositionReferenceIndicator = ""
    data.KVP, data.AcquisitionNumber, data.XRayTubeCurrent = "100", 1, 180
    data.ConvolutionKernel = "B30f"
    data.ImageOrientationPatient = [f"{value:.8f}" for value in (*place.across, *place.down)]
    data.ImagePositionPatient = [f"{value:.6f}" for value in place.position]
    data.PixelSpacing = [f"{place.spacing[0]:.6f}", f"{place.spacing[1]:.6f}"]
    data.SliceThickness = f"{place.thickness:.6f}"
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = "-1024", "1", "HU"
    data.WindowCenter, data.WindowWidth = "40", "400"
    stored = np.clip(array.astype(np.int32) + 1024, 0, 4095).astype(np.uint16)
    _pixels(data, stored, "MONOCHROME2", 12)
    return data


def _pixels(data: Dataset, array: npt.NDArray[np.uint16], photometric: str, bits: int) -> None:
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric
    data.Rows, data.Columns = array.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, bits, bits - 1, 0
    data.PixelData = array.astype("<u2").tobytes()
    data["PixelData"].VR = "OW"


def _parts(name: str) -> list[str]:
    """Return every component of a person name that names somebody: at least four letters, or two in another script."""
    parts = [part for group in name.split("=") for part in group.split("^")]
    return [part for part in parts if len(part) >= 4 or (len(part) >= 2 and not part.isascii())]
