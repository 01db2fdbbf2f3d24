"""Attacks on what is published together: released images, or codes, and the true labels beside them.

Images that say nothing alone may say a lot with the labels: if image and attribute are independent, but not
within patients who have a finding. Products of both let a linear attack see that.
"""

from __future__ import annotations

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
_LABELS, _CODES = "labels", "code and labels"
_COMPONENTS, _MOST_PRODUCTS = 20, 2000
_SEEDS = 1 << 31


def attack_codes(question: ReleaseQuestion, rows: AttackRows, judge: Judge) -> AttackerRecord | None:
    """Return the best attacker of the released codes themselves; None for a method without codes."""
    hot = _one_hot(question)
    return None if hot is None else _best(CODE, "released codes", hot, question, rows, judge)


def attack_with_labels(
    question: ReleaseQuestion, released: Values, rows: AttackRows, judge: Judge
) -> tuple[AttackerRecord, ...]:
    """Return the best attackers of the labels, and of images and codes with the labels.

    Args:
        question: the release; without labels there is nothing to attack.
        released: the published values.
        rows: who attacks whom.
        judge: measures them.
    """
    if not question.original.labels and not question.original.published:
        return ()
    labels = _known(question)
    parts = [(_LABELS, labels)]
    flat = flat_values(released)
    project = principal_components(flat[rows.train], most=_COMPONENTS)
    parts.append((f"{question.subject} and labels", _together(project(flat), labels)))
    hot = _one_hot(question)
    if hot is not None:
        parts.append((_CODES, _together(hot, labels)))
    return tuple(_best(name, f"published {name}", values, question, rows, judge) for name, values in parts)


def _best(
    name: str, knows: str, features: Array, question: ReleaseQuestion, rows: AttackRows, judge: Judge
) -> AttackerRecord:
    seed = child_seed(question.seed, "attacker", name) % _SEEDS

    def tried() -> Iterator[Attempt]:
        for kind in VECTOR_ATTACKS:
            attack = fit_vector_attack(kind, features, rows.classes, rows.train, rows.valid, seed=seed)
            yield Attempt(name, f"{knows}, by {kind}", rows.widened(attack(features)))

    return judge.of(judge.best(tried()))


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


def _one_hot(question: ReleaseQuestion) -> Array | None:
    if question.codes is None:
        return None
    codes = question.codes.reshape(len(question.codes), -1)
    hot = np.concatenate([column[:, None] == np.unique(column) for column in codes.T], axis=1)
    return np.asarray(hot, dtype=np.float64)
