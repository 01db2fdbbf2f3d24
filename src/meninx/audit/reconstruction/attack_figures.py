"""Figures of a reconstruction audit: identification against its bound, success over epsilon, step curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from meninx.audit.audit_files import save_figure
from meninx.audit.reconstruction.rank_one import ALL_ENCODERS, ON_CANDIDATES
from meninx.core.percentages import axis_mark, percent
from meninx.core.reconstruction_records import (
    IdentificationRecord,
    LevelRecord,
    MatchRecord,
    ReconstructionAudit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BOUND, _GUESS, _SHADE = "#6b3fa0", "#444444", "#b03030"
_COLOURS = {
    "raw": "#9a9a9a",
    "centred": "#2b7bba",
    "pca": "#2a9d6f",
    "whitened": "#d9822b",
    ON_CANDIDATES: "#b03030",
}
_CYCLE = ("#d9822b", "#2b7bba", "#2a9d6f", "#b03030", "#8c6d31", "#6b3fa0", "#9a9a9a", "#17a2b8")
VACUOUS = 0.5
"""Share of what guessing leaves that a bound has to allow to say nothing."""
_WORDS = {ON_CANDIDATES: "fitted on the candidates"}
Array = npt.NDArray[np.float64]


@contextmanager
def _figure(paths: Sequence[Path], size: tuple[float, float]) -> Iterator[Figure]:
    """Give a figure that is written to all paths (.svg or .png) at the end, the same bytes for equal data."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as NewFigure

    with mpl.rc_context({"svg.hashsalt": "meninx", "svg.fonttype": "none"}):
        figure = NewFigure(figsize=size, layout="constrained")
        yield figure
        save_figure(figure, *paths, dpi=120)


def draw_identification(audit: ReconstructionAudit, paths: Sequence[Path]) -> None:
    """Write the first figure: rank-1 success against the exact bound and 1/n, over n and over epsilon."""
    with _figure(paths, (9.6, 4.6)) as figure:
        left, right = figure.subplots(1, 2)
        own = [found for found in audit.identification if found.level == audit.own_level]
        _over_candidates(left, own)
        _over_levels(right, audit)
        facts = (
            f"q = {audit.sample_rate:.4g}, T = {audit.steps:,} steps, "
            f"sigma = {audit.levels[0].noise_multiplier:.4g}; sampler: {audit.sampler}; bars: 95 % intervals"
        )
        figure.suptitle(f"Which of n images was in the training? {facts}", fontsize=8.5)
        figure.legend(
            *left.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=4,
            frameon=False,
            fontsize=8.5,
        )


def draw_success(audit: ReconstructionAudit, paths: Sequence[Path]) -> None:
    """Write the figure of reconstructed images over epsilon, with the null and where no bound holds."""
    with _figure(paths, (8.2, 4.8)) as figure:
        axes = figure.add_subplot()
        levels = _axis(audit.levels)
        places = _places(levels)
        names = {(match.attack, match.view): match.name for match in audit.matches}
        for number, ((attack, view), name) in enumerate(names.items()):
            line = {
                match.level: match
                for match in audit.matches
                if (match.attack, match.view) == (attack, view) and match.level in places
            }
            _success_line(axes, line, places, _label(name, view), _CYCLE[number % len(_CYCLE)])
        _null_band(axes, audit.matches)
        axes.plot([], [], ":", color=_GUESS, label="public images alone (kappa)")
        _shade(axes, audit, levels, places)
        _level_axis(axes, levels, places)
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("images reconstructed")
        _percent_axis(axes.yaxis)
        first = audit.matches[0]
        axes.set_title(
            f"{first.originals} images of members, matched one to one by {first.metric.upper()}, above "
            f"{percent(1 - first.level_of_null)} of the null\n"
            "one attacked step; a training has many, and identification (first figure) counts all of them",
            fontsize=8,
        )
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def draw_curves(
    curves: Mapping[str, Array],
    null: Array,
    thresholds: Mapping[str, float],
    paths: Sequence[Path],
    *,
    title: str,
    metric: str,
) -> None:
    """Write the step curves: share of images whose distance to their reconstruction is at most d.

    Args:
        curves: level -> similarities of the images.
        null: similarities of all nulls.
        thresholds: level -> eta, as a similarity.
        paths: the files; the folder must exist.
        title: attack and images.
        metric: the similarity; ``ncc`` and ``ssim`` become the distance 1 - value, others minus the value.
    """
    base = 1.0 if metric in ("ncc", "ssim") else 0.0
    with _figure(paths, (6.6, 4.6)) as figure:
        axes = figure.add_subplot()
        for number, (level, values) in enumerate(curves.items()):
            colour = _CYCLE[number % len(_CYCLE)]
            axes.step(*_steps(values, base), where="post", label=level, color=colour)
            axes.axvline(base - thresholds[level], color=colour, linewidth=0.9, linestyle="--")
        axes.plot([], [], color=_SHADE, linewidth=0.9, linestyle="--", label="threshold eta of a level")
        axes.step(*_steps(null, base), where="post", color=_GUESS, linestyle=":", label="nulls")
        axes.set(ylim=(-0.02, 1.02), ylabel="images within distance")
        axes.set_xlabel(f"distance, 1 - {metric.upper()}" if base else f"distance, minus {metric.upper()}")
        axes.set_title(title, fontsize=8.5)
        _percent_axis(axes.yaxis)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)


