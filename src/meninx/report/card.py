"""The model card in the section order of Hugging Face's template, with every field taken from the run.

Every value is escaped for Markdown where the template prints it (``finalize``); values of the front matter
are JSON, which YAML reads as it is. Only numbers that this package formats are printed as they are.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from meninx.core import names
from meninx.core.errors import DataError, expected, problem
from meninx.metrics.estimates import Estimate
from meninx.report import formatting, training_log, verdict
from meninx.report.context import ReportContext
from meninx.report.evaluations import MeasuredSplit
from meninx.report.joint_privacy import Joint
from meninx.report.section_limits import resolved
from meninx.report.sources import Dataset, TrainedRun

NAME = "MODEL_CARD.md"
_TASKS = {
    "multiclass": "image-classification",
    "multilabel": "image-classification",
    "segmentation": "image-segmentation",
}
_HIDDEN = "not shown"


class Safe(str):
    """Text that needs no escaping: made here, from numbers."""


def render(context: ReportContext, run: TrainedRun) -> str:
    """Return the model card of one run as Markdown with YAML front matter.

    Raises:
        DataError: the run is not finished, or a field of the card is not known; names the field and where to
            give it.
    """
    if not run.finished:
        fix = "finish it with `meninx train --resume`, or report without --card"
        raise DataError(problem("a model card needs a finished run", where=f"run {run.name}", fix=fix))
    if run.record.own_loop:
        why = "meninx saw neither data nor evaluation of a loop of the user's own, so it cannot fill a card"
        fix = "write the card yourself, and report without --card"
        raise DataError(problem(why, where=f"run {run.name}", fix=fix))
    measured = run.evidence.test
    if measured is None:
        what = "evaluation of the released weights on the test split, which the model card states"
        raise DataError(
            problem(f"there is no {what}", where=f"run {run.name}", fix="run `meninx evaluate` first")
        )
    dataset = _dataset(context, run)
    recorded = _needed(run.environment, "package versions", f"the environment of run {run.name}")
    fields = _described(context, run, dataset) | _measured(context, run, measured) | _promised(context, run)
    fields |= {
        "environment": recorded,
        "packages": _needed(recorded.packages, "package versions", f"the environment of run {run.name}"),
        "digests": run.digests,
        "banner": run.void,
        "date": context.date,
    }
    return _engine().get_template("card.md.j2").render(**fields)


@functools.cache
def _engine() -> Environment:
    engine = Environment(
        loader=PackageLoader("meninx.report"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_escaped,
    )
    engine.filters["yaml"] = lambda value: Safe(json.dumps(value))
    return engine


def _escaped(value: Any) -> Any:
    if isinstance(value, Safe) or not isinstance(value, str):
        return value
    return names.markdown(names.printable(value, hidden=" "))


def _described(context: ReportContext, run: TrainedRun, dataset: Dataset) -> dict[str, Any]:
    """Return what the model is and what it was trained on."""
    config = context.config
    known = run.patients_known and dataset.info.patients_known
    return {
        "run": run.name,
        "model": _needed(run.config.get("model"), "model", f"the config of run {run.name}"),
        "config": [
            (key, formatting.listed(value))
            for key, value in _flat(resolved(run, hidden=context.counts_hidden))
        ],
        "license": config.license,
        "authors": config.authors,
        "contact": config.contact,
        "intended_use": config.intended_use,
        "dataset": dataset,
        "counts": _counts(context, run, dataset),
        "patients_known": known,
        "people": "patients" if known else "images",
        "declared": run.declared,
        "record": run.record,
        "attribute_found": _found(context, run),
        "start": run.start.summary() if run.start is not None else "not recorded",
    }


def _found(context: ReportContext, run: TrainedRun) -> str:
    """Return what attackers find in the obfuscated images of a run; empty for other images."""
    release = context.release_of(run)
    return release.finding() if run.record.obfuscated and release is not None else ""


def _counts(context: ReportContext, run: TrainedRun, dataset: Dataset) -> list[tuple[str, str, str]]:
    """Return (split, cases, patients); with a declared number that alone for the training split."""
    counts = _needed(dataset.counts, "cases by split", f"dataset {dataset.name}")
    rows = []
    for name, (cases, patients) in counts.items():
        shown = (f"{cases:,}", f"{patients:,}")
        if name == "train" and context.counts_hidden:
            declared = f"declared: {run.declared:,}" if run.declared is not None else _HIDDEN
            shown = (_HIDDEN, declared) if dataset.info.patients_known else (declared, "")
        rows.append((name, *shown))
    return rows


def _measured(context: ReportContext, run: TrainedRun, measured: MeasuredSplit) -> dict[str, Any]:
    """Return what was measured, and what it says about usefulness."""
    evaluation = measured.evaluation
    colour, word, reason = verdict.utility(context, run)
    known = measured.record.patients_known and run.patients_known
    notes = [note if known else note.replace("patient", "image") for note in evaluation.notes]
    return {
        "task": evaluation.task,
        "pipeline_tag": Safe(_TASKS[evaluation.task]),
        "labels": evaluation.labels,
        "evaluation": evaluation,
        "measured_known": known,
        "unseen": measured.unseen and known,
        "notes": notes,
        "rows": [_row(item) for item in evaluation.metrics],
        "group_rows": [_row(item) for item in evaluation.groups],
        "metrics": sorted({item.name for item in evaluation.metrics}),
        "headline": _row(evaluation.headline),
        "utility": {"colour": colour, "word": word, "reason": reason, "rule": verdict.utility_rule(context)},
        "diverged": training_log.divergence(run.log),
    }


def _promised(context: ReportContext, run: TrainedRun) -> dict[str, Any]:
    """Return what is promised to the units of the training data, from the ledger."""
    spent = run.account.spent if run.account is not None else None
    joint = next((item for item in context.joints if run in item.runs), None)
    started = run.start is not None and run.start.origin == "run" and not run.start.composed
    return {
        "private": run.private,
        "sound": spent is not None and not run.void,
        "guarantee": ""
        if spent is None or run.void
        else f"epsilon = {formatting.number(spent.epsilon)} at delta = {spent.delta:g} per {run.unit} "
        f"({spent.relation}), "
        f"{spent.steps:,} steps of {spent.sampler} sampling.",
        "meaning": ""
        if spent is None or run.void
        else formatting.meaning(spent.epsilon, spent.delta, run.unit),
        "caps": [cap.reason for cap in joint.caps if cap.reason] if joint is not None else [],
        "together": _together(context, joint),
        "unknown_start": run.unknown_start,
        "earlier_run": started,
        "outside": run.privacy.outside_guarantee if run.privacy is not None else (),
        "unit": run.unit,
    }


def _together(context: ReportContext, joint: Joint | None) -> str:
    if joint is None or joint.spent is None or len(joint.runs) < 2:
        return ""
    share = "may share" if joint.assumed else "share"
    cost = (
        "no bound"
        if joint.void
        else f"epsilon = {formatting.number(joint.epsilon)} at delta = {joint.spent.delta:g}"
    )
    return (
        f"Runs {joint.names} {share} training {context.people}: together they cost {cost}. Whoever "
        "gets more than one of these "
        "models, or knows that they were chosen among, must count that."
    )


def _dataset(context: ReportContext, run: TrainedRun) -> Dataset:
    found = context.own_dataset(run)
    if found is None:
        got = "another one" if context.datasets else "none"
        if run.data is None or not run.data.digest:
            got = "a run that does not say which one that was"
        fix = "add the prepared dataset's folder to the sources, as it was when the run was trained"
        where = f"sources of run {run.name}"
        raise DataError(
            expected(
                "the dataset that the run was trained on, for its model card", got=got, where=where, fix=fix
            )
        )
    return found


def _needed(value: Any, what: str, where: str) -> Any:
    if value is None or value == "" or value == {} or value == ():
        raise DataError(problem(f"the model card's {what} is missing", where=where))
    return value


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in config.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return rows


def _row(item: Estimate) -> dict[str, str]:
    return {
        "metric": formatting.metric(item.name),
        "label": item.label or "all labels",
        "group": f"{item.attribute} {item.group}",
        "value": formatting.value(item) if item.note else Safe(formatting.value(item)),
        "interval": Safe(formatting.interval(item)),
        "n": Safe(f"{item.n:,}"),
        "patients": Safe(f"{item.patients:,}"),
    }
