"""The section on privacy: what a run and all runs together cost, the plan, and what the cost permits."""

from __future__ import annotations

from collections.abc import Sequence

from meninx.core.percentages import percent
from meninx.report import figures, formatting
from meninx.report.context import ReportContext, drawn_runs
from meninx.report.joint_privacy import Joint
from meninx.report.privacy_account import Bounds
from meninx.report.sources import TrainedRun
from meninx.report.table_model import Picture, ReportTable, Section, TableCell, facts


def privacy(context: ReportContext) -> Section:
    """Return the section on privacy: the joint cost, then each run."""
    lead, pictures, tables, points = [], [], [], []
    for number, family in enumerate(_families(context.joints)):
        dearest = family[0]
        lead += _joint_sentences(context, dearest)
        tables += _risk(dearest)
        points += [cap.reason for joint in family for cap in joint.caps if cap.reason]
        begun = [run for joint in family for run in joint.runs if run.account is not None and run.account.own]
        for run in (run for joint in family for run in joint.runs if run not in begun):
            points.append(f"Run {run.name} is private and has not recorded a step yet.")
        lead += map(_guarantee, begun)
        together = len(family) > 1
        plans = [_plan(run, hidden=context.counts_hidden) for run in begun]
        tables += [_side_by_side(begun, plans)] if together else plans
        points += [point for run in begun for point in _assumptions(run)]
        drawn = [run for run in begun if run in drawn_runs(context) or not run.finished]
        pictures += _curves(drawn[:1] if together else drawn, number)
    for run in (*context.runs, *context.unfinished):
        if not run.private:
            stays = "it promises nothing and must stay where the data are"
            points.append(f"Run {run.name} was trained without differential privacy: {stays}.")
    if not (context.runs or context.unfinished):
        lead.append("No run was given. Nothing is claimed here.")
    return Section(
        "privacy", "Privacy", tuple(lead), tuple(pictures), tuple(tables), tuple(dict.fromkeys(points))
    )


def _families(joints: Sequence[Joint]) -> list[list[Joint]]:
    """Return the joints, those of the sites of one run of a study together, the dearest first.

    A site with a reservation of its own stays alone, so that nothing is said of it that holds of others only.
    """
    families: dict[object, list[Joint]] = {}
    for number, joint in enumerate(joints):
        part = joint.runs[0].part if len(joint.runs) == 1 else None
        alone = part is None or joint.void or joint.spent is None or any(cap.word for cap in joint.caps)
        key = number if alone or part is None else (part.study, part.run)
        families.setdefault(key, []).append(joint)
    return list(families.values())


def _side_by_side(runs: Sequence[TrainedRun], plans: Sequence[ReportTable]) -> ReportTable:
    """Return the plans of the sites of a study as one table with a column per site."""
    values = [{cells[0].text: cells[1] for cells in plan.rows} for plan in plans]
    names = list(dict.fromkeys(name for table in values for name in table))
    rows = tuple(
        (TableCell(name, head=True), *(table.get(name, TableCell(formatting.DASH)) for table in values))
        for name in names
    )
    study = next((run.part.study for run in runs if run.part is not None), "")
    note = "Each column is about the patients of that site. The bounds above are those of the first."
    caption = f"Plans of the sites of study {study}"
    return ReportTable(caption, ("what", *(run.name for run in runs)), rows, note=note)


def _curves(runs: Sequence[TrainedRun], number: int) -> list[Picture]:
    """Return the figures of epsilon over the steps."""
    found = []
    for place, run in enumerate(runs):
        if run.account is None or run.account.own is None or run.void or len(run.account.curve) < 2:
            continue
        curve = [(float(x), float(y)) for x, y in run.account.curve]
        name = f"spent{number}x{place}"
        svg = figures.spent(curve, name=name, delta=run.account.own.delta, unit=run.unit)
        found.append(Picture(svg, f"Epsilon over the steps of run {run.name}: upper bounds from its ledger."))
    return found


def _joint_sentences(context: ReportContext, joint: Joint) -> list[str]:
    """Return what a group of runs costs together, in words for an officer."""
    spent = joint.spent
    if spent is None:
        return []
    if joint.void:
        return [f"No epsilon holds for {joint.names}: the noise of {_void_names(joint)} came from a seed."]
    sentences = [formatting.meaning(joint.epsilon, spent.delta, joint.unit)]
    if joint.bounds is not None:
        sentences[0] += (
            " That is the worst case of one conclusion; the table below says what an attacker gains."
        )
    if len(joint.runs) > 1:
        why = "no record says that they do not share" if joint.assumed else "they share"
        sentences.insert(
            0,
            f"Runs {joint.names} count together, because {why} {context.people}: epsilon = "
            f"{formatting.number(joint.epsilon)} at "
            f"delta = {spent.delta:g} per {joint.unit} ({spent.relation}) for all their models, and "
            "for the choice among them. "
            "Runs on the same data that were not given here are not counted.",
        )
    return sentences


def _void_names(joint: Joint) -> str:
    return formatting.joined([run.name for run in joint.runs if run.void])


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
        f"; with the runs that it started from, its own steps alone {formatting.number(own.epsilon)}"
        if spent is not own
        else ""
    )
    return (
        f"Run {run.name}{state}: epsilon = {formatting.number(spent.epsilon)} at delta = {spent.delta:g} "
        f"per {run.unit} "
        f"({spent.relation}), {own.steps:,} steps of {own.sampler} sampling{earlier}."
    )


def _plan(run: TrainedRun, *, hidden: bool) -> ReportTable:
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


def _risk(joint: Joint) -> list[ReportTable]:
    """Return the proven bounds; where the noise is known none of them holds, and none is printed."""
    which = f"run {joint.names}" if len(joint.runs) == 1 else f"runs {joint.names} together"
    caption = f"What an attacker can gain from {which}"
    broken = next((cap for cap in joint.caps if cap.colour in ("red", "grey") and cap.word), None)
    if joint.void or broken is not None:
        word = "void: noise from a seed" if joint.void or broken is None else broken.word
        rows = (
            (
                TableCell("any bound", head=True),
                TableCell(word),
                TableCell("No bound holds; none is printed."),
            ),
        )
        return [ReportTable(caption, ("bound", "value", "in words"), rows)]
    if joint.bounds is None:
        return []
    return [
        ReportTable(
            caption, ("bound", "value", "in words"), _bound_rows(joint.bounds, joint.unit), note=_PROVEN
        )
    ]


_PROVEN = (
    "Bounds proven from the ledger for any attacker; they are not measurements and so have no interval "
    "and no n."
)


def _bound_rows(bounds: Bounds, unit: str) -> tuple[tuple[TableCell, ...], ...]:
    text = formatting.advantage_sentence(bounds.advantage, unit)
    rows = [
        (
            TableCell("attack advantage", head=True),
            TableCell(f"≤ {formatting.number(bounds.advantage)}", number=True),
            TableCell(text),
        )
    ]
    for rate, bound in sorted(bounds.tpr_at_fpr.items(), reverse=True):
        value = TableCell(f"≤ {formatting.number(bound)}", number=True)
        text = formatting.recognition_sentence(rate, bound, unit)
        rows.append((TableCell(f"TPR at {percent(rate)} FPR", head=True), value, TableCell(text)))
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
    if run.record.own_loop:
        points[1] = (
            f"In every step of run {run.name} each {run.unit} was drawn with the stated sample rate, "
            f"independently: {sampler} sampling. That the user's loop gave the rows of those drawn, and "
            "nothing else of the data, is the user's word."
        )
        points[2] = (
            "The noise came from the operating system's entropy; its key was in memory alone and is gone."
        )
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
