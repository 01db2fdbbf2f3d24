"""A DICOMDIR written as a stream: each record once, and the offsets between records entered afterwards.

``pydicom.fileset.FileSet`` is not used for writing: it copies every instance through a temporary folder and
encodes it again, holds all records in memory and compares each new instance with all earlier ones. The file
has the form that FileSet loads.
"""

from __future__ import annotations

from types import TracebackType
from typing import IO

from meninx.core.errors import DataError, problem
from meninx.dicomfile.elements import Element, Encoding, encode

LIMIT = 0xFFFF_FF00
"""Bytes of a DICOMDIR: its offsets have 32 bits."""
IMPLEMENTATION_UID = "2.25.143117266427250402733927413215219361857"
_SYNTAX, _CLASS = "1.2.840.10008.1.2.1", "1.2.840.10008.1.3.10"
_ITEM = b"\xfe\xff\x00\xe0"
_SEQUENCE = b"\x04\0\x20\x12SQ\0\0\0\0\0\0"  # (0004,1220); its length is entered at the end
_EXPLICIT = Encoding(implicit=False, little=True)
_NEXT, _LOWER = 8 + 8, 8 + 30  # places of the two offsets of a record, from the beginning of its item


class DirectoryFile:
    """A DICOMDIR that is being written; a context manager, which enters the last offsets.

    Records come depth first. Memory does not depend on their number.
    """

    def __init__(self, stream: IO[bytes], uid: str) -> None:
        """Write the beginning.

        Args:
            stream: empty, open for writing, with ``seek``.
            uid: UID of the file-set.
        """
        self._stream = stream
        meta = b"".join(
            _element(tag, vr, value)
            for tag, vr, value in (
                (0x00020001, "OB", b"\0\1"),
                (0x00020002, "UI", _CLASS.encode()),
                (0x00020003, "UI", uid.encode()),
                (0x00020010, "UI", _SYNTAX.encode()),
                (0x00020012, "UI", IMPLEMENTATION_UID.encode()),
                (0x00020013, "SH", b"MENINX_MEDIA_1"),
            )
        )
        head = bytes(128) + b"DICM" + _element(0x00020000, "UL", _long(len(meta))) + meta
        head += _element(0x00041130, "CS", b"")
        self._root = len(head) + 8
        head += _element(0x00041200, "UL", _long(0)) + _element(0x00041202, "UL", _long(0))
        head += _element(0x00041212, "US", bytes(2)) + _SEQUENCE
        stream.write(head)
        self._first = self._end = len(head)
        self._above: list[int] = []  # offsets of the latest record of each level

    def __enter__(self) -> DirectoryFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._patch(self._first - 4, self._end - self._first)
            self._patch(self._root + 12, self._above[0] if self._above else 0)

    def add(self, level: int, kind: str, content: bytes) -> None:
        """Add the record of a level: 0 for a patient, 3 for an instance.

        Args:
            level: at most one below the record before.
            kind: type of the record.
            content: its attributes, encoded.

        Raises:
            DataError: the DICOMDIR would exceed :data:`LIMIT`.
        """
        body = (
            _element(0x00041400, "UL", _long(0))
            + _element(0x00041410, "US", b"\xff\xff")
            + _element(0x00041420, "UL", _long(0))
            + _element(0x00041430, "CS", kind.encode())
            + content
        )
        at = self._end
        if at + len(body) > LIMIT:
            fix = "write several media, each from a part of the archive"
            raise DataError(problem("the offsets of a DICOMDIR reach no further than 4 GiB", fix=fix))
        if level < len(self._above):
            self._patch(self._above[level] + _NEXT, at)
        else:
            self._patch(self._above[-1] + _LOWER if self._above else self._root, at)
        self._above[level:] = [at]
        self._stream.write(_ITEM + _long(len(body)) + body)
        self._end = at + 8 + len(body)

    def _patch(self, place: int, value: int) -> None:
        self._stream.seek(place)
        self._stream.write(_long(value))
        self._stream.seek(self._end)


def _element(tag: int, vr: str, value: bytes) -> bytes:
    padding = (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
    return encode([Element(tag, vr, value + padding)], _EXPLICIT)


def _long(number: int) -> bytes:
    return number.to_bytes(4, "little")
