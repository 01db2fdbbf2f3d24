"""Sections on the model: utility, privacy, fairness."""

from __future__ import annotations

import math
from collections.abc import Sequence

from meninx.metrics.estimates import Estimate, Evaluation
from meninx.report import curves, figures, words
from meninx.report.account import Bounds
from meninx.report.blocks import Cell, Picture, Section, Table, estimates, facts
from meninx.report.context import Comparison, Context
from meninx.report.evidence import Measured
from meninx.report.joint import Joint
from meninx.report.sources import TrainedRun
from meninx.report.verdict import at_chance, by_label

_LABELS_DRAWN = 4
_RUNS_DRAWN = 4
_FEW_POINTS = 8
_GROUP_COLUMNS = ("auroc", "dice", "sensitivity", "specificity", "selection_rate", "accuracy")
Evaluated = tuple[TrainedRun, Measured]


def utility(context: Context) -> Section:
    """Return the section on what the models are worth: the test split, other splits and other datasets each apart."""
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
    for run, measured in (*others, *external):
        tables += _tables(run, measured)[:1]
    tables.sort(key=lambda item: len(item.columns) <= 4)  # small tables share a row of the page
    shown = _drawn(context)
    drawn_of = [(run, item) for run, item in tested if run in shown]
    pictures = [*_rocs(drawn_of), *_calibrated(drawn_of)]
    if context.config.training_curves:
        drawn = [
            run for run in shown if run.private or not context.counts_hidden
        ]  # steps of an epoch tell how many
        pictures += _training(drawn)
    notes = dict.fromkeys(
        _note(note, item) for _, item in (*tested, *others, *external) for note in item.evaluation.notes
    )
    lead = tuple(dict.fromkeys(_measured_on(run, item) for run, item in (*tested, *others, *external)))
    if len(shown) < len(context.runs):
        lead = (
            *lead,
            (
                f"Figures show {len(shown)} of {len(context.runs)} runs: "
                f"{words.joined([run.name for run in shown])}."
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


def _drawn(context: Context) -> list[TrainedRun]:
    """Return the runs whose figures are drawn: the headline, the runs that it is compared with, then others, at most four."""
    first = [context.headline] if context.headline is not None else []
    compared = [
        item.baseline for item in context.comparisons if item.run in first and item.baseline is not None
    ]
    ranked = [*first, *compared, *context.runs]
    chosen = [run for place, run in enumerate(ranked) if run.finished and run not in ranked[:place]][
        :_RUNS_DRAWN
    ]
    return [run for run in context.runs if run in chosen]


def _measured_on(run: TrainedRun, measured: Measured) -> str:
    """Return what a run was measured on, with no word more than the record supports."""
    evaluation = measured.evaluation
    known = measured.record.patients_known and run.patients_known
    people = f" of {evaluation.n_patients:,} patients" if known else ""
    said = (
        f"Run {run.name} was measured on the {measured.where}: {evaluation.n_cases:,} "
        f"{'cases' if known else 'images'}{people}"
    )
    if measured.unseen and run.patients_known:
        said += ", patients that training never saw"
    elif known:
        said += "; whether training saw some of these patients was not compared"
    else:
        said += "; the source names no patients, so training may have seen other images of the same people"
    frozen = measured.record.thresholds_from or ("validation" if evaluation.thresholds else "")
    return f"{said}." + (f" Thresholds come from {frozen}." if frozen and evaluation.thresholds else "")


def _doubts(run: TrainedRun) -> list[str]:
    """Return what a reader must know before believing a run's numbers."""
    said = [f"Run {run.name} diverged: {sentence}." for sentence in curves.divergence(run.log)]
    said += [f"Run {run.name}: {sentence}." for _, sentence in curves.doubts(run.log)]
    if run.evidence.test is not None:
        evaluation = run.evidence.test.evaluation
        said += [f"Run {run.name}: {sentence}." for sentence in curves.oddities(evaluation)]
        chance = at_chance(evaluation)
        if chance:
            said.append(f"Run {run.name} cannot be told from chance for: {', '.join(chance)}.")
    return said


def _refused(context: Context) -> tuple[str, ...]:
    return tuple(
        sentence for run in (*context.runs, *context.unfinished) for sentence in run.evidence.refused
    )


def _note(note: str, measured: Measured) -> str:
    text = (
        note
        if measured.record.patients_known
        else note.replace("patients", "images").replace("patient", "image")
    )
    return text[:1].upper() + text[1:]


def _comparison(item: Comparison) -> Table:
    """Return the differences of a run to another on the same cases, under the split that they were measured on."""
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
    caption = f"{item.run.name} ({item.run.kind}) minus {named}, {item.compared.origin.split} split"
    if item.compared.origin.dataset:
        caption += f" of {item.compared.origin.dataset}"
    return estimates(caption, shown, note, folded=folded, patients=item.run.patients_known)


def _tables(run: TrainedRun, measured: Measured) -> list[Table]:
    evaluation = measured.evaluation
    overall = [item for item in evaluation.metrics if not item.label]
    single = by_label_first(evaluation)
    known = measured.record.patients_known and run.patients_known
    caption = f"Run {run.name} ({run.kind}), {measured.where}"
    tables = [estimates(caption, overall or single, folded=single if overall else (), patients=known)]
    if evaluation.thresholds:
        tables.append(_thresholds(run, evaluation))
    if "" in evaluation.confusion:
        tables.append(_confusion(run, evaluation))
    if any(evaluation.empty_masks.values()):
        rows = tuple(
            (Cell(label, head=True), Cell(f"{count:,}", number=True))
            for label, count in evaluation.empty_masks.items()
        )
        tables.append(Table(f"Run {run.name}: cases where both masks are empty", ("label", "cases"), rows))
    return tables


def by_label_first(evaluation: Evaluation) -> list[Estimate]:
    """Return the rows of single labels, the worst label's headline metric first."""
    judged = sorted(
        (item for item in by_label(evaluation) if item.label),
        key=lambda item: (math.isnan(item.value), item.value),
    )
    rest = [item for item in evaluation.metrics if item.label and item not in judged]
    return [*judged, *rest]


def _thresholds(run: TrainedRun, evaluation: Evaluation) -> Table:
    rows = tuple(
        (
            Cell(t.label, head=True),
            Cell(f"{t.value:.4f}", number=True),
            Cell(f"{t.n:,}", number=True),
            Cell(t.rule),
        )
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
        n = max((area.n for area in areas.values()), default=0)
        svg = figures.roc(label, drawn, areas, f"roc{number}")
        pictures.append(Picture(svg, f"ROC of {label}, test split, n = {n:,} cases."))
    return pictures


def _short(run: TrainedRun, runs: Sequence[TrainedRun]) -> str:
    """Return ``private`` or ``not private`` for a run when that tells the runs apart, else its name."""
    kinds = [item.private for item in runs]
    return run.kind if len(set(kinds)) == len(kinds) else run.name


def _calibrated(evaluated: Sequence[Evaluated]) -> list[Picture]:
    """Return the calibration of the worst calibrated label, with a sentence about how many others there are."""
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
    drawn, said = {}, []
    for run, measured in evaluated:
        for item in measured.evaluation.calibration:
            if item.label == chosen:
                short = _short(run, runs)
                drawn[short] = tuple(zip(item.predicted, item.observed, strict=True))
                said.append(
                    f"{short}: ECE {words.number(item.ece)} (by chance alone {words.number(item.ece_null)}), "
                    f"slope {words.number(item.slope)}, intercept {words.number(item.intercept)}, n "
                    f"= {item.n:,}"
                )
    labels = len({item.label for item in every})
    which = f"Calibration of {chosen}" + (f", the worst of {labels} labels" if labels > 1 else "")
    return [
        Picture(figures.reliability(drawn, name="calibration", label=chosen), f"{which}. {'; '.join(said)}.")
    ]


def _training(runs: Sequence[TrainedRun]) -> list[Picture]:
    """Return the loss curves; a few points are drawn as points, and their number is said."""
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


def privacy(context: Context) -> Section:
    """Return the section on privacy: the joint cost, then each run."""
    lead, pictures, tables, points = [], [], [], []
    for number, joint in enumerate(context.joints):
        lead += _joint_sentences(context, joint)
        tables += _risk(joint)
        points += [cap.reason for cap in joint.caps if cap.reason]
        for place, run in enumerate(joint.runs):
            if run.account is None or run.account.own is None:
                points.append(f"Run {run.name} is private and has not recorded a step yet.")
                continue
            lead.append(_guarantee(run))
            tables.append(_plan(run, hidden=context.counts_hidden))
            curve = [(float(x), float(y)) for x, y in run.account.curve]
            if len(curve) > 1 and not run.void and (run in _drawn(context) or not run.finished):
                name = f"spent{number}x{place}"
                svg = figures.spent(curve, name=name, delta=run.account.own.delta, unit=run.unit)
                pictures.append(
                    Picture(svg, f"Epsilon over the steps of run {run.name}: upper bounds from its ledger.")
                )
            points += _assumptions(run)
    for run in (*context.runs, *context.unfinished):
        if not run.private:
            stays = "it promises nothing and must stay where the data are"
            points.append(f"Run {run.name} was trained without differential privacy: {stays}.")
    if not (context.runs or context.unfinished):
        lead.append("No run was given. Nothing is claimed here.")
    return Section(
        "privacy", "Privacy", tuple(lead), tuple(pictures), tuple(tables), tuple(dict.fromkeys(points))
    )


def _joint_sentences(context: Context, joint: Joint) -> list[str]:
    """Return what a group of runs costs together, in words for an officer."""
    spent = joint.spent
    if spent is None:
        return []
    if joint.void:
        return [f"No epsilon holds for {joint.names}: the noise of {_void_names(joint)} came from a seed."]
    said = [words.meaning(joint.epsilon, spent.delta, joint.unit)]
    if len(joint.runs) > 1:
        why = "no record says that they do not share" if joint.assumed else "they share"
        said.insert(
            0,
            f"Runs {joint.names} count together, because {why} {context.people}: epsilon = "
            f"{words.number(joint.epsilon)} at "
            f"delta = {spent.delta:g} per {joint.unit} ({spent.relation}) for all their models, and "
            "for the choice among them. "
            "Runs on the same data that were not given here are not counted.",
        )
    return said


def _void_names(joint: Joint) -> str:
    return words.joined([run.name for run in joint.runs if run.void])


def _guarantee(run: TrainedRun) -> str:
    """Return the guarantee of one run, from its ledger."""
    spent = run.account.spent if run.account is not None else None
    if spent is None or run.account is None or run.account.own is None:
        return f"Run {run.name}: no step recorded."
    own = run.account.own
    if run.void:
        return (
            f"Run {run.name}: {own.steps:,} steps, void; no epsilon holds, because its noise came from "
            "a seed."
        )
    state = "" if run.finished else ", not finished"
    earlier = (
        f"; with the runs that it started from, its own steps alone {words.number(own.epsilon)}"
        if spent is not own
        else ""
    )
    return (
        f"Run {run.name}{state}: epsilon = {words.number(spent.epsilon)} at delta = {spent.delta:g} "
        f"per {run.unit} "
        f"({spent.relation}), {own.steps:,} steps of {own.sampler} sampling{earlier}."
    )


def _plan(run: TrainedRun, *, hidden: bool) -> Table:
    """Return the plan of a run as its ledger tells it.

    Where another run declared a number, the true one is not shown.
    """
    spent = run.account.own if run.account is not None else None
    if spent is None or run.account is None or run.account.spent is None:
        return facts(f"Plan of run {run.name}", ())
    rows: list[tuple[str, object]] = [
        ("privacy unit", run.unit),
        ("neighboring relation", str(spent.relation)),
    ]
    if run.void:
        rows.append(("epsilon", "void: noise from a seed"))
    else:
        rows += [("epsilon", run.account.spent.epsilon), ("delta", spent.delta)]
    rows += [
        ("noise_multiplier", spent.noise_multiplier),
        ("max_grad_norm", spent.max_grad_norm),
        ("clipping", spent.clipping or "not recorded"),
        ("sample_rate", spent.sample_rate),
        ("steps", spent.steps),
        ("sampler", spent.sampler),
        ("accountant", spent.accountant),
    ]
    if run.declared is not None:
        rows.append((f"{run.unit}s, as declared", run.declared))
    if run.units is not None and (run.declared is not None or not hidden):
        rows.append(("expected batch size", spent.sample_rate * run.units))
    return facts(f"Plan of run {run.name}", rows)


def _risk(joint: Joint) -> list[Table]:
    """Return the proven bounds; where the noise is known none of them holds, and none is printed."""
    which = f"run {joint.names}" if len(joint.runs) == 1 else f"runs {joint.names} together"
    caption = f"What an attacker can gain from {which}"
    broken = next((cap for cap in joint.caps if cap.colour in ("red", "grey") and cap.word), None)
    if joint.void or broken is not None:
        word = "void: noise from a seed" if joint.void or broken is None else broken.word
        rows = ((Cell("any bound", head=True), Cell(word), Cell("No bound holds; none is printed.")),)
        return [Table(caption, ("bound", "value", "in words"), rows)]
    if joint.bounds is None:
        return []
    return [
        Table(caption, ("bound", "value", "in words"), _bound_rows(joint.bounds, joint.unit), note=_PROVEN)
    ]


_PROVEN = (
    "Bounds proven from the ledger for any attacker; they are not measurements and so have no interval "
    "and no n."
)


def _bound_rows(bounds: Bounds, unit: str) -> tuple[tuple[Cell, ...], ...]:
    said = words.advantage_sentence(bounds.advantage, unit)
    rows = [
        (
            Cell("attack advantage", head=True),
            Cell(f"≤ {words.number(bounds.advantage)}", number=True),
            Cell(said),
        )
    ]
    for rate, bound in sorted(bounds.tpr_at_fpr.items(), reverse=True):
        value = Cell(f"≤ {words.number(bound)}", number=True)
        said = words.recognition_sentence(rate, bound, unit)
        rows.append((Cell(f"TPR at {words.percent(rate)} FPR", head=True), value, Cell(said)))
    return tuple(rows)


def _assumptions(run: TrainedRun) -> list[str]:
    spent = run.account.own if run.account is not None else None
    sampler = spent.sampler if spent is not None else "unknown"
    points = [
        (
            f"Protected is the presence of one {run.unit} in the training data, against an attacker who "
            "sees the released model."
        ),
        (
            f"In every step each {run.unit} took part with the stated sample rate, independently: "
            f"{sampler} sampling."
        ),
        (
            "The noise came from the operating system's entropy; its key stays in the private room and "
            "must not leave it."
        ),
    ]
    if run.void:
        points[2] = (
            f"The noise of run {run.name} came from a SEED: whoever knows it can subtract it. It "
            "must not be released."
        )
    if run.start is not None and run.start.origin == "run" and not run.start.composed:
        points.append(
            f"Outside the guarantee of run {run.name}: the earlier run that it started from, which "
            "used other data."
        )
    outside = run.privacy.outside_guarantee if run.privacy is not None else ()
    return points + [f"Outside the guarantee: {item}" for item in outside]


def fairness(context: Context) -> Section:
    """Return the section on groups, of the test split."""
    tables: list[Table] = []
    pictures: list[Picture] = []
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
            drawn, name=f"gaps{number}", limit=context.config.gap_limit, what=words.metric(name)
        )
        if svg:
            caption = (
                f"{words.metric(name)}, group minus rest, with 95 % intervals: run {run.name} ({run.kind})."
            )
            pictures.append(Picture(svg, caption))
        shown = [item for item in evaluation.gaps if item.label == label]
        folded = [item for item in evaluation.gaps if item.label != label]
        caption = f"Run {run.name} ({run.kind}): gaps, group minus rest"
        tables.append(estimates(caption, shown, folded=folded, patients=known))
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
    return Section("fairness", "Fairness by group", lead, tuple(pictures), tuple(tables))


def _focus(evaluation: Evaluation) -> str:
    """Return the label that the group tables show first: all together when there is such a row, else the only one."""
    return "" if any(not item.label for item in evaluation.groups) else evaluation.groups[0].label


def _groups(
    caption: str, groups: Sequence[Estimate], labels: Sequence[str], *, patients: bool, folded: bool = False
) -> Table:
    """Return a table with one group of one label a row and its metrics side by side, each above its interval."""
    mine = [item for item in groups if item.label in labels and item.name in _GROUP_COLUMNS]
    names = [name for name in _GROUP_COLUMNS if any(item.name == name for item in mine)]
    rows: dict[tuple[str, str, str], dict[str, Estimate]] = {}
    for item in mine:
        rows.setdefault((item.label, item.attribute, item.group), {})[item.name] = item
    body = []
    for (label, attribute, group), found in rows.items():
        first = next(iter(found.values()))
        sizes = Cell(
            f"{first.n:,}",
            sub="" if first.positives is None else f"{first.positives:,} positive",
            number=True,
        )
        head = Cell(f"{attribute} {group}", sub=label if len(labels) > 1 else "", head=True)
        people = (Cell(f"{first.patients:,}", number=True),) if patients else ()
        body.append((head, *(_pair(found.get(name)) for name in names), sizes, *people))
    columns = (
        "group",
        *(words.metric(name) for name in names),
        "n cases",
        *(("patients",) if patients else ()),
    )
    return Table(
        caption, columns, () if folded else tuple(body), estimates=True, more=tuple(body) if folded else ()
    )


def _pair(item: Estimate | None) -> Cell:
    if item is None:
        return Cell(words.DASH, number=True)
    known = item.value == item.value
    return Cell(words.value(item), sub=words.interval(item) if known else "", number=True)
