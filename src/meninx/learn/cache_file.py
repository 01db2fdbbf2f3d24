"""Decoded images of a dataset in one memory-mapped file, so that a run decodes each image once.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "decoded.bin"
    >>> wanted = {Item("images/c1.png", "image"): lambda: np.arange(6, dtype=np.uint8).reshape(1, 2, 3)}
    >>> build(path, "key", wanted, limit=1 << 20)
    >>> with ImageCache.open(path, "key") as cache:
    ...     cache.read(Item("images/c1.png", "image"), (slice(0, 1), slice(1, 2), slice(0, 3))).tolist()
    [[[3, 4, 5]]]

The file holds patients' images: it lies in a private folder, is readable by its owner alone and is never
released. It consists of a signature, the arrays, an index as JSON, and a tail of fixed size with the lengths
of both and the SHA-256 of the index. The index holds a checksum of every block of the arrays. A block is
compared with its checksum when it is first read, so a patch of a volume reads only the blocks that hold it.

On POSIX systems the signal SIGBUS ends a process that reads a mapped page beyond the end of the file. meninx
never shortens a cache file: it writes a new file and renames it, or removes the name, and mapped pages stay
readable. Before each read the file size is compared, so a file truncated by another program is detected and
its images are decoded again. Two cases remain: a file truncated during a read, and a disk or network that
fails to deliver a page. Training then ends and is resumed with ``--resume`` (``cache = "off"`` maps no file).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
import os
import re
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from meninx.core import files, plain
from meninx.core.errors import DataError, problem

FORMAT = 1  # changes with the layout and with the meaning of a decoded value
BLOCK = 1 << 18  # bytes under one checksum
_SIGNATURE = b"meninx decoded\x00\x01"
_TAIL = struct.Struct("<QQ32s")  # bytes of the arrays, bytes of the index, SHA-256 of the index
_INDEX_LIMIT = 1 << 30
_MOST_AXES = 8
_DTYPE = re.compile(r"[<>|][uif][1248]")
_AHEAD = 2  # decoded arrays that wait for the disk, per thread

Decoder = Callable[[], npt.NDArray[Any]]
"""Returns one array of a dataset, decoded from its file."""


class Item(NamedTuple):
    """One array of a dataset.

    Attributes:
        name: path of its file, relative to the dataset folder.
        kind: ``image``, ``mask``, or ``places`` (flat indices of a mask's labelled voxels).
    """

    name: str
    kind: str


@dataclass(frozen=True)
class Entry:
    """Where an array lies.

    Attributes:
        dtype: type of a value as numpy writes it, e.g. ``|u1``.
        shape: length of each axis; the last one varies fastest.
        offset: of its first byte among the bytes of the arrays.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Index:
    """What a cache file holds.

    Attributes:
        key: of the dataset's content and of everything else that decides the decoded values.
        items: names and kinds, in the order of ``entries``.
        entries: places of the arrays.
        blocks: CRC-32 of each block of the arrays.
        limit: size limit at which arrays were left out, in bytes; 0 if the file holds all requested arrays.
    """

    key: str
    items: tuple[tuple[str, str], ...]
    entries: tuple[Entry, ...]
    blocks: tuple[int, ...] = field(default=())
    limit: int = 0


class Damaged(Exception):
    """Bytes of a cache differ from those that were written; the caller decodes the image instead."""


class Stopped(Exception):
    """Building a cache was abandoned on request; there is no new file."""


class ImageCache:
    """The arrays of a cache file, made by :meth:`open`; several threads and processes may read it at once."""

    def __init__(self, index: Index, mapped: mmap.mmap | None, path: Path) -> None:
        self.path, self.limit = path, index.limit
        self.entries = {Item(*item): entry for item, entry in zip(index.items, index.entries, strict=True)}
        self._map = mapped
        self._blocks = np.array(index.blocks, dtype=np.uint32)
        self._checked = np.zeros(len(index.blocks), dtype=bool)
        self._size = sum(entry.nbytes for entry in index.entries)

    @classmethod
    def open(cls, path: Path, key: str) -> ImageCache | None:
        """Return the cache in a file; None if there is none or it may not be used.

        A file is used only if it is complete, has this key, belongs to this user and is not readable by
        others.
        """
        try:
            with files.regular(path) as stream:
                _refuse_shared(os.fstat(stream.fileno()))
                index, size = _read_index(stream, key)
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if size else None
        except (DataError, OSError, ValueError):  # ValueError: a file that became shorter meanwhile
            return None
        return cls(index, mapped, path)

    def __contains__(self, item: Item) -> bool:
        return item in self.entries

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self._size

    def shape(self, item: Item) -> tuple[int, ...]:
        """Return the shape of an array."""
        return self.entries[item].shape

    def read(self, item: Item, box: Sequence[slice] = ()) -> npt.NDArray[Any]:
        """Return a copy of a box of an array, or of all of it.

        Args:
            item: an array of the cache.
            box: one slice of step 1 per axis.

        Raises:
            Damaged: the bytes differ from those that were written.
        """
        entry = self.entries.get(item)
        if entry is None or len(box) > len(entry.shape):
            raise Damaged
        if not entry.nbytes:
            return np.zeros(entry.shape, entry.dtype)[tuple(box)]
        if self._map is None or self._map.size() < len(self._map):  # truncated: a read would raise SIGBUS
            raise Damaged
        start = len(_SIGNATURE) + entry.offset
        whole = np.ndarray(entry.shape, entry.dtype, self._map, start)
        for low, high in _ranges(entry, box):
            self._check(low, high)
        return whole[tuple(box)].copy()

    def _check(self, low: int, high: int) -> None:
        """Compare the blocks that hold bytes ``low`` to ``high`` with their checksums, once each."""
        first, last = low // BLOCK, -(-high // BLOCK)
        if self._checked[first:last].all():
            return
        assert self._map is not None
        with memoryview(self._map) as content:
            for number in range(first, last):
                begin = len(_SIGNATURE) + number * BLOCK
                end = len(_SIGNATURE) + min((number + 1) * BLOCK, self._size)
                if not self._checked[number] and zlib.crc32(content[begin:end]) != self._blocks[number]:
                    raise Damaged
                self._checked[number] = True

    def remove(self) -> None:
        """Remove the file; an open map stays readable where the system allows it."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        if self._map is not None:
            self._map.close()
            self._map = None

    def __enter__(self) -> ImageCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def build(
    path: Path,
    key: str,
    wanted: Mapping[Item, Decoder],
    *,
    limit: int,
    threads: int = 1,
    stop: Callable[[], bool] = lambda: False,
    done: Callable[[], object] = lambda: None,
) -> None:
    """Write the cache file of a dataset; a reader sees either the complete file or the earlier one.

    An image that cannot be read is left out; the step that needs it will report its row.

    Args:
        path: the file, in an existing folder.
        key: see :class:`Index`.
        wanted: array -> function that decodes it, in the order of writing.
        limit: largest total size of the arrays in bytes; arrays that do not fit are left out.
        threads: number of threads that decode.
        stop: polled before each array; True abandons the file.
        done: called after each array.

    Raises:
        StorageError: the disk refused; there is no new file.
        Stopped: ``stop`` returned True.
    """
    items, entries, cut, size = [], [], False, 0
    with files.atomic(path, mode=files.PRIVATE_MODE) as stream:
        stream.write(_SIGNATURE)
        blocks = _Blocks(stream)
        for item, array in _decoded(wanted, threads):
            if stop():
                raise Stopped
            done()
            if array is None:
                continue
            if size + array.nbytes > limit:
                cut = True
                continue
            items.append(tuple(item))
            entries.append(Entry(array.dtype.str, tuple(int(n) for n in array.shape), size))
            blocks.write(np.ascontiguousarray(array))
            size += array.nbytes
        index = Index(key, tuple(items), tuple(entries), blocks.finished(), limit if cut else 0)  # type: ignore[arg-type]
        text = msgspec.json.encode(index)
        stream.write(text)
        stream.write(_TAIL.pack(size, len(text), hashlib.sha256(text).digest()))


class _Blocks:
    """Writes bytes and takes a checksum of every block."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._sums, self._sum, self._filled = stream, [], 0, 0  # type: ignore[var-annotated]

    def write(self, array: npt.NDArray[Any]) -> None:
        """Write the bytes of an array."""
        content = array.reshape(-1).view(np.uint8).data
        self._stream.write(content)
        while len(content):
            part = content[: BLOCK - self._filled]
            self._sum = zlib.crc32(part, self._sum)
            self._filled += len(part)
            if self._filled == BLOCK:
                self._sums.append(self._sum)
                self._sum = self._filled = 0
            content = content[len(part) :]

    def finished(self) -> tuple[int, ...]:
        """Return the checksums of all blocks; the last one may be shorter."""
        return tuple(self._sums + ([self._sum] if self._filled else []))


def _decoded(wanted: Mapping[Item, Decoder], threads: int) -> Iterator[tuple[Item, npt.NDArray[Any] | None]]:
    """Yield every array in order, decoded by threads; None for an array that cannot be read."""
    waiting: list[tuple[Item, Future[npt.NDArray[Any]]]] = []
    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="decode") as pool:
        try:
            for item, decode in wanted.items():
                waiting.append((item, pool.submit(decode)))
                if len(waiting) >= _AHEAD * max(1, threads):
                    yield _result(*waiting.pop(0))
            while waiting:
                yield _result(*waiting.pop(0))
        finally:
            pool.shutdown(cancel_futures=True)


