"""DICOM data sets as plain trees of elements: a strict parser and an encoder.

The engine works on these trees and not on pydicom's data sets for three reasons: every byte of an output is
there because a rule put it there, kept values keep their exact bytes, and one parser reads explicit, implicit
and UN-encoded sequences alike. The parser raises an error on anything that is cut off.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from pydicom.datadict import dictionary_VR

from meninx.dicomfile.file_part import Piece, windows_of

LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
SHORT = frozenset(
    {"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST"}
) | {
    "TM",
    "UI",
    "UL",
    "US",
}
_LITTLE_CODES = {int.from_bytes(vr.encode(), "little"): vr for vr in SHORT}
_BIG_CODES = {int.from_bytes(vr.encode(), "big"): vr for vr in SHORT}
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
MAXIMUM_DEPTH = 64
MOST_ELEMENTS = 2_000_000  # of a data set at all depths: some 300 MB in memory


class Encoding(NamedTuple):
    """How a data set is written: implicit or explicit VR, little or big endian."""

    implicit: bool
    little: bool


class Malformed(Exception):
    """The bytes are not a data set."""


class Truncated(Malformed):
    """The bytes end inside an element."""


class PixelsBeyond(Truncated):
    """The value of the pixel data begins in the buffer and ends behind it.

    Attributes:
        elements: what stands before it.
        tag, vr: of the pixel data.
        at: offset of its value.
        length: of its value, in bytes; :data:`UNDEFINED` of a list of fragments.
    """

    def __init__(self, elements: list[Element], tag: int, vr: str, at: int, length: int) -> None:
        super().__init__("a value")
        self.elements, self.tag, self.vr, self.at, self.length = elements, tag, vr, at, length


class TooManyElements(Malformed):
    """More elements than :data:`MOST_ELEMENTS`; reading on would take a worker's memory."""


class NoVR(Malformed):
    """Two bytes stand where a VR should stand."""


@dataclass(slots=True)
class Element:
    """One data element.

    Attributes:
        tag: group and element as one number.
        vr: value representation; of an ambiguous or unknown one ``"UN"``.
        value: encoded value (of encapsulated data all fragments with their item tags); of large native pixel
            data a part of the file.
        items: the items of a sequence, each a list of elements; None for anything else.
        undefined: the value is a list of fragments and ends with a delimiter.
    """

    tag: int
    vr: str
    value: Piece = b""
    items: list[list[Element]] | None = None
    undefined: bool = False


@lru_cache(maxsize=16384)
def standard_vr(tag: int) -> str:
    """Return the VR that the standard gives a tag, ``"UN"`` for private and unknown tags.

    Of an ambiguous one the first.
    """
    if tag >> 16 & 1:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
    if tag & 0xFFFF == 0:
        return "UL"
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def parse(buffer: bytes | memoryview, encoding: Encoding) -> list[Element]:
    """Return the elements of a whole data set.

    Args:
        buffer: the bytes.
        encoding: how they are written.

    Raises:
        Truncated: the bytes end inside an element.
        PixelsBeyond: they end inside native pixel data.
        Malformed: they are no data set in this encoding, or nested deeper than 64 levels.
    """
    view = memoryview(buffer)
    parser = _Parser(view, encoding.little)
    return parser.dataset(0, len(view), encoding.implicit, depth=0, delimited=False)[0]


def with_plain_vrs(elements: list[Element]) -> list[Element]:
    """Return elements read as implicit VR with one VR each, so that they can be written as explicit VR.

    Every depth.
    """
    numbers = "SS" if any(e.tag == 0x00280103 and bytes(e.value[:1]) == b"\1" for e in elements) else "US"
    for element in elements:
        for item in element.items or ():
            with_plain_vrs(item)
        if " or " in element.vr:
            words = element.vr.split(" or ")
            element.vr = "OW" if "OW" in words else numbers
            if element.undefined:  # fragments of compressed pixels are bytes, whatever the dictionary allows
                element.vr = "OB"
    return elements


def parse_items(buffer: bytes | memoryview, little: bool) -> list[list[Element]] | None:
    """Return the items of a UN-encoded sequence, or None.

    Implicit VR is tried first, as the standard defines it, then explicit VR, which some writers use.
    """
    view = memoryview(buffer)
    for endian in (True, False) if not little else (True,):
        if len(view) < 8 or struct.unpack_from("<HH" if endian else ">HH", view) != (0xFFFE, 0xE000):
            continue
        for implicit in (True, False):
            try:
                return _Parser(view, endian).items(0, len(view), implicit, depth=1, delimited=False)[0]
            except Malformed:
                continue
    return None


def resolve_unknown(elements: list[Element], little: bool, depth: int = 0) -> list[Element]:
    """Return the elements with every UN value that is a sequence turned into one, at every depth."""
    for element in elements:
        if element.items is None and element.vr == "UN" and element.tag not in PIXEL_DATA and depth < 32:
            element.items = parse_items(bytes(element.value), little)
            element.vr = "SQ" if element.items is not None else "UN"
        for item in element.items or ():
            resolve_unknown(item, little, depth + 1)
    return elements


