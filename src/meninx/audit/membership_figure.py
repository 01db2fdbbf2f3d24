"""The figure of ``meninx audit membership``: members found against false positives, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from meninx.audit.audit_files import save_figure
from meninx.core.audit_records import MembershipAudit, OperatingPoint
from meninx.core.percentages import axis_mark

_COLOURS = {"loss": "#888888", "lira": "#2b7bba", "rmia": "#d9822b"}
_BOUND = "#6b3fa0"


def draw(
    audit: MembershipAudit,
    curves: Mapping[str, Sequence[OperatingPoint]],
    bound: Sequence[float] | None,
    *paths: Path,
) -> None:
    """Write the figure to all ``paths`` (.svg or .png); the folders must exist.

    Args:
        audit: numbers of patients and verdict.
        curves: attack -> points by rising false positive rate, the same rates for all.
        bound: what the guarantee allows at these rates; None without one.
        *paths: the files.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    axis = [point.fpr for point in next(iter(curves.values()))]
    with mpl.rc_context({"svg.hashsalt": "meninx", "svg.fonttype": "none"}):
        figure = Figure(figsize=(6.0, 5.2), layout="constrained")
        axes = figure.add_subplot()
        for name, points in curves.items():
            known = [point for point in points if point.tpr is not None]
            rates = [point.fpr for point in known]
            colour = _COLOURS.get(name, "#444444")
            axes.plot(rates, [point.tpr or 0.0 for point in known], color=colour, label=name)
            low, high = [point.low or 0.0 for point in known], [point.high or 0.0 for point in known]
            axes.fill_between(rates, low, high, color=colour, alpha=0.15, linewidth=0)
        if bound is not None:
            axes.plot(axis, bound, color=_BOUND, linestyle="--", label="no attack exceeds this (guarantee)")
        axes.plot(axis, axis, color="#444444", linestyle=":", label="chance")
        axes.set(xscale="log", yscale="log", xlim=(axis[0], 1.0), ylim=(axis[0] / 2, 1.3))
        for side in (axes.xaxis, axes.yaxis):
            side.set_major_formatter(FuncFormatter(axis_mark))
        axes.set_xlabel("non-members called members (false positives)")
        axes.set_ylabel("members found (true positives)")
        first = audit.attacks[0]
        axes.set_title(
            f"{first.members} members, {first.others} non-members, {audit.references} reference models\n"
            "bands: 95 % intervals; lower rates need more non-members",
            fontsize=8,
        )
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="lower right", fontsize=8.5)
        save_figure(figure, *paths, dpi=150)
