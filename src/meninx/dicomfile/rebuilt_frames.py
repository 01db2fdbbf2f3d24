"""Encapsulated pixel data whose frames are rebuilt when they are read: two of them are in memory at most."""

from __future__ import annotations

import bisect
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from meninx.dicomfile.elements import ITEM
from meninx.dicomfile.file_part import FilePart
from meninx.dicomfile.fragments import Fragments
from meninx.dicomfile.refusals import Reason, Refused

_KEPT = 2  # a reader that goes through the bytes in windows comes back to the frame before by some bytes


class RebuiltFrames:
    """The frames of a file and the encapsulated value that they give.

    Args:
        fragments: of the file.
        ranges: the first fragment of each frame and the one behind its last one.
        rebuild: returns a frame without what a decoder ignores; it raises an error for one that it cannot
            read.
        table: whether the value has an offset table.

    Attributes:
        same: the value has the bytes of the file.
    """

    def __init__(
        self,
        fragments: Fragments,
        ranges: Sequence[tuple[int, int]],
        rebuild: Callable[[bytes], bytes],
        *,
        table: bool,
    ) -> None:
        self._fragments, self._ranges, self._rebuild = fragments, ranges, rebuild
        self._kept: dict[int, bytes] = {}
        lengths = array("Q")
        self.same = len(fragments) == len(ranges) + 1
        for number in range(len(ranges)):
            stored = self._stored(number)
            frame = rebuild(stored)
            lengths.append(len(frame))
            self.same &= frame + b"\0" * (len(frame) % 2) == stored
        self._table = items((), offset_table(lengths) if table else b"")
        self._starts = array("Q", [len(self._table)])
        for length in lengths:
            self._starts.append(self._starts[-1] + 8 + length + length % 2)
        self.same &= bytes(fragments[0]) == self._table[8:]

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, start: int, count: int) -> bytes:
        """Return some bytes of the value.

        Raises:
            Refused: the file has changed.
        """
        found = [self._table[start : start + count]]
        stop, number = start + count, max(0, bisect.bisect_right(self._starts, start) - 1)
        while number < len(self._ranges) and self._starts[number] < stop:
            begin = self._starts[number]
            found.append(self._item(number)[max(0, start - begin) : stop - begin])
            number += 1
        return b"".join(found)

    def _item(self, number: int) -> bytes:
        if number not in self._kept:
            try:
                item = items((self._rebuild(self._stored(number)),))
            except Exception as error:  # the same call succeeded before
                raise Refused(Reason.UNREADABLE) from error
            if len(item) != self._starts[number + 1] - self._starts[number]:
                raise Refused(Reason.UNREADABLE)
            while len(self._kept) >= _KEPT:
                del self._kept[min(self._kept)]
            self._kept[number] = item
        return self._kept[number]

    def _stored(self, number: int) -> bytes:
        return b"".join(self._fragments[part] for part in range(*self._ranges[number]))


@dataclass(frozen=True, eq=False)
class RebuiltPart(FilePart):
    """A part of a value that a file does not hold as it is.

    Attributes:
        frames: what gives the bytes; ``offset`` counts from the beginning of the value.
    """

    frames: RebuiltFrames = field(kw_only=True, repr=False)

    @classmethod
    def of(cls, frames: RebuiltFrames, stream: BinaryIO) -> RebuiltPart:
        """Return the whole value."""
        return cls(stream, 0, len(frames), frames=frames)

    @property
    def is_stored(self) -> bool:
        """Whether the file holds the bytes."""
        return False

    def _stored(self, start: int, count: int) -> bytes:
        return self.frames.read(self.offset + start, count)


def offset_table(lengths: Sequence[int]) -> bytes:
    """Return the basic offset table of frames of these lengths; empty if an offset exceeds 32 bits."""
    offsets, at = array("Q"), 0
    for length in lengths:
        offsets.append(at)
        at += 8 + length + length % 2
    if offsets and offsets[-1] >= 1 << 32:
        return b""
    return struct.pack(f"<{len(offsets)}L", *offsets)


def items(frames: Sequence[bytes], table: bytes | None = None) -> bytes:
    """Return fragments with their item tags, behind the offset table where one is given."""
    return b"".join(_items(([] if table is None else [table]) + list(frames)))


def _items(contents: Sequence[bytes]) -> Iterator[bytes]:
    for content in contents:
        padding = len(content) % 2
        yield struct.pack("<HHL", ITEM >> 16, ITEM & 0xFFFF, len(content) + padding)
        yield content
        yield b"\0" * padding
