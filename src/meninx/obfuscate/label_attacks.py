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
from meninx.core.randomness import child_seed
from meninx.metrics.vector_attacks import VECTOR_ATTACKS, fit_vector_attack, principal_components
from meninx.obfuscate.attack_measurement import Judge
from meninx.obfuscate.obfuscator import Values
from meninx.obfuscate.release_attacks import Attempt, flat_values
from meninx.obfuscate.release_question import AttackRows, ReleaseQuestion

Array = npt.NDArray[np.float64]
CODE = "code"
COLUMNS = "published columns"
_COMPONENTS, _MOST_PRODUCTS = 20, 2000
_SEEDS = 1 << 31


def attack_codes(question: ReleaseQuestion, rows: AttackRows, judge: Judge) -> tuple[AttackerRecord, ...]:
    """Return the attackers of the released codes themselves; none for a method without codes."""
    hot = _one_hot(question)
    return () if hot is None else _variants(CODE, "released codes", hot, question, rows, judge)


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
