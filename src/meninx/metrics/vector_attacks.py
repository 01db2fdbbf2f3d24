"""Attacks on vectors (pixels, features, codes), fitted on some patients and chosen on others.

``linear`` and ``kernel`` are ridge regressions on principal components. ``boosted`` are trees on the numbers
as they are, which find a single number that tells. Validation rows decide how smooth each attack is. ::

    >>> rng = np.random.default_rng(0)
    >>> truth = np.arange(300) % 2
    >>> features = rng.normal(size=(300, 20)) + truth[:, None]
    >>> attack = fit_vector_attack("linear", features, truth, np.arange(200), np.arange(200, 250))
    >>> margins = attack(features[250:])  # one column per class
    >>> float((margins.argmax(axis=1) == truth[250:]).mean()) > 0.9
    True
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.core import check
from meninx.core.errors import DataError, expected
from meninx.core.randomness import child
from meninx.metrics.boosting import fit_boosting
from meninx.metrics.classification import auroc

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Margins = Callable[[npt.ArrayLike], Array]
"""From features (rows, features) to one column per target, larger where the target is more likely."""
VECTOR_ATTACKS = ("linear", "kernel", "boosted")
_COMPONENTS = 80
_LANDMARKS, _MOST_FOR_COMPONENTS = 600, 2000
_SMOOTHNESS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_WIDTHS = (0.5, 1.0, 2.0, 4.0)  # of the median squared distance
_SAME = 1e-12


def fit_vector_attack(
    kind: str, features: npt.ArrayLike, classes: npt.ArrayLike, fit: Numbers, valid: Numbers, *, seed: int = 0
) -> Margins:
    """Return an attack on an attribute: from features to one margin per class.

    Args:
        kind: one of :data:`VECTOR_ATTACKS`.
        features: shape (rows, features).
        classes: class of each row, from 0; rows of other splits are not read.
        fit: rows to fit on.
        valid: rows to choose by.
        seed: of landmarks and of the features that trees draw.

    Raises:
        DataError: features that are not finite, or rows to fit on of one class only.
    """
    check.one_of(VECTOR_ATTACKS, kind=kind)
    values, kinds = _checked(features), np.asarray(classes, dtype=np.int64)
    hot = np.asarray(kinds[:, None] == np.arange(int(kinds[fit].max()) + 1), dtype=np.float64)
    if (hot[fit].sum(axis=0) > 0).sum() < 2:
        raise DataError(expected("rows of at least two classes", got="one", where="attack"))
    if kind == "boosted":
        return _boosted(values, hot, fit, valid, seed)
    return fit_ridge(kind, values, hot, fit, valid, blocks=np.zeros(hot.shape[1], np.int64), seed=seed)


def fit_ridge(
    kind: str,
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    fit: Numbers,
    valid: Numbers,
    *,
    blocks: npt.NDArray[np.int64],
    seed: int = 0,
) -> Margins:
    """Return a ridge regression of many targets at once, e.g. of an attribute and of its permutations.

    Args:
        kind: ``linear`` or ``kernel``.
        features: shape (rows, features).
        targets: shape (rows, targets), 0 or 1.
        fit: rows to fit on.
        valid: rows to choose by: the mean area under the ROC curve of each block decides.
        blocks: number of each target's block, shape (targets,). The targets of a block, e.g. the classes of
            one attribute, share map and smoothness.
        seed: of landmarks.
    """
    values, wanted = _checked(features), np.asarray(targets, dtype=np.float64)
    count = int(blocks.max()) + 1
    best = np.full(count, -np.inf)
    chosen: list[tuple[Margins, Array] | None] = [None] * count
    centre = wanted[fit].mean(axis=0)
    for mapped in _maps(kind, values[fit], seed):
        own, beside = mapped(values[fit]), mapped(values[valid])
        for weights in _weights(own, wanted[fit] - centre):
            areas = _areas(beside @ weights, wanted[valid], blocks)
            for block in np.flatnonzero(areas > best):
                best[block] = areas[block]
                chosen[block] = (mapped, weights[:, blocks == block])
    return _Ridge(tuple(item for item in chosen if item is not None), blocks, centre)


@dataclass(frozen=True, eq=False)
class _Ridge:
    """The chosen map and weights of each block of targets."""

    chosen: tuple[tuple[Margins, Array], ...]
    blocks: Numbers
    centre: Array

    def __call__(self, features: npt.ArrayLike) -> Array:
        values = _checked(features)
        found = np.empty((len(values), len(self.blocks)))
        done: dict[int, Array] = {}  # blocks share maps
        for block, (mapped, weights) in enumerate(self.chosen):
            if id(mapped) not in done:
                done[id(mapped)] = mapped(values)
            found[:, self.blocks == block] = done[id(mapped)] @ weights
        return found + self.centre


def _maps(kind: str, own: Array, seed: int) -> Iterator[Margins]:
    """Yield the maps to choose from, each fitted on the rows to fit on."""
    for whitened in (True, False):
        project = principal_components(own, whitened=whitened, seed=seed)
        if kind == "linear":
            yield project
            continue
        rows = project(own)
        landmarks = rows
        if len(rows) > _LANDMARKS:
            some = child(seed, "landmarks").choice(len(rows), _LANDMARKS, replace=False)
            landmarks = rows[np.sort(some)]
        squares = _distances(landmarks, landmarks)
        apart = squares[~np.eye(len(landmarks), dtype=bool)]
        median = max(float(np.median(apart)), _SAME) if apart.size else 1.0
        for width in _WIDTHS:
            yield _radial(project, landmarks, np.exp(-squares / (width * median)), width * median)


def _radial(project: Margins, landmarks: Array, kernel: Array, width: float) -> Margins:
    """Return the map whose inner products are the kernel's, exact on the landmarks (Nyström)."""
    spectrum, vectors = np.linalg.eigh(kernel)
    kept = spectrum > 1e-8 * spectrum[-1]
    root = vectors[:, kept] / np.sqrt(spectrum[kept])

    def mapped(features: npt.ArrayLike) -> Array:
        across = np.exp(-_distances(project(features), landmarks) / width)
        return np.asarray(across @ root)

    return mapped


