"""De-identifying a folder: find, clean in parallel, check, publish in one order, journal, tell."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from meninx.core.errors import PrivacyRefusal, StorageError, expected
from meninx.core.progress import SILENT, Progress
from meninx.core.result import Result
from meninx.deid import audit, folder, lookup
from meninx.deid.config import DeidConfig
from meninx.deid.discover import Found, check_output, check_source, files_below
from meninx.deid.issuers import shared_ids
from meninx.deid.journal import WRITTEN, Entry, Journal, locked
from meninx.deid.keys import SiteKey, read_key
from meninx.deid.pool import Stop, interrupted, processed, refuse_import_in_worker
from meninx.deid.profile import Profile
from meninx.deid.pseudonyms import Pseudonyms
from meninx.deid.quarantine import Reason
from meninx.deid.resolver import Resolver
from meninx.deid.worker import Engine

FORMAT = "2"  # raised when the same input would give other bytes
FILES_A_WORKER = 40  # below that a second process costs more than it saves


@dataclass(frozen=True, kw_only=True)
class DeidResult(Result):
    """What one run did.

    Attributes:
        files_read: files found below the source.
        files_written: instances in the output folder (none in a dry run).
        quarantined: reason code -> files.
        patients: distinct patients written.
        studies: distinct studies written.
        series: distinct series written.
        residual_findings: files in which the self-check found an original identifier; none of them was published.
        burned_in_unknown: images that may show text in their pixels; pixels are NOT checked by this version.
        actions: keyword -> action letter -> elements.
        files_resumed: files that an earlier run had finished.
        dry_run: nothing was written.
    """

    files_read: int
    files_written: int
    quarantined: Mapping[str, int]
    patients: int
    studies: int
    series: int
    residual_findings: int
    burned_in_unknown: int
    actions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    files_resumed: int = 0
    dry_run: bool = False

    def summary(self) -> str:
        """Return the result in a few lines for people."""
        kept_out = sum(self.quarantined.values())
        lines = [
            f"{self.files_read} files read, {self.files_written} written, {kept_out} kept out"
            + (" (dry run: nothing was written)" if self.dry_run else ""),
            f"{self.patients} patients, {self.studies} studies, {self.series} series",
            *(f"  {number} x {reason}" for reason, number in self.quarantined.items()),
            f"self-check: {self.residual_findings} files held an original identifier and were kept out",
        ]
        if self.burned_in_unknown:
            lines.append(
                f"NOT checked: {self.burned_in_unknown} images may show text in their pixels (ultrasound, captures, ...)"
            )
        return "\n".join(lines)


def run(
    config: DeidConfig, source: Path, out: Path, *, progress: Progress = SILENT, throwaway: SiteKey | None = None
) -> DeidResult:
    """De-identify every DICOM file below ``source`` into ``out`` and return what was done.

    The output tree is a function of input, key and settings: the number of workers, the order of files and
    interruptions leave no trace in it.

    Guarantee: nothing below ``out/images`` was copied; every file there was built element by element under the profile
    and passed the self-check of :mod:`meninx.deid.verify`. Originals' identifiers are written to ``out/private`` (mode
    0700) only. Pixels are carried as they are: text burned into them is not removed by this version.

    Args:
        config: settings.
        source: folder (or one file).
        out: output folder, apart from the source; continued when it holds an interrupted run of the same settings.
        progress: shows how far the run is.
        throwaway: key that a dry run takes in place of ``config.key``; other runs never use it.

    Raises:
        PrivacyRefusal: no usable key, or a setting that would keep the identity.
        UsageError: the output folder lies in the source, holds something else, or another configuration's result;
            or a script calls this unguarded, so that every worker process would call it again.
        DataError: the source cannot be read, or a lookup table is wrong.
        StorageError: the disk refused a write; finished files stay.
        RunLocked: another process writes to ``out``.
        Interrupted: stopped by the user; the journal is saved.
    """
    refuse_import_in_worker()
    check_places(config, source, out)
    engine, fingerprint = _engine(config, source, out, throwaway)
    found = files_below(source)
    engine = replace(engine, resolver=replace(engine.resolver, shared=shared_ids(engine.source, found)))
    if config.dry_run:
        with Stop() as stop:
            todo = [(item, None) for item in found]
            entries = list(processed(engine, todo, _workers(config, len(found)), stop, progress))
        return _result(config, out, _without_duplicates(entries), 0, engine.profile)
    journal = folder.journal_of(out, fingerprint)
    folder.refuse_foreign(config, out, journal)
    folder.make_private(out)
    with locked(out / folder.PRIVATE / folder.LOCK):
        folder.begin(config, out, journal)
        known = journal.read()
        journal.rewrite(known.values())
        _clear_staging(engine)
        resumed = _work(engine, config, found, known, journal, progress)
        entries = [known[path] for path in sorted(known)]
        journal.rewrite(entries)
        _clear_staging(engine)
        audit.write(config, out, entries, engine.profile, engine.resolver.pseudonyms)
    result = _result(config, out, entries, resumed, engine.profile)
    if result.burned_in_unknown:
        progress.note(f"{result.burned_in_unknown} images may show text in their pixels; pixels were not checked")
    return result


def check_places(config: DeidConfig, source: Path, out: Path) -> None:
    """Check that source, output folder and key lie where they may, before anything is made.

    Raises:
        DataError: there is no source.
        UsageError: source and output folder lie one within the other, or the output folder holds something else.
        PrivacyRefusal: the key lies in the output folder.
    """
    check_output(source, out)
    check_source(source)
    if config.key is not None and config.key.resolve().is_relative_to(out.resolve()):
        raise PrivacyRefusal(expected("the key apart from what it protects", got="a key inside the output folder", where="key"))
    if not config.dry_run:
        folder.refuse_strange(out)


def _engine(config: DeidConfig, source: Path, out: Path, throwaway: SiteKey | None) -> tuple[Engine, str]:
    """Return what the workers need, and the fingerprint of everything that decides the output's bytes."""
    key = throwaway if throwaway and config.dry_run else read_key(config.key, config.site)
    profile = config.compiled()
    table = lookup.read(config.lookup) if config.lookup else None
    engine = Engine(
        source=source.resolve().parent if source.is_file() else source.resolve(),
        out=out.resolve(),
        profile=profile,
        resolver=Resolver(Pseudonyms(key), table, strict=config.missing_lookup == "quarantine"),
        rename=config.rename,
        max_age=config.max_age,
        dry_run=config.dry_run,
        burned_in=config.burned_in,
    )
    told = [FORMAT, profile.fingerprint(), key.fingerprint(), str(config.rename), str(config.max_age), config.missing_lookup]
    told += [table.digest if table else "", config.profile, config.burned_in, *config.options]
    return engine, hashlib.sha256("\n".join(told).encode()).hexdigest()


