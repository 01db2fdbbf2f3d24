"""A picture for a radiologist: images before, after, and their difference.

It shows originals, so the stage writes it into ``private/``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from meninx.core.randomness import child
from meninx.obfuscate.obfuscator import Values, levels

_MOST = 12
_GAP = 4  # pixels between tiles
_LEAST_SIDE = 160  # smaller images are enlarged by a whole number
_HEADER = 16  # pixels above the first row
_SCALE = 0.25  # change that is white or black in the difference, the same on every sheet


def comparison_sheet(before: Values, after: Values, *, seed: int) -> npt.NDArray[np.uint8]:
    """Return one row per image: before, after, difference; shape (channels, rows, columns).

    The images are drawn at random, one from each twelfth of the images in the order of their change, least
    changed first. In the difference, grey is no change, and white and black are a change of a quarter of the
    range or more, on every sheet, so that a change that cannot be seen in the image is not seen there either.

    Args:
        before: originals in [0, 1], shape (n, channels, height, width).
        after: released images, likewise.
        seed: public.
    """
    change = np.abs(after - before).mean(axis=(1, 2, 3))
    order, rng = np.argsort(change, kind="stable"), child(seed, "comparison sheet")
    parts = np.array_split(order, min(_MOST, len(order)))
    chosen = np.array([int(rng.choice(part)) for part in parts])
    difference = after[chosen] - before[chosen]
    shown = np.clip(np.float32(0.5) + difference / np.float32(2 * _SCALE), 0, 1)
    rows = [
        np.concatenate([_tile(part) for part in parts], axis=2)
        for parts in zip(before[chosen], after[chosen], shown, strict=True)
    ]
    sheet = np.concatenate(rows, axis=1)
    return np.concatenate([_header(sheet.shape[0], sheet.shape[2]), sheet], axis=1)


def _header(channels: int, width: int) -> npt.NDArray[np.uint8]:
    """Return the titles of the three columns, shape (channels, rows, width)."""
    picture = Image.new("L", (width, _HEADER), 255)
    for column, title in enumerate(("before", "after", f"difference, +-{_SCALE:g}")):
        ImageDraw.Draw(picture).text((column * width // 3 + 2, 2), title, fill=0)
    return np.repeat(np.asarray(picture)[None], channels, axis=0)


def _tile(image: Values) -> npt.NDArray[np.uint8]:
    factor = max(1, -(-_LEAST_SIDE // max(image.shape[1:])))
    large = np.repeat(np.repeat(levels(image), factor, axis=1), factor, axis=2)
    return np.pad(large, ((0, 0), (0, _GAP), (0, _GAP)), constant_values=255)
