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
        title: attack and whose images.
        private: the file gets owner-only permissions.
    """
    from matplotlib.figure import Figure

    if not sets:
        raise DataError(problem("there are no candidates to draw", where=path.name))
    best = max(sets.values(), key=lambda one: float(np.median(_values(one[1], metric))))
    rows = quantile_places(_values(best[1], metric), count)
    figure = Figure(figsize=(1.35 * (1 + len(sets)), 1.5 * len(rows) + 0.7), layout="constrained")
    grid: Any = figure.subplots(len(rows), 1 + len(sets), squeeze=False)
    for row, (trial, number) in enumerate(rows):
        original = next(iter(sets.values()))[0].originals[trial, number].numpy()
        low, high = float(original.min()), float(original.max())
        _show(grid[row][0], original, (low, high), "" if row else "original")
        for column, (level, (found, matching)) in enumerate(sets.items(), start=1):
            chosen = int(matching.chosen[trial, number])
            image = found.candidates[trial, chosen].numpy() if chosen >= 0 else np.zeros_like(original)
            value = _values(matching, metric)[trial, number]
            head = f"{level}\n" if row == 0 else ""
            _show(grid[row][column], image, (low, high), f"{head}{metric.upper()} {value:.2f}")
        grid[row][0].set_ylabel(_rank_words(row, len(rows)), fontsize=7)
    figure.suptitle(title, fontsize=8.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    files.write_bytes(path, buffer.getvalue(), mode=files.PRIVATE_MODE if private else None)


def _show(axes: Any, image: npt.NDArray[Any], limits: tuple[float, float], words: str) -> None:
    """Draw one image, the middle slice of a volume, with the grey levels of its original."""
    axes.imshow(_slice(image), cmap="gray", vmin=limits[0], vmax=max(limits[1], limits[0] + 1e-6))
    axes.set_title(words, fontsize=6.5)
    axes.set_xticks([])
    axes.set_yticks([])


def _slice(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    flat = image[:, image.shape[1] // 2] if image.ndim == 4 else image
    colour = np.clip(np.moveaxis(flat, 0, -1), 0, 1)
    return np.asarray(colour if flat.shape[0] == 3 else flat[0])


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
