"""Calibration: reliability bins, expected calibration error, Brier score, and recalibration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.metrics.classification import brier, checked

Array = npt.NDArray[np.float64]
BINS = 15
LEAST_IN_BIN = 10
_EDGE = 1e-7
_NULL_DRAWS = 100


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibration of one label; NaN where it is undefined.

    Attributes:
        label: the label.
        n: cases with known truth.
        patients: their patients; 0 in files of an older version.
        prevalence: share of positives among them; NaN in files of an older version.
        attribute: the attribute that divides the cases; empty for all cases.
        group: the group of that attribute.
        ece: expected calibration error over equal-mass bins.
        ece_null: the same error that perfect probabilities would show by chance for so many patients whose
            images have like outcomes; images of a patient that differ would show less.
        intercept: intercept of the logistic recalibration with slope 1 (0 is ideal; > 0: risks are
            underestimated).
        slope: slope of the logistic recalibration (1 is ideal; < 1: too extreme).
        brier: mean squared error of the probabilities.
        predicted: mean probability of each bin.
        observed: share of positives of each bin.
    """

    label: str
    n: int
    ece: float
    ece_null: float
    intercept: float
    slope: float
    brier: float
    predicted: tuple[float, ...] = ()
    observed: tuple[float, ...] = ()
    patients: int = 0
    prevalence: float = math.nan
    attribute: str = ""
    group: str = ""


def calibration(
    truth: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    label: str,
    rng: np.random.Generator,
    patient_index: npt.NDArray[np.int64] | None = None,
) -> Calibration:
    """Return the calibration of one label.

    Args:
        truth: shape (cases,), 1, 0 or NaN.
        probabilities: shape (cases,), in [0, 1].
        label: its name.
        rng: draws the outcomes for the null.
        patient_index: the patient of each case, shape (cases,); None treats every case as a patient.
    """
    truth_, probabilities_ = checked(truth, probabilities)
    known = ~np.isnan(truth_)
    y, p = truth_[known], probabilities_[known]
    patient = None if patient_index is None else patient_index[known]
    predicted, observed, mass = equal_mass_bins(y, p, patient_index=patient)
    intercept, slope = recalibration(y, p)
    of_patient = np.arange(p.size) if patient is None else np.unique(patient, return_inverse=True)[1]
    people = int(of_patient.max()) + 1 if p.size else 0
    drawn = (rng.random(people)[of_patient] < p for _ in range(_NULL_DRAWS))
    null = float(np.mean([ece(one, p, patient_index=patient) for one in drawn])) if p.size else math.nan
    return Calibration(
        label=label,
        n=int(y.size),
        ece=float(np.abs(predicted - observed) @ mass) if y.size else float("nan"),
        ece_null=null,
        intercept=intercept,
        slope=slope,
        brier=brier(y, p),
        patients=int(y.size if patient is None else np.unique(patient).size),
        prevalence=float(y.mean()) if y.size else math.nan,
        predicted=tuple(predicted.tolist()),
        observed=tuple(observed.tolist()),
    )


def ece(
    truth: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    bins: int = BINS,
    patient_index: npt.NDArray[np.int64] | None = None,
) -> float:
    """Return the expected calibration error: mean |mean probability - share of positives| over the bins."""
    y, p = np.asarray(truth, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if not y.size:
        return float("nan")
    predicted, observed, mass = equal_mass_bins(y, p, bins, patient_index)
    return float(np.abs(predicted - observed) @ mass)


def equal_mass_bins(
    truth: Array, probabilities: Array, bins: int = BINS, patient_index: npt.NDArray[np.int64] | None = None
) -> tuple[Array, Array, Array]:
    """Return mean probability, share of positives and share of cases of each bin, shapes (bins,).

    The bins have equal numbers of cases, at least ten each, so a small table has fewer bins. A bin of fewer
    than ten patients is joined to the next, because a published bin must not describe single patients.
    """
    if not truth.size:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    order = np.argsort(probabilities, kind="stable")
    parts = np.array_split(order, max(1, min(bins, truth.size // LEAST_IN_BIN)))
    if patient_index is not None:
        parts = _joined(parts, patient_index)
    means = [(probabilities[part].mean(), truth[part].mean(), part.size / truth.size) for part in parts]
    predicted, observed, mass = np.array(means).T
    return predicted, observed, mass


def _joined(
    parts: list[npt.NDArray[np.intp]], patient_index: npt.NDArray[np.int64]
) -> list[npt.NDArray[np.intp]]:
    """Return neighbouring parts joined until each has ten patients, if there are enough."""
    joined: list[npt.NDArray[np.intp]] = []
    open_part: npt.NDArray[np.intp] = np.zeros(0, dtype=np.intp)
    for part in parts:
        open_part = np.concatenate((open_part, part))
        if np.unique(patient_index[open_part]).size >= LEAST_IN_BIN:
            joined.append(open_part)
            open_part = open_part[:0]
    if open_part.size:
        joined[-1:] = [np.concatenate((*joined[-1:], open_part))]
    return joined


def recalibration(truth: Array, probabilities: Array, iterations: int = 100) -> tuple[float, float]:
    """Return (intercept at slope 1, slope) of the logistic regression of truth on logit(probability).

    Both are NaN with a single class, and the slope is NaN if the regression does not converge (separated
    classes).

    References:
        D. R. Cox, Biometrika 45 (1958) 562-565; Van Calster et al., BMC Medicine 17 (2019) 230.
    """
    if not truth.size or truth.min() == truth.max():
        return float("nan"), float("nan")
    p = np.clip(probabilities, _EDGE, 1 - _EDGE)
    logit = np.log(p / (1 - p))
    intercept = _newton(np.ones((truth.size, 1)), logit, truth, iterations)
    both = _newton(np.column_stack((np.ones(truth.size), logit)), np.zeros(truth.size), truth, iterations)
    return float(intercept[0]), float(both[1])


def _newton(design: Array, offset: Array, truth: Array, iterations: int) -> Array:
    """Return the maximum-likelihood coefficients of a logistic model; NaN if Newton's steps diverge."""
    beta = np.zeros(design.shape[1])
    for _ in range(iterations):
        mean = 1 / (1 + np.exp(-np.clip(design @ beta + offset, -40, 40)))
        weight = mean * (1 - mean)
        hessian = design.T @ (design * weight[:, None])
        if not np.isfinite(hessian).all() or np.linalg.cond(hessian) > 1e12:
            break
        step = np.linalg.solve(hessian, design.T @ (truth - mean))
        beta = beta + np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-10:
            return np.asarray(beta)
    return np.full(design.shape[1], np.nan)
