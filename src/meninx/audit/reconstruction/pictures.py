"""Pictures of reconstructed images, chosen by rank: the best, the worst and those evenly between.

A picture of the best cases alone exaggerates an attack, and one of typical cases hides what happens to a few
patients. Pictures of a run's patients lie in ``private/``. What may leave shows synthetic patients.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.audit.reconstruction.candidates import CandidateSet
from meninx.audit.reconstruction.matching import Matched, quantile_places
from meninx.core import files
from meninx.core.errors import DataError, problem

Array = npt.NDArray[np.float64]


def draw_pictures(
    sets: Mapping[str, tuple[CandidateSet, Matched]],
    metric: str,
    count: int,
    path: Path,
    *,
    thresholds: Mapping[str, float],
    title: str,
    private: bool,
) -> None:
    """Write one picture: a row per image, the original first and then its reconstruction at every level.

    The images are those of the ranks at the level with the best median, so that each row follows one image.

    Args:
        sets: level -> candidates and their matching, all with the same originals.
        metric: that was matched by; its value stands above each reconstruction.
        count: images.
        path: a .png file; the folder must exist.
        thresholds: level -> similarity above which an image counts as reconstructed; its value is bold.
        title: attack and whose images.
        private: the file gets owner-only permissions.
    """
    from matplotlib.figure import Figure

    if not sets:
        raise DataError(problem("there are no candidates to draw", where=path.name))
    best = max(sets.values(), key=lambda one: float(np.median(_values(one[1], metric))))
    rows = quantile_places(_values(best[1], metric), count)
    tiles = [_row(sets, metric, place, thresholds) for place in rows]
    height, width = tiles[0][0][0].shape[:2]
    gap = max(2, round(0.2 * width))
    canvas = np.ones((len(rows) * (height + gap), (1 + len(sets)) * (width + 2), 3))
    figure = Figure(figsize=(1.4 * (1 + len(sets)) + 0.4, 1.4 * height / width * 1.2 * len(rows) + 0.7))
    axes = figure.add_axes((0.06, 0.0, 0.94, 0.93))
    for row, line in enumerate(tiles):
        top = row * (height + gap) + gap
        axes.text(
            -1,
            top + height / 2,
            _rank_words(row, len(rows)),
            rotation=90,
            ha="right",
            va="center",
            fontsize=7,
        )
        for column, (tile, label, counts) in enumerate(line):
            left = column * (width + 2)
            canvas[top : top + height, left : left + width] = tile
            axes.text(
                left + width / 2, top - 0.5, label, ha="center", va="bottom", fontsize=6.5,
                weight="bold" if counts else "normal",
            )  # fmt: skip
    for column, level in enumerate(sets, start=1):
        axes.text(
            column * (width + 2) + width / 2, gap - 0.12 * width, level, ha="center", va="bottom", fontsize=7
        )
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    figure.suptitle(f"{title}; bold counts as reconstructed", fontsize=8.5, y=0.99)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    files.write_bytes(path, buffer.getvalue(), mode=files.PRIVATE_MODE if private else None)


def _row(
    sets: Mapping[str, tuple[CandidateSet, Matched]],
    metric: str,
    place: tuple[int, int],
    thresholds: Mapping[str, float],
) -> list[tuple[Array, str, bool]]:
    """Return the original and its reconstruction at every level with words, in the original's grey.

    The last value of a picture says whether it counts as reconstructed.
    """
    trial, number = place
    original = next(iter(sets.values()))[0].originals[trial, number].numpy()
    low, high = float(original.min()), float(original.max())
    found = [(_tile(original, low, high), "original", False)]
    for level, (images, matching) in sets.items():
        chosen = int(matching.chosen[trial, number])
        image = images.candidates[trial, chosen].numpy() if chosen >= 0 else np.zeros_like(original)
        value = _values(matching, metric)[trial, number]
        counts = bool(value > thresholds[level])
        found.append((_tile(image, low, high), f"{metric.upper()} {value:.2f}", counts))
    return found


def _tile(image: npt.NDArray[Any], low: float, high: float) -> Array:
    """Return an image, or the middle slice of a volume, as red, green and blue in [0, 1]."""
    flat = image[:, image.shape[1] // 2] if image.ndim == 4 else image
    grey = np.clip((flat - low) / max(high - low, 1e-6), 0.0, 1.0).astype(np.float64)
    return np.moveaxis(grey if len(grey) == 3 else np.repeat(grey[:1], 3, axis=0), 0, -1)


def _values(matching: Matched, metric: str) -> Array:
    return next(values for name, values in matching.values.items() if name == metric)


def _rank_words(row: int, rows: int) -> str:
    if rows == 1:
        return "median"
    names = {0: "best", rows - 1: "worst"}
    if rows % 2:
        names[rows // 2] = "median"
    return names.get(row, f"{100 * row // (rows - 1)} % rank")


def picture_levels(names: Sequence[str], most: int = 5) -> list[str]:
    """Return at most ``most`` of the levels, the first and the last among them."""
    if len(names) <= most:
        return list(names)
    chosen = np.round(np.linspace(0, len(names) - 1, most)).astype(int)
    return [names[index] for index in dict.fromkeys(chosen.tolist())]
