"""Figures as sketches, for tests that look at other things: drawing takes a third of the time of an audit.

A sketch has the texts of the figure, without the labels of its ticks, and a digest of all that it draws, so
equal figures are equal files and others are not. Tests of ``report/`` draw, so do slow tests, and everything
within ``drawn()``.
"""

from __future__ import annotations

import hashlib
import html
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from PIL import Image

DRAW = Figure.savefig
KINDS = ("svg", "png")


def save(figure: Figure, target: Any, *, format: str | None = None, **rest: Any) -> None:
    """Stand for ``Figure.savefig``."""
    kind = format or Path(target).suffix.removeprefix(".")
    if kind not in KINDS:
        DRAW(figure, target, format=format, **rest)
        return
    texts = [one.get_text() for one in figure.findobj(Text)]
    seal = hashlib.sha256("\n".join([*texts, str(figure.get_size_inches())]).encode())
    for part in _numbers(figure):
        seal.update(np.ascontiguousarray(part).tobytes())
    if kind == "svg":
        lines = "".join(f"<text>{html.escape(text)}</text>\n" for text in texts if text)
        made: str | bytes = f"<svg viewBox='0 0 1 1'>\n{lines}<desc>{seal.hexdigest()}</desc>\n</svg>\n"
    else:
        stream = io.BytesIO()
        Image.frombytes("L", (8, 4), seal.digest()).resize((160, 80)).save(stream, "png")
        made = stream.getvalue()
    if isinstance(target, io.StringIO):
        target.write(str(made))
        return
    data = made.encode() if isinstance(made, str) else made
    if isinstance(target, io.BytesIO):
        target.write(data)
    else:
        Path(target).write_bytes(data)


def _numbers(figure: Figure) -> Iterator[np.ndarray]:
    for line in figure.findobj(Line2D):
        yield np.asarray(line.get_xydata(), dtype=float)
    for image in figure.findobj(AxesImage):
        yield np.asarray(image.get_array(), dtype=float)
    for patch in figure.findobj(Patch):
        yield np.asarray(patch.get_path().vertices, dtype=float)
        yield np.asarray(patch.get_extents().get_points(), dtype=float)
    for group in figure.findobj(Collection):
        yield np.asarray(group.get_offsets(), dtype=float)
        for path in group.get_paths():
            yield np.asarray(path.vertices, dtype=float)


@contextmanager
def sketched() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield


@contextmanager
def drawn() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", DRAW)
        yield
