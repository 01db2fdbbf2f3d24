"""Metrics within groups, and the signed gap between each group and all other cases, on paired resamples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.metrics.bootstrap import (
    BinaryProblem,
    Calls,
    Measured,
    decisions,
    guarded_draws,
    holm,
    mean_ends,
    mean_kind,
    p_value,
)
from meninx.metrics.classification import mean_defined
from meninx.metrics.estimates import Estimate
from meninx.metrics.groups import GAPS, INSUFFICIENT, MIN_CELL, Grouping, sufficient
from meninx.metrics.intervals import (
    COMBINED,
    PERCENTILE,
    Ends,
    combined_interval,
    guarded_interval,
    p_of_interval,
)

Array = npt.NDArray[np.float64]
CLOSE = 0.05
"""The largest gap of one model that counts as none by default; see ``--gap-limit`` of the report."""

GROUP_METRICS = ("auroc", "sensitivity", "specificity", "false_positive_rate", "selection_rate", "accuracy")


@dataclass(frozen=True)
class GroupProblem:
    """The problem of one label in one group, or in all other groups (``rest``).

    Attributes:
        attribute: the attribute that divides the cases.
        group: the group's name.
        label: the label's name.
        rest: True if the problem consists of the other groups' cases.
        enough: whether it has the required numbers of positive and of negative patients.
        problem: the two-class problem.
        measured: its metrics; None before they are measured.
    """

    attribute: str
    group: str
    label: str
    rest: bool
    enough: bool
    problem: BinaryProblem
    measured: Measured | None = None

    @classmethod
    def of(cls, bare: GroupProblem, measured: Measured) -> GroupProblem:
        """Return ``bare`` with its metrics."""
        return dataclasses.replace(bare, measured=measured)


def group_problems(
    truth: Array,
    scores: Array,
    calls: Calls,
    focus: Sequence[int],
    labels: Sequence[str],
    groupings: Sequence[Grouping],
    patient_index: npt.NDArray[np.int64],
) -> list[GroupProblem]:
    """Return two problems per label and group of each attribute: the group, and the rest.

    Problems with too few patients have no metrics. An attribute with a single group has no gap and is left
    out.
    """
    found = []
    for item in groupings:
        present = [group for group in range(len(item.names)) if item.rows(group).any()]
        for group in present if len(present) > 1 else ():
            for label in focus:
                for rest, rows in ((False, item.rows(group)), (True, item.rest(group))):
                    inside = np.where(rows, truth[:, label], np.nan)
                    enough = sufficient(inside, patient_index)
                    problem = BinaryProblem(
                        inside, scores[:, label], decisions(calls, label), GROUP_METRICS if enough else ()
                    )
                    found.append(
                        GroupProblem(item.attribute, item.names[group], labels[label], rest, enough, problem)
                    )
    return found


def group_tables(
    problems: Sequence[GroupProblem], further: Sequence[tuple[Estimate, float]] = ()
) -> tuple[tuple[Estimate, ...], tuple[Estimate, ...]]:
    """Return (metrics within groups, signed gaps of each group to the rest) of measured problems.

    With several labels, the mean AUROC over the labels with enough patients comes first, with a note of their
    number. For an attribute with two groups only the first group's gap is given, because the other gap is its
    negative. Holm's adjustment covers all gaps of the table.

    A group of fewer than :data:`MIN_CELL` patients gets no size either. If one group of a label is
    insufficient, the positive cases of its other groups are left out as well, because their difference to all
    positive cases would be those of the small group.

    Args:
        problems: measured problems.
        further: rows that belong to the table of gaps, each with the p-value of "no gap".
    """
    small = {(item.attribute, item.label) for item in problems if not (item.enough or item.rest)}
    groups: list[Estimate] = []
    gaps: list[tuple[Estimate, float]] = []
    for attribute in dict.fromkeys(problem.attribute for problem in problems):
        members = list(dict.fromkeys(problem.group for problem in problems if problem.attribute == attribute))
        for group in members:
            mine = [
                problem for problem in problems if (problem.attribute, problem.group) == (attribute, group)
            ]
            inside, outside = [c for c in mine if not c.rest], [c for c in mine if c.rest]
            groups += _group_rows(inside)
            if len(members) > 2 or group == members[0]:
                gaps += _gap_rows(inside, outside)
    gaps += further
    adjusted = holm([p for _, p in gaps])
    return tuple(_closed(row, small) for row in groups), tuple(
        _closed(dataclasses.replace(gap, p_holm=p), small) for (gap, _), p in zip(gaps, adjusted, strict=True)
    )


def _closed(row: Estimate, small: set[tuple[str, str]]) -> Estimate:
    """Return a row without the counts from which the size of a small group would follow."""
    if row.patients < MIN_CELL:
        return dataclasses.replace(row, n=0, patients=0, positives=None)
    return dataclasses.replace(row, positives=None) if (row.attribute, row.label) in small else row


def _group_rows(inside: Sequence[GroupProblem]) -> Iterator[Estimate]:
    enough = [problem for problem in inside if problem.enough]
    if len(inside) > 1:
        value, ends = _mean(enough, "auroc")
        kind = mean_kind(_measured(enough), "auroc")
        note = _over(enough, inside)
        yield _row("auroc", "", inside[0], value, ends, kind, _sizes(enough or inside), note)
    for problem in inside:
        for metric in GROUP_METRICS if problem.enough else ("auroc",):
            if not problem.enough or (problem.measured is not None and metric in problem.measured.values):
                shown = [problem] if problem.enough else []
                value, ends = _mean(shown, metric)
                kind = mean_kind(_measured(shown), metric)
                yield _row(metric, problem.label, problem, value, ends, kind, _sizes([problem]))


def _gap_rows(
    inside: Sequence[GroupProblem], outside: Sequence[GroupProblem]
) -> Iterator[tuple[Estimate, float]]:
    pairs = [(mine, rest) for mine, rest in zip(inside, outside, strict=True)]
    enough = [(mine, rest) for mine, rest in pairs if mine.enough and rest.enough]
    if len(pairs) > 1:
        yield _gap("auroc_gap", "", pairs, enough)
    for pair in pairs:
        for name, metric in GAPS.items():
            if pair not in enough:
                if name == "auroc_gap":
                    yield _gap(name, pair[0].label, [pair], [])
            elif pair[0].measured is not None and metric in pair[0].measured.values:
                yield _gap(name, pair[0].label, [pair], [pair])


def _gap(
    name: str,
    label: str,
    pairs: Sequence[tuple[GroupProblem, GroupProblem]],
    enough: Sequence[tuple[GroupProblem, GroupProblem]],
) -> tuple[Estimate, float]:
    note = "" if label else _over(enough, pairs)
    inside, outside = [mine for mine, _ in enough], [rest for _, rest in enough]
    value, (ends, kind), p = _difference(GAPS[name], inside, outside)
    sizes = _sizes([mine for mine, _ in enough or pairs])
    return _row(name, label, pairs[0][0], value, ends, kind, sizes, note), p


def _difference(
    metric: str, inside: Sequence[GroupProblem], outside: Sequence[GroupProblem]
) -> tuple[float, tuple[Ends, str], float]:
    """Return the mean difference of group and rest, its interval and method, and the p-value of "no gap".

    For rates the two intervals are combined, because the groups have no case in common. Other metrics use the
    paired draws, and an interval that would claim a small gap also counts on a patient who was not seen.
    """
    mine, rest = _measured(inside), _measured(outside)
    value, other = _mean(inside, metric), _mean(outside, metric)
    gap = value[0] - other[0]
    if _of_rates(metric, inside, outside):
        ends = combined_interval((value[0], other[0]), value[1], other[1], signs=(1, -1))
        return gap, ((max(-1.0, ends[0]), min(1.0, ends[1])), COMBINED), p_of_interval(gap, ends)
    if not mine or not rest:
        return gap, ((math.nan, math.nan), PERCENTILE), math.nan
    drawn, lower, upper = guarded_draws(mine, metric)
    others, lower_others, upper_others = guarded_draws(rest, metric, other=True)
    margin = CLOSE if math.isnan(mine[0].margin) else mine[0].margin
    found = guarded_interval(drawn - others, lower - upper_others, upper - lower_others, margin)
    return gap, found, p_value(gap, drawn - others)


def _of_rates(metric: str, inside: Sequence[GroupProblem], outside: Sequence[GroupProblem]) -> bool:
    """Return whether a difference is one of rates, whose intervals come from counts."""
    return any(metric in item.scored for item in (*_measured(inside), *_measured(outside)))


def _measured(problems: Sequence[GroupProblem]) -> list[Measured]:
    return [problem.measured for problem in problems if problem.measured is not None]


def _mean(problems: Sequence[GroupProblem], metric: str) -> tuple[float, Ends]:
    """Return the mean of a metric over problems and its interval; NaN without a problem."""
    measured = _measured(problems)
    if not measured:
        return float("nan"), (float("nan"), float("nan"))
    return float(mean_defined([item.values[metric] for item in measured])), mean_ends(measured, metric)


def _sizes(problems: Sequence[GroupProblem]) -> tuple[int, int, int]:
    measured = _measured(problems)
    return (
        max((item.n for item in measured), default=0),
        max((item.patients for item in measured), default=0),
        sum(item.positives for item in measured),
    )


def _over(enough: Sequence[object], every: Sequence[object]) -> str:
    return f"mean over {len(enough)} of {len(every)} labels"


def _row(
    name: str,
    label: str,
    problem: GroupProblem,
    value: float,
    ends: Ends,
    kind: str,
    sizes: tuple[int, int, int],
    note: str = "",
) -> Estimate:
    n, patients, positives = sizes
    return Estimate(
        name=name,
        value=value,
        low=ends[0],
        high=ends[1],
        n=n,
        patients=patients,
        label=label,
        attribute=problem.attribute,
        group=problem.group,
        positives=positives if label and not np.isnan(value) else None,
        note=INSUFFICIENT if np.isnan(value) else note,
        interval="" if np.isnan(value) else kind,
    )
