"""Whether images of one patient are recognised as such, before and after a release.

Attacks are fitted on the training split: whitened pixels or edge directions, each also after a whitening of
what differs between images of one patient. The validation split chooses among them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from meninx.core.errors import DataError
from meninx.core.obfuscation_records import ReidentificationRecord
from meninx.core.randomness import child_seed
from meninx.metrics.classification import auroc
from meninx.metrics.descriptors import DESCRIPTIONS, fit_description, fit_whitening, unit_rows
from meninx.metrics.linkage import Owners, measure_linkage
from meninx.obfuscate.obfuscator import ImageTable, Values
from meninx.obfuscate.release_attacks import coarse_images
from meninx.obfuscate.release_question import DrawCache, ReleaseQuestion

Array = npt.NDArray[np.float32]
Embedding = Callable[[Values], Array]
ORIGINAL, RELEASED, LABELS = "original", "released", "labels"
_KEPT = 0.1  # share of the mean variance that is added before directions are divided by theirs
_IMAGE_AXES, _SEEDS = 4, 1 << 31


def measure_reidentification(
    question: ReleaseQuestion, draws: DrawCache
) -> tuple[ReidentificationRecord, ...]:
    """Return verification of patients in original images, in released ones, and by their labels alone.

    Args:
        question: the release.
        draws: its draws.
    """
    table, seed = question.original, child_seed(question.seed, "re-identification") % _SEEDS
    found = [_of_images(ORIGINAL, table, table.values, seed), _of_images(RELEASED, table, draws(0), seed)]
    if table.labels:
        test = table.select(table.where("test"))
        columns = np.stack([np.asarray(column, dtype=np.float64) for column in test.labels.values()], axis=1)
        known = np.nan_to_num(columns, nan=0.5)
        apart = np.abs(known[:, None] - known[None]).sum(axis=2)
        found.append(_measured(LABELS, test, -apart, seed))
    return tuple(found)


def _of_images(subject: str, table: ImageTable, values: Values, seed: int) -> ReidentificationRecord:
    """Return what the attack finds in some images that the validation split chooses."""
    there = replace(table, values=coarse_images(values) if values.ndim == _IMAGE_AXES else values)
    train, valid, test = (there.select(table.where(name)) for name in ("train", "valid", "test"))
    best, chosen = -1.0, None
    try:
        for embed in _embeddings(train):
            area = _verification(embed(valid.values), valid.patients)
            if area > best:
                best, chosen = area, embed
    except DataError:  # images that do not differ
        return ReidentificationRecord(subject=subject, refusal="the images do not differ")
    assert chosen is not None
    vectors = chosen(test.values)
    return _measured(subject, test, vectors @ vectors.T, seed)


def _measured(subject: str, test: ImageTable, similarity: npt.ArrayLike, seed: int) -> ReidentificationRecord:
    owners = Owners(patients=test.patients, images=test.cases)
    found = measure_linkage(subject, similarity, owners, seed=seed, permutations=1)
    if found.refusal:
        return ReidentificationRecord(subject=subject, patients=found.patients, refusal=found.refusal)
    return ReidentificationRecord(
        subject=subject, auroc=found.auc, low=found.auc_low, high=found.auc_high, patients=found.patients
    )


def _embeddings(train: ImageTable) -> list[Embedding]:
    """Return maps to unit vectors, fitted on the training images."""
    if train.values.ndim == 2:
        bare: list[Embedding] = [fit_whitening(train.values)]
    else:
        bare = [fit_description(kind, train.values) for kind in DESCRIPTIONS]
    return [*bare, *(_within(embed, train) for embed in bare)]


def _within(embed: Embedding, train: ImageTable) -> Embedding:
    """Return an embedding in which images of one training patient differ alike in all directions."""
    vectors = embed(train.values).astype(np.float64)
    _, index = np.unique(np.array(train.patients, dtype=object).astype(str), return_inverse=True)
    count = np.bincount(index)
    sums = np.zeros((len(count), vectors.shape[1]))
    np.add.at(sums, index, vectors)
    inside = vectors - (sums / count[:, None])[index]
    scatter = inside.T @ inside / max(1, len(vectors) - len(count))
    level = max(float(np.trace(scatter)) / len(scatter), 1e-12)
    spectrum, directions = np.linalg.eigh(scatter + _KEPT * level * np.eye(len(scatter)))
    turned = directions / np.sqrt(spectrum)
    return lambda values: unit_rows(embed(values) @ turned)


def _verification(vectors: Array, patients: tuple[str, ...]) -> float:
    """Return the area of telling pairs of one patient from others; 0 where there is no such pair."""
    above = np.triu_indices(len(vectors), 1)
    names = np.array(patients, dtype=object).astype(str)
    same = (names[:, None] == names[None])[above].astype(np.float64)
    area = auroc(same, (vectors @ vectors.T)[above])
    return 0.0 if np.isnan(area) else float(area)
