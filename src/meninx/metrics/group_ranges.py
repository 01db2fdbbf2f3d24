"""Worst group, and the largest difference between two groups, with what groups drawn by chance would show.

A largest difference is never negative, so an interval of it would not contain 0 even without any difference.
It is therefore printed with the value that 95 % of permutations of the patients' groups stay below, and the
signed gaps of :mod:`meninx.metrics.disparity` decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from meninx.core.randomness import child
from meninx.metrics.bootstrap import Areas, Draws, sum_by_patient
from meninx.metrics.classification import METRICS, Counts, Ranking
from meninx.metrics.disparity import GroupProblem
from meninx.metrics.estimates import Estimate
from meninx.metrics.groups import INSUFFICIENT, Grouping

Array = npt.NDArray[np.float64]
PERMUTATIONS = 200
RANGES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "auroc_range": ("auroc",),
        "demographic_parity_difference": ("selection_rate",),
        "equal_opportunity_difference": ("sensitivity",),
        "equalised_odds_difference": ("sensitivity", "false_positive_rate"),
    }
)
"""Each largest difference and its metrics: the maximum minus the minimum over groups; of two metrics the
larger one."""

_DIGITS = 4  # of what chance shows: the permutations decide no more
_RATES = ("selection_rate", "sensitivity", "false_positive_rate")


def range_table(
    problems: Sequence[GroupProblem],
    groupings: Sequence[Grouping],
    overall: Mapping[str, float],
    draws: Draws,
) -> tuple[Estimate, ...]:
    """Return the rows of every attribute and label: worst group, equity-scaled AUROC, largest differences.

    Args:
        problems: measured problems of :func:`meninx.metrics.disparity.group_problems`.
        groupings: the attributes that divide the cases.
        overall: label -> AUROC over all cases.
        draws: the resamples; their seed also draws the permutations.

    References:
        Equity-scaled AUROC: Luo et al., Nature Communications 15 (2024) 6000: A / (1 + sum |A - A_group|).
    """
    rows: list[Estimate] = []
    by_name = {item.attribute: item for item in groupings}
    for attribute in dict.fromkeys(item.attribute for item in problems):
        mine = [item for item in problems if item.attribute == attribute and not item.rest]
        for label in dict.fromkeys(item.label for item in mine):
            own = [item for item in mine if item.label == label]
            enough = [item for item in own if item.enough and item.measured is not None]
            if len(enough) < 2:
                rows.append(_row("worst_group_auroc", own[0], math.nan, note=INSUFFICIENT))
                continue
            rows += _of_label(enough, by_name[attribute], overall.get(label, math.nan), draws)
    return tuple(rows)


def _of_label(
    enough: Sequence[GroupProblem], groups: Grouping, overall: float, draws: Draws
) -> Iterator[Estimate]:
    values = [item.measured.values for item in enough if item.measured is not None]
    areas = [value["auroc"] for value in values]
    worst = enough[int(np.argmin(areas))]
    assert worst.measured is not None
    low, high = worst.measured.ends["auroc"]
    yield Estimate(
        name="worst_group_auroc",
        value=min(areas),
        low=low,
        high=high,
        n=worst.measured.n,
        patients=worst.measured.patients,
        label=worst.label,
        attribute=worst.attribute,
        group=worst.group,
        interval=worst.measured.kinds["auroc"],
    )
    yield _row("es_auroc", worst, overall / (1 + sum(abs(overall - area) for area in areas)))
    chance = _by_chance(enough, groups, draws)
    for name, metrics in RANGES.items():
        if all(metric in value for value in values for metric in metrics):
            found = max(_spread([value[metric] for value in values]) for metric in metrics)
            by_chance = np.max([_spreads(chance[metric]) for metric in metrics], axis=0)
            yield _row(name, worst, found, chance=round(float(np.quantile(by_chance, 0.95)), _DIGITS))


def _by_chance(enough: Sequence[GroupProblem], groups: Grouping, draws: Draws) -> dict[str, Array]:
    """Return each metric of each group when the groups are exchanged between patients of like truth.

    Returns:
        Metric -> values of shape (permutations, groups).
    """
    first = enough[0]
    whole = np.where(groups.index >= 0, _truth(enough), np.nan)
    present, at = np.unique(draws.patient_index, return_index=True)
    group = np.full(draws.patients, -1, dtype=np.int64)
    group[present] = groups.index[at]
    positive = np.bincount(draws.patient_index, weights=whole == 1, minlength=draws.patients) > 0
    shuffled = np.tile(group, (PERMUTATIONS, 1))
    rng = child(draws.seed, "permuted groups", first.attribute, first.label)
    for kind in (True, False):
        members = np.flatnonzero((positive == kind) & (group >= 0))
        for row in shuffled:
            row[members] = rng.permutation(group[members])
    scores = first.problem.scores
    area = Areas([Ranking.of(whole, scores)], draws.patient_index)
    calls = first.problem.calls  # of all cases, whatever the group
    counts = sum_by_patient(_counted(whole, calls), draws) if calls is not None else None
    numbers = [groups.names.index(item.group) for item in enough]
    found: dict[str, list[Array]] = {name: [] for name in ("auroc", *(_RATES if counts is not None else ()))}
    for number in numbers:
        inside = (shuffled == number).astype(np.int64)
        found["auroc"].append(area.auroc(inside)[:, 0])
        if counts is not None:
            sums = Counts(*(inside @ counts).T)
            for name in _RATES:
                found[name].append(METRICS[name](sums))
    return {name: np.stack(columns, axis=1) for name, columns in found.items()}


def _truth(enough: Sequence[GroupProblem]) -> Array:
    """Return the truth of a label over the cases of all its groups, from the problems of the groups."""
    whole = np.full(enough[0].problem.truth.shape, np.nan)
    for item in enough:
        inside = ~np.isnan(item.problem.truth)
        whole[inside] = item.problem.truth[inside]
    return whole


def _counted(truth: Array, calls: npt.NDArray[np.bool_]) -> Array:
    """Return the four counts of each case, shape (cases, 4), in the order of Counts."""
    yes, no = truth == 1, truth == 0
    return np.column_stack((yes & calls, no & calls, yes & ~calls, no & ~calls)).astype(np.float64)


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _spreads(values: Array) -> Array:
    """Return maximum minus minimum over the defined groups of each permutation, shape (permutations,)."""
    known = ~np.isnan(values)
    high = np.where(known, values, -np.inf).max(axis=1)
    low = np.where(known, values, np.inf).min(axis=1)
    return np.where(known.any(axis=1), high - low, 0.0)


def _row(
    name: str, problem: GroupProblem, value: float, *, chance: float = math.nan, note: str = ""
) -> Estimate:
    return Estimate(
        name=name,
        value=value,
        low=math.nan,
        high=math.nan,
        n=0,
        patients=0,
        label=problem.label,
        attribute=problem.attribute,
        chance=chance,
        note=note,
    )
