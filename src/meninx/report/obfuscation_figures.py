"""Figures of a release: the forest of attackers, what it costs, and released images."""

from __future__ import annotations

import base64
import html
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from meninx.core import workspace
from meninx.core.manifest import Manifest
from meninx.core.names import printable
from meninx.core.obfuscation_records import AttackerRecord, ReleaseAuditRecord, UtilityLossRecord
from meninx.imaging import png
from meninx.imaging.image import Image
from meninx.report import contact_sheet, figures
from meninx.report.figures import COLOURS, INK
from meninx.report.obfuscated_datasets import ObfuscatedDataset
from meninx.report.table_model import Picture

_CHOSEN, _OTHER, _CLEAN, _NULL, _FLOOR = COLOURS[4], COLOURS[0], COLOURS[5], COLOURS[2], COLOURS[3]
_RELEASED_IMAGES = 16
_SHEET = "comparison.png"
_SHEET_ROWS, _COLUMNS = 12, 6  # of the sheet, and of those the page shows
DROP_IN, RETRAINED = "drop-in", "retrained"


def attackers(audit: ReleaseAuditRecord, name: str) -> Picture | None:
    """Return what each retrained attacker finds, beside the same attacker of the original images."""
    rows = list(audit.retrained)
    if not rows:
        return None
    floor = audit.floor.auroc if audit.floor is not None else None

    def draw(axes: Axes) -> None:
        if audit.null is not None:
            band = (0.5, max(0.5, audit.null.high))
            axes.axvspan(*band, color=_NULL, alpha=0.18, linewidth=0, label="95 % of permuted attributes")
        axes.axvline(0.5, color=INK, alpha=0.5, linewidth=0.8)
        if floor is not None:
            axes.axvline(floor, color=_FLOOR, linestyle=":", linewidth=1.6, label="label floor")
        if audit.target:
            axes.axvline(audit.target, color=_CHOSEN, linestyle="--", linewidth=1.4, label="target")
        for place, item in enumerate(rows):
            _row(axes, place, item, chosen=item.name == audit.chosen)
        axes.plot([], [], "o", color=_OTHER, markersize=5, label="released images, 95 % interval")
        axes.plot([], [], "o", color=_CHOSEN, markersize=6, label="chosen on the validation split")
        axes.plot([], [], "D", markerfacecolor="none", color=_CLEAN, markersize=5, label="original images")
        axes.set_yticks(range(len(rows)), [_short(item.name) for item in rows], fontsize=8.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0.44, 1.02)
        axes.set_xlabel("folded AUROC (0.5: guessing)")
        axes.figure.legend(loc="outside lower center", ncols=2, fontsize=8)

    text = "; ".join(f"{printable(item.name)} {area(item)}" for item in rows)
    attribute = printable(audit.attribute)
    caption = (
        f"What attackers of {attribute} find that were trained on released images, by the area under the ROC "
        "curve on patients of the test split. Intervals resample patients. Folding makes an area at least "
        "one half: the band shows where 95 % of attackers with permuted attributes lie."
        if audit.null is not None
        else f"What attackers of {attribute} find that were trained on released images, by the area under "
        "the ROC curve on patients of the test split. Intervals resample patients."
    )
    size = (4.8, 1.9 + 0.3 * len(rows))
    return Picture(figures.drawn(draw, name, f"Attackers of {attribute}: {text}.", size=size), caption)


def _row(axes: Axes, place: int, item: AttackerRecord, *, chosen: bool) -> None:
    colour = _CHOSEN if chosen else _OTHER
    if item.clean_auroc is not None:
        axes.plot([item.clean_auroc], [place], "D", markerfacecolor="none", color=_CLEAN, markersize=5)
    if item.low is not None and item.high is not None:
        axes.plot([item.low, item.high], [place, place], color=colour, linewidth=2.0, alpha=0.75)
    axes.plot([item.auroc or 0.5], [place], "o", color=colour, markersize=6 if chosen else 5)


