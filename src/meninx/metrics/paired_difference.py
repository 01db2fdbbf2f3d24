"""Paired comparison of two models on the same cases, and the question whether it costs some groups more."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected
from meninx.metrics.age_trend import TREND, age_trends, trend_rows
from meninx.metrics.bootstrap import BinaryProblem, Measured, guarded_draws, measure
from meninx.metrics.classification_problem import ClassificationProblem, estimates
from meninx.metrics.disparity import GroupProblem, group_problems, group_tables
from meninx.metrics.estimates import Estimate
from meninx.metrics.groups import INSUFFICIENT, years
from meninx.metrics.intervals import UNSEEN, guarded_interval

Array = npt.NDArray[np.float64]
MARGIN = 0.02
"""The largest difference that counts as no difference."""

LEVEL = 0.05
"""The level of the tests for a gap, after Holm's adjustment over the table."""

AMPLIFIED, NOT_AMPLIFIED, NOT_DECIDED, CLOSED = "amplified", "not amplified", "not decided", "closes a gap"
GAP_NAMES = ("auroc_gap_difference", "auroc_trend_difference")
_NAMES = {"auroc": "auroc_difference", "auroc_gap": GAP_NAMES[0], TREND: GAP_NAMES[1]}
_QUANTILE = 1.959964  # of the normal distribution at 0.975
_ONE_UNSEEN, _TWO_UNSEEN = 3.688879, 5.571643  # the same quantile of gamma variables of shape 1 and 2
_TAIL = 0.025  # of the 95 % interval, beyond each end
_NO_GUARD = -1.0  # no interval lies within it: a model does not differ from itself in patients not seen
_HALVINGS = 40
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
    tables = list(_paired(a_scores, b_scores))
    guard = _NO_GUARD if all(_same_model(a, b) for a, b in tables) else margin
    pairs = [_PairDifference.of(problem, labels, a, b, ages, guard) for a, b in tables]
    rows = _rows(problem, labels, _PairDifference.mean(pairs), ages, guard)
    if len(pairs) > 1:
        each = [_rows(problem, labels, pair, ages, guard) for pair in pairs]
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


def _same_model(a: Array, b: Array) -> bool:
    """Return whether two tables are of one model: many different scores, all equal to the last digit."""
    return bool(np.array_equal(a, b) and 2 * np.unique(a[:, 0]).size > len(a))


