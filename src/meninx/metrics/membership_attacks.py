"""Membership attacks on arrays: how much more likely a case is under a model than under models without it.

A *signal* is the log-likelihood that a model assigns to the true label of a case. Reference models, trained
on random halves of the same patients, provide the signals of a case with and without it in the training::

    >>> import numpy as np
    >>> included = np.array([[True, False, True, False], [False, True, False, True]])
    >>> references = np.where(included, -0.1, -1.0)
    >>> signals = Signals(target=np.array([-0.1, -0.1, -1.0, -1.0]), references=references, included=included)
    >>> [round(float(score), 2) for score in rmia_scores(signals)]
    [0.35, 0.35, -0.55, -0.55]

A higher score indicates a member. :func:`patient_scores` turns scores of cases into scores of patients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.core.errors import ConfigError, DataError, expected, problem

Array = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]

OFFLINE_SLOPE = 0.3
"""Slope of the mean likelihood of models with a case over that without; ``a`` of Zarifzadeh et al. (2024)."""
OWN_VARIANCE_FROM = 32
"""Smallest number of models of a kind with which LiRA estimates a variance per case, not one for all."""
LEAST_SIGNAL = -700.0
"""Lower bound of log-likelihoods, so that likelihoods stay positive in float64."""
_CLOSEST = 1e-12  # of a likelihood to 1
_LEAST_VARIANCE = 1e-6


@dataclass(frozen=True)
class Signals:
    """The signals of the audited model and of reference models.

    Attributes:
        target: log-likelihoods of the audited model, at most 0, shape (cases,).
        references: those of the reference models, shape (models, cases).
        included: whether a reference model was trained on the case, shape (models, cases).

    Raises:
        DataError: shapes that do not belong together, a signal that is NaN, infinite or above 0, or a case
            that every reference model was trained on.
    """

    target: Array
    references: Array
    included: Bits

    def __post_init__(self) -> None:
        target, references = _signals(self.target, 1, "target"), _signals(self.references, 2, "references")
        bits = np.asarray(self.included)
        if bits.dtype != np.bool_ or bits.shape != references.shape or references.shape[1:] != target.shape:
            rule = "included, references and target of one number of cases"
            got = f"shapes {bits.shape}, {references.shape} and {target.shape}"
            raise DataError(expected(rule, got=got, where="signals"))
        if not len(references) or not target.size:
            raise DataError(problem("there is no reference model, or no case", where="signals"))
        if bits.all(axis=0).any():
            fix = "train reference models on halves of the patients and their complements"
            what = "some cases were in the training of every reference model"
            raise DataError(problem(what, where="included", fix=fix))
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "references", references)
        object.__setattr__(self, "included", bits)

    @property
    def online(self) -> bool:
        """Whether each case was in the training of at least one reference model."""
        return bool(self.included.any(axis=0).all())


def loss_scores(signals: Signals) -> Array:
    """Return the score of the attack without reference models: the log-likelihood itself, shape (cases,).

    References:
        Yeom et al. 2018, "Privacy risk in machine learning: analyzing the connection to overfitting".
    """
    return signals.target.copy()


def lira_scores(signals: Signals, *, online: bool | None = None) -> Array:
    """Return the likelihood-ratio score of each case, shape (cases,).

    The attack assumes that the logit of a likelihood has a normal distribution with a separate mean per case.
    Its variance is estimated per case with at least 32 models of each kind, else jointly for all cases.

    Args:
        signals: of target and reference models.
        online: compare with models trained with the case and with models trained without it; else only with
            the latter. By default online if each case has both.

    Raises:
        ConfigError: online, and a case was in the training of no reference model.

    References:
        Carlini et al. 2022, "Membership inference attacks from first principles", algorithm 1 and section VI.
    """
    from scipy.special import log_ndtr  # the light half of the program works without scipy

    online = _online(signals, online)
    target, references = _logit(signals.target), _logit(signals.references)
    mean_out, spread_out = _normal(references, ~signals.included)
    without = (target - mean_out) / spread_out
    if not online:
        return np.asarray(-log_ndtr(-without))
    mean_in, spread_in = _normal(references, signals.included)
    within = (target - mean_in) / spread_in
    return np.asarray((without**2 - within**2) / 2 + np.log(spread_out / spread_in))


def rmia_scores(signals: Signals, *, online: bool | None = None, slope: float = OFFLINE_SLOPE) -> Array:
    """Return the logarithm of each case's likelihood over its mean likelihood, shape (cases,).

    :func:`dominated_shares` compares these ratios with those of a population.

    Args:
        signals: of target and reference models.
        online: average over models trained with and without the case, in equal parts; else estimate the mean
            from the latter. By default online if each case has both.
        slope: of that estimate, in [0, 1]; 1 uses the mean of models trained without the case.

    Raises:
        ConfigError: online, and a case was in the training of no reference model, or a slope outside [0, 1].

    References:
        Zarifzadeh, Liu, Shokri 2024, "Low-cost high-power membership inference attacks", equations 4 to 10.
    """
    if not 0 <= slope <= 1:
        raise ConfigError(expected("a slope from 0 to 1", got=slope, where="slope"))
    likelihood = np.exp(signals.references)
    without = _mean(likelihood, ~signals.included)
    if _online(signals, online):
        mean = (without + _mean(likelihood, signals.included)) / 2
    else:
        mean = ((1 + slope) * without + (1 - slope)) / 2
    return np.asarray(signals.target - np.log(np.maximum(mean, math.exp(LEAST_SIGNAL))))


def patient_scores(scores: npt.ArrayLike, patients: Sequence[str]) -> tuple[tuple[str, ...], Array]:
    """Return the patients in the order of their names, and the mean score of each patient's cases.

    A mean, unlike a sum or maximum, does not grow with the number of images, which may differ between splits
    and would then reveal membership by itself.

    Args:
        scores: of the cases, shape (cases,).
        patients: the patient of each case.

    Raises:
        DataError: another number of patients than of scores.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(patients),):
        got = f"{len(patients)} for scores of shape {values.shape}"
        raise DataError(expected("the patient of each score", got=got, where="patients"))
    names, index = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    order = np.argsort(values, kind="stable")  # makes the rounded sum independent of the order of the cases
    sums = np.bincount(index[order], weights=values[order], minlength=len(names))
    return tuple(map(str, names)), sums / np.maximum(1, np.bincount(index, minlength=len(names)))


