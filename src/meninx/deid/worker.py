"""One file from reading to the checked, not yet published output.

Runs in any process and keeps no state between files.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from meninx.core import files
from meninx.core.errors import StorageError
from meninx.deid import instance, output, review, selfcheck, walker, writer
from meninx.deid.actions import ACCESSION, FileContext
from meninx.deid.discover import SourceFile
from meninx.deid.elements import Element
from meninx.deid.identifiers import collect
from meninx.deid.instance import Instance
from meninx.deid.keys import plain_digest
from meninx.deid.options import Option
from meninx.deid.output import WRITTEN, FileResult
from meninx.deid.profile import Action, Profile
from meninx.deid.pseudonyms import Resolver
from meninx.deid.quarantine import Reason, Refused
from meninx.imaging.decode import quiet

_MOST_UIDS = 50_000  # in one file: its line of the journal stays below the longest one that is read
_NEW_UID = re.compile(r"2\.25\.[1-9]\d{0,38}")
_KEPT_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Everything a worker needs besides the file.

    Attributes:
        source: folder that holds the files.
        out: the private folder in which the result is built.
        profile: actions.
        resolver: pseudonyms of the site.
        rename: name outputs after their new UIDs.
        max_age: highest age told exactly.
        burned_in: ``quarantine`` keeps files out that declare burned-in annotation, ``keep`` writes them.
        dry_run: write nothing.
    """

    source: Path
    out: Path
    profile: Profile
    resolver: Resolver
    rename: bool
    max_age: int
    dry_run: bool
    burned_in: str = "quarantine"

    @property
    def waiting(self) -> Path:
        """Where a file waits between the self-check and its publication."""
        return self.out / output.WAITING

    def staged(self, path: str) -> Path:
        """Return the private place of one file's output before it is published."""
        return self.waiting / f"{plain_digest(path.encode('utf-8', 'surrogateescape'))[:32]}.dcm"


