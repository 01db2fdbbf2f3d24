"""Patient-cluster bootstrap: patients are drawn with replacement, each with all its cases.

Cases of one patient are alike, so resampling cases instead would give intervals that are too narrow. One
:class:`Draws` serves every metric, label, group and model, so that their differences are paired draw by draw.

References:
    Field and Welsh, Journal of the Royal Statistical Society B 69 (2007) 369-390 (bootstrapping clusters).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from meninx.core.randomness import child
from meninx.metrics import intervals
from meninx.metrics.classification import METRICS, SHARES, Counts, Ranking, Weights, mean_defined, ratio
from meninx.metrics.groups import patients_of
from meninx.metrics.intervals import CLOPPER_PEARSON, COMBINED, PERCENTILE, Ends

Array = npt.NDArray[np.float64]
BLOCK = 100
_KEPT = 1 << 20  # counts of patients that are kept for the next metric: 8 MB
_CACHED = 1 << 16  # weights processed at a time: half a megabyte, which fits into the processor's cache


@dataclass(frozen=True)
class Draws:
    """The resamples: how often each patient is drawn in each of them.

    The draws are computed on demand and are always the same.

    Example::

        >>> draws = Draws(np.array([0, 0, 1, 2]), count=2, seed=0)
        >>> [block.sum(axis=1).tolist() for block in draws.blocks()]  # three patients per resample
        [[3, 3]]

    Attributes:
        patient_index: shape (cases,), the patient of each case, numbered from 0.
        count: number of resamples.
        seed: public seed; the draws depend only on it, the number of patients and the strata.
        strata: shape (patients,), stratum of each patient; each stratum keeps its size in every draw. None:
            one stratum.
    """

    patient_index: npt.NDArray[np.int64]
    count: int = 1000
    seed: int = 0
    strata: npt.NDArray[np.int64] | None = None

    @property
    def patients(self) -> int:
        """Number of patients."""
        return int(self.patient_index.max()) + 1 if self.patient_index.size else 0

    def blocks(self, size: int = BLOCK) -> Iterator[npt.NDArray[np.int64]]:
        """Yield how often each patient was drawn, in blocks of shape (at most ``size``, patients)."""
        few = size == BLOCK and self.count * self.patients <= _KEPT
        yield from self._kept if few else self._drawn(size)

    @cached_property
    def _kept(self) -> tuple[npt.NDArray[np.int64], ...]:
        """All blocks of few patients, drawn once for all metrics that share this object; read-only."""
        blocks = tuple(self._drawn(BLOCK))
        for block in blocks:
            block.setflags(write=False)
        return blocks

    def _drawn(self, size: int) -> Iterator[npt.NDArray[np.int64]]:
        rng = child(self.seed, "bootstrap")
        strata = np.zeros(self.patients, dtype=np.int64) if self.strata is None else self.strata
        members = [np.flatnonzero(strata == value) for value in np.unique(strata)]
        for start in range(0, self.count, size):
            rows = min(size, self.count - start)
            block = np.zeros((rows, self.patients), dtype=np.int64)
            if len(members) == 1:  # one call gives the same numbers as one call for each row
                people = members[0].size
                drawn = rng.integers(0, people, size=(rows, people)) + people * np.arange(rows)[:, None]
                block[:] = np.bincount(drawn.ravel(), minlength=block.size).reshape(block.shape)
            else:
                for row in block:
                    for group in members:
                        drawn = rng.integers(0, group.size, size=group.size)
                        row[group] = np.bincount(drawn, minlength=group.size)
            yield block


class Areas:
    """The curve metrics of several rankings of the same cases, for any draws of patients.

    Sorting and searching are done once, at construction; a draw then costs one cumulative sum over the
    negatives of each ranking.
    """

    def __init__(self, rankings: Sequence[Ranking], patient_index: npt.NDArray[np.int64]) -> None:
        self._rankings = [
            (item, patient_index.take(item.positives), patient_index.take(item.negatives))
            for item in rankings
        ]

    def auroc(self, drawn: npt.NDArray[np.int64]) -> Array:
        """Return the area of each ranking for counts ``drawn`` (draws, patients), shape (draws, rankings)."""
        return self._each(Ranking.auroc, drawn)

    def average_precision(self, drawn: npt.NDArray[np.int64]) -> Array:
        """Return the average precision of each ranking for ``drawn`` (draws, patients), as :meth:`auroc`."""
        return self._each(Ranking.average_precision, drawn)

    def _each(
        self, metric: Callable[[Ranking, Weights, Weights], Array], drawn: npt.NDArray[np.int64]
    ) -> Array:
        values = np.empty((len(drawn), len(self._rankings)))
        for column, (item, high, low) in enumerate(self._rankings):
            rows = max(1, _CACHED // max(1, high.size + low.size))
            for start in range(0, len(drawn), rows):
                part = drawn[start : start + rows]
                values[start : start + rows, column] = metric(
                    item, part.take(high, axis=1), part.take(low, axis=1)
                )
        return values


def resampled_sums(columns: npt.ArrayLike, draws: Draws) -> Array:
    """Return the weighted sum of every column in every draw, shape (draws, columns).

    Args:
        columns: shape (cases, columns), e.g. indicators of the four confusion counts; every metric that is a
            function of sums over cases follows from the result.
        draws: the resamples.
    """
    by_patient = sum_by_patient(np.asarray(columns, dtype=np.float64), draws)
    return np.concatenate([block.astype(np.float64) @ by_patient for block in draws.blocks()])


def sum_by_patient(columns: Array, draws: Draws) -> Array:
    """Return each column summed over each patient's cases, shape (patients, columns)."""
    totals = np.zeros((draws.patients, columns.shape[1]))
    for number, column in enumerate(columns.T):
        totals[:, number] = np.bincount(draws.patient_index, weights=column, minlength=draws.patients)
    return totals


