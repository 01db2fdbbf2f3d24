"""The figure of ``meninx audit bounds``: the largest success of any attack against epsilon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from meninx.audit.audit_files import save_figure
from meninx.core.percentages import axis_mark
from meninx.core.risk_records import BoundPoint, BoundsRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WORST, _RELAXED, _SHADE = "#6b3fa0", "#d9822b", "#b03030"
NO_GUARANTEE = "no guarantee"


def draw(record: BoundsRecord, *paths: Path) -> None:
    """Write the figure of the first adversary to all ``paths`` (.svg or .png); the folders must exist."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    prior = record.priors[0]
    axis = [point.epsilon for point in record.points]
    line = sorted([*record.points, *([record.operating] if record.operating else [])], key=_epsilon)
    with mpl.rc_context({"svg.hashsalt": "meninx", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.add_subplot()
        for model, colour, label in (("worst", _WORST, "worst case"), ("relaxed", _RELAXED, "relaxed")):
            values = [getattr(point, model)[prior.name].upper for point in line]
            axes.plot(
                [point.epsilon for point in line], values, "o-", color=colour, label=label, markersize=3
            )
        axes.axhline(prior.kappa, color="#444444", linestyle=":", label=f"blind guess, {prior.name}")
        _mark(record, axes)
        axes.set(xscale="log", yscale="log", ylim=(prior.kappa / 3, 1.6))
        axes.yaxis.set_major_formatter(FuncFormatter(axis_mark))
        if axis[0] < axis[-1]:
            axes.set_xlim(axis[0], axis[-1])
        axes.set_xlabel("epsilon (smaller protects more)")
        axes.set_ylabel(f"largest success of any attack, {prior.name}")
        axes.set_title(_facts(record), fontsize=8)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.18), fontsize=8.5)
        save_figure(figure, *paths, dpi=150)


def _epsilon(point: BoundPoint) -> float:
    return point.epsilon


def _mark(record: BoundsRecord, axes: Axes) -> None:
    """Mark the operating point, and shade where the bound says nothing."""
    prior, point = record.priors[0], record.operating
    if record.no_guarantee_from is not None:
        axes.axvspan(
            record.no_guarantee_from, record.points[-1].epsilon, color=_SHADE, alpha=0.12, linewidth=0
        )
        axes.text(
            (record.no_guarantee_from * record.points[-1].epsilon) ** 0.5,
            (prior.kappa / 3 * 1.6) ** 0.5,
            NO_GUARANTEE,
            ha="center",
            color=_SHADE,
            fontsize=14,
        )
    if point is not None:
        axes.plot([point.epsilon], [point.worst[prior.name].upper], "D", color=_WORST, markersize=9)
        axes.plot([point.epsilon], [point.relaxed[prior.name].upper], "D", color=_RELAXED, markersize=7)
        axes.axvline(
            point.epsilon,
            color="#444444",
            linewidth=0.8,
            label=f"operating point, epsilon {point.epsilon:.3g} ({point.accountant})",
        )


def _facts(record: BoundsRecord) -> str:
    """Return what has to be known to read the axis."""
    mechanism = record.mechanism
    unit = "case" if record.patient is not None else mechanism.unit
    noise = "not given" if mechanism.noise_multiplier is None else f"{mechanism.noise_multiplier:.4g}"
    accountants = ", ".join(dict.fromkeys(point.accountant for point in record.points))
    return (
        f"q = {mechanism.sample_rate:.4g}, sigma at the operating point = {noise}, T = {mechanism.steps:,}, "
        f"delta = {mechanism.delta:g}\nsampler: {mechanism.sampler}; accountant of the axis: {accountants}; "
        f"unit: {unit}"
    )
