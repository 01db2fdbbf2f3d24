"""The fragments of encapsulated pixel data, in memory or in a file.

A compressed multi-frame image may be larger than the memory of a worker, so only the places of its fragments
are kept, and a fragment is read when it is used.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator

from meninx.dicomfile.elements import ITEM, SEQUENCE_END, UNDEFINED, Malformed, TooManyElements, Truncated
from meninx.dicomfile.file_part import FilePart, Piece
from meninx.dicomfile.refusals import Reason, Refused

MOST_FRAGMENTS = 1 << 20  # of one value in a file: 16 MB for their places
_HEAD = struct.Struct("<HHL")


class Fragments:
    """The fragments of encapsulated pixel data in their order; the first one is the offset table.

    Args:
        value: items with their tags, without the delimiter.

    Raises:
        Refused: ``pixels-unreadable``, the value consists of something else.
    """

    def __init__(self, value: Piece) -> None:
        self._value = value if isinstance(value, FilePart) else memoryview(value)
        self.offsets, self.lengths = array("Q"), array("Q")
        at, end = 0, len(value)
        while at + 8 <= end:
            group, number, length = _HEAD.unpack(_bytes(self._value, at, 8))
            if group << 16 | number != ITEM or at + 8 + length > end:
                raise Refused(Reason.PIXELS_UNREADABLE)
            self.offsets.append(at + 8)
            self.lengths.append(length)
            at += 8 + length

    def __len__(self) -> int:
        return len(self.offsets)

    def head(self, number: int) -> bytes:
        """Return the first twelve bytes of a fragment."""
        return bytes(_bytes(self._value, self.offsets[number], min(12, self.lengths[number])))

    def __getitem__(self, number: int) -> bytes | memoryview:
        """Return a fragment; one of a file is read.

        Raises:
            Refused: the file has become shorter, or cannot be read.
        """
        return _bytes(self._value, self.offsets[number], self.lengths[number])

    def of_frames(self) -> Iterator[bytes | memoryview]:
        """Yield the fragments without the offset table."""
        return (self[number] for number in range(1, len(self)))


def end_in_file(rest: FilePart, at: int) -> int:
    """Return where a list of fragments in a file, delimiter included, ends.

    Args:
        rest: the file.
        at: where the first fragment begins.

    Raises:
        Truncated: the file ends before.
        Malformed: something else stands there.
        TooManyElements: more than :data:`MOST_FRAGMENTS`.
    """
    for _ in range(MOST_FRAGMENTS):
        if at + 8 > len(rest):
            raise Truncated("a fragment")
        group, number, length = _HEAD.unpack(_bytes(rest, at, 8))
        at += 8
        if group << 16 | number == SEQUENCE_END:
            return at
        if group << 16 | number != ITEM or length == UNDEFINED:
            raise Malformed("no fragment where a fragment should be")
        at += length
    raise TooManyElements("fragments")


def _bytes(value: memoryview | FilePart, at: int, length: int) -> bytes | memoryview:
    found = value[at : at + length]
    return bytes(found) if isinstance(found, FilePart) else found
