"""The figure of ``meninx audit attributes``: what is inferred about members and about others."""

from __future__ import annotations

from pathlib import Path

from meninx.audit.audit_files import save_figure
from meninx.core.attribute_records import AttributesAudit
from meninx.core.names import printable

_MEMBERS, _OTHERS, _PRIOR, _BOUND = "#d9822b", "#2b7bba", "#444444", "#6b3fa0"


def draw(audit: AttributesAudit, *paths: Path) -> None:
    """Write the figure to all ``paths`` (.svg or .png); the folders must exist."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    known = [one for one in audit.attributes if one.accuracy is not None]
    with mpl.rc_context({"svg.hashsalt": "meninx", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.6, 1.8 + 0.5 * max(1, len(known))), layout="constrained")
        axes = figure.add_subplot()
        for place, one in enumerate(reversed(known)):
            for shift, colour, value, low, high in (
                (0.18, _MEMBERS, one.on_members, one.on_members_low, one.on_members_high),
                (-0.18, _OTHERS, one.on_others, one.on_others_low, one.on_others_high),
            ):
                middle = value or 0.0
                error = [[max(0.0, middle - (low or 0.0))], [max(0.0, (high or 0.0) - middle)]]
                axes.barh(place + shift, middle, height=0.32, color=colour, xerr=error, capsize=2)
            axes.plot([one.prior or 0.0] * 2, [place - 0.42, place + 0.42], color=_PRIOR, linestyle=":")
            if one.bound is not None:
                axes.plot([one.bound] * 2, [place - 0.42, place + 0.42], color=_BOUND, linestyle="--")
        for colour, label in ((_MEMBERS, "patients of the training"), (_OTHERS, "others")):
            axes.barh([0], [0], color=colour, label=label)
        axes.plot([], [], color=_PRIOR, linestyle=":", label="most frequent value")
        axes.plot([], [], color=_BOUND, linestyle="--", label="no attack exceeds this (guarantee)")
        labels = [f"{printable(one.attribute)} from {one.signal}" for one in reversed(known)]
        axes.set_yticks(range(len(known)), labels, fontsize=8)
        axes.set(xlim=(0, 1), xlabel="patients whose attribute is inferred (95 % intervals)")
        axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        save_figure(figure, *paths, dpi=150)
