"""The audit log of a site or the coordinator: append-only lines, each one chained and signed.

``private/audit.jsonl`` has one JSON object per line; ``private/audit.head`` states, with a signature, how
many lines there are and where the last one ends.

>>> import tempfile
>>> from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
>>> key = Ed25519PrivateKey.generate()
>>> log = AuditLog.create(Path(tempfile.mkdtemp()), key)
>>> log.append("study refused", study="chest", reason="epsilon 8 is above 3")
>>> [entry.event for entry in log.verify()]
['log began', 'study refused']

Guarantee: whoever does not hold the signing key cannot edit, remove, insert, reorder or cut off lines
without :func:`AuditLog.verify` raising. Somebody who can write to the disk can put back an older copy of
both files together; the number and hash of the last line (:func:`AuditLog.anchor`) travel with each
approval, so that the coordinator can notice it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from filelock import FileLock

from meninx.core import artifacts, files, names, workspace
from meninx.core.errors import DataError, UsageError, problem
from meninx.core.signed_file import verified

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Detail: TypeAlias = str | int | float | bool | None
ROTATED = "keys rotated"  # event that names the key of all later lines
LOG, HEAD, LOCK = "audit.jsonl", "audit.head", "audit.lock"
LINE_LIMIT, TEXT_LIMIT = 1 << 16, 2000  # bytes of a line, characters of a text in it
_HEAD_LIMIT = 1 << 12
_GENESIS = "0" * 64
_SIGNATURE = b',"signature":"'
_DOMAIN, _HEAD_DOMAIN = b"meninx audit line 1\0", b"meninx audit head 1\0"
_FIX = "stop, keep a copy of private/ and find out who changed it"


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line.

    Attributes:
        index: position from 0.
        time: ISO 8601 in UTC.
        event: what happened, in a few words.
        details: names and values that belong to it; never a patient's value.
        previous: SHA-256 of the line before; zeros for the first.
        signature: Ed25519 signature over all of the above, in hexadecimal digits.
    """

    index: int
    time: str
    event: str
    details: dict[str, Detail]
    previous: str
    signature: str


class _Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    count: int
    start: int
    end: int
    hash: str
    signature: str

    def signed(self) -> bytes:
        return _HEAD_DOMAIN + f"{self.count} {self.start} {self.end} {self.hash}".encode()


