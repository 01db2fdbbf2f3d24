"""`meninx prepare`: makes a dataset folder from a published layout or de-identified DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from meninx.core import machine, pool
from meninx.core import progress as bars
from meninx.core.errors import DataError, expected
from meninx.core.manifest import EMPTY_SPLITS, SPLITS, Case, Manifest, TaskKind
from meninx.core.result import Result
from meninx.prepare import assignment, checks, outputs
from meninx.prepare.cases import (
    COLOR_FIX,
    CaseJob,
    CasePlan,
    CaseRecord,
    SharedSettings,
    is_in_color,
    run_job,
    sharing,
)
from meninx.prepare.checks import Findings, Unusable
from meninx.prepare.collect import CollectedCases, collect_cases, sources_of
from meninx.prepare.config import PrepareConfig
from meninx.prepare.outputs import DatasetFolder
from meninx.prepare.readers.recognition import recognised
from meninx.prepare.setting_tables import AUTO
from meninx.prepare.source_cases import DatasetCase


@dataclass(frozen=True, kw_only=True)
class PrepareResult(Result):
    """The result of `meninx prepare`, as counts.

    Attributes:
        reader: the layout that was read.
        cases: number of cases.
        patients: number of patients; where the source names none, each image (or lesion) counts as one.
        patients_known: the source names its patients.
        splits: cases of each split.
        sites: cases of each site.
        labels: cases in which each label is 1, or whose mask holds it; empty for masks in a dry run.
        channels: 1 for grey images, 3 for images in colour, otherwise the number that the source names.
        skipped: reason to number of rows or files left out.
        empty_splits: splits without cases, of valid and test.
        notes: other observations, to the place where they occurred.
        reused: cases whose files were up to date already.
        dry_run: nothing was written.
    """

    reader: str = ""
    cases: int
    patients: int
    patients_known: bool = True
    splits: dict[str, int] = field(default_factory=dict)
    sites: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    channels: int = 1
    skipped: dict[str, int] = field(default_factory=dict)
    empty_splits: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
    reused: int = 0
    dry_run: bool = False

    def summary(self) -> str:
        """Return the result in a few lines, without a number of patients if the source names none."""
        lines = super().summary().splitlines()
        patients = (
            f"patients: {self.patients}"
            if self.patients_known
            else "patients: not named by the source; images count"
        )
        left_out = ("patients known:", "empty splits:")  # a note names the splits
        others = [line for line in lines if not line.startswith(left_out)]
        text = "\n".join(patients if line.startswith("patients:") else line for line in others)
        for reason, place in self.notes.items():  # sentences, which do not fit into a column of names
            text = text.replace(f"  {reason:<22} {place}", f"  {reason}: {place}")
        return text

    def alerts(self) -> tuple[str, ...]:
        """Return warnings about splits without cases."""
        return tuple(EMPTY_SPLITS[name] for name in self.empty_splits)


def run(
    config: PrepareConfig, source: Path | Sequence[Path], out: Path, *, progress: bars.Progress = bars.SILENT
) -> PrepareResult:
    """Prepare a dataset and return its counts.

    Writes ``images/``, ``masks/``, ``manifest.csv``, ``dataset.toml``, ``checksums.sha256`` and
    ``prepare.json`` (counts and digests, no identifier), and below ``private/`` (mode 0700) the journal and
    ``cases.csv`` with the source's own identifiers. A stopped run continues when it is started again;
    images whose source and settings are unchanged are taken over. Guarantee: an earlier dataset in ``out``
    stays whole until the new one is complete.

    Args:
        config: the settings.
        source: a folder, or several, each of which becomes a site.
        out: the dataset folder; must be new or empty unless ``resume`` or ``overwrite``.
        progress: advanced by every case.

    Raises:
        LayoutError: the source has another layout; names file, column and row.
        DataError: no usable case, one image of two patients, a mask of another shape, or anything found when
            ``strict``.
        PrivacyRefusal: DICOM files that are not marked as de-identified.
        UsageError: ``out`` holds something already, or lies in a source, or a source in it.
        RunLocked: another process writes to ``out``.
        Interrupted: stopped by the user; the same command goes on.
    """
    pool.refuse_import_in_worker()
    outputs.check_before_reading(out, config, [source] if isinstance(source, Path) else source)
    config = recognised(config, source)
    sources = sources_of(config, source)
    outputs.check(out, config, sources)
    findings = checks.Findings(strict=config.work.strict)
    gathered = collect_cases(config, source, findings)
    mask_labels = gathered.labels if gathered.task is TaskKind.SEGMENTATION else ()
    _refuse_missing(config, gathered, bool(mask_labels), findings)
    # Contradictions in the tables are found here, before hours of work on the images.
    plan = _plan(config, gathered, mask_labels)
    planned = _manifest(config, gathered, plan, gathered.entries, {}, out)
    sizes = {str(split): sum(case.split == split for case in planned.cases) for split in SPLITS}
    checks.refuse_no_training(sizes, config.split.fractions[0], config.split.rule == "published")
    if config.images.color == AUTO and gathered.spatial_dims == 2 and _in_color(gathered.entries, plan):
        plan = _plan(config, gathered, mask_labels, in_color=True)
    if config.work.dry_run:
        return _dry(config, gathered, plan, out, findings)
    with outputs.claimed(out, config, sources) as folder:
        jobs = folder.jobs(gathered.entries)
        records, reused = prepare_all(
            jobs, folder.shared(plan), folder, findings, config.work.workers, progress
        )
        entries = _usable(gathered, records, findings, config)
        manifest = _manifest(config, gathered, plan, entries, records, out)
        _note_results(manifest, records, findings)
        folder.finish(manifest, entries, records, gathered, findings)
    return _result(config, manifest, records, findings, reused)


def _plan(
    config: PrepareConfig, gathered: CollectedCases, labels: tuple[str, ...], *, in_color: bool = False
) -> CasePlan:
    return CasePlan.of(
        config.images,
        config.masks,
        gathered.spatial_dims,
        labels,
        channels=gathered.channels,
        channel_positions=gathered.channel_positions,
        source_channels=gathered.source_channels,
        in_color=in_color,
    )


def _dry(
    config: PrepareConfig, gathered: CollectedCases, plan: CasePlan, out: Path, findings: checks.Findings
) -> PrepareResult:
    entries = []
    for entry in gathered.entries:
        reason = CaseJob(case_id=entry.case_id, source=entry.source).missing(plan)
        if reason:
            findings.add(reason, entry.source.where)
        else:
            entries.append(entry)
    checks.refuse_nothing(entries, findings)
    manifest = _manifest(config, gathered, plan, entries, {}, out)
    if gathered.task is not TaskKind.SEGMENTATION:
        _note_results(manifest, {}, findings)
    return _result(config, manifest, {}, findings, 0, dry=True)


def _refuse_missing(
    config: PrepareConfig, gathered: CollectedCases, masks: bool, findings: checks.Findings
) -> None:
    """Refuse a source with too many missing files, including those that the reader noticed."""
    missing = [*findings.places.get(checks.MISSING, ()), *findings.places.get(checks.MISSING_MASK, ())]
    total = len(gathered.entries) + len(missing)
    for entry in gathered.entries:
        found = entry.source
        if found.image.missing() or (masks and found.mask is not None and found.mask.missing()):
            missing.append(found.where)
    if not config.work.strict:  # strict stops at the first missing file
        checks.refuse_missing(missing, total, config.input.allow_missing)


FIRST_ONES = 20  # number of images that decide whether the source is in colour


def _in_color(entries: Sequence[DatasetCase], plan: CasePlan) -> bool:
    """Return whether the first pictures are in colour; the others must be alike (``CasePlan.one_kind``).

    Raises:
        DataError: some of them are in colour and others are grey.
    """
    seen = []
    for entry in entries[:FIRST_ONES]:
        with suppress(
            Exception
        ):  # a decoder may raise any exception on a damaged file, which is counted later
            seen.append(is_in_color(entry.source.image.load(plan.preprocessing.display_bits)))
    if len(set(seen)) > 1:
        got = f"{sum(seen)} of {len(seen)} in colour"
        what = "pictures in colour, or grey ones"
        raise DataError(expected(what, got=got, where="images", fix=COLOR_FIX))
    return any(seen)


def _usable(
    gathered: CollectedCases, records: dict[str, CaseRecord], findings: checks.Findings, config: PrepareConfig
) -> list[DatasetCase]:
    entries = [entry for entry in gathered.entries if entry.case_id in records]
    kept = checks.without_duplicates(
        {entry.case_id: records[entry.case_id].content for entry in entries},
        {entry.case_id: entry.patient_id for entry in entries},
        {entry.case_id: entry.source.where for entry in entries},
        findings,
        drop=config.duplicates == "drop",
        patients_known=gathered.patients_known,
    )
    usable = [entry for entry in entries if entry.case_id in kept]
    checks.refuse_nothing(usable, findings)
    return usable


def _manifest(
    config: PrepareConfig,
    gathered: CollectedCases,
    plan: CasePlan,
    entries: Sequence[DatasetCase],
    records: dict[str, CaseRecord],
    out: Path,
) -> Manifest:
    splits = assignment.splits_of(entries, config.split, gathered.task, config.seed)
    sites = assignment.sites_of(entries, config.sites, gathered.task, config.seed)
    cases = tuple(
        _case(entry, gathered, plan, splits[entry.patient_id], sites[entry.patient_id]) for entry in entries
    )
    return Manifest(out, outputs.info_of(config, gathered, plan, cases, records), cases)


def _case(entry: DatasetCase, gathered: CollectedCases, plan: CasePlan, split: str, site: str) -> Case:
    found = entry.source
    blank = 0.0 if gathered.task is TaskKind.MULTICLASS else None
    labels = (
        {}
        if gathered.task is TaskKind.SEGMENTATION
        else {name: found.labels.get(name, blank) for name in gathered.labels}
    )
    return Case(
        case_id=entry.case_id,
        patient_id=entry.patient_id,
        image=plan.image_name(entry.case_id),
        study=entry.study,
        site=site,
        split=split,
        mask=plan.mask_name(entry.case_id),
        labels=labels,
        attributes={name: found.attributes.get(name, "") for name in gathered.attributes},
    )


def _note_results(manifest: Manifest, records: dict[str, CaseRecord], findings: checks.Findings) -> None:
    greyed = sum(record.greyed for record in records.values())
    if greyed:
        findings.note("pictures in colour that were stored as grey", f"{greyed:,} of {len(records):,}")
    bits = manifest.info.preprocessing["bits"]
    checks.note_unused_bits([record.used_bits for record in records.values()], bits, findings)
    checks.check_classes(manifest.cases, outputs.present(manifest, records), manifest.info.labels, findings)


def _result(
    config: PrepareConfig,
    manifest: Manifest,
    records: dict[str, CaseRecord],
    findings: checks.Findings,
    reused: int,
    *,
    dry: bool = False,
) -> PrepareResult:
    counts = outputs.counts_of(manifest, records)
    return PrepareResult(
        out=manifest.root,
        reader=config.reader,
        cases=len(manifest),
        patients=len(manifest.patients),
        patients_known=manifest.info.patients_known,
        splits=counts["splits"],
        sites=counts["sites"],
        labels=counts["labels"],
        channels=manifest.info.channels,
        skipped=findings.counts(),
        empty_splits=manifest.empty_splits,
        notes=findings.noted(),
        reused=reused,
        dry_run=dry,
    )


JOBS_PER_WORKER = 16  # for fewer jobs, starting a process takes longer than the work


def prepare_all(
    jobs: Sequence[CaseJob],
    shared: SharedSettings,
    folder: DatasetFolder,
    findings: Findings,
    workers: int,
    progress: bars.Progress,
) -> tuple[dict[str, CaseRecord], int]:
    """Return the record of every usable case, and the number of cases that were up to date already.

    Args:
        jobs: the cases.
        shared: the settings and folders that they share.
        folder: its journal records every finished case, so that a killed run loses little.
        findings: receives the cases that cannot be used.
        workers: processes; 0 for one per core.
        progress: advanced by every case.

    Raises:
        DataError: a case that stops the work, or one that kills its worker process.
        Interrupted: the user stopped it; finished cases are in the journal.
    """
    records: dict[str, CaseRecord] = {}
    reused = 0
    count = min(workers or machine.processors(), max(1, len(jobs) // JOBS_PER_WORKER))
    try:
        with (
            bars.task(progress, "prepare images", len(jobs)),
            folder.journal.appending() as lines,
            pool.Stop(progress.note) as stop,
        ):
            results = pool.mapped(
                run_job,
                jobs,
                workers=count,
                stop=stop,
                setup=sharing,
                setup_args=(shared,),
                died=_refuse_deadly,
            )
            with closing(results):
                for job, done in zip(jobs, results, strict=False):
                    if isinstance(done, Unusable):
                        findings.add(done.reason, job.source.where, done.detail)
                    else:
                        records[job.case_id] = done.record
                        reused += done.reused
                        # After the files of the case exist: a line in the journal promises that they are
                        # complete.
                        lines.add(folder.line(done.record))
                    progress.advance()
    except KeyboardInterrupt:
        raise pool.interrupted() from None
    return records, reused


def _refuse_deadly(job: CaseJob) -> NoReturn:
    got = "one that kills it (out of memory, or a crash in a decoder)"
    fix = "take the image out, or give the machine more memory; the same command goes on where it stopped"
    raise DataError(
        expected("an image that a worker process can prepare", got=got, where=job.source.where, fix=fix)
    )
