"""What a release costs: utility models on originals and on released images, and what their outputs tell.

Two regimes: ``drop-in`` asks models of originals about released images, ``retrained`` trains them on released
ones. Both are compared with models of originals on originals, for the same patients of the test split.
Features have two more: ``drop-in head`` asks the last layer of the network that they come from, and
``retrained linear`` compares ridge regressions alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meninx.core.obfuscation_records import AttackerRecord, UtilityLossRecord
from meninx.core.randomness import child_seed
from meninx.learn.release_attackers import Sides, families_of, fit_release_network, label_task
from meninx.metrics.attribute_inference import infer_attribute
from meninx.metrics.bootstrap import BinaryProblem, Draws, Measured, measure
from meninx.metrics.classification import auroc
from meninx.metrics.groups import INSUFFICIENT, sufficient
from meninx.metrics.intervals import folded_ends
from meninx.metrics.paired_difference import difference
from meninx.metrics.vector_attacks import fit_ridge
from meninx.obfuscate.obfuscator import Values
from meninx.obfuscate.release_attacks import flat_values
from meninx.obfuscate.release_question import AttackRows, DrawCache, ReleaseQuestion

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
DROP_IN, RETRAINED = "drop-in", "retrained"
HEAD, LINEAR = "drop-in head", "retrained linear"
_RESIDUAL = 1  # place of the residual network among those for images
_MOST_FITTED = 1500
_SEEDS = 1 << 31


@dataclass(frozen=True, eq=False)
class UtilityModel:
    """A model of every label: for each the network or a ridge regression, as the validation split chooses.

    Attributes:
        network: from images to logits (rows, labels).
        linear: the ridge regression.
        chosen: from images to scores (rows, labels).
    """

    network: Callable[[Values], Array]
    linear: Callable[[Values], Array]
    chosen: Callable[[Values], Array]


def measure_utility(
    question: ReleaseQuestion, draws: DrawCache, rows: AttackRows
) -> tuple[tuple[UtilityLossRecord, ...], tuple[AttackerRecord, ...]]:
    """Return what the release costs for each label, and what the models' outputs tell of the attribute.

    Args:
        question: the release.
        draws: its draws.
        rows: classes of the attribute; labels are measured in each of them and in all.
    """
    table = question.original
    if not table.labels:
        return (), ()
    original, released = table.values, draws(0)
    truth = np.stack([np.asarray(table.labels[name], dtype=np.float64) for name in table.labels], axis=1)
    clean = _fitted(question, lambda number: original, truth, "utility of originals")
    again = _fitted(question, draws, truth, "utility of the release")
    before = clean.chosen(original)
    pairs = {DROP_IN: (before, clean.chosen(released)), RETRAINED: (before, again.chosen(released))}
    leaks = [
        _leak("outputs of a model of originals", clean.network(original), question, rows),
        _leak("outputs of a model of the release", again.network(released), question, rows),
    ]
    if question.subject == "features":
        pairs[LINEAR] = (clean.linear(original), again.linear(released))
        if question.head is not None:
            pairs[HEAD] = (question.head(original), question.head(released))
            leaks.append(_leak("outputs of the head on the release", pairs[HEAD][1], question, rows))
    return tuple(_losses(question, rows, truth, pairs)), tuple(leaks)


def _fitted(
    question: ReleaseQuestion, draws: Callable[[int], Values], truth: Array, purpose: str
) -> UtilityModel:
    """Return the models of all labels, trained on the attackers' rows of some draws."""
    table, values = question.original, draws(0)
    fitted = np.zeros(len(table), dtype=bool) if question.fitted is None else question.fitted
    sides = Sides(np.flatnonzero(table.where("train") & ~fitted), np.flatnonzero(table.where("valid")))
    families = families_of(values.ndim)
    seed = child_seed(question.seed, purpose) % _SEEDS
    network = fit_release_network(
        families[min(_RESIDUAL, len(families) - 1)], draws, truth, sides,
        task=label_task(tuple(table.labels)), epochs=question.attacks.attack_epochs, seed=seed,
        device=question.device,
    )  # fmt: skip
    filled = _filled(truth, sides.train)
    blocks = np.arange(truth.shape[1])
    ridges = [
        fit_ridge(kind, flat_values(values), filled, sides.train, sides.valid, blocks=blocks, seed=seed)
        for kind in ("linear", "kernel")
    ]
    models: list[Callable[[Values], Array]] = [
        lambda asked: np.asarray(network(asked), dtype=np.float64),
        *(lambda asked, ridge=ridge: ridge(flat_values(asked)) for ridge in ridges),
    ]
    areas = np.array([_areas(model(values), truth, sides.valid) for model in models])
    best = areas.argmax(axis=0)

    def chosen(asked: Values) -> Array:
        every = [model(asked) for model in models]
        return np.stack([every[number][:, label] for label, number in enumerate(best)], axis=1)

    return UtilityModel(models[0], models[1], chosen)


