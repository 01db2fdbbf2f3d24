"""Small folders as deid, prepare and train write them, with planted strings outside the report's inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import tomli_w

from meninx.core import artifacts, files, integrity, workspace
from meninx.core.artifacts import (
    ComparisonRecord,
    DataRecord,
    DeidRecord,
    EvaluationRecord,
    Lineage,
    Members,
    Origin,
    PrivacyRecord,
    RunRecord,
    RunState,
    StartRecord,
    StudyPart,
)
from meninx.core.budget import NeighboringRelation, PrivacyUnit
from meninx.core.manifest import Case, DatasetInfo, Manifest, TaskKind, dataset_digest
from meninx.core.run import Run
from meninx.metrics.estimates import Evaluation
from meninx.metrics.evaluation import evaluate_classification
from meninx.metrics.paired_difference import compare
from meninx.metrics.thresholds import fit_thresholds
from meninx.privacy.ledger import Ledger
from meninx.privacy.plan import Plan

PLANTED = "MUSTERMANN^ERIKA"
LABELS = ("effusion", "pneumothorax", "nodule")
PATIENTS = tuple(f"patient-{PLANTED}-{number}" for number in range(36))
STEPS, RATE, DELTA = 60, 0.1, 1e-4


def write_deid(folder: Path, site: str, **fields: object) -> Path:
    """Return a de-identified archive's folder."""
    keywords = (
        "PatientName",
        "PatientID",
        "StudyDate",
        "SOPInstanceUID",
        "StudyDescription",
        "DeviceSerialNumber",
    )
    actions = {
        word: {action: 40 + index}
        for index, (word, action) in enumerate(zip(keywords, "ZZXUCX", strict=True))
    }
    actions |= {f"Attribute{index}": {"X": index, "K": 1} for index in range(1, 30)}
    record = DeidRecord(
        profile="basic",
        options=("retain-modified-dates", "clean-descriptors"),
        codes=("113100",),
        site=site,
        files_read=96,
        files_written=92,
        quarantined={"unreadable": 3, "not-dicom": 1},
        patients=20,
        studies=25,
        series=30,
        actions=actions,
        burned_in_unknown=12,
        flagged={"secondary capture": 12},
        version="0.1.0",
    )
    workspace.make_private(folder)
    artifacts.write(folder, replace(record, **fields))
    (folder / "audit.jsonl").write_text(json.dumps({"file": PLANTED}) + "\n")
    (folder / "private" / "crosswalk_patients.csv").write_text(f"id_old,id_new\n{PLANTED},p1\n")
    return folder


