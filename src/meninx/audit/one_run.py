"""``meninx audit one-run``: is a run's implementation right? Its twin is trained with canaries.

The twin has the settings, the data and the plan of the run, a ledger and keys of its own. It lies in the
run's ``private/`` until the audit is done and is never released. A positive control follows: the same private
steps with half of the noise, on canaries alone, which the audit has to refute.
"""

from __future__ import annotations

import dataclasses
import io
import math
import shutil
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from meninx.audit.audit_files import AuditFiles
from meninx.audit.audited_run import (
    FOLDER,
    OWN_NETWORK,
    alone,
    dataset_of,
    duration_words,
    finished_record,
    has_own_network,
    origin_of,
    plan_of,
    prepared,
    refuse_other_files,
    seeded,
    training_seconds,
)
from meninx.audit.config import OneRunConfig
from meninx.audit.one_run_findings import control_words
from meninx.audit.scores import audit_lines
from meninx.core import artifacts, files, journal
from meninx.core import run as runs
from meninx.core.artifacts import Ancestry, PrivacyRecord, RunRecord
from meninx.core.audit_records import MechanismCheck, OneRunRecord, ScoreAudit
from meninx.core.errors import AuditFinding, DataError, UsageError, expected, problem
from meninx.core.manifest import Manifest
from meninx.core.percentages import percent
from meninx.core.progress import SILENT, Progress
from meninx.core.randomness import child_seed
from meninx.core.result import Result
from meninx.core.run import Run
from meninx.learn import checkpoint
from meninx.learn.batches import Batch
from meninx.learn.canaries import Canaries, CanaryScores
from meninx.learn.config import LearnConfig
from meninx.learn.dp_step import Keys, PrivateStep
from meninx.learn.fitting import fit
from meninx.learn.hooks import Hook, RoundStarted
from meninx.learn.record import FitResult
from meninx.learn.sampler import PrivateSampler, UnitBatch
from meninx.learn.state import TrainState
from meninx.learn.task import Task, image_task
from meninx.learn.trainer import Trainer
from meninx.privacy.claim import Claim
from meninx.privacy.plan import Plan
from meninx.privacy.score_audit import audit_scores, ceilings

CONTROL_NOISE = 0.5
"""Noise of the positive control over that of the plan."""
LARGE_CHANGE = 0.01
"""Change of the validation metric from which on the result warns."""
FILES = AuditFiles(kind=OneRunRecord, title="an audit with canaries", names=())
TWIN = "twin"
_COUNT = "canaries"
_COMMAND = "meninx audit one-run"


