"""Evaluation of segmentations by hard Dice and IoU per case and label, without the background."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, expected
from meninx.metrics.bootstrap import Draws, holm, p_value, resampled_sums
from meninx.metrics.classification import checked_table, mean_defined, ratio
from meninx.metrics.estimates import Estimate, Evaluation
from meninx.metrics.groups import INSUFFICIENT, MIN_CELL, Grouping, grouping, strata, stratified
from meninx.metrics.intervals import PERCENTILE, edge_interval, percentile_interval
from meninx.metrics.surface import SurfaceTable

Array = npt.NDArray[np.float64]

EMPTY_MASKS = (
    "hard Dice of each case and label, background left out; a case where neither truth nor "
    "prediction holds the label "
    "has no Dice and is left out of the mean and counted; a case where only one of them holds it counts 0"
)
"""The convention of :func:`dice`, in words for a report."""


def dice(prediction: npt.ArrayLike, truth: npt.ArrayLike, labels: int) -> Array:
    """Return the hard Dice coefficient of each label 1 .. ``labels`` of one case, shape (labels,).

    The value is NaN if both masks are empty (the caller leaves it out or sets it to 1, and documents which),
    and 0 if one is empty.

    Args:
        prediction: integer label map of any shape; 0 is background.
        truth: label map of the same shape.
        labels: number of labels besides the background.

    Raises:
        DataError: the shapes differ, or a label map contains a number outside 0 .. ``labels``.

    Examples:
        >>> dice([[1, 1, 0]], [[1, 0, 0]], 2).tolist()
        [0.6666666666666666, nan]
    """
    table = _overlap(prediction, truth, labels)
    both = np.diagonal(table)[1:]
    sizes = (table.sum(axis=0) + table.sum(axis=1))[1:]
    values = np.full(labels, np.nan)
    np.divide(2.0 * both, sizes, out=values, where=sizes > 0)
    return values


def iou_of_dice(values: npt.ArrayLike) -> Array:
    """Return intersection over union from the Dice coefficient of the same masks: D / (2 - D)."""
    array = np.asarray(values, dtype=np.float64)
    quotient: Array = array / (2 - array)
    return quotient


def _overlap(prediction: npt.ArrayLike, truth: npt.ArrayLike, labels: int) -> npt.NDArray[np.int64]:
    called, true = np.asarray(prediction), np.asarray(truth)
    if called.shape != true.shape:
        raise DataError(
            expected(f"a prediction of shape {true.shape}", got=f"shape {called.shape}", where="label map")
        )
    for name, values in (("prediction", called), ("truth", true)):
        if values.size and (values.min() < 0 or values.max() > labels):
            got = f"{values.min()} .. {values.max()}"
            raise DataError(expected(f"labels 0 .. {labels}", got=got, where=f"label map of the {name}"))
    size = labels + 1
    pairs = true.astype(np.int64).ravel() * size + called.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=size * size).reshape(size, size).astype(np.int64)


Rows = npt.NDArray[np.bool_]
_SHARES = ("dice", "iou", "dice_empty_as_one", "surface_dice")  # metrics from 0 to 1


def evaluate_segmentation(
    per_case_dice: npt.ArrayLike,
    patient_index: npt.ArrayLike,
    labels: Sequence[str],
    attributes: Mapping[str, Sequence[str]],
    *,
    seed: int,
    draws: int = 1000,
    split: str = "test",
    surfaces: SurfaceTable | None = None,
) -> Evaluation:
    """Return the evaluation of a segmentation.

    The mean Dice of a label is over cases; that of the model is the mean over labels. A case whose masks are
    both empty is left out and counted; ``dice_empty_as_one``, reported if there is such a case, is the mean
    with 1 for these cases.

    Args:
        per_case_dice: shape (cases, labels), from :func:`meninx.metrics.segmentation.dice`, NaN where both
            are empty.
        patient_index: shape (cases,), numbered from 0.
        labels: names of the label values 1, 2, ...
        attributes: attribute -> its text for each case.
        seed: public seed of the resamples.
        draws: number of resamples.
        split: name of the split.
        surfaces: distances of surfaces for the same cases and labels; None to leave them out.

    Raises:
        DataError: shapes differ or there is no case.
    """
    table, patient = checked_table(per_case_dice, patient_index, labels, where="per_case_dice")
    groupings = [grouping(name, values, patient) for name, values in sorted(attributes.items())]
    resamples = Draws(patient, draws, seed, strata(groupings, patient))
    everyone = np.ones(len(table), dtype=bool)
    metrics = [
        *_rows("dice", table, labels, everyone, resamples),
        *_rows("iou", iou_of_dice(table), labels, everyone, resamples),
    ]
    if surfaces is not None:
        unit = f"in {surfaces.unit}"
        metrics += [
            dataclasses.replace(row, note=f"{row.note}, {unit}" if row.note else unit)
            for row in _rows("hd95", surfaces.hd95, labels, everyone, resamples)
        ]
        metrics += _rows("surface_dice", surfaces.surface_dice, labels, everyone, resamples)
    empty = np.isnan(table).sum(axis=0)
    if empty.any():
        metrics += _rows(
            "dice_empty_as_one", np.where(np.isnan(table), 1.0, table), labels, everyone, resamples
        )
    groups, gaps = _group_tables(table, groupings, resamples)
    return Evaluation(
        task="segmentation",
        split=split,
        labels=tuple(labels),
        n_cases=len(table),
        n_patients=int(np.unique(patient).size),
        draws=draws,
        seed=seed,
        metrics=tuple(metrics),
        groups=groups,
        gaps=gaps,
        empty_masks={label: int(number) for label, number in zip(labels, empty, strict=True)},
        notes=(
            (
                "95 % intervals of Clopper and Pearson where all resamples are an end of the range, else "
                f"percentiles of {draws} resamples of patients{stratified(groupings)}"
            ),
            EMPTY_MASKS,
            *(surfaces.notes() if surfaces is not None else ()),
            (
                "a gap is the group's mean Dice minus that of all other cases together; p-values are "
                "adjusted by Holm's method"
            ),
            f"groups with fewer than {MIN_CELL} patients are insufficient and get no number and no size",
        ),
    )


def compare_segmentation(
    a_dice: npt.ArrayLike,
    b_dice: npt.ArrayLike,
    patient_index: npt.ArrayLike,
    labels: Sequence[str],
    attributes: Mapping[str, Sequence[str]],
    *,
    seed: int,
    draws: int = 1000,
) -> list[Estimate]:
    """Return mean Dice differences of two models on the same cases, a minus b, overall and per group.

    Only cases and labels with a Dice coefficient for both models are used. The arguments are those of
    :func:`evaluate_segmentation`.
    """
    first, patient = checked_table(a_dice, patient_index, labels, where="a_dice")
    second, _ = checked_table(b_dice, patient_index, labels, where="b_dice")
    groupings = [grouping(name, values, patient) for name, values in sorted(attributes.items())]
    resamples = Draws(patient, draws, seed, strata(groupings, patient))
    rows = _rows("dice_difference", first - second, labels, np.ones(len(first), dtype=bool), resamples)
    groups, _ = _group_tables(first - second, groupings, resamples)
    return [*rows, *(dataclasses.replace(item, name="dice_difference") for item in groups)]


def _means(table: Array, rows: Rows, draws: Draws) -> tuple[Array, Array]:
    """Return the mean of each label over ``rows``, on the data (labels,) and per draw (draws, labels)."""
    known = ~np.isnan(table) & rows[:, None]
    filled = np.where(known, table, 0.0)
    sums = resampled_sums(np.concatenate((filled, known), axis=1), draws)
    width = table.shape[1]
    return ratio(filled.sum(axis=0), known.sum(axis=0)), ratio(sums[:, :width], sums[:, width:])


def _rows(name: str, table: Array, labels: Sequence[str], rows: Rows, draws: Draws) -> list[Estimate]:
    values, samples = _means(table, rows, draws)
    known: Rows = ~np.isnan(table) & rows[:, None]
    estimates = []
    for column, label in enumerate(labels):
        estimates.append(_one(name, values[column], samples[:, column], known[:, column], draws, label=label))
    if len(labels) > 1:
        whole = _one(
            name,
            float(mean_defined(values)),
            mean_defined(samples),
            np.asarray(known.any(axis=1)),
            draws,
            note="mean over labels",
        )
        estimates.insert(0, whole)
    return estimates


def _one(
    name: str, value: float, samples: Array, known: Rows, draws: Draws, label: str = "", note: str = ""
) -> Estimate:
    patients = int(np.unique(draws.patient_index[known]).size)
    bounded = name in _SHARES
    ends, kind = percentile_interval(samples), PERCENTILE
    if bounded:
        ends, kind = edge_interval(value, samples, patients)
    low, high = ends
    return Estimate(
        name=name,
        value=float(value),
        low=low,
        high=high,
        n=int(known.sum()),
        patients=patients,
        label=label,
        note=note,
        interval="" if np.isnan(value) else kind,
    )


def _group_tables(
    table: Array, groupings: Sequence[Grouping], draws: Draws
) -> tuple[tuple[Estimate, ...], tuple[Estimate, ...]]:
    groups: list[Estimate] = []
    gaps: list[tuple[Estimate, float]] = []
    for item in groupings:
        present = [group for group in range(len(item.names)) if item.rows(group).any()]
        for group in present if len(present) > 1 else ():
            mine = _group(table, item, group, item.rows(group), draws)
            rest = _group(table, item, group, item.rest(group), draws)
            groups.append(mine[0])
            if len(present) > 2 or group == present[0]:
                value, samples = mine[0].value - rest[0].value, mine[1] - rest[1]
                low, high = percentile_interval(samples)
                note = INSUFFICIENT if np.isnan(value) else ""
                gap = dataclasses.replace(
                    mine[0],
                    name="dice_gap",
                    value=value,
                    low=low,
                    high=high,
                    note=note,
                    interval="" if note else PERCENTILE,
                )
                gaps.append((gap, p_value(value, samples)))
    adjusted = holm([p for _, p in gaps])
    return tuple(groups), tuple(
        dataclasses.replace(gap, p_holm=p) for (gap, _), p in zip(gaps, adjusted, strict=True)
    )


def _group(table: Array, item: Grouping, group: int, rows: Rows, draws: Draws) -> tuple[Estimate, Array]:
    """Return a group's mean Dice over labels with its draws; no number for fewer than ten patients."""
    known: Rows = np.asarray((~np.isnan(table) & rows[:, None]).any(axis=1))
    values, samples = _means(table, rows, draws)
    value, drawn = float(mean_defined(values)), mean_defined(samples)
    if np.unique(draws.patient_index[known]).size < MIN_CELL:
        value, drawn = float("nan"), np.full(draws.count, np.nan)
    note = INSUFFICIENT if np.isnan(value) else ""
    found = _one("dice", value, drawn, known, draws, note=note)
    if found.patients < MIN_CELL:
        found = dataclasses.replace(found, n=0, patients=0)
    return dataclasses.replace(found, attribute=item.attribute, group=item.names[group]), drawn
