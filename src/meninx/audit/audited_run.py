"""What the audits of a run have in common: its plan, its dataset, and private folders for models like it."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from meninx.audit.audit_files import AuditFiles
from meninx.core import artifacts, files, provenance, workspace
from meninx.core import run as runs
from meninx.core.artifacts import (
    Ancestry,
    DataRecord,
    Lineage,
    Members,
    Origin,
    PrivacyRecord,
    RunRecord,
    RunState,
)
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import DataError, PrivacyRefusal, UsageError, expected, problem
from meninx.core.manifest import INFO_NAME, MANIFEST_NAME, Manifest, dataset_digest
from meninx.core.names import printable
from meninx.core.run import Run
from meninx.learn.config import LearnConfig
from meninx.models.network_names import OWN_PREFIX
from meninx.privacy.plan import Plan

FOLDER = "audit"
"""Of the files of audits, in the run folder and in its ``private/``."""
UNKNOWN_START = (
    "the run started from weights of unknown origin: patients of the test split may be behind them, and the "
    "attacks may then find less than there is"
)
OWN_NETWORK = "the run trained a network of the caller's own, which the audit cannot build"
_LONG = 90.0  # seconds from which on a time is shown in minutes
_DIGITS = 16  # of a digest in a message
_ADAPTIVE = ("clip_quantile", "clip_rate", "count_noise_multiplier")


def plan_of(run: Run, config: LearnConfig, fingerprint: str) -> Plan:
    """Return the privacy plan of a finished run, rebuilt from its records.

    Args:
        run: the run folder.
        config: its learning settings.
        fingerprint: of the plan, from the checkpoint.

    Raises:
        PrivacyRefusal: the records give another plan than the one that the run was trained with.
    """
    known = artifacts.require(run.root, PrivacyRecord, fix="train again")
    table = tomllib.loads(files.read_text(run.config_path)).get("privacy", {})
    wanted: dict[str, Any] = {"noise_bands": table.get("noise_bands", 1)}
    if known.clipping == "adaptive":
        wanted |= {name: table[name] for name in _ADAPTIVE if table.get(name)}
    plan = Plan.build(
        n_units=round(config.sampling.batch_size / known.sample_rate),
        expected_batch_size=config.sampling.batch_size,
        unit=PrivacyUnit(known.unit),
        steps=known.planned_steps,
        noise_multiplier=known.noise_multiplier,
        max_grad_norm=known.max_grad_norm,
        delta=known.delta,
        clipping=known.clipping,
        views=config.sampling.views,
        **wanted,
    )
    if plan.fingerprint() != fingerprint:
        what = "privacy.json and config.toml state another plan than the one that the run was trained with"
        fix = "restore the run folder from a backup; `meninx verify` names every change"
        raise PrivacyRefusal(problem(what, where=run.name, fix=fix))
    return plan


def finished_record(run: Run) -> RunRecord:
    """Return the record of a finished run.

    Raises:
        DataError: an older version made the run.
        UsageError: the run is not finished.
    """
    record = artifacts.require(run.root, RunRecord, fix="train again: an older version made this run")
    if record.state is not RunState.RELEASED:
        fix = "go on with `meninx train DATA --resume RUN`"
        raise UsageError(problem("the run is not finished", where=run.name, fix=fix))
    return record


@contextmanager
def alone(run: Run, *, dry_run: bool = False) -> Iterator[None]:
    """Keep other audits and writers away from a run; a dry run takes no lock, since a lock is a file.

    Raises:
        RunLocked: another process audits the run or writes to it.
    """
    with ExitStack() as locks:
        if not dry_run:
            locks.enter_context(run.audit_lock())
            locks.enter_context(run.lock())
        yield


def has_own_network(run: Run) -> bool:
    """Return whether a run trained a network of the caller's own, which an audit cannot build."""
    table = tomllib.loads(files.read_text(run.config_path)).get("model")
    return isinstance(table, dict) and str(table.get("name", "")).startswith(OWN_PREFIX)


def dataset_of(run: Run, moved: Path | None = None) -> Manifest:
    """Return the dataset of a run.

    Args:
        run: the run.
        moved: folder of the dataset, where it is no longer at the place that the run recorded.

    Raises:
        DataError: it is not where it was, it was changed, or ``moved`` holds another one. The message names
            no path of the record, which is private, and only digests that are keyed by the run.
    """
    known = artifacts.require(run.root, DataRecord, fix="train again")
    folder = moved or Path(known.dataset)
    if moved is None and not all((folder / name).is_file() for name in (INFO_NAME, MANIFEST_NAME)):
        what = "the dataset of the run is not where it was when the run was trained"
        fix = "give the folder where it is now by --data FOLDER, or put it back; "
        fix += f"{artifacts.place(DataRecord)} of the run names the recorded place"
        raise DataError(problem(what, where=run.record.dataset if run.record else run.name, fix=fix))
    data = Manifest.read(folder)
    digest = dataset_digest(folder, images=known.images).digest
    if moved is not None:
        _refuse_other_dataset(run, digest, data.info.name)
    if digest != known.digest:
        fix = "restore the dataset that the run was trained on"
        raise DataError(
            problem("the dataset was changed since the run was trained", where=data.info.name, fix=fix)
        )
    return data