def dominated_shares(ratios: npt.ArrayLike, population: npt.ArrayLike, *, factor: float = 1.0) -> Array:
    """Return the share of a population that each log-ratio exceeds by the logarithm of ``factor`` or more.

    This is the score of RMIA, in [0, 1]: it has the order of the ratios and is comparable between models.

    Args:
        ratios: of :func:`rmia_scores`, shape (n,).
        population: ratios to compare with, at least one.
        factor: gamma of Zarifzadeh et al., >= 1.

    Raises:
        ConfigError: a factor below 1.
        DataError: an empty population.
    """
    if not (factor >= 1 and math.isfinite(factor)):
        raise ConfigError(expected("factor >= 1", got=factor, where="factor"))
    others = np.sort(np.asarray(population, dtype=np.float64))
    if not others.size:
        raise DataError(problem("the population is empty", where="population"))
    values = np.asarray(ratios, dtype=np.float64) - math.log(factor)
    return np.asarray(np.searchsorted(others, values, side="right") / others.size)


def _signals(values: npt.ArrayLike, axes: int, where: str) -> Array:
    """Return log-likelihoods as float64, not below :data:`LEAST_SIGNAL`."""
    found = np.asarray(values)
    if found.ndim != axes or found.dtype.kind not in "fiu":
        got = f"shape {found.shape} of type {found.dtype}"
        raise DataError(expected(f"numbers along {axes} axes", got=got, where=where))
    numbers = found.astype(np.float64)
    if not np.isfinite(numbers).all() or (numbers > 0).any():
        bad = int((~(np.isfinite(numbers) & (numbers <= 0))).sum())
        got = f"{bad} that are NaN, infinite or above 0"
        raise DataError(expected("log-likelihoods of at most 0", got=got, where=where))
    return np.asarray(np.maximum(numbers, LEAST_SIGNAL))


def _online(signals: Signals, wanted: bool | None) -> bool:
    if wanted and not signals.online:
        fix = "attack offline, or train the complements of the halves as well"
        raise ConfigError(
            problem("some cases were in the training of no reference model", where="online", fix=fix)
        )
    return signals.online if wanted is None else wanted


def _logit(signals: Array) -> Array:
    """Return log(p / (1 - p)) of log-likelihoods log p."""
    rest = np.maximum(-np.expm1(signals), _CLOSEST)
    return np.asarray(signals - np.log(rest))


def _mean(values: Array, chosen: Bits) -> Array:
    """Return the mean of the chosen models of each case, shape (cases,)."""
    return np.asarray(np.where(chosen, values, 0.0).sum(axis=0) / chosen.sum(axis=0))


def _normal(values: Array, chosen: Bits) -> tuple[Array, Array]:
    """Return mean and standard deviation of the chosen models of each case, each of shape (cases,)."""
    count = chosen.sum(axis=0)
    mean = _mean(values, chosen)
    squares = (np.where(chosen, values - mean, 0.0) ** 2).sum(axis=0)
    if count.min() >= OWN_VARIANCE_FROM:
        variance = squares / (count - 1)
    else:
        freedom = int((count - 1).sum())
        pooled = squares.sum() / freedom if freedom else float(np.var(values))
        variance = np.full(mean.shape, pooled)
    return mean, np.sqrt(np.maximum(variance, _LEAST_VARIANCE))
