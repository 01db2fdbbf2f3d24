"""Sections at the end: limits, and how to do it again."""

from __future__ import annotations

from typing import Any

import tomli_w

from meninx.report import words
from meninx.report.blocks import Cell, Section, Table, facts
from meninx.report.context import Context

_LIMITS = (
    "Differential privacy covers the released model. Everything in the private room of a run (checkpoints, logs, "
    "predictions, keys) is outside it and must stay in the hospital.",
    "Numbers measured on test patients (metrics, intervals, group tables, curves) are aggregates without noise: they are "
    "outside the guarantee of those patients.",
    "An epsilon bounds what a model reveals about one privacy unit. It does not hide facts that hold for many patients.",
    "De-identified is not anonymous: images can be recognised by their content, and rare findings by those who know them.",
    "Intervals show the chance of drawing these patients. They do not show what another hospital, scanner or population "
    "would give.",
    "Groups that are too small say nothing either way. No gap found is not proof that there is none.",
    "This page states measurements. It is no legal opinion and no clearance of a medical device.",
)


def limits(context: Context) -> Section:
    """Return the section on limits: what this page does not show, then what it never shows."""
    return Section("limits", "Limits and out of scope", ("What was not given or not done:",), points=(*context.missing, *_LIMITS))


def reproduction(context: Context) -> tuple[Section, tuple[tuple[str, str], ...]]:
    """Return the section on reproduction and, for each run, (name, config as TOML)."""
    tables = []
    for run in context.runs:
        record = run.environment
        command = record.get("command") or ()
        rows: list[tuple[str, Any]] = [("command", " ".join(str(word) for word in command) or "not recorded")]
        rows += [
            ("Python", record.get("python") or "not recorded"),
            ("system", f"{record.get('system')} {record.get('machine')}"),
        ]
        rows += [(name, version) for name, version in (record.get("packages") or {}).items()]
        rows.append(("source revision", record.get("source") or "not recorded"))
        rows += [(key.replace("_", " "), record[key]) for key in sorted(record) if key.endswith("digest")]
        tables.append(facts(f"Run {run.name}", rows))
        digests = tuple((Cell(name, head=True), Cell(value)) for name, value in run.digests.items())
        tables.append(Table(f"Run {run.name}: SHA-256 of its files", ("file", "digest"), digests))
    lead: tuple[str, ...] = ("The config of a run is itself a recipe: train with it, on the same data, to repeat the run.",)
    if context.runs and any(run.private and not run.not_for_release for run in context.runs):
        lead = (
            *lead,
            "The noise of a private run is drawn anew each time: a repetition gives the same privacy, not the same weights.",
        )
    configs = tuple((run.name, tomli_w.dumps(_without_folders(dict(run.config)))) for run in context.runs)
    return Section(
        "reproduction", "Reproduction", lead if context.runs else ("No run was given.",), tables=tuple(tables)
    ), configs


def _without_folders(value: Any) -> Any:
    """Return a config value with absolute paths cut to their last part: a folder may name a person."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        return words.listed(value.rstrip("/").rsplit("/", 1)[-1])
    return value