def _refuse_other_dataset(run: Run, digest: str, name: str) -> None:
    """Refuse a dataset whose keyed digest is not the one in ``run.json``; the message names both."""
    record = artifacts.require(run.root, RunRecord, fix="train again: an older version made this run")
    found = runs.keyed_data(runs.read_key(run.key_path(runs.IDENTITY)), digest)
    if found != record.data:
        rule = f"the dataset of the run, whose keyed digest begins with {record.data[:_DIGITS]}"
        fix = f"give the folder of the dataset {printable(record.dataset)} that the run was trained on"
        got = f"one whose digest begins with {found[:_DIGITS]}"
        raise DataError(expected(rule, got=got, where=f"data, {printable(name)}", fix=fix))


def training_seconds(record: RunRecord) -> float:
    """Return how long a run took from its start to its release; 0 when that is not known."""
    try:
        begun, ended = (datetime.fromisoformat(text) for text in (record.made, record.finished))
    except ValueError:
        return 0.0
    return max(0.0, (ended - begun).total_seconds())


def duration_words(seconds: float) -> str:
    """Return a time for people.

    >>> duration_words(42.0), duration_words(600.0)
    ('42 s', '10 min')
    """
    return f"{seconds:.0f} s" if seconds < _LONG else f"{seconds / 60:.0f} min"


def seeded(config: LearnConfig, seed: int | None) -> LearnConfig:
    """Return the settings of an audit's models: with a seed, all of their randomness comes from it."""
    return config if seed is None else config.replace(deterministic=True, seed=seed)


@dataclass(frozen=True)
class Strangers:
    """Patients of the test split that took no part in a run's weights, nor in those that it started from.

    Attributes:
        patients: their pseudonyms.
        left_out: patients of the test split behind the starting weights; they are neither members nor
            strangers.
        unknown: weights of unknown origin are among those that the run started from, so that more patients
            may be behind them.
    """

    patients: frozenset[str]
    left_out: int
    unknown: bool


def strangers_of(run: Run, data: Manifest) -> Strangers:
    """Return the patients that attacks on a run may take as its non-members.

    Args:
        run: the audited run.
        data: its dataset.
    """
    members = artifacts.require(run.root, Members, fix="train again")
    test = data.split("test")
    behind = set(members.earlier)
    if members.earlier_images:
        images, known = test.image_digests(), set(members.earlier_images)
        behind |= {case.patient_id for case in test.cases if images.get(case.case_id) in known}
    patients = frozenset(test.patients) - behind
    start = artifacts.read(run.root, Ancestry)
    lineage = artifacts.read(run.root, Lineage, private=True) or artifacts.read(run.root, Lineage)
    unknown = (start is not None and start.origin == "unknown") or (
        lineage is not None and any(_is_unknown(parent) for parent in lineage.parents)
    )
    return Strangers(patients, len(test.patients) - len(patients), unknown)


def _is_unknown(parent: Lineage) -> bool:
    """Return whether patients behind a run's weights are not all known by name."""
    beyond = parent.unknown_start or parent.study is not None or not parent.patients_known
    return beyond or any(_is_unknown(one) for one in parent.parents)


def place_of_audit(out: Path | None, run: Run | None) -> Path:
    """Return the folder that gets ``audit/``: a folder of the caller's, or the run folder.

    Args:
        out: the caller's; None for the run folder.
        run: the audited run; None where a dataset is audited.

    Raises:
        UsageError: the folder belongs to another run, lies in a private folder, release, dataset or archive,
            or its ``audit/`` is a link.
    """
    place = out or (run.root if run else Path())
    if out is not None:
        workspace.outside(out)
        other = run is None or out.resolve() != run.root.resolve()
        if other and (out / artifacts.place(RunRecord)).is_file():
            fix = "give a folder that is no run"
            raise UsageError(
                problem("the folder is another run, whose audit it would replace", where="out", fix=fix)
            )
    workspace.refuse_linked(place, FOLDER)
    return place


def refuse_other_files(kind: AuditFiles, out: Path | None, run: Run | None, *, overwrite: bool) -> None:
    """Refuse a folder where an audit would replace files that no audit of the same run wrote.

    Args:
        kind: the files of the audit.
        out: folder that gets ``audit/``; None for the run folder.
        run: the audited run; None where a dataset is audited.
        overwrite: an earlier audit may be replaced.

    Raises:
        UsageError: see :func:`place_of_audit` and :meth:`AuditFiles.refuse`.
    """
    place, record = place_of_audit(out, run), run.record if run else None
    own = run is not None and place.resolve() == run.root.resolve()
    kind.refuse(place / FOLDER, run=record.id if record else "", own=own, overwrite=overwrite)


def origin_of(record: RunRecord, *, timeless: bool = False) -> Origin:
    """Return what the numbers of an audit belong to.

    Args:
        record: of the audited run.
        timeless: without time and command, in an audit that can be repeated bit for bit.
    """
    made_by = provenance.environment()
    return Origin(
        run=record.id,
        data=record.data,
        dataset=record.dataset,
        weights=record.weights,
        step=record.released_step or record.step,
        made="" if timeless else artifacts.now(),
        command=() if timeless else made_by.command,
        versions=made_by.packages,
    )


def prepared(root: Path, run: Run, command: str, *, private: bool = True, deterministic: bool = False) -> Run:
    """Return the folder of a model like the audited one, made when it is not there yet.

    Args:
        root: the folder, in ``private/`` of the run.
        run: the audited run.
        command: of the audit.
        private: the model is trained with differential privacy.
        deterministic: its randomness comes from a seed, also where that of the audited run does not.
    """
    folder = Run(root)
    if folder.record is None:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(mode=0o700)
        known = run.record
        runs.furnish(
            folder,
            config_toml=files.read_text(run.config_path),
            command=(command,),
            private=private,
            deterministic=deterministic or (known is not None and known.deterministic),
        )
    return folder