def cohort(cases: int = 400, seed: int = 0):
    """Return (truth, private scores, other scores, patients, attributes) of a made-up test split."""
    rng = np.random.default_rng(seed)
    patients = np.sort(rng.integers(0, cases // 2, cases))
    truth = (rng.random((cases, len(LABELS))) < [0.35, 0.2, 0.06]).astype(float)
    logit = 1.6 * truth - 1.2 + rng.normal(size=truth.shape)
    squash = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    sex, age = rng.choice(["F", "M"], patients.max() + 1), rng.integers(22, 92, patients.max() + 1)
    attributes = {"sex": [str(sex[p]) for p in patients], "age": [str(age[p]) for p in patients]}
    return truth, squash(logit + 0.9 * rng.normal(size=truth.shape)), squash(logit), patients, attributes


def write_dataset(
    folder: Path, *, labels: Sequence[str] = LABELS, patients_known: bool = True, name: str = "cohort"
) -> Path:
    """Return a prepared dataset's folder: 72 training cases of 36 patients, 24 and 24 others."""
    rng = np.random.default_rng(1)
    info = DatasetInfo(
        name=name,
        task=TaskKind.MULTILABEL,
        labels=tuple(labels),
        attributes=("sex", "age"),
        size=(128, 128),
        synthetic=True,
        patients_known=patients_known,
    )
    cases = [
        Case(
            case_id=f"{PLANTED}-{number}",
            patient_id=f"patient-{PLANTED}-{number // 2}",
            image=f"images/{number}.png",
            site=("north", "south", "east")[number // 2 % 3],
            split=("train", "train", "train", "valid", "test")[number // 2 % 5],
            labels={label: float(rng.random() < 0.3) for label in labels},
            attributes={"sex": "F", "age": "60"},
        )
        for number in range(120)
    ]
    Manifest(folder, info, tuple(cases)).write()
    return folder


@cache
def evaluation(*, private: bool, split: str = "test") -> Evaluation:
    """Return what a model is worth on the made-up split."""
    truth, first, second, patients, attributes = cohort()
    scores = first if private else second
    thresholds = fit_thresholds(truth[:200], scores[:200], LABELS)
    return evaluate_classification(
        truth,
        scores,
        patients,
        LABELS,
        attributes,
        thresholds,
        task="multilabel",
        seed=0,
        draws=200,
        split=split,
    )


@cache
def ledger_text(
    run: str, *, noise: float = 1.0, steps: int = STEPS, delta: float = DELTA, unit: str = "patient"
) -> str:
    """Return the ledger of a run whose keys are its own."""
    plan = Plan(
        unit=PrivacyUnit(unit),
        relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        sample_rate=RATE,
        steps=max(steps, STEPS),
        noise_multiplier=noise,
        max_grad_norm=1.5,
        delta=delta,
        expected_batch_size=3.6,
        n_units_declared=36,
    )
    ledger, text = Ledger(), ""
    for step in range(steps):
        ledger, line = ledger.next(plan, step, stream=hashlib.sha256(run.encode()).hexdigest()[:32])
        text += line
    return text


def write_run(
    folder: Path,
    *,
    private: bool,
    noise: float = 1.0,
    steps: int = STEPS,
    delta: float = DELTA,
    unit: str = "patient",
    state: RunState = RunState.RELEASED,
    deterministic: bool = False,
    declared: int | None = None,
    members: Sequence[str] | None = PATIENTS,
    patients_known: bool = True,
    dataset: Path | None = None,
    start: StartRecord | None = None,
    parents: tuple[Lineage, ...] = (),
    unknown_start: bool = False,
    settings: dict[str, object] | None = None,
    evaluated: bool = True,
    compared: bool = True,
    older: bool = False,
    outside: tuple[str, ...] = (),
    known: dict[str, tuple[str, ...]] | None = None,
    study: StudyPart | None = None,
) -> Path:
    """Return a run folder.

    Args:
        folder: where; its name is the run's.
        private: trained with differential privacy.
        noise: noise multiplier.
        steps: steps taken.
        delta: of the plan.
        unit: privacy unit.
        state: where the run stands.
        deterministic: noise from the seed.
        declared: declared number of units.
        members: training patients; None when the list is not there.
        patients_known: the source names its patients.
        dataset: prepared dataset that it was trained on.
        start: what it started from.
        parents: lineages of the starting weights.
        unknown_start: the starting weights are of unknown origin.
        settings: further settings of the config.
        evaluated: with an evaluation of the test split.
        compared: patients were compared for it.
        older: made by a version without ``run.json``.
        outside: what else lies outside the guarantee.
        known: further fields of the members.
        study: that the run is a site's part of a federated study.
    """
    workspace.make_private(folder)
    (folder / "release").mkdir()
    identity = hashlib.sha256(str(folder).encode()).hexdigest()[:32]
    config: dict[str, object] = {
        "model": "resnet9",
        "loss": "bce",
        "optimizer": "nadam",
        "lr": 5e-4,
        "batch_size": 64,
    }
    config |= {"epochs": 12, "steps": 0, "seed": 0, "sampling": "shuffle", "deterministic": deterministic}
    table: dict[str, object] = {"epsilon": 8.0, "delta": delta, "unit": unit}
    table |= {} if declared is None else {"units_declared": declared}
    config |= {"privacy": table} if private else {}
    (folder / "config.toml").write_text(tomli_w.dumps({**config, **(settings or {})}))
    record = RunRecord(
        id=identity,
        name=folder.name,
        state=state,
        private=private,
        deterministic=deterministic,
        config=files.digest(folder / "config.toml"),
        data=hashlib.sha256(f"data of {identity}".encode()).hexdigest(),
        dataset="cohort",
        patients_known=patients_known,
        step=steps,
        planned_steps=STEPS,
        weights=hashlib.sha256(f"weights of {identity}".encode()).hexdigest()
        if state is RunState.RELEASED
        else "",
        made="2026-11-20T10:00:00+00:00",
        finished="2026-11-20T11:00:00+00:00" if state is RunState.RELEASED else "",
        study=study,
    )
    _write_private_room(folder, identity, members, dataset, patients_known=patients_known)
    if known:
        artifacts.write(
            folder, Members(train=tuple(members or ()), valid=(), patients_known=patients_known, **known)
        )
    text = ledger_text(identity, noise=noise, steps=steps, delta=delta, unit=unit) if private else ""
    if private:
        (folder / "private" / "ledger.jsonl").write_text(text)
    if state is RunState.RELEASED:
        lineage = Lineage(
            run=identity,
            private=private,
            unit=unit,
            ledger=tuple(text.split("\n")) if private else (),
            delta=delta if private else 0.0,
            parents=parents,
            unknown_start=unknown_start,
        )
        artifacts.write(folder, lineage)
        said = privacy_record(text, record, parents, start, declared)
        artifacts.write(folder, replace(said, outside_guarantee=(*said.outside_guarantee, *outside)))
        if evaluated:
            write_evaluation(
                folder, record, private=private, patients_known=patients_known, compared=compared
            )
        papers = [folder / artifacts.place(kind) for kind in (Lineage, EvaluationRecord)]
        listed = integrity.measured(folder / "release", [path for path in papers if path.is_file()])
        record = replace(record, release=integrity.write(folder / "release", listed))
    if deterministic:
        (folder / "NOT_FOR_RELEASE").write_text("NOT FOR RELEASE\n")
    if older:
        for name in (artifacts.place(Lineage), artifacts.place(Members), artifacts.place(DataRecord)):
            (folder / name).unlink(missing_ok=True)
        (folder / "release" / integrity.CHECKSUMS).unlink(missing_ok=True)
    else:
        artifacts.write(folder, record)
    return folder


def _write_private_room(
    folder: Path, identity: str, members: Sequence[str] | None, dataset: Path | None, *, patients_known: bool
) -> None:
    if members is not None:
        artifacts.write(folder, Members(train=tuple(members), valid=(), patients_known=patients_known))
    if dataset is not None:
        digest = dataset_digest(dataset, images=False).digest
        artifacts.write(folder, DataRecord(dataset="/home/erika/data", digest=digest))
    environment = {
        "python": "3.11.9",
        "system": "Linux",
        "machine": "x86_64",
        "cpus": 2,
        "packages": {"meninx": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"},
        "source": "0123456789abcdef0123456789abcdef01234567",
        "command": [
            "meninx",
            "train",
            "dataset",
            "--recipe",
            "cxr-dp",
            "--pretrained=/home/erika/weights.pt",
        ],
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    log = [{"kind": "train", "step": s, "loss": 0.7 * 0.99**s + 0.1, "note": PLANTED} for s in range(1, 301)]
    log += [
        {"kind": "valid", "step": s, "loss": 0.72 * 0.992**s + 0.12, f"loss_{PLANTED}": 1.0}
        for s in range(25, 301, 25)
    ]
    write_log(folder, log)
    (folder / "private" / "predictions.csv").write_text(f"case_id,score\n{PLANTED},0.5\n{identity},0.1\n")


def write_log(folder: Path, rows: Sequence[dict[str, object]]) -> None:
    """Replace the training log of a run."""
    (folder / "private" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def privacy_record(
    text: str, run: RunRecord, parents: Sequence[Lineage], start: StartRecord | None, declared: int | None
) -> PrivacyRecord:
    """Return the privacy record of a run, as its ledger says."""
    origin = Origin(run=run.id, data=run.data, dataset=run.dataset, weights=run.weights, step=run.step)
    common = {"start": start or StartRecord(), "origin": origin, "version": artifacts.FORMAT}
    if not run.private:
        return PrivacyRecord(private=False, **common)
    from meninx.privacy.composition import compose

    ledger = Ledger.parse(text)
    own = ledger.spent()
    earlier = (
        [Ledger.parse("\n".join(item.ledger)) for item in parents]
        if start is not None and start.composed
        else []
    )
    spent = compose([ledger, *earlier], delta=own.delta)
    return PrivacyRecord(
        private=True,
        epsilon=spent.epsilon,
        own_epsilon=own.epsilon,
        delta=own.delta,
        unit=str(own.unit),
        relation=str(own.relation),
        noise_multiplier=own.noise_multiplier,
        max_grad_norm=own.max_grad_norm,
        sample_rate=own.sample_rate,
        steps=own.steps,
        planned_steps=run.planned_steps,
        sampler=own.sampler,
        accountant=own.accountant,
        clipping=own.clipping,
        expected_batch_size=3.6,
        declared_units=declared,
        sentence="A sentence that the page does not take from the record.",
        outside_guarantee=("the choice of the learning rate", "thresholds fitted on the validation split"),
        deterministic=run.deterministic,
        ledger=ledger.anchor,
        **common,
    )


def write_evaluation(
    folder: Path,
    run: RunRecord,
    *,
    private: bool,
    split: str = "test",
    external: str = "",
    patients_known: bool = True,
    compared: bool = True,
    **origin: object,
) -> Path:
    """Write an evaluation of a run and return its path; ``origin`` replaces fields of its origin."""
    belongs = Origin(
        run=run.id,
        data=external or run.data,
        dataset=external or "cohort",
        weights=run.weights,
        step=run.step,
        split=split,
    )
    record = EvaluationRecord(
        origin=replace(belongs, **origin),
        evaluation=evaluation(private=private, split=split).to_table(),
        external=bool(external),
        patients_compared=compared,
        patients_known=patients_known,
        thresholds_from="the validation split of cohort",
    )
    return _listed(folder, artifacts.write(folder, record, split=split, dataset=external))


def relist(folder: Path) -> None:
    """Enter all evaluations and comparisons of a run, as they are now, into the list of its release."""
    release = folder / "release"
    found = [path for path in release.glob("*.json") if path.name.startswith(("evaluation", "comparison"))]
    gone = [release / name for name in integrity.read(release) if not (release / name).is_file()]
    Run(folder).enlist(added=found, removed=gone)


def _listed(folder: Path, path: Path) -> Path:
    """Enter a file of a finished run into the list of its release, as `evaluate` does, and return it."""
    Run(folder).enlist(added=[path])
    return path


def write_comparison(folder: Path, baseline: Path, *, split: str = "test", **origin: object) -> Path:
    """Write the paired differences of a run to a baseline, and return their path."""
    truth, first, second, patients, attributes = cohort()
    rows = compare(first, second, truth, patients, LABELS, attributes, task="multilabel", seed=0, draws=200)
    runs = [artifacts.require(root, RunRecord, fix="") for root in (folder, baseline)]
    ours, theirs = (
        Origin(run=run.id, data=run.data, dataset="cohort", weights=run.weights, step=run.step, split=split)
        for run in runs
    )
    record = ComparisonRecord(
        origin=replace(ours, **origin),
        baseline=theirs,
        baseline_name=baseline.name,
        differences=tuple(row.to_table() for row in rows),
    )
    return _listed(folder, artifacts.write(folder, record, split=split))


def edit(path: Path, **fields: object) -> None:
    """Change fields of a JSON file, as somebody with an editor would."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def write_all(root: Path, **private_run: object) -> list[Path]:
    """Return the folders of a whole project below ``root``."""
    dataset = write_dataset(root / "dataset")
    private = write_run(root / "runs" / "cxr-dp_s0", private=True, dataset=dataset, **private_run)
    plain = write_run(root / "runs" / "cxr_s0", private=False, dataset=dataset)
    write_comparison(private, plain)
    return [
        *(write_deid(root / f"deid-{site}", site) for site in ("north", "south", "east")),
        dataset,
        private,
        plain,
    ]
