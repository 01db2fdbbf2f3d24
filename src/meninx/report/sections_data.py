"""Sections on the way of the data: what was done, and de-identification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from meninx.report import words
from meninx.report.blocks import Cell, Section, Table, facts
from meninx.report.context import Context
from meninx.report.departures import keeps, said_of
from meninx.report.sources import Dataset, TrainedRun

_FIRST = 15
_CONFIG = ("model", "loss", "optimizer", "lr", "batch_size", "epochs", "steps", "sampling", "seed")
_HIDDEN = "not shown"
_WHY_HIDDEN = (
    "A run declared its number of units, so that nobody learns the true one: counts that hold "
    "training cases, and totals "
    "from which they could be computed, are not shown."
)


def done(context: Context) -> Section:
    """Return the section that says what was done: pipeline, counts, recipe."""
    tables: list[Table] = []
    for dataset in context.datasets:
        tables += _dataset(context, dataset)
    for run in context.runs:
        chosen = _resolved(run, hidden=context.counts_hidden)
        if chosen:
            tables.append(
                facts(
                    f"Recipe of run {run.name} ({run.kind})",
                    chosen,
                    "The whole config is in the last section.",
                )
            )
    if context.unfinished:
        rows = tuple(
            (Cell(run.name, head=True), Cell(run.kind), Cell(f"{run.record.step:,}", number=True))
            for run in context.unfinished
        )
        note = (
            "Interrupted, killed or still running: nothing else on this page is about them, but what "
            "they spent counts."
        )
        tables.append(Table("Runs that are not finished", ("run", "kind", "steps recorded"), rows, note=note))
    return Section("done", "What was done", tables=tuple(tables), pipeline=_pipeline(context))


def _resolved(run: TrainedRun, *, hidden: bool) -> list[tuple[str, object]]:
    """Return the settings of a recipe as they were in the end.

    One that only says "decide later" is left out.
    """
    chosen: dict[str, object] = {key: run.config[key] for key in _CONFIG if key in run.config}
    if run.record.planned_steps:
        chosen["steps"] = run.record.planned_steps
    spent = run.account.own if run.account is not None else None
    if spent is not None:
        chosen["sampling"] = spent.sampler
        chosen["steps"] = spent.steps
    if chosen.get("steps") == 0 or (hidden and not run.private):
        chosen.pop("steps", None)
    return [(key, value) for key, value in chosen.items() if value != "auto"]


def _dataset(context: Context, dataset: Dataset) -> list[Table]:
    """Return the tables of one dataset.

    With a declared number nothing that tells how many cases training has.
    """
    runs = context.runs_of(dataset)
    known = all(run.data is not None and run.data.digest for run in (*context.runs, *context.unfinished))
    strange = (context.runs or context.unfinished) and not runs
    name = f"Dataset {dataset.name}"
    if strange:
        name += " (another dataset than the run's own)" if known else " (not compared with the run's own)"
    hidden = context.counts_hidden
    tables = []
    if dataset.counts:
        tables.append(_counts(f"{name}: by split", "split", dataset, _declared(runs) if hidden else None))
    if len(dataset.sites) > 1 and not hidden:
        tables.append(_counts(f"{name}: sites", "site", dataset, None))
    if dataset.positives and not hidden:
        rows = tuple(
            (Cell(label, head=True), Cell(f"{yes:,}", number=True), Cell(f"{known_cases:,}", number=True))
            for label, (yes, known_cases) in dataset.positives.items()
        )
        tables.append(Table(f"{name}: labels", ("label", "positive cases", "cases with known label"), rows))
    return tables


def _declared(runs: Sequence[TrainedRun]) -> str:
    numbers = sorted({run.declared for run in runs if run.private and run.declared is not None})
    return f"declared: {', '.join(f'{number:,}' for number in numbers)}" if numbers else _HIDDEN


def _counts(caption: str, what: str, dataset: Dataset, declared: str | None) -> Table:
    """Return cases and patients by split or site.

    Args:
        caption: of the table.
        what: ``split`` or ``site``.
        dataset: the counts.
        declared: what stands for the training split where a number was declared; None where counts may be
            shown.
    """
    counts = dataset.counts if what == "split" else dataset.sites
    named = dataset.info.patients_known
    rows = []
    for name, (cases, patients) in counts.items():
        shown = (f"{cases:,}", f"{patients:,}")
        if declared is not None and name == "train":
            shown = (_HIDDEN, declared) if named else (declared, "")
        rows.append(
            (Cell(name, head=True), *(Cell(text, number=True) for text in shown[: 2 if named else 1]))
        )
    if declared is None:
        total = tuple(sum(pair[index] for pair in counts.values()) for index in (0, 1))
        rows.append(
            (
                Cell("all", head=True),
                *(Cell(f"{number:,}", number=True) for number in total[: 2 if named else 1]),
            )
        )
    columns = (what, "cases", "patients") if named else (what, "images")
    note = (
        _WHY_HIDDEN
        if declared is not None
        else ""
        if named
        else "The source names no patients: every image counts as one."
    )
    return Table(caption, columns, tuple(rows), note=note)


def _pipeline(context: Context) -> tuple[tuple[str, str, str], ...]:
    steps = []
    if context.deid:
        sites = f"of {len(context.deid)} site{'s' if len(context.deid) > 1 else ''}"
        read, written, quarantined = (
            _sum(context, key) for key in ("files_read", "files_written", "quarantined")
        )
        if context.counts_hidden:
            steps += [
                ("archives", "DICOM files", sites),
                ("de-identified", "DICOM files", f"{quarantined:,} quarantined"),
            ]
        else:
            steps.append(("archives", f"{read:,} files", sites))
            steps.append(("de-identified", f"{written:,} files", f"{quarantined:,} quarantined"))
    known = [run for run in context.runs if run.data is not None and run.data.digest]
    datasets = [
        item
        for item in context.datasets
        if len(known) < len(context.runs) or not known or context.runs_of(item)
    ]
    if context.datasets and not datasets:
        steps.append(
            ("prepared", "not given", "the run's own dataset" if len(known) == 1 else "the runs' own dataset")
        )
    for dataset in datasets:
        cases, patients = (sum(pair[index] for pair in dataset.counts.values()) for index in (0, 1))
        if context.counts_hidden or not cases:
            steps.append(("prepared", "dataset", dataset.name))
        else:
            people = f"{patients:,} patients" if dataset.info.patients_known else dataset.name
            steps.append(("prepared", f"{cases:,} cases", people))
    if context.runs:
        models = dict.fromkeys(str(run.config.get("model", "model")) for run in context.runs)
        steps.append(
            ("trained", ", ".join(models), "; ".join(dict.fromkeys(_cost(run) for run in context.runs)))
        )
    run = context.headline
    if run is not None and run.evidence.test is not None:
        best = run.evidence.test.evaluation.headline
        value = f"{words.metric(best.name)} {words.value(best)}"
        steps.append(("evaluated", value, f"{words.interval(best)}, n = {best.n:,}"))
    return (*steps, ("reported", "this page", context.date))


def _cost(run: TrainedRun) -> str:
    if not run.private:
        return "not private"
    spent = run.account.spent if run.account is not None else None
    return "no privacy guarantee" if run.void or spent is None else f"ε = {words.number(spent.epsilon)}"


def _sum(context: Context, key: str) -> int:
    return sum(words.total(getattr(item.record, key)) or 0 for item in context.deid)


def deid(context: Context) -> Section:
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
    unknown = _sum(context, "burned_in_unknown")
    said = f" {unknown:,} images may show text; nobody looked." if unknown else ""
    lead.append(
        f"Pixels were NOT checked for burned-in text.{said} Look at the images before they leave "
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


def _departures(context: Context) -> Table | None:
    """Return every setting by which less was done than the profile says."""
    rows = []
    for item in context.deid:
        for departure in said_of(item.record):
            kept = "an identifying value stays" if keeps(departure) else "less than the profile"
            chosen = words.ACTIONS.get(departure.chosen, "")
            rows.append(
                (
                    Cell(departure.name, sub=kept, head=True),
                    Cell(item.record.site or item.name),
                    Cell(departure.kind),
                    Cell(f"{departure.chosen} ({chosen})" if chosen else departure.chosen),
                    Cell(departure.usual),
                    Cell(
                        words.number(departure.files) if not context.counts_hidden else _HIDDEN, number=True
                    ),
                )
            )
    columns = ("setting", "site", "kind", "what was done", "what the profile says", "files")
    return Table("Departures from the profile", columns, tuple(rows)) if rows else None


def _flagged(context: Context) -> Table | None:
    reasons: Counter[str] = Counter()
    for item in context.deid:
        reasons.update(item.record.flagged)
    return _counted("Images that may show text in their pixels; nobody looked", "images", reasons)


def _counted(caption: str, what: str, reasons: Mapping[str, int]) -> Table | None:
    rows = tuple(
        (Cell(code, head=True), Cell(f"{count:,}", number=True)) for code, count in sorted(reasons.items())
    )
    return Table(caption, ("reason", what), rows) if rows else None


def _archives(context: Context) -> Table:
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
        chosen = words.listed([record.profile or "none", *record.options])
        counts = (Cell(words.number(words.total(getattr(record, key))), number=True) for key in keys)
        rows.append((Cell(record.site or item.name, head=True), Cell(chosen), *counts))
    return Table(
        "Archives", columns, tuple(rows), note=_WHY_HIDDEN if context.counts_hidden else "Counts are exact."
    )


def _actions(context: Context) -> dict[str, Counter[str]]:
    merged: dict[str, Counter[str]] = {}
    for item in context.deid:
        for keyword, counts in item.record.actions.items():
            merged.setdefault(keyword, Counter()).update(counts)
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
            Cell(_HIDDEN if context.counts_hidden else f"{count:,}", number=True),
        )
        for action, count in sorted(totals.items())
    )
    return Table("Actions", ("action", "meaning", "attributes", "values"), rows)


def _by_keyword(context: Context) -> Table:
    """Return the actions of every attribute: those that stay first, for they are what a reader has to judge."""
    ranked = sorted(
        _actions(context).items(), key=lambda pair: (*(letter not in pair[1] for letter in "KC"), pair[0])
    )
    rows = tuple(
        (
            Cell(keyword, head=True),
            Cell(
                ", ".join(
                    action if context.counts_hidden else f"{action} × {count:,}"
                    for action, count in sorted(counts.items())
                )
            ),
        )
        for keyword, counts in ranked
    )
    caption = "Actions by attribute: kept (K) and cleaned (C) ones first"
    return Table(
        caption,
        ("attribute", "actions" if context.counts_hidden else "actions × values"),
        rows[:_FIRST],
        more=rows[_FIRST:],
    )
