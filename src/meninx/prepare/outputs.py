"""The output folder: who may write to it, what is remembered between runs, and the files at the end."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from meninx.core import files, settings
from meninx.core.errors import UsageError, expected
from meninx.core.manifest import INFO_NAME, MANIFEST_NAME, Case, DatasetInfo, Intensity, Manifest, Task
from meninx.core.run import Run
from meninx.prepare import checks
from meninx.prepare.build import Job, Record
from meninx.prepare.config import PIXEL_FIELDS, WORK_FIELDS, PrepareConfig
from meninx.prepare.gather import Entry, Gathered
from meninx.prepare.plan import Plan

SUMMARY = "prepare.json"
VERSION = 1
PATH_FIELDS = ("table", "crosswalks", "split_from", "image_folder", "mask_folder")


class Folder:
    """A dataset folder that is being written by this process."""

    def __init__(self, out: Path, config: PrepareConfig) -> None:
        self.out, self.config = out, config
        self.private = out / "private"
        self.settings = digest_of(config, leave_out=WORK_FIELDS)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder for this process, after checking that it may be written to.

        Raises:
            UsageError: it holds something, and neither ``resume`` nor ``overwrite`` is given, or other settings made it.
            RunLocked: another process holds it.
        """
        self._refuse_foreign()
        try:
            self.private.mkdir(parents=True, exist_ok=True)
            self.private.chmod(0o700)
        except OSError as error:
            raise files.storage_error(error, self.private) from error
        with Run(self.out).lock():
            for name in (SUMMARY, MANIFEST_NAME, INFO_NAME):
                (self.out / name).unlink(missing_ok=True)
            files.write_json(self.private / "settings.json", {"settings": self.settings}, mode=0o600)
            yield

    def jobs(self, entries: Sequence[Entry], plan: Plan) -> list[Job]:
        """Return the work to do, each case with what the journal remembers of it."""
        before = self._remembered()
        digest = digest_of(self.config, only=PIXEL_FIELDS) + f"/{plan.spatial_dims}/{','.join(plan.labels)}"
        return [
            Job(case_id=e.case_id, found=e.found, plan=plan, settings=digest, out=self.out, before=before.get(e.case_id))
            for e in entries
        ]

    def journal(self, records: Sequence[Record]) -> None:
        """Remember finished cases on the disk."""
        if records:
            files.append_line(self._journal, "\n".join(record.to_line() for record in records))

    def finish(
        self,
        manifest: Manifest,
        entries: Sequence[Entry],
        records: Mapping[str, Record],
        gathered: Gathered,
        findings: checks.Findings,
    ) -> None:
        """Write the tables; ``prepare.json`` comes last and says that the dataset is whole."""
        self._remove_others({name for case in manifest.cases for name in (case.image, case.mask) if name})
        kept = [records[case.case_id] for case in manifest.cases]
        files.write_text(self._journal, "".join(record.to_line() + "\n" for record in kept), mode=0o600)
        files.write_text(self.private / "cases.csv", _identifiers(entries), mode=0o600)
        manifest.write()
        files.write_json(self.out / SUMMARY, self._summary(manifest, records, gathered, findings))

    @property
    def _journal(self) -> Path:
        return self.private / "journal.jsonl"

    def _refuse_foreign(self) -> None:
        config, where = self.config, self.out.name
        if not self.out.exists() or self._is_blank():
            return
        ours = (self.private / "settings.json").is_file()
        if not ours:
            raise UsageError(
                expected("a new or empty output folder", got="other files", where=where, fix="choose another folder")
            )
        if not (config.resume or config.overwrite):
            fix = "give --resume to go on, or --overwrite to replace it"
            raise UsageError(expected("a new or empty output folder", got="a dataset", where=where, fix=fix))
        if config.resume and self._settings_before() != self.settings:
            fix = "use the same settings, or --overwrite to replace the dataset"
            raise UsageError(expected("the settings that the dataset was begun with", got="others", where=where, fix=fix))

    def _is_blank(self) -> bool:
        """Return whether nothing lies here but what claiming the folder leaves when it fails: ``private`` with an empty lock."""
        if {path.name for path in self.out.iterdir()} - {self.private.name}:
            return False
        inside = list(self.private.iterdir()) if self.private.is_dir() else []
        return all(path.name.startswith(".partial-") or (path.name == "lock" and not path.stat().st_size) for path in inside)

    def _settings_before(self) -> str:
        try:
            return str(json.loads((self.private / "settings.json").read_text(encoding="utf-8")).get("settings"))
        except (OSError, ValueError, AttributeError):
            return ""

    def _remembered(self) -> dict[str, Record]:
        if not self._journal.is_file():
            return {}
        lines = self._journal.read_text(encoding="utf-8").splitlines()
        return {record.case_id: record for line in lines if (record := Record.from_line(line))}

    def _remove_others(self, wanted: set[str]) -> None:
        """Remove images of ours that are no case (copies, cases of older settings, halves of killed runs)."""
        for folder in ("images", "masks"):
            for path in sorted((self.out / folder).glob("*")):
                ours = path.name.startswith(("c", ".partial-"))
                if ours and path.relative_to(self.out).as_posix() not in wanted:
                    path.unlink()

    def _summary(
        self, manifest: Manifest, records: Mapping[str, Record], gathered: Gathered, findings: checks.Findings
    ) -> dict[str, Any]:
        config = self.config
        told = {key: value for key, value in settings.to_table(config).items() if key not in (*WORK_FIELDS, *PATH_FIELDS)}
        return {
            "version": VERSION,
            "name": config.name,
            "reader": config.reader,
            "task": str(gathered.task),
            "settings": told,
            "settings_digest": self.settings,
            "data_digest": _content_digest(manifest, records),
            "patients_known": gathered.patients_known,
            "cases": len(manifest),
            "patients": len(manifest.patients),
            **counts_of(manifest, records),
            "skipped": findings.counts(),
            "checks": findings.to_table(),
        }