class AuditLog:
    """The audit log in the private room of a folder; made by :meth:`create`, found by :meth:`open`."""

    def __init__(self, root: Path, key: Ed25519PrivateKey) -> None:
        room = root / workspace.PRIVATE
        self._log, self._head, self._lock = room / LOG, room / HEAD, room / LOCK
        self._key = key
        self._public = key.public_key().public_bytes_raw()

    @classmethod
    def create(cls, root: Path, key: Ed25519PrivateKey) -> AuditLog:
        """Return a new log whose first line names the signing key.

        Raises:
            UsageError: there is one already.
            StorageError: the disk refused.
        """
        log = cls(root, key)
        if log._log.exists() or log._head.exists():
            raise UsageError(problem("the folder has an audit log already", where=root.name))
        workspace.make_private(root)
        with FileLock(log._lock):
            log._write(None, "log began", {"key": log._public.hex()})
        return log

    @classmethod
    def open(cls, root: Path, key: Ed25519PrivateKey) -> AuditLog:
        """Return the log of a folder.

        Raises:
            DataError: there is none although the folder must have one.
        """
        log = cls(root, key)
        if not (log._log.is_file() and log._head.is_file()):
            raise DataError(problem("the audit log is missing", where=f"{root.name}/private", fix=_FIX))
        return log

    def append(self, event: str, **details: Detail) -> None:
        """Add a line and force it to the disk before returning.

        Args:
            event: what happened, in a few words.
            **details: names and values that belong to it. Texts from elsewhere are cut to
                :data:`TEXT_LIMIT` characters, and characters that a terminal would obey are replaced.

        Raises:
            DataError: the end of the log is not what was written last.
            StorageError: the disk refused.
        """
        with FileLock(self._lock):
            head = self._recovered(self._read_head(self._public))
            self._write(head, event, details)

    def rotate(self, key: Ed25519PrivateKey) -> None:
        """Add a line, signed by the old key, that names the new one; raises as :meth:`append`."""
        old, public = self._public, key.public_key().public_bytes_raw()
        with FileLock(self._lock):
            if self._is_signed_with(public):  # an interrupted rotation came as far as this
                self._key, self._public = key, public
                return
            head = self._recovered(self._read_head(old))
            with files.regular(self._log) as stream:
                stream.seek(head.start)
                last = _parsed(stream.read(head.end - head.start), head.count - 1)
            if last.event != ROTATED or _named_key(last) != public:
                head = self._write(head, ROTATED, {"key": public.hex()})
            self._key, self._public = key, public
            self._write_head(head)

    def anchor(self) -> str:
        """Return number of lines and hash of the last one, as ``12:3f…``, for others to keep."""
        with FileLock(self._lock):
            head = self._read_head(self._public)
        return f"{head.count}:{head.hash}"

    def verify(self) -> list[AuditEntry]:
        """Return all lines after checking each signature, the chain and the end.

        Raises:
            DataError: a line was edited, removed, inserted or moved, or the end is cut off; names the line.
        """
        with FileLock(self._lock):
            head = self._recovered(self._read_head(self._public))
            entries = list(self._checked(head))
        return entries

    # the parts

    def _checked(self, head: _Head) -> Iterator[AuditEntry]:
        previous, end, key = _GENESIS, 0, b""
        with files.regular(self._log) as stream:
            for index in range(head.count):
                line = stream.readline(LINE_LIMIT)
                entry = _parsed(line, index)
                key = key or _named_key(entry)
                if entry.index != index or entry.previous != previous or not _fits(line, entry, key):
                    raise _broken(index)
                key = _named_key(entry) if entry.event == ROTATED else key
                previous, end = hashlib.sha256(line).hexdigest(), end + len(line)
                yield entry
        if previous != head.hash or end != head.end or key != self._public:
            raise _broken(head.count - 1)

    def _is_signed_with(self, key: bytes) -> bool:
        try:
            self._read_head(key)
        except DataError:
            return False
        return True

    def _read_head(self, key: bytes) -> _Head:
        content = files.read_bytes(self._head, limit=_HEAD_LIMIT)
        try:
            head = msgspec.json.decode(content, type=_Head)
            good = verified(key, bytes.fromhex(head.signature), head.signed())
        except (msgspec.DecodeError, ValueError, RecursionError):
            good = False
        if not good:
            raise DataError(problem("the head of the audit log is damaged", where=HEAD, fix=_FIX))
        return head

    def _recovered(self, head: _Head) -> _Head:
        """Return the head of what lies on the disk: a process may have been killed within an append."""
        with files.regular(self._log) as stream:
            size = os.fstat(stream.fileno()).st_size
            stream.seek(head.start)
            last, rest = stream.read(head.end - head.start), stream.read(LINE_LIMIT)
        if size < head.end or hashlib.sha256(last).hexdigest() != head.hash:
            raise _broken(head.count - 1)
        if not rest:
            return head
        if rest.endswith(b"\n") and rest.count(b"\n") == 1:
            entry = _parsed(rest, head.count)
            if (
                entry.index != head.count
                or entry.previous != head.hash
                or not _fits(rest, entry, self._public)
            ):
                raise _broken(head.count)
            return self._write_head(_after(head, rest))
        if b"\n" in rest:
            raise _broken(head.count)
        os.truncate(self._log, head.end)  # a torn line: the append did not return, so nobody relied on it
        return head

    def _write(self, head: _Head | None, event: str, details: dict[str, Detail]) -> _Head:
        table = {
            "index": head.count if head else 0,
            "time": artifacts.now(),
            "event": _clean(event),
            "details": {name: _clean(value) for name, value in details.items()},
            "previous": head.hash if head else _GENESIS,
        }
        body = msgspec.json.encode(table)[:-1]
        line = body + _SIGNATURE + self._key.sign(_DOMAIN + body).hex().encode() + b'"}\n'
        if len(line) > LINE_LIMIT:
            raise DataError(problem("a line of the audit log is too long", where=LOG))
        files.append_line(self._log, line.decode(), mode=files.PRIVATE_MODE)
        return self._write_head(_after(head, line))

    def _write_head(self, head: _Head) -> _Head:
        signed = msgspec.structs.replace(head, signature=self._key.sign(head.signed()).hex())
        files.write_bytes(self._head, msgspec.json.encode(signed) + b"\n", mode=files.PRIVATE_MODE)
        return signed


def _after(head: _Head | None, line: bytes) -> _Head:
    start = head.end if head else 0
    count = head.count + 1 if head else 1
    found = hashlib.sha256(line).hexdigest()
    return _Head(count=count, start=start, end=start + len(line), hash=found, signature="")


def _parsed(line: bytes, index: int) -> AuditEntry:
    try:
        if line.endswith(b"\n"):
            return msgspec.json.decode(line, type=AuditEntry)
    except (msgspec.DecodeError, ValueError, RecursionError):
        pass
    raise _broken(index)


def _fits(line: bytes, entry: AuditEntry, key: bytes) -> bool:
    body = line.rpartition(_SIGNATURE)[0]
    try:
        return verified(key, bytes.fromhex(entry.signature), _DOMAIN + body)
    except ValueError:
        return False


def _named_key(entry: AuditEntry) -> bytes:
    try:
        return bytes.fromhex(str(entry.details.get("key")))
    except ValueError:
        return b""


def _broken(index: int) -> DataError:
    what = "the audit log is not as it was written"
    return DataError(problem(what, where=f"{LOG}, line {index + 1}", fix=_FIX))


def _clean(value: Detail) -> Detail:
    return names.printable(value)[:TEXT_LIMIT] if isinstance(value, str) else value
