"""Files of an archive that are not images: a report, a presentation state, a PDF, a DICOMDIR, a text."""

from __future__ import annotations

import zlib

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    BasicTextSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    MediaStorageDirectoryStorage,
)

from meninx.synthetic.instances import HeaderWriter, Visit, base, code, item, uid


def report(visit: Visit, record: HeaderWriter, image: Visit, image_class: str) -> Dataset:
    """Return a Basic Text SR about an image: observer, patient's name and findings as content items."""
    data = _document(visit, record, "SR", BasicTextSRStorage)
    data.CompletionFlag, data.VerificationFlag = "COMPLETE", "VERIFIED"
    data.ReferencedPerformedProcedureStepSequence, data.PerformedProcedureCodeSequence = Items(), Items()
    verifier, at = item(data, "VerifyingObserverSequence")
    record.put(
        verifier,
        "VerifyingObserverName",
        visit.home.physicians[0],
        "physician",
        at=at,
        hide=_names(visit.home.physicians[0]),
    )
    record.put(verifier, "VerifyingOrganization", visit.home.institution, "institution", at=at)
    verifier.VerificationDateTime = f"{visit.day}{visit.time}"
    verifier.VerifyingObserverIdentificationCodeSequence = Items()
    data.ValueType, data.ContinuityOfContent = "CONTAINER", "SEPARATE"
    data.ConceptNameCodeSequence = Items([code("18748-4", "LN", "Diagnostic Imaging Report")])
    subject, at = _content(data, "HAS OBS CONTEXT", "PNAME", "121029", "Subject Name")
    record.put(subject, "PersonName", visit.who.name, "name", at=at, hide=[visit.who.family, visit.who.given])
    finding, at = _content(data, "CONTAINS", "TEXT", "121071", "Finding")
    text = (
        f"Chest PA of {visit.who.family}: no effusion. Told {visit.who.relative} by phone {visit.who.phone}."
    )
    record.put(
        finding,
        "TextValue",
        text,
        "name",
        at=at,
        hide=[visit.who.family, visit.who.relative, visit.who.phone],
    )
    ratio, at = _content(data, "CONTAINS", "NUM", "111248", "Cardiothoracic ratio")
    measured, _ = item(ratio, "MeasuredValueSequence")
    measured.NumericValue = "0.48"
    measured.MeasurementUnitsCodeSequence = Items([code("1", "UCUM", "no units")])
    record.safe.append((f"{at}MeasuredValueSequence[0]/NumericValue", "descriptor", "0.48"))
    picture, _ = _content(data, "CONTAINS", "IMAGE", "121180", "Key Images")
    reference, _ = item(picture, "ReferencedSOPSequence")
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image_class, image.sop_uid
    _evidence(data, image, image_class)
    return data


def presentation(visit: Visit, record: HeaderWriter, image: Visit, image_class: str) -> Dataset:
    """Return a grayscale presentation state with the name as annotation text."""
    data = _document(visit, record, "PR", GrayscaleSoftcopyPresentationStateStorage)
    data.PresentationCreationDate, data.PresentationCreationTime = visit.day, visit.time
    data.ContentLabel, data.ContentDescription = "MARKS", ""
    record.put(
        data,
        "ContentCreatorName",
        visit.home.physicians[1],
        "physician",
        hide=_names(visit.home.physicians[1]),
    )
    data.PresentationLUTShape = "IDENTITY"
    series, _ = item(data, "ReferencedSeriesSequence")
    series.SeriesInstanceUID = image.series_uid
    shown, _ = item(series, "ReferencedImageSequence")
    shown.ReferencedSOPClassUID, shown.ReferencedSOPInstanceUID = image_class, image.sop_uid
    area, _ = item(data, "DisplayedAreaSelectionSequence")
    area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [1, 1], [64, 64]
    area.PresentationSizeMode, area.PresentationPixelAspectRatio = "SCALE TO FIT", ["1", "1"]
    layer, _ = item(data, "GraphicLayerSequence")
    layer.GraphicLayer, layer.GraphicLayerOrder = "MARKS", 1
    graphics, at = item(data, "GraphicAnnotationSequence")
    graphics.GraphicLayer = "MARKS"
    text, at = item(graphics, "TextObjectSequence", at)
    text.AnchorPointAnnotationUnits, text.AnchorPoint, text.AnchorPointVisibility = "DISPLAY", [0.1, 0.1], "N"
    line = f"{visit.who.family} {visit.who.patient_id} nodule?"
    record.put(
        text, "UnformattedTextValue", line, "name", at=at, hide=[visit.who.family, visit.who.patient_id]
    )
    return data