def _result(item: Item, future: Future[npt.NDArray[Any]]) -> tuple[Item, npt.NDArray[Any] | None]:
    try:
        return item, future.result()
    except (DataError, OSError, Damaged):
        return item, None


def _ranges(entry: Entry, box: Sequence[slice]) -> Iterator[tuple[int, int]]:
    """Yield the bytes (from, to) that hold a box: one range per channel, over its rows of the next axis."""
    if len(box) < 2 or len(entry.shape) < 2:
        yield entry.offset, entry.offset + entry.nbytes
        return
    row = math.prod(entry.shape[2:]) * np.dtype(entry.dtype).itemsize
    first, last, _ = box[1].indices(entry.shape[1])
    for channel in range(*box[0].indices(entry.shape[0])):
        base = entry.offset + channel * entry.shape[1] * row
        if last > first:
            yield base + first * row, base + last * row


def _refuse_shared(info: os.stat_result) -> None:
    """Raise DataError for a file of another user, or one that others may read."""
    if sys.platform != "win32" and (info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o077):
        raise DataError(problem("other users can read the file", where="cache"))


def _read_index(stream: IO[bytes], key: str) -> tuple[Index, int]:
    """Return the index of a complete cache file of this key, and the number of bytes of its arrays.

    Lengths, digest and index are checked before a size from the file is used for anything.

    Raises:
        DataError: any other file.
    """
    wrong = DataError(problem("the file is not a complete cache of this dataset", where="cache"))
    total = os.fstat(stream.fileno()).st_size
    if total < len(_SIGNATURE) + _TAIL.size or stream.read(len(_SIGNATURE)) != _SIGNATURE:
        raise wrong
    stream.seek(total - _TAIL.size)
    size, length, digest = _TAIL.unpack(stream.read(_TAIL.size))
    if len(_SIGNATURE) + size + length + _TAIL.size != total or length > _INDEX_LIMIT:
        raise wrong
    stream.seek(len(_SIGNATURE) + size)
    text = stream.read(length)
    if hashlib.sha256(text).digest() != digest:
        raise wrong
    index = plain.from_json(text, Index, where="cache")
    if index.key != key or not _fits(index, size):
        raise wrong
    return index, size


def _fits(index: Index, size: int) -> bool:
    """Return whether the arrays of an index are numeric, contiguous and together ``size`` bytes long."""
    if len(index.items) != len(index.entries) or len(index.blocks) != -(-size // BLOCK):
        return False
    if not all(0 <= value < 1 << 32 for value in index.blocks):
        return False
    if len(set(index.items)) != len(index.items):
        return False
    place = 0
    for (_, kind), entry in zip(index.items, index.entries, strict=True):
        with contextlib.suppress(TypeError, ValueError):
            if _is_array(kind, entry) and entry.offset == place:
                place += entry.nbytes
                continue
        return False
    return place == size


def _is_array(kind: str, entry: Entry) -> bool:
    """Return whether an entry may describe an array of its kind; only flat indices may be empty."""
    if not _DTYPE.fullmatch(entry.dtype):
        return False
    if kind == "places":
        return len(entry.shape) == 1 and entry.shape[0] >= 0 and np.dtype(entry.dtype).kind in "ui"
    return 1 <= len(entry.shape) <= _MOST_AXES and all(length > 0 for length in entry.shape)