def principal_components(
    own: Array, *, whitened: bool = True, most: int = _COMPONENTS, seed: int = 0
) -> Margins:
    """Return the projection on the largest principal components of some rows.

    Args:
        own: shape (rows, features), float64.
        whitened: divide each component by its deviation; otherwise all by the largest one.
        most: components; never more than a third of the rows.
        seed: of the rows that are used where there are many.
    """
    mean = own.mean(axis=0)
    centred = own - mean
    if len(centred) > _MOST_FOR_COMPONENTS:
        some = child(seed, "components").choice(len(centred), _MOST_FOR_COMPONENTS, replace=False)
        centred = centred[np.sort(some)]
    if centred.shape[1] <= len(centred):
        spectrum, directions = np.linalg.eigh(centred.T @ centred)
    else:
        spectrum, vectors = np.linalg.eigh(centred @ centred.T)
        directions = centred.T @ vectors / np.sqrt(np.maximum(spectrum, _SAME))
    order = np.argsort(spectrum)[::-1][: min(most, max(1, len(centred) // 3))]
    order = order[spectrum[order] > 1e-9 * max(float(spectrum.max()), _SAME)]
    deviations = np.sqrt(np.maximum(spectrum[order], 0.0) / len(centred))
    scale = deviations if whitened else np.full(len(order), deviations.max(initial=_SAME))
    turned = directions[:, order] / scale
    return lambda features: np.asarray((np.asarray(features, np.float64) - mean) @ turned)


def _weights(own: Array, wanted: Array) -> Iterator[Array]:
    """Yield the ridge weights for each smoothness, shape (features, targets)."""
    if not own.shape[1]:
        yield np.zeros((0, wanted.shape[1]))
        return
    spectrum, vectors = np.linalg.eigh(own.T @ own)
    turned = vectors.T @ (own.T @ wanted)
    level = max(float(spectrum.max()), _SAME)
    for smoothness in _SMOOTHNESS:
        yield vectors @ (turned / (np.maximum(spectrum, 0.0) + smoothness * level)[:, None])


def _areas(margins: Array, wanted: Array, blocks: Numbers) -> Array:
    """Return the mean area of each block of targets; 1/2 where a class is missing."""
    each = np.array([auroc(truth, score) for truth, score in zip(wanted.T, margins.T, strict=True)])
    each = np.nan_to_num(each, nan=0.5)
    return np.bincount(blocks, weights=each) / np.bincount(blocks)


def _boosted(values: Array, hot: Array, fit: Numbers, valid: Numbers, seed: int) -> Margins:
    """Return trees for each class against the rest; two classes share theirs."""
    columns = range(hot.shape[1]) if hot.shape[1] > 2 else [1]
    parts: dict[int, Margins] = {}
    for column in columns:
        if 0 < hot[fit, column].sum() < len(fit):
            parts[column] = fit_boosting(
                values[fit], hot[fit, column], values[valid], hot[valid, column], seed=seed
            )

    def margins(features: npt.ArrayLike) -> Array:
        asked = _checked(features)
        found = np.zeros((len(asked), hot.shape[1]))
        for column, part in parts.items():
            found[:, column] = part(asked)
        if hot.shape[1] == 2:
            found[:, 0] = -found[:, 1]
        return found

    return margins


def _distances(first: Array, second: Array) -> Array:
    """Return squared distances, shape (first, second)."""
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None] - 2 * first @ second.T
    return np.asarray(np.maximum(squares, 0.0))


def _checked(features: npt.ArrayLike) -> Array:
    values = np.asarray(features, dtype=np.float64)
    values = values.reshape(len(values), -1)
    if not np.isfinite(values).all():
        raise DataError(expected("finite features", got="NaN or infinity", where="attack"))
    return values
