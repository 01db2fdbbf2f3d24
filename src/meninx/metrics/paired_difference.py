"""Paired comparison of two models on the same cases, and the question whether it costs some groups more."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected
from meninx.metrics.age_trend import TREND, age_trends, trend_rows
from meninx.metrics.bootstrap import BinaryProblem, Measured, measure
from meninx.metrics.classification_problem import ClassificationProblem, estimates
from meninx.metrics.disparity import GroupProblem, group_problems, group_tables
from meninx.metrics.estimates import Estimate
from meninx.metrics.groups import INSUFFICIENT, years
from meninx.metrics.intervals import PERCENTILE, percentile_interval

Array = npt.NDArray[np.float64]
MARGIN = 0.02
"""The largest difference that counts as no difference."""

LEVEL = 0.05
"""The level of the tests for a gap, after Holm's adjustment over the table."""

AMPLIFIED, NOT_AMPLIFIED, NOT_DECIDED = "amplified", "not amplified", "not decided"
GAP_NAMES = ("auroc_gap_difference", "auroc_trend_difference")
_NAMES = {"auroc": "auroc_difference", "auroc_gap": GAP_NAMES[0], TREND: GAP_NAMES[1]}
_QUANTILE = 1.959964  # of the normal distribution at 0.975
_POWER = 1.281552  # at 0.9: both ends of the interval lie within the margin with probability 0.8


def compare(
    a_scores: npt.ArrayLike,
    b_scores: npt.ArrayLike,
    y_true: npt.ArrayLike,
    patient_index: npt.ArrayLike,
    labels: Sequence[str],
    attributes: Mapping[str, Sequence[str]],
    *,
    task: str,
    seed: int,
    draws: int = 1000,
    margin: float = MARGIN,
    asked: Sequence[str] = (),
) -> list[Estimate]:
    """Return AUROC differences of two models on the same cases, a minus b (private minus non-private).

    They are ``auroc_difference`` over all cases and within each group (the cost of privacy for that group),
    ``auroc_gap_difference``, the signed gap of a group with a minus that with b, and
    ``auroc_trend_difference``, the same for the change per decade of age. Each note is the :func:`verdict` of
    the interval; that of a gap is its :func:`gap_verdict`.

    With several pairs of models, every difference is the mean over the pairs in each resample of patients.
    Its interval holds for these models and other patients; the values of the pairs are in ``by_run``.

    Args:
        a_scores: shape (cases, labels), of the private model; or (pairs, cases, labels).
        b_scores: of the other model, same shape.
        y_true: shape (cases, labels): a single 1 per row for classes; 1, 0 or NaN (unknown) for labels.
        patient_index: shape (cases,), numbered from 0.
        labels: names of the columns.
        attributes: attribute -> its text for each case.
        task: ``multiclass`` or ``multilabel``.
        seed: public seed of the resamples.
        draws: number of resamples.
        margin: the largest difference that counts as no difference.
        asked: labels to report; all by default.

    Raises:
        DataError: shapes differ, there is no case, or a score is not finite.
    """
    problem = ClassificationProblem.of(
        y_true, patient_index, labels, attributes, task=task, seed=seed, draws=draws, asked=asked
    )
    ages = years(attributes["age"]) if "age" in attributes else None
    pairs = [_PairDifference.of(problem, labels, a, b, ages) for a, b in _paired(a_scores, b_scores)]
    rows = _rows(problem, labels, _PairDifference.mean(pairs), ages)
    if len(pairs) > 1:
        each = [_rows(problem, labels, pair, ages) for pair in pairs]
        values = zip(*([row.value for row in found] for found in each), strict=True)
        rows = [
            row if math.isnan(row.value) else dataclasses.replace(row, by_run=tuple(value))
            for row, value in zip(rows, values, strict=True)
        ]
    return [_judged(item, margin) for item in rows]


def _paired(a_scores: npt.ArrayLike, b_scores: npt.ArrayLike) -> Iterator[tuple[Array, Array]]:
    a, b = np.asarray(a_scores, dtype=np.float64), np.asarray(b_scores, dtype=np.float64)
    if a.shape != b.shape or a.ndim not in (2, 3) or not len(a):
        wanted = "two tables of scores of one shape, (cases, labels) or (pairs, cases, labels)"
        raise DataError(expected(wanted, got=f"{a.shape} and {b.shape}", where="scores"))
    yield from zip(a, b, strict=True) if a.ndim == 3 else [(a, b)]


@dataclasses.dataclass(frozen=True)
class _PairDifference:
    """Differences of one pair of models: per label over all cases, per group problem, of age trends."""

    whole: list[Measured]
    bare: list[GroupProblem]
    groups: list[Measured]
    trends: list[Array]

    @classmethod
    def of(
        cls, problem: ClassificationProblem, labels: Sequence[str], a: Array, b: Array, ages: Array | None
    ) -> _PairDifference:
        truth, focus, draws = problem.truth, problem.focus, problem.draws
        problems: list[BinaryProblem] = []
        bare: list[GroupProblem] = []
        for scores in (a, b):
            problems += problem.binary_problems(scores, None)
            bare = group_problems(truth, scores, None, focus, labels, problem.groupings, draws.patient_index)
            problems += [item.problem for item in bare]
        measured = measure(problems, draws)
        half, width = len(measured) // 2, len(focus)
        found = [_difference(one, other) for one, other in zip(measured[:half], measured[half:], strict=True)]
        trends = []
        if ages is not None:
            mine, theirs = (age_trends(truth, scores, focus, ages, draws) for scores in (a, b))
            trends = [one - other for one, other in zip(mine, theirs, strict=True)]
        return cls(found[:width], bare, found[width:], trends)

    @classmethod
    def mean(cls, pairs: Sequence[_PairDifference]) -> _PairDifference:
        """Return the mean over pairs of every value, in the data and in every draw."""
        return cls(
            [_mean(items) for items in zip(*(pair.whole for pair in pairs), strict=True)],
            pairs[0].bare,
            [_mean(items) for items in zip(*(pair.groups for pair in pairs), strict=True)],
            [np.mean(items, axis=0) for items in zip(*(pair.trends for pair in pairs), strict=True)],
        )


