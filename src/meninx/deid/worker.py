"""The work on one file of a folder: read it, clean it, write it to staging, read it back and check it.

The functions run in any process, take the engine with every file and keep no state of their own.
Caches of patients' values end with the run (:mod:`meninx.core.value_caches`). Publication is the stage's.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from meninx.core import files
from meninx.core.clean_archive import IMAGES
from meninx.core.errors import StorageError
from meninx.deid import output, selfcheck, writer
from meninx.deid.cleaner import Cleaner, CleanInstance, reason_of
from meninx.deid.faces.face_plans import FolderPlans
from meninx.deid.identity.keys import plain_digest
from meninx.deid.output import WRITTEN, FileResult
from meninx.dicomfile import instance, media_directory, zip_archive
from meninx.dicomfile.charset import UNDECODED
from meninx.dicomfile.discover import SourceFile
from meninx.dicomfile.file_part import Content, Digested, FilePart, JoinedPieces
from meninx.dicomfile.refusals import Reason, Refused
from meninx.imaging.decode import quiet

_DEPENDING_ON_IDENTITIES = frozenset(
    {
        Reason.LOOKUP_WITHOUT_ISSUER,
        Reason.LOOKUP_CONFLICT,
        Reason.ISSUER_CONFLICT,
        Reason.ISSUER_MISSING,
        Reason.ISSUER_NOT_LISTED,
    }
)
"""Reasons that another policy on issuers can remove, so such a file is tried again in every run."""

_LARGE = 1 << 20  # bytes of a file from which native pixel data stays in the file


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What a worker needs besides the file.

    Attributes:
        source: folder that holds the files.
        out: the private folder in which the result is built.
        cleaner: what decides the clean bytes.
        rename: name outputs after their new UIDs.
        dry_run: write nothing.
    """

    source: Path
    out: Path
    cleaner: Cleaner
    rename: bool = True
    dry_run: bool = False

    @property
    def waiting(self) -> Path:
        """Where a file waits between the self-check and its publication."""
        return self.out / output.WAITING

    @property
    def room(self) -> Path | None:
        """Where a large member of an archive is inflated; None for the system's folder in a dry run."""
        return None if self.dry_run else self.waiting

    def staged(self, path: str) -> Path:
        """Return the private place of one file's output before it is published."""
        return self.waiting / f"{plain_digest(path.encode('utf-8', 'surrogateescape'))[:32]}.dcm"

    def domain(self, entry: FileResult) -> str | None:
        """Return the domain of a finished file under the policy on issuers; None if that refuses the file."""
        try:
            return self.cleaner.resolver.policy.domain(entry.issuer) if entry.patient[0] else ""
        except Refused:
            return None


def process(engine: Engine, found: SourceFile, known: FileResult | None) -> FileResult:
    """Return the result of one file. Its output, if any, is in staging and has passed the self-check.

    Guarantee: every file ends in a result, whatever it holds; only a disk that refuses the output raises.

    Args:
        engine: settings and maps.
        found: the file.
        known: the journal's entry of the same path, returned as it is when nothing changed since.

    Raises:
        StorageError: the output cannot be written.
    """
    if found.refused:
        return FileResult(path=found.path, reason=found.refused)
    digest = ""
    try:
        with content_of(engine.source, found, room=engine.room) as data:
            source = Digested(data)
            if known is not None and known.digest == source.value() and _is_valid(engine, known):
                return known
            try:
                with quiet():  # pydicom's warnings and log lines quote values
                    result = _deidentified(engine, found.path, source.data)
            finally:
                digest = source.value()
            return replace(result, digest=digest)
    except StorageError:
        raise
    except Exception as error:  # it is counted, named in the private list and never copied
        refused = error if isinstance(error, Refused) else Refused(reason_of(error))
        named = _directory(engine, found) if refused.reason == Reason.DICOMDIR else {}
        result = FileResult(
            path=found.path,
            digest=digest,
            reason=refused.reason,
            issuer=refused.issuer,
            pixels=refused.pixels,
            directory=named,
            face=refused.face,
        )
        return known if known is not None and known == result else result


@contextmanager
def content_of(root: Path, found: SourceFile, *, room: Path | None) -> Iterator[bytes | FilePart]:
    """Give the bytes of a small file, or a large file that stays open.

    Args:
        root: folder that holds the files.
        found: the file, or a member of an archive.
        room: private folder for a large member that has to be inflated; None for the system's own.

    Raises:
        Refused: the file cannot be read, or is too large.
        StorageError: there is no room for a large member.
    """
    if found.member is None:
        with _file(root / found.path) as content:
            yield content
        return
    with ExitStack() as stack:
        try:
            content = stack.enter_context(zip_archive.opened(root / found.archive, found.member, room))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise files.storage_error(error, room or root) from error
            raise Refused(Reason.UNREADABLE) from None
        if instance.is_archive(bytes(content[:512])):
            raise Refused(Reason.ARCHIVE_IN_ARCHIVE)
        yield content


