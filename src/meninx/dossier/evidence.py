"""Evidence of a dossier: copies of what may leave, extracts of what may leave in part, never a private file.

Of ``private/`` only the privacy ledger of a run that has no release is copied. Its lines hold rates, counters
and keyed digests, the same as a released ledger.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from meninx.core import artifacts, files, integrity, names
from meninx.core.artifacts import EvaluationRecord, PrivacyRecord, SweepRecord
from meninx.core.dossier_records import ArchiveExtract, Candidate, DatasetExtract, SelectionRecord
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.dossier import audit_facts, privacy_facts
from meninx.dossier.config import DossierConfig
from meninx.dossier.facts import DATA, RELEASE, RUN, RUNS
from meninx.report import joint_privacy
from meninx.report.context import ReportContext, departures_of
from meninx.report.sources import Dataset, Deid, TrainedRun

_RUN, _HEX = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{32,64}")


def chosen_run(config: DossierConfig, context: ReportContext) -> TrainedRun:
    """Return the run whose model is to be released.

    Raises:
        UsageError: no run is finished, or several are and none is named, or the name fits none or several.
        DataError: it was made by a version without the records that a dossier needs.
    """
    if not context.runs:
        fix = "give the folder of a finished run"
        raise UsageError(problem("no finished run was given", where="dossier", fix=fix))
    found = [run for run in context.runs if _named(run, config.release)]
    if len(found) != 1:
        if config.release:
            got = "none" if not found else f"{len(found)}"
            what = expected(
                "one finished run of this name", got=got, where="release", fix="give its identity"
            )
        else:
            fix = "name one with --release; the cost of the others counts"
            what = problem(f"{len(found)} finished runs were given", where="release", fix=fix)
        raise UsageError(what)
    run = found[0]
    if run.older or not run.record.release:
        fix = "train again"
        raise DataError(
            problem("an earlier version made the run, without its digests", where="release", fix=fix)
        )
    return run


def _named(run: TrainedRun, name: str) -> bool:
    return (
        not name
        or run.root.name == name
        or run.name == name
        or (len(name) >= 8 and run.record.id.startswith(name))
    )


def write(
    folder: Path, config: DossierConfig, context: ReportContext, run: TrainedRun, sources: Sequence[Path]
) -> None:
    """Write the evidence of one run into an empty folder.

    Args:
        folder: the dossier that is being built.
        config: what a person states about the choice.
        context: what was given, checked by the report's own reader.
        run: the run whose model is to be released.
        sources: the folders that were given.
    """
    _write_selection(folder, config, context, run, sources)
    _copy_release(folder / RELEASE, run)
    record = replace(run.record, name="", secrets={}, checkpoints={}, log="", release_next="")
    artifacts.write(folder / RUN, record)
    if run.environment is not None:
        artifacts.write(folder / RUN, replace(run.environment, command=()))
    _copy(run.root / artifacts.place(PrivacyRecord), folder / RUN / artifacts.place(PrivacyRecord))
    for path in audit_facts.places():
        _copy(run.root / Path(path).relative_to(RUN), folder / path)
    for item in (*context.runs, *context.unfinished):
        _write_candidate(folder, item)
    hidden = context.counts_hidden
    dataset = context.own_dataset(run)
    if dataset is not None:
        release = context.release_of(run)
        found = release.finding() if release is not None else ""
        _write_json(folder / DATA / "dataset.json", _of_dataset(dataset, hidden, found))
    linked = dataset.archives if dataset is not None else ()
    archives = sorted(context.deid, key=lambda item: item.record.checksums not in linked)
    for number, archive in enumerate(archives, start=1):
        extract = _of_archive(archive, hidden, linked=archive.record.checksums in linked)
        _write_json(folder / DATA / f"archive-{number}.json", extract)


def _write_selection(
    folder: Path, config: DossierConfig, context: ReportContext, run: TrainedRun, sources: Sequence[Path]
) -> None:
    every = sorted((*context.runs, *context.unfinished), key=joint_privacy.order)
    identities = [item.record.id for item in every]
    if not all(identities):
        fix = "leave them out; what they spent is then not counted, so say so to the checker"
        what = "an earlier version made a run, without its identity"
        raise DataError(problem(what, where="dossier", fix=fix))
    distinct = len({privacy_facts.folder_of(name) for name in identities}) == len(every)
    if not distinct or not all(map(_RUN.fullmatch, identities)):
        what = "a run has no identity of its own"
        raise DataError(problem(what, where="run.json", fix="restore the folder as it was written"))
    sweeps = [path / artifacts.place(SweepRecord) for path in sources]
    sweeps = [path for path in sweeps if path.is_file()]
    for number, path in enumerate(sweeps, start=1):
        _copy(path, folder / RUNS / f"sweep-{number}.json")
    remarks = (
        [f"{len(context.unfinished)} runs are not finished; what they spent counts"]
        if context.unfinished
        else []
    )
    record = SelectionRecord(
        chosen=run.record.id,
        candidates=tuple(
            Candidate(
                run=item.record.id,
                folder=privacy_facts.folder_of(item.record.id),
                private=item.private,
                finished=item.finished,
                void=item.void,
                beside=item.is_beside(run),
            )
            for item in every
        ),
        groups=tuple(tuple(item.record.id for item in joint.runs) for joint in context.joints),
        assumed=tuple(joint.assumed for joint in context.joints),
        by=names.printable(config.chosen_by),
        split=names.printable(config.chosen_on),
        sweep=bool(sweeps),
        missing_runs=tuple(remarks),
    )
    artifacts.write(folder, record)


def _write_candidate(folder: Path, run: TrainedRun) -> None:
    """Write the ledgers of a run, its own and those of earlier runs that count, and its test evaluation."""
    home = folder / privacy_facts.folder_of(run.record.id)
    for key, text in run.account.texts.items() if run.account is not None else ():
        content = text.encode("utf-8", "surrogateescape")
        name = key if _HEX.fullmatch(key) else hashlib.sha256(content).hexdigest()
        own = key == run.record.id
        name = privacy_facts.LEDGER if own else f"{privacy_facts.EARLIER}/{name}.jsonl"
        files.write_bytes(home / name, content)
    if run.finished and run.evidence.test is not None:
        _copy(run.root / artifacts.place(EvaluationRecord), home / "evaluation.json")


def _copy_release(target: Path, run: TrainedRun) -> None:
    """Copy what the list of the release names, and the list."""
    release = run.root / "release"
    for name in (*sorted(integrity.read(release)), integrity.CHECKSUMS):
        _copy(files.below(release, name, where=integrity.CHECKSUMS), target / name)


def _copy(path: Path, target: Path) -> None:
    """Copy a file, if it is there."""
    if not path.is_file() or path.is_symlink():
        return
    with files.regular(path) as source, files.atomic(target) as stream:
        shutil.copyfileobj(source, stream)


def _of_dataset(dataset: Dataset, hidden: bool, found: str) -> DatasetExtract:
    info, counts = dataset.info, dataset.counts
    record = DatasetExtract(
        task=info.task,
        labels=tuple(info.labels),
        patients_known=info.patients_known,
        hidden=hidden,
        attribute_found=found,
    )
    if hidden:
        return record
    return replace(
        record,
        cases=sum(cases for cases, _ in counts.values()),
        patients=sum(patients for _, patients in counts.values()),
        splits=dict(counts),
        sites=len(dataset.sites) or None,
    )


def _of_archive(archive: Deid, hidden: bool, *, linked: bool) -> ArchiveExtract:
    source = archive.record
    departures = [f"{item.name}: {item.chosen} instead of {item.usual}" for item in departures_of(source)]
    record = ArchiveExtract(
        linked=linked,
        hidden=hidden,
        profile=source.profile,
        options=source.options,
        departures=tuple(map(names.printable, departures)),
        max_age=source.max_age,
        made_with=source.version,
    )
    if hidden:
        return record
    actions: dict[str, int] = {}
    for letters in source.actions.values():
        for letter, count in letters.items():
            actions[letter] = actions.get(letter, 0) + count
    return replace(
        record,
        files_written=source.files_written,
        patients=source.patients,
        quarantined=sum(source.quarantined.values()),
        residual_findings=source.residual_findings,
        burned_in_unknown=source.burned_in_unknown,
        actions=actions,
    )


def _write_json(path: Path, record: object) -> None:
    from meninx.core import plain

    files.write_text(path, plain.to_json(record))
