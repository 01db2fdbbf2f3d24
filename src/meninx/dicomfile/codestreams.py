"""Rebuilding compressed frames without the segments that a decoder ignores.

A decoder ignores comments, application segments, tables that no scan uses, bytes after the end marker and
bytes after the runs of an RLE segment. Text hidden in such a place would leave the hospital, and no viewer
would show it. Each function here parses the segments of one frame and returns those that a decoder needs, in
their original order. The decoded pixels are the same. A frame with a segment that some decoders use and
others ignore is refused.

Coded data is copied and not decoded. Three kinds of bytes therefore stay although a decoder may ignore them:
those after the last coded block of a JPEG scan, those after the last packet of a JPEG 2000 tile part, and the
entries of a used table that no code refers to.

JPEG 2000 is in :mod:`meninx.dicomfile.j2k_codestream`.

References:
    ITU-T T.81 annex B (JPEG), T.87 annex C (JPEG-LS); DICOM PS3.5 annex G (RLE).
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

JPEG_START, JPEG2000_START = b"\xff\xd8\xff", b"\xff\x4f\xff\x51"


class Unparsable(Exception):
    """The bytes are no frame of this compression, or hold something that a rebuilt frame cannot carry."""


class CutShort(Unparsable):
    """The frame ends early."""


class AnotherFrame(Unparsable):
    """A second image follows the end of the first one."""


class AnotherSize(Unparsable):
    """Rows, columns or samples of the frame are not those of the header around it."""


class Size(NamedTuple):
    """The size that the header of the instance states for every frame.

    Attributes:
        rows, columns: pixels.
        samples: values per pixel.
    """

    rows: int
    columns: int
    samples: int


def holds_start(trailer: bytes) -> bool:
    """Return whether an image begins in these bytes."""
    return JPEG_START in trailer or JPEG2000_START in trailer


# --- JPEG, JPEG lossless, JPEG-LS ---------------------------------------------------------------------------

_NEXT_MARKER = re.compile(
    rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL
)  # 00 is a stuffed byte, D0 to D7 are restarts
# JPEG-LS stuffs a bit and not a byte: FF 00 to FF 7F is coded data.
_NEXT_LS_MARKER = re.compile(rb"\xff+([\x80-\xcf\xd8-\xfe])", re.DOTALL)
_LS = 0xF7
_LOSSLESS, _PROGRESSIVE, _ARITHMETIC = (
    frozenset({0xC3, 0xCB}),
    frozenset({0xC2, 0xCA}),
    frozenset({0xC9, 0xCA, 0xCB}),
)
_SOF = (
    frozenset({0xC0, 0xC1, _LS}) | _LOSSLESS | _PROGRESSIVE | _ARITHMETIC
)  # the others belong to hierarchical images
_DHT, _DAC, _EOI, _SOS, _DQT = 0xC4, 0xCC, 0xD9, 0xDA, 0xDB
_DNL, _DRI, _LSE, _COM = 0xDC, 0xDD, 0xF8, 0xFE
# A JFIF header means that three samples are YCbCr. Its density and thumbnail are dropped.
_JFIF = b"JFIF\0\1\2\0\0\1\0\1\0\0"
_COLOUR_TRANSFORM = b"mrfx"  # of JPEG-LS in some encoders: one byte that a decoder needs
_Key = tuple[int, int]  # marker and place of a table


def jpeg(frame: bytes, size: Size) -> bytes:
    """Return a JPEG or JPEG-LS stream with its frame header, its scans and the tables that they use.

    Comments and application segments are dropped, except those that define how samples become colours: a JFIF
    header (without density and thumbnail), Adobe's colour transform and the colour transform of JPEG-LS.
    Bytes after the end of image are dropped.

    Args:
        frame: the stream, with its padding and anything else that follows it.
        size: the size that the header of the instance states.

    Raises:
        CutShort: no end of image.
        AnotherFrame: a second image follows the first.
        AnotherSize: the stream has other rows, columns or samples.
        Unparsable: the bytes are no JPEG segments, or a segment is used by some decoders only.
    """
    if frame[:2] != b"\xff\xd8":
        raise Unparsable("no start of image")
    stream, at = _Jpeg(size), 2
    while True:
        marker, at = _marker(frame, at)
        if marker == _EOI:
            break
        end = at + segment_length(frame, at)
        stream.take(marker, frame[at + 2 : end])
        at = end
        if marker == _SOS:
            # Coded data has no length field: it ends at the next marker that is not stuffing or a restart.
            found = (_NEXT_LS_MARKER if stream.kind == _LS else _NEXT_MARKER).search(frame, at)
            if found is None:
                raise CutShort("no end of image")
            stream.parts.append(frame[at : found.start()])
            at = found.start()
    if not stream.scanned:
        raise Unparsable("no scan")
    if holds_start(frame[at:]):
        raise AnotherFrame("behind the end of image")
    return b"\xff\xd8" + b"".join(stream.used_segments()) + b"\xff\xd9"


def _marker(frame: bytes, at: int) -> tuple[int, int]:
    """Return the marker at an offset and where its segment starts. Fill bytes (FF) may precede a marker."""
    if at < len(frame) and frame[at] != 0xFF:
        raise Unparsable("no marker where one should be")
    while at < len(frame) and frame[at] == 0xFF:
        at += 1
    if at >= len(frame):
        raise CutShort("no end of image")
    return frame[at], at + 1


def segment_length(frame: bytes, at: int) -> int:
    """Return the length that a segment states, its own two bytes included, after a check that it is there."""
    length = int.from_bytes(frame[at : at + 2], "big")
    if length < 2:
        raise Unparsable("a segment without length")
    if at + length > len(frame):
        raise CutShort("a segment")
    return length


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


@dataclass
class _Table:
    """One table of a segment. The restart interval and the JPEG-LS parameters are handled as tables, too."""

    content: bytes
    used: bool = False


class _Jpeg:
    """The segments of a stream, taken in order.

    One segment may define several tables, and a later scan decides which of them are used. Tables are
    therefore written at the end, when every scan has marked the ones that it needs.

    Attributes:
        kind: the marker of the frame header; 0 before it.
        scanned: numbers of the components that have been in a scan.
        parts: the segments to write, in order: bytes, or the tables of one segment with its marker.
    """

    def __init__(self, size: Size) -> None:
        self.kind = 0
        self.scanned: set[int] = set()
        self.parts: list[bytes | tuple[int, list[_Table]]] = []
        self._size = size
        self._lines_follow = False
        self._components: dict[int, int] = {}  # number of the quantization table
        self._tables: dict[_Key, _Table] = {}  # the current definitions; a stream may redefine a table
        self._quantized: dict[int, bytes] = {}  # the quantization table at the first scan of a component
        # Component and coefficient -> the lowest bit that a progressive scan has given so far.
        self._precision: dict[tuple[int, int], int] = {}
        self._notes: dict[int, bytes] = {}

    def take(self, marker: int, content: bytes) -> None:
        """Check one segment and keep what may be used of it."""
        if marker == _COM or 0xE0 <= marker <= 0xEF:
            self._note(marker, content)
        elif marker in _SOF:
            self._frame_header(marker, content)
        elif marker == _SOS:
            self._scan(content)
        elif marker == _DNL:
            self._number_of_lines(content)
        elif marker in _TABLES:
            found = list(_TABLES[marker](content))
            for place, table in found:
                self._tables[marker, place] = table
            self.parts.append((marker, [table for _, table in found]))
        else:
            raise Unparsable("a segment of another form")

    def used_segments(self) -> Iterator[bytes]:
        """Yield the segments that a decoder needs; call this after the last scan."""
        for part in self.parts:
            if isinstance(part, bytes):
                yield part
                continue
            used = b"".join(table.content for table in part[1] if table.used)
            if used:
                yield _segment(part[0], used)

    def _note(self, marker: int, content: bytes) -> None:
        kept = _application(marker, content)
        if kept is None:
            return
        if marker not in self._notes:
            self.parts.append(_segment(marker, kept))
        if self._notes.setdefault(marker, kept) != kept:
            raise Unparsable("two colour transforms")

    def _frame_header(self, marker: int, content: bytes) -> None:
        if self.kind or len(content) < 6 or len(content) != 6 + 3 * content[5]:
            raise Unparsable("a frame header of another form")
        rows, columns = struct.unpack_from(">HH", content, 1)
        self._components = {content[at]: content[at + 2] for at in range(6, len(content), 3)}
        self.kind, self._lines_follow = marker, rows == 0
        if len(self._components) != content[5]:
            raise Unparsable("two components of one name")
        if (rows or self._size.rows, columns, content[5]) != self._size:
            raise AnotherSize("frame header")
        self.parts.append(_segment(marker, content))

    def _number_of_lines(self, content: bytes) -> None:
        """Keep the number of lines where the frame header leaves it open, and check it."""
        if len(content) != 2 or not self.scanned:
            raise Unparsable("a number of lines of another form")
        if self._lines_follow:
            if int.from_bytes(content, "big") != self._size.rows:
                raise AnotherSize("number of lines")
            self.parts.append(_segment(_DNL, content))
            self._lines_follow = False

    def _scan(self, content: bytes) -> None:
        if not content or len(content) != 4 + 2 * content[0] or not content[0] or not self.kind:
            raise Unparsable("a scan of another form")
        pairs = [(content[at], content[at + 1]) for at in range(1, len(content) - 3, 2)]
        numbers = {number for number, _ in pairs}
        if len(numbers) != len(pairs) or not numbers <= set(self._components):
            raise Unparsable("a scan of other components")
        if self.kind in _PROGRESSIVE:
            self._refine(numbers, content[-3], content[-2], content[-1])
        elif numbers & self.scanned:
            raise Unparsable("a second scan of one component")
        for number, choice in pairs:
            self._use(number, choice, dc=content[-3] == 0, first=content[-1] >> 4 == 0)
        self._mark(_DRI, 0)
        self.scanned |= numbers
        self.parts.append(_segment(_SOS, content))

    def _refine(self, numbers: set[int], first: int, last: int, bits: int) -> None:
        """Refuse a progressive scan of coefficients or bits that an earlier scan held."""
        before, now = bits >> 4, bits & 15
        if not first <= last <= 63 or (before and before != now + 1):
            raise Unparsable("a scan of other coefficients")
        for coefficient in itertools.product(numbers, range(first, last + 1)):
            if self._precision.get(coefficient) != (before or None):
                raise Unparsable("a second scan of the same coefficients")
            self._precision[coefficient] = now

    def _use(self, number: int, choice: int, *, dc: bool, first: bool) -> None:
        """Mark the tables that a scan of one component uses."""
        if self.kind == _LS:
            if choice:
                raise Unparsable(
                    "a mapping table"
                )  # a palette inside the stream; the header does not declare it
            self._mark(_LSE, 1)
            return
        if self.kind not in _LOSSLESS:
            self._quantize(number)
        progressive, lossless = self.kind in _PROGRESSIVE, self.kind in _LOSSLESS
        coder = _DAC if self.kind in _ARITHMETIC else _DHT
        if dc and progressive and not first:
            return  # a refining scan of DC holds one raw bit per coefficient and uses no table
        if dc or lossless or not progressive:
            self._mark(coder, choice >> 4)
        if not lossless and not (dc and progressive):
            self._mark(coder, 0x10 | choice & 15)

    def _quantize(self, number: int) -> None:
        """Mark the quantization table of a component.

        If the table changes between the scans of one component, some decoders use the first definition and
        some the last, so the frame is refused.
        """
        place = self._components[number]
        table = self._tables.get((_DQT, place))
        if table is None:
            raise Unparsable("no quantization table")
        if number not in self._quantized:
            table.used = True
        if self._quantized.setdefault(number, table.content) != table.content:
            raise Unparsable("a quantization table that changes")

    def _mark(self, marker: int, place: int) -> None:
        table = self._tables.get((marker, place))
        if table is not None:
            table.used = True


def _application(marker: int, content: bytes) -> bytes | None:
    """Return the part of a comment or application segment that a decoder needs, or None."""
    if marker == 0xE0 and content[:5] == b"JFIF\0" and len(content) >= 14:
        return _JFIF
    if marker == 0xEE and content[:5] == b"Adobe" and len(content) >= 12 and content[11] <= 2:
        return content[:5] + b"\0\x64" + bytes(4) + content[11:12]
    if marker == 0xE8 and content[:4] == _COLOUR_TRANSFORM and len(content) == 5:
        return content
    return None


def _cut(content: bytes, length: Callable[[int], int]) -> Iterator[tuple[int, _Table]]:
    """Yield the destination and the content of each table of a segment.

    Args:
        content: the segment without marker and length.
        length: offset of a table -> its length in bytes.
    """
    at = 0
    while at < len(content):
        end = at + length(at)
        if end > len(content):
            raise Unparsable("a table of another form")
        yield content[at], _Table(content[at:end])
        at = end


def _quantization(content: bytes) -> Iterator[tuple[int, _Table]]:
    for place, table in _cut(content, lambda at: 65 if content[at] >> 4 == 0 else 129):
        yield place & 15, table


def _huffman(content: bytes) -> Iterator[tuple[int, _Table]]:
    return _cut(content, lambda at: 17 + sum(content[at + 1 : at + 17]))


def _conditioning(content: bytes) -> Iterator[tuple[int, _Table]]:
    return _cut(content, lambda at: 2)


def _restarts(content: bytes) -> Iterator[tuple[int, _Table]]:
    if len(content) not in (2, 3, 4):
        raise Unparsable("a restart interval of another form")
    yield 0, _Table(content)


def _parameters(content: bytes) -> Iterator[tuple[int, _Table]]:
    """Yield the parameters of JPEG-LS. Mapping tables are dropped, and a scan that uses one is refused."""
    if not content or content[0] not in (1, 2, 3) or (content[0] == 1 and len(content) != 11):
        raise Unparsable("parameters of another form")
    if content[0] == 1:
        yield 1, _Table(content)


_TABLES: dict[int, Callable[[bytes], Iterator[tuple[int, _Table]]]] = {
    _DQT: _quantization,
    _DHT: _huffman,
    _DAC: _conditioning,
    _DRI: _restarts,
    _LSE: _parameters,
}


# --- RLE ----------------------------------------------------------------------------------------------------


def rle(frame: bytes, plane: int, planes: int) -> bytes:
    """Return an RLE frame with each segment cut where its plane is complete, and with new offsets.

    Args:
        frame: header of 64 bytes and segments.
        plane: bytes that each segment decodes to, rows times columns.
        planes: number of segments, samples times bytes of each.

    Raises:
        CutShort: a segment ends before the plane is complete.
        Unparsable: a header of another form, or another number of segments.
    """
    if len(frame) < 64:
        raise CutShort("the header")
    count, *offsets = struct.unpack_from("<16L", frame)
    starts = offsets[:count]
    if (
        not 1 <= count <= 15
        or count != planes
        or starts[0] != 64
        or sorted(set(starts)) != starts
        or starts[-1] >= len(frame)
    ):
        raise Unparsable("a header of another form")
    segments = [
        _rle_segment(frame, start, end, plane)
        for start, end in zip(starts, [*starts[1:], len(frame)], strict=True)
    ]
    places, at = [], 64
    for segment in segments:
        places.append(at)
        at += len(segment)
    return struct.pack("<16L", count, *places, *[0] * (15 - count)) + b"".join(segments)


def _rle_segment(frame: bytes, start: int, end: int, plane: int) -> bytes:
    """Return the runs of one segment that fill a plane, padded to an even length.

    A head byte n below 128 starts n + 1 literal bytes, one above 128 repeats the next byte 257 - n times, and
    128 is a filler.
    """
    at, missing = start, plane
    while missing > 0:
        if at >= end:
            raise CutShort("a segment")
        head, before = frame[at], at
        if head < 128:
            at, made = at + head + 2, head + 1
        elif head > 128:
            at, made = at + 2, 257 - head
        else:
            at, made = at + 1, 0
        if at > end:
            raise CutShort("a run")
        missing -= made
    segment = frame[start:at]
    if missing < 0:  # the last run writes past the plane, which decoders ignore: shorten it
        left = made + missing
        last = (
            bytes([left - 1]) + frame[before + 1 : before + 1 + left]
            if head < 128
            else bytes([257 - left if left > 1 else 0])
        )
        segment = frame[start:before] + (last if head < 128 else last + frame[before + 1 : before + 2])
    return segment + b"\0" * (len(segment) % 2)
