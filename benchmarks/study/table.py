"""The tables of the study: means over seeds with t-intervals, differences and costs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from study.sets import ARMS, EPSILONS, NON_PRIVATE, OURS, PLAIN, STUDIES, WARM, Study

Row = dict[str, Any]


@dataclass(frozen=True)
class Level:
    """One arm of one dataset at one epsilon.

    Attributes:
        values: test metric of every seed.
        low: lower end of the 95 % t-interval of the mean over seeds; NaN of a single seed.
        high: upper end.
        patients: patient-bootstrap interval of seed 0.
        cpu: mean CPU seconds of training.
        steps: optimiser steps.
    """

    values: tuple[float, ...]
    low: float
    high: float
    patients: tuple[float, float]
    cpu: float
    steps: float

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.values))

    def said(self) -> str:
        """Return mean and interval as text."""
        return (
            f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"
            if len(self.values) > 1
            else f"{self.mean:.3f}"
        )


def read(path: Path) -> list[Row]:
    """Return the finished runs."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def level(rows: Sequence[Row], key: str, arm: str, epsilon: float | None) -> Level | None:
    """Return what the runs of one cell came to; None when there is none."""
    own = [row for row in rows if (row["set"], row["arm"], row["epsilon"]) == (key, arm, epsilon)]
    own.sort(key=lambda row: row["seed"])
    if not own:
        return None
    values = tuple(float(row["test"]["value"]) for row in own)
    low, high = interval(values)
    patients = (own[0]["test"]["low"], own[0]["test"]["high"])
    cpu, steps = (float(np.mean([row[name] for row in own])) for name in ("cpu", "steps"))
    return Level(values, low, high, patients, cpu, steps)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % t-interval of the mean, cut at 0 and 1; NaN of fewer than two values."""
    if len(values) < 2:
        return math.nan, math.nan
    reach = (
        float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    )
    return max(0.0, float(np.mean(values)) - reach), min(1.0, float(np.mean(values)) + reach)


def present(rows: Sequence[Row]) -> list[Study]:
    """Return the datasets that have runs, in the study's order."""
    keys = {row["set"] for row in rows}
    return [study for key, study in STUDIES.items() if key in keys]


def text(rows: Sequence[Row]) -> str:
    """Return all tables as Markdown."""
    return "\n".join([*_utility(rows), "", "Every run:", "", *_runs(rows), ""])


def _utility(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| dataset | epsilon | meninx: mean over seeds; over patients | plain Opacus, likewise | "
        "meninx minus Opacus | meninx minus non-private |",
        "|---|---|---|---|---|---|",
    ]
    for study in present(rows):
        clean = level(rows, study.key, NON_PRIVATE, None)
        if clean:
            lines.append(
                f"| {study.title} ({study.metric}), delta {study.delta:g} | none | {_said(clean)} "
                "(non-private) | | | |"
            )
        for epsilon in EPSILONS:
            mine, theirs, warm = (level(rows, study.key, arm, epsilon) for arm in (OURS, PLAIN, WARM))
            if mine or theirs:
                cells = [_said(mine), _said(theirs), _gap(mine, theirs), _gap(mine, clean)]
                lines.append(f"| | {epsilon:g} | {' | '.join(cells)} |")
            if warm:
                lines.append(f"| | {epsilon:g} | | {_said(warm)} (from our weights) | {_gap(mine, warm)} | |")
    return lines


def _said(found: Level | None) -> str:
    """Return mean and spread over seeds, and beside it how far the test patients could be others."""
    if found is None:
        return ""
    low, high = found.patients
    return f"{found.said()}; patients [{low:.3f}, {high:.3f}]"


def _gap(mine: Level | None, other: Level | None) -> str:
    """Return the difference of two means with Welch's 95 % interval."""
    if mine is None or other is None:
        return ""
    gap = mine.mean - other.mean
    if min(len(mine.values), len(other.values)) < 2:
        return f"{gap:+.3f}"
    found = stats.ttest_ind(mine.values, other.values, equal_var=False).confidence_interval(0.95)
    return f"{gap:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _runs(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| dataset | arm | epsilon | each seed | patient bootstrap of seed 0 | steps | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for study in present(rows):
        for arm in ARMS:
            for epsilon in (None, *EPSILONS):
                found = level(rows, study.key, arm, epsilon)
                if found is None:
                    continue
                each = ", ".join(f"{value:.3f}" for value in found.values)
                said = "none" if epsilon is None else f"{epsilon:g}"
                low, high = found.patients
                lines.append(
                    f"| {study.title} | {arm} | {said} | {each} | [{low:.3f}, {high:.3f}] | "
                    f"{found.steps:.0f} | {found.cpu:.0f} |"
                )
    return lines
