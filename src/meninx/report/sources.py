"""What lies in the folders a report is made of: records of the stages, never an image or a model."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meninx.core import artifacts, belonging, files, integrity, names, settings, workspace
from meninx.core.artifacts import (
    Ancestry,
    DataRecord,
    DeidRecord,
    Environment,
    EvaluationRecord,
    Lineage,
    Members,
    PrepareRecord,
    PrivacyRecord,
    RunRecord,
    RunState,
    StartRecord,
    StudyPart,
    SweepRecord,
)
from meninx.core.dossier_records import DossierRecord
from meninx.core.errors import DataError, PrivacyRefusal, UsageError, expected, problem
from meninx.core.federation import EARLIER_RUNS, SITE_RUNS, ArmsRecord, FederatedRecord
from meninx.core.manifest import INFO_NAME, MANIFEST_NAME, DatasetInfo, Manifest, dataset_digest
from meninx.core.run import Run
from meninx.learn.config import LearnConfig
from meninx.report import audits, evaluations, obfuscated_datasets, privacy_account, training_log
from meninx.report.audits import Audit
from meninx.report.evaluations import Evidence
from meninx.report.obfuscated_datasets import ObfuscatedDataset
from meninx.report.privacy_account import RunAccount
from meninx.report.training_log import Log

_DEPTH, _SWEEP_DEPTH = 2, 3


@dataclass(frozen=True)
class Deid:
    """One de-identified archive: the content of its ``deid.json``."""

    name: str
    record: DeidRecord


@dataclass(frozen=True)
class Dataset:
    """One prepared dataset: its meaning and its counts.

    Attributes:
        name: folder name.
        info: meaning of the columns.
        counts: split -> (cases, patients); empty without a manifest.
        sites: site -> (cases, patients).
        positives: label -> (positive cases, known cases).
        digests: name its content, with its images where it lists them, and its tables alone; compared with
            that of a run's own dataset, never shown.
        archives: digests of the clean archives that it was made from, as far as they are recorded.
        root: the folder.
    """

    name: str
    info: DatasetInfo
    counts: Mapping[str, tuple[int, int]]
    sites: Mapping[str, tuple[int, int]]
    positives: Mapping[str, tuple[int, int]]
    digests: tuple[str, str]
    archives: tuple[str, ...] = ()
    root: Path = Path()


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """One run folder, checked against itself.

    Attributes:
        name: folder name.
        root: the folder.
        record: identity and state; one without identity for a run of an older version.
        older: made by a version without ``run.json``.
        private: trained with differential privacy.
        void: its noise came from a seed.
        config: the resolved config.
        environment: versions and machine; None when not recorded.
        privacy: content of ``privacy.json``; only words are taken from it, numbers come from ``account``.
        account: cost by the ledger; None without privacy.
        members: who took part; None when not known.
        data: digest of the dataset; None when not known.
        lineage: where the weights come from; None when not known.
        evidence: what was measured.
        log: averaged training curves.
        digests: relative path -> SHA-256.
        audit: what audits found of its released weights; None for a run that was not audited as a whole.
    """

    name: str
    root: Path
    record: RunRecord
    older: bool
    private: bool
    void: bool
    config: Mapping[str, Any]
    environment: Environment | None
    privacy: PrivacyRecord | None
    account: RunAccount | None
    members: Members | None
    data: DataRecord | None
    lineage: Lineage | None
    evidence: Evidence
    log: Log
    digests: Mapping[str, str]
    audit: Audit | None = None

    @property
    def finished(self) -> bool:
        """Whether the run is closed and its model released."""
        return self.record.state is RunState.RELEASED

    @property
    def key(self) -> str:
        """A text that tells the run apart from others."""
        return self.record.id or str(self.root)

    @property
    def start(self) -> StartRecord | None:
        """What the network started from, by its privacy record."""
        return self.privacy.start if self.privacy is not None else None

    @property
    def unknown_start(self) -> bool:
        """Whether it started, itself or through earlier runs, from weights whose training nobody can name."""
        known = self.start is not None and self.start.origin in ("random", "run")
        given = bool(self.config.get("pretrained")) and (self.start is None or self.start.origin == "random")
        earlier = [self.lineage, *privacy_account.ancestors(self.lineage)] if self.lineage is not None else []
        return (
            given
            or (self.start is not None and not known)
            or any(item.unknown_start for item in earlier if item)
        )

    @property
    def part(self) -> StudyPart | None:
        """Which site's part of a federated study the run is; None for another run."""
        return self.record.study

    def is_beside(self, other: TrainedRun) -> bool:
        """Return whether two runs are parts of one run of a study at different sites.

        The name of a study alone is no proof: another study may have the same.
        """
        if self.part is None or other.part is None:
            return False
        same = (self.part.study, self.part.run) == (other.part.study, other.part.run)
        return same and self.part.site != other.part.site

    @property
    def patients_known(self) -> bool:
        """Whether the source names its patients; otherwise every image counts as one."""
        return self.record.patients_known and (self.members is None or self.members.patients_known)

    @property
    def unit(self) -> str:
        """What the guarantee protects, in a word for people."""
        spent = self.account.own if self.account is not None else None
        word = str(spent.unit) if spent is not None else "patient"
        return "image" if word == "patient" and not self.patients_known else word

    @property
    def declared(self) -> int | None:
        """The number of units that was declared; None when the true number counts as public."""
        return _count(self.config.get("privacy"), "units_declared")

    @property
    def units(self) -> int | None:
        """The declared number of units, else the true one; None when it cannot be known."""
        if self.declared is not None:
            return self.declared
        if self.record.own_loop:  # whose number of units counts as public
            return _count(self.config.get("privacy"), "units")
        spent = self.account.own if self.account is not None else None
        if spent is None or str(spent.unit) != "patient":
            return None
        members = len(self.members.train) if self.members is not None else 0
        return max(members, len(self.lineage.patients) if self.lineage is not None else 0) or None

    @property
    def kind(self) -> str:
        """``private`` or ``not private``."""
        return "private" if self.private else "not private"


