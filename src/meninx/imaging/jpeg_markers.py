"""Kind, size and number of scans of a JPEG stream, read from its markers before anything is decoded.

A decoder processes the whole image once per scan, and the format does not limit the number of scans. A file
of 400 kB may contain thousands, which would occupy the decoder for hours, so they are counted first.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from meninx.core.errors import DataError, problem

BASELINE, EXTENDED, LOSSLESS = 0xC0, 0xC1, 0xC3
MOST_SCANS = 64  # encoders write about 10 for a progressive colour image

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # these three are not frame markers
_SCAN, _END = 0xDA, 0xD9
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)  # ends coded data; restarts do not


@dataclass(frozen=True)
class FrameHeader:
    """The header of a frame.

    Attributes:
        kind: second byte of its marker, e.g. ``BASELINE``.
        bits: of a sample.
        rows: number of rows.
        columns: number of columns.
        components: number of components.
    """

    kind: int
    bits: int
    rows: int
    columns: int
    components: int


def frame_header(stream: bytes) -> FrameHeader:
    """Return the header of the first frame of a JPEG stream.

    Raises:
        ValueError: there is none before the coded data.
    """
    at = 2
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            break
        marker = stream[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _ALONE:
            at += 2
            continue
        if marker in (_SCAN, _END):
            break
        if marker in _START_OF_FRAME and at + 10 <= len(stream):
            return FrameHeader(marker, *struct.unpack_from(">BHHB", stream, at + 4))
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    raise ValueError("a JPEG stream without a header of a frame")


def refuse_many_scans(stream: bytes, *, where: str) -> None:
    """Refuse a JPEG stream of more than ``MOST_SCANS`` scans.

    Scans are counted like in libjpeg, which skips bytes between two segments: a stricter parser would miss
    scans that libjpeg decodes.

    Raises:
        DataError: the stream has more scans.
    """
    at, scans = 2, 0
    while (found := _MARKER.search(stream, at)) is not None:
        marker, at = stream[found.end() - 1], found.end()
        if marker == _END:
            return
        if marker in _ALONE:
            continue
        scans += marker == _SCAN
        if scans > MOST_SCANS:
            raise DataError(problem(f"the JPEG image has more than {MOST_SCANS} scans", where=where))
        at += max(2, int.from_bytes(stream[at : at + 2], "big"))
