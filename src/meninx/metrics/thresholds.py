"""Decision thresholds, fitted on the validation split and never on the test split."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.core.errors import ConfigError, expected
from meninx.metrics.classification import checked

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """One label's decision rule: a case is called positive when its score is at least ``value``.

    Attributes:
        label: the label.
        value: the score from which a case is called positive.
        rule: how it was chosen: ``youden``, ``sensitivity>=0.9`` or ``fixed``.
        n: number of validation cases used; 0 if fixed beforehand.
        split: the split used; empty if fixed beforehand.
    """

    label: str
    value: float
    rule: str
    n: int = 0
    split: str = ""


def fit_thresholds(
    truth: npt.ArrayLike,
    scores: npt.ArrayLike,
    labels: Sequence[str],
    *,
    rule: str = "youden",
    split: str = "valid",
) -> tuple[Threshold, ...]:
    """Return one threshold per label, fitted on the scores of the validation split.

    A label with a single class in the validation split gets no threshold, so it has no metrics of decisions.

    Args:
        truth: shape (cases, labels), 1, 0 or NaN.
        scores: shape (cases, labels).
        labels: names of the columns.
        rule: ``"youden"`` (largest sensitivity + specificity) or ``"sensitivity>=X"`` (the highest threshold
            with at least that sensitivity, X in (0, 1]).
        split: name of the split, for the report.

    Raises:
        ConfigError: the rule is unknown.
        DataError: shapes differ or a score is not finite.
    """
    least = _least_sensitivity(rule)
    truth_, scores_ = checked(truth, scores)
    fitted = []
    for column, label in enumerate(labels):
        known = ~np.isnan(truth_[:, column])
        value = _fit_one(truth_[known, column], scores_[known, column], least)
        number = int(known.sum())
        if value is not None:
            fitted.append(Threshold(label=label, value=value, rule=rule, n=number, split=split))
    return tuple(fitted)


def fixed_thresholds(labels: Sequence[str], value: float = 0.5) -> tuple[Threshold, ...]:
    """Return the same threshold for every label, chosen without data."""
    return tuple(Threshold(label=label, value=value, rule="fixed") for label in labels)


def _least_sensitivity(rule: str) -> float | None:
    if rule == "youden":
        return None
    match = re.fullmatch(r"sensitivity>=(0?\.\d+|1(?:\.0+)?)", rule.replace(" ", ""))
    if match is None or float(match.group(1)) == 0:
        raise ConfigError(
            expected("youden or sensitivity>=X with 0 < X <= 1", got=repr(rule), where="threshold rule")
        )
    return float(match.group(1))


def _fit_one(truth: Array, scores: Array, least: float | None) -> float | None:
    positives = truth == 1
    if positives.all() or not positives.any():
        return None
    levels = np.unique(scores)
    high, low = np.sort(scores[positives]), np.sort(scores[~positives])
    sensitivity = 1 - np.searchsorted(high, levels, side="left") / high.size
    specificity = np.searchsorted(low, levels, side="left") / low.size
    best = int(
        np.argmax(sensitivity + specificity) if least is None else np.flatnonzero(sensitivity >= least)[-1]
    )
    if (
        best == 0
    ):  # all cases are called positive; the lowest score itself would publish the value of one case
        return float(min(0.0, math.floor(levels[0])))
    # Halfway between two scores, so that the rule does not depend on the exact score of one case.
    return float((levels[best] + levels[best - 1]) / 2)
