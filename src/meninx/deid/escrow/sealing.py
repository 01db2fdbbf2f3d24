"""Writing the escrow of a clean archive, and removing the plain tables that it replaces."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meninx.core import artifacts, files, workspace
from meninx.core.artifacts import DeidRecord
from meninx.core.errors import DataError, PrivacyRefusal, problem
from meninx.core.result import Result
from meninx.core.summaries import number_of
from meninx.deid.escrow import broker_key, escrow_file, identities
from meninx.deid.escrow.access_log import RECORD
from meninx.deid.escrow.escrow_file import NAME, Opener, Recipient
from meninx.deid.identity.keys import SiteKey, read_key
from meninx.deid.identity.pseudonyms import Pseudonyms
from meninx.deid.output import FileJournal, sorted_lines
from meninx.deid.review.layouts import DECISIONS
from meninx.deid.review.review_votes import VOTES

# What may stay in the private folder: none of it holds an original value. Everything else goes, so that a
# file that a later version writes cannot be forgotten here.
KEPT = frozenset(
    {
        NAME,
        f"{NAME}.sha256",
        f"{NAME}{RECORD}",
        workspace.MARKER,
        workspace.LOCK,
        DECISIONS,
        VOTES,
    }
)


@dataclass(frozen=True, kw_only=True)
class SealResult(Result):
    """What was done.

    Attributes:
        written: whether the escrow is new; otherwise the one that is there has the same content.
        files: files of the archive whose identities it holds.
        broker: fingerprint of the broker's key; empty for the site key's holder.
        removed: names in the private folder that were removed, or would be in a dry run.
        dry_run: nothing was changed.
    """

    written: bool
    files: int
    broker: str = ""
    removed: tuple[str, ...] = ()
    dry_run: bool = False

    def summary(self) -> str:
        """Return the result in a few lines for people."""
        state = "unchanged" if not self.written else ("written", "would be written")[self.dry_run]
        whom = f"broker {self.broker[:16]}…" if self.broker else "the site key's holder"
        lines = [f"escrow of {number_of(self.files, 'file')} for {whom}: {state} ({self.out})"]
        if self.removed:
            verb = "would be removed" if self.dry_run else "removed"
            lines += [
                f"{verb} from private/: {', '.join(self.removed)}",
                "a removed file can still be on the disk, in snapshots and in backups; the identity registry "
                "and the key lie elsewhere and are still there",
            ]
        return "\n".join(lines)


def seal(
    clean: Path, key_file: Path, recipient: Recipient, *, remove_plain: bool = False, dry_run: bool = False
) -> SealResult:
    """Write the escrow of a clean archive, unless it is there already; remove the plain tables on request.

    Guarantee: nothing is removed before the escrow is complete on the disk and was read back.

    Args:
        clean: the archive.
        key_file: the site key with which it was made.
        recipient: who can open the escrow.
        remove_plain: remove everything of ``private/`` but :data:`KEPT` and the records of the access log.
        dry_run: change nothing.

    Raises:
        DataError: the folder is no clean archive, or holds neither a journal nor an intact escrow.
        PrivacyRefusal: the key is not the archive's.
        RunLocked: another process works in the folder.
        StorageError: the disk refused.
    """
    record = artifacts.require(clean, DeidRecord, fix="give the output folder of `meninx deid`")
    key, place = read_key(key_file, record.site), clean / workspace.PRIVATE / NAME
    with workspace.locked(clean):
        journal = FileJournal(clean / workspace.PRIVATE)
        number, written = (
            (0, False)
            if _is_sealed(place, journal, recipient, key)
            else write(place, journal, record, key, recipient, dry_run=dry_run)
        )
        removed: Sequence[str] = ()
        if remove_plain:
            if not dry_run:
                check(place, recipient, key, key_file)
            removed = remove_plain_files(clean, dry_run=dry_run)
    name = broker_key.fingerprint(recipient.broker) if recipient.broker else ""
    return SealResult(
        out=place, written=written, files=number, broker=name, removed=tuple(removed), dry_run=dry_run
    )


def write(
    place: Path,
    journal: FileJournal,
    record: DeidRecord,
    key: SiteKey,
    recipient: Recipient,
    *,
    dry_run: bool = False,
) -> tuple[int, bool]:
    """Write an escrow unless it is current; return how many files it covers and whether it was written.

    Args:
        place: the escrow, in a private folder.
        journal: entries of all files.
        record: the archive's summary.
        key: the site's.
        recipient: who can open it.
        dry_run: change nothing.

    Raises:
        PrivacyRefusal: the key does not give the pseudonyms of the journal.
        StorageError: the disk refused.
    """
    pseudonyms = Pseudonyms(key)
    with sorted_lines(place.parent) as lines:
        number = identities.collect(lines, journal.entries(), record, pseudonyms)
        if not number:
            raise DataError(
                problem("no file of the archive has an identity to seal", where=place.parent.name)
            )
        _refuse_other_key(journal, pseudonyms, key)
        content = escrow_file.content_digest(key, identities.text(lines, record))
        if escrow_file.is_current(place, recipient, key, content):
            return number, False
        if not dry_run:
            escrow_file.write(place, recipient, key, content, identities.text(lines, record))
    return number, True


def check(place: Path, recipient: Recipient, key: SiteKey, key_file: Path) -> None:
    """Read an escrow back as far as this machine can.

    One for the site key is opened from end to end; one for a broker is compared with its SHA-256.

    Raises:
        PrivacyRefusal, DataError: it is damaged.
    """
    header = escrow_file.read_header(place)
    if not escrow_file.is_current(place, recipient, key, bytes.fromhex(header.content)):
        raise DataError(problem("the escrow is damaged; nothing was removed", where=NAME))
    if recipient.broker is None:
        found = escrow_file.content_digest(key, escrow_file.read(place, Opener(key=key_file)))
        if found.hex() != header.content:
            raise DataError(problem("the escrow holds another text; nothing was removed", where=NAME))


def remove_plain_files(clean: Path, *, dry_run: bool = False) -> list[str]:
    """Remove what an escrow replaces, the journal last; return the names.

    A run that was killed before the end is repeated by the same command.

    Raises:
        StorageError: the disk refused.
    """
    private = clean / workspace.PRIVATE
    names = (item.name for item in private.iterdir())
    found = sorted(name for name in names if name not in KEPT and not name.startswith(f"{NAME}{RECORD}"))
    if dry_run:
        return found
    try:
        for name in sorted(found, key=lambda name: (name.endswith("journal.jsonl"), name)):
            path = private / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise files.storage_error(error, private) from error
    return found


def _is_sealed(place: Path, journal: FileJournal, recipient: Recipient, key: SiteKey) -> bool:
    """Return whether the plain journal is gone and the escrow there is intact and for this recipient."""
    if journal.new.path.is_file() or journal.known.path.is_file() or not place.is_file():
        return False
    header = escrow_file.read_header(place)
    return escrow_file.is_current(place, recipient, key, bytes.fromhex(header.content))


def _refuse_other_key(journal: FileJournal, pseudonyms: Pseudonyms, key: SiteKey) -> None:
    """Refuse a key under which the first mapped UID has another replacement."""
    for entry in journal.entries():
        for original, new in entry.uids.items():
            if pseudonyms.uid(original) != new:
                fix = "name the key and the folder that belong together"
                what = f"this key did not make the archive of {escrow_file.shown(key.site)!r}"
                raise PrivacyRefusal(problem(what, where="key", fix=fix))
            return