class _Parser:
    """Reads one buffer in one byte order."""

    def __init__(self, view: memoryview, little: bool) -> None:
        self.view = view
        self.left = MOST_ELEMENTS
        self.little = little
        sign = "<" if little else ">"
        self.tag_and_length = struct.Struct(sign + "HHL")
        self.length16 = struct.Struct(sign + "H")
        self.length32 = struct.Struct(sign + "L")

    def dataset(
        self, at: int, end: int, implicit: bool, *, depth: int, delimited: bool
    ) -> tuple[list[Element], int]:
        """Return the elements from ``at`` up to ``end`` (or the item's delimiter) and where they end."""
        if depth > MAXIMUM_DEPTH:
            raise Malformed("nested too deeply")
        elements: list[Element] = []
        while (at := at if implicit else self._plain(at, end, elements)) < end:
            if self._is_over(at, end, depth):
                return elements, end
            tag, _ = self._tag(at)
            if tag == ITEM_END and delimited:
                return elements, at + 8
            if tag >> 16 == 0xFFFE:
                if depth:
                    raise Malformed("a delimiter outside a sequence")
                at = self._stray(at, end, implicit)
                continue
            try:
                element, at = self._element(at, end, implicit, depth)
            except PixelsBeyond as error:
                error.elements = elements
                raise
            elements.append(element)
        if delimited:
            raise Truncated("no item delimiter")
        return elements, at

    def _is_over(self, at: int, end: int, depth: int) -> bool:
        """Return whether nothing but zeros follows."""
        if end - at >= 8 and (depth or any(self.view[at : at + 8])):
            return False
        if any(self.view[at:end]):
            raise Truncated("trailing bytes")
        return True

    def _plain(self, at: int, end: int, elements: list[Element]) -> int:
        """Add the elements with a length of 16 bits, which most are, and return where another thing begins.

        It may be anything: the end, the pixel data, or bytes that are no element.
        """
        view, read = self.view, self.tag_and_length.unpack_from
        codes = _LITTLE_CODES if self.little else _BIG_CODES
        while self.left > 0 and end - at >= 8:
            group, number, word = read(view, at)
            code, size = (word & 0xFFFF, word >> 16) if self.little else (word >> 16, word & 0xFFFF)
            vr, stop = codes.get(code), at + 8 + size
            if vr is None or stop > end or group >= 0x7FE0:
                break
            self.left -= 1
            elements.append(Element(group << 16 | number, vr, bytes(view[at + 8 : stop])))
            at = stop
        return at

    def _stray(self, at: int, end: int, implicit: bool) -> int:
        """Return where an item or a delimiter outside any sequence ends.

        What is in it belongs to nothing and is not read.
        """
        tag, length = self._tag(at)
        if tag == ITEM and length == UNDEFINED:
            return self.dataset(at + 8, end, implicit, depth=1, delimited=True)[1]
        if tag in (ITEM_END, SEQUENCE_END) and length:
            raise Malformed("a delimiter with a value")
        if tag not in (ITEM, ITEM_END, SEQUENCE_END) or at + 8 + length > end:
            raise Malformed("no item where an item should be")
        return at + 8 + length

    def items(
        self, at: int, end: int, implicit: bool, *, depth: int, delimited: bool
    ) -> tuple[list[list[Element]], int]:
        """Return the items of a sequence and where it ends."""
        items: list[list[Element]] = []
        while at < end:
            tag, length = self._tag(at, end)
            at += 8
            if tag == SEQUENCE_END and delimited:
                return items, at
            if tag != ITEM:
                raise Malformed("no item where an item should be")
            if length == UNDEFINED:
                item, at = self.dataset(at, end, implicit, depth=depth, delimited=True)
            else:
                if at + length > end:
                    raise Truncated("an item")
                item, at = self.dataset(at, at + length, implicit, depth=depth, delimited=False)
            items.append(item)
        if delimited:
            raise Truncated("no sequence delimiter")
        return items, at

    def _tag(self, at: int, end: int | None = None) -> tuple[int, int]:
        if end is not None and end - at < 8:
            raise Truncated("a tag")
        group, element, length = self.tag_and_length.unpack_from(self.view, at)
        return group << 16 | element, length

    def _head(self, at: int, end: int, implicit: bool) -> tuple[int, str, int, int]:
        """Return tag, VR, length and where the value starts."""
        tag, length = self._tag(at)
        if implicit:
            return tag, standard_vr(tag), length, at + 8
        vr = bytes(self.view[at + 4 : at + 6]).decode("latin-1")
        if vr in SHORT:
            return tag, vr, self.length16.unpack_from(self.view, at + 6)[0], at + 8
        if vr not in LONG:
            raise NoVR("no VR")
        if end - at < 12:
            raise Truncated("a length")
        return tag, vr, self.length32.unpack_from(self.view, at + 8)[0], at + 12

    def _element(self, at: int, end: int, implicit: bool, depth: int) -> tuple[Element, int]:
        self.left -= 1
        if self.left < 0:
            raise TooManyElements("too many elements")
        tag, vr, length, at = self._head(at, end, implicit)
        if length == UNDEFINED:
            return self._undefined(tag, vr, at, end, implicit, depth)
        if at + length > end:
            if depth == 0 and tag in PIXEL_DATA:
                raise PixelsBeyond([], tag, vr, at, length)
            raise Truncated("a value")
        if vr == "SQ":
            items, _ = self._nested(at, at + length, implicit, depth, delimited=False)
            return Element(tag, "SQ", items=items), at + length
        value = self.view[at : at + length]
        return Element(tag, vr, value if tag in PIXEL_DATA else bytes(value)), at + length

    def _undefined(
        self, tag: int, vr: str, at: int, end: int, implicit: bool, depth: int
    ) -> tuple[Element, int]:
        if tag in PIXEL_DATA or vr in ("OB", "OW"):
            try:
                stop = self._fragments(at, end)
            except Truncated:
                if depth == 0 and tag in PIXEL_DATA:
                    raise PixelsBeyond([], tag, vr, at, UNDEFINED) from None
                raise
            value = self.view[at : stop - 8]
            return Element(tag, vr, value if tag in PIXEL_DATA else bytes(value), undefined=True), stop
        if vr not in ("SQ", "UN"):
            raise Malformed("undefined length of a plain value")
        items, stop = self._nested(at, end, implicit or vr == "UN", depth, delimited=True)
        return Element(tag, "SQ", items=items), stop

    def _nested(
        self, at: int, end: int, implicit: bool, depth: int, *, delimited: bool
    ) -> tuple[list[list[Element]], int]:
        """Return the items of a sequence; some writers change between explicit and implicit VR inside one."""
        try:
            return self.items(at, end, implicit, depth=depth + 1, delimited=delimited)
        except TooManyElements:
            raise
        except Malformed as error:
            if depth > 4 or not (implicit or isinstance(error, NoVR)):
                raise
            try:
                return self.items(at, end, not implicit, depth=depth + 1, delimited=delimited)
            except Malformed:
                raise error from None

    def _fragments(self, at: int, end: int) -> int:
        """Return where a list of fragments, delimiter included, ends."""
        while True:
            tag, length = self._tag(at, end)
            at += 8
            if tag == SEQUENCE_END:
                return at
            if tag != ITEM or length == UNDEFINED:
                raise Malformed("no fragment where a fragment should be")
            at += length
            if at > end:
                raise Truncated("a fragment")


