"""Check whether the images of another dataset are about as bright as the training images of a model.

A wrong bit depth or an inverted grey scale makes images that are valid inputs but outside the training range.
The evaluation then measures a mistake in the preparation, and no other check would show it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.core import names
from meninx.core.errors import DataError, expected
from meninx.core.intensity import Observed
from meninx.core.manifest import DatasetInfo, Manifest
from meninx.imaging import brightness, load

ALLOW = "--allow-other-intensity"
_EXAMINED = {2: 256, 3: 32}  # number of examined images by dimensions, evenly spaced in a larger dataset
_FAR, _FACTOR = 0.1, 2.0  # limits for the typical brightness, as a share of the range and as a factor


@dataclass(frozen=True)
class _Examined:
    """Brightness of the examined images, in the units of the training.

    Attributes:
        means: mean of each image.
        used: share of the value range that each image uses.
    """

    means: npt.NDArray[np.float64]
    used: npt.NDArray[np.float64]

    @classmethod
    def of(cls, learned: DatasetInfo, chosen: Manifest) -> _Examined:
        count = min(len(chosen), _EXAMINED[chosen.info.spatial_dims])
        means, used = [], []
        for position in np.linspace(0, len(chosen) - 1, count).round().astype(int):
            array = load.load(chosen.root / chosen.cases[position].image).array
            means.append(brightness.mean_value(array, chosen.info.intensity, learned.intensity))
            used.append(brightness.used_share(array, chosen.info.intensity))
        return cls(np.array(means), np.array(used))


def check(learned: DatasetInfo, chosen: Manifest, *, private: bool, allowed: bool) -> list[str]:
    """Return caveats about the brightness of another dataset's images.

    Statistics of the training images of a private run are not released, so its check uses only the value
    range.

    Args:
        learned: description of the training dataset.
        chosen: the cases to measure, of another dataset with the grey levels or units of the training.
        private: the run was trained with differential privacy.
        allowed: images that are far off give a caveat instead of an error.

    Raises:
        DataError: at least half of the images use less than a tenth of the range of values, or their typical
            brightness is far from that of the training: more than four deviations, and either by a tenth of
            the range or by a factor of two.
    """
    found = _Examined.of(learned, chosen)
    observed = None if private or not brightness.is_comparable(learned.observed) else learned.observed
    notes = []
    far = _far_words(found, learned, observed)
    if far and not allowed:
        what = (
            "images as bright as those of the training" if observed else "images that use the range of values"
        )
        raise DataError(expected(what, got=far, where="images of the dataset", fix=_fix(learned)))
    if far:
        name = names.printable(
            chosen.info.name
        )  # the name is needed, because the report lists notes of several datasets together
        notes.append(f"dataset {name}: measured although the intensity is far off ({ALLOW}): {far}")
    elif observed is not None:
        unlike = sum(brightness.is_unlike(mean, observed) for mean in found.means)
        if unlike:
            notes.append(
                f"{_counted(unlike, found)} far darker or brighter than those of the training: "
                f"{_compared(found, learned, observed)}"
            )
    else:
        flat = int((found.used < brightness.USED).sum())
        if flat:
            notes.append(
                f"{_counted(flat, found)} use less than {brightness.USED:.0%} of the range of values"
            )
    if observed is None:
        why = "which a private run does not release" if private else "of which too little is recorded"
        notes.append(f"the brightness of the images was not compared with that of the training images, {why}")
    return notes


def _far_words(found: _Examined, learned: DatasetInfo, observed: Observed | None) -> str:
    """Return a text with numbers on why the images are far off; empty if they are not."""
    typical = float(np.median(found.means))
    if observed is None:
        share = float(np.median(found.used))
        flat = int((found.used < brightness.USED).sum())
        few = f"{_counted(flat, found)} use less than {brightness.USED:.0%} of the range (median {share:.1%})"
        return few if share < brightness.USED else ""
    low, high = learned.intensity.window
    here, there = ((value - low) / (high - low) for value in (typical, observed.brightness[0]))
    smaller, larger = sorted((here, there))
    far = larger - smaller >= _FAR or larger >= _FACTOR * smaller
    return _compared(found, learned, observed) if far and brightness.is_unlike(typical, observed) else ""


def _compared(found: _Examined, learned: DatasetInfo, observed: Observed) -> str:
    low, high = learned.intensity.window
    mean, deviation = observed.brightness
    here, there = ((value - low) / (high - low) for value in (float(np.median(found.means)), mean))
    return (
        f"mean value at {here:.1%} of the range (median of {len(found.means)} images), training {there:.1%} "
        f"with deviation {deviation / (high - low):.1%}"
    )


def _counted(count: int, found: _Examined) -> str:
    return f"{count} of {len(found.means)} images"


def _fix(learned: DatasetInfo) -> str:
    again = "prepare it from values in the units of the training"
    if learned.intensity.has_grey_levels and learned.preprocessing.get("scaling", "format") == "format":
        again = "prepare it with the bits that its values use (`--window 0 4095` for 12 bits in files of 16)"
    return f"{again}, with black as the lowest value; {ALLOW} measures it as it is"