@contextmanager
def _file(path: Path) -> Iterator[bytes | FilePart]:
    try:
        stream = path.open("rb", buffering=0)
    except OSError:
        raise Refused(Reason.UNREADABLE) from None
    with stream:
        try:
            size = os.fstat(stream.fileno()).st_size
            if size > instance.MOST_FILE:
                raise Refused(Reason.TOO_LARGE)
            content = stream.read(size) if size <= _LARGE else FilePart(stream, 0, size)
        except OSError:
            raise Refused(Reason.UNREADABLE) from None
        yield content


def _directory(engine: Engine, found: SourceFile) -> dict[str, int]:
    """Return how many files a DICOMDIR names and how many are missing; empty if it cannot be read."""
    try:
        with content_of(engine.source, found, room=engine.room) as data, quiet():
            return media_directory.counts(engine.source, found, data)
    except Exception:  # its files are read anyway
        return {}


def _is_valid(engine: Engine, entry: FileResult) -> bool:
    """Return whether an earlier result is still valid.

    The output must be unchanged, and the patient must still be the same under the policy on issuers.
    """
    if entry.status == WRITTEN and entry.traits is None:
        return False
    if entry.status != WRITTEN:
        return not entry.face and entry.reason not in {*_DEPENDING_ON_IDENTITIES, Reason.DICOMDIR}
    if UNDECODED in entry.patient[0] + entry.issuer:
        return False  # earlier versions wrote such files, and two people may be one there
    if entry.face and not _has_plan(engine, entry.face):
        return False
    if engine.domain(entry) != entry.domain:
        return False
    path = engine.out / entry.output
    output.check_below(engine.out, entry.output)
    return path.is_file() and path.stat().st_size == entry.size and files.digest(path) == entry.output_digest


def _has_plan(engine: Engine, face: str) -> bool:
    """Return whether the series of an earlier result still has the same plan."""
    series, digest = face.split(":")[1:]
    plan = engine.cleaner.faces.read(series) if isinstance(engine.cleaner.faces, FolderPlans) else None
    return plan is not None and plan.digest == digest


def _deidentified(engine: Engine, path: str, data: bytes | FilePart) -> FileResult:
    clean = engine.cleaner.clean(data)
    result = _result(engine, path, clean)
    selfcheck.check_public_texts(clean.public_texts(result.output.removeprefix(f"{IMAGES}/")), clean.context)
    if engine.dry_run:
        size, output_digest = _checked(JoinedPieces(clean.chunks()), clean)
    else:
        size, output_digest = _write_and_check(engine.staged(path), clean)
    return replace(result, size=size, output_digest=output_digest)


def _write_and_check(path: Path, clean: CleanInstance) -> tuple[int, str]:
    """Write to the staging folder, read back from the disk, check; return size and digest.

    A file that fails is gone before this raises.
    """
    size = 0
    with files.atomic(path) as stream:
        for piece in clean.chunks():
            size += len(piece)
            if isinstance(piece, FilePart):
                piece.copy_to(stream)
            else:
                stream.write(piece)
    try:
        with path.open("rb", buffering=0) as written:
            return _checked(FilePart(written, 0, size), clean)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _checked(content: Content, clean: CleanInstance) -> tuple[int, str]:
    """Return size and SHA-256 of a clean file after the self-check, which reads every byte once."""
    digest = hashlib.sha256()
    selfcheck.check(content, clean.original, clean.context, digest.update)
    return len(content), digest.hexdigest()


def _result(engine: Engine, path: str, clean: CleanInstance) -> FileResult:
    return FileResult(
        path=path,
        status=WRITTEN,
        output=f"images/{clean.path()}" if engine.rename else _kept_folders(engine, path),
        patient=(clean.patient_id, clean.context.patient.pseudonym),
        issuer=clean.issuer,
        domain=clean.context.patient.domain,
        study=clean.study,
        series=clean.series,
        instance=clean.instance,
        sop_class=clean.context.sop_class_uid,
        transfer_syntax=clean.original.transfer_syntax,
        accessions=dict(sorted(clean.accessions.items())),
        uids=dict(sorted(clean.context.uids.items())),
        actions=clean.actions,
        burned_in_unknown=bool(clean.context.review),
        review=clean.context.review,
        has_pixels=bool(clean.original.pixels),
        pixels=clean.pixels.table(),
        recoded=clean.pixels.recoded,
        face=clean.face.text(),
        traits=clean.traits(),
        cleaned_before=writer.is_own_output(clean.original),
    )


def _kept_folders(engine: Engine, path: str) -> str:
    """Return the output path that keeps the folders of the source, each name replaced by a keyed one."""
    pseudonyms, parts = engine.cleaner.resolver.pseudonyms, path.split("/")
    names = (pseudonyms.path_part("/".join(parts[: i + 1])) for i, part in enumerate(parts) if part)
    return "/".join((IMAGES, *names)) + ".dcm"
