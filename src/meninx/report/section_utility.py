"""The section on utility: every metric with its interval, thresholds, curves and comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence

from meninx.metrics.estimates import Estimate, Evaluation
from meninx.metrics.groups import MIN_CELL
from meninx.report import figures, formatting, training_log
from meninx.report.context import Comparison, ReportContext, drawn_runs
from meninx.report.evaluations import MeasuredSplit
from meninx.report.sources import TrainedRun
from meninx.report.table_model import Picture, ReportTable, Section, TableCell, estimates, of_what
from meninx.report.verdict import at_chance, by_label

_LABELS_DRAWN = 4
_FEW_POINTS = 8
_MANY_CASES = 60  # from which on a line reads better than points
_DATASETS_BESIDE = 3  # external datasets in one table
_ROWS = 8
_BESIDE = (
    "auroc",
    "average_precision",
    "sensitivity",
    "specificity",
    "accuracy",
    "dice",
    "hd95",
    "surface_dice",
)
Evaluated = tuple[TrainedRun, MeasuredSplit]


def utility(context: ReportContext) -> Section:
    """Return the section on utility: the test split, other splits and other datasets, each apart."""
    tested = [(run, run.evidence.test) for run in context.runs if run.evidence.test is not None]
    others = [
        (run, item) for run in context.runs for item in run.evidence.own if item is not run.evidence.test
    ]
    external = [(run, item) for run in context.runs for item in run.evidence.external]
    if context.counts_hidden:
        others = [(run, item) for run, item in others if item.origin.split != "train"]
    points = [sentence for run in context.runs for sentence in _doubts(run)]
    if not (tested or others or external):
        none = ("No evaluation of the released weights was given. Nothing is claimed here.",)
        return Section("utility", "Utility", none, points=(*points, *_refused(context)))
    tables = [_comparison(item) for item in context.comparisons]
    for run, measured in tested:
        tables += _tables(run, measured)
    for run in context.runs:
        tables += _side_by_side(run)
    for run, measured in (*others, *external):
        tables += _tables(run, measured)[:1]
    tables.sort(key=lambda item: len(item.columns) <= 4)  # small tables share a row of the page
    shown = drawn_runs(context)
    drawn_of = [(run, item) for run, item in tested if run in shown]
    pictures = [*_rocs(drawn_of), *_calibrated(drawn_of)]
    if context.config.case_plots:
        pictures += _cases(drawn_of)
    if context.config.training_curves:
        drawn = [
            run for run in shown if run.private or not context.counts_hidden
        ]  # steps of an epoch tell how many
        pictures += _training(drawn)
    notes = dict.fromkeys(
        _note(note, item) for _, item in (*tested, *others, *external) for note in item.evaluation.notes
    )
    lead = _measured_on((*tested, *others, *external))
    if len(shown) < len(context.runs):
        lead = (
            *lead,
            (
                f"Figures show {len(shown)} of {len(context.runs)} runs: "
                f"{formatting.joined([run.name for run in shown])}."
            ),
        )
    return Section(
        "utility",
        "Utility",
        lead,
        tuple(pictures),
        tuple(tables),
        (*points, *_refused(context), *(f"{note}." for note in notes)),
    )


def _measured_on(evaluated: Sequence[Evaluated]) -> tuple[str, ...]:
    """Return what the runs were measured on; runs of which the same is to be said share a sentence."""
    runs: dict[str, list[str]] = {}
    for run, measured in evaluated:
        runs.setdefault(_where(run, measured), []).append(run.name)
    return tuple(
        f"Run {names[0]} was {what}"
        if len(names) == 1
        else f"Runs {formatting.joined(names)} were each {what}"
        for what, names in runs.items()
    )


def _where(run: TrainedRun, measured: MeasuredSplit) -> str:
    """Return what a run was measured on, with no word more than the record supports."""
    evaluation = measured.evaluation
    known = measured.record.patients_known and run.patients_known
    people = f" of {evaluation.n_patients:,} patients" if known else ""
    text = (
        f"measured on the {measured.where}: {evaluation.n_cases:,} {'cases' if known else 'images'}{people}"
    )
    if measured.unseen and run.patients_known:
        text += ", patients that training never saw"
    elif known:
        text += "; whether training saw some of these patients was not compared"
    else:
        text += "; the source names no patients, so training may have seen other images of the same people"
    frozen = measured.record.thresholds_from or ("validation" if evaluation.thresholds else "")
    return f"{text}." + (f" Thresholds come from {frozen}." if frozen and evaluation.thresholds else "")


def _doubts(run: TrainedRun) -> list[str]:
    """Return what a reader must know before believing a run's numbers."""
    sentences = [f"Run {run.name} diverged: {sentence}." for sentence in training_log.divergence(run.log)]
    sentences += [f"Run {run.name}: {sentence}." for _, sentence in training_log.doubts(run.log)]
    if run.evidence.test is not None:
        evaluation = run.evidence.test.evaluation
        sentences += [f"Run {run.name}: {sentence}." for sentence in training_log.oddities(evaluation)]
        chance = at_chance(evaluation)
        if chance:
            sentences.append(f"Run {run.name} cannot be told from chance for: {', '.join(chance)}.")
    return sentences


