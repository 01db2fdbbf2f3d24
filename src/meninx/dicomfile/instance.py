"""Reading the bytes of a file as a DICOM instance, or the reason code why it cannot be de-identified."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

from pydicom._uid_dict import UID_dictionary

from meninx.dicomfile import fragments, pixels
from meninx.dicomfile.charset import CHARSET_TAG, decode, distinct, encodings_of, exact
from meninx.dicomfile.elements import (
    PIXEL_DATA,
    UNDEFINED,
    Element,
    Encoding,
    Malformed,
    NoVR,
    PixelsBeyond,
    TooManyElements,
    Truncated,
    parse,
    resolve_unknown,
    with_plain_vrs,
)
from meninx.dicomfile.file_part import FilePart
from meninx.dicomfile.refusals import Reason, Refused

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
_UIDS = frozenset({SOP_CLASS, SOP_INSTANCE, STUDY, SERIES})
_ISSUER_QUALIFIERS, _UNIVERSAL_ENTITY_ID = 0x00100024, 0x00400032
_META = Encoding(implicit=False, little=True)
_MOST_TIMES, _ALWAYS_INFLATED, _MOST_INFLATED = (
    100,
    32 << 20,
    512 << 20,
)  # times the file's size; bytes; bytes
MOST_BYTES, MOST_HEADER = (
    2 << 30,
    256 << 20,
)  # of a file that is in memory as a whole; of all its elements but the pixels
MOST_FILE = 5 << 30  # native pixel data has at most 4 GiB
_HEAD, _MORE = 256 << 10, 16  # bytes of a large file that are read first; how many times as many then
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"Rar!", b"BZh", b"\xfd7zXZ")
_TAR = b"ustar"  # at byte 257
_DICOMDIR = "1.2.840.10008.1.3.10"
_ENCAPSULATED = {
    "PDF": Reason.ENCAPSULATED_PDF,
    "CDA": Reason.ENCAPSULATED_CDA,
    **dict.fromkeys(("STL", "OBJ", "MTL"), Reason.ENCAPSULATED_MODEL),
}
_RECORDS = 0x00041220
_NO_PATIENT = (
    "Color Palette",
    "Hanging Protocol",
    "Template",
    "Protocol Approval",
    "Inventory",
    "Raw Data",
    "Audio",
    "Private",
)


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
        """Return the first value of a string attribute of the data set itself, stripped.

        Empty when absent.
        """
        return self.whole_text(tag).split("\\")[0].strip(" \0")

    def whole_text(self, tag: int) -> str:
        """Return all values of a string attribute, as they are written; a UID is read byte by byte."""
        value = self._value(tag)
        return value.decode("latin-1") if tag in _UIDS else decode(value, self.encodings)

    def distinct_text(self, tag: int) -> str:
        """Return all values of a string attribute so that two texts are never the same, stripped.

        See :func:`meninx.dicomfile.charset.distinct`.
        """
        return distinct(self._value(tag), self.encodings).strip(" \0")

    def _value(self, tag: int) -> bytes:
        element = self._plain_elements.get(tag)
        return b"" if element is None else bytes(element.value)

    @cached_property
    def _plain_elements(self) -> dict[int, Element]:
        """The first element of each tag that is no sequence; they are changed in place, never replaced."""
        return {element.tag: element for element in reversed(self.elements) if element.items is None}

    @property
    def patient_id(self) -> str:
        """The PatientID; all values where a file wrongly has several, which are another patient's.

        Two different ones are never the same; see :meth:`distinct_text`.
        """
        return self.distinct_text(PATIENT_ID)

    @property
    def issuer(self) -> str:
        """The authority that assigned the PatientID: its name, else its universal ID; may be empty."""
        return distinct(self._issuer, self.encodings).strip(" \0")

    @property
    def names_its_patient(self) -> bool:
        """Whether PatientID and issuer are text in the declared character sets; ASCII without any."""
        named = (self._value(PATIENT_ID), self._issuer)
        return all(exact(value, self.encodings, undeclared="ascii") is not None for value in named)

    @property
    def _issuer(self) -> bytes:
        return self._value(ISSUER).strip(b" \0") or next(
            (
                bytes(inner.value)
                for outer in self.elements
                if outer.tag == _ISSUER_QUALIFIERS
                for inner in (outer.items or [[]])[0]
                if inner.tag == _UNIVERSAL_ENTITY_ID and inner.items is None
            ),
            b"",
        )

    @property
    def pixels(self) -> list[Element]:
        """The pixel data elements, usually one."""
        return [element for element in self.elements if element.tag in PIXEL_DATA]


def read(data: bytes | FilePart) -> Instance:
    """Return the instance in the bytes of a file, with or without preamble and file meta information.

    Args:
        data: the bytes, or a large file. Pixel data of a large file stays in the file; anything else is read
            into memory.

    Raises:
        Refused: with the reason code.
    """
    instance, head = parsed(data)
    _check_class(instance, marked=_is_marked(head))
    _check_identity(instance)
    if len(data) - sum(len(element.value) for element in instance.pixels) > MOST_HEADER:
        raise Refused(Reason.TOO_LARGE)
    pixels.rebuild(instance.elements, instance.transfer_syntax, little=instance.encoding.little)
    return instance


def parsed(data: bytes | FilePart) -> tuple[Instance, bytes]:
    """Return the instance in a file as it is written, and the beginning of the file.

    Neither its class nor its pixel data is judged, so that files of other programs can be checked.

    Raises:
        Refused: with the reason code.
    """
    return _of_bytes(data) if isinstance(data, bytes) else _of_file(data)


def meta_elements(head: bytes) -> list[Element]:
    """Return the file meta information at the beginning of a file that :func:`parsed` has read."""
    start = 132 if head[128:132] == b"DICM" else 4 * (head[:4] == b"DICM")
    end = _end_of_meta(head, start)
    return parse(head[start:end], _META) if end > start else []


def _of_file(data: FilePart) -> tuple[Instance, bytes]:
    """Return the instance in a large file, and the beginning of the file."""
    size = _HEAD
    while size < min(len(data), MOST_HEADER):
        try:
            return _of_bytes(bytes(data[:size]), data)
        except Refused as refused:
            if refused.reason is not Reason.TRUNCATED:
                raise
        size *= _MORE
    if len(data) > MOST_BYTES:
        raise Refused(Reason.TOO_LARGE)
    return _of_bytes(bytes(data))


def _of_bytes(data: bytes, whole: FilePart | None = None) -> tuple[Instance, bytes]:
    """Return the instance in some bytes, and these.

    Args:
        data: a file, or its beginning.
        whole: the file where ``data`` is its beginning.
    """
    if is_archive(data):
        raise Refused(Reason.ARCHIVE)
    try:
        start, syntax, media_class = _meta(data)
        if media_class == _DICOMDIR:
            raise Refused(Reason.DICOMDIR)
        rest = None if whole is None else whole.part(start)
        return _dataset(memoryview(data)[start:], syntax, rest), data
    except Truncated as error:
        raise Refused(Reason.TRUNCATED) from error
    except TooManyElements as error:
        raise Refused(Reason.TOO_LARGE) from error
    except Malformed as error:
        raise Refused(Reason.UNREADABLE) from error


def is_archive(head: bytes) -> bool:
    """Return whether a file with these first bytes packs other files: zip, tar, 7z, rar, gzip, bzip2, xz."""
    return head.startswith(_ARCHIVES) or head[257:262] == _TAR


def directory_records(data: bytes | FilePart) -> list[list[Element]]:
    """Return the records of a DICOMDIR.

    Raises:
        Refused: it is too large.
        Malformed: it cannot be parsed.
    """
    if len(data) > MOST_HEADER:
        raise Refused(Reason.TOO_LARGE)
    content = bytes(data)
    start, syntax, _ = _meta(content)
    elements = _dataset(memoryview(content)[start:], syntax).elements
    return next((element.items or [] for element in elements if element.tag == _RECORDS), [])


def _encodings(elements: list[Element]) -> tuple[str, ...]:
    return encodings_of(next((bytes(e.value) for e in elements if e.tag == CHARSET_TAG), b""))


def _meta(data: bytes) -> tuple[int, str, str]:
    """Return the offset of the data set, its transfer syntax and the media storage SOP class (or "")."""
    if data[128:132] == b"DICM":
        start = 132
    elif data[:4] == b"DICM":
        start = 4
    elif data[:2] in (b"\x02\0", b"\x08\0") and data[2:4] != b"":
        start = 0
    elif data[:2] == b"\0\x08" and data[4:6].isalpha() and data[4:6].isupper():
        return 0, BIG_ENDIAN, ""
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
    """Return the transfer syntax of a data set without meta information.

    It is explicit if two capital letters are where a VR would be.
    """
    vr = data[at + 4 : at + 6]
    return EXPLICIT if len(vr) == 2 and vr.isalpha() and vr.isupper() else IMPLICIT


def _elements(content: bytes | memoryview, encoding: Encoding, rest: FilePart | None) -> list[Element]:
    """Return the elements of a data set whose pixel data may go on in the file.

    Args:
        content: the data set, or its beginning.
        encoding: how it is written.
        rest: the data set in the file where ``content`` is its beginning.
    """
    try:
        return parse(content, encoding)
    except PixelsBeyond as beyond:
        if rest is None:
            raise Truncated("a value") from None
        listed = beyond.length == UNDEFINED
        end = fragments.end_in_file(rest, beyond.at) if listed else beyond.at + beyond.length
        if end > len(rest):
            raise Truncated("a value") from None
        if len(rest) - end > MOST_HEADER:
            raise TooManyElements("behind the pixels") from None
        value = rest.part(beyond.at, end - 8 * listed - beyond.at)
        pixel_data = Element(beyond.tag, beyond.vr, value, undefined=listed)
        return [*beyond.elements, pixel_data, *parse(bytes(rest[end:]), encoding)]


def _dataset(view: memoryview, syntax: str, rest: FilePart | None = None) -> Instance:
    name, kind = UID_dictionary.get(syntax, ("", ""))[:2]
    if any(word in name for word in ("MPEG", "HEVC", "SMPTE", "H.264", "H.265")):
        raise Refused(Reason.VIDEO)
    if kind != "Transfer Syntax" or any(
        word in name for word in ("JPIP", "XML", "RFC", "Papyrus", "Fragmentable Encapsulated")
    ):
        raise Refused(Reason.UNSUPPORTED_TRANSFER_SYNTAX)
    encoding = Encoding(implicit=syntax == IMPLICIT, little=syntax != BIG_ENDIAN)
    content = _inflated(view) if syntax == DEFLATED else view
    try:
        elements = _elements(content, encoding, rest)
    except NoVR:  # implicit VR under an explicit syntax, as some writers of compressed files leave it
        elements = with_plain_vrs(_elements(content, encoding._replace(implicit=True), rest))
    elements = resolve_unknown(elements, encoding.little)
    return Instance(elements, encoding, syntax, _encodings(elements))


def _inflated(view: memoryview) -> bytes:
    """Return the data set of a deflated file, 100 times its size and 512 MiB at most.

    32 MiB are allowed to every file.

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


