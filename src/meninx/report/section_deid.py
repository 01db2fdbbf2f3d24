"""The section on de-identification: actions by attribute, departures from the profile, flagged files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from meninx.report import formatting
from meninx.report.context import ReportContext, deid_total, departures_of, keeps_attribute
from meninx.report.table_model import ReportTable, Section, TableCell

_FIRST = 15


def deid(context: ReportContext) -> Section:
    """Return the section on de-identification: departures first."""
    if not context.deid:
        return Section(
            "deid", "De-identification", ("No de-identification summary was given. Nothing is claimed here.",)
        )
    lead = [
        "Headers were de-identified attribute by attribute after DICOM PS3.15 Annex E. Every "
        "written file was searched for its "
        "own original identifiers; the findings are counted below."
    ]
    unknown = deid_total(context, "burned_in_unknown")
    text = f" {unknown:,} images may show text; nobody looked." if unknown else ""
    lead.append(
        f"Pixels were NOT checked for burned-in text.{text} Look at the images before they leave "
        "the hospital."
    )
    tables = [_departures(context), _flagged(context), _archives(context), _by_action(context)]
    reasons: Counter[str] = Counter()
    for item in context.deid:
        reasons.update(item.record.quarantined)
    tables.append(_counted("Quarantined files (never copied)", "files", reasons))
    tables.append(_by_keyword(context))
    return Section(
        "deid", "De-identification", tuple(lead), tables=tuple(table for table in tables if table is not None)
    )


def _departures(context: ReportContext) -> ReportTable | None:
    """Return every setting by which less was done than the profile asks for."""
    rows = []
    for item in context.deid:
        for departure in departures_of(item.record):
            kept = "an identifying value stays" if keeps_attribute(departure) else "less than the profile"
            chosen = formatting.ACTIONS.get(departure.chosen, "")
            rows.append(
                (
                    TableCell(departure.name, sub=kept, head=True),
                    TableCell(item.record.site or item.name),
                    TableCell(departure.kind),
                    TableCell(f"{departure.chosen} ({chosen})" if chosen else departure.chosen),
                    TableCell(departure.usual),
                    TableCell(
                        formatting.number(departure.files)
                        if not context.counts_hidden
                        else formatting.HIDDEN,
                        number=True,
                    ),
                )
            )
    columns = ("setting", "site", "kind", "what was done", "what the profile says", "files")
    return ReportTable("Departures from the profile", columns, tuple(rows)) if rows else None


def _flagged(context: ReportContext) -> ReportTable | None:
    reasons: Counter[str] = Counter()
    for item in context.deid:
        reasons.update(item.record.flagged)
    return _counted("Images that may show text in their pixels; nobody looked", "images", reasons)


def _counted(caption: str, what: str, reasons: Mapping[str, int]) -> ReportTable | None:
    rows = tuple(
        (TableCell(code, head=True), TableCell(f"{count:,}", number=True))
        for code, count in sorted(reasons.items())
    )
    return ReportTable(caption, ("reason", what), rows) if rows else None


def _archives(context: ReportContext) -> ReportTable:
    exact = (
        "files_read",
        "files_written",
        "quarantined",
        "patients",
        "studies",
        "series",
        "residual_findings",
    )
    keys = ("quarantined", "residual_findings") if context.counts_hidden else exact
    columns = ("site", "profile and options", *(key.replace("_", " ") for key in keys))
    rows = []
    for item in context.deid:
        record = item.record
        chosen = formatting.listed([record.profile or "none", *record.options])
        counts = (
            TableCell(formatting.number(formatting.total(getattr(record, key))), number=True) for key in keys
        )
        rows.append((TableCell(record.site or item.name, head=True), TableCell(chosen), *counts))
    return ReportTable(
        "Archives",
        columns,
        tuple(rows),
        note=formatting.WHY_HIDDEN if context.counts_hidden else "Counts are exact.",
    )


def _actions(context: ReportContext) -> dict[str, Counter[str]]:
    merged: dict[str, Counter[str]] = {}
    for item in context.deid:
        for keyword, counts in item.record.actions.items():
            merged.setdefault(keyword, Counter()).update(counts)
    return merged


def _by_action(context: ReportContext) -> ReportTable:
    merged = _actions(context)
    totals: Counter[str] = Counter()
    touched: Counter[str] = Counter()
    for counts in merged.values():
        totals.update(counts)
        touched.update(counts.keys())
    rows = tuple(
        (
            TableCell(action, head=True),
            TableCell(formatting.ACTIONS.get(action, "other")),
            TableCell(f"{touched[action]:,}", number=True),
            TableCell(formatting.HIDDEN if context.counts_hidden else f"{count:,}", number=True),
        )
        for action, count in sorted(totals.items())
    )
    return ReportTable("Actions", ("action", "meaning", "attributes", "values"), rows)


def _by_keyword(context: ReportContext) -> ReportTable:
    """Return the actions of every attribute.

    Attributes that stay come first, because a reader must judge them.
    """
    ranked = sorted(
        _actions(context).items(), key=lambda pair: (*(letter not in pair[1] for letter in "KC"), pair[0])
    )
    rows = tuple(
        (
            TableCell(keyword, head=True),
            TableCell(
                ", ".join(
                    action if context.counts_hidden else f"{action} × {count:,}"
                    for action, count in sorted(counts.items())
                )
            ),
        )
        for keyword, counts in ranked
    )
    caption = "Actions by attribute: kept (K) and cleaned (C) ones first"
    return ReportTable(
        caption,
        ("attribute", "actions" if context.counts_hidden else "actions × values"),
        rows[:_FIRST],
        more=rows[_FIRST:],
    )
