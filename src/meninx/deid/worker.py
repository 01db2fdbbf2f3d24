"""One file from reading to the checked, not yet published output; runs in any process and keeps no state between files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from meninx.core import files
from meninx.core.errors import MeninxError
from meninx.deid import instance, verify, walker, writer
from meninx.deid.actions import ACCESSION, Context
from meninx.deid.discover import Found
from meninx.deid.identifiers import collect
from meninx.deid.instance import Instance
from meninx.deid.journal import WRITTEN, Entry
from meninx.deid.keys import plain_digest
from meninx.deid.profile import Action, Profile
from meninx.deid.quarantine import Reason, Refused
from meninx.deid.resolver import Resolver
from meninx.imaging.decode import quiet

_BURNED_MODALITIES = frozenset(["US", "XC", "ES", "OT", "SC", "OP", "OPT", "SM", "GM", "EC", "PX", "IO", "XA", "RF", "DOC", "DG"])
_BURNED_CLASSES = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(7|6|3|77)(\.\d+)*")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Everything a worker needs besides the file.

    Attributes:
        source: folder that holds the files.
        out: output folder.
        profile: actions.
        resolver: pseudonyms of the site.
        rename: name outputs after their new UIDs.
        max_age: highest age told exactly.
        dry_run: write nothing.
    """

    source: Path
    out: Path
    profile: Profile
    resolver: Resolver
    rename: bool
    max_age: int
    dry_run: bool

    @property
    def staging(self) -> Path:
        """Where a file waits between the self-check and its publication."""
        return self.out / "private" / "staging"

    def staged(self, path: str) -> Path:
        """Return the private place of one file's output before it is published."""
        return self.staging / f"{plain_digest(path.encode('utf-8', 'surrogateescape'))[:32]}.dcm"


def process(engine: Engine, found: Found, known: Entry | None) -> Entry:
    """Return what becomes of one file; the output, if any, lies checked in the staging folder.

    Args:
        engine: settings and maps.
        found: the file.
        known: the journal's entry of the same path, returned as it is when nothing changed since.

    Raises:
        StorageError: the output cannot be written.
    """
    if found.refused:
        return Entry(path=found.path, reason=Reason.SYMLINK_OUTSIDE)
    try:
        data = (engine.source / found.path).read_bytes()
    except OSError:
        return Entry(path=found.path, reason=Reason.UNREADABLE)
    digest = plain_digest(data)
    if known is not None and known.digest == digest and _is_valid(engine, known):
        return known
    try:
        with quiet():  # pydicom's warnings and log lines quote values
            return _deidentified(engine, found.path, digest, data)
    except Refused as refusal:
        return Entry(path=found.path, digest=digest, reason=str(refusal.reason))
    except MeninxError:
        raise
    except Exception:  # whatever a broken file provokes: it is counted, named in the private list and never copied
        return Entry(path=found.path, digest=digest, reason=Reason.PROCESSING_FAILED)


def _is_valid(engine: Engine, entry: Entry) -> bool:
    """Return whether an earlier result still holds: the output is there, and the PatientID means whom it meant."""
    if entry.status != WRITTEN:
        return True
    if entry.by_issuer != engine.resolver.is_shared(entry.patient[0]):
        return False
    path = engine.out / entry.output
    return path.is_file() and path.stat().st_size == entry.size


def _deidentified(engine: Engine, path: str, digest: str, data: bytes) -> Entry:
    original = instance.read(data)
    context = _context(engine, original)
    elements = walker.clean(original.elements, original.encodings, context)
    elements = writer.finish(elements, original, context)
    content = writer.file_bytes(elements, original)
    if engine.dry_run:
        verify.check(content, original, context)
    else:
        _write_and_check(engine.staged(path), content, original, context)
    return _entry(engine, path, digest, content, original, context)


def _context(engine: Engine, original: Instance) -> Context:
    study, sop_class = original.text(instance.STUDY), original.text(instance.SOP_CLASS)

    def keeps(tag: int, vr: str) -> bool:
        return engine.profile.action(tag, vr, sop_class_uid=sop_class) == Action.K

    found, kept = collect(original.elements, original.encodings, keeps)
    patient = engine.resolver.patient(original.text(instance.PATIENT_ID), original.text(instance.ISSUER), study)
    return Context(
        profile=engine.profile,
        resolver=engine.resolver,
        patient=patient,
        sop_class_uid=sop_class,
        encoding=original.encoding,
        found=found,
        kept=kept,
        max_age=engine.max_age,
        over_age=writer.is_over_age(original, engine.max_age),
    )


def _write_and_check(path: Path, content: bytes, original: Instance, context: Context) -> None:
    """Write to the staging folder, read back from the disk, check; a file that fails is gone before this returns."""
    files.write_bytes(path, content)
    try:
        verify.check(path.read_bytes(), original, context)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _entry(engine: Engine, path: str, digest: str, content: bytes, original: Instance, context: Context) -> Entry:
    actions: dict[str, dict[str, int]] = {}
    for (keyword, letter), count in sorted(context.counts.items()):
        actions.setdefault(keyword, {})[letter] = count
    study, series, sop = (
        _new_uid(context, original.text(tag)) for tag in (instance.STUDY, instance.SERIES, instance.SOP_INSTANCE)
    )
    return Entry(
        path=path,
        digest=digest,
        status=WRITTEN,
        output=_output(engine, path, context.patient.pseudonym, study, series, sop),
        size=len(content),
        output_digest=plain_digest(content),
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
        burned_in_unknown=may_be_burned_in(original),
    )


def _new_uid(context: Context, original: str) -> str:
    return context.uids.get(original, original)


def _accessions(original: Instance, context: Context) -> Mapping[str, str]:
    number = original.text(ACCESSION)
    return {number: context.accessions[number]} if number in context.accessions else {}


def _output(engine: Engine, path: str, patient: str, study: str, series: str, sop: str) -> str:
    pseudonyms = engine.resolver.pseudonyms
    if engine.rename:
        folder = patient if _SAFE_NAME.fullmatch(patient) else pseudonyms.path_part(patient)
        return f"images/{folder}/{study}/{series}/{sop}.dcm"
    parts = path.split("/")
    return "images/" + "/".join(pseudonyms.path_part("/".join(parts[: i + 1])) for i in range(len(parts))) + ".dcm"


def may_be_burned_in(original: Instance) -> bool:
    """Return whether text is likely to stand in the pixels: the file says so, or its kind of image often has it.

    A device's own "NO" is not trusted for ultrasound, screen captures, photographs and documents.
    """
    if not original.pixels:
        return False
    burned = original.text(0x00280301) == "YES"
    kind = original.text(0x00080060) in _BURNED_MODALITIES or bool(_BURNED_CLASSES.fullmatch(original.text(instance.SOP_CLASS)))
    secondary = "SECONDARY" in original.whole_text(0x00080008) or bool(original.text(0x00080064))
    return burned or kind or secondary or _has_overlay_in_pixels(original)


def _has_overlay_in_pixels(original: Instance) -> bool:
    """Return whether an overlay lies in the unused high bits of the pixel data, which are carried as they are."""
    bits = (e for e in original.elements if e.tag >> 24 == 0x60 and e.tag & 0xFFFF == 0x0102)
    return any(any(bytes(element.value)) for element in bits)