def _is_marked(data: bytes) -> bool:
    """Return whether a file has the DICOM prefix."""
    return data[128:132] == b"DICM" or data[:4] == b"DICM"


def _check_class(instance: Instance, *, marked: bool) -> None:
    sop_class = instance.text(SOP_CLASS)
    if not sop_class:
        dicom = marked or any(instance.text(tag) for tag in (SOP_INSTANCE, STUDY, SERIES))
        raise Refused(Reason.MISSING_IDENTITY if dicom else Reason.NOT_DICOM)
    if sop_class == _DICOMDIR:
        raise Refused(Reason.DICOMDIR)
    name, kind = UID_dictionary.get(sop_class, ("", ""))[:2]
    if name.startswith("Encapsulated "):
        kind = name.removeprefix("Encapsulated ").split()[0]
        raise Refused(_ENCAPSULATED.get(kind, Reason.ENCAPSULATED_DOCUMENT))
    if name.startswith("Video "):
        raise Refused(Reason.VIDEO)
    if kind != "SOP Class" or " Storage" not in name or any(word in name for word in _NO_PATIENT):
        raise Refused(Reason.UNSUPPORTED_SOP_CLASS)


def _check_identity(instance: Instance) -> None:
    if not all(instance.text(tag) for tag in (SOP_INSTANCE, STUDY, SERIES)):
        raise Refused(Reason.MISSING_IDENTITY)
