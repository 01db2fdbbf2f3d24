"""The change of the AUROC per decade of age, which needs no age bins, with resampled patients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from meninx.metrics.bootstrap import Draws, p_value
from meninx.metrics.classification import Ranking, ratio
from meninx.metrics.estimates import Estimate
from meninx.metrics.groups import INSUFFICIENT, patients_of, sufficient
from meninx.metrics.intervals import PERCENTILE, Ends, guarded_interval, with_unseen_patient

Array = npt.NDArray[np.float64]
TREND, PER_DECADE = "auroc_trend", "per decade"
_DECADE = 10.0  # years
_LEAST_SPREAD = 1e-9  # variance of the age in decades


def trend_samples(truth: Array, scores: Array, ages: Array, draws: Draws) -> Array:
    """Return the trend on the data and in every draw, shape (1 + draws,); NaN where it is undefined.

    Every case has a placement: the share of the cases of the other class that are ranked on the right side of
    it. The mean placement is the AUROC. The trend is the slope of the placements over age by least squares,
    with equal weight for both classes.

    Args:
        truth: shape (cases,), 1, 0 or NaN.
        scores: shape (cases,).
        ages: years, shape (cases,); NaN if unknown.
        draws: the resamples of patients.

    References:
        Placement values: Pepe and Cai, Biometrics 60 (2004) 528-535.
    """
    known = np.where(np.isnan(ages), np.nan, truth)
    halves = (Ranking.of(known, scores), Ranking.of(1 - known, -scores))
    if not halves[0].defined:
        return np.full(1 + draws.count, np.nan)
    once = np.ones((1, draws.patients), dtype=np.int64)
    return np.concatenate([_slopes(halves, ages, draws, block) for block in (once, *draws.blocks())])


def _slopes(
    halves: tuple[Ranking, Ranking], ages: Array, draws: Draws, block: npt.NDArray[np.int64]
) -> Array:
    shares, placed, years = [], [], []
    for half in halves:
        own = block[:, draws.patient_index[half.positives]]
        other = block[:, draws.patient_index[half.negatives]]
        shares.append(ratio(own, 2.0 * own.sum(axis=1, keepdims=True)))
        placed.append(half.placements(other))
        years.append(ages[half.positives])
    weight, value = np.concatenate(shares, axis=1), np.concatenate(placed, axis=1)
    age = np.concatenate(years) / _DECADE
    middle = (weight @ age)[:, None]
    mean = (weight * value).sum(axis=1, keepdims=True)
    from_middle = weight * (age - middle)
    spread = (from_middle * (age - middle)).sum(axis=1)
    spread[spread < _LEAST_SPREAD] = 0.0  # equal ages, up to rounding
    return ratio((from_middle * (value - mean)).sum(axis=1), spread)


def age_trends(truth: Array, scores: Array, focus: Sequence[int], ages: Array, draws: Draws) -> list[Array]:
    """Return :func:`trend_samples` of every column in ``focus``; a column of too few patients is NaN."""
    found = []
    for column in focus:
        enough = sufficient(np.where(np.isnan(ages), np.nan, truth[:, column]), draws.patient_index)
        samples = trend_samples(truth[:, column], scores[:, column], ages, draws) if enough else None
        found.append(np.full(1 + draws.count, np.nan) if samples is None else samples)
    return found


def trend_rows(
    truth: Array,
    trends: Sequence[Array],
    focus: Sequence[int],
    labels: Sequence[str],
    ages: Array,
    draws: Draws,
    margin: float = math.nan,
) -> list[tuple[Estimate, float]]:
    """Return an estimate of each label's trend and the p-value of "no trend".

    Args:
        truth: shape (cases, labels).
        trends: from :func:`age_trends`, or differences of such.
        focus: columns of ``truth``, one per trend.
        labels: names of all columns.
        ages: years, shape (cases,).
        draws: the resamples of patients.
        margin: an interval within it claims that there is no trend, and also counts on one patient more at
            the end of the ages, whom no resample holds; NaN for no such claim.
    """
    rows = []
    for column, samples in zip(focus, trends, strict=True):
        there = ~np.isnan(truth[:, column]) & ~np.isnan(ages)
        value = float(samples[0])
        (low, high), kind = _interval(samples[1:], truth[:, column], ages, draws, margin)
        defined = not math.isnan(value)
        row = Estimate(
            name=TREND,
            value=value,
            low=low if defined else math.nan,
            high=high if defined else math.nan,
            n=int(there.sum()) if defined else 0,
            patients=int(np.unique(draws.patient_index[there]).size) if defined else 0,
            label=labels[column],
            attribute="age",
            group=PER_DECADE,
            note="" if defined else INSUFFICIENT,
            interval=kind if defined else "",
        )
        rows.append((row, p_value(value, samples[1:])))
    return rows


def _interval(samples: Array, truth: Array, ages: Array, draws: Draws, margin: float) -> tuple[Ends, str]:
    """Return the interval of a trend; a patient at the end of the ages tilts it most."""
    known = np.where(np.isnan(ages), np.nan, truth)
    inside = ~np.isnan(known)
    if not inside.any():
        return (math.nan, math.nan), PERCENTILE
    decades = ages[inside] / _DECADE
    away = np.abs(decades - decades.mean())
    reach = float(away.max() / max(float((away**2).mean()), _LEAST_SPREAD))
    smaller = min(patients_of(known, draws.patient_index))
    lower, upper = (with_unseen_patient(samples, smaller, worst) for worst in (-reach, reach))
    return guarded_interval(samples, lower, upper, margin)