def _refused(context: ReportContext) -> tuple[str, ...]:
    return tuple(
        sentence for run in (*context.runs, *context.unfinished) for sentence in run.evidence.refused
    )


def _note(note: str, measured: MeasuredSplit) -> str:
    text = (
        note
        if measured.record.patients_known
        else note.replace("patients", "images").replace("patient", "image")
    )
    return text[:1].upper() + text[1:]


def _comparison(item: Comparison) -> ReportTable:
    """Return the differences of a run to another on the same cases, with the split that was measured."""
    rows = item.compared.differences
    shown = [row for row in rows if not row.attribute]
    folded = [row for row in rows if row.attribute]
    other = item.baseline
    named = (
        f"{other.name} ({other.kind})"
        if other is not None
        else f"{item.compared.record.baseline_name} (not given here)"
    )
    note = "Same cases and same resamples for both. Negative: the first run is behind."
    unlike = item.compared.record.note()
    if unlike:
        note = f"{note} {unlike}: the difference is not that of privacy alone."
    caption = f"{item.run.name} ({item.run.kind}) minus {named}, {item.compared.origin.split} split"
    if item.compared.origin.dataset:
        caption += f" of {item.compared.origin.dataset}"
    return estimates(caption, shown, note, folded=folded, patients=item.run.patients_known)


def _side_by_side(run: TrainedRun) -> list[ReportTable]:
    """Return the run's own test split beside the other datasets it was measured on; none without both."""
    own, others = run.evidence.test, run.evidence.external[:_DATASETS_BESIDE]
    if own is None or not others:
        return []
    columns = [f"own test split ({own.origin.dataset or 'unnamed'})"]
    columns += [f"{item.dataset}, {item.origin.split}" for item in others]
    rows = []
    for row in own.evaluation.metrics:
        if row.name in _BESIDE:
            found = [_counterpart(row, own.evaluation, item.evaluation) for item in others]
            rows.append(
                (
                    TableCell(formatting.metric(row.name), head=True),
                    TableCell(of_what(row)),
                    *(_beside(item) for item in (row, *found)),
                )
            )
    note = "The same weights and the same thresholds everywhere; nothing was fitted on another dataset."
    left = len(run.evidence.external) - len(others)
    note += " A mean over labels is compared only over the same labels."
    note += f" {left} more datasets have tables of their own." if left else ""
    caption = f"Run {run.name}: internal test beside external validation"
    return [
        ReportTable(
            caption, ("metric", "of", *columns), tuple(rows[:_ROWS]), more=tuple(rows[_ROWS:]), note=note
        )
    ]


def _counterpart(row: Estimate, own: Evaluation, other: Evaluation) -> Estimate | None:
    """Return an estimate of another dataset; None without the label, and for a mean over other labels."""
    if not row.label and own.labels != other.labels:
        return None
    return other.find(row.name, row.label)


