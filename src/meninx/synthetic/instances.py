"""Valid DX and CT instances of invented patients, with every Type 1 and 2 attribute of the IOD.

A :class:`HeaderWriter` sets each attribute and records it for the answer key, so the two always agree.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from meninx.synthetic.abdomen import SlicePlace
from meninx.synthetic.people import Hospital, Person


class HeaderWriter:
    """Writer of attributes that records what was planted in one file, as (path, kind, value)."""

    def __init__(self) -> None:
        self.plants: list[tuple[str, str, str]] = []
        self.safe: list[tuple[str, str, str]] = []

    def note(self, path: str, kind: str, *values: str) -> None:
        """Record planted values; empty ones are left out."""
        self.plants.extend((path, kind, value) for value in values if value)

    def put(
        self,
        data: Dataset,
        keyword: str,
        value: Any,
        kind: str,
        *,
        at: str = "",
        hide: Sequence[str] | None = None,
    ) -> None:
        """Set an attribute and record it.

        Args:
            data: the data set or sequence item.
            keyword: DICOM keyword.
            value: value to write.
            kind: see :class:`~meninx.synthetic.key.Plant`.
            at: path of the item that ``data`` is, ending in ``/``.
            hide: the identifying parts of a longer text; None if the whole value identifies.
        """
        setattr(data, keyword, value)
        self.note(f"{at}{keyword}", kind, *(_texts(value) if hide is None else hide))

    def keep(self, data: Dataset, keyword: str, value: Any, kind: str, *, at: str = "") -> None:
        """Set an attribute that identifies nobody, and record that it may stay."""
        setattr(data, keyword, value)
        self.safe.extend((f"{at}{keyword}", kind, text) for text in _texts(value))


def item(data: Dataset, keyword: str, at: str = "") -> tuple[Dataset, str]:
    """Append an item to a sequence, which is created if missing; return the item and its path."""
    if tag_for_keyword(keyword) is None:
        raise ValueError(f"{keyword} is no DICOM keyword")
    if keyword not in data:
        setattr(data, keyword, Items())
    items = getattr(data, keyword)
    inner = Dataset()
    items.append(inner)
    return inner, f"{at}{keyword}[{len(items) - 1}]/"


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """Return a code sequence item."""
    inner = Dataset()
    inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = value, scheme, meaning
    return inner


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [str(one) for one in values]


@dataclass(frozen=True)
class Visit:
    """The identity of one instance: patient, hospital, date and original identifiers."""

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


def base(visit: Visit, record: HeaderWriter, modality: str, sop_class: str) -> Dataset:
    """Return a data set with the modules of all images: patient, study, series, equipment, SOP common."""
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
    record: HeaderWriter,
    array: npt.NDArray[np.uint16],
    *,
    inverted: bool = False,
    burned: bool = False,
) -> Dataset:
    """Return a Digital X-Ray Image - For Presentation.

    Args:
        visit: identity and identifiers.
        record: records what is written.
        array: uint16, shape (rows, columns), 0 to 4095, air dark.
        inverted: write MONOCHROME1: stored values are inverted, the displayed picture is the same.
        burned: whether the pixels contain text.
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


def ct(visit: Visit, record: HeaderWriter, array: npt.NDArray[np.int16], place: SlicePlace) -> Dataset:
    """Return one CT slice.

    Args:
        visit: identity and identifiers.
        record: records what is written.
        array: Hounsfield units, int16, shape (rows, columns); stored as unsigned values 1024 higher.
        place: position of the slice.
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
    """Return the identifying components of a name: four letters or more, or two in another script."""
    # Shorter components would be found by chance in other texts and would count as leaks.
    parts = [part for group in name.split("=") for part in group.split("^")]
    return [part for part in parts if len(part) >= 4 or (len(part) >= 2 and not part.isascii())]


NATIVE: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)
COMPRESSED: Final = (RLELossless, JPEGLSLossless, JPEG2000Lossless)
#: which encoding image number n of a hospital has: half of them plain, the rest in turn
TURNS: Final = (
    ExplicitVRLittleEndian,
    RLELossless,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
)


def encode(
    data: Dataset,
    syntax: str = ExplicitVRLittleEndian,
    *,
    visit: Visit | None = None,
    record: HeaderWriter | None = None,
) -> bytes:
    """Return a data set as a DICOM file.

    Args:
        data: the data set with native pixels, which are compressed here if the syntax requires it.
        syntax: UID of the transfer syntax.
        visit: with ``record``, identity to plant in preamble and file meta information; None for none.
        record: records what was planted.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax in COMPRESSED else UID(syntax)
    meta.ImplementationClassUID, meta.ImplementationVersionName = UID(uid(0, "implementation")), "PHANTOM_1"
    # The 128 bytes before the data set belong to no attribute, so a cleaner of attributes overlooks them.
    preamble = b"\0" * 128
    if visit is not None and record is not None:
        preamble = _betray(meta, visit, record)
    whole = FileDataset(BytesIO(), data, file_meta=meta, preamble=preamble)
    if syntax in COMPRESSED:
        whole.compress(syntax, generate_instance_uid=False)
    stream = BytesIO()
    dcmwrite(stream, whole, enforce_file_format=True, overwrite=True)
    return stream.getvalue()


def _betray(meta: FileMetaDataset, visit: Visit, record: HeaderWriter) -> bytes:
    """Plant the AE titles and private information in the file meta.

    Return a preamble that contains the patient's number.
    """
    record.put(meta, "SourceApplicationEntityTitle", visit.home.ae_title, "device", at="file meta/")
    record.put(meta, "SendingApplicationEntityTitle", visit.home.station, "device", at="file meta/")
    meta.PrivateInformationCreatorUID = UID(uid(0, "private information", visit.home.key))
    meta.PrivateInformation = f"exported for {visit.who.relative}".encode().ljust(64, b" ")
    record.note("file meta/PrivateInformation", "name", visit.who.relative)
    record.note("preamble", "id", visit.who.other_id, visit.who.phone)
    return f"II*\0 {visit.who.other_id} {visit.who.phone}".encode().ljust(128, b"\0")[:128]
