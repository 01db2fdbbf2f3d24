"""De-identifying a folder: find, clean in parallel, check, publish in one order, journal, tell."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from meninx.core import files
from meninx.core.errors import PrivacyRefusal, UsageError, expected
from meninx.core.progress import SILENT, Progress
from meninx.core.result import Result
from meninx.deid import audit, lookup
from meninx.deid.config import DeidConfig
from meninx.deid.discover import Found, check_output, files_below
from meninx.deid.issuers import shared_ids
from meninx.deid.journal import WRITTEN, Entry, Journal, locked
from meninx.deid.keys import read_key
from meninx.deid.pool import Stop, interrupted, processed
from meninx.deid.pseudonyms import Pseudonyms
from meninx.deid.quarantine import Reason
from meninx.deid.resolver import Resolver
from meninx.deid.worker import Engine

FORMAT = "1"  # raised when the same input would give other bytes
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


def run(config: DeidConfig, source: Path, out: Path, *, progress: Progress = SILENT) -> DeidResult:
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

    Raises:
        PrivacyRefusal: no usable key, or a setting that would keep the identity.
        UsageError: the output folder lies in the source, holds something else, or another configuration's result.
        DataError: the source cannot be read, or a lookup table is wrong.
        StorageError: the disk refused a write; finished files stay.
        RunLocked: another process writes to ``out``.
        Interrupted: stopped by the user; the journal is saved.
    """
    check_output(source, out)
    engine, fingerprint = _engine(config, source, out)
    found = files_below(source)
    engine = replace(engine, resolver=replace(engine.resolver, shared=shared_ids(engine.source, found)))
    if config.dry_run:
        with Stop() as stop:
            todo = [(item, None) for item in found]
            entries = list(processed(engine, todo, _workers(config, len(found)), stop, progress))
        return _result(config, out, _without_duplicates(entries), 0)
    private = out / "private"
    _make_private(private)
    with locked(private / "lock"):
        journal = _open_journal(config, out, fingerprint)
        known = journal.read()
        journal.rewrite(known.values())
        _clear_staging(engine)
        resumed = _work(engine, config, found, known, journal, progress)
        entries = [known[path] for path in sorted(known)]
        journal.rewrite(entries)
        _clear_staging(engine)
        audit.write(config, out, entries, engine.resolver.pseudonyms)
    result = _result(config, out, entries, resumed)
    if result.burned_in_unknown:
        progress.note(f"{result.burned_in_unknown} images may show text in their pixels; pixels were not checked")
    return result


def _engine(config: DeidConfig, source: Path, out: Path) -> tuple[Engine, str]:
    """Return what the workers need, and the fingerprint of everything that decides the output's bytes."""
    key = read_key(config.key, config.site)
    if config.key is not None and config.key.resolve().is_relative_to(out.resolve()):
        raise PrivacyRefusal(expected("the key apart from what it protects", got="a key inside the output folder", where="key"))
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
    )
    told = [FORMAT, profile.fingerprint(), key.fingerprint(), str(config.rename), str(config.max_age), config.missing_lookup]
    told += [table.digest if table else "", config.profile, *config.options]
    return engine, hashlib.sha256("\n".join(told).encode()).hexdigest()


def _workers(config: DeidConfig, count: int) -> int:
    automatic = max(1, min(os.cpu_count() or 1, count // FILES_A_WORKER))
    return min(config.workers or automatic, max(count, 1))


def _make_private(private: Path) -> None:
    try:
        private.mkdir(parents=True, exist_ok=True, mode=0o700)
        private.chmod(0o700)
    except OSError as error:
        raise files.storage_error(error, private / "journal.jsonl") from error


def _open_journal(config: DeidConfig, out: Path, fingerprint: str) -> Journal:
    """Return the journal to go on with, after the checks that nothing of anybody else is touched."""
    journal = Journal(out / "private" / "journal.jsonl", fingerprint)
    there = journal.fingerprint_there()
    if there is None:
        strange = [item for item in out.iterdir() if item.name != "private"]
        if strange:
            fix = "choose a new or empty output folder"
            raise UsageError(expected("an empty output folder", got=f"{len(strange)} other entries", where="out", fix=fix))
    elif config.overwrite:
        _remove_result(out)
    elif there != fingerprint or not config.resume:
        fix = "choose another output folder, or pass overwrite to remove the earlier result"
        raise UsageError(expected("a result of the same key and settings", got="an earlier result", where="out", fix=fix))
    if not journal.path.exists():
        journal.rewrite([])
    return journal


def _remove_result(out: Path) -> None:
    """Remove what an earlier run wrote, the journal last, so that a killed removal can be repeated."""
    shutil.rmtree(out / "images", ignore_errors=True)
    for name in ("deid.json", "audit.jsonl"):
        (out / name).unlink(missing_ok=True)
    for name in ("crosswalk_uids", "crosswalk_patients", "crosswalk_accessions", "quarantine", "lookup"):
        (out / "private" / f"{name}.csv").unlink(missing_ok=True)
    (out / "private" / "journal.jsonl").unlink(missing_ok=True)


def _clear_staging(engine: Engine) -> None:
    shutil.rmtree(engine.staging, ignore_errors=True)


def _work(
    engine: Engine, config: DeidConfig, found: list[Found], known: dict[str, Entry], journal: Journal, progress: Progress
) -> int:
    """Process and publish every file in the order of paths; return how many were finished before."""
    todo = [(item, known.get(item.path)) for item in found]
    owners = {_owner_key(entry): entry.path for entry in known.values() if entry.status == WRITTEN}
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


def _owner_key(entry: Entry) -> tuple[str, str]:
    return entry.patient[1], entry.instance


def _published(engine: Engine, entry: Entry, before: Entry | None, owners: dict[tuple[str, str], str]) -> Entry:
    """Move one checked output to its place and return the entry to journal.

    The first path in sorting order owns an instance; a later file with the same one is kept out as its duplicate.
    """
    staged = engine.staged(entry.path)
    if entry.status == WRITTEN and owners.setdefault(_owner_key(entry), entry.path) != entry.path:
        staged.unlink(missing_ok=True)
        entry = Entry(path=entry.path, digest=entry.digest, reason=Reason.DUPLICATE_INSTANCE)
    if before is not None and before.status == WRITTEN and before.output != entry.output:
        (engine.out / before.output).unlink(missing_ok=True)
        owners.pop(_owner_key(before), None)
    if entry.status == WRITTEN:
        target = engine.out / entry.output
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.replace(target)
        except OSError as error:
            raise files.storage_error(error, target) from error
    return entry


def _without_duplicates(entries: list[Entry]) -> list[Entry]:
    seen: set[tuple[str, str]] = set()
    result = []
    for entry in entries:
        again = entry.status == WRITTEN and _owner_key(entry) in seen
        seen.add(_owner_key(entry))
        result.append(Entry(path=entry.path, digest=entry.digest, reason=Reason.DUPLICATE_INSTANCE) if again else entry)
    return result


def _result(config: DeidConfig, out: Path, entries: list[Entry], resumed: int) -> DeidResult:
    table = audit.summary(config, entries)
    names = ("files_read", "quarantined", "patients", "studies", "series", "residual_findings", "burned_in_unknown", "actions")
    written = 0 if config.dry_run else table["files_written"]
    told = {name: table[name] for name in names}
    return DeidResult(out=out, files_written=written, files_resumed=resumed, dry_run=config.dry_run, **told)
