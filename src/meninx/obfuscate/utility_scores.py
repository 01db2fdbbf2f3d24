"""Cross-fitted utility: what the labels of an image look like to models that have not seen its patient.

Models are fitted on all folds of patients but one. A patient of the fold that was left out is scored by that
model, and a new patient by one of the models, drawn at random. So the scores of both have the same
distribution, which those of a model on its own training patients do not have. ::

    >>> rng = np.random.default_rng(0)
    >>> ill = rng.integers(0, 2, 300).astype(float)
    >>> images = rng.normal(0.5, 0.1, (300, 1, 16, 16)).astype(np.float32)
    >>> images[:, :, 4:8, 4:8] += 0.1 * ill[:, None, None, None]
    >>> patients = np.arange(300)
    >>> utility = cross_fitted_utility(images, {"effusion": ill}, patients, patients % 3, kind="linear")
    >>> utility.auroc["effusion"] > 0.9, utility.out_of_fold.shape
    (True, (300, 1))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError, problem
from meninx.core.progress import SILENT, Progress, task
from meninx.core.randomness import child, child_seed
from meninx.metrics.classification import auroc

Array = npt.NDArray[np.float64]
Values = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
Model = Callable[[Values], Array]
"""From images (or features) to logits, shape (rows, labels)."""
UtilityKind = Literal["auto", "linear", "network"]
FAMILY = "strided"
LEAST_PATIENTS = 10
"""Fewest patients with a label, and without it, for the label to be used."""
_COMPONENTS, _SIDE, _PENALTY, _NEWTON = 80, 32, 1.0, 15
_VALIDATION_SHARE = 0.15
_IMAGE_AXES = 4
_FEWEST_EPOCHS, _MOST_EPOCHS, _SHOWN = 4, 15, 60_000  # images that a network is shown, unless they are few


@dataclass(frozen=True, eq=False)
class CrossFittedUtility:
    """The models of all folds, and their scores of the patients that they were not fitted on.

    Attributes:
        kind: ``linear`` or ``network``.
        labels: the labels that enough patients have, best first.
        models: one per fold.
        out_of_fold: logits of the rows that were fitted on, shape (rows, labels).
        auroc: AUROC of each label from its out-of-fold logits.
    """

    kind: str
    labels: tuple[str, ...]
    models: tuple[Model, ...]
    out_of_fold: Array
    auroc: Mapping[str, float]

    def scores(self, values: Values, fold: Numbers) -> Array:
        """Return logits, shape (rows, labels), each row by the model of its fold."""
        found = np.empty((len(values), len(self.labels)))
        for number, model in enumerate(self.models):
            rows = np.flatnonzero(fold == number)
            if len(rows):
                found[rows] = model(values[rows])
        return found


def cross_fitted_utility(
    values: Values,
    labels: Mapping[str, Array],
    patients: Numbers,
    fold: Numbers,
    *,
    kind: UtilityKind = "auto",
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> CrossFittedUtility:
    """Return models of the labels and their scores out of fold.

    ``auto`` takes a linear model on principal components or a small network, whichever has the larger mean
    AUROC out of fold. No other patients take part in the choice. Features, which have two axes, have linear
    models.

    Args:
        values: images (rows, channels, height, width) or features (rows, d).
        labels: each label, 0, 1 or NaN, shape (rows,).
        patients: patient of each row, whole numbers, shape (rows,).
        fold: fold of each row, from 0; all rows of a patient have the same, shape (rows,).
        kind: see above.
        seed: of initial weights and order.
        device: where networks are trained.
        progress: shows the work.

    Raises:
        DataError: no label has enough patients.
    """
    usable = {name: column for name, column in labels.items() if _sufficient(column, patients, fold)}
    if not usable:
        what = f"no label is there in {LEAST_PATIENTS} training patients and absent in as many, in every fold"
        raise DataError(problem(what, where="labels", fix="add patients or name other labels"))
    kinds = (kind,) if kind != "auto" else ("linear", "network")
    if values.ndim != _IMAGE_AXES:
        if kind == "network":
            raise DataError(problem("features have linear models alone", where="utility", fix="use linear"))
        kinds = ("linear",)
    truth = np.stack(list(usable.values()), axis=1)
    tried = [
        _cross_fitted(one, values, truth, tuple(usable), patients, fold, seed, device, progress)
        for one in kinds
    ]
    return max(tried, key=lambda found: float(np.mean(list(found.auroc.values()))))


def _cross_fitted(
    kind: str,
    values: Values,
    truth: Array,
    names: tuple[str, ...],
    patients: Numbers,
    fold: Numbers,
    seed: int,
    device: str,
    progress: Progress,
) -> CrossFittedUtility:
    models: list[Model] = []
    scores = np.empty(truth.shape)
    folds = range(int(fold.max()) + 1)
    with task(progress, f"fit {kind} models of the labels", len(folds)):
        for number in folds:
            fit, out = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            if kind == "linear":
                model = _linear(values[fit], truth[fit])
            else:
                own = child_seed(seed, "utility", number)
                model = _network(values, truth, names, patients, fit, own, device)
            models.append(model)
            scores[out] = model(values[out])
            progress.advance()
    areas = {name: auroc(truth[:, column], scores[:, column]) for column, name in enumerate(names)}
    order = sorted(range(len(names)), key=lambda column: -areas[names[column]])
    return CrossFittedUtility(
        kind=kind,
        labels=tuple(names[column] for column in order),
        models=tuple(_reordered(model, order) for model in models),
        out_of_fold=scores[:, order],
        auroc={names[column]: areas[names[column]] for column in order},
    )


def _reordered(model: Model, order: list[int]) -> Model:
    return lambda values: model(values)[:, order]


def _sufficient(column: Array, patients: Numbers, fold: Numbers) -> bool:
    """Return whether enough patients have a label and enough do not, also without any one fold."""
    parts = [fold != number for number in np.unique(fold)] if fold.max() > 0 else [fold >= 0]
    counted = [len(np.unique(patients[rows & (column == value)])) for rows in parts for value in (0.0, 1.0)]
    return min(counted) >= LEAST_PATIENTS


def _linear(values: Values, truth: Array) -> Model:
    """Return logistic regressions on the principal components of images of at most 32 x 32 pixels."""
    flat = _flat(values)
    mean = flat.mean(axis=0)
    centred = (flat - mean).astype(np.float64)
    wide = centred.shape[1] > len(centred)
    spectrum, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    kept = np.argsort(spectrum)[::-1][: max(1, min(_COMPONENTS, len(centred) // 5))]
    kept = kept[spectrum[kept] > 1e-9 * max(spectrum.max(), 1e-300)]
    directions = centred.T @ (vectors[:, kept] / np.sqrt(spectrum[kept])) if wide else vectors[:, kept]
    directions = directions / np.sqrt(spectrum[kept] / len(centred))
    parts = centred @ directions
    weights = np.stack([_logistic(parts, column) for column in truth.T], axis=1)
    matrix, offset = directions @ weights[1:], weights[0]
    return lambda rows: np.asarray((_flat(rows) - mean) @ matrix + offset, dtype=np.float64)


def _flat(values: Values) -> Values:
    """Return rows of numbers: features, or pixels averaged over blocks to at most 32 x 32."""
    if values.ndim == 2:
        return values
    rows, channels, height, width = values.shape
    block = max(1, -(-max(height, width) // _SIDE))
    tall, wide = height // block, width // block
    cut = values[:, :, : tall * block, : wide * block]
    means = cut.reshape(rows, channels, tall, block, wide, block).mean(axis=(3, 5))
    return np.asarray(means.reshape(rows, -1), dtype=np.float32)


def _logistic(parts: Array, column: Array) -> Array:
    """Return intercept and coefficients of a logistic regression with a small penalty, by Newton's method."""
    known = ~np.isnan(column)
    design = np.column_stack([np.ones(int(known.sum())), parts[known]])
    wanted = column[known]
    penalty = np.full(design.shape[1], _PENALTY)
    penalty[0] = 1e-6
    weights = np.zeros(design.shape[1])
    for _ in range(_NEWTON):
        chance = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        slope = design.T @ (chance - wanted) + penalty * weights
        curvature = (design * (chance * (1 - chance) + 1e-9)[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, slope)
        weights = weights - step
        if np.abs(step).max() < 1e-6:
            break
    return weights


def _network(
    values: Values,
    truth: Array,
    names: tuple[str, ...],
    patients: Numbers,
    fit: Numbers,
    seed: int,
    device: str,
) -> Model:
    """Return a small network that was trained on some patients, stopped early by a part of them."""
    from meninx.learn.release_attackers import Sides, fit_release_network, label_task

    people = child(seed, "utility validation").permutation(np.unique(patients[fit]))
    held = np.isin(patients[fit], people[: max(1, round(_VALIDATION_SHARE * len(people)))])
    sides = Sides(train=fit[~held], valid=fit[held])
    epochs = min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, _SHOWN // len(sides.train)))
    fitted = fit_release_network(
        FAMILY,
        lambda draw: values,
        truth,
        sides,
        task=label_task(names),
        epochs=epochs,
        seed=seed,
        device=device,
    )
    return lambda rows: np.asarray(fitted(rows), dtype=np.float64)
