"""Attacks that infer an attribute of a patient from numbers that somebody else sees: rows of features.

Two attacks compete, a linear and a radial one (kernel ridge regression). Which of them, and how smooth it is,
is decided on validation patients. Every patient is judged, with all its rows, by an attack that was fitted on
others. ::

    >>> rng = np.random.default_rng(0)
    >>> truth, member = rng.integers(0, 2, 120), np.arange(120) < 60
    >>> features = rng.normal(size=(120, 8)) + 1.5 * truth[:, None]
    >>> found = cross_fitted(features, truth, member, permutations=99)
    >>> float((found.scores.argmax(axis=1) == truth).mean()) > 0.9, found.p_value
    (True, 0.01)

The null permutes the attribute and repeats everything, the choice of the attack included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.core import check
from meninx.core.errors import DataError, expected
from meninx.core.randomness import child

Array = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
FOLDS, PERMUTATIONS = 5, 199
KERNELS = ("linear", "rbf")
_SMOOTHNESS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_VALIDATION_SHARE = 0.25
_SAME = 1e-12


@dataclass(frozen=True)
class CrossFitted:
    """What attacks say about rows of patients that they were not fitted on.

    Attributes:
        scores: for each row and value of the attribute, shape (rows, values). The value with the largest
            score is inferred.
        margins: the same without what each fold takes for the mean, so that folds can be ranked together.
        area: area under the ROC curve, mean over the values.
        null: the areas with permuted attributes, shape (permutations,).
        attack: ``linear`` or ``rbf``, chosen most often.
    """

    scores: Array
    margins: Array
    area: float
    null: Array
    attack: str

    @property
    def p_value(self) -> float:
        """Probability of such a folded area or a larger one with a permuted attribute."""
        return float((1 + (folded(self.null) >= folded(self.area) - _SAME).sum()) / (1 + len(self.null)))


def folded(area: npt.ArrayLike) -> Array:
    """Return areas of at least 1/2: an attack that is always wrong tells as much as one that is right."""
    values = np.asarray(area, dtype=np.float64)
    return np.maximum(values, 1 - values)


def cross_fitted(
    features: npt.ArrayLike,
    truth: npt.ArrayLike,
    member: npt.ArrayLike | None = None,
    *,
    patients: Sequence[str] | None = None,
    folds: int = FOLDS,
    permutations: int = PERMUTATIONS,
    most_fitted: int | None = None,
    seed: int = 0,
) -> CrossFitted:
    """Return what attacks infer about each row, fitted on the patients of the other folds.

    Members and others have the same weight, so that an attack fits both alike. The null gives each patient
    the values of another one, which is exact for an attribute that all rows of a patient share.

    Args:
        features: shape (rows, features).
        truth: number of each row's value, from 0, shape (rows,).
        member: whether the row's patient took part in the training, shape (rows,); None where nobody did.
        patients: the patient of each row; None for one row per patient.
        folds: at least 2.
        permutations: of the null, >= 1.
        most_fitted: rows that an attack is fitted on, of patients drawn at random where there are more; its
            time grows with the cube. None for all.
        seed: public seed of folds and permutations.

    Raises:
        DataError: shapes that do not belong together, a feature that is not finite, one value only, or a
            patient that is a member and none.
    """
    check.positive(permutations=permutations)
    values, kinds = np.asarray(features, dtype=np.float64), np.asarray(truth, dtype=np.int64)
    inside = np.zeros(len(kinds), dtype=bool) if member is None else np.asarray(member, dtype=bool)
    _refuse_odd(values, kinds, inside)
    people = _People.of(patients, inside)
    targets = _targets(kinds, people, permutations, seed)
    margins = np.empty_like(targets)
    means = np.empty((len(targets), targets.shape[2]))
    chosen: list[int] = []
    for fit, out in _folds(people, folds, most_fitted, seed):
        learn, valid = _inner(people, fit, seed)
        judged = [_areas(guess, targets[valid]) for guess in _guesses(values, inside, targets, learn, valid)]
        best = np.argmax(np.nan_to_num(np.array(judged), nan=0.5), axis=0)
        for number, guess in enumerate(_guesses(values, inside, targets, fit, out)):
            where = np.flatnonzero(best == number)
            margins[np.ix_(out, where)] = guess[:, where]
        means[out] = _weights(inside[fit]) @ targets[fit, 0]
        chosen.append(int(best[0]))
    areas = _areas(margins, targets)
    most = np.bincount(chosen).argmax()
    return CrossFitted(
        scores=margins[:, 0] + means,
        margins=margins[:, 0],
        area=float(areas[0]),
        null=areas[1:],
        attack=KERNELS[int(most) // len(_SMOOTHNESS)],
    )


def _refuse_odd(values: Array, kinds: Numbers, inside: Bits) -> None:
    if values.ndim != 2 or not len(values) == len(kinds) == len(inside) or not np.isfinite(values).all():
        got = f"shapes {values.shape}, {kinds.shape} and {inside.shape}"
        raise DataError(expected("finite features, a value and a membership per row", got=got, where="rows"))
    if len(np.unique(kinds)) < 2 or kinds.min() < 0:
        raise DataError(expected("at least two values of the attribute", got="one", where="attribute"))


def numbered_patients(patients: Sequence[str] | None, rows: int) -> Numbers:
    """Return the number of each row's patient, from 0, shape (rows,).

    Args:
        patients: the patient of each row; None for one row per patient.
        rows: how many there are.

    Raises:
        DataError: another number of patients than of rows.
    """
    if patients is None:
        return np.arange(rows, dtype=np.int64)
    if len(patients) != rows:
        raise DataError(expected("one patient per row", got=len(patients), where=f"{rows} rows"))
    _, numbers = np.unique(np.array(patients, dtype=object).astype(str), return_inverse=True)
    return np.asarray(numbers, dtype=np.int64)


@dataclass(frozen=True)
class _People:
    """Whose the rows are.

    Attributes:
        index: number of each row's patient.
        inside: whether each patient is a member, shape (patients,).
        order: rows, those of each patient together, in the order of the patients.
        start: where in ``order`` each patient begins.
        count: rows of each patient.
    """

    index: Numbers
    inside: Bits
    order: Numbers
    start: Numbers
    count: Numbers

    @classmethod
    def of(cls, patients: Sequence[str] | None, inside: Bits) -> _People:
        """Return the patients of rows, of which members are marked.

        Raises:
            DataError: a patient is a member and none.
        """
        index = numbered_patients(patients, len(inside))
        count = np.bincount(index)
        members = np.bincount(index, weights=inside)
        if ((members > 0) & (members < count)).any():
            raise DataError(
                expected("patients that are either members or others", got="one that is both", where="member")
            )
        order = np.argsort(index, kind="stable")
        return cls(index, members > 0, order, np.cumsum(count) - count, count)

    @property
    def strata(self) -> tuple[tuple[str, Numbers], ...]:
        """Patients among members, and patients among others."""
        return ("members", np.flatnonzero(self.inside)), ("others", np.flatnonzero(~self.inside))

    def rows(self, chosen: Numbers) -> Numbers:
        """Return the rows of some patients, ascending."""
        return np.flatnonzero(np.isin(self.index, chosen))

    def exchanged(self, other: Numbers) -> Numbers:
        """Return for each row a row of the patient that takes the place of its own, in turn.

        Args:
            other: for each patient the one in its place, shape (patients,).
        """
        place = np.empty(len(self.order), dtype=np.int64)
        place[self.order] = np.arange(len(self.order)) - np.repeat(self.start, self.count)
        source = other[self.index]
        return np.asarray(self.order[self.start[source] + place % self.count[source]])


def _targets(kinds: Numbers, people: _People, permutations: int, seed: int) -> Array:
    """Return one column per value, (rows, 1 + permutations, values): the truth first, then permuted.

    Members stay among members, so that a value that is more frequent there stays so.
    """
    rng, order = child(seed, "permuted attribute"), np.arange(len(people.count))
    drawn = [kinds]
    for _ in range(permutations):
        moved = order.copy()
        for _, part in people.strata:
            moved[part] = rng.permutation(part)
        drawn.append(kinds[people.exchanged(moved)])
    return np.asarray(np.stack(drawn, axis=1)[..., None] == np.arange(kinds.max() + 1), dtype=np.float64)


def _folds(
    people: _People, folds: int, most_fitted: int | None, seed: int
) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield (rows to fit on, rows to judge), with members in equal shares."""
    part = np.empty(len(people.count), dtype=np.int64)
    for name, patients in people.strata:
        part[child(seed, "attribute folds", name).permutation(patients)] = np.arange(len(patients)) % folds
    for number in range(folds):
        if (part == number).any():
            fit = np.flatnonzero(part != number)
            if most_fitted is not None and people.count[fit].sum() > most_fitted:
                fit = child(seed, "fitted patients", number).permutation(fit)
                fit = fit[: max(2, int((np.cumsum(people.count[fit]) <= most_fitted).sum()))]
            yield people.rows(fit), people.rows(np.flatnonzero(part == number))


