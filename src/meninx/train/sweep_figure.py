"""The figure of a sweep: utility against epsilon with intervals, and the run without privacy as a band."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Point(Protocol):
    """The values of a row that the figure needs."""

    @property
    def epsilon(self) -> float: ...  # noqa: D102
    @property
    def metric(self) -> str: ...  # noqa: D102
    @property
    def mean(self) -> float: ...  # noqa: D102
    @property
    def low(self) -> float: ...  # noqa: D102
    @property
    def high(self) -> float: ...  # noqa: D102
    @property
    def seeds(self) -> int: ...  # noqa: D102
    @property
    def cases(self) -> int: ...  # noqa: D102


def draw(rows: Sequence[Point], path: Path) -> None:
    """Write the figure to ``path`` (.svg or .png); the folder must exist."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    private = [row for row in rows if not math.isinf(row.epsilon)]
    if private:
        epsilons, means = [row.epsilon for row in private], [row.mean for row in private]
        bars = [[row.mean - row.low for row in private], [row.high - row.mean for row in private]]
        axes.errorbar(
            epsilons,
            means,
            yerr=bars,
            fmt="o-",
            color="#1f5a92",
            capsize=4,
            label="with differential privacy",
        )
        axes.set_xscale("log")
        axes.set_xticks(epsilons, [f"{value:g}" for value in epsilons])
        axes.minorticks_off()
    for row in rows:
        if math.isinf(row.epsilon):
            axes.axhline(row.mean, color="#8a5a00", linestyle="--", label="without privacy")
            axes.axhspan(row.low, row.high, color="#8a5a00", alpha=0.12, linewidth=0)
    axes.set_xlabel("epsilon (smaller protects more)")
    axes.set_ylabel(f"test {rows[0].metric}")
    axes.set_title(
        f"{rows[0].cases} test cases, {rows[0].seeds} seed(s), 95 % patient-bootstrap intervals", fontsize=9
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
