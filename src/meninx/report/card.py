"""The model card: the section order of Hugging Face's template, every field from the run, an unknown field is an error."""

from __future__ import annotations

import json
from typing import Any

from meninx.core.errors import DataError, expected
from meninx.metrics.tables import Estimate
from meninx.report import page, words
from meninx.report.context import Context
from meninx.report.sources import Dataset, TrainedRun

_TASKS = {"multiclass": "image-classification", "multilabel": "image-classification", "segmentation": "image-segmentation"}


def render(context: Context, run: TrainedRun) -> str:
    """Return the model card of one run as Markdown with YAML front matter.

    Raises:
        DataError: a field of the card is not known; names the field and where to give it.
    """
    dataset = _dataset(context, run)
    evaluation = _needed(run.evaluation, "evaluation", f"run {run.name}", "run `meninx evaluate` first")
    packages = _needed(run.environment.get("packages"), "package versions", f"environment.json of run {run.name}", "")
    fields: dict[str, Any] = {
        "run": run.name,
        "model": _needed(run.config.get("model"), "model", f"config.toml of run {run.name}", ""),
        "config": [(key, _said(value)) for key, value in _flat(run.config)],
        "license": _needed(context.config.license, "license", "--license", "give an SPDX identifier, or other"),
        "authors": _needed(context.config.authors, "authors", "--authors", "say who answers for the model"),
        "contact": _needed(context.config.contact, "contact", "--contact", "say how to reach them"),
        "intended_use": _needed(context.config.intended_use, "intended use", "--intended-use", ""),
        "task": evaluation.task,
        "pipeline_tag": _TASKS[evaluation.task],
        "labels": evaluation.labels,
        "dataset": dataset,
        "counts": _needed(dataset.counts, "cases and patients by split", f"dataset {dataset.name}", "add its manifest.csv"),
        "evaluation": evaluation,
        "rows": [_row(item) for item in evaluation.metrics],
        "group_rows": [_row(item) for item in evaluation.groups],
        "metrics": sorted({item.name for item in evaluation.metrics}),
        "headline": _row(evaluation.headline),
        "privacy": run.privacy if run.private else None,
        "outside": tuple((run.privacy or {}).get("outside_guarantee") or ()),
        "environment": run.environment,
        "packages": packages,
        "digests": run.digests,
        "banner": run.not_for_release or bool((run.privacy or {}).get("deterministic")),
        "date": context.date,
    }
    engine = page.environment(escape=False)
    engine.filters["yaml"] = lambda value: json.dumps(value, ensure_ascii=False)
    return engine.get_template("card.md.j2").render(**fields)


def _dataset(context: Context, run: TrainedRun) -> Dataset:
    labels = run.evaluation.labels if run.evaluation else None
    fitting = [item for item in context.datasets if labels is None or item.info.labels == labels]
    found: Dataset = _needed(
        next(iter(fitting), None), "dataset", f"sources of run {run.name}", "add the prepared dataset's folder"
    )
    return found


def _needed(value: Any, what: str, where: str, fix: str) -> Any:
    if value is None or value == "" or value == {} or value == ():
        raise DataError(expected(f"a value for the model card's {what}", got="none", where=where, fix=fix))
    return value


def _flat(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in config.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return rows


def _said(value: Any) -> str:
    text = words.listed(value)
    return text.rstrip("/").rsplit("/", 1)[-1] if text.startswith(("/", "~")) else text


def _row(item: Estimate) -> dict[str, str]:
    return {
        "metric": words.metric(item.name),
        "label": item.label or "all labels",
        "group": f"{item.attribute} {item.group}",
        "value": words.value(item),
        "interval": words.interval(item),
        "n": f"{item.n:,}",
        "patients": f"{item.patients:,}",
    }