def process(engine: Engine, found: SourceFile, known: FileResult | None) -> FileResult:
    """Return what becomes of one file; the output, if any, lies checked in the staging folder.

    Guarantee: whatever a file holds ends in an entry; only a disk that refuses the output raises.

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
        data = _read(engine.source / found.path)
        digest = plain_digest(data)
        if known is not None and known.digest == digest and _is_valid(engine, known):
            return known
        with quiet():  # pydicom's warnings and log lines quote values
            return _deidentified(engine, found.path, digest, data)
    except Refused as refusal:
        return FileResult(path=found.path, digest=digest, reason=str(refusal.reason))
    except StorageError:
        raise
    except MemoryError:
        return FileResult(path=found.path, digest=digest, reason=Reason.TOO_LARGE)
    except (
        Exception
    ):  # whatever a broken file provokes: it is counted, named in the private list and never copied
        return FileResult(path=found.path, digest=digest, reason=Reason.PROCESSING_FAILED)


def _read(path: Path) -> bytes:
    """Return the bytes of a file of at most :data:`meninx.deid.instance.MOST_BYTES`."""
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size > instance.MOST_BYTES:
                raise Refused(Reason.TOO_LARGE)
            return stream.read(instance.MOST_BYTES)
    except OSError:
        raise Refused(Reason.UNREADABLE) from None


def _is_valid(engine: Engine, entry: FileResult) -> bool:
    """Return whether an earlier result still holds: the output is there unchanged, and the PatientID means whom it meant."""
    if entry.status != WRITTEN:
        return True
    if entry.by_issuer != engine.resolver.is_shared(entry.patient[0]):
        return False
    path = engine.out / entry.output
    output.check_below(engine.out, entry.output)
    return path.is_file() and path.stat().st_size == entry.size and files.digest(path) == entry.output_digest


def _deidentified(engine: Engine, path: str, digest: str, data: bytes) -> FileResult:
    original = instance.read(data)
    if engine.burned_in == "quarantine" and review.declares_burned_in(original):
        raise Refused(Reason.BURNED_IN_DECLARED)
    context = _context(engine, original)
    elements = walker.clean(original.elements, original.encodings, context)
    elements = writer.finish(elements, original, context)
    if len(context.uids) > _MOST_UIDS:
        raise Refused(Reason.TOO_LARGE)
    entry = _entry(engine, path, digest, elements, original, context)
    selfcheck.check_told(entry.told(), context)
    chunks = writer.file_chunks(elements, original)
    if engine.dry_run:
        content = b"".join(chunks)
        selfcheck.check(content, original, context)
        return replace(entry, size=len(content), output_digest=plain_digest(content))
    size, output_digest = _write_and_check(engine.staged(path), chunks, original, context)
    return replace(entry, size=size, output_digest=output_digest)


def _context(engine: Engine, original: Instance) -> FileContext:
    study, sop_class = original.text(instance.STUDY), original.text(instance.SOP_CLASS)

    def keeps(tag: int, vr: str) -> bool:
        return engine.profile.action(tag, vr, sop_class_uid=sop_class) == Action.K

    found, kept = collect(original.elements, original.encodings, keeps)
    patient = engine.resolver.patient(
        original.text(instance.PATIENT_ID), original.text(instance.ISSUER), study
    )
    return FileContext(
        profile=engine.profile,
        resolver=engine.resolver,
        patient=patient,
        sop_class_uid=sop_class,
        encoding=original.encoding,
        found=found,
        kept=kept,
        max_age=engine.max_age,
        over_age=writer.is_over_age(original, engine.max_age),
        review=review.review_reasons(original),
    )


def _write_and_check(
    path: Path, chunks: list[bytes | memoryview], original: Instance, context: FileContext
) -> tuple[int, str]:
    """Write to the staging folder, read back from the disk, check; return size and digest.

    A file that fails is gone before this raises.
    """
    size, digest = 0, hashlib.sha256()
    with files.atomic(path) as stream:
        for chunk in chunks:
            stream.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    try:
        with path.open("rb") as written, mmap.mmap(written.fileno(), 0, access=mmap.ACCESS_READ) as content:
            selfcheck.check(content, original, context)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return size, digest.hexdigest()


def _entry(
    engine: Engine, path: str, digest: str, elements: list[Element], original: Instance, context: FileContext
) -> FileResult:
    actions: dict[str, dict[str, int]] = {}
    for (keyword, letter), count in sorted(context.counts.items()):
        actions.setdefault(keyword, {})[letter] = count
    values = {element.tag: bytes(element.value) for element in elements if element.items is None}
    study, series, sop = (
        _written_uid(engine, tag, values.get(tag, b""))
        for tag in (instance.STUDY, instance.SERIES, instance.SOP_INSTANCE)
    )
    return FileResult(
        path=path,
        digest=digest,
        status=WRITTEN,
        output=_output(engine, path, context.patient.pseudonym, study, series, sop),
        patient=(original.text(instance.PATIENT_ID), context.patient.pseudonym),
        by_issuer=engine.resolver.is_shared(original.text(instance.PATIENT_ID)),
        study=study,
        series=series,
        instance=sop,
        sop_class=context.sop_class_uid,
        transfer_syntax=original.transfer_syntax,
        accessions=dict(sorted(_accessions(original, context).items())),
        uids=dict(sorted(context.uids.items())),
        actions=actions,
        burned_in_unknown=bool(context.review),
        review=context.review,
    )


def _written_uid(engine: Engine, tag: int, value: bytes) -> str:
    """Return a UID of the cleaned data set in the form in which it may become a path, a line of the audit log or a table row.

    Raises:
        Refused: ``invalid-uid``; the original value never takes its place.
    """
    uid = value.decode("latin-1").removesuffix("\0")
    kept = Option.RETAIN_UIDS in engine.profile.options or engine.profile.overrides_tag(tag)
    if not (_NEW_UID.fullmatch(uid) or (kept and len(uid) <= 64 and _KEPT_UID.fullmatch(uid))):
        raise Refused(Reason.INVALID_UID)
    return uid


def _accessions(original: Instance, context: FileContext) -> Mapping[str, str]:
    number = original.text(ACCESSION)
    return {number: context.accessions[number]} if number in context.accessions else {}


def _output(engine: Engine, path: str, patient: str, study: str, series: str, sop: str) -> str:
    pseudonyms = engine.resolver.pseudonyms
    if engine.rename:
        person = patient if _SAFE_NAME.fullmatch(patient) else pseudonyms.path_part(patient)
        return f"images/{person}/{study}/{series}/{sop}.dcm"
    parts = path.split("/")
    return (
        "images/"
        + "/".join(pseudonyms.path_part("/".join(parts[: i + 1])) for i in range(len(parts)))
        + ".dcm"
    )