def _steps(values: Array, base: float) -> tuple[Array, Array]:
    """Return the distances in ascending order, and the share of images within each; it begins at none."""
    distances = np.sort(base - values[np.isfinite(values)])
    share = np.arange(len(distances) + 1) / max(1, values.size)
    return np.concatenate([distances[:1], distances]), share


# the first figure


def _over_candidates(axes: Axes, own: Sequence[IdentificationRecord]) -> None:
    counts = sorted({found.candidates for found in own})
    bounds = {found.candidates: found.bound for found in own}
    axes.plot(counts, [bounds[count] for count in counts], "--", color=_BOUND, label="no attack exceeds this")
    axes.plot(counts, [1 / count for count in counts], ":", color=_GUESS, label="blind guess, 1/n")
    for encoder in ALL_ENCODERS:
        _points(axes, [found for found in own if found.encoder == encoder], encoder)
    axes.set(xscale="log", yscale="log", xlabel="number n of candidates", ylabel="right image picked")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.set_ylim(0.4 / counts[-1], 1.5)
    _percent_axis(axes.yaxis)
    axes.set_title("at the noise of this run", fontsize=9)
    axes.grid(alpha=0.3)


def _points(axes: Axes, found: Sequence[IdentificationRecord], encoder: str) -> None:
    if not found:
        return
    line = sorted(found, key=lambda one: one.candidates)
    values = np.array([one.success for one in line])
    bars = np.array([[one.success - one.low, one.high - one.success] for one in line]).T
    axes.errorbar(
        [one.candidates for one in line], np.maximum(values, 1e-6), yerr=np.maximum(bars, 0), fmt="o-",
        markersize=4, linewidth=1, capsize=2, color=_COLOURS[encoder],
        label=f"attack, {_WORDS.get(encoder, encoder)}",
    )  # fmt: skip


def _over_levels(axes: Axes, audit: ReconstructionAudit) -> None:
    levels = _axis(audit.levels)
    places = _places(levels)
    others = [found for found in audit.identification if found.level != audit.own_level]
    count = others[0].candidates if others else audit.identification[0].candidates
    shown = [found for found in audit.identification if found.candidates == count and found.level in places]
    bounds = {found.level: found.bound for found in shown}
    line = [level.name for level in levels if level.name in bounds]
    axes.plot([places[name] for name in line], [bounds[name] for name in line], "--", color=_BOUND)
    axes.axhline(1 / count, color=_GUESS, linestyle=":")
    for encoder in ALL_ENCODERS:
        found = sorted((one for one in shown if one.encoder == encoder), key=lambda one: places[one.level])
        if len(found) < 2:
            continue
        bars = np.array([[one.success - one.low, one.high - one.success] for one in found]).T
        axes.errorbar(
            [places[one.level] for one in found], [one.success for one in found], yerr=np.maximum(bars, 0),
            fmt="o-", markersize=4, linewidth=1, capsize=2, color=_COLOURS[encoder],
        )  # fmt: skip
    _shade(axes, audit, levels, places, count=count)
    _level_axis(axes, levels, places)
    axes.set_ylim(0, 1.05)
    _percent_axis(axes.yaxis)
    axes.set_title(f"1 of {count:,}, over epsilon", fontsize=9)
    axes.grid(alpha=0.3)


