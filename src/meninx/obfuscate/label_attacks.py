"""Attacks on what is published together: released images, or codes, and the table's columns beside them.

Images that say nothing alone may say a lot with the columns (labels and attributes): if image and attribute
are independent, but not within patients who have a finding. Products of both let a linear attack see that.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from meninx.core.obfuscation_records import AttackerRecord
from meninx.core.randomness import child, child_seed
from meninx.metrics.vector_attacks import VECTOR_ATTACKS, fit_vector_attack, principal_components
from meninx.obfuscate.attack_measurement import Judge
from meninx.obfuscate.obfuscator import Values
from meninx.obfuscate.release_attacks import Attempt, flat_values
from meninx.obfuscate.release_question import AttackRows, ReleaseQuestion

Array = npt.NDArray[np.float64]
CODE, NEW_PATIENTS = "code", "code, learned from new patients"
COLUMNS = "published columns"
_COMPONENTS, _MOST_PRODUCTS = 20, 2000
_SEEDS, _FOLDS = 1 << 31, 5


def attack_codes(question: ReleaseQuestion, rows: AttackRows, judge: Judge) -> tuple[AttackerRecord, ...]:
    """Return the attackers of the released codes themselves; none for a method without codes.

    On the patients that the codes were fitted on, code and attribute are made independent, so that an
    attacker who learns from these patients finds too little. A second attacker learns from patients of the
    validation and test splits, by folds of patients.
    """
    hot = _one_hot(question)
    if hot is None:
        return ()
    first = _variants(CODE, "released codes", hot, question, rows, judge)
    seed = child_seed(question.seed, "attacker", NEW_PATIENTS) % _SEEDS
    words = "released codes of other patients that nothing was fitted on"
    tried = [
        Attempt(NEW_PATIENTS, f"{words}, by {kind}", _of_new_patients(kind, hot, rows, seed), variant=kind)
        for kind in VECTOR_ATTACKS
    ]
    return (*first, *judge.variants(tried))


def attack_columns(question: ReleaseQuestion, rows: AttackRows, judge: Judge) -> tuple[AttackerRecord, ...]:
    """Return the attackers of the published columns alone; none where nothing is published."""
    if not _publishes(question):
        return ()
    return _variants(COLUMNS, COLUMNS, _known(question), question, rows, judge)


def attack_with_columns(
    question: ReleaseQuestion, released: Values, rows: AttackRows, judge: Judge
) -> tuple[AttackerRecord, ...]:
    """Return the attackers of images and codes together with the published columns.

    Args:
        question: the release; without published columns there is nothing to attack.
        released: the published values.
        rows: who attacks whom.
        judge: measures them.
    """
    if not _publishes(question):
        return ()
    labels = _known(question)
    flat = flat_values(released)
    project = principal_components(flat[rows.train], most=_COMPONENTS)
    parts = [(f"{question.subject} and {COLUMNS}", _together(project(flat), labels))]
    hot = _one_hot(question)
    if hot is not None:
        parts.append((f"{CODE} and {COLUMNS}", _together(hot, labels)))
    found = (_variants(name, name, values, question, rows, judge) for name, values in parts)
    return tuple(itertools.chain.from_iterable(found))


def _variants(
    name: str, knows: str, features: Array, question: ReleaseQuestion, rows: AttackRows, judge: Judge
) -> tuple[AttackerRecord, ...]:
    seed = child_seed(question.seed, "attacker", name) % _SEEDS

    def tried() -> Iterator[Attempt]:
        for kind in VECTOR_ATTACKS:
            attack = fit_vector_attack(kind, features, rows.classes, rows.train, rows.valid, seed=seed)
            yield Attempt(name, f"{knows}, by {kind}", rows.widened(attack(features)), variant=kind)

    return judge.variants(tried())


def _of_new_patients(kind: str, features: Array, rows: AttackRows, seed: int) -> Array:
    """Return margins of the rows that are chosen on and attacked, each by an attacker of other such patients.

    Patients of every class are dealt to the folds. In turn one fold is attacked, one chooses the strength of
    the attacker, and the others train it.
    """
    new = np.concatenate([rows.valid, rows.test])
    people, first = np.unique(rows.patient[new], return_index=True)
    fold = np.zeros(int(rows.patient.max()) + 1, dtype=np.int64)
    order = child(seed, "folds of new patients").permutation(len(people))
    order = order[np.argsort(rows.classes[new[first]][order], kind="stable")]
    fold[people[order]] = np.arange(len(people)) % _FOLDS
    place = fold[rows.patient]
    margins = np.zeros((len(features), len(rows.names)))
    for held in range(_FOLDS):
        choosing = (held + 1) % _FOLDS
        train = new[(place[new] != held) & (place[new] != choosing)]
        attack = fit_vector_attack(
            kind, features, rows.classes, train, new[place[new] == choosing], seed=seed
        )
        asked = new[place[new] == held]
        margins[asked] = rows.widened(attack(features))[asked]
    return margins


def _together(first: Array, labels: Array) -> Array:
    """Return both and their products, as far as these are not too many."""
    few = labels[:, : max(1, _MOST_PRODUCTS // max(1, first.shape[1]))]
    products = (first[:, :, None] * (few - few.mean(axis=0))[:, None, :]).reshape(len(first), -1)
    return np.concatenate([first, labels, products], axis=1)


def _known(question: ReleaseQuestion) -> Array:
    """Return all published columns, an unknown value as one half, and which are unknown, where any is."""
    columns = (*question.original.labels.values(), *question.original.published.values())
    labels = np.stack([np.asarray(column, np.float64) for column in columns], axis=1)
    unknown = np.isnan(labels)
    some = unknown[:, unknown.any(axis=0)].astype(np.float64)
    return np.concatenate([np.where(unknown, 0.5, labels), some], axis=1)


def _publishes(question: ReleaseQuestion) -> bool:
    return bool(question.original.labels or question.original.published)


def _one_hot(question: ReleaseQuestion) -> Array | None:
    if question.codes is None:
        return None
    codes = question.codes.reshape(len(question.codes), -1)
    hot = np.concatenate([column[:, None] == np.unique(column) for column in codes.T], axis=1)
    return np.asarray(hot, dtype=np.float64)
