"""Whether a run may go on in an output folder: with the same source, patients and seal as the runs before.

An output folder belongs to one source. A source is recognised by what it holds, and not by where it lies:
every file that an earlier run wrote must still be there, at the same path and with the same instance. So a
source may grow and may be moved. Another delivery is refused, because its files would replace those of the
first one or be counted with them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from meninx.core import files, workspace
from meninx.core.errors import DataError, PrivacyRefusal, UsageError, expected, problem
from meninx.core.summaries import number_of
from meninx.core.workspace import Workspace
from meninx.deid import output
from meninx.deid.config import DeidConfig
from meninx.deid.escrow import escrow_file
from meninx.deid.escrow.escrow_file import NAME, Recipient
from meninx.deid.fingerprint import Fingerprint
from meninx.deid.output import JOURNAL, KNOWN, WRITTEN, FileJournal, FileResult
from meninx.deid.papers import audit_chain
from meninx.deid.worker import Engine, content_of
from meninx.dicomfile import instance
from meninx.dicomfile.discover import SourceFile

_HEAD = 4096  # bytes of a file that hold its file meta information
_META_INSTANCE = b"\x02\x00\x03\x00UI"  # MediaStorageSOPInstanceUID, which is always explicit little endian


def refuse_earlier_format(config: DeidConfig, out: Path) -> None:
    """Refuse to go on with a result of a version that did not say by which settings it was made.

    Raises:
        UsageError: it is one, and is not to be replaced.
    """
    marker = None if config.overwrite else workspace.read_marker(out)
    if marker is not None and marker.published and Fingerprint.read(marker.published) is None:
        fix = "choose a new output folder, or give --overwrite to make every file again"
        got = "one of an earlier format, whose texts, pixels or pseudonyms were made by other rules"
        raise UsageError(expected("a result of the present format", got=got, where=out.name, fix=fix))


def is_sealed(out: Path) -> bool:
    """Return whether an escrow replaces the plain tables of an output folder."""
    private = out / workspace.PRIVATE
    return (private / NAME).is_file() and not any((private / name).is_file() for name in (JOURNAL, KNOWN))


def refuse_unsealing(config: DeidConfig, out: Path, recipient: Recipient | None) -> None:
    """Refuse a run that would write plain tables where somebody had them removed, or seal for somebody else.

    Raises:
        PrivacyRefusal: with the flags that keep the folder sealed.
    """
    if not is_sealed(out):
        return
    header = escrow_file.read_header(out / workspace.PRIVATE / NAME)
    if recipient is None or not config.escrow_only:
        flags = "--escrow BROKER.pub --escrow-only" if header.broker else "--escrow key --escrow-only"
        fix = f"give {flags}, which seals the result again, or choose a new output folder"
        what = "the folder is sealed, and this run would write the originals' identifiers in plain again"
        raise PrivacyRefusal(problem(what, where=out.name, fix=fix))
    if not recipient.is_of(header):
        fix = "name the same recipient, or choose a new output folder"
        raise PrivacyRefusal(problem("the folder is sealed for somebody else", where=out.name, fix=fix))


def files_of_another_program(config: DeidConfig, out: Path, fingerprint: Fingerprint) -> int:
    """Return how many finished files this run makes again because the program or a library is another one.

    What a killed run of another program left is counted, too. Files that an earlier run of this program has
    made again already are not.

    Raises:
        UsageError: a sealed result without new names is of another program. Its files are compared by their
            bytes (:func:`refuse_lost_files`), which may be others now.
    """
    marker = None if config.overwrite else workspace.read_marker(out)
    if marker is None:
        return 0
    private = out / workspace.PRIVATE
    staging = private / workspace.STAGING
    if not fingerprint.renews(marker.published or marker.building):
        return 0
    if not marker.published:
        return _written(staging)
    if not is_sealed(out):
        return _written(private) - (_written(staging) if marker.building == str(fingerprint) else 0)
    if not config.rename:
        what = "the sealed result was made by another version of the program or of a library"
        fix = "--overwrite makes every file again"
        raise UsageError(problem(what, where=out.name, fix=fix))
    return len(audit_chain.check(out / audit_chain.AUDIT_LOG).written)


def _written(folder: Path) -> int:
    """Return how many files the journal of a folder calls written; 0 where it cannot be read."""
    try:
        return sum(entry.status == WRITTEN for entry in FileJournal(folder).entries())
    except DataError:
        return 0


def give_back(out: Path, fingerprint: Fingerprint) -> None:
    """Put a complete result back that a killed run was adding files to, where this run cannot go on with it.

    Otherwise the only copy of the result would be removed with what the killed run left.

    Raises:
        RunLocked: another process works in the folder.
        StorageError: the disk refused.
    """
    marker = workspace.read_marker(out)
    if marker is None or marker.unfinished or marker.published in ("", str(fingerprint)):
        return
    if marker.published == marker.building:
        with workspace.locked(out):
            output.give_back(out)


def refuse_other_source(
    engine: Engine,
    config: DeidConfig,
    space: Workspace,
    found: Sequence[SourceFile],
    fingerprint: Fingerprint,
) -> None:
    """Refuse to mix another source into the files of an earlier run.

    With ``overwrite``, what an interrupted run of another source left is removed.

    Raises:
        UsageError: with the number of files that are gone or are other instances now.
    """
    earlier = fingerprint.has_settings_of(space.earlier) and not config.overwrite
    journals = [space.private] if earlier else []
    for folder in (*journals, space.staging):
        lost = _lost(engine, FileJournal(folder).entries(), found)
        shutil.rmtree(engine.waiting, ignore_errors=True)  # where members of archives were inflated
        if lost and not config.overwrite:
            raise _other_source(space.root, lost)
        if lost:
            _empty(space)


def refuse_lost_files(space: Workspace, journal: FileJournal, *, rename: bool) -> None:
    """Refuse to publish a result that lacks files of a sealed one, whose journal is gone.

    The audit log names the files of the sealed result. An output that is named after its place in the source
    counts as there only with the same bytes.

    Raises:
        UsageError: with their number; the sealed result stays as it is.
        DataError: there is no audit log.
    """
    before = audit_chain.check(space.root / audit_chain.AUDIT_LOG).written
    now = {entry.output: entry.output_digest for entry in journal.entries() if entry.status == WRITTEN}
    lost = sum(path not in now or not (rename or now[path] == digest) for path, digest in before.items())
    if lost:
        _empty(space)
        raise _other_source(space.root, lost)


def refuse_other_identities(engine: Engine, space: Workspace, *, overwrite: bool) -> None:
    """Refuse to go on with files whose patients the policy on issuers would give other pseudonyms.

    Raises:
        PrivacyRefusal: with the number of files.
    """
    _refuse_other_identities(engine, [space.staging, *([] if overwrite else [space.private])])


def check_dry_run(engine: Engine, out: Path, found: Sequence[SourceFile], fingerprint: Fingerprint) -> None:
    """Refuse a dry run where the run itself would not go on with what is in the output folder.

    Args:
        engine: what the run would work with.
        out: the output folder; nothing in it is changed.
        found: the files of the source.
        fingerprint: of the run.

    Raises:
        PrivacyRefusal, UsageError: as :func:`refuse_other_identities` and :func:`refuse_other_source`.
    """
    marker, private = workspace.read_marker(out), out / workspace.PRIVATE
    if marker is None:
        return
    folders = [private] if fingerprint.has_settings_of(marker.published) else []
    folders += [private / workspace.STAGING] if marker.building == str(fingerprint) else []
    _refuse_other_identities(engine, folders)
    for folder in folders:
        lost = _lost(engine, FileJournal(folder).entries(), found)
        if lost:
            raise _other_source(out, lost)


def _refuse_other_identities(engine: Engine, folders: Iterable[Path]) -> None:
    entries = (entry for folder in folders for entry in FileJournal(folder).entries())
    changed = sum(
        entry.status == WRITTEN and engine.domain(entry) not in (entry.domain, None) for entry in entries
    )
    if changed:
        fix = "use the earlier policy on issuers, or --overwrite to make every file again"
        got = f"one that gives the patients of {number_of(changed, 'finished file')} other ones"
        rule = "a policy on issuers under which pseudonyms stay"
        raise PrivacyRefusal(expected(rule, got=got, where="issuers", fix=fix))


def _empty(space: Workspace) -> None:
    """Remove what was built in staging.

    Raises:
        StorageError: the disk refused.
    """
    try:
        shutil.rmtree(space.staging)
        space.staging.mkdir(mode=0o700)
    except OSError as error:
        raise files.storage_error(error, space.staging) from error


def _lost(engine: Engine, entries: Iterable[FileResult], found: Sequence[SourceFile]) -> int:
    """Return how many written files are gone from the source, or are other instances now."""
    places = {item.path: item for item in found}
    return sum(
        entry.status == WRITTEN and not _is_there(engine, entry, places.get(entry.path)) for entry in entries
    )


def _is_there(engine: Engine, entry: FileResult, item: SourceFile | None) -> bool:
    if item is None or item.refused:
        return False
    replaced = {new: old for old, new in entry.uids.items()}
    wanted = replaced.get(entry.instance, entry.instance)  # a UID that an option keeps is not replaced
    try:
        if item.member is None:
            with (engine.source / item.path).open("rb", buffering=0) as stream:
                if _named_by_meta(stream.read(_HEAD)) == wanted:
                    return True
        with content_of(engine.source, item, room=engine.room) as data:
            return _named_by_meta(bytes(data[:_HEAD])) == wanted or (
                instance.read(data).text(instance.SOP_INSTANCE) == wanted
            )
    except Exception:  # whatever cannot be read is not the file that was written
        return False


def _named_by_meta(head: bytes) -> str:
    """Return the instance that the file meta information names; empty when it names none."""
    before, found, rest = head[132:].partition(_META_INSTANCE)
    size = int.from_bytes(rest[:2], "little")
    return rest[2 : 2 + size].decode("latin-1").rstrip("\0 ") if found and len(before) < 1024 else ""


def _other_source(out: Path, lost: int) -> UsageError:
    verb = "is" if lost == 1 else "are"
    wrote = f"{number_of(lost, 'file')} that an earlier run wrote"
    what = f"{wrote} {verb} gone from the source or another instance now"
    fix = (
        "another delivery needs its own output folder (with the same key, returning patients keep their "
        "pseudonyms); after a correction of the source, --overwrite makes every file again"
    )
    return UsageError(problem(what, where=out.name, fix=fix))