def _inner(people: _People, fit: Numbers, seed: int) -> tuple[Numbers, Numbers]:
    """Return the rows that attacks are chosen with: to fit on, and to choose by."""
    valid, there = [], np.unique(people.index[fit])
    for kind in (people.inside[there], ~people.inside[there]):
        patients = child(seed, "attribute validation", int(there.sum())).permutation(there[kind])
        valid.append(patients[: max(1, round(_VALIDATION_SHARE * len(patients)))])
    chosen = np.intersect1d(people.rows(np.concatenate(valid)), fit)
    return np.setdiff1d(fit, chosen), chosen


def _guesses(values: Array, inside: Bits, targets: Array, fit: Numbers, out: Numbers) -> Iterator[Array]:
    """Yield the margins of each attack, shape (out, 1 + permutations, values), in order."""
    weight = _weights(inside[fit])
    mean = values[fit].mean(axis=0)
    deviation = values[fit].std(axis=0)
    used = deviation > _SAME * np.maximum(1.0, np.abs(mean))
    scaled = [(values[rows][:, used] - mean[used]) / deviation[used] for rows in (fit, out)]
    wanted = targets[fit].reshape(len(fit), -1)
    centre = weight @ wanted
    root = np.sqrt(weight * len(fit))[:, None]
    for kernel in KERNELS:
        own, across = _kernels(kernel, *scaled)
        spectrum, vectors = np.linalg.eigh(root * own * root.T)
        turned = vectors.T @ (root * (wanted - centre))
        for smoothness in _SMOOTHNESS:
            shrunk = turned / (np.maximum(spectrum, 0.0) + smoothness * len(fit) / 10)[:, None]
            guess = across @ (root * (vectors @ shrunk))
            yield guess.reshape(len(out), *targets.shape[1:])


