"""Where text hides in pixel data: comments of compressed streams, the edges of plain pixels."""

from __future__ import annotations

from collections.abc import Iterator

from meninx.deid.elements import Element

EDGE = 1024  # bytes at either end of plain pixels; some devices write a header there
_JPEG, _JPEG2000 = b"\xff\xd8\xff", b"\xff\x4f\xff"
_SCAN_STARTS = frozenset({0xDA, 0x90, 0x93, 0xD9})  # start of scan, of tile part, of data; end of image


def hidden_text(element: Element) -> Iterator[bytes]:
    """Yield the bytes of a pixel data element that may hold text: see the module's first line. The image itself is not read.

    Args:
        element: pixel data, plain or encapsulated.
    """
    value = element.value
    if not element.undefined:
        yield bytes(value[:EDGE])
        yield bytes(value[-EDGE:]) if len(value) > EDGE else b""
        return
    at = 0
    while at + 8 <= len(value):
        length = int.from_bytes(value[at + 4 : at + 8], "little")
        fragment = memoryview(value)[at + 8 : at + 8 + length]
        if bytes(fragment[:3]) in (_JPEG, _JPEG2000):
            yield from _segments(fragment)
        at += 8 + length


def _segments(stream: memoryview) -> Iterator[bytes]:
    """Yield the marker segments of a JPEG, JPEG-LS or JPEG 2000 stream before its first coded data."""
    at = 2
    while at + 4 <= len(stream) and stream[at] == 0xFF and stream[at + 1] not in _SCAN_STARTS:
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        yield bytes(stream[at + 4 : at + 2 + length])
        at += 2 + max(length, 2)