def p_value(value: float, samples: npt.ArrayLike) -> float:
    """Return the two-sided p-value of "the difference is 0", by a normal approximation.

    Args:
        value: the difference on the data.
        samples: the difference in each draw, whose standard deviation is the standard error.
    """
    known = np.asarray(samples, dtype=np.float64)
    known = known[~np.isnan(known)]
    if math.isnan(value) or known.size < 2:
        return float("nan")
    error = float(known.std(ddof=1))
    if error == 0:
        return 1.0 if value == 0 else 0.0
    return math.erfc(abs(value) / error / math.sqrt(2))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values adjusted for all the tests of one table; undefined ones (NaN) do not count as tests.

    References:
        S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    adjusted = [float("nan")] * len(p_values)
    known = sorted((value, index) for index, value in enumerate(p_values) if not math.isnan(value))
    largest = 0.0
    for rank, (value, index) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        adjusted[index] = largest
    return tuple(adjusted)


Calls = Array | None
CURVES = ("auroc", "average_precision")
_COLUMNS = 6
_CHUNK = 64


@dataclass(frozen=True)
class BinaryProblem:
    """One two-class problem on some of the cases.

    Attributes:
        truth: shape (cases,), 1, 0, or NaN for a case that is unknown or outside the problem.
        scores: shape (cases,).
        calls: shape (cases,), the decisions; None without a threshold.
        metrics: names to compute: :data:`CURVES`, ``brier``, and those of
            :data:`meninx.metrics.classification.METRICS`.
    """

    truth: Array
    scores: Array
    calls: npt.NDArray[np.bool_] | None
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """The metrics of a problem.

    Attributes:
        values: each metric on the data itself.
        samples: each metric in every draw, shape (draws,).
        ends: the 95 % interval of each metric.
        kinds: the method of each metric's interval.
        n: number of cases with known truth.
        patients: number of their patients.
        positives: number of positive cases among them.
        smaller: number of patients with a positive case, or with a negative one if these are fewer.
        margin: of a difference of two models: the largest that counts as none; NaN for the metrics of one.
    """

    values: dict[str, float]
    samples: dict[str, Array]
    ends: dict[str, Ends]
    kinds: dict[str, str]
    n: int
    patients: int
    positives: int
    smaller: int
    margin: float = math.nan

    @property
    def scored(self) -> set[str]:
        """Rates, whose intervals do not come from the draws."""
        return {name for name, kind in self.kinds.items() if kind == CLOPPER_PEARSON and name in SHARES}