def _weights(inside: Bits) -> Array:
    """Return weights that add up to 1, one half of it for members."""
    weight = np.where(inside, 1 / max(1, inside.sum()), 1 / max(1, (~inside).sum()))
    return np.asarray(weight / weight.sum(), dtype=np.float64)


def _kernels(kernel: str, fit: Array, out: Array) -> tuple[Array, Array]:
    """Return the similarities of the fitted rows to each other, and of the other rows to them."""
    if not fit.shape[1]:
        return np.zeros((len(fit),) * 2), np.zeros((len(out), len(fit)))
    if kernel == "linear":
        return fit @ fit.T / fit.shape[1], out @ fit.T / fit.shape[1]
    squares = (fit**2).sum(axis=1)
    own = np.maximum(squares[:, None] + squares[None] - 2 * fit @ fit.T, 0.0)
    across = np.maximum((out**2).sum(axis=1)[:, None] + squares[None] - 2 * out @ fit.T, 0.0)
    width = max(float(np.median(own[~np.eye(len(fit), dtype=bool)])), _SAME) if len(fit) > 1 else 1.0
    return np.exp(-own / width), np.exp(-across / width)


def _areas(scores: Array, targets: Array) -> Array:
    """Return the area of each permutation, mean over the values; NaN where only one value is there.

    Args:
        scores: shape (rows, permutations, values).
        targets: 1 for the value of a row, same shape.
    """
    ranks = _ranks(scores)
    positives = targets.sum(axis=0)
    pairs = positives * (len(scores) - positives)
    won = (ranks * targets).sum(axis=0) - positives * (positives + 1) / 2
    each = np.divide(won, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)
    known = ~np.isnan(each)
    total = np.where(known, each, 0.0).sum(axis=1)
    count = known.sum(axis=1)
    return np.asarray(np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0))


def _ranks(values: Array) -> Array:
    """Return ranks from 1 along the first axis; ties share the mean of theirs."""
    order = np.argsort(values, axis=0, kind="stable")
    rising = np.take_along_axis(values, order, axis=0)
    place = np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1))
    new = np.ones(values.shape, dtype=bool)
    new[1:] = rising[1:] != rising[:-1]
    last = np.ones(values.shape, dtype=bool)
    last[:-1] = new[1:]
    begin = np.maximum.accumulate(np.where(new, place, 0), axis=0)
    end = np.minimum.accumulate(np.where(last, place, len(values))[::-1], axis=0)[::-1]
    found = np.empty(values.shape)
    np.put_along_axis(found, order, (begin + end) / 2 + 1.0, axis=0)
    return found