@dataclass(frozen=True, kw_only=True)
class OneRunResult(Result):
    """The audit of a run's implementation; ``out`` is its record, ``audit/one_run.json``.

    Attributes:
        record: of the twin, and of the same steps with half of the noise; None after a dry run.
        planned: what a dry run found, in sentences; empty otherwise.
        metric: name of the validation metric; empty without one.
        utility_change: metric of the twin minus that of the run, both at the last step. Private, not in the
            record.
        seconds: of the twin's training.
        overhead: share of these seconds that canaries took.
    """

    record: OneRunRecord | None
    planned: tuple[str, ...] = ()
    metric: str = ""
    utility_change: float | None = None
    seconds: float = 0.0
    overhead: float = 0.0

    @property
    def audit(self) -> ScoreAudit | None:
        """The scores of the twin's canaries against the claim."""
        return None if self.record is None else self.record.audit

    @property
    def control(self) -> ScoreAudit | None:
        """The same with half of the noise."""
        return None if self.record is None else self.record.control

    def summary(self) -> str:
        """Return the audit in words."""
        record = self.record
        if record is None:
            return "\n".join([*self.planned, "dry run: nothing was trained or written"])
        *bounds, verdict = audit_lines(record.audit)
        lines = [
            f"out: {self.out}",
            *bounds,
            *(_mechanism_lines(record.mechanism) if record.mechanism is not None else []),
            verdict if not record.refuted_by else f"verdict: REFUTED by {', '.join(record.refuted_by)}",
            f"positive control, mu {record.control.mu:.2f}: {control_words(record)}",
            f"twin: trained in {self.seconds:.1f} s, {100 * self.overhead:.1f} % of it for canaries",
        ]
        if self.utility_change is not None:
            lines.append(
                f"utility: {self.metric} {self.utility_change:+.4f} against the run, which had other noise"
            )
        return "\n".join(lines)

    def alerts(self) -> tuple[str, ...]:
        """Return what makes the audit worth less."""
        found = []
        if self.record is not None and not self.record.control_found:
            found.append("the positive control was not found, so this audit says nothing; use more canaries")
        if self.utility_change is not None and abs(self.utility_change) > LARGE_CHANGE:
            points = 100 * LARGE_CHANGE
            found.append(
                f"the validation metric of the twin differs from the run's by more than {points:g} points: "
                "canaries or other noise changed it"
            )
        return tuple(found)

    def raise_if_refuted(self) -> None:
        """Raise AuditFinding when the run's implementation is refuted, or the control was not found."""
        record = self.record
        if record is None:
            return
        if record.refuted_by:
            what = f"the run does not keep its epsilon of {record.audit.claim_epsilon:.4g}: refuted by "
            raise AuditFinding(problem(what + ", ".join(record.refuted_by), where="meninx audit one-run"))
        if not record.control_found:
            what = "half of the noise was not noticed, so the audit is too weak to say anything"
            fix = "use more --canaries"
            raise AuditFinding(problem(what, where="meninx audit one-run", fix=fix))


def run_one_run(
    config: OneRunConfig, folder: Path, *, data: Path | None = None, progress: Progress = SILENT
) -> OneRunResult:
    """Train the twin of a private run with canaries and return the verdict on its implementation.

    An interrupted audit goes on where it stopped when it is called again.

    Args:
        config: number of canaries and significance.
        folder: a finished run of ``meninx train`` with differential privacy.
        data: the run's dataset, where it is no longer at the recorded place.
        progress: shows steps, loss and epsilon.

    Raises:
        UsageError: no private run, not finished, or audited before.
        DataError: the dataset is not the one of the run.
        PrivacyRefusal: the records of the run contradict each other.
        Interrupted: stopped by the user; the twin's state is saved.
    """
    run = runs.open_run(folder)
    with alone(run, dry_run=config.dry_run):
        record = _auditable(run, config)
        content = checkpoint.load(run, "last")
        learned = seeded(
            checkpoint.config_of(content).replace(device=config.device, attack_risk=False),
            config.seed if config.deterministic else None,
        )
        plan, cases = plan_of(run, learned, content["plan"]), dataset_of(run, data)
        room = run.private / FOLDER
        if config.dry_run:
            planned = _planned(config, record, plan, cases, Run(room / TWIN))
            return OneRunResult(out=run.root, record=None, planned=planned)
        room.mkdir(mode=0o700, exist_ok=True)
        twin = prepared(room / TWIN, run, _COMMAND, deterministic=config.deterministic)
        canaries = _canaries(twin, config, learned)
        fitted, scores, network, seconds = _trained(twin, run, learned, cases, plan, canaries, progress)
        claim = Claim.of_mechanism([plan.phase(fitted.steps)], delta=plan.delta)
        audit = audit_scores(scores.included(), scores.excluded(), claim, significance=config.significance)
        progress.note("positive control: the same steps with half of the noise")
        shutil.rmtree(room / "control", ignore_errors=True)
        task = image_task(cases.info, learned.task)
        control = _control(
            prepared(room / "control", run, _COMMAND, deterministic=config.deterministic),
            network, task, plan, canaries, fitted.steps,
            seed=child_seed(config.seed, "control") if config.deterministic else None,
        )  # fmt: skip
        if config.deterministic:  # no time may differ when the audit is repeated
            seconds = scores.loader.seconds = 0.0
        found = OneRunRecord(
            audit=audit,
            control=audit_scores(
                control.included(), control.excluded(), claim, significance=config.significance
            ),
            steps=fitted.steps,
            seconds=seconds,
            overhead=scores.loader.seconds / seconds if seconds else 0.0,
            origin=origin_of(record, timeless=config.deterministic),
            mechanism=scores.mechanism(plan),
            control_mechanism=control.mechanism(plan),
        )
        out = artifacts.write(run.root, found)
        for name, values in (("in", scores.included()), ("out", scores.excluded())):
            _write_scores(room / f"{name}.npy", values)
        change = _last_metric(twin, fitted.metric_name) - _last_metric(run, fitted.metric_name)
        (room / "latest").unlink(missing_ok=True)
        for done in (twin.root, room / "control"):
            shutil.rmtree(done, ignore_errors=True)
    return OneRunResult(
        out=out, record=found, metric=fitted.metric_name, seconds=seconds,
        utility_change=change if math.isfinite(change) else None, overhead=found.overhead,
    )  # fmt: skip


