"""Sections at the end: limits, and how to do it again."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import tomli_w

from meninx.report import formatting
from meninx.report.context import ReportContext
from meninx.report.sources import TrainedRun
from meninx.report.table_model import ReportTable, Section, TableCell, facts


def limits(context: ReportContext) -> Section:
    """Return the section on limits: what this page does not show, then what it never shows."""
    return Section(
        "limits",
        "Limits and out of scope",
        ("What was not given or not done:",),
        points=(*context.missing, *_always(context)),
    )


def _always(context: ReportContext) -> tuple[str, ...]:
    people = context.people
    return (
        "Differential privacy covers the released model. Everything in the private room of a run "
        "(checkpoints, logs, "
        "predictions, keys) is outside it and must stay in the hospital.",
        f"Numbers measured on test {people} (metrics, intervals, group tables, curves) are "
        "aggregates without noise: they are "
        f"outside the guarantee of those {people}.",
        (
            "An epsilon bounds what a model reveals about one privacy unit. It does not hide facts "
            "that hold for many of them."
        ),
        (
            f"Runs share {people} when their lists of members do; somebody under two pseudonyms is not "
            "recognised."
        ),
        (
            "De-identified is not anonymous: images can be recognised by their content, and rare "
            "findings by those who know them."
        ),
        f"Intervals show the chance of drawing these {people}. They do not show what another "
        "hospital, scanner or population "
        "would give.",
        "Groups that are too small say nothing either way. No gap found is not proof that there is none.",
        "The records are checked against each other and against the ledger. They are not signed: "
        "who can write all files of a "
        "run can forge them all.",
        "This page states measurements. It is no legal opinion and no clearance of a medical device.",
    )


def reproduction(context: ReportContext) -> tuple[Section, tuple[tuple[str, str], ...]]:
    """Return the section on reproduction and, for each run, (title, config as TOML)."""
    tables = []
    for run in context.runs:
        tables.append(_belongs(run))
        if run.environment is not None:
            tables.append(_environment(run))
        digests = tuple((TableCell(name, head=True), TableCell(value)) for name, value in run.digests.items())
        tables.append(ReportTable(f"Run {run.name}: SHA-256 of its files", ("file", "digest"), digests))
    lead: tuple[str, ...] = (
        "The config of a run is itself a recipe: train with it, on the same data, to repeat the run.",
    )
    own = [run.name for run in context.runs if run.record.own_loop]
    if own:
        which = f"run{'s' if len(own) > 1 else ''} {formatting.joined(own)}"
        plan = f"The config of {which} states the plan of a loop of the user's own, whose code is not here."
        lead = (*(lead if len(own) < len(context.runs) else ()), plan)
    if any(run.private and not run.void for run in context.runs):
        lead = (
            *lead,
            (
                "The noise of a private run is drawn anew each time: a repetition gives the same "
                "privacy, not the same weights."
            ),
        )
    configs = tuple(
        (f"config.toml of run {run.name}", tomli_w.dumps(resolved(run, hidden=context.counts_hidden)))
        for run in context.runs
    )
    return Section(
        "reproduction",
        "Reproduction and use",
        lead if context.runs else ("No finished run was given.",),
        tables=tuple(tables),
        points=tuple(sentence for run in context.runs for sentence in _use(run)),
    ), configs


def _use(run: TrainedRun) -> list[str]:
    """Return how the released model of a run makes predictions, by the files that are there."""
    bundle = run.root / "release" / "bundle"
    if run.void:
        return [f"Run {run.name}: its model must not be released or used outside this test."]
    if not (bundle / "models" / "model.pt").is_file():
        return [f"Run {run.name}: its release holds no model bundle, so `meninx predict` cannot use it."]
    ways = ["with meninx: meninx predict release IMAGES OUT"]
    if (bundle / "configs" / "inference.json").is_file():
        ways.append(
            "with MONAI alone, in release/bundle: python -m monai.bundle run --config_file "
            "configs/inference.json --bundle_root . --dataset_dir IMAGES --output_dir OUT"
        )
    if (bundle / "models" / "model.onnx").is_file():
        ways.append(
            "with ONNX Runtime alone: release/bundle/models/model.onnx, as bundle/docs/README.md shows"
        )
    same = "; all give the same probabilities" if len(ways) > 1 else ""
    images = "IMAGES is a folder of DICOM, PNG or NIfTI files"
    return [f"Predict with run {run.name}, {'; '.join(ways)}{same}. {images}."]


def _belongs(run: TrainedRun) -> ReportTable:
    """Return what the numbers of a run belong to."""
    record = run.record
    rows = [
        ("run", record.id or "not recorded"),
        ("folder", run.root.name),
        ("step of the released weights", f"{record.step:,}" if record.step else "not recorded"),
        ("digest of the released weights", record.weights or "not recorded"),
        ("digest of the dataset (keyed)", record.data or "not recorded"),
        ("dataset", record.dataset or "not recorded"),
        ("made", record.made or "not recorded"),
        ("finished", record.finished or "not recorded"),
    ]
    note = (
        "The digest of the dataset is keyed: only the holder of the run's private room can compare it "
        "with a dataset."
    )
    return facts(f"Run {run.name}: what its numbers belong to", rows, note)


def _environment(run: TrainedRun) -> ReportTable:
    record = run.environment
    if record is None:
        return facts(f"Run {run.name}", ())
    rows: list[tuple[str, object]] = [
        ("command", " ".join(last_part(word) for word in record.command) or "not recorded"),
        ("Python", record.python or "not recorded"),
        ("system", f"{record.system} {record.machine}".strip() or "not recorded"),
        *record.packages.items(),
        ("source revision", record.source or "not recorded"),
    ]
    return facts(f"Run {run.name}: versions", rows)


def resolved(run: TrainedRun, *, hidden: bool) -> dict[str, Any]:
    """Return the config of a run without settings that older versions left to be decided later.

    Args:
        run: the run.
        hidden: a number was declared, so that the steps of a run without privacy, from which the true one
            follows, go, too.
    """
    config = dict(run.config)
    vague = {"steps": 0, "loss": "auto"}
    for name, value in vague.items():
        if config.get(name) == value:
            del config[name]
    if run.private and config.get("sampling") != "poisson":
        config.pop("sampling", None)  # private runs draw units at random whatever stands here
    if hidden and not run.private:
        config.pop("steps", None)
    return {key: without_folders(value) for key, value in config.items()}


def without_folders(value: Any) -> Any:
    """Return a config value with absolute paths cut to their last part: a folder may name a person."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return last_part(value) if isinstance(value, str) else value


def last_part(text: str) -> str:
    """Return an absolute path's last part, other text as it is; also behind ``--flag=``."""
    flag, equals, rest = text.partition("=")
    if equals and flag.startswith("-"):
        return f"{flag}={last_part(rest)}"
    if text.startswith(("/", "~")):
        return PurePosixPath(text).name
    windows = PureWindowsPath(text)
    return windows.name if windows.drive and len(windows.parts) > 1 else text
