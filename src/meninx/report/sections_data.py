"""Sections on the way of the data: what was done, and de-identification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from meninx.report import words
from meninx.report.blocks import Cell, Section, Table, facts
from meninx.report.context import Context
from meninx.report.verdict import pixels_checked

_FIRST = 15
_CONFIG = ("model", "loss", "optimizer", "lr", "batch_size", "epochs", "steps", "seed")


def done(context: Context) -> Section:
    """Return the section that says what was done: pipeline, counts, recipe."""
    tables = []
    for dataset in context.datasets:
        if dataset.counts:
            tables.append(_counts(f"Dataset {dataset.name}: split by patient", "split", dataset.counts))
        if len(dataset.sites) > 1:
            tables.append(_counts(f"Dataset {dataset.name}: sites", "site", dataset.sites))
        if dataset.positives:
            rows = tuple(
                (Cell(label, head=True), Cell(f"{yes:,}", number=True), Cell(f"{known:,}", number=True))
                for label, (yes, known) in dataset.positives.items()
            )
            tables.append(Table(f"Dataset {dataset.name}: labels", ("label", "positive cases", "cases with known label"), rows))
    for run in context.runs:
        chosen = [(key, run.config[key]) for key in _CONFIG if key in run.config]
        if chosen:
            kind = "private" if run.private else "not private"
            tables.append(facts(f"Recipe of run {run.name} ({kind})", chosen, "The whole config is in the last section."))
    return Section("done", "What was done", tables=tuple(tables), pipeline=_pipeline(context))


def _counts(caption: str, what: str, counts: Mapping[str, tuple[int, int]]) -> Table:
    rows = [
        (Cell(name, head=True), Cell(f"{cases:,}", number=True), Cell(f"{patients:,}", number=True))
        for name, (cases, patients) in counts.items()
    ]
    total = tuple(sum(pair[index] for pair in counts.values()) for index in (0, 1))
    rows.append((Cell("all", head=True), Cell(f"{total[0]:,}", number=True), Cell(f"{total[1]:,}", number=True)))
    return Table(caption, (what, "cases", "patients"), tuple(rows))


def _pipeline(context: Context) -> tuple[tuple[str, str, str], ...]:
    steps = []
    if context.deid:
        read, written, quarantined = (_sum(context, key) for key in ("files_read", "files_written", "quarantined"))
        steps.append(("archives", f"{read:,} files", f"of {len(context.deid)} site{'s' if len(context.deid) > 1 else ''}"))
        steps.append(("de-identified", f"{written:,} files", f"{quarantined:,} quarantined"))
    for dataset in context.datasets:
        cases, patients = (sum(pair[index] for pair in dataset.counts.values()) for index in (0, 1))
        steps.append(
            ("prepared", f"{cases:,} cases" if cases else "dataset", f"{patients:,} patients" if patients else dataset.name)
        )
    if context.runs:
        models = dict.fromkeys(str(run.config.get("model", "model")) for run in context.runs)
        spent = (
            f"ε = {words.number((run.privacy or {}).get('epsilon'))}" if run.private else "not private" for run in context.runs
        )
        steps.append(("trained", ", ".join(models), "; ".join(dict.fromkeys(spent))))
    for run in context.runs[:1]:
        if run.evaluation:
            best = run.evaluation.headline
            value = f"{words.metric(best.name)} {words.value(best)}"
            steps.append(("evaluated", value, f"{words.interval(best)}, n = {best.n:,}"))
    return (*steps, ("reported", "this page", context.date))


def _sum(context: Context, key: str) -> int:
    return sum(words.total(item.table.get(key)) or 0 for item in context.deid)


def deid(context: Context) -> Section:
    """Return the section on de-identification."""
    if not context.deid:
        return Section("deid", "De-identification", ("No de-identification summary was given. Nothing is claimed here.",))
    lead = [
        "Headers were de-identified attribute by attribute after DICOM PS3.15 Annex E. Every written file was searched for its "
        "own original identifiers; the findings are counted below."
    ]
    if not all(pixels_checked(item.table) for item in context.deid):
        unknown = _sum(context, "burned_in_unknown")
        said = f" In {unknown:,} files text may be burned in; nobody looked." if unknown else ""
        lead.append(f"Pixels were NOT checked for burned-in text.{said} Look at the images before they leave the hospital.")
    tables = [_archives(context), _by_action(context)]
    reasons: Counter[str] = Counter()
    for item in context.deid:
        reasons.update({str(key): words.total(value) or 0 for key, value in (item.table.get("quarantined") or {}).items()})
    if reasons:
        rows = tuple((Cell(code, head=True), Cell(f"{count:,}", number=True)) for code, count in sorted(reasons.items()))
        tables.append(Table("Quarantined files (never copied)", ("reason", "files"), rows))
    tables.append(_by_keyword(context))
    return Section("deid", "De-identification", tuple(lead), tables=tuple(tables))


def _archives(context: Context) -> Table:
    keys = ("files_read", "files_written", "quarantined", "patients", "studies", "series", "residual_findings")
    columns = ("site", "profile and options", *(key.replace("_", " ") for key in keys))
    rows = []
    for item in context.deid:
        table = item.table
        chosen = words.listed([table.get("profile") or "none", *_names(table.get("options"))])
        counts = (Cell(words.number(words.total(table.get(key))), number=True) for key in keys)
        rows.append((Cell(str(table.get("site") or item.name), head=True), Cell(chosen), *counts))
    return Table("Archives", columns, tuple(rows), note="Counts are exact.")


def _names(options: Any) -> list[str]:
    if isinstance(options, Mapping):
        return [str(key) for key, value in options.items() if value]
    return [str(item) for item in options] if isinstance(options, (list, tuple)) else []


def _actions(context: Context) -> dict[str, Counter[str]]:
    merged: dict[str, Counter[str]] = {}
    for item in context.deid:
        for keyword, counts in (item.table.get("actions") or {}).items():
            merged.setdefault(str(keyword), Counter()).update(
                {str(key): words.total(value) or 0 for key, value in counts.items()}
            )
    return merged


def _by_action(context: Context) -> Table:
    merged = _actions(context)
    totals: Counter[str] = Counter()
    touched: Counter[str] = Counter()
    for counts in merged.values():
        totals.update(counts)
        touched.update(counts.keys())
    rows = tuple(
        (
            Cell(action, head=True),
            Cell(words.ACTIONS.get(action, "other")),
            Cell(f"{touched[action]:,}", number=True),
            Cell(f"{count:,}", number=True),
        )
        for action, count in sorted(totals.items())
    )
    return Table("Actions", ("action", "meaning", "attributes", "values"), rows)


def _by_keyword(context: Context) -> Table:
    ranked = sorted(_actions(context).items(), key=lambda pair: (-sum(pair[1].values()), pair[0]))
    rows = tuple(
        (
            Cell(keyword, head=True),
            Cell(", ".join(f"{action} × {count:,}" for action, count in sorted(counts.items()))),
        )
        for keyword, counts in ranked
    )
    return Table("Actions by attribute", ("attribute", "actions × values"), rows[:_FIRST], more=rows[_FIRST:])