def _difference(one: Measured, other: Measured) -> Measured:
    values = {name: one.values[name] - other.values[name] for name in one.values}
    return _with_ends(one, values, {name: one.samples[name] - other.samples[name] for name in one.samples})


def _mean(items: Sequence[Measured]) -> Measured:
    first = items[0]
    values = {name: float(np.mean([item.values[name] for item in items])) for name in first.values}
    samples = {name: np.mean([item.samples[name] for item in items], axis=0) for name in first.samples}
    return _with_ends(first, values, samples)


def _with_ends(like: Measured, values: dict[str, float], samples: dict[str, Array]) -> Measured:
    ends = {name: percentile_interval(drawn) for name, drawn in samples.items()}
    return dataclasses.replace(
        like, values=values, samples=samples, ends=ends, kinds=dict.fromkeys(ends, PERCENTILE)
    )


def _rows(
    problem: ClassificationProblem, labels: Sequence[str], pair: _PairDifference, ages: Array | None
) -> list[Estimate]:
    """Return the differences over all cases, in groups, and of gaps."""
    further = (
        trend_rows(problem.truth, pair.trends, problem.focus, labels, ages, problem.draws)
        if ages is not None
        else []
    )
    groups, gaps = group_tables(
        [GroupProblem.of(item, found) for item, found in zip(pair.bare, pair.groups, strict=True)], further
    )
    every = (*estimates(problem.names, pair.whole), *groups, *gaps)
    return [dataclasses.replace(item, name=_NAMES[item.name]) for item in every if item.name in _NAMES]


def verdict(low: float, high: float, margin: float) -> str:
    """Return the verdict of a difference's 95 % interval: within the margin, worse, better or not decided.

    Examples:
        >>> verdict(-0.01, 0.005, 0.02), verdict(-0.09, -0.03, 0.02), verdict(-0.09, 0.03, 0.02)
        ('within the margin', 'worse', 'not decided')
    """
    if math.isnan(low) or math.isnan(high):
        return NOT_DECIDED
    if -margin <= low and high <= margin:
        return "within the margin"
    if high < 0:
        return "worse"
    return "better" if low > 0 else NOT_DECIDED


def gap_verdict(gap: Estimate, margin: float = MARGIN) -> str:
    """Return whether a difference of gaps is ``amplified``, ``not amplified`` or ``not decided``.

    It is not amplified if the 95 % interval lies within the margin (two one-sided tests), and amplified if
    it does not and "no gap" is rejected at 5 % after Holm's adjustment over the table. The claim that no
    group is affected needs every row to be not amplified, and then needs no adjustment (intersection-union
    test).

    Examples:
        >>> row = Estimate(name="auroc_gap_difference", value=-0.09, low=-0.13, high=-0.05, n=900,
        ...                patients=300, p_holm=0.001)
        >>> gap_verdict(row), gap_verdict(dataclasses.replace(row, p_holm=0.2))
        ('amplified', 'not decided')
    """
    if math.isnan(gap.low) or math.isnan(gap.high):
        return NOT_DECIDED
    if -margin <= gap.low and gap.high <= margin:
        return NOT_AMPLIFIED
    return AMPLIFIED if gap.p_holm < LEVEL else NOT_DECIDED


def patients_needed(gap: Estimate, margin: float = MARGIN) -> int:
    """Return the patients of the group that would decide a gap, to two digits; 0 if it cannot be computed.

    With so many, and the other groups growing alike, the interval lies within the margin with probability
    0.8 if there is no gap.

    Examples:
        >>> patients_needed(Estimate(name="auroc_gap_difference", value=0.0, low=-0.06, high=0.06, n=100,
        ...                          patients=100))
        2500
    """
    error = (gap.high - gap.low) / (2 * _QUANTILE)
    if math.isnan(error) or error <= 0 or not gap.patients:
        return 0
    needed = gap.patients * ((_QUANTILE + _POWER) * error / margin) ** 2
    digits = 10 ** max(0, math.floor(math.log10(needed)) - 1) if needed >= 1 else 1
    return int(math.ceil(needed / digits) * digits)


def _judged(item: Estimate, margin: float) -> Estimate:
    if item.note == INSUFFICIENT:
        return item
    if item.name not in GAP_NAMES:
        return dataclasses.replace(item, note=verdict(item.low, item.high, margin))
    return dataclasses.replace(item, note=gap_words(item, margin))


def gap_words(gap: Estimate, margin: float = MARGIN) -> str:
    """Return the verdict of a gap in words: who loses more, the margin, or the patients that are needed."""
    found = gap_verdict(gap, margin)
    if found == NOT_AMPLIFIED:
        return f"{found} (within ±{margin:g})"
    if found == AMPLIFIED:
        trend = gap.name == GAP_NAMES[1]
        who = (
            ("older patients lose", "younger patients lose")
            if trend
            else ("this group loses", "the others lose")
        )
        return f"{found}: {who[0 if gap.value < 0 else 1]} more"
    needed = patients_needed(gap, margin)
    return f"{found} (needs about {needed:,} patients)" if needed else found