def encode(elements: Iterable[Element], encoding: Encoding) -> bytes:
    """Return the bytes of a data set.

    Tags ascend, values are padded to even lengths, and only the length of fragments is undefined.
    """
    return b"".join(window for piece in encode_chunks(elements, encoding) for window in windows_of(piece))


def encode_chunks(elements: Iterable[Element], encoding: Encoding) -> list[Piece]:
    """Return what :func:`encode` returns in pieces, so that large values are not copied."""
    chunks: list[Piece] = []
    _encode(elements, encoding, chunks)
    return chunks


def _encode(elements: Iterable[Element], encoding: Encoding, chunks: list[Piece]) -> None:
    sign = "<" if encoding.little else ">"
    for element in sorted(elements, key=lambda item: item.tag):
        value: Piece = element.value if element.items is None else _encoded_items(element.items, encoding)
        padding = (b" " if element.vr in _SPACE_PADDED else b"\0") * (len(value) % 2)
        length = UNDEFINED if element.undefined else len(value) + len(padding)
        tag = struct.pack(sign + "HH", element.tag >> 16, element.tag & 0xFFFF)
        vr = element.vr if element.vr in SHORT | LONG else "UN"
        if not encoding.implicit and vr in SHORT and length > 0xFFFF:
            vr = "UN"  # a short VR has 16 bits for the length; PS3.5 6.2.2 lets a longer value stand as UN
        if encoding.implicit:
            head = struct.pack(sign + "L", length)
        elif vr in SHORT:
            head = vr.encode() + struct.pack(sign + "H", length)
        else:
            head = vr.encode() + b"\0\0" + struct.pack(sign + "L", length)
        chunks += (tag, head, value, padding)
        if element.undefined:
            chunks.append(struct.pack(sign + "HHL", 0xFFFE, 0xE0DD, 0))


_SPACE_PADDED = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"}
)


def _encoded_items(items: list[list[Element]], encoding: Encoding) -> bytes:
    sign = "<" if encoding.little else ">"
    chunks: list[bytes] = []
    for item in items:
        content = encode(item, encoding)
        chunks += (struct.pack(sign + "HHL", 0xFFFE, 0xE000, len(content)), content)
    return b"".join(chunks)
