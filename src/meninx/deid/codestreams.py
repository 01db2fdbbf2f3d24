"""Compressed frames taken apart and put together again, so that nothing but the image is left in them.

A decoder ignores comments, application segments, bytes behind the end marker and bytes behind a run-length segment. Text in
such a place leaves the hospital unseen. Each function here parses one frame completely and returns what a decoder needs, in
the order in which it stood; the decoded pixels are the same.

References:
    ITU-T T.81 annex B (JPEG), T.87 annex C (JPEG-LS), T.800 annexes A and I (JPEG 2000, JP2), T.814 (HTJ2K);
    DICOM PS3.5 annex G (RLE).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

JPEG_START, JPEG2000_START = b"\xff\xd8\xff", b"\xff\x4f\xff\x51"
_JP2_START = b"\x00\x00\x00\x0cjP  \r\n\x87\n"


class Unparsable(Exception):
    """The bytes are no frame of this compression, or hold something that a rebuilt frame cannot carry."""


class CutShort(Unparsable):
    """The frame ends early."""


class AnotherFrame(Unparsable):
    """A second image stands behind the end of the first one."""


def holds_start(trailer: bytes) -> bool:
    """Return whether an image begins in these bytes."""
    return JPEG_START in trailer or JPEG2000_START in trailer


# --- JPEG, JPEG lossless, JPEG-LS -------------------------------------------------------------------------------------

_NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)  # 00 is a stuffed byte, D0 to D7 are restarts
_NEXT_LS_MARKER = re.compile(rb"\xff+([\x80-\xcf\xd8-\xfe])", re.DOTALL)  # JPEG-LS stuffs a bit: FF 00 to FF 7F is data
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_DHT, _DAC, _SOI, _EOI, _SOS, _DQT, _DNL, _DRI, _LSE, _COM = 0xC4, 0xCC, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xF8, 0xFE
_COLOUR_TRANSFORM = b"mrfx"  # of JPEG-LS in some encoders: one byte that a decoder needs


def jpeg(frame: bytes) -> bytes:
    """Return a JPEG or JPEG-LS stream with its tables, frame headers and scans only, cut at its end of image.

    Comments and application segments go, but for a JFIF header (without its thumbnail), Adobe's colour transform and the colour
    transform of JPEG-LS, which say how the samples become colours.

    Args:
        frame: the stream, padding and anything else behind it included.

    Raises:
        CutShort: no end of image.
        AnotherFrame: a second image stands behind the first.
        Unparsable: something else than JPEG segments.
    """
    if frame[:2] != b"\xff\xd8":
        raise Unparsable("no start of image")
    parts, at, lossless_ls, scans = [b"\xff\xd8"], 2, False, 0
    while True:
        marker, at = _marker(frame, at)
        if marker == _EOI:
            break
        end = at + _length(frame, at)
        content = frame[at + 2 : end]
        lossless_ls |= marker == 0xF7
        kept = _jpeg_segment(marker, content)
        if kept is not None:
            parts += (bytes([0xFF, marker]), (len(kept) + 2).to_bytes(2, "big"), kept)
        at = end
        if marker == _SOS:
            scans += 1
            found = (_NEXT_LS_MARKER if lossless_ls else _NEXT_MARKER).search(frame, at)
            if found is None:
                raise CutShort("no end of image")
            parts.append(frame[at : found.start()])
            at = found.start()
    if not scans:
        raise Unparsable("no scan")
    if holds_start(frame[at:]):
        raise AnotherFrame("behind the end of image")
    return b"".join(parts) + b"\xff\xd9"


def _marker(frame: bytes, at: int) -> tuple[int, int]:
    """Return the marker at a place and where its segment starts; fill bytes before it are passed over."""
    if at < len(frame) and frame[at] != 0xFF:
        raise Unparsable("no marker where one should be")
    while at < len(frame) and frame[at] == 0xFF:
        at += 1
    if at >= len(frame):
        raise CutShort("no end of image")
    return frame[at], at + 1


def _length(frame: bytes, at: int) -> int:
    length = int.from_bytes(frame[at : at + 2], "big")
    if length < 2:
        raise Unparsable("a segment without length")
    if at + length > len(frame):
        raise CutShort("a segment")
    return length


def _jpeg_segment(marker: int, content: bytes) -> bytes | None:
    """Return the content of a segment as it is kept, None when the segment goes."""
    if marker == _COM or 0xE0 <= marker <= 0xEF:
        return _application(marker, content)
    check = _frame_header if marker in _SOF else _CHECKS.get(marker)
    if check is None or not check(content):
        raise Unparsable("a segment of another form")
    return content


def _application(marker: int, content: bytes) -> bytes | None:
    if marker == 0xE0 and content[:5] == b"JFIF\0" and len(content) >= 14:
        return content[:12] + b"\0\0"  # no thumbnail
    if marker == 0xEE and content[:5] == b"Adobe" and len(content) >= 12 and content[11] <= 2:
        return content[:5] + b"\0\x64" + bytes(4) + content[11:12]
    if marker == 0xE8 and content[:4] == _COLOUR_TRANSFORM and len(content) == 5:
        return content
    return None


def _frame_header(content: bytes) -> bool:
    return len(content) >= 6 and len(content) == 6 + 3 * content[5]


def _quantization(content: bytes) -> bool:
    at = 0
    while at < len(content):
        at += 65 if content[at] >> 4 == 0 else 129
    return at == len(content) > 0


def _huffman(content: bytes) -> bool:
    at = 0
    while at < len(content):
        at += 17 + sum(content[at + 1 : at + 17])
    return at == len(content) > 0


_CHECKS: dict[int, Callable[[bytes], bool]] = {
    _DQT: _quantization,
    _DHT: _huffman,
    _DAC: lambda content: len(content) % 2 == 0,
    _DNL: lambda content: len(content) == 2,
    _DRI: lambda content: len(content) in (2, 3, 4),
    _LSE: lambda content: bool(content) and (len(content) == 11 if content[0] == 1 else 2 <= content[0] <= 4),
    _SOS: lambda content: bool(content) and len(content) == 4 + 2 * content[0],
}


# --- JPEG 2000 --------------------------------------------------------------------------------------------------------

_SOC, _SOT, _SOD, _EOC, _J2K_COM = 0x4F, 0x90, 0x93, 0xD9, 0x64
_TILE_LENGTHS = frozenset({0x55, 0x57})  # TLM, PLM: indices over the stream that a rebuilt one no longer fits; optional
_MAIN = frozenset({0x50, 0x51, 0x52, 0x53, 0x56, 0x59, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x63})
_TILE = frozenset({0x52, 0x53, 0x58, 0x5C, 0x5D, 0x5E, 0x5F, 0x61})
_PALETTE = frozenset({b"pclr", b"cmap"})


def jpeg2000(frame: bytes) -> bytes:
    """Return a JPEG 2000 codestream without comments, cut at its end of codestream; a JP2 file is unwrapped.

    Args:
        frame: codestream or JP2 file, padding included.

    Raises:
        CutShort: a tile part ends early.
        AnotherFrame: a second image stands behind the first.
        Unparsable: something else, or a JP2 file whose palette would be lost.
    """
    if frame.startswith(_JP2_START):
        frame = _unwrapped(frame)
    if frame[:2] != b"\xff\x4f":
        raise Unparsable("no start of codestream")
    header, at = _j2k_segments(frame, 2, _SOT, _MAIN)
    parts = [b"\xff\x4f", *header]
    while frame[at : at + 2] == b"\xff\x90":
        part, at = _tile_part(frame, at)
        parts += part
    if len(parts) < 3 or (frame[at : at + 2] not in (b"\xff\xd9", b"", b"\0")):
        raise Unparsable("no tile part where one should be")
    if holds_start(frame[at:]):
        raise AnotherFrame("behind the end of codestream")
    return b"".join(parts) + b"\xff\xd9"


def _j2k_segments(frame: bytes, at: int, last: int, known: frozenset[int]) -> tuple[list[bytes], int]:
    """Return the segments of a header that stay and where the marker ``last`` stands."""
    kept: list[bytes] = []
    while True:
        if at + 4 > len(frame) and frame[at : at + 2] != bytes([0xFF, last]):
            raise CutShort("a header")
        if frame[at] != 0xFF:
            raise Unparsable("no marker where one should be")
        marker = frame[at + 1]
        if marker == last:
            return kept, at
        end = at + 2 + _length(frame, at + 2)
        if marker in known:
            kept.append(frame[at:end])
        elif marker != _J2K_COM and marker not in _TILE_LENGTHS:
            raise Unparsable("an unknown segment")
        at = end


def _tile_part(frame: bytes, at: int) -> tuple[list[bytes], int]:
    """Return a tile part, its length corrected for what went, and where the next marker stands."""
    if len(frame) < at + 12 or frame[at + 2 : at + 4] != b"\0\x0a":
        raise Unparsable("a tile part of another form")
    length = int.from_bytes(frame[at + 6 : at + 10], "big")
    segments, data = _j2k_segments(frame, at + 12, _SOD, _TILE)
    if length:
        end = at + length
    else:  # the last tile part runs up to the end of codestream; coded data never holds that marker
        end = frame.find(b"\xff\xd9", data)
        end = len(frame) if end < 0 else end
    if not data + 2 <= end <= len(frame):
        raise CutShort("a tile part")
    size = 12 + sum(map(len, segments)) + end - data
    start = frame[at : at + 6] + size.to_bytes(4, "big") + frame[at + 10 : at + 12]
    return [start, *segments, frame[data:end]], end


def _unwrapped(frame: bytes) -> bytes:
    """Return the codestream in a JP2 file."""
    at, found = 0, b""
    while at + 8 <= len(frame) and any(frame[at:]):
        length, kind = int.from_bytes(frame[at : at + 4], "big"), frame[at + 4 : at + 8]
        start = at + 8
        if length == 1:
            length, start = int.from_bytes(frame[at + 8 : at + 16], "big"), at + 16
        end = at + length if length else len(frame)
        if not start <= end <= len(frame):
            break  # text behind the last box; the codestream is judged by itself
        if kind == b"jp2h" and any(name in frame[start:end] for name in _PALETTE):
            raise Unparsable("a palette outside the codestream")
        if kind == b"jp2c":
            if found:
                raise AnotherFrame("a second codestream")
            found = frame[start:end]
        at = end
    if not found:
        raise Unparsable("no codestream")
    return found


# --- RLE --------------------------------------------------------------------------------------------------------------


def rle(frame: bytes, plane: int) -> bytes:
    """Return an RLE frame with each segment cut where its plane is complete, and a header that says so.

    Args:
        frame: header of 64 bytes and segments.
        plane: bytes that each segment decodes to, rows times columns.

    Raises:
        CutShort: a segment ends before the plane is complete.
        Unparsable: a header of another form.
    """
    if len(frame) < 64:
        raise CutShort("the header")
    count, *offsets = struct.unpack_from("<16L", frame)
    starts = offsets[:count]
    if not 1 <= count <= 15 or starts[0] != 64 or sorted(set(starts)) != starts or starts[-1] >= len(frame):
        raise Unparsable("a header of another form")
    segments = [_rle_segment(frame, start, end, plane) for start, end in zip(starts, [*starts[1:], len(frame)], strict=True)]
    places, at = [], 64
    for segment in segments:
        places.append(at)
        at += len(segment)
    return struct.pack("<16L", count, *places, *[0] * (15 - count)) + b"".join(segments)


def _rle_segment(frame: bytes, start: int, end: int, plane: int) -> bytes:
    """Return the runs of one segment that make a plane, padded to an even length."""
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
    if missing < 0:  # the last run goes beyond the plane: shorten it
        left = made + missing
        last = bytes([left - 1]) + frame[before + 1 : before + 1 + left] if head < 128 else bytes([257 - left if left > 1 else 0])
        segment = frame[start:before] + (last if head < 128 else last + frame[before + 1 : before + 2])
    return segment + b"\0" * (len(segment) % 2)
