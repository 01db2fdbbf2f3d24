"""How much more of an attribute is inferred about members than about strangers, and than from labels alone.

::

    >>> rng = np.random.default_rng(0)
    >>> values = ["F" if coin else "M" for coin in rng.integers(0, 2, 120)]
    >>> features = rng.normal(size=(120, 4)) + 2.0 * np.array([[value == "F"] for value in values])
    >>> member = np.arange(120) < 60
    >>> found = measure_attribute("sex", "logits", features, values, member, permutations=99).record
    >>> found.accuracy > found.prior, found.p_value
    (True, 0.01)
    >>> found.advantage_p > 0.05  # strangers are as easy as members
    True
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from meninx.core.attribute_records import AttributeRecord, LeakRecord
from meninx.core.errors import DataError, expected
from meninx.core.proportions import clopper_pearson
from meninx.core.randomness import child
from meninx.metrics import intervals
from meninx.metrics.attribute_attacks import FOLDS, PERMUTATIONS
from meninx.metrics.attribute_inference import LEAST_PATIENTS, infer_attribute

Array = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
_DRAWS, _SHUFFLES = 1000, 9999
_SAME = 1e-12
Bound = Callable[[float], float]
"""From the success of an attack without a patient to the largest that a guarantee allows with the patient."""


@dataclass(frozen=True)
class Inferred:
    """An attack on one attribute, and which patients it was right about.

    Attributes:
        record: its numbers.
        right: shape (patients,), 1, 0, or NaN for a patient without one of the values; empty where refused.
    """

    record: AttributeRecord
    right: Array


def measure_attribute(
    attribute: str,
    signal: str,
    features: npt.ArrayLike,
    values: Sequence[str],
    member: npt.ArrayLike,
    *,
    labels: Inferred | None = None,
    folds: int = FOLDS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Inferred:
    """Return what an attack on one attribute reaches, or the reason why there is no number.

    Args:
        attribute: its name.
        signal: what the attacker sees.
        features: one row per patient, shape (patients, features).
        values: the attribute of each patient; empty where unknown.
        member: whether the patient took part in the training, shape (patients,).
        labels: the attack on true labels alone, of the same patients.
        folds: each patient is judged by an attack fitted on the other folds.
        permutations: of the null.
        seed: public seed.
    """
    inside = np.asarray(member, dtype=bool)
    found = infer_attribute(
        features, values, member=inside, folds=folds, permutations=permutations, seed=seed
    )
    empty = AttributeRecord(attribute=attribute, signal=signal, classes=found.classes, refusal=found.refusal)
    if found.refusal:
        return Inferred(empty, found.right)
    rows = np.flatnonzero(found.truth >= 0)
    truth, inside, right = found.truth[rows], inside[rows], found.right[rows] == 1
    record = replace(
        empty,
        attack=found.attack,
        members=int(inside.sum()),
        others=int((~inside).sum()),
        prior=found.prior,
        accuracy=found.accuracy,
        accuracy_low=found.accuracy_low,
        accuracy_high=found.accuracy_high,
        auroc=found.auroc,
        auroc_low=found.auroc_low,
        auroc_high=found.auroc_high,
        null_high=found.null_high,
        p_value=found.p_value,
    )
    record = _against_strangers(record, right, inside, truth, seed)
    if labels is not None and len(labels.right) == len(found.right):
        record = _against_labels(record, found.right[rows] - labels.right[rows], seed)
    return Inferred(record, found.right)


def bounded(record: AttributeRecord, most: Bound, significance: float) -> AttributeRecord:
    """Return a record with the largest success among members that a guarantee allows.

    What the attack reaches among others is its success without the patient. Both shares are uncertain: the
    record says ``excess`` only if the lower limit among members is above what is allowed at the upper limit
    among others.

    Args:
        record: of an attack on a released model.
        most: see :data:`Bound`.
        significance: largest probability of an unjust ``excess``.
    """
    if record.on_members is None or record.on_others is None:
        return record
    level = 1 - significance  # one half of it on each side of both intervals, of which one side each counts
    least, _ = clopper_pearson(record.on_members * record.members, record.members, level)
    _, imputed = clopper_pearson(record.on_others * record.others, record.others, level)
    return replace(record, bound=most(record.on_others), excess=least > most(imputed) + _SAME)


def bounded_by_prior(record: AttributeRecord, most: Bound, significance: float) -> AttributeRecord:
    """Return a record with the largest success that noise allows an attacker who knows the prior alone."""
    if record.accuracy is None or record.prior is None:
        return record
    count = record.members + record.others
    least, _ = clopper_pearson(record.accuracy * count, count, 1 - 2 * significance)
    allowed = most(record.prior)
    return replace(record, bound=allowed, excess=least > allowed + _SAME)


def measure_leak(
    signal: str, bias: npt.ArrayLike, targets: npt.ArrayLike, *, one_class: bool, most: Bound | None = None
) -> LeakRecord:
    """Return how many labels the sign of the last bias gradient tells.

    Args:
        signal: what the attacker sees.
        bias: gradient of the last bias on one image of each patient, shape (patients, labels).
        targets: labels of that image, 1, 0 or NaN (unknown), same shape.
        one_class: exactly one label is present, so that the most negative number names it.
        most: what the noise allows; None without noise.

    Raises:
        DataError: shapes that differ.
    """
    slopes, truth = np.asarray(bias, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if slopes.shape != truth.shape or slopes.ndim != 2:
        raise DataError(expected(f"labels of shape {slopes.shape}", got=truth.shape, where=signal))
    if len(slopes) < LEAST_PATIENTS:
        needed = f"{LEAST_PATIENTS} needed, {len(slopes)} there"
        return LeakRecord(signal=signal, patients=len(slopes), refusal=f"too few patients: {needed}")
    if one_class:
        right = (slopes.argmin(axis=1) == truth.argmax(axis=1)).astype(np.float64)
        of = np.ones(len(right))
        prior = float(np.nanmean(truth, axis=0).max())
    else:
        known = ~np.isnan(truth)
        right, of = (((slopes < 0) == (truth == 1)) & known).sum(axis=1), known.sum(axis=1)
        present = (truth == 1).sum(axis=0)
        prior = float(np.maximum(present, known.sum(axis=0) - present).sum() / max(1, known.sum()))
    low, high = intervals.rate_interval(np.asarray(right, np.float64), np.asarray(of, np.float64))
    return LeakRecord(
        signal=signal,
        patients=len(slopes),
        prior=prior,
        accuracy=float(right.sum() / of.sum()),
        accuracy_low=low,
        accuracy_high=high,
        bound=most(prior) if most is not None and one_class else None,
    )


def _against_strangers(
    record: AttributeRecord, right: Bits, inside: Bits, truth: Numbers, seed: int
) -> AttributeRecord:
    """Return a record with the shares among members and others, and their difference.

    The null permutes membership among the patients with the same value, because a value may be easier than
    another and more frequent among members.
    """
    hits = [int(right[part].sum()) for part in (inside, ~inside)]
    sizes = [record.members, record.others]
    shares = [hit / size for hit, size in zip(hits, sizes, strict=True)]
    ends = [clopper_pearson(hit, size) for hit, size in zip(hits, sizes, strict=True)]
    low, high = intervals.combined_interval((shares[0], shares[1]), ends[0], ends[1], signs=(1, -1))
    rng, drawn = child(seed, "permuted membership"), np.zeros(_SHUFFLES)
    for number in np.unique(truth):
        there = truth == number
        found = int(right[there].sum())
        drawn += rng.hypergeometric(
            found, int(there.sum()) - found, int((there & inside).sum()), size=_SHUFFLES
        )
    null = drawn / sizes[0] - (sum(hits) - drawn) / sizes[1]
    return replace(
        record,
        on_members=shares[0],
        on_members_low=ends[0][0],
        on_members_high=ends[0][1],
        on_others=shares[1],
        on_others_low=ends[1][0],
        on_others_high=ends[1][1],
        advantage=shares[0] - shares[1],
        advantage_low=low,
        advantage_high=high,
        advantage_p=float((1 + (null >= shares[0] - shares[1] - _SAME).sum()) / (1 + _SHUFFLES)),
    )


def _against_labels(record: AttributeRecord, difference: Array, seed: int) -> AttributeRecord:
    """Return a record with the gain over the labels alone, on the same patients."""
    rng = child(seed, "patients over labels")
    drawn = difference[rng.integers(0, len(difference), size=(_DRAWS, len(difference)))].mean(axis=1)
    low, high = intervals.percentile_interval(drawn)
    value = float(difference.mean())
    return replace(
        record, over_labels=value, over_labels_low=min(low, value), over_labels_high=max(high, value)
    )
