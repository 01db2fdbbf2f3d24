"""Planted identifiers in attributes, free text, sequences, unknown and private elements, and pictures.

Each function writes into one data set and records what it wrote. Those of :data:`EVERYWHERE` apply to every
file, those of :data:`IN_TURN` and :data:`PRIVATE_IN_TURN` by rotation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_sequence_item
from pydicom.sequence import Sequence as Items

from meninx.synthetic.instances import HeaderWriter, Visit, code, item, uid

TextBox = tuple[int, int, int, int]


def bitmap(
    lines: Sequence[str], rows: int, columns: int, *, points: int = 10
) -> tuple[npt.NDArray[np.bool_], tuple[TextBox, ...]]:
    """Return a picture of lines of text and the box of each line.

    Args:
        lines: texts; letters that the font lacks are drawn as its replacement box.
        rows: height of the picture.
        columns: width of the picture; lines that are too long are cut.
        points: letter height in pixels.

    Returns:
        Bool array of shape (rows, columns), True on a letter, and (left, top, right, bottom) per line,
        right and bottom exclusive.
    """
    canvas = Pillow.new("L", (columns, rows))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(points)
    boxes: list[TextBox] = []
    for number, line in enumerate(lines):
        place = (2, 1 + number * (points + 3))
        pen.text(place, line, fill=255, font=font)
        left, top, right, bottom = pen.textbbox(place, line, font=font)
        boxes.append(
            (max(0, int(left)), max(0, int(top)), min(columns, int(right) + 1), min(rows, int(bottom) + 1))
        )
    return np.asarray(canvas) > 127, tuple(boxes)


def burn(
    array: npt.NDArray[np.uint16], lines: Sequence[str], value: int, *, points: int = 10
) -> tuple[npt.NDArray[np.uint16], tuple[TextBox, ...]]:
    """Return the image with lines of text in its top left corner, and the box of each line."""
    letters, boxes = bitmap(lines, *array.shape, points=points)
    return np.where(letters, np.uint16(value), array).astype(np.uint16), boxes


def packed(letters: npt.NDArray[np.bool_]) -> bytes:
    """Return a bitmap as DICOM OverlayData: one bit per pixel, first pixel in the lowest bit, even length."""
    bits: npt.NDArray[Any] = np.packbits(letters.reshape(-1), bitorder="little")
    return bits.tobytes() + b"\0" * (bits.size % 2)


Planter = Callable[[Dataset, Visit, HeaderWriter], None]


def demographics(data: Dataset, visit: Visit, record: HeaderWriter) -> None:
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


def staff(data: Dataset, visit: Visit, record: HeaderWriter) -> None:
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


def free_text(data: Dataset, visit: Visit, record: HeaderWriter) -> None:
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


def request(data: Dataset, visit: Visit, record: HeaderWriter) -> None:
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


def unknown(data: Dataset, visit: Visit, record: HeaderWriter) -> None:
    """Plant text in even groups that are in no dictionary."""
    for tag, vr, value, kind in (
        (0x0010_9F01, "LO", visit.who.family, "name"),
        (0x0012_9F10, "LT", visit.who.phone, "phone"),
        (0x2212_0010, "PN", visit.who.name, "name"),
        (0x0040_9F02, "UT", visit.who.email, "email"),
    ):
        data.add(DataElement(tag, vr, value))
        record.note(_tag(tag), kind, visit.who.family if vr == "PN" else value)


def undeclared(data: Dataset, visit: Visit, record: HeaderWriter) -> None:
    """Plant UN-encoded values: text under an unknown tag, a known text attribute, and a known sequence."""
    # The bytes must be in the character set of the file, because UN values are written as they are.
    encoding = (
        convert_encodings(list(visit.who.charset) or ["ISO_IR 6"])[-1]
        if visit.who.family.isascii() is False
        else "ascii"
    )
    data.add(_un(0x0010_9F11, _padded_even(visit.who.family.encode(encoding))))
    record.note(_tag(0x0010_9F11), "name", visit.who.family)
    data.add(_un(0x0010_2110, _padded_even(f"Latex, ask {visit.who.phone}".encode())))
    record.note("Allergies", "phone", visit.who.phone)
    inner = Dataset()
    inner.PatientID, inner.AccessionNumber = visit.who.patient_id, visit.accession
    inner.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.1.1"
    data.add(_un(0x0008_1120, _sequence_bytes(inner)))
    record.note("ReferencedPatientSequence[0]/PatientID", "id", visit.who.patient_id)
    record.note("ReferencedPatientSequence[0]/AccessionNumber", "id", visit.accession)


def old_and_long(data: Dataset, visit: Visit, record: HeaderWriter) -> None:
    """Plant URLs, unlimited text and retired attributes."""
    who = visit.who
    query = f"mrn={who.patient_id.replace(' ', '%20')}&acc={visit.accession}"
    url = f"https://pacs.{visit.home.key}.invalid/studies?{query}"
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


def original_attributes(data: Dataset, visit: Visit, record: HeaderWriter) -> None:
    """Plant the values before a correction."""
    inner, at = item(data, "OriginalAttributesSequence")
    inner.AttributeModificationDateTime = f"{visit.day}{visit.time}"
    inner.ReasonForTheAttributeModification = "CORRECT"
    record.put(inner, "ModifyingSystem", visit.home.institution, "institution", at=at)
    record.put(inner, "SourceOfPreviousValues", visit.home.ae_title, "device", at=at)
    before, at = item(inner, "ModifiedAttributesSequence", at)
    record.put(before, "PatientName", visit.who.mother, "name", at=at, hide=visit.who.mother.split("^"))
    record.put(before, "PatientID", visit.who.other_id, "id", at=at)


def references(data: Dataset, visit: Visit, record: HeaderWriter) -> None:
    """Plant UIDs of other objects of the patient, among them one that is in the archive (the study's own)."""
    inner, at = item(data, "ReferencedStudySequence")
    inner.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    record.put(inner, "ReferencedSOPInstanceUID", visit.study_uid, "uid", at=at)
    inner, at = item(data, "SourceImageSequence")
    inner.ReferencedSOPClassUID = str(data.SOPClassUID)
    record.put(inner, "ReferencedSOPInstanceUID", uid(0, "raw", visit.sop_uid), "uid", at=at)
    record.put(data, "IrradiationEventUID", uid(0, "irradiation", visit.sop_uid), "uid")


def _un(tag: int, value: bytes) -> DataElement:
    """Return an element that stays UN, although its VR is in the dictionary."""
    element = DataElement(tag, "OB", value)
    element.VR = "UN"
    return element


def _sequence_bytes(inner: Dataset) -> bytes:
    """Return one item as implicit little-endian bytes, as UN-encoded sequences are."""
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, True
    write_sequence_item(stream, inner, ["iso8859"])
    return stream.getvalue()


def _padded_even(value: bytes) -> bytes:
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


#: elements of DICOM PS3.15 Table E.3.10-1: creator, group, element offset, VR, value
SAFE: Final[tuple[tuple[str, int, int, str, Any], ...]] = (
    ("SIEMENS MR HEADER", 0x0019, 0x0C, "IS", "1000"),
    ("SIEMENS MR HEADER", 0x0019, 0x0D, "CS", "DIRECTIONAL"),
    ("GEMS_PARM_01", 0x0043, 0x39, "IS", ["800", "8", "0", "0"]),
    ("Philips Imaging DD 001", 0x2001, 0x03, "FL", 500.0),
    ("Philips Imaging DD 001", 0x2001, 0x0B, "CS", "TRANSVERSAL"),
    ("ELSCINT1", 0x01F1, 0x26, "DS", "0.984"),
)


def unsafe_private(data: Dataset, visit: Visit, record: HeaderWriter) -> None:
    """Plant private elements: without a creator, in a second block, and in a private sequence."""
    who = visit.who
    data.add(DataElement(0x0033_1001, "LO", who.family))
    record.note("(0033,1001)", "name", who.family)
    first = data.private_block(0x0029, "PLUME IMAGING SHADOW", create=True)
    first.add_new(0x01, "LO", f"op {visit.home.physicians[1].split('^')[0]}")
    record.note("(0029,1001)", "physician", visit.home.physicians[1].split("^")[0])
    second = data.private_block(0x0029, f"{visit.home.key.upper()} WORKLIST 1.0", create=True)
    second.add_new(0x10, "UT", f"<patient><name>{who.family}</name><mrn>{who.patient_id}</mrn></patient>")
    record.note("(0029,1110)", "name", who.family, who.patient_id)
    second.add_new(0x11, "OB", _padded_even(f"phone={who.phone}".encode()))
    record.note("(0029,1111)", "phone", who.phone)
    inner = Dataset()
    if who.charset:
        inner.SpecificCharacterSet = list(who.charset)
    inner.PatientName = who.name
    inner.private_block(0x0031, "PLUME NESTED", create=True).add_new(0x02, "SH", who.social)
    second.add_new(0x12, "SQ", Items([inner]))
    record.note("(0029,1112)[0]/PatientName", "name", who.family, who.given)
    record.note("(0029,1112)[0]/(0031,1002)", "id", who.social)


def safe_private(data: Dataset, visit: Visit, record: HeaderWriter) -> None:
    """Write safe private elements, and an unsafe element in the block of the same creator."""
    for creator, group, offset, vr, value in SAFE:
        block = data.private_block(group, creator, create=True)
        block.add_new(offset, vr, value)
        texts = value if isinstance(value, list) else [value]
        record.safe.extend(
            (f"({group:04X},xx{offset:02X}) {creator}", "safe_private", str(text)) for text in texts
        )
    # A cleaner that keeps the whole block of a safe creator would keep this element as well.
    data.private_block(0x0019, "SIEMENS MR HEADER").add_new(0x55, "LO", f"tech {visit.who.relative}")
    record.note("(0019,1055)", "name", visit.who.relative)


def overlay(data: Dataset, visit: Visit, record: HeaderWriter) -> None:
    """Plant an overlay whose bitmap is the patient's name, with labels, in groups 6000 and 6002."""
    who = visit.who
    letters, _ = bitmap([who.family, who.patient_id], int(data.Rows), int(data.Columns))
    for group in (0x6000, 0x6002):
        at = f"({group:04X},3000)"
        for element, vr, value in (
            (0x0010, "US", int(data.Rows)),
            (0x0011, "US", int(data.Columns)),
            (0x0022, "LO", f"Annotation {who.given}"),
            (0x0040, "CS", "G"),
            (0x0050, "SS", [1, 1]),
            (0x0100, "US", 1),
            (0x0102, "US", 0),
            (0x1500, "LO", who.family),
            (0x3000, "OW", packed(letters)),
        ):
            data.add(DataElement((group << 16) | element, vr, value))
        record.note(f"({group:04X},0022)", "name", who.given)
        record.note(f"({group:04X},1500)", "name", who.family)
        record.note(at, "bitmap", f"{who.family}/{who.patient_id}")


def curve(data: Dataset, visit: Visit, record: HeaderWriter) -> None:
    """Plant a retired curve with a labelled description."""
    for element, vr, value in (
        (0x0005, "US", 1),
        (0x0010, "US", 4),
        (0x0020, "CS", "ECG"),
        (0x0022, "LO", f"ECG of {visit.who.family}"),
        (0x2500, "LO", visit.who.phone),
        (0x3000, "OW", np.arange(4, dtype="<u2").tobytes()),
    ):
        data.add(DataElement((0x5000 << 16) | element, vr, value))
    record.note("(5000,0022)", "name", visit.who.family)
    record.note("(5000,2500)", "phone", visit.who.phone)


def icon(data: Dataset, visit: Visit, record: HeaderWriter) -> None:
    """Plant a thumbnail with the name in its pixels."""
    letters, _ = bitmap([visit.who.family], 32, 64)
    inner, at = item(data, "IconImageSequence")
    inner.SamplesPerPixel, inner.PhotometricInterpretation = 1, "MONOCHROME2"
    inner.Rows, inner.Columns = 32, 64
    inner.BitsAllocated, inner.BitsStored, inner.HighBit, inner.PixelRepresentation = 8, 8, 7, 0
    inner.PixelData = np.where(letters, np.uint8(255), np.uint8(40)).tobytes()
    inner["PixelData"].VR = "OB"
    record.note(f"{at}PixelData", "bitmap", visit.who.family)


def spare_bits(data: Dataset, visit: Visit, record: HeaderWriter) -> None:
    """Plant the name as a picture in the highest unused bit of the pixels (native encodings only)."""
    pixels = np.frombuffer(data.PixelData, "<u2").reshape(int(data.Rows), int(data.Columns))
    letters, _ = bitmap([visit.who.family], *pixels.shape)
    # Only 12 of 16 bits are image. A viewer does not show bit 15, but an overlay of group 6004 may refer to
    # it.
    data.PixelData = (pixels | (letters.astype(np.uint16) << 15)).astype("<u2").tobytes()
    data["PixelData"].VR = "OW"
    for element, vr, value in (
        (0x0010, "US", int(data.Rows)),
        (0x0011, "US", int(data.Columns)),
        (0x0040, "CS", "G"),
        (0x0050, "SS", [1, 1]),
        (0x0100, "US", 16),
        (0x0102, "US", 15),
    ):
        data.add(DataElement((0x6004 << 16) | element, vr, value))
    record.note("PixelData bit 15", "bitmap", visit.who.family)


def padding(data: Dataset, visit: Visit, record: HeaderWriter) -> None:
    """Plant text in the padding after the pixels."""
    data.add(DataElement(0xFFFC_FFFC, "OB", _padded_even(f"printed for {visit.who.relative}".encode())))
    record.note("DataSetTrailingPadding", "name", visit.who.relative)


PRIVATE_IN_TURN: Final[tuple[Planter, ...]] = (unsafe_private, safe_private, overlay, curve, icon, padding)
