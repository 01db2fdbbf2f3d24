"""How well an attribute is inferred from rows of features: share of right answers, folded area, null.

A patient may have several rows. All of them are judged by an attack that was fitted on other patients, and
intervals resample patients. ::

    >>> rng = np.random.default_rng(0)
    >>> patients = [f"p{number // 2}" for number in range(240)]
    >>> values = ["F" if coin else "M" for coin in np.repeat(rng.integers(0, 2, 120), 2)]
    >>> features = rng.normal(size=(240, 4)) + 1.5 * np.array([[value == "F"] for value in values])
    >>> found = infer_attribute(features, values, patients=patients, permutations=99)
    >>> found.accuracy > found.prior, found.auroc_low > found.null_high, found.p_value
    (True, True, 0.01)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected
from meninx.core.proportions import clopper_pearson
from meninx.metrics import attribute_attacks, groups, intervals
from meninx.metrics.attribute_attacks import FOLDS, PERMUTATIONS, cross_fitted, numbered_patients
from meninx.metrics.bootstrap import Areas, Draws
from meninx.metrics.classification import Ranking
from meninx.metrics.intervals import Ends

Array = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
LEAST_PATIENTS = groups.MIN_CELL
"""Fewest patients with a value of an attribute, among members and among others where there are members."""
_DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class AttributeInference:
    """What attacks infer about an attribute of patients that they were not fitted on.

    Attributes:
        classes: values of the attribute that enough patients have, in order.
        truth: position of each row's value in ``classes``, -1 for any other, shape (rows,).
        right: 1 or 0 for each row, NaN for a row without one of the classes, shape (rows,); empty where
            refused.
        attack: ``linear`` or ``rbf``, chosen most often; empty where refused.
        rows: rows with one of the classes.
        patients: patients behind them.
        prior: share of the most frequent class.
        accuracy: share of right answers.
        accuracy_low: lower end of its 95 % interval over patients.
        accuracy_high: upper end.
        auroc: area under the ROC curve, mean over the classes, at least 1/2: an attack that is always wrong
            tells as much as one that is right.
        auroc_low: lower end of its 95 % interval, patients resampled.
        auroc_high: upper end.
        null_high: 95 % quantile of the folded area with permuted values.
        p_value: probability of such a folded area or a larger one with permuted values.
        refusal: why there is no number; else empty. It names no value.
    """

    classes: tuple[str, ...]
    truth: Numbers
    right: Array
    attack: str = ""
    rows: int = 0
    patients: int = 0
    prior: float = float("nan")
    accuracy: float = float("nan")
    accuracy_low: float = float("nan")
    accuracy_high: float = float("nan")
    auroc: float = float("nan")
    auroc_low: float = float("nan")
    auroc_high: float = float("nan")
    null_high: float = float("nan")
    p_value: float = float("nan")
    refusal: str = ""


def infer_attribute(
    features: npt.ArrayLike,
    values: Sequence[str],
    *,
    patients: Sequence[str] | None = None,
    member: npt.ArrayLike | None = None,
    folds: int = FOLDS,
    permutations: int = PERMUTATIONS,
    most_fitted: int | None = None,
    seed: int = 0,
) -> AttributeInference:
    """Return what attacks on one attribute reach, or the reason why there is no number.

    Args:
        features: what the attacker sees, shape (rows, features).
        values: the attribute of each row; empty where unknown.
        patients: the patient of each row; None for one row per patient.
        member: whether the row's patient took part in a training, shape (rows,). Members and others then have
            the same weight, and enough of both must have a value. None where nobody took part.
        folds: each patient is judged by attacks fitted on the other folds.
        permutations: of the null.
        most_fitted: rows that an attack is fitted on, of patients drawn at random; None for all.
        seed: public seed.

    Raises:
        DataError: shapes that do not belong together, or a feature that is not finite.
    """
    people = numbered_patients(patients, len(values))
    inside = None if member is None else np.asarray(member, dtype=bool)
    names, numbers = choose_values(values, inside, LEAST_PATIENTS, patients=patients)
    if len(names) < 2:
        refusal = _refusal(values, inside, people)
        return AttributeInference(classes=names, truth=numbers, right=np.zeros(0), refusal=refusal)
    table = np.asarray(features, dtype=np.float64)
    if table.ndim != 2 or len(table) != len(numbers):
        raise DataError(
            expected(f"{len(numbers)} rows of features", got=f"shape {table.shape}", where="rows")
        )
    rows = np.flatnonzero(numbers >= 0)
    truth, chosen = numbers[rows], None if patients is None else [patients[row] for row in rows.tolist()]
    whose = numbered_patients(chosen, len(rows))
    found = cross_fitted(
        table[rows],
        truth,
        None if inside is None else inside[rows],
        patients=chosen,
        folds=folds,
        permutations=permutations,
        most_fitted=most_fitted,
        seed=seed,
    )
    right = np.asarray(found.scores.argmax(axis=1) == truth, dtype=np.float64)
    everywhere = np.full(len(numbers), np.nan)
    everywhere[rows] = right
    low, high = _share_interval(right, whose)
    area, (area_low, area_high) = folded_auroc(found.margins, truth, whose, seed=seed)
    return AttributeInference(
        classes=names,
        truth=numbers,
        right=everywhere,
        attack=found.attack,
        rows=len(rows),
        patients=int(whose.max()) + 1,
        prior=float(np.bincount(truth).max() / len(truth)),
        accuracy=float(right.mean()),
        accuracy_low=low,
        accuracy_high=high,
        auroc=area,
        auroc_low=area_low,
        auroc_high=area_high,
        null_high=float(np.quantile(attribute_attacks.folded(found.null), 0.95)),
        p_value=found.p_value,
    )


def folded_auroc(
    scores: npt.ArrayLike, truth: npt.ArrayLike, patients: npt.ArrayLike | None = None, *, seed: int = 0
) -> tuple[float, Ends]:
    """Return the folded area under the ROC curve, mean over the classes, and its 95 % interval.

    Below 1/2 the ranking is turned around before patients are resampled, so that the interval belongs to one
    direction and may reach below 1/2.

    Args:
        scores: of any attacker, shape (rows, classes), larger for the class of a row.
        truth: class of each row, from 0; every class occurs, shape (rows,).
        patients: number of each row's patient, from 0, shape (rows,); None for one row per patient.
        seed: public seed of the resamples.

    Raises:
        DataError: shapes that do not belong together, or a class without a row.
    """
    values, kinds = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=np.int64)
    places = np.arange(len(kinds), dtype=np.int64) if patients is None else np.asarray(patients, np.int64)
    if values.ndim != 2 or not len(values) == len(kinds) == len(places):
        got = f"shapes {values.shape}, {kinds.shape} and {places.shape}"
        raise DataError(expected("scores, a class and a patient per row", got=got, where="scores"))
    holders = [len(np.unique(places[kinds == number])) for number in range(values.shape[1])]
    if min(holders, default=0) == 0 or values.shape[1] < 2:
        raise DataError(expected("rows of two classes or more", got="one without a row", where="truth"))
    rankings = [Ranking.of(kinds == number, values[:, number]) for number in range(values.shape[1])]
    areas, draws = Areas(rankings, places), Draws(places, count=_DRAWS, seed=seed)
    value = float(areas.auroc(np.ones((1, draws.patients), dtype=np.int64)).mean())
    samples = np.concatenate([areas.auroc(block).mean(axis=1) for block in draws.blocks()])
    if value < 0.5:
        value, samples = 1 - value, 1 - samples
    (low, high), _ = intervals.edge_interval(value, samples, min(holders))
    return value, (min(low, value), max(high, value))


def choose_values(
    values: Sequence[str], member: Bits | None, least: int, *, patients: Sequence[str] | None = None
) -> tuple[tuple[str, ...], Numbers]:
    """Return the values that enough patients have, and the number of each row's.

    Args:
        values: the attribute of each row; empty where unknown.
        member: whether the row's patient took part; None where nobody did.
        least: fewest patients with a value, among members and among others where there are members.
        patients: the patient of each row; None for one row per patient.

    Returns:
        The values in order, and for each row the position of its value, -1 for any other.
    """
    texts = np.array(values, dtype=object).astype(str)
    counts = _holders(texts, member, numbered_patients(patients, len(values)))
    names = tuple(name for name, count in counts.items() if count >= least)
    position = {name: number for number, name in enumerate(names)}
    return names, np.array([position.get(text, -1) for text in texts.tolist()], dtype=np.int64)


def _holders(texts: npt.NDArray[np.str_], member: Bits | None, people: Numbers) -> dict[str, int]:
    """Return how many patients have each value: the smaller number of members and of others, if there are."""
    parts = [np.ones(len(texts), dtype=bool)] if member is None else [member, ~member]
    return {
        name: min(len(np.unique(people[part & (texts == name)])) for part in parts)
        for name in sorted(set(texts.tolist()) - {""})
    }


def _refusal(values: Sequence[str], member: Bits | None, people: Numbers) -> str:
    """Return why an attribute has no number, without a value of it."""
    counts = _holders(np.array(values, dtype=object).astype(str), member, people)
    if len(counts) < 2:
        return "the attribute has fewer than two values"
    second = sorted(counts.values(), reverse=True)[1]
    if member is None:
        return f"too few patients with a second value: {LEAST_PATIENTS} needed, {second} there"
    return (
        "too few patients with a second value among members and among others: "
        f"{LEAST_PATIENTS} needed of each, {second} there"
    )


def _share_interval(right: Array, people: Numbers) -> Ends:
    """Return the interval of a share over patients; exact where each has one row."""
    of = np.bincount(people).astype(np.float64)
    if of.max() == 1:
        return clopper_pearson(float(right.sum()), len(right))
    return intervals.rate_interval(np.asarray(np.bincount(people, weights=right), np.float64), of)
