"""95 % intervals of rates over patients, also near 0 and 1, where resampled ones are too narrow.

Resamples of 14 patients who were all called right are all right: their percentile interval is [1, 1]. Here
such a rate gets an interval of Clopper and Pearson with as many trials as the images are worth in patients:

    >>> import numpy as np
    >>> right, of = np.ones(14), np.ones(14)
    >>> low, high = rate_interval(right, of, np.ones(1000))
    >>> round(low, 3), high
    (0.768, 1.0)
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
FEW = 10
"""Patients with a wrong decision, or with a right one, below which a rate counts as near the edge."""

_LEAST_DEFINED = 0.9
_QUANTILE = 1.959963984540054  # of the normal distribution, at (1 + LEVEL) / 2
Array = npt.NDArray[np.float64]
Ends = tuple[float, float]


def percentile_interval(samples: npt.ArrayLike, level: float = LEVEL) -> Ends:
    """Return the percentile interval of draws (draws,); NaN when more than a tenth of them are undefined."""
    values = np.asarray(samples, dtype=np.float64)
    known = values[~np.isnan(values)]
    if not known.size or known.size < _LEAST_DEFINED * values.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def clopper_pearson(events: float, trials: float, level: float = LEVEL) -> Ends:
    """Return the exact interval of a proportion.

    Args:
        events: successes, from 0 to ``trials``; a fraction where trials are effective numbers.
        trials: independent trials, > 0.
        level: coverage.

    Guarantee: of independent trials, at least ``level`` of such intervals hold the true proportion.

    References:
        Clopper and Pearson, Biometrika 26 (1934) 404-413.

    Examples:
        >>> [round(end, 3) for end in clopper_pearson(14, 14)]
        [0.768, 1.0]
    """
    from scipy.special import betaincinv  # the light half of the program works without scipy

    tail = (1 - level) / 2
    events = min(max(events, 0.0), trials)
    low = float(betaincinv(events, trials - events + 1, tail)) if events > 0 else 0.0
    high = float(betaincinv(events + 1, trials - events, 1 - tail)) if events < trials else 1.0
    return low, high


def near_edge(hits: Array, of: Array) -> bool:
    """Return whether fewer than :data:`FEW` patients have a hit, or fewer have a miss.

    Arguments as in :func:`effective_patients`.
    """
    return min(int((hits > 0).sum()), int((hits < of).sum())) < FEW


def effective_patients(hits: Array, of: Array) -> float:
    """Return how many independent trials the cases of some patients are worth for their rate.

    It is the rate's binomial variance over its variance between patients (the inverse design effect times the
    number of cases), at most the number of patients.

    Args:
        hits: cases of each patient that count, shape (patients,).
        of: cases of each patient among which they are, shape (patients,).

    References:
        Korn and Graubard, Survey Methodology 24 (1998) 193-201.
    """
    there = of > 0
    hits, of = hits[there], of[there]
    patients, cases = int(of.size), float(of.sum())
    rate = float(hits.sum()) / cases
    if patients < 2 or rate in (0.0, 1.0):
        return float(patients)
    spread = float(((hits - rate * of) ** 2).sum()) * patients / (patients - 1) / cases**2
    if spread == 0:
        return float(patients)
    return float(min(patients, rate * (1 - rate) / spread))


def rate_interval(hits: Array, of: Array, samples: npt.ArrayLike) -> Ends:
    """Return the 95 % interval of a rate over patients.

    It is the percentile interval of the resamples where at least :data:`FEW` patients have a hit and as many
    have a miss, otherwise that of Clopper and Pearson with :func:`effective_patients`.

    Args:
        hits: cases of each patient that count, shape (patients,).
        of: cases of each patient among which they are, shape (patients,).
        samples: the rate in each resample, shape (draws,).

    Returns:
        The ends, 0 <= low <= rate <= high <= 1 and low < high; NaN without a case.

    Notes:
        The rule was chosen by simulation: 14, 30 and 80 patients with 1 or on average 3 images each,
        correlations of 0, 0.3 and 0.9 within a patient, rates of 0.8 to 0.99 (48 settings). This interval
        covers the rate in 92.6 to 100 % of tables (mean 98.3 %, mean width 0.22), the percentile interval
        alone in 13 to 96 % (mean 76 %, width 0.13), Wilson's with the same trials in 87 to 100 %.
    """
    if not (of > 0).any():
        return float("nan"), float("nan")
    if not near_edge(hits, of):
        return percentile_interval(samples)
    trials = effective_patients(hits, of)
    rate = float(hits.sum() / of.sum())
    low, high = clopper_pearson(rate * trials, trials)
    return min(low, rate), max(high, rate)


def edge_interval(value: float, samples: npt.ArrayLike, patients: int, *, least: float = 0.0) -> Ends:
    """Return the percentile interval of a metric; one with width when all resamples are an end of its range.

    A mean of values in [0, 1] that are all 1 is at least as certain as that many successes in as many trials,
    and an area of 1 holds at least one pair of independent patients per patient of the smaller class: the
    other end is that of Clopper and Pearson.

    Args:
        value: the metric on the data.
        samples: the metric in each resample, shape (draws,).
        patients: patients it rests on; of two classes those of the smaller one.
        least: lower end of the metric's range, whose upper end is 1.
    """
    low, high = percentile_interval(samples)
    if not (low == high == value and value in (least, 1.0)) or patients < 1:
        return low, high
    share = (value - least) / (1 - least)
    ends = clopper_pearson(share * patients, patients)
    return least + ends[0] * (1 - least), least + ends[1] * (1 - least)


def combined_interval(
    values: tuple[float, float], first: Ends, second: Ends, *, signs: tuple[int, int]
) -> Ends:
    """Return the interval of a sum or difference of two independent estimates from their own intervals.

    Args:
        values: the two estimates.
        first: interval of the first.
        second: interval of the second.
        signs: 1 for each that is added, -1 for one that is subtracted.

    References:
        Newcombe, Statistics in Medicine 17 (1998) 873-890, method 10; Zou and Donner, Statistics in Medicine
        27 (2008) 1693-1702.

    Examples:
        >>> low, high = combined_interval((1.0, 1.0), (0.77, 1.0), (0.77, 1.0), signs=(1, -1))
        >>> round(low, 2), round(high, 2)
        (-0.23, 0.23)
    """
    total = sum(sign * value for sign, value in zip(signs, values, strict=True))
    below = above = 0.0
    for sign, value, (low, high) in zip(signs, values, (first, second), strict=True):
        down, up = (value - low, high - value) if sign > 0 else (high - value, value - low)
        below, above = below + down**2, above + up**2
    return total - math.sqrt(below), total + math.sqrt(above)


def p_of_interval(value: float, ends: Ends) -> float:
    """Return the two-sided p-value of "the difference is 0" that goes with a 95 % interval."""
    width = value - ends[0] if value > 0 else ends[1] - value
    if math.isnan(width):
        return float("nan")
    if width <= 0:
        return 1.0 if value == 0 else 0.0
    return math.erfc(abs(value) / (width / _QUANTILE) / math.sqrt(2))
