"""The section on fairness: metrics of groups and their gaps."""

from __future__ import annotations

from collections.abc import Sequence

from meninx.metrics.estimates import Estimate, Evaluation
from meninx.metrics.groups import MIN_CELL
from meninx.report import figures, formatting
from meninx.report.context import ReportContext
from meninx.report.sources import TrainedRun
from meninx.report.table_model import Picture, ReportTable, Section, TableCell, estimates

_GROUP_COLUMNS = ("auroc", "dice", "sensitivity", "specificity", "selection_rate", "accuracy")


def fairness(context: ReportContext) -> Section:
    """Return the section on groups, of the test split."""
    tables: list[ReportTable] = []
    pictures: list[Picture] = []
    points: list[str] = []
    for number, run in enumerate(context.runs):
        measured = run.evidence.test
        if measured is None or not measured.evaluation.groups:
            continue
        evaluation, known = measured.evaluation, measured.record.patients_known and run.patients_known
        label = _focus(evaluation)
        caption = f"Run {run.name} ({run.kind}): {label or 'mean over labels'} by group"
        tables.append(_groups(caption, evaluation.groups, [label], patients=known))
        others = [
            name
            for name in evaluation.labels
            if name != label and any(item.label == name for item in evaluation.groups)
        ]
        if others:
            caption = f"Run {run.name} ({run.kind}): each label by group"
            tables.append(_groups(caption, evaluation.groups, others, patients=known, folded=True))
        name = "dice_gap" if evaluation.task == "segmentation" else "auroc_gap"
        drawn = [item for item in evaluation.gaps if item.name == name and item.label == label]
        svg = figures.forest(
            drawn, name=f"gaps{number}", limit=context.config.gap_limit, what=formatting.metric(name)
        )
        if svg:
            caption = (
                f"{formatting.metric(name)}, group minus rest, with 95 % intervals: run {run.name} "
                f"({run.kind})."
            )
            pictures.append(Picture(svg, caption))
        shown = [item for item in evaluation.gaps if item.label == label]
        folded = [item for item in evaluation.gaps if item.label != label]
        caption = f"Run {run.name} ({run.kind}): gaps, group minus rest"
        tables.append(estimates(caption, shown, folded=folded, patients=known))
        points += _left_out(run, evaluation, known=known)
    if not tables:
        return Section(
            "fairness", "Fairness by group", ("No group metrics were given. Nothing is claimed here.",)
        )
    tables.sort(key=lambda item: len(item.columns) > 4)
    least = (
        f"Cells with too few {context.people} with and without the finding are insufficient and get no "
        "number."
    )
    lead = (
        "A gap is the value of a group minus that of all other cases together; 0 is ideal, the "
        "sign tells who is behind. "
        f"{least}",
    )
    return Section("fairness", "Fairness by group", lead, tuple(pictures), tuple(tables), tuple(points))


def _left_out(run: TrainedRun, evaluation: Evaluation, *, known: bool) -> list[str]:
    """Return how many cases are in no group of an attribute, in sentences; all labels count for a group."""
    sizes: dict[str, dict[str, int]] = {}
    for item in evaluation.groups:
        groups = sizes.setdefault(item.attribute, {})
        groups[item.group] = max(groups.get(item.group, 0), item.n)
    what = "cases" if known else "images"
    sentences = []
    for attribute, groups in sorted(sizes.items()):
        left = evaluation.n_cases - sum(groups.values())
        if left > 0:
            count = f"{left:,}" if left >= MIN_CELL else f"Fewer than {MIN_CELL}"
            why = f"their {attribute} is not known, their group is too small, or nothing was measured of them"
            sentences.append(
                f"Run {run.name}: {count} of {evaluation.n_cases:,} {what} are in no group of {attribute}, or "
                f"in one without a size: {why}."
            )
    return sentences


def _focus(evaluation: Evaluation) -> str:
    """Return the label of the group tables: all labels together if there is such a row, else the only one."""
    return "" if any(not item.label for item in evaluation.groups) else evaluation.groups[0].label


def _groups(
    caption: str, groups: Sequence[Estimate], labels: Sequence[str], *, patients: bool, folded: bool = False
) -> ReportTable:
    """Return a table with one row per group and label, and its metrics above their intervals."""
    mine = [item for item in groups if item.label in labels and item.name in _GROUP_COLUMNS]
    names = [name for name in _GROUP_COLUMNS if any(item.name == name for item in mine)]
    rows: dict[tuple[str, str, str], dict[str, Estimate]] = {}
    for item in mine:
        rows.setdefault((item.label, item.attribute, item.group), {})[item.name] = item
    body = []
    for (label, attribute, group), found in rows.items():
        first = next(iter(found.values()))
        sizes = TableCell(
            formatting.size(first.n, first),
            sub="" if first.positives is None else f"{first.positives:,} positive",
            number=True,
        )
        head = TableCell(f"{attribute} {group}", sub=label if len(labels) > 1 else "", head=True)
        people = (TableCell(formatting.size(first.patients, first), number=True),) if patients else ()
        body.append((head, *(_pair(found.get(name)) for name in names), sizes, *people))
    columns = (
        "group",
        *(formatting.metric(name) for name in names),
        "n cases",
        *(("patients",) if patients else ()),
    )
    return ReportTable(
        caption, columns, () if folded else tuple(body), estimates=True, more=tuple(body) if folded else ()
    )


def _pair(item: Estimate | None) -> TableCell:
    if item is None:
        return TableCell(formatting.DASH, number=True)
    known = item.value == item.value
    return TableCell(formatting.value(item), sub=formatting.interval(item) if known else "", number=True)
