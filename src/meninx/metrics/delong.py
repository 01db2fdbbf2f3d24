"""The variance of the area under the ROC curve without resampling, for independent or clustered cases."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected
from meninx.metrics.classification import checked

Array = npt.NDArray[np.float64]
_NORMAL_975 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class DeLong:
    """Areas of one or more scores on the same cases, and how they vary together.

    Attributes:
        areas: shape (scores,).
        covariance: shape (scores, scores).
    """

    areas: Array
    covariance: Array

    def interval(self, index: int = 0) -> tuple[float, float]:
        """Return the 95 % interval of one area, by the normal approximation, clipped to [0, 1]."""
        half = _NORMAL_975 * math.sqrt(max(self.covariance[index, index], 0.0))
        return max(0.0, self.areas[index] - half), min(1.0, self.areas[index] + half)

    def difference(self, first: int = 0, second: int = 1) -> tuple[float, float, float]:
        """Return (area of first minus second, its standard error, two-sided p-value)."""
        gap = float(self.areas[first] - self.areas[second])
        cov = self.covariance
        error = math.sqrt(max(cov[first, first] + cov[second, second] - 2 * cov[first, second], 0.0))
        if error == 0:
            return gap, error, 1.0 if gap == 0 else 0.0
        return gap, error, math.erfc(abs(gap) / error / math.sqrt(2))


def delong(truth: npt.ArrayLike, scores: npt.ArrayLike, patient_index: npt.ArrayLike | None = None) -> DeLong:
    """Return areas under the ROC curve with their covariance.

    Args:
        truth: shape (cases,), 1, 0 or NaN (left out).
        scores: shape (cases,) or (several, cases), all on the same cases.
        patient_index: shape (cases,); cases of one patient vary together. None: every case is its own patient.

    Raises:
        DataError: a class is missing, shapes differ or a score is not finite.

    References:
        DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837-845; for clusters Obuchowski, Biometrics 53 (1997) 567-578.
    """
    table = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    truth_ = np.asarray(truth, dtype=np.float64)
    for row in table:
        checked(truth_, row)
    positives, negatives = np.flatnonzero(truth_ == 1), np.flatnonzero(truth_ == 0)
    if not positives.size or not negatives.size:
        raise DataError(expected("positives and negatives", got="one class", where="truth"))
    high = np.array([_placements(row[positives], row[negatives]) for row in table])
    low = np.array([1 - _placements(row[negatives], row[positives]) for row in table])
    areas = high.mean(axis=1)
    patient = np.arange(truth_.size) if patient_index is None else np.asarray(patient_index)
    above = _by_patient(high - areas[:, None], patient[positives], patient)
    under = _by_patient(low - areas[:, None], patient[negatives], patient)
    m, n = positives.size, negatives.size
    with_positives, with_negatives = np.unique(patient[positives]).size, np.unique(patient[negatives]).size
    everyone = np.unique(patient[np.concatenate((positives, negatives))]).size
    cross = _unbias(everyone) * (above @ under.T) / (m * n)
    covariance = _unbias(with_positives) * (above @ above.T) / m**2 + _unbias(with_negatives) * (under @ under.T) / n**2
    return DeLong(areas=areas, covariance=covariance + cross + cross.T)


def _placements(mine: Array, others: Array) -> Array:
    """Return for each of mine the share of others that it beats, ties counted half."""
    ordered = np.sort(others)
    return (np.searchsorted(ordered, mine, "left") + np.searchsorted(ordered, mine, "right")) / (2 * ordered.size)


def _by_patient(deviations: Array, patient: npt.NDArray[np.int64], everyone: npt.NDArray[np.int64]) -> Array:
    """Return deviations summed over each patient's cases, shape (scores, patients)."""
    size = int(everyone.max()) + 1
    return np.array([np.bincount(patient, weights=row, minlength=size) for row in deviations])


def _unbias(count: int) -> float:
    return count / (count - 1) if count > 1 else math.nan
