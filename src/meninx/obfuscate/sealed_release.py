"""The seal of ``obfuscation.json``, and the checks of a release before any of it is believed or replaced.

``private/obfuscation.sha256`` holds the digest of ``obfuscation.json`` under the key of the release, as
``private/release_audit.sha256`` holds those of the audit (:mod:`meninx.obfuscate.sealed_audit`). Where the
private room is there, every edit of the record is refused by name. A copy without its private room is not
sealed: what its record says is the statement of whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from meninx.core import artifacts, files, integrity, names, randomness, workspace
from meninx.core.artifacts import ObfuscationRecord
from meninx.core.errors import DataError, problem
from meninx.core.manifest import INFO_NAME, MANIFEST_NAME, DatasetInfo
from meninx.core.progress import SILENT, Progress
from meninx.obfuscate import sealed_audit

KEY, RECORD_SEAL = "obfuscation.key", "obfuscation.sha256"
RECORD = artifacts.place(ObfuscationRecord)
NOT_SEALED = f"{RECORD} is not sealed: copied without its private room"
_PURPOSE = "obfuscation.json"
_LIMIT, _LONGEST = 256, 300
OWN_PAPERS = (
    workspace.PRIVATE, RECORD, sealed_audit.AUDIT, sealed_audit.PAGE, sealed_audit.SEAL,
)  # fmt: skip
"""What ``checksums.sha256`` does not list."""


def key_of(root: Path) -> bytes:
    """Return the key of a release; empty where its private room is not here."""
    path = root / workspace.PRIVATE / KEY
    return files.read_bytes(path, limit=randomness.KEY_BYTES) if path.is_file() else b""


def write_seal(record: Path, room: Path, key: bytes) -> None:
    """Write the seal of a record that was just written.

    Args:
        record: ``obfuscation.json``.
        room: the private folder beside it.
        key: of the release.
    """
    files.write_text(room / RECORD_SEAL, _seal_of(record, key) + "\n", mode=files.PRIVATE_MODE)


def is_sealed(root: Path) -> bool:
    """Return whether the private room with the key of a release is here."""
    return bool(key_of(root))


def broken_seal(root: Path) -> Iterator[str]:
    """Yield what is wrong with ``obfuscation.json`` by its seal; nothing without a private room."""
    key = key_of(root)
    if not key or not (root / RECORD).is_file():
        return
    seal = root / workspace.PRIVATE / RECORD_SEAL
    if not seal.is_file():
        why = "an earlier version made the release, or it was removed"
        yield f"{workspace.PRIVATE}/{RECORD_SEAL} is missing: {why}"
    elif files.read_text(seal, limit=_LIMIT).strip() != _seal_of(root / RECORD, key):
        yield f"{RECORD} was changed since the release"


def contradictions(root: Path, record: ObfuscationRecord, info: DatasetInfo | None) -> Iterator[str]:
    """Yield what is wrong with the record of a release, compared with the dataset or features beside it."""
    yield from broken_seal(root)
    if info is not None and record.sentence() != info.obfuscated:
        yield f"the record says otherwise how the images were changed than {INFO_NAME}"
    if record.checksums != integrity.digest_of(root):
        yield f"{integrity.CHECKSUMS} is missing, or not the one that the record names"
    needed = {MANIFEST_NAME, *([INFO_NAME] if info is not None else [])}
    listed = {path: digest for path, digest in integrity.read(root).items() if "/" not in path}
    for path in sorted(needed | set(listed)):  # images are left to `meninx verify`
        if not (root / path).is_file() or listed.get(path) != files.digest(root / path):
            yield f"{path} is missing, or was changed since the release"


def refuse_damaged(
    root: Path, record: ObfuscationRecord, info: DatasetInfo | None, progress: Progress = SILENT
) -> None:
    """Refuse a release that is not as it was written: record, audit, table or an image.

    Raises:
        DataError: as above; names the file.
    """
    wrong = next(contradictions(root, record, info), "")
    wrong = wrong or next(sealed_audit.contradictions(root), "") or sealed_audit.lost(root)
    if not wrong:
        damage = integrity.damage(root, leave_out=OWN_PAPERS, progress=progress)
        every = (*damage.missing, *damage.changed, *damage.unlisted)
        if every:
            first = names.printable(every[0])
            wrong = f"{len(every)} files are missing, changed or not in {integrity.CHECKSUMS}, e.g. {first}"
    if wrong:
        fix = "restore the folder as meninx wrote it, or make the release again with --overwrite"
        raise DataError(problem(wrong, where=root.name, fix=fix))


def stated(text: str) -> str:
    """Return a text of a record that is not sealed, on one line and of limited length."""
    shown = names.printable(text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"


def _seal_of(record: Path, key: bytes) -> str:
    return artifacts.keyed(key, _PURPOSE, files.digest(record))
