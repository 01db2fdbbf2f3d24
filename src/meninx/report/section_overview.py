"""The first section: what was done, from source to model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meninx.report import contact_sheet, formatting, run_comparison, section_obfuscation
from meninx.report.context import ReportContext, deid_total, drawn_runs
from meninx.report.sources import Dataset, TrainedRun
from meninx.report.table_model import ReportTable, Section, TableCell, facts

_CONFIG = ("model", "loss", "optimizer", "lr", "batch_size", "epochs", "steps", "sampling", "seed")


def overview(context: ReportContext) -> Section:
    """Return the section on what was done: pipeline, counts, recipe."""
    tables: list[ReportTable] = []
    compared = run_comparison.comparison(context)
    tables += [compared] if compared is not None else []
    for dataset in context.datasets:
        tables += _dataset(context, dataset)
    recipes = _recipes(context)
    tables += [recipes] if recipes is not None else []
    if context.unfinished:
        rows = tuple(
            (
                TableCell(run.name, head=True),
                TableCell(run.kind),
                TableCell(f"{run.record.step:,}", number=True),
            )
            for run in context.unfinished
        )
        note = (
            "Interrupted, killed or still running: nothing else on this page is about them, but what "
            "they spent counts."
        )
        tables.append(
            ReportTable("Runs that are not finished", ("run", "kind", "steps recorded"), rows, note=note)
        )
    pictures = tuple(contact_sheet.sheets(context))
    points = () if pictures else (contact_sheet.WHY_NONE,)
    return Section(
        "done",
        "What was done",
        (),
        pictures,
        tuple(tables),
        points,
        cautions=(*_unvalidated(context), *_obfuscated(context)),
        pipeline=_pipeline(context),
    )


def _unvalidated(context: ReportContext) -> Iterator[str]:
    """Yield a sentence for each run that was trained without validation cases."""
    for run in context.runs:
        if _no_validation(run, context.own_dataset(run)):
            yield f"Run {run.name}: the validation split was empty: no thresholds, no model selection."


def _obfuscated(context: ReportContext) -> Iterator[str]:
    """Yield a sentence for each run that was trained on images in which an attribute was hidden."""
    for run in context.runs:
        if run.record.obfuscated:
            yield f"Run {run.name} was {section_obfuscation.trained_on(run, context.release_of(run))}."


def _no_validation(run: TrainedRun, dataset: Dataset | None) -> bool:
    """Return whether a run had no validation cases, by its dataset or else by who took part in it."""
    if dataset is not None and dataset.counts:
        return not dataset.counts.get("valid", (0, 0))[0]
    return run.members is not None and not run.record.own_loop and not run.members.valid


def _recipes(context: ReportContext) -> ReportTable | None:
    """Return the chief settings of the runs that are drawn, a row per run of several; None without any."""
    runs = drawn_runs(context)
    chosen = [dict(_resolved(run, hidden=context.counts_hidden)) for run in runs]
    note = "The whole config of every run is in the last section."
    if len(runs) == 1:
        return facts(f"Recipe of run {runs[0].name} ({runs[0].kind})", chosen[0].items(), note)
    names = [name for name in _CONFIG if any(name in table for table in chosen)]
    rows = tuple(
        (
            TableCell(run.name, sub=run.kind, head=True),
            *(
                TableCell(formatting.listed(table[name]) if name in table else formatting.DASH)
                for name in names
            ),
        )
        for run, table in zip(runs, chosen, strict=True)
    )
    columns = ("run", *(name.replace("_", " ") for name in names))
    return ReportTable("Recipes", columns, rows, note=note, wide=True) if names else None


def _resolved(run: TrainedRun, *, hidden: bool) -> list[tuple[str, object]]:
    """Return the settings of a recipe as they were in the end.

    A setting that leaves the choice to the program is left out.
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


def _dataset(context: ReportContext, dataset: Dataset) -> list[ReportTable]:
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
            (
                TableCell(label, head=True),
                TableCell(f"{yes:,}", number=True),
                TableCell(f"{known_cases:,}", number=True),
            )
            for label, (yes, known_cases) in dataset.positives.items()
        )
        tables.append(
            ReportTable(f"{name}: labels", ("label", "positive cases", "cases with known label"), rows)
        )
    return tables


def _declared(runs: Sequence[TrainedRun]) -> str:
    numbers = sorted({run.declared for run in runs if run.private and run.declared is not None})
    return f"declared: {', '.join(f'{number:,}' for number in numbers)}" if numbers else formatting.HIDDEN


def _counts(caption: str, what: str, dataset: Dataset, declared: str | None) -> ReportTable:
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
            shown = (formatting.HIDDEN, declared) if named else (declared, "")
        rows.append(
            (
                TableCell(name, head=True),
                *(TableCell(text, number=True) for text in shown[: 2 if named else 1]),
            )
        )
    if declared is None:
        total = tuple(sum(pair[index] for pair in counts.values()) for index in (0, 1))
        rows.append(
            (
                TableCell("all", head=True),
                *(TableCell(f"{number:,}", number=True) for number in total[: 2 if named else 1]),
            )
        )
    columns = (what, "cases", "patients") if named else (what, "images")
    note = "" if named else "The source names no patients: every image counts as one."
    if declared is not None:
        note = formatting.WHY_HIDDEN
    return ReportTable(caption, columns, tuple(rows), note=note)


def _pipeline(context: ReportContext) -> tuple[tuple[str, str, str], ...]:
    steps = []
    if context.deid:
        sites = f"of {len(context.deid)} site{'s' if len(context.deid) > 1 else ''}"
        read, written, quarantined = (
            deid_total(context, key) for key in ("files_read", "files_written", "quarantined")
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
    steps += _prepared(context, datasets)
    if context.runs:
        models = dict.fromkeys(str(run.config.get("model", "model")) for run in context.runs)
        steps.append(
            ("trained", ", ".join(models), "; ".join(dict.fromkeys(_cost(run) for run in context.runs)))
        )
    run = context.headline
    if run is not None and run.evidence.test is not None:
        best = run.evidence.test.evaluation.headline
        value = f"{formatting.metric(best.name)} {formatting.value(best)}"
        steps.append(("evaluated", value, f"{formatting.interval(best)}, n = {best.n:,}"))
    return (*steps, ("reported", "this page", context.date))


def _prepared(context: ReportContext, datasets: Sequence[Dataset]) -> list[tuple[str, str, str]]:
    """Return a step per dataset; one for all of them where there are more than two."""
    found, every = [], 0
    for dataset in datasets:
        cases, patients = (sum(pair[index] for pair in dataset.counts.values()) for index in (0, 1))
        every += cases
        if context.counts_hidden or not cases:
            found.append(("prepared", "dataset", dataset.name))
        else:
            people = f"{patients:,} patients" if dataset.info.patients_known else dataset.name
            found.append(("prepared", f"{cases:,} cases", people))
    if len(datasets) > 2:
        known = every and not context.counts_hidden
        return [("prepared", f"{every:,} cases" if known else "datasets", f"in {len(datasets)} datasets")]
    return found


def _cost(run: TrainedRun) -> str:
    if not run.private:
        return "not private"
    spent = run.account.spent if run.account is not None else None
    return "no privacy guarantee" if run.void or spent is None else f"ε = {formatting.number(spent.epsilon)}"
