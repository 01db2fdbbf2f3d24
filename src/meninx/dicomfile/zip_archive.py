"""The members of a zip archive, as sources of their own; nothing is unpacked to a path of the archive.

:func:`members_of` reads the directory of an archive and says of each member where its bytes lie, or why it is
refused. :func:`opened` gives the bytes of one member: a window of the archive where it is stored, inflated
bytes in memory or in an unnamed temporary file where it is deflated.

The directory is read here and not by ``zipfile``, which gives up the whole archive for one bad name, reads
the directory again for each member, and accepts members that share bytes. What the archive says twice must
agree, and every size is checked before anything is read.

Guarantee: a member is read only if its bytes belong to no other member, and its content counts only if size
    and CRC are those of the directory. Whatever the archive holds, memory and disk stay within the limits.
"""

from __future__ import annotations

import os
import stat
import struct
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

from meninx.dicomfile.file_part import FilePart
from meninx.dicomfile.refusals import Reason, Refused

SEPARATOR = "//"  # between the path of an archive and the name of a member; no path of a file has it
MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
MOST_MEMBERS, MOST_DIRECTORY = 200_000, 64 << 20  # members; bytes of the directory
MOST_TIMES, ALWAYS_MEMBER, ALWAYS_TOTAL = 100, 32 << 20, 4 << 30  # times the packed size; bytes
MOST_MEMBER = 5 << 30  # bytes of one member, as of a file
_LONGEST, _LONGEST_PART, _MOST_PARTS = 1024, 255, 64  # bytes of a name and of a part of it; parts
_END, _CENTRAL, _LOCAL = struct.Struct("<4s4H2LH"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
_END_64, _LOCATOR = struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_COMMENT, _WIDE, _WIDE_COUNT, _EXTRA_64 = 0xFFFF, 0xFFFFFFFF, 0xFFFF, 0x0001
_ENCRYPTED, _LATER, _PATCHED, _UTF_8 = 0x2041, 0x0008, 0x0020, 0x0800  # flags
_STORED, _DEFLATED, _AES = 0, 8, 99  # methods
_WINDOW = 1 << 20
_IN_MEMORY = 4 << 20  # bytes of a member


@dataclass(frozen=True, slots=True)
class ZipMember:
    """One member that is a file.

    Attributes:
        name: its path in the archive, or its number with a leading slash where the name is refused.
        start: offset of its packed bytes.
        packed: number of these.
        size: bytes of its content.
        crc: CRC-32 of its content.
        deflated: whether the bytes are deflated, or stored as they are.
        refused: reason code; empty for a member that may be read.
    """

    name: str
    start: int = 0
    packed: int = 0
    size: int = 0
    crc: int = 0
    deflated: bool = False
    refused: str = ""


def is_zip(head: bytes) -> bool:
    """Return whether a file with these first bytes is a zip archive; its name does not count."""
    return head.startswith(MAGIC)


def members_of(path: Path) -> list[ZipMember]:
    """Return every member that is no folder, refused ones included, in the order of the directory.

    Raises:
        Refused: the archive as a whole, with the reason code.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            return _members(FilePart(stream, 0, os.fstat(stream.fileno()).st_size))
    except OSError:
        raise Refused(Reason.UNREADABLE) from None
    except struct.error:
        raise Refused(Reason.ZIP_DAMAGED) from None


@contextmanager
def opened(path: Path, member: ZipMember, room: Path | None) -> Iterator[bytes | FilePart]:
    """Give the content of a member, after its size and CRC have been checked.

    Args:
        path: the archive.
        member: from :func:`members_of`.
        room: private folder for an unnamed file with the content of a large deflated member; without one the
            folder for temporary files of the system takes it.

    Raises:
        Refused: the content is not what the directory says.
        OSError: the archive cannot be opened, or the room is full.
    """
    with path.open("rb", buffering=0) as stream:
        part = FilePart(stream, member.start, member.packed)
        if not member.deflated:
            for _ in _checked(member, part.windows()):
                pass
            yield bytes(part) if member.size <= _IN_MEMORY else part
        elif member.size <= _IN_MEMORY:
            yield b"".join(_checked(member, _inflated(member, part)))
        else:
            if room is not None:
                room.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=room, buffering=0) as unnamed:
                for window in _checked(member, _inflated(member, part)):
                    unnamed.write(window)
                yield FilePart(cast("BinaryIO", unnamed), 0, member.size)


def _members(whole: FilePart) -> list[ZipMember]:
    start, length, count = _directory(whole)
    content = bytes(whole.part(start, length))
    found: list[ZipMember] = []
    spans: list[tuple[int, int, int]] = []  # begin, end, index of the member
    total, at = 0, 0
    for number in range(1, count + 1):
        fields = _CENTRAL.unpack_from(content, at)
        name_end = at + _CENTRAL.size + fields[10]
        end = name_end + fields[11] + fields[12]
        if fields[0] != b"PK\x01\x02" or end > length:
            raise Refused(Reason.ZIP_DAMAGED)
        raw, extra = content[at + _CENTRAL.size : name_end], content[name_end : name_end + fields[11]]
        at = end
        packed, size, offset = _sizes(fields, extra)
        if raw.endswith(b"/") and not size:
            continue
        member, span = _member(whole, start, number, fields, raw, (packed, size, offset))
        total += max(size, 0)
        spans += [(*span, len(found))] if span else []
        found.append(member)
    if at != length:
        raise Refused(Reason.ZIP_DAMAGED)
    if total > max(ALWAYS_TOTAL, MOST_TIMES * len(whole)):
        raise Refused(Reason.ZIP_TOO_LARGE)
    if not found:
        raise Refused(Reason.ZIP_EMPTY)
    return _apart(found, spans)


def _directory(whole: FilePart) -> tuple[int, int, int]:
    """Return offset and length of the directory and the number of its entries."""
    size = len(whole)
    tail = bytes(whole.part(max(0, size - _END.size - _COMMENT)))
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise Refused(Reason.ZIP_DAMAGED)
    _, disk, first_disk, here, count, length, start, comment = _END.unpack_from(tail, at)
    end = size - len(tail) + at
    if end + _END.size + comment != size:
        raise Refused(Reason.ZIP_DAMAGED)
    if _WIDE in (length, start) or _WIDE_COUNT in (here, count):
        disk, first_disk, here, count, length, start, end = _wide_directory(whole, end)
    if disk or first_disk or here != count or start + length != end:
        raise Refused(Reason.ZIP_DAMAGED)
    if count > MOST_MEMBERS or length > MOST_DIRECTORY:
        raise Refused(Reason.ZIP_TOO_LARGE)
    return start, length, count


def _wide_directory(whole: FilePart, end: int) -> tuple[int, ...]:
    """Return the fields of the ZIP64 record that lies before the end record, and its offset."""
    locator_at = end - _LOCATOR.size
    if locator_at < _END_64.size:
        raise Refused(Reason.ZIP_DAMAGED)
    mark, disk, at, disks = _LOCATOR.unpack(bytes(whole.part(locator_at, _LOCATOR.size)))
    if mark != b"PK\x06\x07" or disk or disks != 1 or at > locator_at - _END_64.size:
        raise Refused(Reason.ZIP_DAMAGED)
    fields = _END_64.unpack(bytes(whole.part(at, _END_64.size)))
    if fields[0] != b"PK\x06\x06" or at + 12 + fields[1] != locator_at:
        raise Refused(Reason.ZIP_DAMAGED)
    return (*fields[4:10], at)


def _sizes(fields: tuple[int, ...], extra: bytes) -> tuple[int, int, int]:
    """Return packed size, size and offset of a member; -1 for what cannot be read."""
    packed, size, offset = fields[8], fields[9], fields[16]
    wide = [size == _WIDE, packed == _WIDE, offset == _WIDE]
    if not any(wide):
        return packed, size, offset
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == _EXTRA_64:
            values = iter(struct.unpack_from(f"<{length // 8}Q", extra[: at + 4 + length], at + 4))
            size, packed, offset = (
                next(values, -1) if is_wide else plain
                for is_wide, plain in zip(wide, (size, packed, offset), strict=True)
            )
            return packed, size, offset
        at += 4 + length
    return -1, -1, -1


def _member(
    whole: FilePart,
    directory: int,
    number: int,
    fields: tuple[int, ...],
    raw: bytes,
    sizes: tuple[int, int, int],
) -> tuple[ZipMember, tuple[int, int] | None]:
    """Return one member and the bytes that belong to it; None where these cannot be told."""
    packed, size, offset = sizes
    start = _start(whole, directory, fields, raw, sizes)
    name = _name(raw, utf_8=bool(fields[3] & _UTF_8))
    span = None if start is None else (offset, start + packed)
    reason = _reason(fields, name, sizes) or ("" if start is not None else Reason.ZIP_MEMBER_DAMAGED)
    member = ZipMember(
        name=name or f"/{number}",
        start=start or 0,
        packed=packed,
        size=size,
        crc=fields[7],
        deflated=fields[4] == _DEFLATED,
        refused=reason,
    )
    return member, span


def _start(
    whole: FilePart, directory: int, fields: tuple[int, ...], raw: bytes, sizes: tuple[int, int, int]
) -> int | None:
    """Return where the packed bytes begin; None unless the header before them agrees with the directory."""
    packed, size, offset = sizes
    if min(sizes) < 0 or offset + _LOCAL.size > directory:
        return None
    mark, _, flags, method, _, _, _, its_packed, _, its_name, its_extra = _LOCAL.unpack(
        bytes(whole.part(offset, _LOCAL.size))
    )
    start = int(offset + _LOCAL.size + its_name + its_extra)
    agrees = mark == b"PK\x03\x04" and method == fields[4] and not (flags ^ fields[3]) & _ENCRYPTED
    agrees = agrees and (bool(flags & _LATER) or its_packed in (packed, _WIDE))
    agrees = agrees and (fields[4] != _STORED or packed == size)
    if not agrees or start + packed > directory:
        return None
    return start if bytes(whole.part(offset + _LOCAL.size, its_name)) == raw else None


def _reason(fields: tuple[int, ...], name: str, sizes: tuple[int, int, int]) -> str:
    """Return why a member is refused by what the directory says of it; empty if it is not."""
    flags, method, mode = fields[3], fields[4], fields[15] >> 16
    packed, size, _ = sizes
    if not name:
        return Reason.ZIP_NAME
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return Reason.ZIP_LINK
    if flags & _ENCRYPTED or method == _AES:
        return Reason.ZIP_ENCRYPTED
    if method not in (_STORED, _DEFLATED) or flags & _PATCHED:
        return Reason.ZIP_METHOD
    if size > MOST_MEMBER:
        return Reason.TOO_LARGE
    if size > max(ALWAYS_MEMBER, MOST_TIMES * packed):
        return Reason.INFLATES_TOO_FAR
    return ""


def _name(raw: bytes, *, utf_8: bool) -> str:
    """Return the name of a member as a relative path; empty for one that is no such path."""
    try:
        name = raw.decode("utf-8" if utf_8 else "cp437")
    except UnicodeDecodeError:
        return ""
    parts = name.split("/")
    odd = any(part in ("", ".", "..") or len(part.encode()) > _LONGEST_PART for part in parts)
    odd = odd or any(sign < " " or sign in "\\\x7f" for sign in name) or name[1:2] == ":"
    return "" if odd or len(name.encode()) > _LONGEST or len(parts) > _MOST_PARTS else name


def _apart(found: list[ZipMember], spans: list[tuple[int, int, int]]) -> list[ZipMember]:
    """Return the members with those refused that share bytes or a name with another one."""
    shared = set[int]()
    furthest, owner = -1, -1
    for begin, end, index in sorted(spans):
        if begin < furthest:
            shared |= {index, owner}
        if end > furthest:
            furthest, owner = end, index
    times = Counter(member.name for member in found)
    result = []
    for number, member in enumerate(found, start=1):
        if times[member.name] > 1:
            result.append(replace(member, name=f"/{number} again", refused=Reason.ZIP_DUPLICATE))
        elif number - 1 in shared and not member.refused:
            result.append(replace(member, refused=Reason.ZIP_OVERLAP))
        else:
            result.append(member)
    return result


def _inflated(member: ZipMember, part: FilePart) -> Iterator[bytes]:
    """Yield the content of a deflated member, at most one byte more than it may have."""
    stream, left, taken = zlib.decompressobj(-15), member.size + 1, 0
    try:
        for window in part.windows():
            pending, taken = window, taken + len(window)
            while left and (pending or not stream.eof):
                content = stream.decompress(pending, min(_WINDOW, left))
                pending, left = stream.unconsumed_tail, left - len(content)
                yield content
                if not content and not pending:
                    break
            if stream.eof or not left:
                break
    except zlib.error:
        raise Refused(Reason.ZIP_MEMBER_DAMAGED) from None
    if not stream.eof or stream.unused_data or taken != member.packed:
        raise Refused(Reason.ZIP_MEMBER_DAMAGED)


def _checked(member: ZipMember, windows: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the windows of a member's content; at the end they must have its size and CRC."""
    size, crc = 0, 0
    for window in windows:
        size, crc = size + len(window), zlib.crc32(window, crc)
        if size > member.size:
            raise Refused(Reason.ZIP_MEMBER_DAMAGED)
        yield window
    if (size, crc) != (member.size, member.crc):
        raise Refused(Reason.ZIP_MEMBER_DAMAGED)
