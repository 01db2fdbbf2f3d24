"""The section on fairness: metrics of groups and their gaps."""

from __future__ import annotations

from collections.abc import Sequence

from meninx.metrics.estimates import Estimate, Evaluation
from meninx.metrics.groups import MIN_CELL
from meninx.report import figures, formatting, privacy_cost
from meninx.report.context import ReportContext
from meninx.report.sources import TrainedRun
from meninx.report.table_model import Picture, ReportTable, Section, TableCell, estimates

_ATTRIBUTES_DRAWN = 3
_GROUP_COLUMNS = ("auroc", "dice", "sensitivity", "specificity", "selection_rate", "accuracy")


def fairness(context: ReportContext) -> Section:
    """Return the section on groups, of the test split."""
    tables: list[ReportTable] = []
    pictures: list[Picture] = []
    points: list[str] = []
    for number, item in enumerate(privacy_cost.costs(context)):
        tables.append(privacy_cost.table(item))
        picture = privacy_cost.forest(item, f"cost{number}")
        pictures += [picture] if picture is not None else []
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
        tables += _ranges(run, evaluation, "patients" if known else "images")
        tables += _calibrated(run, evaluation, patients=known)
        if run is context.headline:
            pictures += _curves(run, evaluation)
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
    lead: tuple[str, ...] = (
        "A gap is the value of a group minus that of all other cases together; 0 is ideal, the "
        "sign tells who is behind. "
        f"{least}",
    )
    lead += _answers(context)
    return Section("fairness", "Fairness by group", lead, tuple(pictures), tuple(tables), tuple(points))


def _answers(context: ReportContext) -> tuple[str, ...]:
    """Return the answer to the question whether privacy costs some groups more, per comparison."""
    sentences = []
    for item in privacy_cost.costs(context):
        found = privacy_cost.counted(item)
        counts = formatting.joined([f"{found[word]} {word}" for word in privacy_cost.ORDER])
        measured = f"{sum(found.values())} rows with a number"
        sentences.append(f"{privacy_cost.QUESTION} Run {item.run.name}, {measured}: {counts}.")
    return tuple(sentences)


def _ranges(run: TrainedRun, evaluation: Evaluation, people: str) -> list[ReportTable]:
    """Return the worst group and the largest differences of every label and attribute, folded."""
    rows = []
    for item in evaluation.ranges:
        group = f"{item.attribute} {item.group}".strip()
        chance = f"{item.chance:.3f}" if item.chance == item.chance else formatting.DASH
        rows.append((
            TableCell(formatting.metric(item.name), head=True),
            TableCell(f"{item.label}, {group}"),
            TableCell(formatting.value(item), sub=formatting.interval(item), number=True),
            TableCell(chance, number=True),
        ))  # fmt: skip
    note = (
        "A largest difference is never negative, so it has no interval: without any true difference, groups "
        f"drawn by chance stay below the last column in 95 % of permutations of the {people}. The signed "
        "gaps decide."
    )
    caption = f"Run {run.name} ({run.kind}): worst group and largest differences between two groups"
    columns = ("metric", "of", "value", "by chance below")
    return [ReportTable(caption, columns, (), more=tuple(rows), note=note)] if rows else []


def _calibrated(run: TrainedRun, evaluation: Evaluation, *, patients: bool) -> list[ReportTable]:
    """Return the calibration of every label in every group, folded."""
    rows = []
    for item in evaluation.group_calibration:
        people = (TableCell(f"{item.patients:,}", number=True),) if patients else ()
        rows.append((
            TableCell(f"{item.attribute} {item.group}", sub=item.label, head=True),
            TableCell(formatting.number(item.ece - item.ece_null),
                      sub=f"{formatting.number(item.ece)}, by chance {formatting.number(item.ece_null)}",
                      number=True),
            TableCell(formatting.number(item.intercept), number=True),
            TableCell(formatting.number(item.slope), number=True),
            TableCell(formatting.number(item.brier), number=True),
            TableCell(formatting.number(item.prevalence), number=True),
            TableCell(f"{item.n:,}", number=True),
            *people,
        ))  # fmt: skip
    columns = (
        "group", "ECE beyond chance", "intercept", "slope", "Brier", "prevalence", "n cases",
        *(("patients",) if patients else ()),
    )  # fmt: skip
    caption = f"Run {run.name} ({run.kind}): calibration by group"
    return [ReportTable(caption, columns, (), more=tuple(rows))] if rows else []


def _curves(run: TrainedRun, evaluation: Evaluation) -> list[Picture]:
    """Return the ROC curves by group of the label whose groups differ most, one figure per attribute."""
    pictures = []
    for number, attribute in enumerate(dict.fromkeys(item.attribute for item in evaluation.group_roc)):
        mine = [item for item in evaluation.group_roc if item.attribute == attribute]
        areas = {
            (item.label, item.group): evaluation.find("auroc", item.label, attribute, item.group)
            for item in mine
        }
        spread: dict[str, list[float]] = {}
        for (label, _), area in areas.items():
            spread.setdefault(label, []).append(area.value if area is not None else float("nan"))
        label = max(spread, key=lambda name: max(spread[name]) - min(spread[name]))
        shown = [item for item in mine if item.label == label]
        if len(shown) < 2:
            continue
        named = {f"{attribute} {item.group}": item.tpr for item in shown}
        found = {f"{attribute} {item.group}": areas[label, item.group] for item in shown}
        svg = figures.roc(
            label,
            named,
            {name: area for name, area in found.items() if area is not None},
            f"rocgroup{number}",
        )
        pictures.append(Picture(svg, f"ROC curve of {label} by {attribute}: run {run.name} ({run.kind})."))
    return pictures[:_ATTRIBUTES_DRAWN]


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
                f"Run {run.name}: {count} of {evaluation.n_cases:,} {what} are in no group of {attribute}, "
                f"or in one without a size: {why}."
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
