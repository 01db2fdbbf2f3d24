"""The stage: a finished run in, its audit out: ``audit/audit.json`` and the records of the parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meninx.audit import conditions, not_tested, plan_file, verdict_lines
from meninx.audit.audited_run import (
    FOLDER,
    dataset_of,
    duration_words,
    finished_record,
    origin_of,
    training_seconds,
)
from meninx.audit.part_rules import RULES, findings_of, holds_a_bound
from meninx.audit.part_rules import missing as missing_keys
from meninx.audit.parts import REGISTRY, AuditPart
from meninx.audit.plan_config import AuditConfig, AuditPlan
from meninx.audit.run_facts import facts_of, rerun_of, reservations_of
from meninx.core import artifacts, workspace
from meninx.core import run as runs
from meninx.core.artifacts import Members, RunRecord
from meninx.core.audit_parts import PARTS, place_of
from meninx.core.audit_summary import (
    DONE,
    NOT_DONE,
    AuditedPart,
    AuditRecord,
    PlainSentence,
    PlanRecord,
    registration_hash,
)
from meninx.core.errors import AuditFinding, DataError, Interrupted, problem
from meninx.core.progress import SILENT, Progress
from meninx.core.result import Result
from meninx.core.risk_records import BoundsRecord
from meninx.core.run import Run


@dataclass(frozen=True, kw_only=True)
class PlannedPart:
    """What a dry run says about a part.

    Attributes:
        name: of the part.
        seconds: about how long it takes; 0 for one that is taken over or left out.
        remark: why it is left out, or that it is taken over; else empty.
    """

    name: str
    seconds: float
    remark: str


@dataclass(frozen=True, kw_only=True)
class AuditResult(Result):
    """The audit of a run; ``out`` is the run folder's ``audit/``.

    Attributes:
        plan: the plan in full, as TOML.
        plan_sha256: its hash.
        registration: hash of plan and run together, to publish before the audit begins.
        record: the summary; None after a dry run.
        planned: what a dry run would do; empty otherwise.
        met: conditions of the caller's that are met.
        page: the page, where one was written.
    """

    plan: str
    plan_sha256: str
    registration: str = ""
    record: AuditRecord | None = None
    planned: tuple[PlannedPart, ...] = ()
    met: tuple[str, ...] = ()
    page: Path | None = None

    def summary(self) -> str:
        """Return the three lines, the plain sentences and what was not tested."""
        record = self.record
        if record is None:
            rows = [
                f"  {item.name:<14} {item.remark or f'about {duration_words(item.seconds)}'}"
                for item in self.planned
            ]
            total = sum(item.seconds for item in self.planned)
            hashes = [f"plan: sha256 {self.plan_sha256}", f"plan and run: sha256 {self.registration}"]
            lines = [self.plan.rstrip(), "", *hashes, *rows]
            return "\n".join(
                [*lines, f"  in all         about {duration_words(total)}", "dry run: nothing written"]
            )
        lines = [f"out: {self.page or self.out}"]
        lines += [f"{item.line:<15} {item.colour}: {item.word}. {item.words}" for item in record.lines]
        lines += [item.words for item in record.sentences]
        left = [f"  {part.name}: {part.reason}" for part in record.parts if part.state != DONE]
        lines += ["not done:", *left] if left else []
        lines += [record.plan.words()]
        failed = [*record.conditions, *self.met]
        return "\n".join(
            [*lines, *(["conditions that are met:"] if failed else []), *(f"  {x}" for x in failed)]
        )

    def alerts(self) -> tuple[str, ...]:
        """Return what nobody should overlook."""
        if self.record is None:
            return ()
        return (verdict_lines.NOT_PROVEN,)

    def raise_if_failed(self) -> None:
        """Raise AuditFinding when a guarantee is refuted or a condition is met.

        A red line without either, e.g. of a run without privacy, is a finding and no failure.
        """
        if self.record is None:
            return
        refuted = [f"{part.name} refutes the guarantee" for part in self.record.parts if part.refuted]
        failed = [*refuted, *self.record.conditions, *self.met]
        if failed:
            more = f"; {len(failed) - 1} more above" if len(failed) > 1 else ""
            raise AuditFinding(problem(f"{failed[0]}{more}", where="meninx audit"))


def run(
    config: AuditConfig,
    folder: Path,
    *,
    data: Path | None = None,
    fail_if: Sequence[str] = (),
    write_page: Callable[[], Path] | None = None,
    progress: Progress = SILENT,
) -> AuditResult:
    """Carry out the parts of a plan on a finished run, and write the summary.

    Finished parts with the same settings are taken over, and an interrupted one goes on where it stopped.

    Args:
        config: the plan, and how it is carried out.
        folder: a finished run of ``meninx train``, private or not.
        data: the run's dataset, where it is no longer at the recorded place.
        fail_if: conditions that fail the audit beside those of the plan, e.g. ``tpr@fpr=0.01 > 0.05``.
        write_page: writes the page and returns its path, called while no other audit of the run can begin.
        progress: shows the parts.

    Raises:
        UsageError: no finished run, results of another plan exist, or a condition names no finding.
        DataError: the dataset is not the one of the run, or a record is damaged.
        PrivacyRefusal: the records of the run contradict each other.
        Interrupted: stopped by the user; what is finished is kept.
    """
    planned = [conditions.parse(text) for text in config.limits.fail_conditions]
    wanted = [conditions.parse(text) for text in fail_if]
    subject, plan = runs.open_run(folder), plan_file.audit_plan_of(config)
    known = finished_record(subject)
    workspace.refuse_linked(subject.root, FOLDER)
    sha256 = plan_file.plan_hash(plan)
    result = AuditResult(
        out=subject.root / FOLDER, plan=plan_file.plan_text(plan), plan_sha256=sha256,
        registration=registration_hash(sha256, known.id, known.weights),
    )  # fmt: skip
    one_sided = {key: kind for name in plan.parts for key, kind in RULES[name].one_sided.items()}
    conditions.refuse_unnamed([*planned, *wanted], _patterns(plan), one_sided=one_sided)
    if data is not None:
        dataset_of(subject, data)  # refused before the plan is registered, and by a dry run too
    if config.dry_run:
        plan_file.refuse_unregistrable(subject, plan, overwrite=config.overwrite)
        return replace(result, planned=_planned(config, subject, known, data))
    with subject.audit_lock():
        record = _carried_out(config, subject, known, data, progress)
        keys, missing = record.findings, missing_keys(record.parts)
        record = replace(record, conditions=conditions.met(planned, keys, missing))
        with subject.lock():
            artifacts.write(subject.root, record)
        conditions.refuse_unknown([*planned, *wanted], keys, missing)
        page = write_page() if write_page is not None else None
    return replace(result, record=record, met=conditions.met(wanted, keys, missing), page=page)


def _patterns(plan: AuditPlan) -> tuple[str, ...]:
    """Return patterns of all keys of findings that the parts of a plan may give."""
    return tuple(key for name in plan.parts for key in (*RULES[name].keys, *RULES[name].further))


def _carried_out(
    config: AuditConfig, run: Run, record: RunRecord, data: Path | None, progress: Progress
) -> AuditRecord:
    """Register the plan, carry out its parts, and return the summary, without conditions."""
    plan = plan_file.audit_plan_of(config)
    with run.lock():
        registered = plan_file.register(run, plan, overwrite=config.overwrite)
    parts = []
    for name in plan.parts:
        part, registered = _part(REGISTRY[name], config, run, record, registered, data, progress)
        parts.append(part)
    return _summary(config, run, record, registered, parts)


# the parts


def _planned(config: AuditConfig, run: Run, record: RunRecord, data: Path | None) -> tuple[PlannedPart, ...]:
    """Return what would be done: finished parts are taken over, parts that cannot be done are left out."""
    registered, rows, made = artifacts.read(run.root, PlanRecord), [], set[str]()
    for name in config.parts:
        part = REGISTRY[name]
        known = registered is not None and _is_done(part, config, run, record, registered)
        if known and made.isdisjoint(part.after):
            remark = "finished before, taken over"
        else:
            remark = part.obstacle(run, data)
            remark = remark or (_without_dataset(run, data) if part.reads_dataset else "")
        seconds = 0.0 if remark else part.seconds(config, training_seconds(record))
        made |= set() if remark else {name}
        rows.append(PlannedPart(name=name, seconds=seconds, remark=remark))
    return tuple(rows)


def _without_dataset(run: Run, data: Path | None) -> str:
    """Return why a part that reads the dataset of a run would fail; empty when the dataset is there."""
    try:
        dataset_of(run, data)
    except DataError as error:
        return f"would fail: {error}"
    return ""


def _is_done(
    part: AuditPart, config: AuditConfig, run: Run, record: RunRecord, registered: PlanRecord
) -> bool:
    """Return whether a part is finished with the same settings, inputs and model.

    A record with a bound is made again where nothing bounds an attack on the run.
    """
    if not plan_file.finished(run, registered, part.name, part.settings_hash(config, run)):
        return False
    found = _record(run, part)
    if holds_a_bound(part.name, found) and reservations_of(run, record, most=1).void:
        return False
    return part.about(found) == (record.id, record.weights)


def _part(
    part: AuditPart,
    config: AuditConfig,
    run: Run,
    record: RunRecord,
    registered: PlanRecord,
    data: Path | None,
    progress: Progress,
) -> tuple[AuditedPart, PlanRecord]:
    """Return a part with its findings, carried out unless it is finished, and the registration with it."""
    settings_hash = part.settings_hash(config, run)
    if not _is_done(part, config, run, record, registered):
        obstacle = part.obstacle(run, data)
        if obstacle:
            return _not_done(run, part, obstacle), registered
        progress.note(f"{part.title}: about {duration_words(part.seconds(config, training_seconds(record)))}")
        begun, budget = time.monotonic(), part.minutes(config)
        watched = _Budget(progress, 60 * budget)
        try:
            part.carry_out(config, run, data, watched)
        except (Interrupted, KeyboardInterrupt):
            if not watched.spent:
                raise
            reason = f"its budget of {budget:g} minutes is used up; another call goes on where it stopped"
            return _not_done(run, part, reason), registered
        seconds = 0.0 if config.deterministic else round(time.monotonic() - begun, 1)
        with run.lock():
            registered = plan_file.enter(run, registered, part.name, settings_hash, seconds)
    found, finished = _record(run, part), registered.parts[part.name]
    if part.about(found) != (record.id, record.weights):
        where = f"{run.name}/{place_of(part.name)}"
        raise DataError(problem("the record of the part belongs to another run", where=where))
    return (
        AuditedPart(
            name=part.name, state=DONE, sha256=finished.sha256, seconds=finished.seconds,
            findings=findings_of(part.name, found, config, reservations_of(run, record)),
            refuted=RULES[part.name].refuted(found), void=RULES[part.name].void(found),
        ),
        registered,
    )  # fmt: skip


def _not_done(run: Run, part: AuditPart, reason: str) -> AuditedPart:
    """Return a part that was not done, and remove a record of other settings or another model.

    Beside a summary that says "not done" it would pass for a result of this plan.
    """
    with run.lock():
        (run.root / place_of(part.name)).unlink(missing_ok=True)
    return AuditedPart(name=part.name, state=NOT_DONE, reason=reason)


def _record(run: Run, part: AuditPart) -> Any:
    """Return the record of a part that is finished."""
    found = artifacts.read_file(run.root / place_of(part.name), PARTS[part.name].record)
    if found is None:
        raise DataError(problem("the record of the part is missing", where=place_of(part.name)))
    return found


class _Budget:
    """A progress display that stops the work, as Ctrl-C does, when its time is used up."""

    def __init__(self, progress: Progress, seconds: float) -> None:
        self._progress, self._end, self.spent = progress, time.monotonic() + seconds, False

    def start(self, label: str, total: int | None) -> None:
        """Begin a task."""
        self._progress.start(label, total)

    def advance(self, count: int = 1, **fields: float | str) -> None:
        """Report work, and stop it when the time is used up."""
        self._progress.advance(count, **fields)
        if time.monotonic() > self._end:
            self.spent = True
            raise KeyboardInterrupt

    def finish(self) -> None:
        """End the task."""
        self._progress.finish()

    def note(self, message: str) -> None:
        """Show a line."""
        self._progress.note(message)


# the summary


def _summary(
    config: AuditConfig, run: Run, record: RunRecord, registered: PlanRecord, parts: Sequence[AuditedPart]
) -> AuditRecord:
    """Return the summary of an audit, without conditions."""
    reservations = reservations_of(run, record)
    bounds = next((part for part in parts if part.name == "bounds" and part.state == DONE), None)
    proven: BoundsRecord | None = _record(run, REGISTRY["bounds"]) if bounds is not None else None
    sentences: tuple[PlainSentence, ...] = ()
    if reservations.void:
        members = artifacts.read(run.root, Members)
        whole = (len(members.train),) if members is not None and len(members.train) > 1 else ()
        sentences = verdict_lines.nothing_guaranteed([*config.bounds.candidates, *whole])
    elif proven is not None:
        sentences = verdict_lines.plain_sentences(proven, several=reservations.several)
    seconds = 0.0 if config.deterministic else round(sum(part.seconds for part in parts), 1)
    return AuditRecord(
        origin=origin_of(record, timeless=config.deterministic),
        private=record.private,
        plan=replace(registered, parts={}, text=""),
        parts=tuple(parts),
        lines=verdict_lines.lines(parts, config.limits, reservations),
        sentences=sentences,
        facts=facts_of(run, record, config, proven),
        not_tested=not_tested.left_open(parts),
        seconds=seconds,
        rerun=rerun_of(run.name),
        deterministic=config.deterministic,
    )
