"""Groups of cases by attribute: age bins, least sizes, strata for the bootstrap, and what each gap is a gap of."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

AGE_EDGES = (0, 30, 60, 70, 80)
"""Lower ends of the age bins in years: [0, 30), [30, 60), [60, 70), [70, 80), [80, +)."""

MIN_CELL = 10
"""A cell with fewer positives or fewer negatives than this gets no number."""

INSUFFICIENT = "insufficient"
OTHER = "other"
_LEAST_STRATUM = 5

GAPS: Mapping[str, str] = MappingProxyType(
    {
        "auroc_gap": "auroc",
        "tpr_gap": "sensitivity",
        "fpr_gap": "false_positive_rate",
        "spd": "selection_rate",
        "acc_gap": "accuracy",
    }
)
"""Each signed gap and the metric it is a gap of: the group's value minus the value of all other cases together.

``spd`` is the statistical parity difference, P(called positive | group) - P(called positive | rest). ``acc_gap`` is the
accuracy difference that some studies call statistical parity. 0 is ideal for all; the sign tells who is worse off.
"""


@dataclass(frozen=True)
class Grouping:
    """The cases divided by one attribute.

    Attributes:
        attribute: its name.
        names: group names in order.
        index: shape (cases,), position in ``names``, -1 where unknown.
    """

    attribute: str
    names: tuple[str, ...]
    index: npt.NDArray[np.int64]

    def rows(self, group: int) -> npt.NDArray[np.bool_]:
        """Return which cases belong to a group, shape (cases,)."""
        return np.asarray(self.index == group)

    def rest(self, group: int) -> npt.NDArray[np.bool_]:
        """Return which cases belong to another known group, shape (cases,)."""
        return np.asarray((self.index >= 0) & (self.index != group))


def grouping(attribute: str, values: Sequence[str]) -> Grouping:
    """Return the groups of one attribute.

    ``age`` becomes the bins of :data:`AGE_EDGES`. Any other attribute has one group a value, and values of fewer than
    :data:`MIN_CELL` cases are gathered as ``other``, so that a rare value is never printed.

    Args:
        attribute: its name.
        values: its text for each case, empty when unknown.
    """
    if attribute == "age":
        return _age(values)
    known, number = np.unique([value for value in values if value], return_counts=True)
    names = [str(value) for value, count in zip(known, number, strict=True) if count >= MIN_CELL]
    position = {name: index for index, name in enumerate(names)}
    index = np.array([position.get(value, len(names)) if value else -1 for value in values], dtype=np.int64)
    return Grouping(attribute, (*names, OTHER) if (index == len(names)).any() else tuple(names), index)


def age_bin_names() -> tuple[str, ...]:
    """Return the names of the age bins, youngest first."""
    closed = [f"[{low},{high})" for low, high in itertools.pairwise(AGE_EDGES)]
    return (*closed, f"[{AGE_EDGES[-1]},+)")


def strata(groupings: Sequence[Grouping], patient_index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the stratum of each patient, shape (patients,): sex and age bin of the patient's first case.

    Strata of fewer than five patients are joined into one: a stratum of one patient would never vary.
    """
    patients = int(patient_index.max()) + 1 if patient_index.size else 0
    code = np.zeros(patients, dtype=np.int64)
    present, first = np.unique(patient_index, return_index=True)
    for item in groupings:
        if item.attribute in ("sex", "age"):
            code[present] = code[present] * (len(item.names) + 1) + item.index[first] + 1
    number = np.bincount(code, minlength=1)
    code[number[code] < _LEAST_STRATUM] = -1
    return code


def sufficient(truth: npt.ArrayLike) -> bool:
    """Tell whether a cell (cases,), NaN left out, has the least number of positives and of negatives."""
    values = np.asarray(truth)
    return int((values == 1).sum()) >= MIN_CELL and int((values == 0).sum()) >= MIN_CELL


def _age(values: Sequence[str]) -> Grouping:
    years = np.array([float(text) if text.replace(".", "", 1).isdigit() else np.nan for text in values])
    index = np.where(np.isnan(years), -1, np.searchsorted(AGE_EDGES, years, side="right") - 1)
    return Grouping("age", age_bin_names(), index.astype(np.int64))
