"""One table for several runs: what differs in their settings, what each costs, what each is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meninx.report import formatting
from meninx.report.context import ReportContext
from meninx.report.evaluations import MeasuredSplit
from meninx.report.section_limits import resolved
from meninx.report.sources import TrainedRun
from meninx.report.table_model import ReportTable, TableCell

_SETTINGS = 12  # that are named in a row
_LONGEST = 60
_NOT_SET = "not set"
_PRIVACY = "privacy."


def comparison(context: ReportContext) -> ReportTable | None:
    """Return a row per finished run; None for fewer than two.

    A number of one run is comparable with that of another only when both were measured on the same cases, so
    the row names the dataset and the number of cases.
    """
    runs = context.runs
    if len(runs) < 2:
        return None
    differing = differences(context)
    rows = tuple(
        (
            TableCell(run.name, sub=run.kind, head=True),
            _cost(run),
            *_measured(run.evidence.test, run),
            TableCell(_elsewhere(run)),
            TableCell(differing[run.key]),
        )
        for run in runs
    )
    columns = ("run", "privacy", "own test split", "n cases", "other datasets", "settings that differ")
    return ReportTable("Runs side by side", columns, rows, note=_note(context))


def differences(context: ReportContext) -> dict[str, str]:
    """Return key of a run -> the settings in which the runs differ, with its values of them.

    Settings of privacy are compared among private runs only; which runs are private has its own column.
    """
    tables = {run.key: _settings(run, hidden=context.counts_hidden) for run in context.runs}
    private = {run.key for run in context.runs if run.private}
    differing = []
    for name in sorted({name for table in tables.values() for name in table} - {"name"}):
        keys = private if name.startswith(_PRIVACY) else set(tables)
        if len({tables[key].get(name, _NOT_SET) for key in keys}) > 1:
            differing.append(name)
    return {key: _described(table, differing, key in private) for key, table in tables.items()}


def _described(table: Mapping[str, str], differing: Sequence[str], private: bool) -> str:
    mine = [name for name in differing if private or not name.startswith(_PRIVACY)]
    parts = [f"{name.replace('_', ' ')}: {table.get(name, _NOT_SET)}" for name in mine[:_SETTINGS]]
    left = len(mine) - _SETTINGS
    return "; ".join([*parts, *([f"{left} more in the last section"] if left > 0 else [])]) or "none"


def _settings(run: TrainedRun, *, hidden: bool) -> dict[str, str]:
    """Return the settings of a run as they were in the end: a private run draws as its ledger says."""
    table = _flat(resolved(run, hidden=hidden))
    spent = run.account.own if run.account is not None else None
    if spent is not None:
        table["sampling"] = spent.sampler
    return table


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            text = formatting.listed(value)
            found[f"{prefix}{name}"] = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return found


def _cost(run: TrainedRun) -> TableCell:
    """Return epsilon and delta of a run alone."""
    if not run.private:
        return TableCell("no epsilon", sub="not private")
    spent = run.account.spent if run.account is not None else None
    if run.void or spent is None:
        return TableCell("no epsilon", sub="void: noise from a seed" if run.void else "no step recorded")
    return TableCell(f"ε = {formatting.number(spent.epsilon)}", sub=f"δ = {spent.delta:g} per {run.unit}")


def _measured(measured: MeasuredSplit | None, run: TrainedRun) -> tuple[TableCell, TableCell]:
    if measured is None:
        return TableCell("not measured", number=True), TableCell(formatting.DASH, number=True)
    best = measured.evaluation.headline
    patients = measured.record.patients_known and run.patients_known
    return (
        TableCell(
            f"{formatting.metric(best.name)} {formatting.value(best)}",
            sub=formatting.interval(best),
            number=True,
        ),
        TableCell(f"{best.n:,}", sub=f"{best.patients:,} patients" if patients else "", number=True),
    )


def _elsewhere(run: TrainedRun) -> str:
    parts = []
    for measured in run.evidence.external:
        best = measured.evaluation.headline
        name = measured.dataset
        parts.append(
            f"{name} ({measured.origin.split}): {formatting.metric(best.name)} {formatting.value(best)} "
            f"{formatting.interval(best)}, n = {best.n:,}"
        )
    return "; ".join(parts) or "none"


def _note(context: ReportContext) -> str:
    """Return what the private runs cost together, and when rows may be compared."""
    sentences = []
    for joint in context.joints:
        if len(joint.runs) > 1 and joint.spent is not None:
            cost = "no epsilon holds" if joint.void else f"ε = {formatting.number(joint.epsilon)} together"
            share = "may share" if joint.assumed else "share"
            sentences.append(f"Runs {joint.names} {share} {context.people}: {cost}.")
    measured = [run.evidence.test for run in context.runs if run.evidence.test is not None]
    if len({(item.origin.dataset, item.evaluation.n_cases) for item in measured}) > 1:
        sentences.append(
            "The runs were not measured on the same test cases: their numbers are not comparable."
        )
    sentences.append(
        "The paired comparison below says whether a difference is more than chance."
        if context.comparisons
        else "Without a paired comparison nobody can say whether a difference is more than chance."
    )
    return " ".join(sentences)