def _mechanism_lines(found: MechanismCheck) -> list[str]:
    sure = percent(1 - found.significance)
    lines = [
        f"measured at the canaries, limits with {sure} confidence each:",
        f"  noise {found.noise:.3f} ({found.noise_low:.3f} to {found.noise_high:.3f}) times the promised one",
    ]
    if found.length is not None and found.length_low is not None and found.length_high is not None:
        limits = f"{found.length_low:.3f} to {found.length_high:.3f}"
        lines.append(f"  length of a clipped canary {found.length:.3f} ({limits}) times the allowed one")
    return lines


# the run


def _auditable(run: Run, config: OneRunConfig) -> RunRecord:
    """Return the record of a run that can be audited, or refuse it."""
    record = finished_record(run)
    if not record.private:
        fix = "audit a run of `meninx train --epsilon ...`"
        raise UsageError(problem("the run has no differential privacy to audit", where=run.name, fix=fix))
    if reason := obstacle(run):
        raise UsageError(problem(reason, where=run.name))
    refuse_other_files(FILES, None, run, overwrite=config.overwrite)
    return record


def obstacle(run: Run) -> str:
    """Return why the implementation of a private run cannot be audited; empty when it can."""
    table = tomllib.loads(files.read_text(run.config_path)).get("privacy")
    if isinstance(table, dict) and table.get("noise_bands", 1) != 1:
        return "canaries need independent noise, and the noise of this run is correlated over steps"
    return OWN_NETWORK if has_own_network(run) else ""


def estimated_seconds(training: float) -> float:
    """Return about how long an audit takes, from the seconds that the run was trained for."""
    return 5.0 + 1.2 * training


def _planned(
    config: OneRunConfig, record: RunRecord, plan: Plan, cases: Manifest, twin: Run
) -> tuple[str, ...]:
    """Return what an audit would do, in sentences."""
    _refuse_other_count(twin, config)
    units, most = len(cases.split("train").patients), config.canaries // 2
    limits = ceilings(most, config.canaries - most, delta=plan.delta)
    training = training_seconds(record)
    begun = "no twin is there; it would be trained from the start"
    if twin.ledger_path.is_file():
        begun = "the twin of an interrupted audit is there and would go on where it stopped"
    return (
        f"twin: {plan.steps:,} steps on {units:,} patients of the training split, noise multiplier "
        f"{plan.noise_multiplier:.4g}, as the run",
        f"  {begun}",
        f"canaries: {config.canaries:,} made-up patients, of whom about half take part",
        f"  so many cannot show an epsilon above {limits.one_run:.3g} (Steinke et al.) or {limits.fdp:.3g} "
        "(f-DP form); mu and the measured noise have no such limit",
        "positive control: the same steps with half of the noise, on canaries alone",
        f"about {duration_words(estimated_seconds(training))}, as the training of the run took "
        f"{duration_words(training)}",
    )


def _last_metric(run: Run, name: str) -> float:
    """Return the last validation metric of a run; NaN when it has none."""
    if not name or not run.metrics_path.is_file():
        return math.nan
    found = [
        table.get(name)
        for table in journal.Journal(run.metrics_path).tables()
        if table.get("kind") == "valid"
    ]
    return float(found[-1]) if found and isinstance(found[-1], (int, float)) else math.nan


