"""The record of an audit with a list of digests beside it: an edit of record or page is refused by name.

``release_audit.sha256`` lists ``release_audit.json`` and ``report.html`` in the format of ``sha256sum``.
Where the private room of the release is there, it holds a copy. What is detected: an edited record or page;
with the private room also an edit together with its digest, and a record that was removed. What is not
detected: an edit together with its digest in a copy of the release without its private room.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from meninx.core import artifacts, files, integrity, workspace
from meninx.core.artifacts import ReleaseAuditRecord
from meninx.core.errors import DataError, problem

SEAL, PAGE = "release_audit.sha256", "report.html"
AUDIT = artifacts.place(ReleaseAuditRecord)
_LIMIT = 1 << 16


def write(root: Path, record: ReleaseAuditRecord) -> None:
    """Write the record of an audit into a folder, and its digest; an earlier page goes.

    Args:
        root: the folder of a release, or of the audit of one.
        record: the record.
    """
    root.mkdir(parents=True, exist_ok=True)
    page = root / PAGE
    if page.is_file() and not page.is_symlink() and (root / SEAL).is_file():
        page.unlink()  # it shows the earlier record
    artifacts.write(root, record)
    seal(root)


def seal(root: Path) -> None:
    """Write the list of digests of record and page, and its private copy where there is a private room."""
    there = [root / name for name in (AUDIT, PAGE) if (root / name).is_file()]
    if not (root / AUDIT).is_file():
        return
    digests = integrity.measured(root, there)
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    files.write_text(root / SEAL, text)
    room = root / workspace.PRIVATE
    if room.is_dir():
        files.write_text(room / SEAL, text, mode=files.PRIVATE_MODE)


def contradictions(root: Path) -> Iterator[str]:
    """Yield what is wrong with record and page of an audit, compared with their digests.

    A page that is missing is not wrong: it is written again from the record. Nor is a record: see
    :func:`lost`.
    """
    kept = root / workspace.PRIVATE / SEAL
    if not (root / AUDIT).is_file():
        return
    if not (root / SEAL).is_file():
        yield f"{SEAL} is missing: another version of meninx made the audit, or it was removed"
        return
    text = files.read_text(root / SEAL, limit=_LIMIT)
    if kept.is_file() and files.read_text(kept, limit=_LIMIT) != text:
        yield f"{SEAL} is not the list that {workspace.PRIVATE}/ holds"
    lines = [line.partition("  ") for line in text.splitlines()]
    listed = {name: digest for digest, _, name in lines}
    for name in (AUDIT, PAGE):
        path = root / name
        named = name == AUDIT or name in listed
        if named and path.is_file() and listed.get(name) != files.digest(path):
            yield f"{name} was changed since the audit"


def lost(root: Path) -> str:
    """Return that the record of an audit is missing whose digests are there; empty where none is."""
    kept = root / workspace.PRIVATE / SEAL
    if not (root / AUDIT).is_file() and ((root / SEAL).is_file() or kept.is_file()):
        return f"{AUDIT} is missing, and the release was audited"
    return ""


def earlier(root: Path) -> ReleaseAuditRecord | None:
    """Return the record of an earlier audit in a folder; None where there is none.

    Raises:
        DataError: it was edited, removed, or made by another version.
    """
    wrong = next(contradictions(root), "") or lost(root)
    if wrong:
        raise DataError(problem(wrong, where=root.name, fix="restore the folder as meninx wrote it"))
    return artifacts.read(root, ReleaseAuditRecord)