def pdf(visit: Visit, record: HeaderWriter) -> Dataset:
    """Return an encapsulated PDF with the name in its metadata and in a compressed page."""
    data = _document(visit, record, "DOC", EncapsulatedPDFStorage)
    data.ConversionType, data.BurnedInAnnotation = "WSD", "YES"
    data.AcquisitionDateTime, data.DocumentTitle = "", ""
    data.ConceptNameCodeSequence = Items()
    data.MIMETypeOfEncapsulatedDocument = "application/pdf"
    name = visit.who.relative
    # Compressed: a search for the name in the bytes of the file does not find this one.
    page = zlib.compress(f"BT /F1 12 Tf 40 700 Td (Letter to {name}) Tj ET".encode())
    parts = (
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R>>",
        b"<</Filter/FlateDecode/Length %d>>stream\n" % len(page) + page + b"\nendstream",
        f"<</Author({name})/Title(Letter {visit.accession})>>".encode(),
    )
    body = b"%PDF-1.4\n" + b"".join(
        b"%d 0 obj%s endobj\n" % (n, part) for n, part in enumerate(parts, start=1)
    )
    body += b"trailer<</Root 1 0 R/Info 5 0 R/Size 6>>\n%%EOF\n"
    data.EncapsulatedDocument = body + b"\0" * (len(body) % 2)
    data.EncapsulatedDocumentLength = len(body)
    record.note("EncapsulatedDocument", "name", name, visit.accession)
    return data


def directory(visit: Visit, record: HeaderWriter) -> Dataset:
    """Return a DICOMDIR with one patient record."""
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = MediaStorageDirectoryStorage, uid(0, "dicomdir", visit.sop_uid)
    data.FileSetID = "ARCHIVE"
    data.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 0
    data.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = 0
    data.FileSetConsistencyFlag = 0
    inner, at = item(data, "DirectoryRecordSequence")
    (
        inner.OffsetOfTheNextDirectoryRecord,
        inner.RecordInUseFlag,
        inner.OffsetOfReferencedLowerLevelDirectoryEntity,
    ) = 0, 65535, 0
    inner.DirectoryRecordType = "PATIENT"
    if visit.who.charset:
        inner.SpecificCharacterSet = list(visit.who.charset)
    record.put(inner, "PatientName", visit.who.name, "name", at=at, hide=[visit.who.family, visit.who.given])
    record.put(inner, "PatientID", visit.who.patient_id, "id", at=at)
    return data


def worklist(visit: Visit, record: HeaderWriter) -> bytes:
    """Return a text file (not DICOM) with a name and a phone number."""
    record.note("text", "name", visit.who.relative, visit.who.phone)
    return f"ward;name;phone\n7B;{visit.who.relative};{visit.who.phone}\n".encode()


def bare(data: Dataset) -> bytes:
    """Return a data set as old software wrote it: implicit little endian without preamble and file meta."""
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, True
    write_dataset(stream, data)
    return stream.getvalue()


def _document(visit: Visit, record: HeaderWriter, modality: str, sop_class: str) -> Dataset:
    """Return the shared modules without the attributes of images."""
    data = base(visit, record, modality, sop_class)
    dropped = (
        "PatientOrientation",
        "BurnedInAnnotation",
        "LossyImageCompression",
        "AcquisitionDate",
        "AcquisitionTime",
    )
    for keyword in dropped:
        delattr(data, keyword)
    record.plants = [plant for plant in record.plants if plant[0] not in dropped]
    return data


def _content(data: Dataset, relation: str, kind: str, value: str, meaning: str) -> tuple[Dataset, str]:
    inner, at = item(data, "ContentSequence")
    inner.RelationshipType, inner.ValueType = relation, kind
    inner.ConceptNameCodeSequence = Items([code(value, "DCM", meaning)])
    return inner, at


def _evidence(data: Dataset, image: Visit, image_class: str) -> None:
    study, _ = item(data, "CurrentRequestedProcedureEvidenceSequence")
    study.StudyInstanceUID = image.study_uid
    series, _ = item(study, "ReferencedSeriesSequence")
    series.SeriesInstanceUID = image.series_uid
    shown, _ = item(series, "ReferencedSOPSequence")
    shown.ReferencedSOPClassUID, shown.ReferencedSOPInstanceUID = image_class, image.sop_uid


def _names(name: str) -> list[str]:
    return [part for part in name.split("^")[:2] if part]