def _losses(
    question: ReleaseQuestion, rows: AttackRows, truth: Array, pairs: dict[str, tuple[Array, Array]]
) -> Iterator[UtilityLossRecord]:
    """Yield the losses of each label and regime, for all patients and for those of each class.

    Args:
        question: the release.
        rows: classes of the attribute.
        truth: shape (rows, labels).
        pairs: regime -> scores of originals and of the release, each of shape (rows, labels).
    """
    table = question.original
    test = np.flatnonzero(table.where("test"))
    people, index = np.unique(rows.patient[test], return_inverse=True)
    index = index.astype(np.int64)
    strata = np.full(len(people), -1, dtype=np.int64)
    strata[index[::-1]] = rows.classes[test][::-1]
    draws = Draws(index, seed=child_seed(question.seed, "patients of the utility"), strata=strata)
    groups = ["", *rows.names]
    for label, name in enumerate(table.labels):
        for group, who in enumerate(groups):
            inside = rows.classes[test] == group - 1 if group else np.ones(len(test), dtype=bool)
            asked = np.where(inside, truth[test, label], np.nan)
            patients = int(np.unique(index[~np.isnan(asked)]).size)
            if not sufficient(asked, index):
                for regime in pairs:
                    yield UtilityLossRecord(
                        label=name, regime=regime, group=who, patients=patients, refusal=INSUFFICIENT
                    )
                continue
            columns = [side[test, label] for pair in pairs.values() for side in pair]
            found = measure([BinaryProblem(asked, one, None, ("auroc",)) for one in columns], draws)
            for place, regime in enumerate(pairs):
                yield _loss(name, regime, who, patients, found[2 * place], found[2 * place + 1])


def _loss(
    label: str, regime: str, group: str, patients: int, before: Measured, after: Measured
) -> UtilityLossRecord:
    low, high = difference(before, after).ends["auroc"]
    first, second = before.values["auroc"], after.values["auroc"]
    return UtilityLossRecord(
        label=label, regime=regime, group=group, clean=first, released=second, loss=first - second,
        loss_low=min(low, first - second), loss_high=max(high, first - second), patients=patients,
    )  # fmt: skip


def _leak(name: str, outputs: Array, question: ReleaseQuestion, rows: AttackRows) -> AttackerRecord:
    """Return what outputs for patients that the model was not trained on tell of the attribute."""
    table = question.original
    asked = np.flatnonzero(table.where("valid", "test"))
    kinds = rows.classes[asked]
    found = infer_attribute(
        outputs[asked],
        [rows.names[kind] if kind >= 0 else "" for kind in kinds],
        patients=[table.patients[row] for row in asked],
        permutations=max(1, question.attacks.permutations),
        most_fitted=_MOST_FITTED,
        seed=child_seed(question.seed, "output leak") % _SEEDS,
    )
    words = "logits of all labels for patients of the validation and test splits, by folds"
    if found.refusal:
        return AttackerRecord(name=name, knows=words, patients=found.patients, refusal=found.refusal)
    low, high = folded_ends((found.auroc_low, found.auroc_high))
    return AttackerRecord(
        name=name, knows=words, auroc=found.auroc, low=low, high=high,
        patients=found.patients, classes=rows.of_patients(asked),
    )  # fmt: skip


def _filled(truth: Array, train: Numbers) -> Array:
    """Return the labels with unknown ones of training rows at the mean of the known ones."""
    known = ~np.isnan(truth[train])
    sums = np.where(known, truth[train], 0.0).sum(axis=0)
    mean = sums / np.maximum(known.sum(axis=0), 1)
    filled = truth.copy()
    filled[train] = np.where(known, truth[train], mean)
    return filled


def _areas(scores: Array, truth: Array, valid: Numbers) -> list[float]:
    """Return the area of each label on the validation rows; 1/2 where it is undefined."""
    pairs = zip(truth[valid].T, scores[valid].T, strict=True)
    return [0.5 if np.isnan(area := auroc(known, score)) else float(area) for known, score in pairs]
