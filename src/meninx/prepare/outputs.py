"""The output folder: the journal between runs, reuse of finished images, and the final files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from meninx.core import artifacts, files, integrity, names, plain, settings, workspace
from meninx.core.artifacts import DeidRecord, PrepareRecord
from meninx.core.errors import DataError
from meninx.core.intensity import Intensity, Observed
from meninx.core.journal import Journal
from meninx.core.manifest import (
    INFO_NAME,
    MANIFEST_NAME,
    SOURCES_NAME,
    Case,
    DatasetInfo,
    Manifest,
    TaskKind,
)
from meninx.prepare import assignment, checks
from meninx.prepare.cases import CaseJob, CasePlan, CaseRecord, SharedSettings
from meninx.prepare.collect import CollectedCases
from meninx.prepare.config import PIXEL_FIELDS, WORK_FIELDS, PrepareConfig
from meninx.prepare.source_cases import DatasetCase

STAGE = "prepare"
PATH_FIELDS = ("table", "crosswalks", "split_from", "image_folder", "mask_folder")
JOURNAL, CASES, OLDER_SETTINGS = "journal.jsonl", Path(SOURCES_NAME).name, "settings.json"
SUMMARY = artifacts.place(PrepareRecord)
PUBLISHED = ("images", "masks", MANIFEST_NAME, INFO_NAME, integrity.CHECKSUMS, SUMMARY)
"""Files of a dataset outside the private folder; the last one is written last and marks completeness."""


def check(out: Path, config: PrepareConfig, sources: Iterable[Path]) -> None:
    """Raise the errors of :func:`claimed` without creating anything."""
    if not _is_debris(out):
        workspace.check(out, **_claim(config, sources))
    workspace.apart(out, sources)


def check_before_reading(out: Path, config: PrepareConfig, roots: Iterable[Path]) -> None:
    """Raise the errors that do not depend on the source, before the slow search for its layout."""
    if config.work.resume:  # the settings can only be compared once the reader is known
        config = config.replace(resume=False, overwrite=True)
    check(out, config, roots)


@contextmanager
def claimed(out: Path, config: PrepareConfig, sources: Iterable[Path]) -> Iterator[DatasetFolder]:
    """Lock a dataset folder; a dataset in it stays whole until :meth:`DatasetFolder.finish`.

    Raises:
        UsageError: it holds something, and neither ``resume`` nor ``overwrite`` is given, other settings made
            it, or it lies in a source.
        RunLocked: another process holds it.
    """
    workspace.apart(out, sources)
    if _is_debris(out):
        with workspace.locked(out):
            (out / workspace.PRIVATE / OLDER_SETTINGS).unlink(missing_ok=True)
    with workspace.claim(out, **_claim(config, sources)) as space:
        yield DatasetFolder(space, config, sources)


class DatasetFolder:
    """A dataset folder that is being written by this process.

    Attributes:
        journal: one line for each case that is finished.
    """

    def __init__(self, space: workspace.Workspace, config: PrepareConfig, sources: Iterable[Path]) -> None:
        self._space, self._config, self._sources = space, config, tuple(sources)
        self.staging = space.staging
        self._room = space.staging / workspace.PRIVATE
        self.journal = Journal(self._room / JOURNAL)

    def shared(self, plan: CasePlan) -> SharedSettings:
        """Return the settings and folders that all jobs share."""
        digest = (
            digest_of(self._config, only=PIXEL_FIELDS)
            + f"/{plan.preprocessing.spatial_dims}/{plan.preprocessing.channels}/{','.join(plan.labels)}"
        )
        return SharedSettings(plan=plan, settings=digest, out=self.staging, earlier=self._space.root)

    def jobs(self, entries: Sequence[DatasetCase]) -> list[CaseJob]:
        """Return one job per case, each with its earlier record from the journals."""
        before = self._remembered()
        return [CaseJob(case_id=e.case_id, source=e.source, before=before.get(e.case_id)) for e in entries]

    @staticmethod
    def line(record: CaseRecord) -> dict[str, Any]:
        """Return the line of the journal for a case."""
        table: dict[str, Any] = plain.to_plain(record)
        return table

    def finish(
        self,
        manifest: Manifest,
        entries: Sequence[DatasetCase],
        records: Mapping[str, CaseRecord],
        gathered: CollectedCases,
        findings: checks.Findings,
    ) -> None:
        """Write the tables and replace the earlier dataset by the new one."""
        kept = {case.case_id: records[case.case_id] for case in manifest.cases}
        digests = {case.image: kept[case.case_id].image for case in manifest.cases}
        digests |= {case.mask: kept[case.case_id].mask for case in manifest.cases if case.mask}
        _remove_others(self.staging, set(digests))
        # Everything is written and measured in the staging folder, which becomes visible as a whole at the
        # end. A crash before that leaves the earlier dataset and a journal from which the same command goes
        # on.
        self.journal.rewrite(self.line(record) for record in kept.values())
        files.write_text(self._room / CASES, _identifiers(entries), mode=files.PRIVATE_MODE)
        manifest.write(self.staging)
        tables = integrity.measured(self.staging, [self.staging / MANIFEST_NAME, self.staging / INFO_NAME])
        checksums = integrity.write(self.staging, {**digests, **tables})
        artifacts.write(self.staging, self._summary(manifest, records, gathered, findings, checksums))
        there = [name for name in PUBLISHED if (self.staging / name).exists()]
        self._space.publish(there, remove=set(PUBLISHED) - set(there), secret=(JOURNAL, CASES))
        with suppress(OSError):  # left by an older version
            (self._space.private / OLDER_SETTINGS).unlink(missing_ok=True)

    def _remembered(self) -> dict[str, CaseRecord]:
        """Return the records of finished cases of an existing dataset and of an interrupted run."""
        found: dict[str, CaseRecord] = {}
        for journal in (Journal(self._space.private / JOURNAL), self.journal):
            for table in journal.tables():
                with suppress(DataError):  # a line of an older version: the case is prepared again
                    record = plain.from_plain(table, CaseRecord, where=JOURNAL)
                    found[record.case_id] = record
        return found

    def _summary(
        self,
        manifest: Manifest,
        records: Mapping[str, CaseRecord],
        gathered: CollectedCases,
        findings: checks.Findings,
        checksums: str,
    ) -> PrepareRecord:
        config = self._config
        shown = {
            key: value
            for key, value in settings.to_flat(config).items()
            if key not in (*WORK_FIELDS, *PATH_FIELDS)
        }
        return PrepareRecord(
            name=config.name,
            reader=config.reader,
            task=str(gathered.task),
            settings=shown,
            patients_known=gathered.patients_known,
            cases=len(manifest),
            patients=len(manifest.patients),
            **counts_of(manifest, records),
            skipped=findings.counts(),
            checks=findings.to_table(),
            checksums=checksums,
            archives=_archives(self._sources),
        )


def _archives(sources: Iterable[Path]) -> tuple[str, ...]:
    """Return the digests of the clean archives among the sources and in the folders of sites in them."""
    folders = [folder for root in sources for folder in (root, *(root.iterdir() if root.is_dir() else ()))]
    clean = [folder for folder in folders if (folder / artifacts.place(DeidRecord)).is_file()]
    return tuple(sorted({digest for root in clean if (digest := integrity.digest_of(root))}))


def _claim(config: PrepareConfig, sources: Iterable[Path]) -> dict[str, Any]:
    return {
        "stage": STAGE,
        "fingerprint": digest_of(config, leave_out=WORK_FIELDS),
        "sources": tuple(sources),
        "resume": config.work.resume,
        "overwrite": config.work.overwrite,
        "ours": _is_older,
    }


def _is_older(out: Path) -> bool:
    """Return whether a version without ``workspace.json`` wrote this dataset."""
    return (out / workspace.PRIVATE / OLDER_SETTINGS).is_file()


def _is_debris(out: Path) -> bool:
    """Return whether the folder contains only what an older version left before the first image."""
    room = out / workspace.PRIVATE
    if (
        not _is_older(out)
        or (room / workspace.MARKER).exists()
        or {path.name for path in out.iterdir()} != {room.name}
    ):
        return False
    known = (workspace.LOCK, OLDER_SETTINGS)
    return all(path.name in known or path.name.startswith(files.PARTIAL) for path in room.iterdir())


def _remove_others(staging: Path, wanted: set[str]) -> None:
    """Remove images that belong to no case: duplicates, cases of an earlier listing, parts of killed runs."""
    for folder in ("images", "masks"):
        for path in (staging / folder).glob("*"):
            # A leftover image would be outside the checksums and the manifest, but inside a folder that is
            # passed on.
            if path.relative_to(staging).as_posix() not in wanted:
                path.unlink()


def digest_of(config: PrepareConfig, *, only: Sequence[str] = (), leave_out: Sequence[str] = ()) -> str:
    """Return a digest of some fields of a config."""
    table = {
        k: v for k, v in settings.to_flat(config).items() if (not only or k in only) and k not in leave_out
    }
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def info_of(
    config: PrepareConfig,
    gathered: CollectedCases,
    plan: CasePlan,
    cases: Sequence[Case],
    records: Mapping[str, CaseRecord],
) -> DatasetInfo:
    """Return the contents of ``dataset.toml``.

    The intensity uses statistics of the training split only if the config asks for it, and private training
    then refuses the dataset.
    """
    known = [records[case.case_id] for case in cases if case.case_id in records]
    sizes, spacings = {record.size for record in known}, {record.spacing_mm for record in known}
    steps = plan.preprocessing
    intensity = steps.intensity
    trained_on = [
        records[case.case_id] for case in cases if case.split == "train" and case.case_id in records
    ]
    if config.images.intensity == "train" and known:
        intensity = _training_statistics(intensity, trained_on)
    return DatasetInfo(
        name=config.name,
        task=gathered.task,
        labels=gathered.labels,
        attributes=gathered.attributes,
        spatial_dims=steps.spatial_dims,
        channels=steps.channels,
        channel_names=gathered.channels if steps.each_channel else (),
        size=tuple(next(iter(sizes))) if len(sizes) == 1 else (),
        spacing_mm=tuple(next(iter(spacings))) if len(spacings) == 1 else (),
        intensity=intensity,
        laterality=tuple(
            (left, right) for left, _, right in (pair.partition("=") for pair in config.labels.laterality)
        ),
        patients_known=gathered.patients_known,
        synthetic=config.synthetic,
        split_rule=assignment.rule_of(config.split),
        preprocessing=steps.to_table(),
        observed=_observed(trained_on),
    )


def present(manifest: Manifest, records: Mapping[str, CaseRecord]) -> dict[str, tuple[str, ...]]:
    """Return the labels that occur in each case."""
    info = manifest.info
    none = (0,) * len(info.labels)
    return {
        case.case_id: checks.present_labels(
            case, records[case.case_id].voxels if case.case_id in records else none, info.labels, info.task
        )
        for case in manifest.cases
    }


def counts_of(manifest: Manifest, records: Mapping[str, CaseRecord]) -> dict[str, Any]:
    """Return cases by split, site, label and attribute (age by decade), and patients by split."""
    occur = present(manifest, records)
    known = bool(records) or manifest.info.task is not TaskKind.SEGMENTATION
    attributes = {
        name: dict(sorted(Counter(_bin(name, value) for value in manifest.attribute(name)).items()))
        for name in manifest.info.attributes
        if name in ("sex", "age")
    }
    return {
        "splits": dict(sorted(Counter(case.split for case in manifest.cases).items())),
        "split_patients": dict(
            sorted(Counter({case.patient_id: case.split for case in manifest.cases}.values()).items())
        ),
        "sites": dict(sorted(Counter(case.site for case in manifest.cases if case.site).items())),
        "labels": {name: sum(name in labels for labels in occur.values()) for name in manifest.info.labels}
        if known
        else {},
        "attributes": attributes,
    }


def _bin(name: str, value: str) -> str:
    if not value:
        return "unknown"
    if name != "age" or not value.isdigit():
        return value
    return "90+" if int(value) >= 90 else f"{int(value) // 10 * 10}-{int(value) // 10 * 10 + 9}"


def _training_statistics(public: Intensity, records: Sequence[CaseRecord]) -> Intensity:
    count = sum(record.count for record in records)
    if not count:
        return public
    mean = sum(record.total for record in records) / count
    # Rounding can make the difference slightly negative for constant images.
    variance = max(0.0, sum(record.squares for record in records) / count - mean**2)
    return replace(public, shift=mean, scale=variance**0.5 or 1.0, source="train")


def _observed(records: Sequence[CaseRecord]) -> Observed | None:
    """Return brightness and spacing of the stored training images, or None without any."""
    if not records:
        return None
    means = np.array([record.total / record.count for record in records])
    spacings = [record.spacing_mm for record in records]
    ranges: tuple[tuple[float, float], ...] = ()
    if all(spacings):
        ranges = tuple((min(axis), max(axis)) for axis in zip(*spacings, strict=True))
    brightness = (float(means.mean()), float(means.std()))
    return Observed(images=len(records), brightness=brightness, spacing_mm=ranges)


def _identifiers(entries: Sequence[DatasetCase]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("case_id", "patient_id", "key", "patient", "where"))
    for entry in entries:
        texts = (entry.source.key, entry.source.patient, entry.source.where)
        # The texts come from the source: csv_cell keeps a spreadsheet from executing one as a formula.
        cells = (names.csv_cell(names.encodable(text)) for text in texts)
        writer.writerow((entry.case_id, entry.patient_id, *cells))
    return buffer.getvalue()
