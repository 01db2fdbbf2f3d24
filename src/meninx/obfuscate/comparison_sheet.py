"""A picture for a radiologist: images before, after, and their difference.

It shows originals, so the stage writes it into ``private/``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from meninx.core.randomness import child
from meninx.obfuscate.obfuscator import Values, levels

_MOST = 12
_GAP = 4  # pixels between tiles
_LEAST_SIDE = 96  # smaller images are enlarged by a whole number


def comparison_sheet(before: Values, after: Values, *, seed: int) -> npt.NDArray[np.uint8]:
    """Return one row per image: before, after, difference; shape (channels, rows, columns).

    The images are drawn at random, one from each twelfth of the images in the order of their change, least
    changed first. In the difference, grey is no change, and black and white are the largest change of the
    sheet.

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
    largest = float(np.abs(difference).max()) or 1.0
    shown = np.float32(0.5) + difference / np.float32(2 * largest)
    rows = [
        np.concatenate([_tile(part) for part in parts], axis=2)
        for parts in zip(before[chosen], after[chosen], shown, strict=True)
    ]
    return np.concatenate(rows, axis=1)


def _tile(image: Values) -> npt.NDArray[np.uint8]:
    factor = max(1, -(-_LEAST_SIDE // max(image.shape[1:])))
    large = np.repeat(np.repeat(levels(image), factor, axis=1), factor, axis=2)
    return np.pad(large, ((0, 0), (0, _GAP), (0, _GAP)), constant_values=255)
