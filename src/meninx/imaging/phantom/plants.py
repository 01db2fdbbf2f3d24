"""Identifiers in public attributes: plain ones, free text, sequences down to the fourth level, unknown and UN-encoded elements.

Each function writes into one data set and notes what it wrote; :data:`EVERYWHERE` go into every file,
:data:`IN_TURN` by rotation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_sequence_item
from pydicom.sequence import Sequence as Items

from meninx.imaging.phantom.instances import Visit, uid
from meninx.imaging.phantom.record import Record, code, item

Planter = Callable[[Dataset, Visit, Record], None]


def demographics(data: Dataset, visit: Visit, record: Record) -> None:
    """Plant other IDs, other names, address, phones, mail, relatives, insurance, comments."""
    who = visit.who
    record.put(data, "IssuerOfPatientID", who.issuer, "id")
    record.put(data, "OtherPatientIDs", [who.other_id, who.social], "id")
    other, at = item(data, "OtherPatientIDsSequence")
    record.put(other, "PatientID", who.social, "id", at=at)
    record.put(other, "IssuerOfPatientID", who.issuer, "id", at=at)
    other.TypeOfPatientID = "TEXT"
    record.put(
        data,
        "OtherPatientNames",
        f"{who.mother.split('^')[0]}^{who.given}",
        "name",
        hide=[who.mother.split("^")[0], who.given],
    )
    record.put(data, "PatientBirthName", who.mother, "name", hide=who.mother.split("^"))
    record.put(data, "PatientMotherBirthName", who.mother, "name", hide=who.mother.split("^"))
    record.put(data, "PatientAddress", who.address, "address")
    record.put(data, "PatientTelephoneNumbers", who.phone, "phone")
    record.put(data, "PatientTelecomInformation", f"mailto:{who.email}", "email", hide=[who.email])
    record.put(data, "MedicalRecordLocator", f"REC-{who.other_id}", "id", hide=[who.other_id])
    record.put(data, "InsurancePlanIdentification", f"KV {who.social}", "id", hide=[who.social])
    record.put(
        data, "ResponsiblePerson", who.relative.replace(" ", "^"), "name", hide=who.relative.split(" ", 1)[:1]
    )
    record.put(data, "Occupation", who.family[:16].rstrip(), "name")
    data.PatientBirthTime, data.PatientSize, data.PatientWeight, data.SmokingStatus = (
        "041500",
        "1.71",
        "70",
        "NO",
    )


def staff(data: Dataset, visit: Visit, record: Record) -> None:
    """Plant physicians, operators, institution and departments."""
    home = visit.home
    last = home.physicians[1]
    for keyword in (
        "PerformingPhysicianName",
        "OperatorsName",
        "PhysiciansOfRecord",
        "NameOfPhysiciansReadingStudy",
        "RequestingPhysician",
    ):
        record.put(data, keyword, last, "physician", hide=last.split("^")[:2])
    record.put(data, "InstitutionAddress", home.address, "address")
    record.put(
        data,
        "InstitutionalDepartmentName",
        f"Radiology {home.institution}",
        "institution",
        hide=[home.institution],
    )
    inner, at = item(data, "ReferringPhysicianIdentificationSequence")
    inner.PersonIdentificationCodeSequence = Items(
        [code("7431", "99LOCAL", home.physicians[0].split("^")[0])]
    )
    record.note(
        f"{at}PersonIdentificationCodeSequence[0]/CodeMeaning", "physician", home.physicians[0].split("^")[0]
    )
    record.put(inner, "PersonAddress", home.address, "address", at=at)
    record.put(inner, "PersonTelephoneNumbers", home.phone, "phone", at=at)
    record.put(inner, "InstitutionName", home.institution, "institution", at=at)


def free_text(data: Dataset, visit: Visit, record: Record) -> None:
    """Plant names, numbers and dates among clinical words."""
    who, home = visit.who, visit.home
    doctor = home.physicians[0].split("^")[0]
    texts = {
        "ImageComments": (
            f"Chest PA, pat. {who.given} {who.family} could not stand; repeat.",
            "name",
            [who.given, who.family],
        ),
        "PatientComments": (
            f"Deaf. Call {who.relative} on {who.phone} before any examination",
            "phone",
            [who.phone, who.relative],
        ),
        "AdditionalPatientHistory": (
            f"Cough and fever since two weeks, MRN {who.patient_id}, seen by Dr. {doctor}. No pneumothorax.",
            "id",
            [who.patient_id, doctor],
        ),
        "StudyComments": (
            f"Compare with {visit.accession}; results to {who.email}",
            "email",
            [visit.accession, who.email],
        ),
        "RequestedProcedureDescription": (f"X-RAY CHEST {who.family}"[:64], "name", [who.family]),
        "AdmittingDiagnosesDescription": (f"Pleural effusion left, {who.other_id}", "id", [who.other_id]),
        "ReasonForStudy": (f"Dyspnoea. SSN {who.social}", "id", [who.social]),
    }
    for keyword, (value, kind, hide) in texts.items():
        record.put(data, keyword, value, kind, hide=hide)
    moment = f"{visit.day}{visit.time}+0100"
    record.put(data, "AcquisitionDateTime", moment, "date", hide=[visit.day])


def request(data: Dataset, visit: Visit, record: Record) -> None:
    """Plant the request, with a name in a content item four sequences deep."""
    who = visit.who
    inner, at = item(data, "RequestAttributesSequence")
    record.put(inner, "RequestedProcedureID", f"RP{visit.accession[-8:]}", "id", at=at)
    record.put(inner, "ScheduledProcedureStepID", f"SPS{visit.accession[-8:]}", "id", at=at)
    record.put(
        inner, "RequestedProcedureDescription", f"Chest PA {who.given}", "name", at=at, hide=[who.given]
    )
    record.put(inner, "AccessionNumber", visit.accession, "id", at=at)
    protocol, at = item(inner, "ScheduledProtocolCodeSequence", at)
    protocol.CodeValue, protocol.CodingSchemeDesignator, protocol.CodeMeaning = "CHEST1", "99LOCAL", "Chest"
    context, at = item(protocol, "ProtocolContextSequence", at)
    context.ValueType, context.TextValue = "TEXT", "Chest PA"
    context.ConceptNameCodeSequence = Items([code("121106", "DCM", "Comment")])
    modifier, at = item(context, "ContentItemModifierSequence", at)
    modifier.ValueType = "PNAME"
    modifier.ConceptNameCodeSequence = Items([code("121029", "DCM", "Subject Name")])
    record.put(modifier, "PersonName", who.name, "name", at=at, hide=[who.family, who.given])


def unknown(data: Dataset, visit: Visit, record: Record) -> None:
    """Plant text in even groups that no dictionary knows."""
    for tag, vr, value, kind in (
        (0x0010_9F01, "LO", visit.who.family, "name"),
        (0x0012_9F10, "LT", visit.who.phone, "phone"),
        (0x2212_0010, "PN", visit.who.name, "name"),
        (0x0040_9F02, "UT", visit.who.email, "email"),
    ):
        data.add(DataElement(tag, vr, value))
        record.note(_tag(tag), kind, visit.who.family if vr == "PN" else value)


def undeclared(data: Dataset, visit: Visit, record: Record) -> None:
    """Plant UN-encoded values: text under an unknown tag, a known text attribute, and a known sequence."""
    encoding = (
        convert_encodings(list(visit.who.charset) or ["ISO_IR 6"])[-1]
        if visit.who.family.isascii() is False
        else "ascii"
    )
    data.add(_un(0x0010_9F11, _even(visit.who.family.encode(encoding))))
    record.note(_tag(0x0010_9F11), "name", visit.who.family)
    data.add(_un(0x0010_2110, _even(f"Latex, ask {visit.who.phone}".encode())))
    record.note("Allergies", "phone", visit.who.phone)
    inner = Dataset()
    inner.PatientID, inner.AccessionNumber = visit.who.patient_id, visit.accession
    inner.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.1.1"
    data.add(_un(0x0008_1120, _sequence_bytes(inner)))
    record.note("ReferencedPatientSequence[0]/PatientID", "id", visit.who.patient_id)
    record.note("ReferencedPatientSequence[0]/AccessionNumber", "id", visit.accession)


def old_and_long(data: Dataset, visit: Visit, record: Record) -> None:
    """Plant URLs, unlimited text and retired attributes."""
    who = visit.who
    url = f"https://pacs.{visit.home.key}.invalid/studies?mrn={who.patient_id.replace(' ', '%20')}&acc={visit.accession}"
    record.put(data, "RetrieveURL", url, "url", hide=[f"acc={visit.accession}"])
    record.put(
        data,
        "TextValue",
        f"Dictated for {who.given}, born {who.birth_date.strftime('%d.%m.%Y')}",
        "name",
        hide=[who.given],
    )
    record.put(data, "InterpretationText", f"Report on {who.family}: clear lungs", "name", hide=[who.family])
    record.put(
        data,
        "InterpretationRecorder",
        visit.home.physicians[1],
        "physician",
        hide=[visit.home.physicians[1].split("^")[0]],
    )
    record.put(data, "StudyIDIssuer", who.issuer, "id")
    record.put(
        data,
        "PatientInsurancePlanCodeSequence",
        Items([code("KV1", "99LOCAL", who.social)]),
        "id",
        hide=[who.social],
    )


def original_attributes(data: Dataset, visit: Visit, record: Record) -> None:
    """Plant the values before a correction."""
    inner, at = item(data, "OriginalAttributesSequence")
    inner.AttributeModificationDateTime = f"{visit.day}{visit.time}"
    inner.ReasonForTheAttributeModification = "CORRECT"
    record.put(inner, "ModifyingSystem", visit.home.institution, "institution", at=at)
    record.put(inner, "SourceOfPreviousValues", visit.home.ae_title, "device", at=at)
    before, at = item(inner, "ModifiedAttributesSequence", at)
    record.put(before, "PatientName", visit.who.mother, "name", at=at, hide=visit.who.mother.split("^"))
    record.put(before, "PatientID", visit.who.other_id, "id", at=at)


def references(data: Dataset, visit: Visit, record: Record) -> None:
    """Plant UIDs of other objects of the patient, among them one that is in the archive (the study's own)."""
    inner, at = item(data, "ReferencedStudySequence")
    inner.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    record.put(inner, "ReferencedSOPInstanceUID", visit.study_uid, "uid", at=at)
    inner, at = item(data, "SourceImageSequence")
    inner.ReferencedSOPClassUID = str(data.SOPClassUID)
    record.put(inner, "ReferencedSOPInstanceUID", uid(0, "raw", visit.sop_uid), "uid", at=at)
    record.put(data, "IrradiationEventUID", uid(0, "irradiation", visit.sop_uid), "uid")


def _un(tag: int, value: bytes) -> DataElement:
    """Return an element that stays UN, although the dictionary knows better."""
    element = DataElement(tag, "OB", value)
    element.VR = "UN"
    return element


def _sequence_bytes(inner: Dataset) -> bytes:
    """Return one item as implicit little-endian bytes, as UN-encoded sequences are."""
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, True
    write_sequence_item(stream, inner, ["iso8859"])
    return stream.getvalue()


def _even(value: bytes) -> bytes:
    return value + b" " * (len(value) % 2)


def _tag(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


EVERYWHERE: Final[tuple[Planter, ...]] = (demographics, staff, free_text)
IN_TURN: Final[tuple[Planter, ...]] = (
    request,
    unknown,
    undeclared,
    old_and_long,
    original_attributes,
    references,
)