def _beside(item: Estimate | None) -> TableCell:
    """Return a value with its interval and number of cases; a dash where a dataset lacks the label."""
    if item is None:
        return TableCell(formatting.DASH, number=True)
    ends = "no interval" if math.isnan(item.low) else formatting.interval(item)
    kind = formatting.interval_kind(item)
    sub = f"{ends}{f' {kind}' if kind else ''}, n = {item.n:,}"
    return TableCell(formatting.value(item), sub=sub, number=True)


def _cases(evaluated: Sequence[Evaluated]) -> list[Picture]:
    """Return the Dice of each case in ascending order, one line per label; none of a few patients."""
    pictures = []
    for number, (run, measured) in enumerate(evaluated):
        shown = dict(list(measured.case_values.items())[:_LABELS_DRAWN])
        if measured.evaluation.n_patients < MIN_CELL or not any(shown.values()):
            continue
        curves = {
            label: [(float(rank), value) for rank, value in enumerate(values, 1)]
            for label, values in shown.items()
            if values
        }
        sizes = ", ".join(f"{label}: n = {len(values):,}" for label, values in shown.items())
        alt = f"Dice of each test case of run {run.name} in ascending order; {sizes}."
        svg = figures.lines(
            curves,
            name=f"cases{number}",
            alt=alt,
            across="cases, worst first",
            up="Dice",
            markers_below=_MANY_CASES,
        )
        left_out = "Cases in which neither truth nor prediction holds the label are left out."
        pictures.append(Picture(svg, f"{alt} {left_out}"))
    return pictures


def _tables(run: TrainedRun, measured: MeasuredSplit) -> list[ReportTable]:
    evaluation = measured.evaluation
    overall = [item for item in evaluation.metrics if not item.label]
    single = by_label_first(evaluation)
    known = measured.record.patients_known and run.patients_known
    caption = f"Run {run.name} ({run.kind}), {measured.where}"
    tables = [estimates(caption, overall or single, folded=single if overall else (), patients=known)]
    if evaluation.thresholds:
        tables.append(_thresholds(run, evaluation))
    if any(not math.isnan(item.ece) for item in evaluation.calibration):
        tables.append(_calibration(run, evaluation))
    if "" in evaluation.confusion:
        tables.append(_confusion(run, evaluation))
    if any(evaluation.empty_masks.values()):
        rows = tuple(
            (TableCell(label, head=True), TableCell(f"{count:,}", number=True))
            for label, count in evaluation.empty_masks.items()
        )
        tables.append(
            ReportTable(f"Run {run.name}: cases where both masks are empty", ("label", "cases"), rows)
        )
    return tables


def by_label_first(evaluation: Evaluation) -> list[Estimate]:
    """Return the rows of single labels, the worst label's headline metric first."""
    judged = sorted(
        (item for item in by_label(evaluation) if item.label),
        key=lambda item: (math.isnan(item.value), item.value),
    )
    rest = [item for item in evaluation.metrics if item.label and item not in judged]
    return [*judged, *rest]


def _thresholds(run: TrainedRun, evaluation: Evaluation) -> ReportTable:
    rows = tuple(
        (
            TableCell(t.label, head=True),
            TableCell(f"{t.value:.4f}", number=True),
            TableCell(f"{t.n:,}", number=True),
            TableCell(t.rule),
        )
        for t in evaluation.thresholds
    )
    columns = ("label", "threshold", "n validation cases", "rule")
    return ReportTable(f"Run {run.name}: frozen thresholds", columns, rows[:6], more=rows[6:])


def _calibration(run: TrainedRun, evaluation: Evaluation) -> ReportTable:
    """Return the calibration of every label, the worst first; labels without a number last."""
    ranked = sorted(evaluation.calibration, key=lambda item: (math.isnan(item.ece), -item.ece))
    rows = tuple(
        (
            TableCell(item.label, head=True),
            TableCell(
                formatting.number(item.ece), sub=f"{formatting.number(item.ece_null)} by chance", number=True
            ),
            TableCell(formatting.number(item.slope), number=True),
            TableCell(f"{item.n:,}", number=True),
        )
        for item in ranked
    )
    columns = ("label", "ECE", "slope", "n cases")
    note = "ECE: mean distance of probability and observed share. A slope below 1: probabilities too extreme."
    return ReportTable(f"Run {run.name}: calibration", columns, rows[:_ROWS], more=rows[_ROWS:], note=note)


