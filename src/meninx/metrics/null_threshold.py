"""From which similarity on an image counts as reconstructed, and how often that happens without any leak.

Best of 256 reconstructions made of noise alone, a radiograph has a correlation of 0.7 with some of them: all
radiographs look alike. A success therefore counts only above a threshold that a null, the same decoder on
gradients that hold nothing of the patient, exceeds in 1 %::

    >>> null = np.random.default_rng(0).random(1999)
    >>> eta, share = null_threshold(null)
    >>> round(eta, 2), share
    (0.99, 0.01)
    >>> rate_above(np.array([0.2, 0.999, 0.995, 0.4]), eta).share
    0.5

References:
    Vovk, Gammerman, Shafer (2005), Algorithmic Learning in a Random World (the threshold).
    Clopper and Pearson (1934), Biometrika 26, 404-413 (the intervals).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from meninx.core import check
from meninx.core.errors import DataError, expected
from meninx.core.proportions import clopper_pearson
from meninx.metrics import intervals
from meninx.metrics.image_matching import ImageMetric, Images, similarity

NULL_SHARE = 0.01
"""Of the null that may exceed the threshold."""
Array = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of images with its 95 % interval over patients.

    Attributes:
        share: images that count among all.
        of: images.
        patients: independent trials that they are worth: at most the number of patients.
        low: lower end by Clopper and Pearson.
        high: upper end.
    """

    share: float
    of: int
    patients: float
    low: float
    high: float


def null_threshold(null: npt.ArrayLike, share: float = NULL_SHARE) -> tuple[float, float]:
    """Return the lowest threshold that the null exceeds with probability ``share``, and that probability.

    With fewer than 1 / share - 1 values even the largest of them is exceeded more often; the second number
    says how often.

    Args:
        null: similarities of images to reconstructions that hold nothing of them.
        share: in (0, 1).

    Guarantee: of similarities that are exchangeable with the null's, a further one is above the threshold
        with at most the probability that is returned.
    """
    check.open_unit(share=share)
    values = np.sort(_values(null, "the null"))
    rank = math.ceil((len(values) + 1) * (1 - share) - 1e-9)
    if rank > len(values):
        return float(values[-1]), 1 / (len(values) + 1)
    return float(values[rank - 1]), share


def public_threshold(
    metric: ImageMetric,
    first: Images,
    second: Images,
    share: float = NULL_SHARE,
    *,
    data_range: float = 1.0,
) -> tuple[float, float]:
    """Return the similarity that public images alone reach with probability ``share``, and that probability.

    Noise makes reconstructions less alike, so a threshold that is set on noisy reconstructions falls with
    noise, until images of other patients pass it. The similarity of each image to the nearest image of other
    patients, all of which an attacker may name, limits how far it may fall.

    Args:
        metric: the similarity.
        first: images of patients that took no part, (images, channels, *spatial).
        second: images of other such patients.
        share: in (0, 1).
        data_range: of the images.
    """
    across = similarity(metric, first, second, data_range=data_range)
    return null_threshold(np.concatenate([across.max(axis=0), across.max(axis=1)]), share)


def rate_above(
    values: npt.ArrayLike,
    threshold: float,
    *,
    patients: npt.ArrayLike | None = None,
    steps: npt.ArrayLike | None = None,
) -> Rate:
    """Return how many similarities are above a threshold.

    Args:
        values: one for each image; -inf where nothing was matched.
        threshold: eta.
        patients: number of the patient of each image, from 0 on; each image is a patient of its own without
            it. Where few patients are attacked several times, the interval counts patients.
        steps: number of the attacked step of each image, likewise. The images of a step share noise and
            candidates, so the interval is wider where steps differ by more than chance.
    """
    found = np.asarray(values, dtype=np.float64).ravel()
    if not found.size or np.isnan(found).any():
        raise DataError(expected("one similarity or more", got=found.size, where="similarities"))
    above, share, trials = found > threshold, float((found > threshold).mean()), float(found.size)
    if patients is not None:
        hits, of = _grouped(above, patients)
        if of.max() > 1:
            trials = min(trials, intervals.effective_patients(hits, of))
    if steps is not None:
        trials = min(trials, found.size / _design_effect(*_grouped(above, steps)))
    low, high = clopper_pearson(share * trials, trials)
    return Rate(share=share, of=int(found.size), patients=trials, low=min(low, share), high=max(high, share))


def _grouped(above: Bits, groups: npt.ArrayLike) -> tuple[Array, Array]:
    """Return hits and images of each group."""
    numbers = np.asarray(groups).ravel()
    return np.bincount(numbers, weights=above).astype(np.float64), np.bincount(numbers).astype(np.float64)


def _design_effect(hits: Array, of: Array) -> float:
    """Return the variance of a rate between groups over that of independent images, at least 1."""
    share = float(hits.sum() / of.sum())
    if len(of) < 2 or share in (0.0, 1.0):
        return 1.0
    between = float((of * (hits / of - share) ** 2).sum()) / (len(of) - 1)
    return max(1.0, between / (share * (1 - share)))


def prior_success(
    metric: ImageMetric,
    first: Images,
    second: Images,
    threshold: float,
    *,
    guesses: int,
    confidence: float = 0.95,
    data_range: float = 1.0,
) -> float:
    """Return kappa(eta): how often at most one of ``guesses`` fixed images is close enough to a patient's.

    The attacker's best fixed guesses are chosen among the images of one half, one after the other, each of
    which covers most of what is left. They are counted on the other half, and the other way round, so that
    nothing is counted on the images that it was chosen on.

    Args:
        metric: the similarity.
        first: images of patients that took no part, (images, channels, *spatial).
        second: images of other such patients.
        threshold: eta.
        guesses: images that the attacker may name, >= 1.
        confidence: of the one-sided limit of Clopper and Pearson.
        data_range: of the images.
    """
    check.positive(guesses=guesses)
    close = [
        similarity(metric, own, guess, data_range=data_range) > threshold
        for own, guess in ((first, first), (second, second), (second, first), (first, second))
    ]
    hits = sum(
        int(near_other[:, _cover(near_own, guesses)].any(axis=1).sum())
        for near_own, near_other in ((close[0], close[2]), (close[1], close[3]))
    )
    total = len(first) + len(second)
    return clopper_pearson(hits, total, 2 * confidence - 1)[1]


def _cover(close: Bits, most: int) -> list[int]:
    """Return the columns that cover most rows, chosen one after the other."""
    left, chosen = close.copy(), list[int]()
    while len(chosen) < min(most, close.shape[1]) and left.any():
        best = int(left.sum(axis=0).argmax())
        chosen.append(best)
        left[left[:, best]] = False
    return chosen


def _values(values: npt.ArrayLike, where: str) -> npt.NDArray[Any]:
    found = np.asarray(values, dtype=np.float64).ravel()
    if not found.size or np.isnan(found).any():
        raise DataError(expected("one similarity or more", got=found.size, where=where))
    return found
