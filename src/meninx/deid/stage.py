"""The ``deid`` stage: clean the files of a folder in parallel, and publish them in the order of paths."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from meninx.core import cluster_pool, machine, value_caches, workspace
from meninx.core.artifacts import DeidRecord
from meninx.core.clean_archive import IMAGES
from meninx.core.errors import DataError, PrivacyRefusal, expected, problem
from meninx.core.pool import Stop, interrupted, mapped, refuse_import_in_worker
from meninx.core.progress import SILENT, Progress, task
from meninx.core.summaries import number_of, unsearched
from meninx.deid import continuation, output, program
from meninx.deid.cleaner import Cleaner
from meninx.deid.config import DeidConfig
from meninx.deid.deid_result import DeidResult
from meninx.deid.escrow import sealing
from meninx.deid.escrow.escrow_file import BY_KEY, NAME, Recipient
from meninx.deid.faces import face_pass
from meninx.deid.fingerprint import Fingerprint
from meninx.deid.identity import lookup
from meninx.deid.identity.identity_registry import IdentityRegistry, usual_place
from meninx.deid.identity.keys import SiteKey, make_key, read_key, refuse_existing_key, throwaway_key
from meninx.deid.output import WRITTEN, FileJournal, FileResult
from meninx.deid.papers import archive_signature, statement, summary
from meninx.deid.publication import InstanceOwners, publish_entry
from meninx.deid.review import layout_sheet, layouts, thumbnail_sheet
from meninx.deid.worker import Engine, process
from meninx.dicomfile.discover import SourceFile, check_source, files_below
from meninx.dicomfile.refusals import Reason

STAGE = "deid"
FILES_PER_WORKER = 40  # below that a second process costs more than it saves
Pair = tuple[SourceFile, FileResult | None]  # a file and its result in an earlier run


@dataclass(frozen=True)
class _Job:
    """What one run works with, once everything was checked."""

    engine: Engine
    registry: IdentityRegistry
    config: DeidConfig
    found: list[SourceFile]
    progress: Progress

    def with_plans(self, folder: Path) -> _Job:
        """Return the job with the plans by which faces are removed, made from all files of each series."""
        if self.config.defacing == "off":
            return self
        workers = partial(_workers, self.config)
        plans = face_pass.make_plans(self.engine.source, folder, self.found, workers, self.progress)
        engine = replace(self.engine, cleaner=replace(self.engine.cleaner, faces=plans))
        return replace(self, engine=engine)


def run(
    config: DeidConfig,
    source: Path,
    out: Path,
    *,
    progress: Progress = SILENT,
    throwaway: SiteKey | None = None,
) -> DeidResult:
    """De-identify every DICOM file below ``source`` into ``out`` and return what was done.

    The output tree is a function of input, key, settings and registry: the number of workers, the order of
    files and interruptions leave no trace in it.

    Guarantee: nothing below ``out/images`` was copied; every file there was built element by element under
        the profile and passed the self-check of :mod:`meninx.deid.selfcheck`. Originals' identifiers are
        written to ``out/private`` (mode 0700) only. Text in pixels is searched for and redacted where the
        settings ask for it; some of it may be missed. A patient has the pseudonym that the policy on issuers
        gives, whatever else is delivered; patients of two issuers share one only if the policy declares them
        one domain.

    Args:
        config: settings.
        source: folder (or one file).
        out: output folder, apart from the source; continued when it holds a run of the same settings and
            source (:mod:`meninx.deid.continuation`).
        progress: shows how far the run is.
        throwaway: key that a dry run takes in place of ``config.key``; other runs never use it.

    Raises:
        PrivacyRefusal: no usable key, a setting that would keep the identity, a registry that is not the
            site's own, a policy on issuers that would change earlier pseudonyms, or a sealed output folder
            that would be written in plain.
        UsageError: the output folder lies in the source, holds something else, or the result of another
            configuration or source; or a script calls this unguarded, so that every worker process would
            call it again.
        DataError: the source cannot be read, or a lookup table is wrong.
        StorageError: the disk refused a write; finished files stay.
        RunLocked: another process writes to ``out``.
        Interrupted: stopped by the user; the journal is saved.
    """
    refuse_import_in_worker()
    check_places(config, source, out)
    continuation.refuse_earlier_format(config, out)
    recipient = Recipient.of(config.escrow) if config.escrow else None
    continuation.refuse_unsealing(config, out, recipient)
    engine, registry, fingerprint = _engine(config, source, out, throwaway)
    _check_claim(config, source, out, fingerprint)
    found = files_below(source)
    if not found:
        raise DataError(problem("the folder holds no files", where="source", fix="check the path"))
    _note_left_decisions(config, out, progress)
    made_again = continuation.files_of_another_program(config, out, fingerprint)
    job = _Job(engine, registry, config, found, progress)
    if config.dry_run:
        if not config.overwrite:
            continuation.check_dry_run(engine, out, found, fingerprint)
        _note_another_program(job, made_again)
        with tempfile.TemporaryDirectory() as folder:  # a dry run leaves nothing in the output folder
            return _dry_run(job.with_plans(Path(folder)), out)
    continuation.give_back(out, fingerprint)
    claimed = workspace.claim(
        out, stage=STAGE, fingerprint=str(fingerprint), sources=[source], resume=config.resume,
        overwrite=config.overwrite, ours=output.is_older, renews=fingerprint.renews,
    )  # fmt: skip
    is_new = registry.path is not None and not registry.path.exists()
    with claimed as space:
        continuation.refuse_other_identities(engine, space, overwrite=config.overwrite)
        continuation.refuse_other_source(engine, config, space, found, fingerprint)
        _note_another_program(job, made_again)
        resealing = continuation.is_sealed(out) and not config.overwrite
        if space.earlier == str(fingerprint) and not config.overwrite and not resealing:
            output.take_back(space)
        journal = FileJournal(space.staging)
        resumed = _finish(job, journal)
        _refuse_no_dicom(space, journal)
        if resealing:
            continuation.refuse_lost_files(space, journal, rename=config.rename)
        record = _write_papers(engine, config, space, journal, recipient, progress)
        space.publish((IMAGES, *output.PUBLIC_FILES))
        if config.escrow_only:
            sealing.remove_plain_files(out)
    result = _result(config, out, record, resumed)
    _note_registry(registry, progress, is_new=is_new, contradicting=result.contradicting)
    if result.burned_in_unknown:
        progress.note(unsearched(result.burned_in_unknown))
    return result


def _note_left_decisions(config: DeidConfig, out: Path, progress: Progress) -> None:
    """Say that decisions of reviewers lie in the output folder that this run does not apply."""
    if not config.decisions and (out / workspace.PRIVATE / layouts.DECISIONS).exists():
        what = f"private/{layouts.DECISIONS} holds decisions of reviewers that this run does not apply"
        progress.note(f"{what}; --decisions does")


def _note_another_program(job: _Job, made_again: int) -> None:
    """Say how many finished files are made again because another program made them."""
    if made_again > 0:
        one, more = ("would be", "would be") if job.config.dry_run else ("is", "are")
        which = number_of(made_again, f"finished file {one}", f"finished files {more}")
        why = "the program or a library that decides their bytes has changed since"
        job.progress.note(f"{which} made again, because {why}")


def _finish(job: _Job, journal: FileJournal) -> int:
    """Process every file that no earlier run finished; return how many were finished before.

    What an earlier run left of a killed one is settled first, and entries of files that were kept out and are
    gone from the source are forgotten.
    """
    journal.settle()
    there = {item.path for item in job.found}
    journal.forget({entry.path for entry in journal.entries() if entry.path not in there})
    shutil.rmtree(job.engine.waiting, ignore_errors=True)
    plans = job.engine.out / face_pass.FOLDER
    resumed = _work(job.with_plans(plans), journal)
    journal.settle()
    for folder in (job.engine.waiting, plans):
        shutil.rmtree(folder, ignore_errors=True)
    return resumed


def _write_papers(
    engine: Engine,
    config: DeidConfig,
    space: workspace.Workspace,
    journal: FileJournal,
    recipient: Recipient | None,
    progress: Progress,
) -> DeidRecord:
    """Write everything but the images: public papers to staging, tables and pages to the private folder."""
    key = read_key(config.key, config.site)
    signing_key = archive_signature.signing_key(key)
    record = summary.write_summary(
        config, space, journal, engine.cleaner.profile, engine.cleaner.resolver.pseudonyms,
        decisions=engine.cleaner.pixels.decisions, signer=archive_signature.fingerprint_of(signing_key),
    )  # fmt: skip
    statement.write(space.staging, record)
    archive_signature.write(space.staging, signing_key)
    thumbnail_sheet.write(space, progress)
    layout_sheet.write(space, engine.source, progress)
    journal.write_known(space.private)
    if recipient is not None:
        sealing.write(space.private / NAME, journal, record, key, recipient)
    return record


def _note_registry(
    registry: IdentityRegistry, progress: Progress, *, is_new: bool, contradicting: int
) -> None:
    """Say that a registry was made, and what is doubtful in all deliveries about who a patient is.

    ``contradicting`` is the number of contradicting patients of this delivery.
    """
    if is_new and registry.path is not None and registry.path.exists():
        progress.note(f"the site's identity registry was made: {registry.path}; keep it with the key")
    report = registry.report()
    if report.contradicting > contradicting:
        progress.note(
            "in all deliveries of the site, "
            + number_of(report.contradicting, "patient has", "patients have")
            + " contradicting name, birth date or sex; two people may share a PatientID"
        )
    split = report.split_ids
    if split:
        progress.note(
            number_of(split, "PatientID occurs", "PatientIDs occur")
            + " with and without an issuer and "
            + f"{'counts' if split == 1 else 'count'} as different patients; where they are not, list the "
            "issuer under `site` in --issuer-domains"
        )


def check_places(config: DeidConfig, source: Path, out: Path) -> None:
    """Check overrides, and that source, output folder and key lie where they may, before anything is made.

    Raises:
        ConfigError: the overrides cannot be used, or a setting has no effect with them.
        DataError: there is no source.
        UsageError: source and output folder lie one within the other, or the output folder holds something
            else.
        PrivacyRefusal: the key lies in the output folder, or an override would keep the identity.
    """
    workspace.apart(out, [source])
    check_source(source)
    config.compiled()  # wrong overrides are refused before a key is made
    for name, path in (("key", config.key), ("registry", config.registry)):
        if path is not None and path.resolve().is_relative_to(out.resolve()):
            rule, got = f"the {name} apart from what it protects", f"a {name} inside the output folder"
            raise PrivacyRefusal(expected(rule, got=got, where=name))
    _check_claim(config.replace(overwrite=True), source, out, None)


def make_key_once(config: DeidConfig, source: Path, out: Path) -> SiteKey | None:
    """Make the site's key, unless the output folder holds a run with it, which goes on.

    A dry run makes none. Where there is no key yet, the random key that the dry run takes is returned.

    Raises:
        PrivacyRefusal: the file exists and the output folder holds no run with it.
        StorageError: the file cannot be written.
        UsageError, ConfigError, DataError: as :func:`run`, before the key is made.
    """
    if config.key is None:
        return None
    check_places(config, source, out)
    if config.dry_run and not config.key.exists():
        return throwaway_key(config.site)
    if not _is_begun(config, source, out):
        refuse_existing_key(config.key)
        if not config.dry_run:
            make_key(config.key)
    return None


def _is_begun(config: DeidConfig, source: Path, out: Path) -> bool:
    """Return whether the output folder holds a run with these settings and the key that is there."""
    marker = workspace.read_marker(out)
    if marker is None or config.key is None or not config.key.exists():
        return False
    fingerprint = _engine(config, source, out, None)[2]
    return any(map(fingerprint.has_settings_of, (marker.building, marker.published)))


def _check_claim(config: DeidConfig, source: Path, out: Path, fingerprint: Fingerprint | None) -> None:
    """Refuse an output folder that :func:`meninx.core.workspace.claim` would refuse."""
    workspace.check(
        out, stage=STAGE, fingerprint=str(fingerprint or ""), sources=[source], resume=config.resume,
        overwrite=config.overwrite, ours=output.is_older, renews=fingerprint.renews if fingerprint else None,
    )  # fmt: skip


def _engine(
    config: DeidConfig, source: Path, out: Path, throwaway: SiteKey | None
) -> tuple[Engine, IdentityRegistry, Fingerprint]:
    """Return what the workers need, the site's registry, and the fingerprint of what decides the bytes."""
    made_up = throwaway if config.dry_run else None
    key, policy = made_up or read_key(config.key, config.site), config.issuer_policy()
    profile = config.compiled()
    table = lookup.read_lookup(config.lookup, policy) if config.lookup else None
    place = config.registry or (usual_place(config.key, config.site) if config.key else None)
    registry = IdentityRegistry(None if made_up else place, key, policy, frozen=config.dry_run)
    engine = Engine(
        source=source.resolve().parent if source.is_file() else source.resolve(),
        out=out.resolve() / workspace.PRIVATE / workspace.STAGING,
        cleaner=Cleaner.from_config(config, key, policy, table, profile),
        rename=config.rename,
        dry_run=config.dry_run,
    )
    return engine, registry, Fingerprint.of(config, key, profile, table)