def _workers(config: DeidConfig, count: int) -> int:
    automatic = max(1, min(os.cpu_count() or 1, count // FILES_A_WORKER))
    return min(config.workers or automatic, max(count, 1))


def _clear_staging(engine: Engine) -> None:
    shutil.rmtree(engine.staging, ignore_errors=True)


def _work(
    engine: Engine, config: DeidConfig, found: list[Found], known: dict[str, Entry], journal: Journal, progress: Progress
) -> int:
    """Process and publish every file in the order of paths; return how many were finished before."""
    todo = [(item, known.get(item.path)) for item in found]
    owners = {_owner_key(entry): (entry.path, entry.output_digest) for entry in known.values() if entry.status == WRITTEN}
    resumed = 0
    workers = _workers(config, len(found))
    with journal.appending() as appender, Stop() as stop, closing(processed(engine, todo, workers, stop, progress)) as results:
        try:
            for entry in results:
                if entry == known.get(entry.path) and not engine.staged(entry.path).exists():
                    resumed += 1
                    continue
                known[entry.path] = _published(engine, entry, known.get(entry.path), owners)
                appender.add(known[entry.path])
        except KeyboardInterrupt:
            raise interrupted() from None
    return resumed


Owners = dict[tuple[str, str], tuple[str, str]]


def _owner_key(entry: Entry) -> tuple[str, str]:
    return entry.patient[1], entry.instance


def _published(engine: Engine, entry: Entry, before: Entry | None, owners: Owners) -> Entry:
    """Move one checked output to its place and return the entry to journal.

    The first path in sorting order owns an instance; a later file with the same one is kept out as its duplicate.

    Raises:
        StorageError: the disk refused; anything else that goes wrong is the file's own.
    """
    staged = engine.staged(entry.path)
    try:
        return _placed(engine, entry, before, owners)
    except StorageError:
        raise
    except Exception:
        staged.unlink(missing_ok=True)
        owners.pop(_owner_key(entry), None)
        return Entry(path=entry.path, digest=entry.digest, reason=Reason.PROCESSING_FAILED)


def _placed(engine: Engine, entry: Entry, before: Entry | None, owners: Owners) -> Entry:
    staged = engine.staged(entry.path)
    if entry.status == WRITTEN:
        path, digest = owners.setdefault(_owner_key(entry), (entry.path, entry.output_digest))
        if path != entry.path:
            staged.unlink(missing_ok=True)
            reason = Reason.DUPLICATE_IDENTICAL if digest == entry.output_digest else Reason.DUPLICATE_DIFFERENT
            entry = Entry(path=entry.path, digest=entry.digest, reason=reason)
    if before is not None and before.status == WRITTEN and before.output != entry.output:
        folder.check_below(engine.out, before.output)
        (engine.out / before.output).unlink(missing_ok=True)
        owners.pop(_owner_key(before), None)
    if entry.status == WRITTEN:
        folder.publish(engine.out, entry.output, staged)
    return entry


def _without_duplicates(entries: list[Entry]) -> list[Entry]:
    seen: set[tuple[str, str]] = set()
    result = []
    for entry in entries:
        again = entry.status == WRITTEN and _owner_key(entry) in seen
        seen.add(_owner_key(entry))
        result.append(Entry(path=entry.path, digest=entry.digest, reason=Reason.DUPLICATE_DIFFERENT) if again else entry)
    return result


def _result(config: DeidConfig, out: Path, entries: list[Entry], resumed: int, profile: Profile) -> DeidResult:
    table = audit.summary(config, entries, profile)
    names = ("files_read", "quarantined", "patients", "studies", "series", "residual_findings", "burned_in_unknown", "actions")
    written = 0 if config.dry_run else table["files_written"]
    told = {name: table[name] for name in names}
    return DeidResult(out=out, files_written=written, files_resumed=resumed, dry_run=config.dry_run, **told)
