"""The figure of the study: utility against epsilon, one panel per dataset, with t-intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study.sets import EPSILONS, NON_PRIVATE, OURS, PLAIN, Study
from study.table import Level, Row, level, present

LINES = ((OURS, "meninx", "o-", "#1f5a92", 0.97), (PLAIN, "plain Opacus DP-SGD", "s--", "#b3421f", 1.03))
CLEAN = "#5b5b5b"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the figure to ``path``; its folder must exist."""
    from matplotlib.figure import Figure

    studies = present(rows)
    columns = min(3, len(studies))
    lines = math.ceil(len(studies) / columns)
    figure = Figure(figsize=(3.9 * columns, 3.3 * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, study in zip(panels, studies, strict=False):
        _panel(panel, rows, study)
    for panel in panels[len(studies) :]:
        panel.set_axis_off()
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)
    figure.savefig(path, dpi=150)


def _panel(axes: Any, rows: Sequence[Row], study: Study) -> None:
    clean = level(rows, study.key, NON_PRIVATE, None)
    if clean:
        axes.axhline(clean.mean, color=CLEAN, linestyle=":", label="without privacy")
        if len(clean.values) > 1:
            axes.axhspan(clean.low, clean.high, color=CLEAN, alpha=0.12, linewidth=0)
    for arm, name, style, colour, shift in LINES:
        found = [(epsilon, level(rows, study.key, arm, epsilon)) for epsilon in EPSILONS]
        points = [(epsilon * shift, item) for epsilon, item in found if item]
        if points:
            means = [item.mean for _, item in points]
            for x, item in points:
                axes.plot([x] * len(item.values), item.values, ".", color=colour, alpha=0.45, markersize=6)
            axes.errorbar(
                [x for x, _ in points],
                means,
                yerr=_bars([item for _, item in points]),
                fmt=style,
                color=colour,
                capsize=3,
                label=name,
            )
    axes.set_xscale("log")
    axes.set_xticks(EPSILONS, [f"{value:g}" for value in EPSILONS])
    axes.minorticks_off()
    axes.set_xlabel("epsilon (smaller protects more)", fontsize=9)
    axes.set_ylabel(f"test {study.metric}", fontsize=9)
    axes.set_title(f"{study.title}, delta {study.delta:g}", fontsize=10)
    axes.grid(alpha=0.3)


def _bars(items: Sequence[Level]) -> list[list[float]]:
    low = [0.0 if math.isnan(item.low) else item.mean - item.low for item in items]
    high = [0.0 if math.isnan(item.high) else item.high - item.mean for item in items]
    return [low, high]
