"""The figure of ``meninx audit identity``: images that find their patient, against chance and controls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meninx.audit.audit_files import save_figure
from meninx.core.identity_records import IdentityAudit, LinkRecord

_IMAGE, _FLOOR, _CONTROL, _CHANCE = "#2b7bba", "#d9822b", "#888888", "#444444"


def draw(audit: IdentityAudit, *paths: Path) -> None:
    """Write the figure to all ``paths`` (.svg or .png); the folders must exist."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = [(record, _IMAGE, _name(record, audit)) for record in audit.links]
    rows += [(audit.floor, _FLOOR, "labels and attributes alone")] if audit.floor else []
    rows += [(record, _CONTROL, f"{record.attack}, shuffled identities") for record in audit.negative]
    rows += [(record, _CONTROL, f"{record.attack}, planted mark") for record in audit.positive]
    known = [row for row in rows if row[0].p_at_1 is not None]
    with mpl.rc_context({"svg.hashsalt": "meninx", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8.4, 1.6 + 0.42 * max(1, len(known))), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        places = list(range(len(known)))[::-1]
        for place, (record, colour, _) in zip(places, known, strict=True):
            _bar(left, place, colour, (record.p_at_1, record.p_at_1_low, record.p_at_1_high))
            left.plot([record.null_low, record.null_high], [place - 0.42] * 2, color=_CHANCE, linewidth=2.5)
            left.plot([record.chance] * 2, [place - 0.4, place + 0.4], color=_CHANCE, linestyle=":")
            _bar(right, place, colour, (record.auc, record.auc_low, record.auc_high))
        right.axvline(0.5, color=_CHANCE, linestyle=":")
        left.set_yticks(places, [name for _, _, name in known], fontsize=8)
        left.set(xlim=(0, 1), xlabel="most similar image shows the patient")
        right.set(xlim=(0.3, 1), xlabel="AUC over pairs of images")
        figure.suptitle(
            f"{_counts(audit.links)}; bars: 95 % intervals over patients, dotted: chance, "
            "black: permuted identities",
            fontsize=8,
        )
        save_figure(figure, *paths, dpi=150)


def _bar(axes: object, place: int, colour: str, ends: Sequence[float | None]) -> None:
    value, low, high = (0.0 if end is None else end for end in ends)
    error = [[max(0.0, value - low)], [max(0.0, high - value)]]
    axes.barh(place, value, height=0.6, color=colour, xerr=error, ecolor="#222222", capsize=2)  # type: ignore[attr-defined]


def _name(record: LinkRecord, audit: IdentityAudit) -> str:
    words = {"another image": "", "own image": ", own original"}
    made = {"dataset": "", "changed images": ", changed images", "reconstructions": ", reconstructions"}
    return f"{record.attack}{made[audit.subject]}{words[record.question]}"


def _counts(links: Sequence[LinkRecord]) -> str:
    first = links[0]
    return f"{first.probes} images of {first.patients} patients ask a gallery of {first.gallery}"
