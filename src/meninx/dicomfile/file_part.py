"""Bytes of a file that stay in the file: the pixel data of a large instance.

A multi-frame image may be larger than the memory of a worker. Its header is read, and its native pixel data
is a :class:`FilePart`, which every later step reads window by window.
"""

from __future__ import annotations

import bisect
import errno
import hashlib
import io
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import IO, BinaryIO, Protocol, overload

from meninx.dicomfile.refusals import Reason, Refused

WINDOW = 1 << 20  # bytes that are in memory at a time
UNIT = 8  # bytes: whole pixels of every size


@dataclass(frozen=True, eq=False)
class FilePart:
    """A range of an open file, with the operations of bytes that the engine needs.

    Attributes:
        stream: the file, open for reading as long as the part is used.
        offset: of the first byte.
        length: in bytes; the file had them when the part was made.
        change: what is done to the bytes when they are read, :data:`UNIT` at a time or a multiple of it.
        observe: is told the offset in the file and the bytes of everything that is read, before any change.
    """

    stream: BinaryIO = field(repr=False)
    offset: int
    length: int
    change: Callable[[bytes], bytes] | None = field(default=None, repr=False)
    observe: Callable[[int, bytes], None] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> bytes | FilePart: ...
    def __getitem__(self, at: int | slice) -> int | bytes | FilePart:
        """Return one byte, the bytes of a slice of at most :data:`WINDOW`, or the part of a larger slice."""
        if isinstance(at, int):
            return self._read(at % self.length if self.length else at, 1)[0]
        start, stop, step = at.indices(self.length)
        if step != 1:
            raise ValueError("only contiguous slices")
        count = max(0, stop - start)
        if count > WINDOW:
            return self.part(start, count)
        return self._read(start, count)

    def __bytes__(self) -> bytes:
        return b"".join(self.windows())

    def part(self, start: int, length: int | None = None) -> FilePart:
        """Return a part of this part; without ``length`` all that follows ``start``."""
        count = self.length - start if length is None else length
        if self.change is not None and start % UNIT:
            raise ValueError("a part of changed bytes begins at a multiple of UNIT")
        return replace(self, offset=self.offset + start, length=count)

    def changed(self, change: Callable[[bytes], bytes]) -> FilePart:
        """Return the part with its bytes changed whenever they are read; the file stays as it is."""
        return replace(self, change=change)

    @property
    def is_stored(self) -> bool:
        """Whether the file holds the bytes as they are read."""
        return self.change is None

    def copy_to(self, stream: IO[bytes]) -> None:
        """Append the bytes to a file that is open for writing.

        The operating system copies them where it can: on some file systems they then take no room.

        Raises:
            Refused: the file has become shorter, or cannot be read.
            OSError: the disk refused.
        """
        done = 0
        if self.is_stored and hasattr(os, "copy_file_range"):
            stream.flush()
            source, target = self.stream.fileno(), stream.fileno()
            try:
                while done < self.length and (
                    count := os.copy_file_range(source, target, self.length - done, self.offset + done)
                ):
                    done += count
            except OSError as error:  # not every pair of file systems can do it
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
        for start in range(done, self.length, WINDOW):
            stream.write(self._read(start, min(WINDOW, self.length - start)))

    def windows(self) -> Iterator[bytes]:
        """Yield the bytes in order, :data:`WINDOW` at a time.

        Raises:
            Refused: the file has become shorter, or cannot be read.
        """
        for start in range(0, self.length, WINDOW):
            yield self._read(start, min(WINDOW, self.length - start))

    def _read(self, start: int, count: int) -> bytes:
        if self.change is None:
            return self._stored(start, count)
        first = start - start % UNIT
        end = min(self.length, start + count + -(start + count) % UNIT)
        return self.change(self._stored(first, end - first))[start - first : start - first + count]

    def _stored(self, start: int, count: int) -> bytes:
        try:
            if hasattr(os, "pread"):
                content = os.pread(self.stream.fileno(), count, self.offset + start)
            else:  # Windows; each worker has its own stream, so moving its position disturbs nobody
                self.stream.seek(self.offset + start, io.SEEK_SET)
                content = self.stream.read(count)
        except OSError:
            raise Refused(Reason.UNREADABLE) from None
        if len(content) != count:
            raise Refused(Reason.UNREADABLE)
        if self.observe is not None:
            self.observe(self.offset + start, content)
        return bytes(content)


class Digested:
    """Bytes whose SHA-256 is computed while they are read for other reasons.

    Args:
        data: bytes, or a whole file.

    Attributes:
        data: to be read in place of the argument.
    """

    def __init__(self, data: bytes | FilePart) -> None:
        self._digest, self._next = hashlib.sha256(), 0
        self.data = replace(data, observe=self._saw) if isinstance(data, FilePart) else data

    def value(self) -> str:
        """Return the digest as hexadecimal digits; what was not read yet is read now.

        Raises:
            Refused: the file has become shorter, or cannot be read.
        """
        if isinstance(self.data, FilePart):
            while self._next < self.data.length:
                self.data[self._next : self._next + WINDOW]
        elif not self._next:
            self._saw(0, self.data)
        return self._digest.hexdigest()

    def _saw(self, offset: int, content: bytes) -> None:
        """Add the bytes that follow those that were added; any others come again."""
        end = offset + len(content)
        if offset <= self._next < end:
            self._digest.update(memoryview(content)[self._next - offset :])
            self._next = end


Piece = bytes | memoryview | FilePart


def windows_of(piece: Piece) -> Iterator[bytes | memoryview]:
    """Yield bytes as they are, and the bytes of a part of a file window by window."""
    if isinstance(piece, FilePart):
        yield from piece.windows()
    else:
        yield piece


class Sliceable(Protocol):
    """Bytes that are read slice by slice, from the first one to the last one."""

    def __len__(self) -> int: ...
    def __getitem__(self, at: slice, /) -> bytes | memoryview | FilePart: ...


class JoinedPieces:
    """Pieces one after the other as one value that is never in memory as a whole.

    Args:
        pieces: of a file to be.
    """

    def __init__(self, pieces: list[Piece]) -> None:
        self._pieces = [piece for piece in pieces if len(piece)]
        self._starts = [0, *itertools.accumulate(map(len, self._pieces))]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, at: slice) -> bytes:
        start, stop, _ = at.indices(len(self))
        found = []
        number = bisect.bisect_right(self._starts, start) - 1
        while start < stop:
            piece, begin = self._pieces[number], self._starts[number]
            end = min(stop, self._starts[number + 1])
            found.append(bytes(piece[start - begin : end - begin]))
            start, number = end, number + 1
        return b"".join(found)


Content = bytes | FilePart | JoinedPieces
