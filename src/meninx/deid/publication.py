"""Publication of checked outputs in the order of paths: one file owns each instance."""

from __future__ import annotations

import hashlib

from meninx.core.errors import StorageError
from meninx.deid import output
from meninx.deid.output import WRITTEN, FileResult
from meninx.deid.worker import Engine
from meninx.dicomfile.refusals import Reason


class InstanceOwners:
    """Who owns each instance: the first file, in the order of paths, that has it.

    Some 200 bytes per instance.
    """

    def __init__(self) -> None:
        self._owners: dict[bytes, bytes] = {}

    def add(self, entry: FileResult) -> bytes:
        """Return the owner of an entry's instance, which the entry becomes when there is none."""
        return (
            self._owners.setdefault(_short(entry.patient[1], entry.instance), _owner(entry))
            if entry.status == WRITTEN
            else b""
        )

    def judged(self, entry: FileResult) -> FileResult:
        """Return the entry, or the entry of a duplicate, which is quarantined.

        The reason code tells whether the two clean files are the same.
        """
        if entry.status != WRITTEN:
            return entry
        owner, own = self.add(entry), _owner(entry)
        if owner[:16] == own[:16]:
            return entry
        reason = Reason.DUPLICATE_IDENTICAL if owner[16:] == own[16:] else Reason.DUPLICATE_DIFFERENT
        return FileResult(path=entry.path, digest=entry.digest, reason=reason)

    def release(self, entry: FileResult) -> None:
        """Forget that an entry owns its instance."""
        key = _short(entry.patient[1], entry.instance)
        if self._owners.get(key, b"")[:16] == _owner(entry)[:16]:
            del self._owners[key]


def publish_entry(
    engine: Engine, entry: FileResult, before: FileResult | None, owners: InstanceOwners
) -> FileResult:
    """Move one checked output to its place and return the entry to journal.

    The first path in sorting order owns an instance; a later file with the same one is kept out as its
    duplicate.

    Args:
        engine: where outputs wait and where they go.
        entry: the result of the file.
        before: the file's entry of an earlier run, whose output is replaced.
        owners: who owns the instances of the files before.

    Raises:
        StorageError: the disk refused; any other failure is a result of the file.
    """
    try:
        return _placed(engine, entry, before, owners)
    except StorageError:
        raise
    except Exception:
        engine.staged(entry.path).unlink(missing_ok=True)
        owners.release(entry)
        return FileResult(path=entry.path, digest=entry.digest, reason=Reason.PROCESSING_FAILED)


def _placed(
    engine: Engine, entry: FileResult, before: FileResult | None, owners: InstanceOwners
) -> FileResult:
    judged = owners.judged(entry)
    if judged.status != WRITTEN:
        engine.staged(entry.path).unlink(missing_ok=True)
    if before is not None and before.status == WRITTEN and before.output != judged.output:
        output.check_below(engine.out, before.output)
        (engine.out / before.output).unlink(missing_ok=True)
        owners.release(before)
    if judged.status == WRITTEN:
        output.publish(engine.out, judged.output, engine.staged(entry.path))
    return judged


def _owner(entry: FileResult) -> bytes:
    return _short(entry.path) + bytes.fromhex(entry.output_digest)[:16]


def _short(*parts: str) -> bytes:
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
