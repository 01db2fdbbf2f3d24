"""Derives the summary of an audit again from the records that it names, and says where the two differ.

Whoever can write a run folder can write another summary. Its digests bind the records of the parts, so every
finding, the three lines, the sentences and the conditions are derived from these again, by the code that
wrote them. Only records are read: no model, no dataset and no network library.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from meninx.audit import conditions, not_tested, verdict_lines
from meninx.audit.part_rules import RULES, findings_of, holds_a_bound, missing
from meninx.audit.plan_config import AuditPlan
from meninx.audit.run_facts import reservations_of
from meninx.audit.verdict_lines import Reservations
from meninx.core import artifacts, files, settings
from meninx.core.artifacts import RunRecord
from meninx.core.audit_parts import FOLDER, PARTS, PLAN, place_of
from meninx.core.audit_summary import DONE, AuditedPart, AuditRecord, PlainSentence, PlanRecord, VerdictLine
from meninx.core.errors import DataError, MeninxError, problem
from meninx.core.risk_records import BoundsRecord
from meninx.core.run import Run

UNSEEN = (
    "Whether the numbers in the records of the audit are those that were measured: scores stay behind.",
    "Whether the plan of the audit was registered when it says, and before its results.",
    "Whether a part of the audit that was not done could have been done.",
    "How many cases a patient has, where a line of the audit states it.",
)
"""What cannot be derived from the records of an audit."""
_MOST_CASES = re.compile(r"a patient has up to ([\d,]{1,15})")
_LIMIT = 1 << 20
_TOLERANCE = 1e-6  # relative, between numbers that two machines computed from the same record


@dataclass(frozen=True)
class _Derived:
    """What the records say a summary has to be."""

    parts: tuple[AuditedPart, ...]
    lines: tuple[VerdictLine, ...]
    sentences: tuple[PlainSentence, ...]
    not_tested: tuple[str, ...]
    conditions: tuple[str, ...]


def records_of(root: Path) -> dict[str, Any]:
    """Return name of a part -> its record, as far as a run folder holds them."""
    found = {name: artifacts.read_file(root / place_of(name), part.record) for name, part in PARTS.items()}
    return {name: record for name, record in found.items() if record is not None}


def records_contradict(root: Path) -> Iterator[str]:
    """Yield which records of audits below a run folder contradict themselves: their verdict, their controls.

    >>> import tempfile
    >>> list(records_contradict(Path(tempfile.mkdtemp())))
    []
    """
    run = artifacts.read(root, RunRecord)
    void = reservations_of(Run(root), run, most=1).void if run is not None else ""
    for name, record in records_of(root).items():
        for words in RULES[name].contradictions(record):
            yield f"{place_of(name)}: {words}"
        if void and holds_a_bound(name, record):
            yield f"{place_of(name)}: it holds a bound, but {void}"


def summary_contradicts(root: Path, summary: AuditRecord, run: RunRecord) -> Iterator[str]:
    """Yield what in the summary of an audit does not follow from the records that it names.

    Args:
        root: the run folder, or its copy in a dossier.
        summary: ``audit/audit.json``, which is not stale.
        run: the run's record.

    Raises:
        DataError: a record is damaged.
    """
    plan = _plan(root)
    yield from _registration(root, summary)
    if tuple(part.name for part in summary.parts) != plan.parts:
        yield "its parts are not those of the plan"
        return
    found = [list(_differences(summary, again)) for again in _derived(root, summary, run, plan)]
    yield from next((wrong for wrong in found if not wrong), found[0])


def _differences(summary: AuditRecord, again: _Derived) -> Iterator[str]:
    for stated, computed in zip(summary.parts, again.parts, strict=True):
        if not _same(stated, computed):
            yield f"its findings of {stated.name} do not follow from {place_of(stated.name)}"
    for line, other in zip(summary.lines, again.lines, strict=True):
        if line != other:
            yield f"its line {line.line} is {line.colour}, by the records {other.colour}: {other.word}"
    names = ("sentences", "not_tested", "conditions")
    for name in (name for name in names if getattr(summary, name) != getattr(again, name)):
        yield f"its {name.replace('_', ' ')} do not follow from the records"


def refuse(root: Path, summary: AuditRecord, run: RunRecord) -> None:
    """Refuse the summary of an audit that does not follow from its records.

    Raises:
        DataError: names the first difference.
    """
    for words in (*records_contradict(root), *summary_contradicts(root, summary, run)):
        where, fix = f"{root.name}/{artifacts.place(AuditRecord)}", "run `meninx audit RUN --overwrite`"
        raise DataError(
            problem(f"the audit was changed, or made by other rules: {words}", where=where, fix=fix)
        )


def _plan(root: Path) -> AuditPlan:
    where = f"{FOLDER}/{PLAN}"
    try:
        table = tomllib.loads(files.read_text(root / FOLDER / PLAN, limit=_LIMIT))
        return settings.resolve(AuditPlan, (table, where))
    except (tomllib.TOMLDecodeError, RecursionError, MeninxError) as error:
        raise DataError(problem("the plan of the audit is no plan of this version", where=where)) from error


def _registration(root: Path, summary: AuditRecord) -> Iterator[str]:
    """Yield what the registration of the plan says otherwise than the summary and the records."""
    registered = artifacts.read(root, PlanRecord)
    if registered is None or replace(registered, parts={}, text="") != replace(
        summary.plan, parts={}, text=""
    ):
        yield "it states another registration of the plan than plan.json"
        return
    if any(item.results for item in registered.earlier) and not registered.after_results:
        yield "its plan took the place of one with results, and says that it was made before any"
    for name, record in records_of(root).items():
        if name not in registered.after_results and _before(_made(record), registered.registered):
            yield f"{place_of(name)} is older than the plan, which says that it was made before any result"


def _made(record: Any) -> str:
    return record.made if isinstance(record, BoundsRecord) else str(record.origin.made)


def _before(one: str, two: str) -> bool:
    """Return whether a time is before another; False where one is not known."""
    try:
        return datetime.fromisoformat(one) < datetime.fromisoformat(two)
    except (TypeError, ValueError):
        return False


def _derived(root: Path, summary: AuditRecord, run: RunRecord, plan: AuditPlan) -> Iterator[_Derived]:
    """Yield what the records say, for every number of cases of a patient that the lines leave possible."""
    records = records_of(root)
    match = _MOST_CASES.search(" ".join(line.words for line in summary.lines))
    proven = records.get("bounds")
    possible = (int(match[1].replace(",", "") or 0),) if match else (0, 1)  # 0: it was not known
    if match is None and proven is not None and proven.patient is not None and proven.patient.cases:
        possible = (proven.patient.cases,)
    for most in possible:
        held = reservations_of(Run(root), run, most=most)
        parts = tuple(_part(part, records, plan, held) for part in summary.parts)
        found = tuple(item for part in parts for item in part.findings)
        planned = [conditions.parse(text) for text in plan.limits.fail_conditions]
        yield _Derived(
            parts=parts,
            lines=verdict_lines.lines(parts, plan.limits, held),
            sentences=_sentences(parts, records, plan, held, summary),
            not_tested=not_tested.left_open(parts),
            conditions=conditions.met(planned, found, missing(parts)),
        )


def _sentences(
    parts: tuple[AuditedPart, ...],
    records: Mapping[str, Any],
    plan: AuditPlan,
    held: Reservations,
    summary: AuditRecord,
) -> tuple[PlainSentence, ...]:
    if held.void:
        stated = (item.candidates for item in summary.sentences)  # one is for all patients of the dataset
        return verdict_lines.nothing_guaranteed([*plan.bounds.candidates, *stated])
    if any(part.name == "bounds" and part.state == DONE for part in parts):
        return verdict_lines.plain_sentences(records["bounds"], several=held.several)
    return ()


def _part(part: AuditedPart, records: Mapping[str, Any], plan: AuditPlan, held: Reservations) -> AuditedPart:
    """Return a part with the findings of its record; none where it was not done."""
    if part.state != DONE:
        return replace(part, findings=(), refuted=False, void="")
    record = records[part.name]
    found = findings_of(part.name, record, plan, held)
    rules = RULES[part.name]
    return replace(part, findings=found, refuted=rules.refuted(record), void=rules.void(record))


def _same(stated: AuditedPart, computed: AuditedPart) -> bool:
    """Return whether two parts say the same, up to the last digits in which two machines may differ."""
    if (stated.refuted, stated.void) != (computed.refuted, computed.void):
        return False
    if len(stated.findings) != len(computed.findings):
        return False
    for one, two in zip(stated.findings, computed.findings, strict=True):
        for field in fields(one):
            if not _close(getattr(one, field.name), getattr(two, field.name)):
                return False
    return True


def _close(one: object, two: object) -> bool:
    if isinstance(one, float) and isinstance(two, float):
        return math.isclose(one, two, rel_tol=_TOLERANCE, abs_tol=1e-12)
    return one == two
