"""Sections on the model: utility, privacy, fairness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meninx.metrics.tables import Estimate, Evaluation
from meninx.report import figures, words
from meninx.report.blocks import Cell, Picture, Section, Table, estimates, facts
from meninx.report.context import Context
from meninx.report.sources import TrainedRun

_LABELS_DRAWN = 4
_GROUP_COLUMNS = ("auroc", "dice", "sensitivity", "specificity", "selection_rate", "accuracy")
_PLAN = (
    ("privacy unit", "unit"),
    ("neighboring relation", "relation"),
    ("epsilon", "epsilon"),
    ("delta", "delta"),
    ("noise_multiplier", "noise_multiplier"),
    ("max_grad_norm", "max_grad_norm"),
    ("clipping", "clipping"),
    ("sample_rate", "sample_rate"),
    ("expected batch size", "expected_batch_size"),
    ("steps", "steps"),
    ("sampler", "sampler"),
    ("accountant", "accountant"),
)


def utility(context: Context) -> Section:
    """Return the section on what the models are worth."""
    evaluated = [(run, run.evaluation) for run in context.runs if run.evaluation is not None]
    if not evaluated:
        return Section("utility", "Utility", ("No evaluation was given. Nothing is claimed here.",))
    kinds = {item.name: "private" if item.private else "not private" for item in context.runs}
    tables = [_comparison(_kind(item.run, kinds), _kind(item.baseline, kinds), item.differences) for item in context.comparisons]
    for run, evaluation in evaluated:
        tables += _tables(run, evaluation)
    tables.sort(key=lambda item: len(item.columns) <= 4)  # small tables share a row of the page
    pictures = [*_rocs(evaluated), *_calibrated(evaluated)]
    if context.config.training_curves:
        pictures += _training(context.runs)
    notes = dict.fromkeys(note for _, evaluation in evaluated for note in evaluation.notes)
    lead = (
        f"Measured on the {evaluated[0][1].split} split, on patients that training never saw. Thresholds come from validation.",
    )
    return Section(
        "utility", "Utility", lead, tuple(pictures), tuple(tables), tuple(f"{note[0].upper()}{note[1:]}." for note in notes)
    )


def _kind(name: str, kinds: Mapping[str, str]) -> str:
    return f"{name} ({kinds[name]})" if name in kinds else name


def _comparison(run: str, baseline: str, differences: Sequence[Estimate]) -> Table:
    shown = [item for item in differences if not item.attribute]
    folded = [item for item in differences if item.attribute]
    note = "Same cases and same resamples for both. Negative: the first run is behind."
    return estimates(f"{run} minus {baseline}", shown, note, folded=folded)


def _tables(run: TrainedRun, evaluation: Evaluation) -> list[Table]:
    overall = [item for item in evaluation.metrics if not item.label]
    single = [item for item in evaluation.metrics if item.label]
    caption = f"Run {run.name} ({'private' if run.private else 'not private'}), {evaluation.split} split"
    tables = [estimates(caption, overall or single, folded=single if overall else ())]
    if evaluation.thresholds:
        tables.append(_thresholds(run, evaluation))
    if "" in evaluation.confusion:
        tables.append(_confusion(run, evaluation))
    if any(evaluation.empty_masks.values()):
        rows = tuple((Cell(label, head=True), Cell(f"{count:,}", number=True)) for label, count in evaluation.empty_masks.items())
        tables.append(Table(f"Run {run.name}: cases where both masks are empty", ("label", "cases"), rows))
    return tables


def _thresholds(run: TrainedRun, evaluation: Evaluation) -> Table:
    rows = tuple(
        (Cell(t.label, head=True), Cell(f"{t.value:.4f}", number=True), Cell(f"{t.n:,}", number=True), Cell(t.rule))
        for t in evaluation.thresholds
    )
    columns = ("label", "threshold", "n validation cases", "rule")
    return Table(f"Run {run.name}: frozen thresholds", columns, rows[:6], more=rows[6:])


def _confusion(run: TrainedRun, evaluation: Evaluation) -> Table:
    rows = tuple(
        (Cell(f"true {label}", head=True), *(Cell(f"{count:,}", number=True) for count in counts))
        for label, counts in zip(evaluation.labels, evaluation.confusion[""], strict=True)
    )
    columns = ("class", *(f"called {label}" for label in evaluation.labels))
    return Table(f"Run {run.name}: confusion, {evaluation.n_cases:,} cases", columns, rows)


def _rocs(evaluated: Sequence[tuple[TrainedRun, Evaluation]]) -> list[Picture]:
    labels = list(dict.fromkeys(label for _, evaluation in evaluated for label in evaluation.roc))
    runs = [run for run, _ in evaluated]
    pictures = []
    for number, label in enumerate(labels[:_LABELS_DRAWN]):
        curves = {_short(run, runs): e.roc[label] for run, e in evaluated if label in e.roc}
        areas = {_short(run, runs): area for run, e in evaluated if (area := e.find("auroc", label)) is not None}
        n = max((area.n for area in areas.values()), default=0)
        pictures.append(Picture(figures.roc(label, curves, areas, f"roc{number}"), f"ROC of {label}, n = {n:,} cases."))
    return pictures


def _short(run: TrainedRun, runs: Sequence[TrainedRun]) -> str:
    """Return ``private`` or ``not private`` for a run when that tells the runs apart, else its name."""
    kinds = [item.private for item in runs]
    return ("private" if run.private else "not private") if len(set(kinds)) == len(kinds) else run.name


def _calibrated(evaluated: Sequence[tuple[TrainedRun, Evaluation]]) -> list[Picture]:
    first = next((item.label for _, evaluation in evaluated for item in evaluation.calibration), None)
    if first is None:
        return []
    runs = [run for run, _ in evaluated]
    curves, said = {}, []
    for run, evaluation in evaluated:
        for item in evaluation.calibration:
            if item.label == first:
                short = _short(run, runs)
                curves[short] = tuple(zip(item.predicted, item.observed, strict=True))
                said.append(
                    f"{short}: ECE {words.number(item.ece)} (by chance alone {words.number(item.ece_null)}), "
                    f"slope {words.number(item.slope)}, intercept {words.number(item.intercept)}, n = {item.n:,}"
                )
    return [Picture(figures.reliability(curves, name="calibration", label=first), f"Calibration of {first}. {'; '.join(said)}.")]


def _training(runs: Sequence[TrainedRun]) -> list[Picture]:
    pictures = []
    for number, run in enumerate(runs):
        losses = {name: points for name, points in run.curves.items() if "loss" in name}
        if not losses:
            continue
        alt = f"Loss of run {run.name} over its optimiser steps: {', '.join(losses)}."
        svg = figures.lines(losses, name=f"training{number}", alt=alt, across="optimiser steps", up="loss")
        outside = " Computed from private data without noise: outside the guarantee." if run.private else ""
        kind = "private" if run.private else "not private"
        pictures.append(Picture(svg, f"Training of run {run.name} ({kind}).{outside}"))
    return pictures


def privacy(context: Context) -> Section:
    """Return the section on privacy."""
    lead, pictures, tables, points = [], [], [], []
    for number, run in enumerate(context.runs):
        if not run.private or run.privacy is None:
            points.append(f"Run {run.name} was trained without differential privacy: it promises nothing and stays inside.")
            continue
        table = run.privacy
        unit = str(table.get("unit", "unit"))
        lead.append(str(table.get("sentence") or _sentence(table)))
        tables.append(facts(f"Plan of run {run.name}", [(name, table.get(key)) for name, key in _PLAN if key in table]))
        tables += _risk(run.name, table.get("risk") or {}, unit)
        curve = [(float(x), float(y)) for x, y in table.get("curve") or ()]
        if len(curve) > 1:
            svg = figures.spent(curve, name=f"spent{number}", delta=float(table.get("delta", 0)), unit=unit)
            pictures.append(Picture(svg, f"Epsilon over the steps of run {run.name}."))
        points += _assumptions(table, unit)
    if not context.runs:
        lead.append("No run was given. Nothing is claimed here.")
    return Section("privacy", "Privacy", tuple(lead), tuple(pictures), tuple(tables), tuple(dict.fromkeys(points)))


def _sentence(table: Mapping[str, Any]) -> str:
    epsilon, delta = words.number(table.get("epsilon")), table.get("delta")
    return f"Epsilon {epsilon} at delta {delta} per {table.get('unit')} ({table.get('relation')})."


def _risk(name: str, risk: Mapping[str, Any], unit: str) -> list[Table]:
    rows = []
    if risk.get("advantage") is not None:
        advantage = float(risk["advantage"])
        rows.append(
            (
                Cell("attack advantage", head=True),
                Cell(f"≤ {words.number(advantage)}", number=True),
                Cell(words.advantage_sentence(advantage, unit)),
            )
        )
    for rate, bound in sorted((risk.get("tpr_at_fpr") or {}).items(), key=lambda pair: -float(pair[0])):
        said = words.recognition_sentence(float(rate), float(bound), unit)
        rows.append(
            (
                Cell(f"TPR at {words.percent(float(rate))} FPR", head=True),
                Cell(f"≤ {words.number(float(bound))}", number=True),
                Cell(said),
            )
        )
    if not rows:
        return []
    note = "Bounds proven from the plan for any attacker; they are not measurements and so have no interval and no n."
    return [Table(f"What an attacker can gain from run {name}", ("bound", "value", "in words"), tuple(rows), note=note)]


def _assumptions(table: Mapping[str, Any], unit: str) -> list[str]:
    points = [
        f"Protected is the presence of one {unit} in the training data, against an attacker who sees the released model.",
        f"In every step each {unit} took part with the stated sample rate, independently: {table.get('sampler')} sampling.",
        "The noise came from the operating system's entropy; its key stays in the private room and must not leave it.",
    ]
    if table.get("deterministic"):
        points[2] = "The noise came from a SEED: whoever knows it can subtract the noise. This run must not be released."
    return points + [f"Outside the guarantee: {item}" for item in table.get("outside_guarantee") or ()]


def fairness(context: Context) -> Section:
    """Return the section on groups."""
    tables: list[Table] = []
    pictures: list[Picture] = []
    for number, run in enumerate(context.runs):
        evaluation = run.evaluation
        if evaluation is None or not evaluation.groups:
            continue
        kind = "private" if run.private else "not private"
        label = _focus(evaluation)
        caption = f"Run {run.name} ({kind}): {label or 'mean over labels'} by group"
        tables.append(_groups(caption, evaluation.groups, [label]))
        others = [name for name in evaluation.labels if name != label and any(item.label == name for item in evaluation.groups)]
        if others:
            tables.append(_groups(f"Run {run.name} ({kind}): each label by group", evaluation.groups, others, folded=True))
        name = "dice_gap" if evaluation.task == "segmentation" else "auroc_gap"
        drawn = [item for item in evaluation.gaps if item.name == name and item.label == label]
        svg = figures.forest(drawn, name=f"gaps{number}", limit=context.config.gap_limit, what=words.metric(name))
        if svg:
            pictures.append(
                Picture(svg, f"{words.metric(name)}, group minus rest, with 95 % intervals: run {run.name} ({kind}).")
            )
        shown = [item for item in evaluation.gaps if item.label == label]
        folded = [item for item in evaluation.gaps if item.label != label]
        tables.append(estimates(f"Run {run.name} ({kind}): gaps, group minus rest", shown, folded=folded))
    if not tables:
        return Section("fairness", "Fairness by group", ("No group metrics were given. Nothing is claimed here.",))
    tables.sort(key=lambda item: len(item.columns) > 4)
    lead = (
        "A gap is the value of a group minus that of all other cases together; 0 is ideal, the sign tells who is behind. "
        "Cells with fewer than 10 positives or 10 negatives are insufficient and get no number.",
    )
    return Section("fairness", "Fairness by group", lead, tuple(pictures), tuple(tables))


def _focus(evaluation: Evaluation) -> str:
    """Return the label that the group tables show first: all together when there is such a row, else the only one."""
    return "" if any(not item.label for item in evaluation.groups) else evaluation.groups[0].label


def _groups(caption: str, groups: Sequence[Estimate], labels: Sequence[str], *, folded: bool = False) -> Table:
    """Return a table with one group of one label a row and its metrics side by side, each above its interval."""
    mine = [item for item in groups if item.label in labels and item.name in _GROUP_COLUMNS]
    names = [name for name in _GROUP_COLUMNS if any(item.name == name for item in mine)]
    rows: dict[tuple[str, str, str], dict[str, Estimate]] = {}
    for item in mine:
        rows.setdefault((item.label, item.attribute, item.group), {})[item.name] = item
    body = []
    for (label, attribute, group), found in rows.items():
        first = next(iter(found.values()))
        sizes = Cell(f"{first.n:,}", sub="" if first.positives is None else f"{first.positives:,} positive", number=True)
        head = Cell(f"{attribute} {group}", sub=label if len(labels) > 1 else "", head=True)
        body.append((head, *(_pair(found.get(name)) for name in names), sizes, Cell(f"{first.patients:,}", number=True)))
    columns = ("group", *(words.metric(name) for name in names), "n cases", "patients")
    return Table(caption, columns, () if folded else tuple(body), estimates=True, more=tuple(body) if folded else ())


def _pair(item: Estimate | None) -> Cell:
    if item is None:
        return Cell(words.DASH, number=True)
    known = item.value == item.value
    return Cell(words.value(item), sub=words.interval(item) if known else "", number=True)
