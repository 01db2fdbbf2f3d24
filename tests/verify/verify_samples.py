"""Small folders as the stages write them, made through the one writer of their records."""

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path

from meninx.core import artifacts, files, integrity, workspace
from meninx.core import run as runs
from meninx.core.artifacts import (
    DeidRecord,
    EvaluationRecord,
    Lineage,
    Origin,
    PrepareRecord,
    PrivacyRecord,
    RunState,
    SweepRecord,
)
from meninx.core.budget import PrivacyUnit
from meninx.core.run import Run

WEIGHTS, DATA, STEPS = "c" * 64, "d" * 64, 3
PLAN = {
    "sample_rate": 0.1,
    "steps": STEPS,
    "noise_multiplier": 1.0,
    "max_grad_norm": 1.0,
    "delta": 1e-3,
    "expected_batch_size": 10.0,
    "n_units_declared": 100,
}


@cache
def ledger_lines(stream: str = "s", steps: int = STEPS) -> str:
    """Return the text of a ledger of a few steps."""
    from meninx.privacy.ledger import Ledger
    from meninx.privacy.plan import Plan

    plan = Plan(unit=PrivacyUnit.PATIENT, **PLAN)
    ledger, text = Ledger(), ""
    for step in range(steps):
        ledger, line = ledger.next(plan, step, stream=stream)
        text += line
    return text


def a_run(parent: Path, name: str = "a", *, private: bool = True, stream: str = "s") -> Run:
    """Return a released run with one evaluation."""
    run = runs.create(parent, name, config_toml="epochs = 1\n", private=private)
    origin = Origin(run=run.record.id, data=DATA, weights=WEIGHTS, step=STEPS)
    text = ledger_lines(stream) if private else ""
    if private:
        files.write_text(run.ledger_path, text, mode=0o600)
    files.write_text(run.release / "bundle" / "models" / "model.pt", "weights")
    files.write_text(run.release / "bundle" / "configs" / "metadata.json", "{}")
    artifacts.write(
        run.root,
        _promise(text, origin) if private else PrivacyRecord(private=False, origin=origin, version=2),
    )
    lines = tuple(text.split("\n")) if private else ()
    delta = PLAN["delta"] if private else 0.0
    artifacts.write(
        run.root, Lineage(run=run.record.id, private=private, data=DATA, ledger=lines, delta=delta)
    )
    artifacts.write(run.root, EvaluationRecord(origin=replace(origin, split="test"), evaluation={}))
    release = integrity.write(
        run.release, integrity.measured(run.release, [p for p in run.release.rglob("*") if p.is_file()])
    )
    run.update(
        state=RunState.RELEASED, data=DATA, weights=WEIGHTS, release=release, step=STEPS, planned_steps=STEPS
    )
    run.update(released_step=STEPS, privacy=sha256(run.root / artifacts.place(PrivacyRecord)))
    return run


def listed_again(run: Run) -> None:
    """Enter the release as it is now into its list and the list into the record."""
    found = [path for path in run.release.rglob("*") if path.is_file() and path.name != integrity.CHECKSUMS]
    run.update(release=integrity.write(run.release, integrity.measured(run.release, found)))


def _promise(text: str, origin: Origin) -> PrivacyRecord:
    from meninx.privacy.ledger import Ledger

    ledger = Ledger.parse(text)
    spent = ledger.spent()
    return PrivacyRecord(
        private=True,
        epsilon=spent.epsilon,
        own_epsilon=spent.epsilon,
        delta=spent.delta,
        unit=str(spent.unit),
        relation=str(spent.relation),
        noise_multiplier=spent.noise_multiplier,
        max_grad_norm=spent.max_grad_norm,
        sample_rate=spent.sample_rate,
        steps=spent.steps,
        sampler=spent.sampler,
        clipping=spent.clipping,
        outside_guarantee=("the choice of the learning rate",),
        ledger=ledger.anchor,
        origin=origin,
        version=2,
    )


def a_dataset(root: Path) -> Path:
    """Return a prepared dataset of two cases."""
    with workspace.claim(root, stage="prepare", fingerprint="a") as space:
        for name in ("c1", "c2"):
            files.write_text(space.staging / "images" / f"{name}.png", name)
        rows = "".join(f"{name},p{name},,,train,images/{name}.png,,1\n" for name in ("c1", "c2"))
        files.write_text(
            space.staging / "manifest.csv", f"case_id,patient_id,study,site,split,image,mask,a\n{rows}"
        )
        files.write_text(space.staging / "dataset.toml", 'name = "x"\ntask = "multilabel"\nlabels = ["a"]\n')
        own = integrity.write(space.staging, integrity.measured(space.staging, _files(space.staging)))
        artifacts.write(
            space.staging,
            PrepareRecord(name="x", reader="table", task="multilabel", cases=2, patients=2, checksums=own),
        )
        space.publish(["images", "manifest.csv", "dataset.toml", integrity.CHECKSUMS, "prepare.json"])
    return root


def an_archive(root: Path) -> Path:
    """Return a clean archive of one file."""
    with workspace.claim(root, stage="deid", fingerprint="a") as space:
        files.write_text(space.staging / "images" / "1" / "2.dcm", "x")
        own = integrity.write(space.staging, integrity.measured(space.staging, _files(space.staging)))
        artifacts.write(space.staging, DeidRecord(profile="basic", checksums=own))
        space.publish(["images", integrity.CHECKSUMS, "deid.json"])
    return root


def half_done(root: Path) -> None:
    """Fail in the middle of de-identification."""
    with workspace.claim(root, stage="deid", fingerprint="a") as space:
        files.write_text(space.staging / "half", "x")
        raise RuntimeError


def a_sweep(root: Path) -> list[Run]:
    """Return the runs of a sweep of two cells."""
    found = [a_run(root / "cells" / epsilon / "0", stream=epsilon) for epsilon in ("1", "8")]
    artifacts.write(root, SweepRecord(rows=(), together=None, runs=tuple(run.record.id for run in found)))
    return found


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