# the axis of levels


def _axis(levels: Sequence[LevelRecord]) -> list[LevelRecord]:
    """Return the levels by falling noise, those without noise at the right."""
    return sorted(levels, key=lambda level: -level.noise_multiplier)


def _places(levels: Sequence[LevelRecord]) -> dict[str, float]:
    """Return where each level lies on the axis: the logarithm of epsilon, equal steps where it is unknown."""
    known = {level.name: float(np.log10(level.epsilon)) for level in levels if level.epsilon}
    if len(known) + sum(level.noise_multiplier == 0 for level in levels) < len(levels) or not known:
        return {level.name: float(place) for place, level in enumerate(levels)}
    far = max(known.values()) + max(1.0, 0.2 * (max(known.values()) - min(known.values())))
    return {level.name: known.get(level.name, far) for level in levels}


def _level_axis(axes: Axes, levels: Sequence[LevelRecord], places: Mapping[str, float]) -> None:
    words = [_level_words(level) for level in levels]
    axes.set_xticks([places[level.name] for level in levels], words, fontsize=8)
    axes.set_xlabel("epsilon of the training (smaller protects more)")


def _level_words(level: LevelRecord) -> str:
    if level.noise_multiplier == 0:
        words = "no\nnoise"
    else:
        words = f"{level.epsilon:.3g}" if level.epsilon else level.name
    return f"{words}\n(this run)" if level.own else words


def _shade(
    axes: Axes,
    audit: ReconstructionAudit,
    levels: Sequence[LevelRecord],
    places: Mapping[str, float],
    *,
    count: int | None = None,
) -> None:
    """Shade where the bound on identification allows more than half of what guessing leaves."""
    shown = [found for found in audit.identification if count in (None, found.candidates)]
    empty = {
        found.level
        for found in shown
        if found.bound >= found.guess + VACUOUS * (1 - found.guess) and found.level in places
    }
    if not empty:
        return
    first = min(places[name] for name in empty)
    axes.axvspan(first, max(places.values()), color=_SHADE, alpha=0.1, linewidth=0)
    axes.text(
        (first + max(places.values())) / 2, 0.5, "no guarantee", color=_SHADE, ha="center", va="center",
        fontsize=12, alpha=0.8, transform=axes.get_xaxis_transform(),
    )  # fmt: skip


# the second figure


def _success_line(
    axes: Axes, line: Mapping[str, MatchRecord], places: Mapping[str, float], label: str, colour: str
) -> None:
    found = sorted(line.values(), key=lambda match: places[match.level])
    bars = np.array([[match.success - match.low, match.high - match.success] for match in found]).T
    axes.errorbar(
        [places[match.level] for match in found], [match.success for match in found],
        yerr=np.maximum(bars, 0), fmt="o-", markersize=4, linewidth=1.2, capsize=2, color=colour, label=label,
    )  # fmt: skip
    reach = [match.kappa for match in found]
    axes.plot([places[match.level] for match in found], reach, ":", color=colour, linewidth=1.2, alpha=0.8)


def _null_band(axes: Axes, matches: Sequence[MatchRecord]) -> None:
    top = max(match.null for match in matches)
    axes.axhspan(0, top, color=_GUESS, alpha=0.25, linewidth=0, label=f"null, up to {percent(top)}")


def _label(attack: str, view: str) -> str:
    return attack if view == "step" else f"{attack}, {view}"


def _percent_axis(axis: object) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(axis_mark))  # type: ignore[attr-defined]
