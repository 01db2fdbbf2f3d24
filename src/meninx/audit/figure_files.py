"""Writing a figure of an audit to its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(figure: Figure, paths: Sequence[Path], *, dpi: int = 150) -> None:
    """Write a figure to all paths (.svg or .png), the same bytes for equal data; the folders must exist.

    The layout is computed for the first path and kept for the others, because it takes half of the time.
    """
    for path in paths:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=dpi)
        figure.set_layout_engine("none")
