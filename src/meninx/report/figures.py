"""Figures as small inline SVG: they take the page's text colour, so that light, dark and print all read."""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from meninx.core.names import printable
from meninx.metrics.estimates import ROC_GRID, Estimate
from meninx.report import formatting

INK = "#010203"  # stands for the page's text colour until the SVG is written
COLOURS = ("#2f7fd6", "#d9822b", "#3a9d6e", "#a05fc4", "#c94f4f", "#7d8794")
_DASHES = ("-", "--", "-.", ":")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a label's name is a dollar
    "svg.hashsalt": "meninx",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
Points = Sequence[tuple[float, float]]
_LONGEST = 60
_LONGEST_RUN = 26


def roc(label: str, curves: Mapping[str, Sequence[float]], aurocs: Mapping[str, Estimate], name: str) -> str:
    """Return the ROC curves of one label, one line per run, each named with its area and interval.

    Args:
        label: the label.
        curves: run -> true positive rates at the false positive rates of ``ROC_GRID``.
        aurocs: run -> its area.
        name: id prefix, unique on the page.
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.35, linewidth=0.8)
        for number, (run, curve) in enumerate(curves.items()):
            axes.plot(
                ROC_GRID,
                curve,
                label=plain(_described(_brief(run), aurocs.get(run))),
                linewidth=1.8,
                **_look(number),
            )
        axes.set(
            xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="false positive rate", ylabel="true positive rate"
        )
        axes.legend(loc="lower right", fontsize=8.5)

    text = "; ".join(_described(run, aurocs.get(run)) for run in curves)
    return drawn(draw, name, f"ROC curve of {label}. {text}.", size=(4.2, 3.6))


def lines(
    curves: Mapping[str, Points], *, name: str, alt: str, across: str, up: str, markers_below: int = 0
) -> str:
    """Return curves over one axis, each with its own colour and dash.

    Args:
        curves: name -> points.
        name: id prefix, unique on the page.
        alt: the picture in words.
        across: label of the horizontal axis.
        up: label of the vertical axis.
        markers_below: a curve of fewer points is drawn as points, because lines between them would say too
            much.
    """

    def draw(axes: Axes) -> None:
        for number, (label, points) in enumerate(curves.items()):
            look: dict[str, Any] = {**_look(number), "linewidth": 1.8}
            if len(points) < markers_below:
                look |= {"linestyle": "none", "marker": "os^D"[number % 4], "markersize": 5}
            axes.plot([x for x, _ in points], [y for _, y in points], label=plain(label), **look)
        axes.set(xlabel=across, ylabel=up)
        axes.margins(x=0.02)
        if len(curves) > 1:
            axes.legend(loc="best", fontsize=8.5)

    return drawn(draw, name, alt, size=(4.2, 3.0))


def spent(points: Points, *, name: str, delta: float, unit: str) -> str:
    """Return epsilon over the optimiser steps."""

    def draw(axes: Axes) -> None:
        axes.plot([x for x, _ in points], [y for _, y in points], color=COLOURS[0], linewidth=1.8)
        axes.plot(*points[-1], "o", color=COLOURS[0], markersize=4)
        axes.text(
            0.97, 0.07, f"ε = {formatting.number(float(points[-1][1]))}", transform=axes.transAxes, ha="right"
        )
        axes.set(xlabel="optimiser steps", ylabel="epsilon spent", ylim=(0, None))
        axes.margins(x=0.03)

    step, epsilon = points[-1]
    alt = (
        f"Epsilon spent over the steps at delta {delta:g} per {unit}: {formatting.number(float(epsilon))} "
        f"after {step:,.0f} steps."
    )
    return drawn(draw, name, alt, size=(4.2, 3.0))


def forest(gaps: Sequence[Estimate], *, name: str, limit: float, what: str) -> str:
    """Return each gap as a point with its interval, against zero and the limit.

    Insufficient cells are left out.
    """
    known = [item for item in gaps if not (math.isnan(item.value) or math.isnan(item.low))]
    if not known:
        return ""

    def draw(axes: Axes) -> None:
        axes.axvspan(-limit, limit, color=COLOURS[2], alpha=0.15, linewidth=0)
        axes.axvline(0, color=INK, alpha=0.5, linewidth=0.8)
        for row, item in enumerate(known):
            axes.plot([item.low, item.high], [row, row], color=COLOURS[0], linewidth=1.8)
            axes.plot([item.value], [row], "o", color=COLOURS[0], markersize=5)
        axes.set_yticks(
            range(len(known)),
            [f"{plain(f'{item.attribute} {item.group}')}\nn = {item.n:,}" for item in known],
            fontsize=8.5,
        )
        axes.set_ylim(len(known) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(f"{what}, group minus rest (band: ±{limit:g})")

    text = "; ".join(
        f"{item.attribute} {item.group} {formatting.value(item)} {formatting.interval(item)}"
        for item in known
    )
    return drawn(
        draw,
        name,
        f"{what} of each group to the rest with 95 % intervals: {text}.",
        size=(4.6, 0.9 + 0.42 * len(known)),
    )


def reliability(curves: Mapping[str, Points], *, name: str, label: str) -> str:
    """Return observed share against mean probability of each bin, one line per run."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.35, linewidth=0.8)
        for number, (run, points) in enumerate(curves.items()):
            look = {**_look(number), "marker": "os^D"[number % 4]}
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                label=plain(_brief(run)),
                markersize=3.5,
                linewidth=1.4,
                **look,
            )
        axes.set(
            xlim=(-0.01, 1.01),
            ylim=(-0.01, 1.01),
            xlabel="mean probability of the bin",
            ylabel="share of positives",
        )
        axes.legend(loc="upper left", fontsize=8.5)

    return drawn(
        draw,
        name,
        f"Calibration of {label}: share of positives against mean probability in equal-mass bins.",
        size=(4.2, 3.6),
    )