def decisions(calls: Calls, label: int) -> npt.NDArray[np.bool_] | None:
    """Return the decisions on one label, shape (cases,); None for a label without a threshold.

    Args:
        calls: shape (cases, labels), 1, 0, or NaN in the column of a label without threshold; None without
            any.
        label: column.
    """
    if calls is None or np.isnan(calls[:, label]).any():
        return None
    return np.asarray(calls[:, label] == 1)


def mean_ends(items: Sequence[Measured], metric: str) -> Ends:
    """Return the interval of a metric's mean over several problems, on the same draws.

    If the interval of a problem is wider than the percentiles of its draws, the interval of the mean is
    widened by the mean of these differences. An interval that would claim that two models differ by less than
    the margin is that of :func:`meninx.metrics.intervals.guarded_interval`.
    """
    if len(items) == 1:
        return items[0].ends[metric]
    if items and not math.isnan(items[0].margin):
        drawn, lower, upper = guarded_draws(items, metric)
        return intervals.guarded_interval(drawn, lower, upper, items[0].margin)[0]
    samples = np.array([item.samples[metric] for item in items])
    low, high = intervals.percentile_interval(mean_defined(samples.T))
    ends = np.array([item.ends[metric] for item in items])
    if math.isnan(low) and not np.isnan(ends).all():  # undefined in too many draws
        low, high = (float(end) for end in ends[~np.isnan(ends).any(axis=1)].mean(axis=0))
        return low, high
    lacking = ends - np.array([intervals.percentile_interval(row) for row in samples])
    known = lacking[~np.isnan(lacking).any(axis=1)]
    if not len(known):
        return low, high
    below, above = known.mean(axis=0)
    lowest = -1.0 if metric == "mcc" else 0.0
    return max(min(lowest, low), low + min(0.0, below)), min(max(1.0, high), high + max(0.0, above))


def guarded_draws(
    items: Sequence[Measured], metric: str, *, other: bool = False
) -> tuple[Array, Array, Array]:
    """Return the draws of a metric's mean over problems, and those with an unseen patient, worst and best.

    Args:
        items: problems of the same patients. The unseen patient is in all of them.
        metric: an area (0 to 1), or the difference of two (-1 to 1).
        other: take other weights of the unseen patient, for the second of two groups.
    """
    least = 0.0 if math.isnan(items[0].margin) else -1.0
    tables = [[item.samples[metric] for item in items]]
    for worst in (least, 1.0):
        unseen = intervals.with_unseen_patient
        tables.append([unseen(item.samples[metric], item.smaller, worst, other=other) for item in items])
    drawn, lower, upper = (mean_defined(np.transpose(table)) for table in tables)
    return drawn, lower, upper


def mean_kind(items: Sequence[Measured], metric: str) -> str:
    """Return the method of the interval from :func:`mean_ends`."""
    kinds = {item.kinds[metric] for item in items}
    if items and not math.isnan(items[0].margin):
        return intervals.guarded_interval(*guarded_draws(items, metric), items[0].margin)[1]
    if len(items) == 1 or kinds == {PERCENTILE}:
        return kinds.pop()
    return COMBINED if items else ""


def measure(problems: Sequence[BinaryProblem], draws: Draws) -> list[Measured]:
    """Return each problem's metrics with their draws, in order; the draws are the same for all problems.

    Args:
        problems: arrays of one length, the number of cases of ``draws``.
        draws: the resamples of patients.
    """
    measured: list[Measured] = []
    for start in range(0, len(problems), _CHUNK):
        measured += _measure(problems[start : start + _CHUNK], draws)
    return measured