def losses(audit: ReleaseAuditRecord, name: str) -> Picture | None:
    """Return what the release costs for each label, drop-in and retrained, with paired intervals."""
    known = [item for item in audit.utility if not item.group and item.loss is not None]
    labels = list(dict.fromkeys(item.label for item in known))
    if not known:
        return None

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, alpha=0.5, linewidth=0.8)
        for item in known:
            retrain = item.regime == RETRAINED
            place = labels.index(item.label) + (0.14 if retrain else -0.14)
            look: dict[str, Any] = {"color": COLOURS[1] if retrain else COLOURS[0]}
            if item.loss_low is not None and item.loss_high is not None:
                axes.plot([item.loss_low, item.loss_high], [place, place], linewidth=2.0, alpha=0.75, **look)
            axes.plot([item.loss or 0.0], [place], "s" if retrain else "o", markersize=5, **look)
        axes.plot([], [], "o", color=COLOURS[0], label="drop-in: model of original images")
        axes.plot([], [], "s", color=COLOURS[1], label="retrained: model of released images")
        axes.set_yticks(range(len(labels)), [_short(label) for label in labels], fontsize=8.5)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("loss of AUROC, released against original images")
        axes.figure.legend(loc="outside lower center", fontsize=8)

    text = "; ".join(f"{printable(item.label)} {item.regime} {lost(item)}" for item in known)
    caption = (
        "What the release costs: loss of AUROC of a model of each label on patients of the test split. The "
        "95 % intervals are paired: the same resampled patients for original and released images."
    )
    size = (4.8, 1.7 + 0.45 * len(labels))
    return Picture(figures.drawn(draw, name, f"Loss of AUROC by label: {text}.", size=size), caption)


def area(item: AttackerRecord) -> str:
    """Return an area with its interval, or why there is none."""
    if item.auroc is None:
        return printable(item.refusal) or "no number"
    return f"{item.auroc:.3f}{_ends(item.low, item.high)}"


def lost(item: UtilityLossRecord) -> str:
    """Return a loss with its interval, or why there is none."""
    if item.loss is None:
        return printable(item.refusal) or "no number"
    return f"{item.loss:+.3f}{_ends(item.loss_low, item.loss_high)}".replace("-", "−")


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"


def _short(text: str) -> str:
    shown = printable(text, hidden=" ")
    shown = shown if len(shown) <= 28 else f"{shown[:27]}…"
    return f" {shown}" if shown.startswith("_") else shown


def released_images(found: ObfuscatedDataset, manifest: Manifest) -> Picture:
    """Return released images of the test split; of synthetic patients also before and after, where there.

    Released images lie beside the page. Originals of patients stay in ``private/``.
    """
    before_after = _comparison(found, manifest) if found.synthetic else None
    if before_after is not None:
        caption = (
            "Before (top), after and difference, from the least changed image to the most changed one. "
            "Synthetic: nobody stands behind them. In the difference, grey is no change."
        )
        return _picture(png.encode(before_after), "Images before, after, and their difference.", caption)
    cases = contact_sheet.chosen(manifest.split("test").cases, _RELEASED_IMAGES)
    tiles = [contact_sheet.tile(manifest, case) for case in cases]
    caption = (
        f"{len(cases)} released images of the test split, chosen by a digest of their names. The originals "
        f"beside them are in {workspace.PRIVATE}/{_SHEET}, which stays where it was made."
    )
    content = png.encode(Image(contact_sheet.mosaic(tiles)))
    return _picture(content, "Released images, without names.", caption)


def _comparison(found: ObfuscatedDataset, manifest: Manifest) -> Image | None:
    """Return at most six images of the private sheet in columns; None where it is gone or another one."""
    path = found.root / workspace.PRIVATE / _SHEET
    if not path.is_file():
        return None
    sheet, rows = png.read(path).array, min(_SHEET_ROWS, len(manifest))
    if not rows or sheet.dtype != np.uint8 or sheet.shape[1] % rows or sheet.shape[2] % 3:
        return None
    channels, height, width = sheet.shape
    tiles = sheet.reshape(channels, rows, height // rows, 3, width // 3).transpose(0, 3, 2, 1, 4)
    chosen = tiles[:, :, :, np.unique(np.linspace(0, rows - 1, _COLUMNS).round().astype(int))]
    count = chosen.shape[3]
    return Image(np.ascontiguousarray(chosen).reshape(channels, 3 * (height // rows), count * (width // 3)))


def _picture(content: bytes, alt: str, caption: str) -> Picture:
    data = base64.b64encode(content).decode()
    words = html.escape(alt, quote=True)
    return Picture(f'<img class="sheet" alt="{words}" src="data:image/png;base64,{data}">', caption)
