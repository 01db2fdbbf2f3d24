"""Attacks that infer an attribute of a patient from numbers that somebody else sees, one row per patient.

Two attacks compete, a linear and a radial one (kernel ridge regression). Which of them, and how smooth it is,
is decided on validation patients. Every patient is judged by an attack that was fitted on others. ::

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
    """What attacks say about patients that they were not fitted on.

    Attributes:
        scores: for each patient and value of the attribute, shape (patients, values). The value with the
            largest score is inferred.
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
    member: npt.ArrayLike,
    *,
    folds: int = FOLDS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> CrossFitted:
    """Return what attacks infer about each patient, fitted on the patients of the other folds.

    Members and others have the same weight, so that an attack fits both alike.

    Args:
        features: shape (patients, features).
        truth: number of each patient's value, from 0, shape (patients,).
        member: whether the patient took part in the training, shape (patients,).
        folds: at least 2.
        permutations: of the null, >= 1.
        seed: public seed of folds and permutations.

    Raises:
        DataError: shapes that do not belong together, a feature that is not finite, or one value only.
    """
    check.positive(permutations=permutations)
    values = np.asarray(features, dtype=np.float64)
    kinds, inside = np.asarray(truth, dtype=np.int64), np.asarray(member, dtype=bool)
    _refuse_odd(values, kinds, inside)
    targets = _targets(kinds, inside, permutations, seed)
    margins = np.empty_like(targets)
    means = np.empty((len(targets), targets.shape[2]))
    chosen: list[int] = []
    for fit, out in _folds(inside, folds, seed):
        learn, valid = _inner(inside, fit, seed)
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
        raise DataError(
            expected("finite features, a value and a membership per patient", got=got, where="rows")
        )
    if len(np.unique(kinds)) < 2 or kinds.min() < 0:
        raise DataError(expected("at least two values of the attribute", got="one", where="attribute"))


def _targets(kinds: Numbers, inside: Bits, permutations: int, seed: int) -> Array:
    """Return one column per value, (patients, 1 + permutations, values): the truth first, then permuted.

    Members stay among members, so that a value that is more frequent there stays so.
    """
    rng, order = child(seed, "permuted attribute"), np.arange(len(kinds))
    drawn = [kinds]
    for _ in range(permutations):
        moved = order.copy()
        for part in (inside, ~inside):
            moved[part] = rng.permutation(order[part])
        drawn.append(kinds[moved])
    return np.asarray(np.stack(drawn, axis=1)[..., None] == np.arange(kinds.max() + 1), dtype=np.float64)


def _folds(inside: Bits, folds: int, seed: int) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield (patients to fit on, patients to judge), with members in equal shares."""
    part = np.empty(len(inside), dtype=np.int64)
    for name, kind in (("members", inside), ("others", ~inside)):
        rows = np.flatnonzero(kind)
        part[child(seed, "attribute folds", name).permutation(rows)] = np.arange(len(rows)) % folds
    for number in range(folds):
        if (part == number).any():
            yield np.flatnonzero(part != number), np.flatnonzero(part == number)


def _inner(inside: Bits, fit: Numbers, seed: int) -> tuple[Numbers, Numbers]:
    """Return the patients that attacks are chosen with: to fit on, and to choose by."""
    valid = []
    for kind in (inside[fit], ~inside[fit]):
        rows = child(seed, "attribute validation", int(fit.sum())).permutation(fit[kind])
        valid.append(rows[: max(1, round(_VALIDATION_SHARE * len(rows)))])
    chosen = np.sort(np.concatenate(valid))
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
        scores: shape (patients, permutations, values).
        targets: 1 for the value of a patient, same shape.
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


def choose_values(values: Sequence[str], member: Bits, least: int) -> tuple[tuple[str, ...], Numbers]:
    """Return the values that enough members and enough others have, and the number of each patient's.

    Args:
        values: the attribute of each patient; empty where unknown.
        member: whether the patient took part.
        least: fewest members, and fewest others, with a value.

    Returns:
        The values in order, and for each patient the position of its value, -1 for any other.
    """
    texts = np.array(values, dtype=object).astype(str)
    names = tuple(
        name
        for name in sorted(set(texts.tolist()) - {""})
        if min(int((texts[member] == name).sum()), int((texts[~member] == name).sum())) >= least
    )
    position = {name: number for number, name in enumerate(names)}
    return names, np.array([position.get(text, -1) for text in texts.tolist()], dtype=np.int64)
