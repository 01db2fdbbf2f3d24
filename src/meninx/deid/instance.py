"""Reading one file as a DICOM instance, or the reason why it is none that can be de-identified."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from pydicom._uid_dict import UID_dictionary

from meninx.deid.charsets import CHARSET_TAG, decode, encodings_of
from meninx.deid.elements import PIXEL_DATA, Element, Encoding, Malformed, Truncated, parse
from meninx.deid.quarantine import Reason, Refused
from meninx.deid.walker import resolve_unknown

IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)
SOP_CLASS, SOP_INSTANCE, STUDY, SERIES, PATIENT_ID, ISSUER = (
    0x00080016,
    0x00080018,
    0x0020000D,
    0x0020000E,
    0x00100020,
    0x00100021,
)
_META = Encoding(implicit=False, little=True)
_MOST_TIMES, _ALWAYS_INFLATED, _MOST_INFLATED = 100, 32 << 20, 512 << 20  # times the file's size; bytes; bytes
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"Rar!", b"BZh", b"\xfd7zXZ")
_DICOMDIR = "1.2.840.10008.1.3.10"
_NO_PATIENT = ("Color Palette", "Hanging Protocol", "Template", "Protocol Approval", "Inventory", "Raw Data", "Audio", "Private")


@dataclass
class Instance:
    """One readable instance.

    Attributes:
        elements: the data set.
        encoding: how it is written.
        transfer_syntax: its UID.
        encodings: character sets of the data set itself.
    """

    elements: list[Element]
    encoding: Encoding
    transfer_syntax: str
    encodings: tuple[str, ...]

    def text(self, tag: int) -> str:
        """Return the first value of a string attribute of the data set itself, stripped; empty when absent."""
        for element in self.elements:
            if element.tag == tag and element.items is None:
                return decode(bytes(element.value), self.encodings).split("\\")[0].strip(" \0")
        return ""

    def whole_text(self, tag: int) -> str:
        """Return all values of a string attribute, as they are written."""
        return next((decode(bytes(e.value), self.encodings) for e in self.elements if e.tag == tag and e.items is None), "")

    @property
    def pixels(self) -> list[Element]:
        """The pixel data elements, usually one."""
        return [element for element in self.elements if element.tag in PIXEL_DATA]


def read(data: bytes) -> Instance:
    """Return the instance in the bytes of a file, with or without preamble and file meta information.

    Raises:
        Refused: with the reason code.
    """
    if data.startswith(_ARCHIVES):
        raise Refused(Reason.ARCHIVE)
    try:
        start, syntax, media_class = _meta(data)
        if media_class == _DICOMDIR:
            raise Refused(Reason.DICOMDIR)
        instance = _dataset(memoryview(data)[start:], syntax)
    except Truncated as error:
        raise Refused(Reason.TRUNCATED) from error
    except Malformed as error:
        raise Refused(Reason.UNREADABLE) from error
    _check_class(instance)
    _check_identity(instance)
    _check_length(instance)
    return instance


def patient_id_and_issuer(head: bytes) -> tuple[str, str]:
    """Return PatientID and IssuerOfPatientID from the first bytes of a file; empty where there is none.

    Raises:
        Refused: not DICOM.
        Malformed: the bytes end before the patient.
    """
    start, syntax, _ = _meta(head)
    content = head[start:]
    if syntax == DEFLATED:
        content = zlib.decompressobj(-15).decompress(content, len(head) * 4)
    elements = parse(content, Encoding(implicit=syntax == IMPLICIT, little=syntax != BIG_ENDIAN), until=ISSUER)
    instance = Instance(elements, Encoding(implicit=False, little=True), syntax, _encodings(elements))
    return instance.text(PATIENT_ID), instance.text(ISSUER)


def _encodings(elements: list[Element]) -> tuple[str, ...]:
    return encodings_of(next((bytes(e.value) for e in elements if e.tag == CHARSET_TAG), b""))


def _meta(data: bytes) -> tuple[int, str, str]:
    """Return where the data set starts, its transfer syntax and the media storage SOP class (empty without meta)."""
    if data[128:132] == b"DICM":
        start = 132
    elif data[:4] == b"DICM":
        start = 4
    elif data[:2] in (b"\x02\0", b"\x08\0") and data[2:4] != b"":
        start = 0
    else:
        raise Refused(Reason.NOT_DICOM)
    end = _end_of_meta(data, start)
    elements = {element.tag: element for element in parse(data[start:end], _META)} if end > start else {}
    syntax = _uid(elements.get(0x00020010)) or _guessed_syntax(data, end)
    return end, syntax, _uid(elements.get(0x00020002))


def _end_of_meta(data: bytes, at: int) -> int:
    """Return where group 0002 ends; its group length, often wrong, is not believed."""
    while data[at : at + 2] == b"\x02\0":
        if len(data) < at + 8:
            raise Truncated("file meta")
        wide = data[at + 4 : at + 6] in (b"OB", b"UN", b"UT", b"OW", b"SQ", b"UC", b"UR")
        length = int.from_bytes(data[at + 8 : at + 12] if wide else data[at + 6 : at + 8], "little")
        at += length + (12 if wide else 8)
        if at > len(data):
            raise Truncated("file meta")
    return at


def _uid(element: Element | None) -> str:
    return bytes(element.value).decode("latin-1").strip(" \0") if element else ""


def _guessed_syntax(data: bytes, at: int) -> str:
    """Return the syntax of a data set without meta: explicit when two capital letters stand where a VR would."""
    vr = data[at + 4 : at + 6]
    return EXPLICIT if len(vr) == 2 and vr.isalpha() and vr.isupper() else IMPLICIT


def _dataset(view: memoryview, syntax: str) -> Instance:
    name, kind = UID_dictionary.get(syntax, ("", ""))[:2]
    if any(word in name for word in ("MPEG", "HEVC", "SMPTE", "H.264", "H.265")):
        raise Refused(Reason.VIDEO)
    if kind != "Transfer Syntax" or any(word in name for word in ("JPIP", "XML", "RFC", "Papyrus", "Fragmentable Encapsulated")):
        raise Refused(Reason.UNSUPPORTED_TRANSFER_SYNTAX)
    encoding = Encoding(implicit=syntax == IMPLICIT, little=syntax != BIG_ENDIAN)
    elements = resolve_unknown(parse(_inflated(view) if syntax == DEFLATED else view, encoding), encoding.little)
    return Instance(elements, encoding, syntax, _encodings(elements))


def _inflated(view: memoryview) -> bytes:
    """Return the data set of a deflated file, 100 times its size and 512 MiB at most; 32 MiB are allowed to every file.

    Blank images deflate well and small files do no harm; what grows beyond that would take a worker's memory.
    """
    most = min(max(_MOST_TIMES * len(view), _ALWAYS_INFLATED), _MOST_INFLATED)
    try:
        stream = zlib.decompressobj(-15)
        content = stream.decompress(view, most + 1)
    except zlib.error as error:
        raise Malformed("deflated bytes") from error
    if len(content) > most:
        raise Refused(Reason.INFLATES_TOO_FAR)
    if not stream.eof:
        raise Truncated("deflated bytes")
    return content


def _check_class(instance: Instance) -> None:
    sop_class = instance.text(SOP_CLASS)
    if not sop_class:
        raise Refused(Reason.MISSING_IDENTITY if instance.text(SOP_INSTANCE) else Reason.NOT_DICOM)
    if sop_class == _DICOMDIR:
        raise Refused(Reason.DICOMDIR)
    name, kind = UID_dictionary.get(sop_class, ("", ""))[:2]
    if name.startswith("Encapsulated "):
        raise Refused(Reason.ENCAPSULATED_DOCUMENT)
    if name.startswith("Video "):
        raise Refused(Reason.VIDEO)
    if kind != "SOP Class" or " Storage" not in name or any(word in name for word in _NO_PATIENT):
        raise Refused(Reason.UNSUPPORTED_SOP_CLASS)


def _check_identity(instance: Instance) -> None:
    if not all(instance.text(tag) for tag in (SOP_INSTANCE, STUDY, SERIES)):
        raise Refused(Reason.MISSING_IDENTITY)


def _check_length(instance: Instance) -> None:
    """Refuse native pixel data that is shorter than rows, columns, frames and bits say; cut off what stands behind the pixels."""
    for element in instance.pixels:
        if element.undefined or element.tag != 0x7FE00010:
            continue
        counts = [_number(instance, tag) for tag in (0x00280010, 0x00280011, 0x00280100)]
        frames, samples = instance.text(0x00280008), _number(instance, 0x00280002) or 1
        if not all(counts) or instance.text(0x00280004) == "YBR_FULL_422":
            continue
        bits = counts[0] * counts[1] * counts[2] * samples * (int(frames) if frames.isdigit() else 1)
        length = (bits + 7) // 8
        if len(element.value) < length:
            raise Refused(Reason.TRUNCATED)
        element.value = element.value[: length + length % 2]


def _number(instance: Instance, tag: int) -> int:
    value = next((bytes(e.value) for e in instance.elements if e.tag == tag and e.items is None), b"")
    return int.from_bytes(value[:2], "little" if instance.encoding.little else "big")
