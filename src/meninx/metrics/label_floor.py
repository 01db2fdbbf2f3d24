"""What the true utility labels tell about a private attribute: a floor for releases that keep the labels.

Whoever can read the labels from a release can rank patients by the labels. If a mechanism does not
look at the attribute (oblivious mode), no attacker can be held below the AUROC of the best function of the
true labels, whatever happens to the pixels. Age has a floor of 0.73 where it comes with a diagnosis. ::

    >>> rng = np.random.default_rng(0)
    >>> ill = rng.integers(0, 2, 600).astype(float)
    >>> sex = Grouping("sex", ("F", "M"), np.where(rng.random(600) < 0.8, ill, 1 - ill).astype(np.int64))
    >>> patients = np.repeat(np.arange(300), 2)
    >>> floor = label_floor(sex, {"effusion": ill}, patients, draws=200)
    >>> 0.75 < floor.value < 0.85 and floor.low < floor.value < floor.high
    True
    >>> refuse_below_floor(floor, target=0.6)
    Traceback (most recent call last):
    ...
    meninx.core.errors.PrivacyRefusal: ...
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.core import check
from meninx.core.errors import DataError, PrivacyRefusal, expected, problem
from meninx.core.randomness import child
from meninx.metrics import intervals
from meninx.metrics.bootstrap import Areas, Draws
from meninx.metrics.classification import Ranking
from meninx.metrics.groups import Grouping, patients_of

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
FOLDS, DRAWS = 5, 1000
_CHANCE = 0.5
_PRIOR_ROWS = 4.0  # weight of the linear prediction of a combination, in rows: rare combinations lean on it
_RIDGE = 1.0


@dataclass(frozen=True, kw_only=True)
class LabelFloor:
    """The AUROC of a private attribute from the true utility labels.

    Attributes:
        attribute: its name.
        group: the group that is told best from all others, or from another one: ``old against young``; one
            of the two if there are two.
        labels: names of the utility labels.
        value: AUROC of the group, at least 1/2, which a constant reaches.
        low: lower 95 % limit, from resamples of patients, folded to at least 1/2. With several groups it
            holds for all questions together (Bonferroni), because the largest area of several is shown.
        high: upper 95 % limit; a ranking below 1/2 would tell as much when it is reversed.
        rows: number of rows with a known group.
        patients: number of their patients.
    """

    attribute: str
    group: str
    labels: tuple[str, ...]
    value: float
    low: float
    high: float
    rows: int
    patients: int

    @property
    def beyond_chance(self) -> bool:
        """Whether labels that say nothing would not give this floor."""
        return self.low > _CHANCE

    @property
    def in_words(self) -> str:
        """The floor as a sentence without a full stop."""
        rests_on = f"{self.rows:,} rows of {self.patients:,} patients"
        if not self.beyond_chance:
            rests_on += "; not beyond chance"
        return (
            f"the published columns {', '.join(self.labels)} alone tell {self.attribute} {self.group} with"
            f" AUROC {self.value:.3f} [{self.low:.3f}, {self.high:.3f}] ({rests_on})"
        )


def label_floor(
    attribute: Grouping,
    labels: Mapping[str, npt.ArrayLike],
    patient_index: npt.ArrayLike,
    *,
    folds: int = FOLDS,
    draws: int = DRAWS,
    seed: int = 0,
) -> LabelFloor:
    """Return the AUROC of an attribute from the combination of true labels.

    The questions are those that attackers of a release are asked: each group against all others, and each two
    groups. The largest area counts. The best function of the labels is the share of the group among patients
    with the same combination. It is estimated on the other folds of patients. An unknown label is a value of
    its own.

    Args:
        attribute: groups of the rows, -1 where unknown.
        labels: each utility label, 0, 1 or NaN, shape (rows,).
        patient_index: patient of each row, shape (rows,), whole numbers.
        folds: at least 2.
        draws: resamples of patients for the interval.
        seed: public seed of folds and resamples.

    Raises:
        DataError: no label, arrays of different lengths, other label values, or fewer than two groups.
    """
    check.positive(folds=folds - 1, draws=draws)
    table, patient, groups = _checked(attribute, labels, patient_index)
    cells, design = _combinations(table)
    part = child(seed, "label floor").permutation(int(patient.max()) + 1)[patient] % folds
    questions = _questions(groups, attribute.names)
    if not questions:
        got = int(np.unique(groups).size)
        raise DataError(expected("rows of at least two groups", got=got, where=attribute.attribute))
    best: tuple[float, tuple[float, float], str] | None = None
    for words, rows, positive in questions:
        member = (groups[rows] == positive).astype(np.float64)
        people = np.unique(patient[rows], return_inverse=True)[1].astype(np.int64)
        scores = _scores(member, cells[rows], design[rows], part[rows])
        value, ends = _area(member, scores, people, draws, seed, questions=len(questions))
        if best is None or value > best[0]:
            best = value, ends, words
    assert best is not None
    value, ends, words = best
    low, high = intervals.folded_ends(ends)
    return LabelFloor(
        attribute=attribute.attribute, group=words, labels=tuple(labels),
        value=max(0.5, value), low=min(low, max(0.5, value)), high=high, rows=len(groups),
        patients=int(patient.max()) + 1,
    )  # fmt: skip


def refuse_below_floor(floor: LabelFloor, *, target: float) -> None:
    """Refuse a target that no mechanism can reach that ignores the attribute and keeps the labels.

    A floor that chance gives as well refuses nothing.

    Args:
        floor: of the attribute.
        target: largest AUROC of an attacker that is accepted.

    Raises:
        PrivacyRefusal: the target is below the floor.
    """
    if floor.beyond_chance and target < floor.value:
        what = f"a target of {target:g} is below the floor of {floor.value:.3f}: {floor.in_words}"
        fix = "accept a higher target, drop labels, or use a mechanism that knows the attribute"
        raise PrivacyRefusal(problem(what, where="target", fix=fix))


def _questions(groups: Numbers, names: Sequence[str]) -> list[tuple[str, Numbers, int]]:
    """Return words, rows and positive group of each question, as attackers of a release are asked."""
    present = [number for number in range(len(names)) if (groups == number).any()]
    every = np.arange(len(groups))
    if len(present) == 2:
        return [(names[present[1]], every, present[1])]
    found = [(names[number], every, number) for number in present] if len(present) > 2 else []
    for first, second in itertools.combinations(present, 2) if found else ():
        rows = np.flatnonzero((groups == first) | (groups == second))
        found.append((f"{names[second]} against {names[first]}", rows, second))
    return found


def _checked(
    attribute: Grouping, labels: Mapping[str, npt.ArrayLike], patient_index: npt.ArrayLike
) -> tuple[Array, Numbers, Numbers]:
    """Return labels (rows, labels), patients from 0 and groups of the rows with a known group."""
    patients = np.asarray(patient_index, dtype=np.int64)
    columns = [np.asarray(column, dtype=np.float64) for column in labels.values()]
    if not columns or {column.shape for column in (*columns, patients)} != {attribute.index.shape}:
        what = "at least one label, and one value, patient and group per row"
        raise DataError(expected(what, got="arrays of other shapes", where="labels"))
    table = np.stack(columns, axis=1)
    if not np.isin(table[~np.isnan(table)], (0.0, 1.0)).all():
        raise DataError(problem("a label is not 0, 1 or unknown (NaN)", where="labels"))
    known = attribute.index >= 0
    if not known.any():
        raise DataError(problem("no row has a known group", where=attribute.attribute))
    renumbered = np.unique(patients[known], return_inverse=True)[1].astype(np.int64)
    return table[known], renumbered, attribute.index[known]


def _combinations(table: Array) -> tuple[Numbers, Array]:
    """Return the number of each row's combination, and one column per label value beside a constant."""
    unknown = np.isnan(table)
    coded = np.where(unknown, 2.0, table)
    cells = np.unique(coded, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return cells, np.column_stack([np.ones(len(table)), coded == 1, unknown]).astype(np.float64)


def _scores(member: Array, cells: Numbers, design: Array, part: Numbers) -> Array:
    """Return each row's score, from the rows of the other folds: share of the group above its mean there.

    The mean is subtracted, since a fold with many members of the group leaves few for the others, and the
    folds would be ranked in the wrong order.
    """
    scores = np.zeros(len(member))
    for number in np.unique(part):
        fit, out = part != number, part == number
        if not fit.any():
            continue
        mean = member[fit].mean()
        gram = design[fit].T @ design[fit] + _RIDGE * np.eye(design.shape[1])
        linear = design @ np.linalg.solve(gram, design[fit].T @ (member[fit] - mean))
        rows = np.bincount(cells[fit], minlength=cells.max() + 1)
        total = np.bincount(cells[fit], weights=member[fit] - mean, minlength=cells.max() + 1)
        scores[out] = ((total[cells] + _PRIOR_ROWS * linear) / (rows[cells] + _PRIOR_ROWS))[out]
    return scores


def _area(
    member: Array, scores: Array, patient: Numbers, draws: int, seed: int, *, questions: int
) -> tuple[float, tuple[float, float]]:
    """Return the AUROC and its interval over patients, which holds for so many questions together."""
    areas = Areas([Ranking.of(member, scores)], patient)
    value = float(areas.auroc(np.ones((1, int(patient.max()) + 1), dtype=np.int64))[0, 0])
    samples = np.concatenate([areas.auroc(block)[:, 0] for block in Draws(patient, draws, seed).blocks()])
    ends, kind = intervals.edge_interval(value, samples, min(patients_of(member, patient)))
    if questions > 1 and kind == intervals.PERCENTILE:
        ends = intervals.percentile_interval(samples, level=1 - (1 - intervals.LEVEL) / questions)
    return value, ends