def _count(table: object, name: str) -> int | None:
    """Return a whole number of a table of a config; None when it has none."""
    value = table.get(name) if isinstance(table, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


Source = Deid | Dataset | ObfuscatedDataset | TrainedRun | FederatedRecord | ArmsRecord


def read(paths: Sequence[Path]) -> list[Source]:
    """Return what the folders hold.

    A folder of such folders is looked through, two levels deep, a sweep wholly. A simulated study comes with
    the runs of its sites, a real one with the records of its earlier runs.

    Runs that never took a step are passed over. A folder that is given twice counts once.

    Raises:
        UsageError: a path is not there, holds nothing that a stage wrote, or two folders are copies of one
            run.
        DataError: a record is damaged or contradicts another; names the file.
        PrivacyRefusal: a privacy record contradicts its ledger.
    """
    found: dict[Path, list[Source]] = {}
    for path in paths:
        here = dict(_read_tree(path.resolve(), depth=_DEPTH))
        if not here:
            what = (
                "nothing to report on, or only runs that took no step" if path.exists() else "no such folder"
            )
            fix = "give folders that deid, prepare, train and sweep wrote"
            raise UsageError(problem(what, where=printable(path.name), fix=fix))
        found |= here
    flat = [item for items in found.values() for item in items]
    _refuse_copies([item for item in flat if isinstance(item, TrainedRun)])
    return flat


def release(root: Path) -> ObfuscatedDataset:
    """Return the obfuscated dataset in a folder, or the audit of one, by the name of the dataset.

    Raises:
        UsageError: the folder holds neither.
        DataError: a record is damaged, was changed, or belongs to another dataset.
    """
    name = printable(root.name)
    info = _dataset(root).info if (root / INFO_NAME).is_file() else None
    found = obfuscated_datasets.read(root, name, info)
    if found is None:
        fix = "give a folder that `meninx obfuscate` wrote"
        raise UsageError(problem("there is no obfuscated dataset, and no audit of one", where=name, fix=fix))
    attacked = found.audit.released.dataset if found.audit is not None else ""
    return replace(found, name=printable((info.name if info is not None else attacked) or root.name))


def printable(name: str) -> str:
    """Return a file name that can be written and shown: foreign bytes and control characters are replaced."""
    text = name.encode("utf-8", "replace").decode()
    return names.printable(text)


def _read_tree(path: Path, depth: int) -> Iterator[tuple[Path, list[Source]]]:
    if not path.is_dir() or (path / artifacts.place(DossierRecord)).is_file():
        return
    sweep = artifacts.read(path, SweepRecord)
    here = list(_read_one(path))
    if here:
        yield path, here
        for item in here:
            if isinstance(item, FederatedRecord) and not item.copy_of:
                yield from _read_tree(path / (SITE_RUNS if item.simulated else EARLIER_RUNS), _DEPTH)
        return
    below = list(_below(path, _SWEEP_DEPTH if sweep is not None else depth))
    if sweep is not None:
        _refuse_part_of_a_sweep(path, sweep, [item for _, items in below for item in items])
    yield from below


def _below(path: Path, depth: int) -> Iterator[tuple[Path, list[Source]]]:
    for child in sorted(path.iterdir()) if depth else ():
        if (
            child.is_dir()
            and not child.is_symlink()
            and not child.name.startswith(".")
            and child.name != workspace.PRIVATE
        ):
            yield from _read_tree(child, depth - 1)


def _refuse_part_of_a_sweep(path: Path, sweep: SweepRecord, found: Sequence[Source]) -> None:
    there = {item.record.id for item in found if isinstance(item, TrainedRun)}
    missing = len(set(sweep.runs) - there)
    if missing:
        fix = "put the runs back: their cost counts, whether or not they are released"
        where = f"{printable(path.name)}/{artifacts.place(SweepRecord)}"
        raise DataError(problem(f"runs that the sweep names are missing: {missing:,}", where=where, fix=fix))


def _refuse_copies(runs: Sequence[TrainedRun]) -> None:
    for number, run in enumerate(runs):
        for other in runs[:number]:
            if run.record.id and run.record.id == other.record.id:
                got = f"two copies of one run, {other.name} and {run.name}"
                raise UsageError(
                    expected("every run once", got=got, where="sources", fix="leave one of them out")
                )


def _read_one(path: Path) -> Iterator[Source]:
    deid = artifacts.read(path, DeidRecord)
    marker = workspace.read_marker(path)
    if marker is not None and marker.publishing:
        fix = "run the stage again with the same settings; it completes what was begun"
        raise DataError(problem("the result is being replaced", where=path.name, fix=fix))
    if deid is not None:
        _refuse_other_list(path, deid.checksums, DeidRecord)
        yield Deid(printable(path.name), deid)
    study = artifacts.read(path, FederatedRecord)
    arms = artifacts.read(path, ArmsRecord) if study is not None else None
    yield from (item for item in (study, arms) if item is not None)
    info = None
    if (path / INFO_NAME).is_file():
        dataset = _dataset(path)
        info = dataset.info
        yield dataset
    release = obfuscated_datasets.read(path, printable(path.name), info)
    if release is not None:
        yield release
    record = artifacts.read(path, RunRecord)
    run = Run(path)
    if record is not None or (run.config_path.is_file() and run.private.is_dir()):
        trained = _run(run, record)
        if trained is not None:
            yield trained


def _refuse_other_list(root: Path, stated: str, kind: type) -> None:
    """Refuse a summary whose list of files is not the one beside it: one of them was copied or replaced."""
    if stated and integrity.digest_of(root) != stated:
        fix = "restore the folder, or make it again; `meninx verify` says what was changed"
        where = f"{printable(root.name)}/{artifacts.place(kind)}"
        raise DataError(
            problem(
                f"{integrity.CHECKSUMS} is missing, or not the one that the record names",
                where=where,
                fix=fix,
            )
        )


def _dataset(path: Path) -> Dataset:
    prepared = artifacts.read(path, PrepareRecord)
    if prepared is not None:
        _refuse_other_list(path, prepared.checksums, PrepareRecord)
    name = printable(path.name)
    try:
        if not (path / MANIFEST_NAME).is_file():
            info = DatasetInfo.from_toml(files.read_text(path / INFO_NAME), INFO_NAME)
            return Dataset(name, info, {}, {}, {}, ("", ""))
        manifest = Manifest.read(path)
        targets = manifest.targets()
    except (OverflowError, RecursionError, ValueError, AttributeError) as error:
        raise DataError(
            problem("the dataset is not as `meninx prepare` writes it", where=INFO_NAME)
        ) from error
    positives = {
        label: (int((targets[:, column] == 1).sum()), int((targets[:, column] >= 0).sum()))
        for column, label in enumerate(manifest.info.labels)
        if manifest.info.task != "segmentation"
    }
    archives = prepared.archives if prepared is not None else ()
    digests = (dataset_digest(path).digest, dataset_digest(path, images=False).digest)
    splits, sites = _tally(manifest, "split"), _tally(manifest, "site")
    return Dataset(name, manifest.info, splits, sites, positives, digests, archives, path)


def _tally(manifest: Manifest, column: str) -> dict[str, tuple[int, int]]:
    """Return for each value of a column its cases and patients."""
    cases = Counter(str(getattr(case, column)) for case in manifest.cases)
    patients = Counter(
        value for value, _ in {(str(getattr(case, column)), case.patient_id) for case in manifest.cases}
    )
    order = sorted(cases, key=lambda name: ({"train": 0, "valid": 1, "test": 2}.get(name, 3), name))
    return {name: (cases[name], patients[name]) for name in order if name}


def _run(run: Run, record: RunRecord | None) -> TrainedRun | None:
    """Return a run that has taken a step; None for one that has not."""
    root, name = run.root, printable(run.name)
    config = _config(run, record)
    privacy = artifacts.read(root, PrivacyRecord)
    lineage = artifacts.read(root, Lineage)
    older = record is None
    private = record.private if record is not None else _was_private(run, config, privacy)
    if record is None:
        done = privacy is not None and (not private or privacy.steps >= max(1, privacy.planned_steps))
        record = RunRecord(
            id="", name=name, private=private, state=RunState.RELEASED if done else RunState.TRAINING
        )
    if record.state is RunState.STARTING:
        if not run.ledger_path.is_file() and not record.ended:
            return None
        record = artifacts.RunRecord(**{**_fields(record), "state": RunState.TRAINING})
    _refuse_strangers(run, record, config, privacy, lineage, older=older)
    start = privacy.start if privacy is not None else None
    ancestry = artifacts.read(root, Ancestry)
    spent = privacy_account.of_run(run, record.id or str(root), lineage, start, ancestry) if private else None
    void = (
        record.deterministic
        or _seeded(lineage, spent)
        or bool(privacy and privacy.deterministic)
        or (root / "NOT_FOR_RELEASE").exists()
    )
    trained = TrainedRun(
        name=name,
        root=root,
        record=record,
        older=older,
        private=private,
        void=private and (void or config.get("deterministic") is True),
        config=config,
        environment=artifacts.read(root, Environment),
        privacy=privacy,
        account=spent,
        members=artifacts.read(root, Members),
        data=artifacts.read(root, DataRecord),
        lineage=lineage,
        evidence=evaluations.read(root, record, name, closed=private),
        log=Log({}, foreign=True)
        if belonging.log_changed(root, record)
        else training_log.read(run.metrics_path),
        digests=_digests(root, record),
        audit=None if older or record.state is not RunState.RELEASED else audits.read(root, record),
    )
    if spent is not None and trained.finished:
        where = f"{name}/{artifacts.place(PrivacyRecord)}"
        if privacy is None:
            raise DataError(problem("the finished private run has no privacy record", where=where))
        privacy_account.compare(spent, privacy, trained.declared, where)
    for changed in belonging.secrets_changed(root, record):
        kind, fix = PrivacyRefusal if private else DataError, "restore the file as the run wrote it"
        raise kind(
            problem(
                "the file is missing, or was changed since the run was made",
                where=f"{name}/{changed}",
                fix=fix,
            )
        )
    if belonging.promise_changed(root, record):
        kind = PrivacyRefusal if private else DataError
        where, fix = f"{name}/{artifacts.place(PrivacyRecord)}", "restore the file as the run wrote it"
        raise kind(
            problem("the file is missing, or was changed since the run was released", where=where, fix=fix)
        )
    return trained


def _seeded(lineage: Lineage | None, spent: RunAccount | None) -> bool:
    """Return whether the noise of the run, or of an earlier one whose cost it counts, came from a seed."""
    counted = [
        item for item in privacy_account.ancestors(lineage) if spent is not None and item.run in spent.texts
    ]
    return any(item.deterministic for item in (*([lineage] if lineage is not None else []), *counted))


def _fields(record: RunRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _was_private(run: Run, config: Mapping[str, Any], privacy: PrivacyRecord | None) -> bool:
    """Return whether a run of an older version was private; any sign is enough."""
    return (
        bool(privacy and privacy.private)
        or run.ledger_path.is_file()
        or isinstance(config.get("privacy"), dict)
    )


def _config(run: Run, record: RunRecord | None) -> dict[str, Any]:
    where = f"{printable(run.name)}/{run.config_path.name}"
    closed = record is not None and record.state is RunState.RELEASED
    if record is not None and closed and record.config and run.config_digest != record.config:
        fix = "restore the file; a changed config belongs to another run"
        raise DataError(problem("the config was changed since the run was made", where=where, fix=fix))
    try:
        return settings.flattened(LearnConfig, tomllib.loads(files.read_text(run.config_path)))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DataError(problem("the file is not valid TOML", where=where)) from error


def _refuse_strangers(
    run: Run,
    record: RunRecord,
    config: Mapping[str, Any],
    privacy: PrivacyRecord | None,
    lineage: Lineage | None,
    *,
    older: bool,
) -> None:
    """Refuse a run folder whose records contradict each other: files were mixed or edited."""
    name = printable(run.name)
    table = isinstance(config.get("privacy"), dict)
    reopened = record.ended and record.state is not RunState.RELEASED
    private = table or run.ledger_path.is_file()
    stated = [(artifacts.place(RunRecord), record.private != private or reopened)]
    if privacy is not None:
        stated.append((artifacts.place(PrivacyRecord), any(belonging.promise(privacy, record))))
    if lineage is not None:
        stated.append(
            (artifacts.place(Lineage), (lineage.run, lineage.private) != (record.id, record.private))
        )
    wrong = next((file for file, bad in stated if bad and not older), "")
    if wrong:
        fix = "restore the folder as the run wrote it"
        raise DataError(
            problem("the records of the run contradict each other", where=f"{name}/{wrong}", fix=fix)
        )
    if record.state is RunState.RELEASED and not older:
        _refuse_changed_release(run, record, name)


def _refuse_changed_release(run: Run, record: RunRecord, name: str) -> None:
    if not record.weights or not record.release:
        where = f"{name}/{artifacts.place(RunRecord)}"
        raise DataError(problem("the finished run has no digests of its release", where=where))
    damage = integrity.damage(run.release)
    changed = not record.names_list(integrity.digest_of(run.release))
    if changed or damage.missing or damage.changed:
        what = next(iter((*damage.changed, *damage.missing)), integrity.CHECKSUMS)
        fix = "restore the release; `meninx verify` says what was changed"
        where = f"{name}/{run.release.name}/{printable(what)}"
        raise DataError(
            problem("a released file is missing, or was changed since the run finished", where=where, fix=fix)
        )


def _digests(root: Path, record: RunRecord) -> dict[str, str]:
    names = [root / artifacts.place(kind) for kind in (PrivacyRecord, Lineage)]
    measured = root / artifacts.place(EvaluationRecord)
    names += [measured] if not belonging.unlisted(root, record, measured.name) else []
    release = root / "release"
    models = (
        [path for path in sorted(release.rglob("*")) if path.suffix in (".pt", ".onnx")]
        if release.is_dir()
        else []
    )
    every = [Run(root).config_path, *names, *models]
    return {
        printable(path.relative_to(root).as_posix()): files.digest(path) for path in every if path.is_file()
    }
