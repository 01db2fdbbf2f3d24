"""The plan of an audit: a TOML file whose hash is registered before any result exists.

The registration stands in ``audit/plan.json`` of the run. It proves nothing to somebody who distrusts
whoever holds the run folder: for that, publish the hash of plan and run that ``meninx audit RUN --dry-run``
prints before the audit begins.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace

from meninx.audit.plan_config import AuditConfig, AuditPlan
from meninx.core import artifacts, files, settings
from meninx.core.audit_parts import FOLDER, PARTS, PLAN, place_of, results_of
from meninx.core.audit_summary import EarlierPlan, FinishedPart, PlanRecord
from meninx.core.errors import DataError, UsageError, problem
from meninx.core.run import Run

_HEAD = "# The plan of an audit, with every setting; `meninx audit RUN --plan FILE` reads it. Threat models:"


def audit_plan_of(config: AuditConfig) -> AuditPlan:
    """Return the plan without how it is carried out."""
    return AuditPlan(**{item.name: getattr(config, item.name) for item in fields(AuditPlan)})


def plan_text(plan: AuditPlan) -> str:
    """Return the resolved plan as TOML, in which every setting is written down."""
    threats = [f"# {name}: {PARTS[name].attacker}" for name in plan.parts]
    return "\n".join([_HEAD, *threats, settings.to_toml(plan)])


def plan_hash(plan: AuditPlan) -> str:
    """Return the SHA-256 of the plan's text.

    >>> default, same, other = AuditPlan(), AuditPlan.of(references=4), AuditPlan.of(references=8)
    >>> plan_hash(default) == plan_hash(same), plan_hash(default) == plan_hash(other)
    (True, False)
    """
    return hashlib.sha256(plan_text(plan).encode()).hexdigest()


def register(run: Run, plan: AuditPlan, *, overwrite: bool) -> PlanRecord:
    """Return the registration of a plan; write it and the plan when it is a new one.

    Args:
        run: the audited run; the caller holds its lock.
        plan: the plan.
        overwrite: a plan may take the place of another of which results exist, and results may exist that
            were made without a plan. The record says so for good.

    Raises:
        UsageError: results exist already and ``overwrite`` is off.
        DataError: the registered plan was changed.
    """
    known, changed, results = _registrable(run, plan, overwrite=overwrite, write=True)
    path, sha256 = run.root / FOLDER / PLAN, plan_hash(plan)
    if known is not None and known.sha256 == sha256:
        if changed:
            files.write_text(path, plan_text(plan))
        return known
    earlier = known.earlier if known else ()
    if known is not None:
        replaced = EarlierPlan(sha256=known.sha256, registered=known.registered, results=bool(known.parts))
        earlier = (*earlier, replaced)
    path.parent.mkdir(exist_ok=True)
    record = PlanRecord(
        sha256=sha256,
        registered="" if plan.deterministic else artifacts.now(),
        after_results=results,
        earlier=earlier,
        parts=known.parts if known else {},
        text=plan_text(plan),
    )
    artifacts.write(run.root, record)  # first: it holds the plan, so that a killed process loses nothing
    files.write_text(path, record.text)
    return record


def refuse_unregistrable(run: Run, plan: AuditPlan, *, overwrite: bool) -> None:
    """Refuse what :func:`register` refuses, and write nothing: for a dry run."""
    _registrable(run, plan, overwrite=overwrite, write=False)


def _registrable(
    run: Run, plan: AuditPlan, *, overwrite: bool, write: bool
) -> tuple[PlanRecord | None, bool, tuple[str, ...]]:
    """Return the registered plan, whether its file was changed, and the results that are there already."""
    known = artifacts.read(run.root, PlanRecord)
    changed = known is not None and not _restored(run, known, write=write)
    if changed and not overwrite:
        fix = "restore the file, or give --overwrite to register a plan anew"
        where = f"{run.name}/{FOLDER}/{PLAN}"
        raise DataError(problem("the registered plan was changed, or is gone", where=where, fix=fix))
    if known is not None and known.sha256 == plan_hash(plan):
        return known, changed, ()
    results = results_of(run.root, known)
    if results and not overwrite:
        what = "results of another plan exist" if known else "results exist that were made without a plan"
        fix = "give --overwrite to go on; the page then names the plan as made after results existed"
        raise UsageError(problem(f"{what} ({', '.join(results)})", where=f"{run.name}/{FOLDER}", fix=fix))
    return known, changed, results


def finished(run: Run, record: PlanRecord, part: str, settings_hash: str) -> bool:
    """Return whether a part is finished with these settings and its record was not changed since."""
    known, path = record.parts.get(part), run.root / place_of(part)
    if known is None or known.settings != settings_hash or not path.is_file():
        return False
    return files.digest(path) == known.sha256


def enter(run: Run, record: PlanRecord, part: str, settings_hash: str, seconds: float) -> PlanRecord:
    """Return the registration with a part that was just finished, and write it.

    Raises:
        DataError: another plan was registered since.
    """
    done = FinishedPart(
        settings=settings_hash, sha256=files.digest(run.root / place_of(part)), seconds=seconds
    )
    now = artifacts.read(run.root, PlanRecord)
    if now is None or (now.sha256, now.earlier) != (record.sha256, record.earlier):
        what, fix = "another plan was registered while the audit was running", "audit again"
        raise DataError(problem(what, where=f"{run.name}/{FOLDER}/{PLAN}", fix=fix))
    record = replace(now, parts={**record.parts, part: done})
    artifacts.write(run.root, record)
    return record


def _restored(run: Run, known: PlanRecord, *, write: bool) -> bool:
    """Return whether ``plan.toml`` is the registered plan; write it again if a process was killed before it.

    A file that is neither missing nor an earlier plan was changed by somebody, and stays as it is.
    """
    path = run.root / FOLDER / PLAN
    found = files.digest(path) if path.is_file() else ""
    if found == known.sha256:
        return True
    if hashlib.sha256(known.text.encode()).hexdigest() != known.sha256:
        return False
    if found not in ("", *(item.sha256 for item in known.earlier)):
        return False
    if write:
        files.write_text(path, known.text)
    return True
