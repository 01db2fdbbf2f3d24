"""The self-check: pydicom reads the clean file, and it is searched for its original identifiers."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator

import pydicom
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from meninx.deid.actions import STRINGS, TERMS, FileContext
from meninx.deid.identifiers import Identifiers, strings
from meninx.deid.raw_search import ByteKind
from meninx.deid.text_in_bytes import NUMBERS, is_texty
from meninx.deid.walker import MARKERS
from meninx.deid.writer import marker_texts
from meninx.dicomfile.charset import decode, encodings_of
from meninx.dicomfile.elements import (
    PIXEL_DATA,
    UNDEFINED,
    Element,
    Encoding,
    encode_chunks,
    parse_items,
    standard_vr,
)
from meninx.dicomfile.file_part import Content, Piece
from meninx.dicomfile.instance import DEFLATED, EXPLICIT, Instance
from meninx.dicomfile.refusals import Reason, Refused
from meninx.imaging.decode import quiet

# The walk keeps only well-formed values of these, and numbers that spell an identifier are found in the raw
# bytes.
_CHECKED_BY_FORM = NUMBERS | {"AS", "DS", "IS", "TM"}
_NOT_SEARCHED = MARKERS | PIXEL_DATA
_WINDOW = 1 << 20
_LEAST = 5  # bytes of a value that may hold an identifier
_SHORT, _BETWEEN = 64, b"\xff" * 4  # short values are searched at once


def _nothing(content: bytes | memoryview) -> None:
    """Ignore some bytes."""


def check(
    written: Content,
    original: Instance,
    context: FileContext,
    see: Callable[[bytes | memoryview], object] = _nothing,
) -> None:
    """Return when a written file holds none of its original identifiers, and the pixel data of the original.

    Guarantee: no identifier collected by :func:`meninx.deid.identifiers.collect` from the original header
        (less those that the profile keeps on purpose and days that the date shift made) occurs in the file
        meta, in any decoded element of any depth, or anywhere in the raw bytes, every byte of plain pixels
        and of every compressed fragment included. What "occurs" means in text, in other values of the header
        and in pixels is said in :meth:`meninx.deid.raw_search.RawSearch.found_in`. What is never found in the
        header (a name that occurs only in the pixels, or only in a free text) is not searched; free text is
        reduced to a vocabulary for that reason, and bytes that no decoder needs are not in a rebuilt frame.

    Args:
        written: all bytes of the file.
        original: the original instance; its pixel data rebuilt by :mod:`meninx.dicomfile.pixels`.
        context: of the file, after the walk.
        see: is given all bytes of the file in order, so that a digest needs no further reading.

    Raises:
        Refused: ``residual-identifier``, ``pixels-changed``, or ``processing-failed`` when the file cannot be
            read back.
    """
    searched = context.found.without(context.kept)
    tail = encode_chunks(original.pixels, original.encoding)
    try:
        with quiet():
            if original.transfer_syntax == DEFLATED:
                see(bytes(written[0:]))
                written, see = _inflated(written), _nothing
            header, pixels = _parts(written, original, sum(map(len, tail)))
            dataset = pydicom.dcmread(io.BytesIO(header))
            _check_structure(header, dataset)
            opaque: list[bytes] = []
            if _any_found(searched, _texts(dataset, opaque)):
                raise Refused(Reason.RESIDUAL_IDENTIFIER)
            short = _BETWEEN.join(value for value in opaque if len(value) <= _SHORT)
            long = (value for value in opaque if len(value) > _SHORT)
            if any(searched.found_in_bytes(value, ByteKind.BYTES) for value in (short, *long)):
                raise Refused(Reason.RESIDUAL_IDENTIFIER)
            if any(tag in dataset for tag in PIXEL_DATA):
                raise Refused(Reason.PIXELS_CHANGED)
    except (
        InvalidDicomError,
        OSError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
        zlib.error,
    ) as error:
        raise Refused(Reason.PROCESSING_FAILED) from error
    see(header)
    at = len(header)
    for word in marker_texts(context):
        header = header.replace(word, b"\n")
    if searched.found_in_bytes(header):
        raise Refused(Reason.RESIDUAL_IDENTIFIER)
    for start, element in pixels:
        see(bytes(written[at:start]))
        both = ComparedBytes(written, start, element.value, see)
        kind = ByteKind.CODED if element.undefined else ByteKind.SAMPLES
        if searched.found_in_bytes(both, kind):
            raise Refused(Reason.RESIDUAL_IDENTIFIER)
        both.finish()
        at = start + len(element.value)
    see(bytes(written[at:]))


class ComparedBytes:
    """The bytes of a value, read from a file and compared with the original value while they are searched.

    So every byte is read once. A search reads them from the first to the last one.

    Args:
        written: the file.
        start: where the value begins in it.
        value: the original value.
        see: is given the bytes in order, each once.
    """

    def __init__(
        self, written: Content, start: int, value: Piece, see: Callable[[bytes | memoryview], object]
    ) -> None:
        self._written, self._start, self._value, self._see = written, start, value, see
        self._compared = 0

    def __len__(self) -> int:
        return len(self._value)

    def __getitem__(self, at: slice) -> bytes:
        """Return the bytes of a slice.

        Raises:
            Refused: ``pixels-changed``; they are not those of the original.
        """
        start, stop, _ = at.indices(len(self))
        found = bytes(self._written[self._start + start : self._start + stop])
        if found != bytes(self._value[start:stop]):
            raise Refused(Reason.PIXELS_CHANGED)
        if start <= self._compared < stop:
            self._see(memoryview(found)[self._compared - start :])
            self._compared = stop
        return found

    def finish(self) -> None:
        """Compare the bytes that were not read."""
        while self._compared < len(self):
            self[self._compared : self._compared + _WINDOW]


def check_public_texts(texts: Iterable[str], context: FileContext) -> None:
    """Return if the public texts about a file hold none of its original identifiers.

    Raises:
        Refused: ``residual-identifier``.
    """
    searched = context.found.without(context.kept)
    told = "\0".join(texts)
    if _any_found(searched, [told]) or any(uid in told for uid in searched.uids):
        raise Refused(Reason.RESIDUAL_IDENTIFIER)


def _any_found(searched: Identifiers, texts: Iterable[str]) -> bool:
    """Return whether an identifier is in any of some texts; they are searched at once.

    No identifier holds the sign between them, and every pattern takes it for the end of a word or a number.
    """
    return searched.found_in("\0".join(texts))


def _check_structure(header: bytes, dataset: pydicom.FileDataset) -> None:
    if any(header[:128]) or dataset.file_meta.MediaStorageSOPInstanceUID != dataset.SOPInstanceUID:
        raise ValueError("preamble or file meta out of step")


def _inflated(written: Content) -> bytes:
    """Return a deflated file as one in the plain transfer syntax that it holds."""
    start = _end_of_meta(written)
    content = bytes(written[:start]) + zlib.decompressobj(-15).decompress(bytes(written[start:]))
    named = DEFLATED.encode() + b"\0" * (len(DEFLATED) % 2)
    return content.replace(named, EXPLICIT.encode().ljust(len(DEFLATED), b"\0"), 1)


def _parts(written: Content, original: Instance, tail: int) -> tuple[bytes, list[tuple[int, Element]]]:
    """Return all of a file before its pixel data, and where the values of these begin.

    Raises:
        Refused: ``pixels-changed``; the file is longer or shorter, or another element begins there.
    """
    at = len(written) - tail
    if at < 132:
        raise ValueError("shorter than its pixels")
    header, values = bytes(written[:at]), []
    for element in original.pixels:
        start = at + _check_element(written, at, element, original.encoding)
        values.append((start, element))
        at = start + len(element.value) + (8 if element.undefined else len(element.value) % 2)
    if at != len(written):
        raise Refused(Reason.PIXELS_CHANGED)
    return header, values


def _check_element(written: Content, at: int, element: Element, encoding: Encoding) -> int:
    """Return the length of an element's header after a check that it is the header at this offset."""
    sign = "<" if encoding.little else ">"
    head = bytes(written[at : at + 12])
    group, number = struct.unpack_from(sign + "HH", head)
    size = 8 if encoding.implicit else 12
    (length,) = struct.unpack_from(sign + "L", head, size - 4)
    wanted = UNDEFINED if element.undefined else len(element.value) + len(element.value) % 2
    if (group << 16 | number, length) != (element.tag, wanted):
        raise Refused(Reason.PIXELS_CHANGED)
    return size


