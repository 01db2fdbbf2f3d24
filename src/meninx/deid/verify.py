"""The self-check: a written file is read back by another parser and searched for its own original identifiers."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from meninx.deid.actions import NUMBERS, STRINGS, TERMS, Context, is_texty
from meninx.deid.charsets import decode, encodings_of
from meninx.deid.elements import PIXEL_DATA, parse_items, standard_vr
from meninx.deid.identifiers import strings
from meninx.deid.instance import DEFLATED, Instance
from meninx.deid.quarantine import Reason, Refused
from meninx.deid.streams import hidden_text
from meninx.deid.walker import MARKERS
from meninx.deid.writer import marker_texts
from meninx.imaging.decode import quiet

# The walk keeps only well-formed values of these, and numbers that spell an identifier are found in the raw bytes.
_CHECKED_BY_FORM = frozenset({"AS", "DS", "IS", "TM"})


def check(written: bytes, original: Instance, context: Context) -> None:
    """Return when a written file holds none of its original identifiers and the original pixel data.

    Guarantee: no identifier collected by :func:`meninx.deid.identifiers.collect` from the original header (less those
    that the profile keeps on purpose and days that the date shift made) occurs in the file meta, in any decoded element
    of any depth, in the raw bytes outside pixel data, in comments of compressed pixel streams or at the ends of plain
    pixels. What is never found in the header (a name that occurs only in
    the pixels, or only in a free text) is not searched; free text is reduced to a vocabulary for that reason.

    Args:
        written: all bytes of the file.
        original: the original instance.
        context: of the file, after the walk.

    Raises:
        Refused: ``residual-identifier``, ``pixels-changed``, or ``processing-failed`` when the file cannot be read back.
    """
    searched = context.found.without(context.kept)
    try:
        with quiet():
            dataset = pydicom.dcmread(io.BytesIO(written))
            _check_structure(written, dataset)
            if any(searched.found_in(text) for text in _texts(dataset)):
                raise Refused(Reason.RESIDUAL_IDENTIFIER)
            if _pixels(dataset) != [bytes(element.value) for element in original.pixels]:
                raise Refused(Reason.PIXELS_CHANGED)
    except (InvalidDicomError, OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise Refused(Reason.PROCESSING_FAILED) from error
    hidden = (text for element in original.pixels for text in hidden_text(element))
    if any(map(searched.found_in_bytes, (_header_bytes(written, original, context), *hidden))):
        raise Refused(Reason.RESIDUAL_IDENTIFIER)


def _check_structure(written: bytes, dataset: pydicom.FileDataset) -> None:
    if any(written[:128]) or dataset.file_meta.MediaStorageSOPInstanceUID != dataset.SOPInstanceUID:
        raise ValueError("preamble or file meta out of step")


def _texts(dataset: Dataset) -> Iterator[str]:
    """Yield the text of every element of a file, its meta information included."""
    for tag in list(getattr(dataset, "file_meta", Dataset()).keys()):
        yield from _element_texts(dataset.file_meta, int(tag), ("iso8859",))
    yield from _dataset_texts(dataset, ("iso8859",))


def _dataset_texts(dataset: Dataset, encodings: tuple[str, ...]) -> Iterator[str]:
    if 0x00080005 in dataset:
        terms = dataset.SpecificCharacterSet
        encodings = encodings_of(
            "\\".join([terms] if isinstance(terms, str) else [str(term) for term in terms or ("",)]).encode()
        )
    for tag in list(dataset.keys()):
        if int(tag) not in MARKERS | PIXEL_DATA:
            yield from _element_texts(dataset, int(tag), encodings)


def _element_texts(dataset: Dataset, tag: int, encodings: tuple[str, ...]) -> Iterator[str]:
    raw = dataset.get_item(tag)
    vr = raw.VR or standard_vr(tag).split(" or ")[0]
    if vr == "SQ":
        for item in dataset[tag].value or ():
            yield from _dataset_texts(item, encodings)
        return
    value = raw.value
    if vr in NUMBERS | _CHECKED_BY_FORM or not value:
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


def _pixels(dataset: Dataset) -> list[bytes]:
    items = (dataset.get_item(tag) for tag in sorted(PIXEL_DATA) if tag in dataset)
    return [bytes(item.value or b"") for item in items]


def _header_bytes(written: bytes, original: Instance, context: Context) -> bytes:
    """Return all bytes of a file without the pixel values and without the words that every output holds."""
    content = written
    if original.transfer_syntax == DEFLATED:
        content = written[: written.index(b"DICM") + 4] + zlib.decompressobj(-15).decompress(_after_meta(written))
    for element in original.pixels:
        value = bytes(element.value)
        at = content.rfind(value) if len(value) >= 8 else -1
        if at >= 0:
            content = content[:at] + b"\n" + content[at + len(value) :]
    for word in marker_texts(context):
        content = content.replace(word, b"\n")
    return content


def _after_meta(written: bytes) -> bytes:
    length = int.from_bytes(written[140:144], "little")
    return written[144 + length :]
