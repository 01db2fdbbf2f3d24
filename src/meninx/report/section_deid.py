"""The section on de-identification: departures from the profile, what stays, flagged files, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from meninx.core import review_words
from meninx.core.artifacts import DeidRecord
from meninx.core.summaries import UNSEARCHED, not_searched, number_of, unsearched
from meninx.deid.papers import statement
from meninx.dicomfile import refusals
from meninx.report import deid_attributes, formatting
from meninx.report.context import ReportContext, deid_total, departures_of, keeps_attribute
from meninx.report.table_model import ReportTable, Section, TableCell

_NAMED = 3  # attributes of a subject that are named in its row


def deid(context: ReportContext) -> Section:
    """Return the section on de-identification: departures first, then what stays, then counts."""
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
    if unknown or not all(item.record.pixels == "redact" for item in context.deid):
        text = f" {unsearched(unknown)}." if unknown else ""
        lead.append(
            f"Pixels were NOT checked for burned-in text.{text} Look at the images before they leave "
            "the hospital."
        )
    else:
        records = [item.record for item in context.deid]
        recoded = sum(record.pixels_recoded for record in records)
        searched, redacted = (deid_total(context, f"pixels_{name}") for name in ("searched", "redacted"))
        kept_out = sum(refusals.kept_out_after_search(record.quarantined) for record in records)
        lead.append(
            "Images that may hold text by their header (ultrasound, captures, localizers, dose pages and the "
            f"like) were searched for it: {number_of(searched + kept_out, 'image')}, text redacted in "
            f"{redacted:,}"
            + (f", {kept_out:,} kept out." if kept_out else ".")
            + _left_out(records)
            + _review(context)
            + f" Compression was given up in {number_of(recoded, 'image')}."
        )
    tables = [
        _departures(context),
        _what_stays(context),
        _flagged(context),
        _archives(context),
        _by_action(context),
    ]
    reasons: Counter[str] = Counter()
    for item in context.deid:
        reasons.update(item.record.quarantined)
    tables.append(_counted("Quarantined files (never copied)", "files", reasons))
    tables += _by_keyword(context)
    remaining = dict.fromkeys(
        sentence for item in context.deid for sentence in statement.remains(item.record)
    )
    return Section(
        "deid",
        "De-identification",
        tuple(lead),
        tables=tuple(table for table in tables if table is not None),
        points=tuple(remaining),
    )


def _left_out(records: Sequence[DeidRecord]) -> str:
    """Return how many images were not searched; older archives do not have the number."""
    counts = [record.images for record in records if record.images is not None]
    if len(counts) < len(records):
        return "" if all(record.search_all for record in records) else " Other images were not searched."
    searched, images = sum(record.pixels_searched for record in records), sum(counts)
    kept_out = sum(refusals.kept_out_after_search(record.quarantined) for record in records)
    return f" {not_searched(searched + kept_out, images + kept_out)}." if images > searched else ""


def _review(context: ReportContext) -> str:
    """Return what reviewers decided about the text in pixels, per archive with decisions."""
    found = []
    for item in context.deid:
        if review := item.record.review:
            words = "; ".join((review_words.decided(review), *review_words.left(review)))
            found.append(f" Review at {item.record.site or item.name}: {words}.")
    return "".join(found)


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
    return _counted(UNSEARCHED.capitalize(), "images", reasons)


def _counted(caption: str, what: str, reasons: Mapping[str, int]) -> ReportTable | None:
    rows = tuple(
        (TableCell(code, sub=refusals.meaning(code), head=True), TableCell(f"{count:,}", number=True))
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


def _what_stays(context: ReportContext) -> ReportTable:
    """Return what the files still tell about a patient, by subject: those of which something stays first."""
    found = deid_attributes.remaining([item.record for item in context.deid])
    rows = []
    for item in sorted(found, key=lambda item: not item.staying):
        if not (item.staying or item.going):
            continue
        staying = sorted(item.staying, key=lambda keyword: (-item.staying[keyword].total(), keyword))
        named = formatting.joined(staying[:_NAMED]) if staying else ""
        if len(staying) > _NAMED:
            named = f"{', '.join(staying[:_NAMED])} and {len(staying) - _NAMED} more"
        counts = (TableCell(_count(context, number), number=True) for number in (item.stays, item.goes))
        rows.append((TableCell(item.title, sub=named, head=True), TableCell(item.what or "nothing"), *counts))
    absent = [item.title for item in found if not (item.staying or item.going)]
    note = "The lists below name every attribute. What stays can point to a person together with others."
    if absent:
        note = f"No file has an attribute about: {'; '.join(absent)}. {note}"
    columns = ("about", "what stays in the files", "values that stay", "values removed or replaced")
    caption = "What the files still tell about a patient"
    return ReportTable(caption, columns, tuple(rows), note=note, wide=True)


def _count(context: ReportContext, number: int) -> str:
    return formatting.HIDDEN if context.counts_hidden and number else f"{number:,}"


def _by_action(context: ReportContext) -> ReportTable:
    totals: Counter[str] = Counter()
    touched: Counter[str] = Counter()
    for counts in deid_attributes.merged(item.record.actions for item in context.deid).values():
        totals.update(counts)
        touched.update(counts.keys())
    rows = tuple(
        (
            TableCell(action, head=True),
            TableCell(formatting.ACTIONS.get(action, "other")),
            TableCell(f"{touched[action]:,}", number=True),
            TableCell(_count(context, count), number=True),
        )
        for action, count in sorted(totals.items())
    )
    return ReportTable("Actions over all attributes", ("action", "meaning", "attributes", "values"), rows)


def _by_keyword(context: ReportContext) -> list[ReportTable]:
    """Return folded lists of every attribute: those above that stay, technical ones that stay, all others."""
    records = [item.record for item in context.deid]
    told = deid_attributes.remaining(records)
    technical = deid_attributes.others(records)
    staying = {word: counts for word, counts in technical.items() if deid_attributes.stays(counts)}
    going = {word: counts for word, counts in technical.items() if word not in staying}
    lists = {
        "Attributes about a patient that stay": {
            word: counts for item in told for word, counts in item.staying.items()
        },
        "Technical attributes that stay": staying,
        "Attributes of which nothing stays": going
        | {word: counts for item in told for word, counts in item.going.items()},
    }
    return [_listed(context, caption, found) for caption, found in lists.items() if found]


def _listed(context: ReportContext, caption: str, found: Mapping[str, Mapping[str, int]]) -> ReportTable:
    pairs = tuple(
        (
            keyword,
            ", ".join(
                action if context.counts_hidden else f"{action} × {count:,}"
                for action, count in sorted(counts.items())
            ),
        )
        for keyword, counts in sorted(found.items())
    )
    return ReportTable(caption, (), (), names=pairs)