def _end_of_meta(written: Content) -> int:
    return 144 + int.from_bytes(bytes(written[140:144]), "little")


def _texts(dataset: Dataset, opaque: list[bytes]) -> Iterator[str]:
    """Yield the text of every element of a file, its meta information included.

    Args:
        dataset: the file.
        opaque: the values that are no text are added to it.
    """
    meta = getattr(dataset, "file_meta", Dataset())
    for raw in list(meta.values()):
        yield from _element_texts(meta, raw, ("iso8859",), opaque)
    yield from _dataset_texts(dataset, ("iso8859",), opaque)


def _dataset_texts(dataset: Dataset, encodings: tuple[str, ...], opaque: list[bytes]) -> Iterator[str]:
    if 0x00080005 in dataset:
        terms = dataset.SpecificCharacterSet
        encodings = encodings_of(
            "\\".join([terms] if isinstance(terms, str) else [str(term) for term in terms or ("",)]).encode()
        )
    for raw in list(dataset.values()):
        if raw.tag not in _NOT_SEARCHED:
            yield from _element_texts(dataset, raw, encodings, opaque)


def _element_texts(
    dataset: Dataset, raw: RawDataElement | DataElement, encodings: tuple[str, ...], opaque: list[bytes]
) -> Iterator[str]:
    tag = int(raw.tag)
    vr = raw.VR or standard_vr(tag).split(" or ")[0]
    if vr == "SQ":
        for item in dataset[tag].value or ():
            yield from _dataset_texts(item, encodings, opaque)
        return
    value = raw.value
    if isinstance(value, bytes) and vr not in STRINGS and len(value) >= _LEAST:
        opaque.append(value)
    if vr in _CHECKED_BY_FORM or not value:
        return
    if not isinstance(value, bytes):
        value = str(value).encode("utf-8", "replace")
        encodings = ("utf_8",)
    if vr in STRINGS:
        text = decode(value, encodings)
        if vr == "CS":
            text = "\\".join(term for term in text.split("\\") if term.strip(" \0") not in TERMS)
        yield text
    elif (items := parse_items(value, little=True)) is not None:
        yield from (text for inside in items for _, text in strings(inside, encodings, set()))
    elif is_texty(value):
        yield value.decode("latin-1")