def _measure(problems: Sequence[BinaryProblem], draws: Draws) -> list[Measured]:
    rankings = [Ranking.of(problem.truth, problem.scores) for problem in problems]
    areas = {
        name: [index for index, problem in enumerate(problems) if name in problem.metrics] for name in CURVES
    }
    curves = {name: Areas([rankings[index] for index in areas[name]], draws.patient_index) for name in CURVES}
    by_patient = [sum_by_patient(_columns(problem), draws) for problem in problems]
    columns = np.concatenate(by_patient, axis=1)
    once = np.ones((1, draws.patients), dtype=np.int64)
    blocks = [once, *draws.blocks()]
    sums = np.concatenate([block.astype(np.float64) @ columns for block in blocks])
    drawn: dict[str, list[Array]] = {name: [] for name in CURVES}
    for block in blocks:
        drawn["auroc"].append(curves["auroc"].auroc(block))
        drawn["average_precision"].append(curves["average_precision"].average_precision(block))
    of_curves = {name: np.concatenate(drawn[name]) for name in CURVES}
    result = []
    for index, problem in enumerate(problems):
        table = _rates(problem, sums[:, _COLUMNS * index : _COLUMNS * (index + 1)])
        for name in CURVES:
            if index in areas[name]:
                table[name] = of_curves[name][:, areas[name].index(index)]
        result.append(_measured(problem, table, by_patient[index], draws))
    return result


def _columns(problem: BinaryProblem) -> Array:
    """Return tp, fp, fn, tn, squared error and 1 for each known case, shape (cases, 6), zeros elsewhere."""
    known, yes, no = ~np.isnan(problem.truth), problem.truth == 1, problem.truth == 0
    calls = np.zeros(problem.truth.size, dtype=bool) if problem.calls is None else problem.calls
    error = np.where(known, (problem.scores - np.where(known, problem.truth, 0)) ** 2, 0.0)
    return np.column_stack((yes & calls, no & calls, yes & ~calls, no & ~calls, error, known)).astype(
        np.float64
    )


def _rates(problem: BinaryProblem, sums: Array) -> dict[str, Array]:
    counts = Counts(sums[:, 0], sums[:, 1], sums[:, 2], sums[:, 3])
    table = {
        name: METRICS[name](counts)
        for name in problem.metrics
        if name in METRICS and problem.calls is not None
    }
    if "brier" in problem.metrics:
        table["brier"] = ratio(sums[:, 4], sums[:, 5])
    return table


def _measured(problem: BinaryProblem, table: dict[str, Array], by_patient: Array, draws: Draws) -> Measured:
    """Return a problem's metrics.

    Args:
        problem: the question.
        table: each metric on the data and in every draw, shape (1 + draws,).
        by_patient: the columns of :func:`_columns` summed over each patient, shape (patients, 6).
        draws: the resamples.
    """
    known = ~np.isnan(problem.truth)
    names = [name for name in problem.metrics if name in table]
    positive, negative = patients_of(problem.truth, draws.patient_index)
    patients = int(np.unique(draws.patient_index[known]).size)
    counts = Counts(*by_patient[:, :4].T)
    ends: dict[str, Ends] = {}
    kinds: dict[str, str] = {}
    for name in names:
        value, samples = float(table[name][0]), table[name][1:]
        if name in SHARES:
            ends[name], kinds[name] = intervals.rate_interval(*counts.share(name)), CLOPPER_PEARSON
        else:
            ends[name], kinds[name] = intervals.edge_interval(
                value,
                samples,
                patients if name == "brier" else min(positive, negative),
                least=-1.0 if name == "mcc" else 0.0,
            )
    halves = {"sensitivity", "specificity"}
    if "balanced_accuracy" in names and halves <= ends.keys():
        ends["balanced_accuracy"], kinds["balanced_accuracy"] = _balanced(table, ends), COMBINED
    return Measured(
        values={name: float(table[name][0]) for name in names},
        samples={name: table[name][1:] for name in names},
        ends=ends,
        kinds=kinds,
        n=int(known.sum()),
        patients=patients,
        positives=int((problem.truth == 1).sum()),
        smaller=min(positive, negative),
    )


def _balanced(table: dict[str, Array], ends: dict[str, Ends]) -> Ends:
    """Return the interval of balanced accuracy from those of sensitivity and specificity.

    The two are computed from different cases, so their intervals can be combined as independent ones.
    """
    two = (float(table["sensitivity"][0]), float(table["specificity"][0]))
    low, high = intervals.combined_interval(two, ends["sensitivity"], ends["specificity"], signs=(1, 1))
    return max(0.0, low / 2), min(1.0, high / 2)