def _confusion(run: TrainedRun, evaluation: Evaluation) -> ReportTable:
    rows = tuple(
        (TableCell(f"true {label}", head=True), *(TableCell(f"{count:,}", number=True) for count in counts))
        for label, counts in zip(evaluation.labels, evaluation.confusion[""], strict=True)
    )
    columns = ("class", *(f"called {label}" for label in evaluation.labels))
    return ReportTable(f"Run {run.name}: confusion, {evaluation.n_cases:,} cases", columns, rows)


def _rocs(evaluated: Sequence[Evaluated]) -> list[Picture]:
    labels = list(dict.fromkeys(label for _, item in evaluated for label in item.evaluation.roc))
    runs = [run for run, _ in evaluated]
    pictures = []
    for number, label in enumerate(labels[:_LABELS_DRAWN]):
        drawn = {
            _short(run, runs): item.evaluation.roc[label]
            for run, item in evaluated
            if label in item.evaluation.roc
        }
        areas = {
            _short(run, runs): area
            for run, item in evaluated
            if (area := item.evaluation.find("auroc", label)) is not None
        }
        numbers = sorted({area.n for area in areas.values()})
        n = " to ".join(f"{cases:,}" for cases in dict.fromkeys((*numbers[:1], *numbers[-1:]))) or "0"
        own = ", each run on its own test split" if len(numbers) > 1 else ""
        svg = figures.roc(label, drawn, areas, f"roc{number}")
        pictures.append(Picture(svg, f"ROC of {label}, test split, n = {n} cases{own}."))
    return pictures


def _short(run: TrainedRun, runs: Sequence[TrainedRun]) -> str:
    """Return ``private`` or ``not private`` for a run when that tells the runs apart, else its name."""
    kinds = [item.private for item in runs]
    return run.kind if len(set(kinds)) == len(kinds) else run.name


def _calibrated(evaluated: Sequence[Evaluated]) -> list[Picture]:
    """Return the calibration of the worst calibrated label, with the number of the others."""
    every = [
        item
        for _, measured in evaluated
        for item in measured.evaluation.calibration
        if not math.isnan(item.ece)
    ]
    if not every:
        return []
    chosen = max(every, key=lambda item: item.ece).label
    runs = [run for run, _ in evaluated]
    drawn, captions = {}, []
    for run, measured in evaluated:
        for item in measured.evaluation.calibration:
            if item.label == chosen:
                short = _short(run, runs)
                drawn[short] = tuple(zip(item.predicted, item.observed, strict=True))
                captions.append(
                    f"{short}: ECE {formatting.number(item.ece)} (by chance alone "
                    f"{formatting.number(item.ece_null)}), "
                    f"slope {formatting.number(item.slope)}, intercept "
                    f"{formatting.number(item.intercept)}, n "
                    f"= {item.n:,}"
                )
    labels = len({item.label for item in every})
    which = f"Calibration of {chosen}" + (f", the worst of {labels} labels" if labels > 1 else "")
    return [
        Picture(
            figures.reliability(drawn, name="calibration", label=chosen), f"{which}. {'; '.join(captions)}."
        )
    ]


def _training(runs: Sequence[TrainedRun]) -> list[Picture]:
    """Return the loss curves; a few points are drawn as points, and their number is given."""
    pictures = []
    for number, run in enumerate(runs):
        losses = {name: points for name, points in run.log.curves.items() if name.split(" ", 1)[-1] == "loss"}
        if not losses:
            continue
        sizes = ", ".join(f"{name}: {len(points)} points" for name, points in losses.items())
        alt = f"Loss of run {run.name} over its optimiser steps; {sizes}."
        svg = figures.lines(
            losses,
            name=f"training{number}",
            alt=alt,
            across="optimiser steps",
            up="loss",
            markers_below=_FEW_POINTS,
        )
        outside = " Computed from private data without noise: outside the guarantee." if run.private else ""
        pictures.append(Picture(svg, f"Training of run {run.name} ({run.kind}); {sizes}.{outside}"))
    return pictures
