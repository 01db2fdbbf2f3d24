"""Groups of cases by attribute: age bins, minimum sizes, strata of the bootstrap, metrics of gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

AGE_EDGES = (0, 30, 60, 70, 80)
"""Lower ends of the age bins in years: [0, 30), [30, 60), [60, 70), [70, 80), [80, +)."""

MIN_CELL = 10
"""A cell needs at least this many patients with a positive case, and with a negative one, to get a number."""

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
"""Each signed gap and its metric: the group's value minus the value of all other cases together.

``spd`` is the statistical parity difference, P(called positive | group) - P(called positive | rest).
``acc_gap`` is the accuracy difference that some studies call statistical parity. The ideal value of all is 0,
and the sign shows which side is worse off.
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


def grouping(
    attribute: str, values: Sequence[str], patient_index: npt.NDArray[np.int64] | None = None
) -> Grouping:
    """Return the groups of one attribute.

    ``age`` is divided into the bins of :data:`AGE_EDGES`; from the youngest on, a bin of fewer than
    :data:`MIN_CELL` patients is joined to the next older bin that has any, and the last one to the bin before
    it. Any other attribute has one group per value, and values of fewer than :data:`MIN_CELL` patients are
    merged into ``other``, so that a rare value, which may identify a patient, is never printed.

    Args:
        attribute: its name.
        values: its text for each case, empty if unknown.
        patient_index: the patient of each case, shape (cases,); None treats every case as a patient.
    """
    if attribute == "age":
        return _age(values, np.arange(len(values)) if patient_index is None else patient_index)
    patient = range(len(values)) if patient_index is None else patient_index.tolist()
    members: dict[str, set[int]] = {}
    for value, person in zip(values, patient, strict=True):
        if value:
            members.setdefault(value, set()).add(person)
    names = sorted(value for value, people in members.items() if len(people) >= MIN_CELL)
    position = {name: index for index, name in enumerate(names)}
    index = np.array([position.get(value, len(names)) if value else -1 for value in values], dtype=np.int64)
    return Grouping(attribute, (*names, OTHER) if (index == len(names)).any() else tuple(names), index)


def strata(groupings: Sequence[Grouping], patient_index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the stratum of each patient, shape (patients,): sex and age bin of the patient's first case.

    Strata of fewer than five patients are merged, because a stratum of one patient would never vary.
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


def stratified(groupings: Sequence[Grouping]) -> str:
    """Return the end of a sentence that names the attributes of the strata; empty without strata."""
    names = {"sex": "sex", "age": "age bin"}
    there = [words for name, words in names.items() if any(item.attribute == name for item in groupings)]
    return f", strata of {' and '.join(there)} kept whole" if there else ""


def sufficient(truth: npt.ArrayLike, patient_index: npt.NDArray[np.int64]) -> bool:
    """Return whether enough patients have a positive case and enough have a negative one.

    The function counts patients and not images, because ten images of one patient describe one patient.

    Args:
        truth: shape (cases,), 1, 0, or NaN (left out).
        patient_index: the patient of each case, shape (cases,); if the source names no patients, each case is
            its own patient.
    """
    return min(patients_of(truth, patient_index)) >= MIN_CELL


def patients_of(truth: npt.ArrayLike, patient_index: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Return the numbers of patients with a positive and with a negative case; see :func:`sufficient`."""
    values = np.asarray(truth)
    return int(np.unique(patient_index[values == 1]).size), int(np.unique(patient_index[values == 0]).size)


def years(values: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return ages in years from texts, shape (cases,); NaN where the text is no plain number."""
    return np.array([float(text) if text.replace(".", "", 1).isdigit() else np.nan for text in values])


def _age(values: Sequence[str], patient_index: npt.NDArray[np.int64]) -> Grouping:
    ages = years(values)
    index = np.where(np.isnan(ages), -1, np.searchsorted(AGE_EDGES, ages, side="right") - 1)
    parts = _joined([[number] for number in range(len(AGE_EDGES))], index, patient_index)
    joined = np.full(len(AGE_EDGES) + 1, -1, dtype=np.int64)  # the last entry is for unknown ages
    for number, part in enumerate(parts):
        joined[part] = number
    return Grouping("age", tuple(_bin_name(part[0], part[-1]) for part in parts), joined[index])


def _joined(
    parts: list[list[int]], index: npt.NDArray[np.int64], patient_index: npt.NDArray[np.int64]
) -> list[list[int]]:
    """Return neighbouring age bins joined until none has between 1 and :data:`MIN_CELL` - 1 patients."""
    while True:
        people = [int(np.unique(patient_index[np.isin(index, part)]).size) for part in parts]
        filled = [number for number, count in enumerate(people) if count]
        small = next((number for number in filled if people[number] < MIN_CELL), None)
        if small is None or len(filled) < 2:
            return parts
        place = filled.index(small)
        first, last = (small, filled[place + 1]) if small != filled[-1] else (filled[place - 1], small)
        parts = [*parts[:first], [*range(parts[first][0], parts[last][-1] + 1)], *parts[last + 1 :]]


def _bin_name(first: int, last: int) -> str:
    end = f"{AGE_EDGES[last + 1]})" if last + 1 < len(AGE_EDGES) else "+)"
    return f"[{AGE_EDGES[first]},{end}"
