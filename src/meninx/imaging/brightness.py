"""Brightness of stored images and the share of the value range that they use, compared with the training.

A 12-bit image in a 16-bit file uses a sixteenth of the range. It is nearly black for the network, and no
error occurs. `meninx predict` warns about such an image, and `meninx evaluate` refuses a dataset of them.

    >>> info = Intensity()
    >>> used_share(np.array([0, 15], np.uint8), info) < USED
    True
    >>> is_unlike(6.4, Observed(images=100, brightness=(102.0, 8.0)))
    True
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core.intensity import Intensity, Observed

USED = 0.1  # smallest usual share of the value range; a 12-bit image in a 16-bit file uses a sixteenth
DEVIATIONS, FEWEST = 4.0, 10  # standard deviations of the brightness; smallest number of training images


def used_share(stored: npt.NDArray[Any], intensity: Intensity) -> float:
    """Return the share of the range of values that a stored image uses, 0 for a constant image."""
    low, high = intensity.window
    return (float(stored.max()) - float(stored.min())) / (high - low)


def mean_value(stored: npt.NDArray[Any], theirs: Intensity, training: Intensity) -> float:
    """Return the mean of a stored image in the units of the training.

    Args:
        stored: as stored.
        theirs: intensity of its dataset; a different window means that only the bit depths differ.
        training: intensity of the training.
    """
    same = training.window == theirs.window
    factor = 1.0 if same else training.window[1] / theirs.window[1]
    return float(np.mean(stored, dtype=np.float64)) * factor


def is_comparable(observed: Observed | None) -> bool:
    """Return whether the brightness of the training images is known from enough of them."""
    return observed is not None and observed.images >= FEWEST and observed.brightness[1] > 0


def is_unlike(mean: float, observed: Observed) -> bool:
    """Return whether a mean value is several standard deviations away from those of the training images."""
    typical, deviation = observed.brightness
    return abs(mean - typical) > DEVIATIONS * deviation