def digest_of(config: PrepareConfig, *, only: Sequence[str] = (), leave_out: Sequence[str] = ()) -> str:
    """Return a digest of some fields of a config."""
    table = {k: v for k, v in settings.to_table(config).items() if (not only or k in only) and k not in leave_out}
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def info_of(
    config: PrepareConfig, gathered: Gathered, plan: Plan, cases: Sequence[Case], records: Mapping[str, Record]
) -> DatasetInfo:
    """Return what ``dataset.toml`` says; statistics of the training split only when the config asks for them."""
    known = [records[case.case_id] for case in cases if case.case_id in records]
    sizes, spacings = {record.size for record in known}, {record.spacing_mm for record in known}
    intensity = plan.intensity
    if config.intensity == "train" and known:
        intensity = _training_statistics(intensity, [records[case.case_id] for case in cases if case.split == "train"])
    return DatasetInfo(
        name=config.name,
        task=gathered.task,
        labels=gathered.labels,
        attributes=gathered.attributes,
        spatial_dims=plan.spatial_dims,
        channels=plan.channels,
        size=tuple(next(iter(sizes))) if len(sizes) == 1 else (),
        spacing_mm=tuple(next(iter(spacings))) if len(spacings) == 1 else (),
        intensity=intensity,
        laterality=tuple((left, right) for left, _, right in (pair.partition("=") for pair in config.laterality)),
        patients_known=gathered.patients_known,
        synthetic=config.synthetic,
    )


def present(manifest: Manifest, records: Mapping[str, Record]) -> dict[str, tuple[str, ...]]:
    """Return case to the labels that occur in it."""
    info = manifest.info
    none = (0,) * len(info.labels)
    return {
        case.case_id: checks.present_labels(
            case, records[case.case_id].voxels if case.case_id in records else none, info.labels, info.task
        )
        for case in manifest.cases
    }


def counts_of(manifest: Manifest, records: Mapping[str, Record]) -> dict[str, Any]:
    """Return cases by split, site, label and attribute (age by decade), and patients by split."""
    occur = present(manifest, records)
    known = bool(records) or manifest.info.task is not Task.SEGMENTATION
    attributes = {
        name: dict(sorted(Counter(_bin(name, value) for value in manifest.attribute(name)).items()))
        for name in manifest.info.attributes
        if name in ("sex", "age")
    }
    return {
        "splits": dict(sorted(Counter(case.split for case in manifest.cases).items())),
        "split_patients": dict(sorted(Counter({case.patient_id: case.split for case in manifest.cases}.values()).items())),
        "sites": dict(sorted(Counter(case.site for case in manifest.cases if case.site).items())),
        "labels": {name: sum(name in labels for labels in occur.values()) for name in manifest.info.labels} if known else {},
        "attributes": attributes,
    }


def _bin(name: str, value: str) -> str:
    if not value:
        return "unknown"
    if name != "age" or not value.isdigit():
        return value
    return "90+" if int(value) >= 90 else f"{int(value) // 10 * 10}-{int(value) // 10 * 10 + 9}"


def _training_statistics(public: Intensity, records: Sequence[Record]) -> Intensity:
    count = sum(record.count for record in records)
    if not count:
        return public
    mean = sum(record.total for record in records) / count
    variance = max(0.0, sum(record.squares for record in records) / count - mean**2)
    return replace(public, shift=mean, scale=variance**0.5 or 1.0, source="train")


def _identifiers(entries: Sequence[Entry]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("case_id", "patient_id", "key", "patient", "where"))
    writer.writerows((e.case_id, e.patient_id, e.found.key, e.found.patient, e.found.where) for e in entries)
    return buffer.getvalue()


def _content_digest(manifest: Manifest, records: Mapping[str, Record]) -> str:
    text = "".join(f"{case.case_id} {records[case.case_id].source} {records[case.case_id].settings}\n" for case in manifest.cases)
    return hashlib.sha256(text.encode()).hexdigest()
