"""Text inside pictures: burned-in names, overlay bitmaps, thumbnails; Pillow's own font."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

Box = tuple[int, int, int, int]


def bitmap(
    lines: Sequence[str], rows: int, columns: int, *, points: int = 10
) -> tuple[npt.NDArray[np.bool_], tuple[Box, ...]]:
    """Return a picture of lines of text and the box of each line.

    Args:
        lines: texts; letters that the font lacks are drawn as its box sign.
        rows: height of the picture.
        columns: width; a line that is too long is cut.
        points: letter height in pixels.

    Returns:
        bool array of shape (rows, columns), True on a letter; and (left, top, right, bottom) per line,
        right and bottom exclusive.
    """
    canvas = Pillow.new("L", (columns, rows))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(points)
    boxes: list[Box] = []
    for number, line in enumerate(lines):
        place = (2, 1 + number * (points + 3))
        pen.text(place, line, fill=255, font=font)
        left, top, right, bottom = pen.textbbox(place, line, font=font)
        boxes.append(
            (max(0, int(left)), max(0, int(top)), min(columns, int(right) + 1), min(rows, int(bottom) + 1))
        )
    return np.asarray(canvas) > 127, tuple(boxes)


def burn(
    array: npt.NDArray[np.uint16], lines: Sequence[str], value: int, *, points: int = 10
) -> tuple[npt.NDArray[np.uint16], tuple[Box, ...]]:
    """Return the image with lines of text written into its pixels at the top left, and the box of each line."""
    letters, boxes = bitmap(lines, *array.shape, points=points)
    return np.where(letters, np.uint16(value), array).astype(np.uint16), boxes


def packed(letters: npt.NDArray[np.bool_]) -> bytes:
    """Return a bitmap as DICOM OverlayData: one bit a pixel, first pixel in the lowest bit, even length."""
    bits: npt.NDArray[Any] = np.packbits(letters.reshape(-1), bitorder="little")
    return bits.tobytes() + b"\0" * (bits.size % 2)
