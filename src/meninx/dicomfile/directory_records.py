"""What a DICOMDIR says about a patient, a study, a series and an instance (DICOM PS3.3 F.5).

The attributes of each type of record are those of ``pydicom.fileset``; their values come from the file. Some
values that a record requires are empty in a clean file, e.g. StudyID: :class:`StandIns` fills these places
and counts them.

>>> record_type("1.2.840.10008.5.1.4.1.1.2"), record_type("1.2.840.10008.5.1.4.1.1.88.67")
('IMAGE', 'SR DOCUMENT')
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomIO
from pydicom.fileset import DIRECTORY_RECORDERS
from pydicom.filewriter import write_dataset

PATIENT, STUDY, SERIES, IMAGE, PRIVATE = "PATIENT", "STUDY", "SERIES", "IMAGE", "PRIVATE"
PRIVATE_RECORD = "2.25.301843263226921417336137285105240713512"
"""PrivateRecordUID of a record for an instance whose class has no type of record. Readers pass over it."""
_TYPES = (  # part of the name of a SOP class -> type of its record; the first match counts
    (r"Presentation State|Structured Display", "PRESENTATION"),
    (r" SR Storage|Procedure Log|Spectacle Prescription|Macular Grid", "SR DOCUMENT"),
    (r"Key Object Selection", "KEY OBJECT DOC"),
    (r"Waveform", "WAVEFORM"),
    (r"Spectroscopy", "SPECTROSCOPY"),
    (r"Treatment (Summary )?Record", "RT TREAT RECORD"),
    (r"RT Dose", "RT DOSE"),
    (r"RT Structure Set", "RT STRUCTURE SET"),
    (r"RT (Ion )?Plan", "RT PLAN"),
    (r"RT (Beams|Brachy).*Delivery Instruction", "PLAN"),
    (r"RT (Physician|Segment|Radiation|Treatment Prep|Patient Pos)|-Arm|Tomother|Robotic", "RADIOTHERAPY"),
    (r"Spatial Registration", "REGISTRATION"),
    (r"Fiducials", "FIDUCIAL"),
    (r"Real World Value", "VALUE MAP"),
    (r"Stereometric", "STEREOMETRIC"),
    (r"Measurements|Intraocular Lens", "MEASUREMENT"),
    (r"Surface Segmentation", "SURFACE"),
    (r"Surface Scan", "SURFACE SCAN"),
    (r"Tractography", "TRACT"),
    (r"Content Assessment", "ASSESSMENT"),
    (r"Bulk Simple Annotations", "ANNOTATION"),
    (r"Image|US Volume|Segmentation|Parametric Map|Thickness Map|Topography Map|B-scan Volume", IMAGE),
)
_RECORDERS = {**DIRECTORY_RECORDERS, "ANNOTATION": DIRECTORY_RECORDERS["SURFACE"]}  # the same attributes
_NO_CLASS = re.compile(r"Retired|Trial|DICOS|Standalone")
_MODIFIER = "HAS CONCEPT MOD"
_DATES = ("StudyDate", "ContentDate", "PresentationCreationDate", "InstanceCreationDate")
_TIMES = ("StudyTime", "ContentTime", "PresentationCreationTime")
_OPTIONAL = (  # a record has them if the file does, and then with a value
    "VerificationDateTime",
    "ReferencedSeriesSequence",
    "BlendingSequence",
    "ReferencedImageEvidenceSequence",
    "UserContentLabel",
    "UserContentLongLabel",
)


_KEYWORDS = """
    SpecificCharacterSet PatientName PatientID StudyDate StudyTime StudyDescription StudyInstanceUID StudyID
    AccessionNumber Modality SeriesInstanceUID SeriesNumber InstanceNumber SOPClassUID SOPInstanceUID
    ContentDate ContentTime ContentLabel ContentDescription ContentCreatorName ConceptNameCodeSequence
    ContentSequence CompletionFlag VerificationFlag VerificationDateTime PresentationCreationDate
    PresentationCreationTime ReferencedSeriesSequence BlendingSequence DoseSummationType StructureSetLabel
    StructureSetDate StructureSetTime RTPlanLabel RTPlanDate RTPlanTime TreatmentDate TreatmentTime ImageType
    NumberOfFrames Rows Columns DataPointRows DataPointColumns ReferencedImageEvidenceSequence
    InstanceCreationDate InstanceCreationTime UserContentLabel UserContentLongLabel