def _refuse_no_dicom(space: workspace.Workspace, journal: FileJournal) -> None:
    """Refuse a source in which no file is DICOM; nothing of the run is left then."""
    if all(entry.status != WRITTEN and entry.reason == Reason.NOT_DICOM for entry in journal.entries()):
        shutil.rmtree(space.staging, ignore_errors=True)
        fix = "give the folder of the archive; tar, 7z and rar archives must be unpacked first"
        raise DataError(problem("no file of the source is DICOM", where="source", fix=fix))


def _workers(config: DeidConfig, count: int) -> int:
    automatic = max(1, min(machine.processors(), count // FILES_PER_WORKER))
    return min(config.workers or automatic, max(count, 1))


def _dry_run(job: _Job, out: Path) -> DeidResult:
    tally, owners = summary.RunCounts(), InstanceOwners()
    pairs = ((item, None) for item in job.found)
    with Stop(job.progress.note) as stop, closing(_processed(job, pairs, stop)) as results:
        for entry in results:
            tally.add(owners.judged(admitted(job.registry, entry[0])))
    cleaner = job.engine.cleaner
    record = summary.deid_record(job.config, tally, cleaner.profile, cleaner.pixels.decisions)
    return _result(job.config, out, record, 0)


def _processed(
    job: _Job, pairs: Iterable[Pair], stop: Stop
) -> Generator[tuple[FileResult, bool], None, None]:
    """Yield the result of each file, in order, and whether an earlier run had finished it."""
    with task(job.progress, "de-identify", len(job.found)), _results(job, pairs, stop) as results:
        for result in results:
            yield result
            job.progress.advance()


@contextmanager
def _results(job: _Job, pairs: Iterable[Pair], stop: Stop) -> Iterator[Iterator[tuple[FileResult, bool]]]:
    """Open the results of all files in order, from processes of this machine or from a cluster."""
    engine, config = job.engine, job.config
    if not config.scheduler:
        with closing(
            mapped(
                _one,
                pairs,
                workers=_workers(config, len(job.found)),
                stop=stop,
                setup=_begun,
                setup_args=(engine,),
                died=_died,
            )
        ) as results:
            yield results
        return
    with config.cluster().connected() as client:
        cluster_pool.check_same(client, program.versions)
        if engine.out.is_dir():  # a dry run has no place to write, and needs none
            cluster_pool.check_shared(client, engine.out, _sample(engine))
        remote = cluster_pool.mapped_on(
            client, _one, pairs, stop=stop, setup=_begun, setup_args=(engine,), died=_died
        )
        with closing(remote) as results:
            yield results


def _sample(engine: Engine) -> list[Path]:
    """Return the first readable file of the source, which every machine must see alike."""
    items = (item for item in files_below(engine.source) if not item.refused)
    found = (engine.source / (item.archive or item.path) for item in items)
    return list(islice((path for path in found if os.access(path, os.R_OK)), 1))


@contextmanager
def _begun(engine: Engine) -> Iterator[Engine]:
    """Give the engine to the files of a run in one process, which keeps nothing of it afterwards."""
    gc.freeze()  # what was imported stays; looking through it again and again takes 2 % of the time
    with value_caches.cleared():
        yield engine


def _one(engine: Engine, pair: Pair) -> tuple[FileResult, bool]:
    """Return the result of one file, and whether an earlier run had finished it."""
    entry = process(engine, *pair)
    return entry, entry is pair[1]


def _died(pair: Pair) -> tuple[FileResult, bool]:
    """Return the result of a file that kills its worker process even when it is alone in it."""
    return FileResult(path=pair[0].path, reason=Reason.WORKER_DIED), False


def admitted(registry: IdentityRegistry, entry: FileResult) -> FileResult:
    """Return the entry of a file, or a quarantined one where the registry keeps its patient out."""
    if entry.status != WRITTEN:
        return entry
    old, new = entry.patient
    if entry.cleaned_before and registry.gave(old):
        return FileResult(path=entry.path, digest=entry.digest, reason=Reason.ALREADY_DEIDENTIFIED)
    reason = registry.admit(old, entry.issuer, entry.domain, new, entry.traits)
    if reason is None:
        return entry
    return FileResult(path=entry.path, digest=entry.digest, reason=reason, issuer=entry.issuer)


def _work(job: _Job, journal: FileJournal) -> int:
    """Process and publish every file in the order of paths; return how many were finished before."""
    owners = InstanceOwners()
    for entry in journal.entries():
        owners.add(entry)
    pairs = zip(job.found, journal.known_of(item.path for item in job.found), strict=True)
    before = journal.known_of(item.path for item in job.found)
    resumed = 0
    with (
        journal.adding() as adder,
        Stop(job.progress.note) as stop,
        closing(_processed(job, pairs, stop)) as results,
    ):
        try:
            for (entry, same), known in zip(results, before, strict=False):
                judged = admitted(job.registry, entry)  # finished files, too: a lost registry is made again
                if same and judged is entry:
                    resumed += 1
                else:
                    adder.add(publish_entry(job.engine, judged, known, owners))
        except KeyboardInterrupt:
            raise interrupted() from None
    return resumed


def _result(config: DeidConfig, out: Path, record: DeidRecord, resumed: int) -> DeidResult:
    names = (
        "files_read",
        "quarantined",
        "patients",
        "studies",
        "series",
        "residual_findings",
        "burned_in_unknown",
        "images",
        "pixels_searched",
        "pixels_redacted",
        "pixels_mostly_filled",
        "layouts",
        "review",
        "series_defaced",
        "series_not_head",
        "series_face_refused",
        "contradicting",
        "deidentified_before",
        "signer",
    )
    counts = {name: getattr(record, name) for name in (*names, "actions", "flagged", "directories")}
    written = 0 if config.dry_run else record.files_written
    return DeidResult(
        out=out, files_written=written, files_resumed=resumed, dry_run=config.dry_run,
        sealed=config.escrow_only, private_files=_private_files(config), **counts,
    )  # fmt: skip


def _private_files(config: DeidConfig) -> tuple[str, ...]:
    """Return in words what the settings ask for in the private folder."""
    done = "would be " if config.dry_run else ""
    holder = "the holder of the site key" if config.escrow == BY_KEY else "the broker"
    lookup_table, escrow, rest = (
        f"private/lookup.csv {done}written",
        f"private/escrow.meninx {done}written for {holder}",
        f"everything else that holds originals {done}removed from private/",
    )
    asked = {lookup_table: config.lookup_out, escrow: bool(config.escrow), rest: config.escrow_only}
    return tuple(words for words, wanted in asked.items() if wanted)
