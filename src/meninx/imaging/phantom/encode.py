"""From a data set to the bytes of a file: transfer syntax, file meta information, preamble."""

from __future__ import annotations

from io import BytesIO
from typing import Final

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from meninx.imaging.phantom.instances import Visit, uid
from meninx.imaging.phantom.record import Record

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
    record: Record | None = None,
) -> bytes:
    """Return a data set as a DICOM file.

    Args:
        data: the data set with native pixels; compressed here when the syntax says so.
        syntax: UID of the transfer syntax.
        visit: with ``record``, whom to betray in preamble and file meta information; None for neither.
        record: notes what was planted.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax in COMPRESSED else UID(syntax)
    meta.ImplementationClassUID, meta.ImplementationVersionName = UID(uid(0, "implementation")), "PHANTOM_1"
    preamble = b"\0" * 128
    if visit is not None and record is not None:
        preamble = _betray(meta, visit, record)
    whole = FileDataset(BytesIO(), data, file_meta=meta, preamble=preamble)
    if syntax in COMPRESSED:
        whole.compress(syntax, generate_instance_uid=False)
    stream = BytesIO()
    dcmwrite(stream, whole, enforce_file_format=True, overwrite=True)
    return stream.getvalue()


def _betray(meta: FileMetaDataset, visit: Visit, record: Record) -> bytes:
    """Plant the AE titles and private information in the file meta.

    Return a preamble with the patient's number.
    """
    record.put(meta, "SourceApplicationEntityTitle", visit.home.ae_title, "device", at="file meta/")
    record.put(meta, "SendingApplicationEntityTitle", visit.home.station, "device", at="file meta/")
    meta.PrivateInformationCreatorUID = UID(uid(0, "private information", visit.home.key))
    meta.PrivateInformation = f"exported for {visit.who.relative}".encode().ljust(64, b" ")
    record.note("file meta/PrivateInformation", "name", visit.who.relative)
    record.note("preamble", "id", visit.who.other_id, visit.who.phone)
    return f"II*\0 {visit.who.other_id} {visit.who.phone}".encode().ljust(128, b"\0")[:128]