"""
KEYWORDS = tuple(_KEYWORDS.split())
"""All attributes that a record can hold or is made from."""


@lru_cache(maxsize=1024)
def record_type(sop_class: str) -> str:
    """Return the type of record that a SOP class has; ``PRIVATE`` for one that has none."""
    name, _, info, retired, _ = UID_dictionary.get(sop_class, ("", "", "", "", ""))
    if _NO_CLASS.search(f"{name} {info}") or (retired and "Image" not in name):
        return PRIVATE
    return next((kind for pattern, kind in _TYPES if re.search(pattern, name)), PRIVATE)


@dataclass
class StandIns:
    """Values for places that a record must fill and the file leaves empty.

    A number counts within the next higher level, a day is 1 January 1900 and a time midnight.

    Attributes:
        used: keyword -> records in which a stand-in is written.
    """

    used: Counter[str] = field(default_factory=Counter)

    def fill(self, header: Dataset, numbers: Mapping[str, int]) -> frozenset[str]:
        """Fill the empty places of a header, and return their keywords.

        Args:
            header: read for these records alone; it is changed.
            numbers: keyword -> number, e.g. of the study of its patient for ``StudyID``.
        """
        usual = dict.fromkeys(_DATES, "19000101") | dict.fromkeys(_TIMES, "000000")
        usual |= {"Modality": "OT", "ContentLabel": "UNNAMED"}
        usual |= {name: str(number) for name, number in numbers.items()}
        if (
            header.get("VerificationFlag") == "VERIFIED"
        ):  # a report then says when, in an item that is removed
            usual["VerificationDateTime"] = "19000101000000"
        for name in KEYWORDS:
            if name in header and not _is_readable(header, name):
                del header[name]
        empty = frozenset(name for name in usual if not _has_value(header, name))
        for name in empty:
            header[name] = DataElement(name, dictionary_VR(name), usual[name])
        for name in _OPTIONAL:
            if name in header and not _has_value(header, name):
                del header[name]
        return empty

    def count(self, record: Dataset, empty: frozenset[str]) -> None:
        """Count the stand-ins in a record that is written."""
        self.used.update(name for name in empty if name in record)


def entity(kind: str, header: Dataset) -> Dataset:
    """Return the record of a patient, a study or a series.

    Raises:
        Exception: the header lacks what the record requires; any, as pydicom reads values late.
    """
    return _with_charset(DIRECTORY_RECORDERS[kind](header), header)


def instance(header: Dataset, file_id: tuple[str, ...]) -> tuple[str, Dataset]:
    """Return the type and the record of an instance.

    The record is a private one if the class has no type, or if the file lacks what the type requires.

    Args:
        header: of the file, with its meta information.
        file_id: components of the file's name on the medium.

    Raises:
        Exception: as :func:`entity`; SOP class, instance or transfer syntax is missing.
    """
    kind, record = record_type(header.SOPClassUID), Dataset()
    try:
        if kind != PRIVATE:
            _keep_modifiers(header)
            record = _with_charset(_RECORDERS[kind](header), header)
            encoded(record)
    except Exception:  # a required value is missing, or cannot be read or written
        kind = PRIVATE
    if kind == PRIVATE:
        record = Dataset()
        record.PrivateRecordUID = PRIVATE_RECORD
    record.ReferencedFileID = list(file_id)
    record.ReferencedSOPClassUIDInFile = header.SOPClassUID
    record.ReferencedSOPInstanceUIDInFile = header.SOPInstanceUID
    record.ReferencedTransferSyntaxUIDInFile = header.file_meta.TransferSyntaxUID
    return kind, record


def encoded(record: Dataset) -> bytes:
    """Return a record in Explicit VR Little Endian.

    Raises:
        Exception: a value cannot be written.
    """
    buffer = io.BytesIO()
    stream = DicomIO(buffer)
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, record)
    return buffer.getvalue()


def _is_readable(header: Dataset, keyword: str) -> bool:
    """Return whether a record can hold the value: it was read, and can be made, as the dictionary says."""
    try:
        element, vr = header[keyword], dictionary_VR(keyword)
        return element.VR == vr == DataElement(keyword, vr, element.value).VR
    except Exception:
        return False


def _has_value(header: Dataset, keyword: str) -> bool:
    return keyword in header and header[keyword].VM > 0 and bool(str(header[keyword].value).strip())


def _keep_modifiers(header: Dataset) -> None:
    """Keep of a report's content what modifies its title, which is all that a record may have of it."""
    items = [
        item for item in header.get("ContentSequence") or [] if item.get("RelationshipType") == _MODIFIER
    ]
    if items:
        header.ContentSequence = items
    elif "ContentSequence" in header:
        del header.ContentSequence


def _with_charset(record: Dataset, header: Dataset) -> Dataset:
    if "SpecificCharacterSet" in header:
        record.SpecificCharacterSet = header.SpecificCharacterSet
    return record