def _look(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": _DASHES[number % len(_DASHES)]}


def plain(text: str) -> str:
    """Return a name for a legend: printable, short, and without a leading underscore, which would hide it."""
    shown = printable(text, hidden=" ")
    shown = shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
    return f" {shown}" if shown.startswith("_") else shown


def _brief(run: str) -> str:
    """Return a run's name for a legend: its ends, where seeds and kinds stand, when it is long."""
    return run if len(run) <= _LONGEST_RUN else f"{run[: _LONGEST_RUN // 2]}…{run[-_LONGEST_RUN // 2 + 1 :]}"


def _described(run: str, area: Estimate | None) -> str:
    return run if area is None else f"{run}: {formatting.value(area)} {formatting.interval(area)}"


def drawn(draw: Callable[[Axes], None], name: str, alt: str, size: tuple[float, float]) -> str:
    """Return what a function draws, as inline SVG.

    Args:
        draw: called with the axes.
        name: id prefix, unique on the page.
        alt: the picture in words.
        size: width and height in inches.
    """
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # text stays text: the reader's font draws it
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        stream = io.StringIO()
        figure.savefig(
            stream,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    return inline(stream.getvalue(), name, alt)


def stored(draw: Callable[[Axes], None], size: tuple[float, float]) -> dict[str, bytes]:
    """Return what a function draws as ``svg`` and ``png``, on white; equal content gives equal bytes.

    Args:
        draw: called with the axes.
        size: width and height in inches.
    """
    found = {}
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        for kind in ("svg", "png"):
            stream = io.BytesIO()
            known: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": 150}
            figure.savefig(stream, format=kind, facecolor="white", **known)
            found[kind] = stream.getvalue()
    return found


def inline(text: str, name: str, alt: str) -> str:
    """Return a stand-alone SVG as one that can sit in a page.

    Prologue, metadata and namespaces go (the page needs none), ids get the prefix ``name``, the ink becomes
    the page's text colour, and the picture gets ``alt`` as its label.
    """
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = (
        re.sub(r'\s(?:xmlns(?::\w+)?|version|width|height)="[^"]*"', "", body[: body.index(">")])
        + body[body.index(">") :]
    )
    body = body.replace("xlink:href", "href").replace(INK, "currentColor")
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', body)
    body = re.sub(r'font-family: [^;"]*;? ?', "", body)  # the page's own font
    label = html.escape(alt, quote=True)
    body = re.sub(r'<style type="text/css">.*?</style>', "", body, flags=re.DOTALL)
    return re.sub(
        r"\n\s*", "\n", body.replace("<svg", f'<svg role="img" aria-label="{label}" class="plot"', 1)
    ).strip()