# the twin


def _canaries(twin: Run, config: OneRunConfig, learned: LearnConfig) -> Canaries:
    """Return the canaries of a twin; refuse another number than an interrupted audit began with."""
    path = twin.private / _COUNT
    if not path.is_file():
        files.write_text(path, f"{config.canaries}\n", mode=files.PRIVATE_MODE)
    _refuse_other_count(twin, config)
    seed = learned.runtime.seed if learned.runtime.deterministic else None
    return Canaries(
        twin.key("canaries", seed=seed), config.canaries, most_cases=learned.sampling.cases_per_patient
    )


def _refuse_other_count(twin: Run, config: OneRunConfig) -> None:
    path = twin.private / _COUNT
    begun = files.read_text(path, limit=64).strip() if path.is_file() else str(config.canaries)
    if begun != str(config.canaries):
        fix = f"give --canaries {begun}" if begun.isdecimal() else "remove private/audit of the run"
        raise UsageError(
            expected("the canaries of the interrupted audit", got=config.canaries, where="canaries", fix=fix)
        )


class _Network(Hook):
    """Keeps the network that is trained, for the control."""

    def __init__(self) -> None:
        self.model: nn.Module | None = None

    def on_round_start(self, state: TrainState, event: RoundStarted) -> None:
        """Keep it."""
        self.model = state.model


def _trained(
    twin: Run,
    run: Run,
    config: LearnConfig,
    data: Manifest,
    plan: Plan,
    canaries: Canaries,
    progress: Progress,
) -> tuple[FitResult, CanaryScores, nn.Module, float]:
    """Return the result of the twin's training, the scores, the network and the seconds it took."""
    source = canaries.source(plan, functional=config.model.functional)
    scores, network, begun = CanaryScores(twin, canaries, source), _Network(), time.perf_counter()
    privacy = artifacts.require(run.root, PrivacyRecord, fix="train again")
    fitted = fit(
        config, data, twin, plan=plan, progress=progress, resume=twin.ledger_path.is_file(),
        ancestry=artifacts.read(run.root, Ancestry), declared_units=privacy.declared_units,
        hooks=[scores, network], sources=[source],
    )  # fmt: skip
    if network.model is None:
        raise DataError(problem("the twin was not trained", where=twin.name))
    return fitted, scores, network.model, time.perf_counter() - begun


def _write_scores(path: Path, values: np.ndarray[Any, Any]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    files.write_bytes(path, buffer.getvalue(), mode=files.PRIVATE_MODE)


# the positive control


class _NoCases:
    """The loader of a step without patients."""

    views = 1

    def batches(self, units: UnitBatch, step: int, most: int) -> Iterator[Batch]:
        """Yield nothing."""
        return iter(())


def _control(
    folder: Run,
    network: nn.Module,
    task: Task,
    plan: Plan,
    canaries: Canaries,
    steps: int,
    *,
    seed: int | None,
) -> CanaryScores:
    """Return the scores of canaries in private steps whose noise is half of what the plan promises.

    The steps run through the program's own sampler, clipping, noise and release, with an empty draw of
    patients: scores do not depend on patients' data.
    """
    halved = dataclasses.replace(plan, noise_multiplier=CONTROL_NOISE * plan.noise_multiplier, steps=steps)
    own = Canaries(folder.key("canaries", seed=seed), canaries.count, canaries.cases, canaries.most_cases)
    source = own.source(plan)
    scores, keys = (
        CanaryScores(folder, own, source),
        Keys.of(folder, resumed=False, deterministic_seed=seed),
    )
    state = TrainState.of(network, torch.optim.SGD(network.parameters(), lr=0.0))
    step = PrivateStep(
        halved, folder, task, _NoCases(), keys, binding="control", sources=[source], proved=True
    )
    sampler = PrivateSampler(halved.sampler(keys.sampling, 0), (), (), halved.sample_rate)
    Trainer(state, sampler, step, hooks=[scores]).run(until=steps)
    return scores