@dataclasses.dataclass(frozen=True)
class _PairDifference:
    """Differences of one pair of models: per label over all cases, per group problem, of age trends."""

    whole: list[Measured]
    bare: list[GroupProblem]
    groups: list[Measured]
    trends: list[Array]
    before: list[float]
    """Gaps of the other model, in the order of the rows of gaps."""

    @classmethod
    def of(
        cls,
        problem: ClassificationProblem,
        labels: Sequence[str],
        a: Array,
        b: Array,
        ages: Array | None,
        margin: float,
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
        found = [
            difference(one, other, margin)
            for one, other in zip(measured[:half], measured[half:], strict=True)
        ]
        trends, further = [], []
        if ages is not None:
            mine, theirs = (age_trends(truth, scores, focus, ages, draws) for scores in (a, b))
            trends = [one - other for one, other in zip(mine, theirs, strict=True)]
            further = trend_rows(truth, theirs, focus, labels, ages, draws)
        others = [
            GroupProblem.of(item, one) for item, one in zip(bare, measured[half + width :], strict=True)
        ]
        gaps = [gap.value for gap in group_tables(others, further)[1] if gap.name in _NAMES]
        return cls(found[:width], bare, found[width:], trends, gaps)

    @classmethod
    def mean(cls, pairs: Sequence[_PairDifference]) -> _PairDifference:
        """Return the mean over pairs of every value, in the data and in every draw."""
        return cls(
            [_mean(items) for items in zip(*(pair.whole for pair in pairs), strict=True)],
            pairs[0].bare,
            [_mean(items) for items in zip(*(pair.groups for pair in pairs), strict=True)],
            [np.mean(items, axis=0) for items in zip(*(pair.trends for pair in pairs), strict=True)],
            [float(np.mean(items)) for items in zip(*(pair.before for pair in pairs), strict=True)],
        )


def difference(one: Measured, other: Measured, margin: float = MARGIN) -> Measured:
    """Return the differences of the areas of two models on the same draws, one minus other.

    A percentile interval within the margin would claim equality from resamples that hold no patient who was
    not seen, and is replaced by a :func:`meninx.metrics.intervals.guarded_interval`.
    """
    values = {name: one.values[name] - other.values[name] for name in one.values}
    samples = {name: one.samples[name] - other.samples[name] for name in one.samples}
    return _with_ends(dataclasses.replace(one, margin=margin), values, samples)


def _mean(items: Sequence[Measured]) -> Measured:
    first = items[0]
    values = {name: float(np.mean([item.values[name] for item in items])) for name in first.values}
    samples = {name: np.mean([item.samples[name] for item in items], axis=0) for name in first.samples}
    return _with_ends(first, values, samples)


def _with_ends(like: Measured, values: dict[str, float], samples: dict[str, Array]) -> Measured:
    bare = dataclasses.replace(like, values=values, samples=samples)
    found = {name: guarded_interval(*guarded_draws([bare], name), like.margin) for name in samples}
    ends = {name: item[0] for name, item in found.items()}
    kinds = {name: item[1] for name, item in found.items()}
    return dataclasses.replace(bare, ends=ends, kinds=kinds)


def _rows(
    problem: ClassificationProblem,
    labels: Sequence[str],
    pair: _PairDifference,
    ages: Array | None,
    margin: float,
) -> list[Estimate]:
    """Return the differences over all cases, in groups, and of gaps."""
    further = (
        trend_rows(problem.truth, pair.trends, problem.focus, labels, ages, problem.draws, margin)
        if ages is not None
        else []
    )
    groups, gaps = group_tables(
        [GroupProblem.of(item, found) for item, found in zip(pair.bare, pair.groups, strict=True)], further
    )
    signed = [gap for gap in gaps if gap.name in _NAMES]
    gaps = tuple(
        dataclasses.replace(gap, before=before) for gap, before in zip(signed, pair.before, strict=True)
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

    A group that was ahead and loses more ``closes a gap``, if the gap is smaller afterwards and the group is
    not behind by more than the margin.

    Examples:
        >>> row = Estimate(name="auroc_gap_difference", value=-0.09, low=-0.13, high=-0.05, n=900,
        ...                patients=300, p_holm=0.001)
        >>> gap_verdict(row), gap_verdict(dataclasses.replace(row, p_holm=0.2))
        ('amplified', 'not decided')
        >>> gap_verdict(dataclasses.replace(row, before=0.1))
        'closes a gap'
    """
    if math.isnan(gap.low) or math.isnan(gap.high):
        return NOT_DECIDED
    if -margin <= gap.low and gap.high <= margin:
        return NOT_AMPLIFIED
    if not gap.p_holm < LEVEL:
        return NOT_DECIDED
    after = gap.before + gap.value
    behind = math.copysign(after, after * gap.value)  # above 0: whoever loses more is behind
    return CLOSED if abs(after) < abs(gap.before) and behind <= margin else AMPLIFIED


def least_class(margin: float = MARGIN) -> int:
    """Return how many patients of the smaller class a claim of equality needs at least.

    With fewer, a loss beyond the margin shows in nobody with a probability above 2.5 %.

    >>> least_class()
    183
    """
    return math.ceil(math.log(_TAIL) / math.log1p(-margin))


def patients_needed(gap: Estimate, margin: float = MARGIN) -> int:
    """Return the patients of the group that would decide a gap, to two digits; 0 if it cannot be computed.

    With so many, and the other groups growing alike, the interval lies within the margin with probability
    0.8 or more if there is no gap. The interval of a claim counts on one patient more of the smaller class,
    with a weight of 1 / patients on average, in the group and in the others, which are taken to be as many.
    Half of the patients are in that class if it is not known.

    Examples:
        >>> patients_needed(Estimate(name="auroc_gap_difference", value=0.0, low=-0.06, high=0.06, n=100,
        ...                          patients=100))
        2900
    """
    half = (gap.high - gap.low) / 2
    if math.isnan(half) or half <= 0 or not gap.patients:
        return 0
    share = min(gap.positives or 0, gap.n - (gap.positives or 0)) / gap.n if gap.positives and gap.n else 0.5
    weight = 1 / (share * gap.patients)
    error = half / _QUANTILE
    if gap.interval == UNSEEN:
        error = math.sqrt(max(0.0, half**2 - (_ONE_UNSEEN * weight) ** 2)) / _QUANTILE

    def reach(times: float) -> float:
        """Return what the end of the interval stays below with probability 0.8, for so many times more."""
        unseen, spread = weight / times, error / math.sqrt(times)
        few = math.hypot(_TWO_UNSEEN * unseen, _QUANTILE * spread)
        many = 2 * unseen + _QUANTILE * math.hypot(spread, math.sqrt(2) * unseen)
        return max(few, many) + _POWER * spread

    low, high = 0.0, 1.0
    while reach(high) > margin:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if reach(middle) > margin else (low, middle)
    needed = gap.patients * high
    digits = 10 ** max(0, math.floor(math.log10(needed)) - 1) if needed >= 1 else 1
    return int(math.ceil(needed / digits) * digits)


def _judged(item: Estimate, margin: float) -> Estimate:
    if item.note == INSUFFICIENT:
        return item
    if item.name not in GAP_NAMES:
        return dataclasses.replace(item, note=verdict(item.low, item.high, margin))
    return dataclasses.replace(item, note=gap_words(item, margin))


_AHEAD = {
    GAP_NAMES[0]: ("this group", "the others"),
    GAP_NAMES[1]: ("older patients", "younger patients"),
}


def _lead(gap: Estimate) -> float:
    """Return the lead afterwards of the side that was ahead; 0 where it vanishes."""
    lead = math.copysign(1, gap.before) * (gap.before + gap.value)
    return 0.0 if round(lead, 2) == 0 else lead


def gap_words(gap: Estimate, margin: float = MARGIN) -> str:
    """Return the verdict of a gap in words: who loses more, the margin, or the patients that are needed."""
    found = gap_verdict(gap, margin)
    if found == NOT_AMPLIFIED:
        return f"{found} (within ±{margin:g})"
    if found == CLOSED:
        ahead = _AHEAD[gap.name][0 if gap.before > 0 else 1]
        return f"{found}: the lead of {ahead} of {abs(gap.before):.2f} becomes {_lead(gap):.2f}"
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
