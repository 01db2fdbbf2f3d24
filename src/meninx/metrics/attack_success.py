"""How well a membership attack separates patients that took part from others, with intervals and a null.

All numbers are per patient: they count patients, and intervals resample patients. ::

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> members, others = rng.normal(1.0, 1.0, 500), rng.normal(0.0, 1.0, 500)
    >>> found = measure_attack("rmia", members, others, fprs=(0.1, 0.01))
    >>> round(found.auc, 2), found.auc_low > found.null_high, found.p_value < 0.01
    (0.78, True, True)
    >>> found.points[1].refusal
    'too few non-members: 1000 needed, 500 there'
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from meninx.core import check
from meninx.core.audit_records import AttackRecord, GroupRecord, OperatingPoint
from meninx.core.errors import ConfigError, DataError, expected, problem
from meninx.core.proportions import clopper_pearson
from meninx.core.randomness import child
from meninx.metrics import groups, intervals
from meninx.metrics.bootstrap import Areas, Draws
from meninx.metrics.classification import Ranking

Array = npt.NDArray[np.float64]
FPRS = (0.1, 0.01, 0.001)
NON_MEMBERS_TIMES_FPR = 10
"""A false positive rate needs at least this number, divided by the rate, of non-members."""
LEAST_PATIENTS = groups.MIN_CELL
"""Smallest number of members, and of non-members, behind any result."""
GROUP_REFUSALS = tuple(f"too few {few}: {LEAST_PATIENTS} needed" for few in ("members", "non-members"))
"""Why a group has no number."""
PERMUTATIONS = 999
_DRAWS = 1000


def measure_attack(
    attack: str,
    members: npt.ArrayLike,
    others: npt.ArrayLike,
    *,
    fprs: Sequence[float] = FPRS,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> AttackRecord:
    """Return the success of an attack, from the scores of patients.

    Args:
        attack: name of the attack.
        members: one score per patient that took part, shape (members,).
        others: one score per patient that did not, shape (others,).
        fprs: false positive rates, in (0, 1).
        seed: public seed of resamples and permutations.
        permutations: of the null, >= 1.

    Raises:
        DataError: fewer than ten patients of a kind, or a score that is not finite.
        ConfigError: a false positive rate outside (0, 1).
    """
    inside, outside = _scores(members, "members"), _scores(others, "non-members")
    area, (low, high) = _area(inside, outside, seed)
    null = _null(inside, outside, permutations, seed)
    null_low, null_high = (float(end) for end in np.quantile(null, (0.025, 0.975)))
    return AttackRecord(
        attack=attack,
        members=len(inside),
        others=len(outside),
        auc=area,
        auc_low=low,
        auc_high=high,
        null_low=null_low,
        null_high=null_high,
        p_value=float((1 + (null >= area - 1e-12).sum()) / (1 + permutations)),
        points=tuple(operating_point(inside, outside, fpr) for fpr in fprs),
    )


def operating_point(members: npt.ArrayLike, others: npt.ArrayLike, fpr: float) -> OperatingPoint:
    """Return the true positive rate at a false positive rate, or the reason why there is none.

    The threshold is the lowest score that at most ``fpr`` of the non-members exceed. It does not depend on
    the members, so the interval of Clopper and Pearson is valid for their rate.

    Args:
        members: scores of members, shape (members,).
        others: scores of non-members, shape (others,).
        fpr: in (0, 1); refused with fewer than 10 / ``fpr`` non-members.
    """
    check.open_unit(fpr=fpr)
    inside, outside = _scores(members, "members"), _scores(others, "non-members")
    refusal = refusal_of(fpr, len(outside))
    if refusal:
        return OperatingPoint(fpr=fpr, refusal=refusal)
    rank = _rank(fpr, len(outside))
    above = int((inside > np.sort(outside)[-rank]).sum())
    low, high = clopper_pearson(above, len(inside))
    return OperatingPoint(
        fpr=fpr,
        tpr=above / len(inside),
        low=low,
        high=high,
        fpr_high=_most_false(rank, len(outside), 0.05),
    )


def refusal_of(fpr: float, others: int) -> str:
    """Return why so few non-members give no rate at a false positive rate; empty where they give one.

    >>> refusal_of(0.01, 120), refusal_of(0.1, 120)
    ('too few non-members: 1000 needed, 120 there', '')
    """
    needed = needed_for(fpr)
    return f"too few non-members: {needed} needed, {others} there" if others < needed else ""


def needed_for(fpr: float) -> int:
    """Return the number of non-members that a false positive rate needs."""
    return math.ceil(NON_MEMBERS_TIMES_FPR / fpr - 1e-9)


def exceeds(
    members: npt.ArrayLike,
    others: npt.ArrayLike,
    most: Callable[[float], float],
    *,
    fprs: Sequence[float] = FPRS,
    significance: float = 0.05,
) -> bool:
    """Return whether the attack exceeds what a guarantee allows at any of the false positive rates.

    Rates without enough non-members are left out.

    Args:
        members: scores of members, shape (members,).
        others: scores of non-members, shape (others,).
        most: false positive rate -> largest true positive rate that the guarantee allows.
        fprs: false positive rates, chosen before the scores were seen.
        significance: largest probability of True although the guarantee holds.

    Guarantee: for independent scores of members and of non-members from one continuous distribution each, the
        probability of True although the guarantee holds is at most ``significance``.
    """
    check.open_unit(significance=significance)
    inside, outside = _scores(members, "members"), np.sort(_scores(others, "non-members"))
    used = [fpr for fpr in fprs if len(outside) >= needed_for(fpr)]
    above = {fpr: int((inside > outside[-_rank(fpr, len(outside))]).sum()) for fpr in used}
    return counts_exceed(above, len(inside), len(outside), most, significance=significance)


def counts_exceed(
    above: Mapping[float, int],
    members: int,
    others: int,
    most: Callable[[float], float],
    *,
    significance: float,
) -> bool:
    """Return what :func:`exceeds` does, from counts, as somebody without the scores can.

    Args:
        above: false positive rate -> members above the threshold that it sets among the others.
        members: their number.
        others: their number.
        most: false positive rate -> largest true positive rate that the guarantee allows.
        significance: largest probability of True although the guarantee holds.
    """
    # A union bound: both limits of every rate may err, so each gets an equal share.
    each = significance / (2 * max(1, len(above)))
    for fpr, count in above.items():
        least, _ = clopper_pearson(count, members, level=1 - 2 * each)
        if least > most(_most_false(_rank(fpr, others), others, each)):
            return True
    return False


def _rank(fpr: float, others: int) -> int:
    """Return which of the highest scores of non-members sets the threshold of a false positive rate."""
    return math.floor(fpr * others + 1e-9) + 1


def measure_groups(
    scores: npt.ArrayLike,
    member: npt.ArrayLike,
    attributes: Mapping[str, Sequence[str]],
    *,
    seed: int = 0,
) -> tuple[GroupRecord, ...]:
    """Return the attack within the groups of each attribute.

    Args:
        scores: one per patient, shape (patients,).
        member: whether the patient took part, shape (patients,).
        attributes: name -> value of each patient, empty if unknown; ages in years are binned.
        seed: public seed of the resamples.

    Guarantee: every number is based on at least ten members and ten non-members, and a value of fewer than
        ten patients is not named.

    Raises:
        DataError: lists of different lengths.
    """
    values, bits = np.asarray(scores, dtype=np.float64), np.asarray(member, dtype=bool)
    found = []
    for name, texts in attributes.items():
        if not len(texts) == len(values) == len(bits):
            raise DataError(expected(f"{len(values)} values", got=len(texts), where=name))
        division = groups.grouping(name, list(texts))
        for number, group in enumerate(division.names):
            rows = division.rows(number)
            found.append(_group(name, group, values[rows & bits], values[rows & ~bits], seed))
    return tuple(found)


def _group(attribute: str, group: str, inside: Array, outside: Array, seed: int) -> GroupRecord:
    if min(len(inside), len(outside)) < LEAST_PATIENTS:
        refusal = GROUP_REFUSALS[0 if len(inside) < LEAST_PATIENTS else 1]
        return GroupRecord(attribute=attribute, group=group, refusal=refusal)
    area, (low, high) = _area(inside, outside, seed)
    return GroupRecord(
        attribute=attribute,
        group=group,
        members=len(inside),
        others=len(outside),
        auc=area,
        auc_low=low,
        auc_high=high,
    )


def _scores(values: npt.ArrayLike, kind: str) -> Array:
    """Return the scores of patients of one kind; refuse too few scores, and invalid ones."""
    found = np.asarray(values)
    if found.ndim != 1 or found.dtype.kind not in "fiu":
        got = f"an array of shape {found.shape} and type {found.dtype}"
        raise DataError(expected("one number for each patient", got=got, where=f"scores of {kind}"))
    if len(found) < LEAST_PATIENTS:
        fix = "a membership attack on so few patients says nothing"
        rule = f"at least {LEAST_PATIENTS} patients"
        raise DataError(expected(rule, got=len(found), where=kind, fix=fix))
    numbers = found.astype(np.float64)
    if not np.isfinite(numbers).all():
        bad = int((~np.isfinite(numbers)).sum())
        raise DataError(problem(f"{bad} scores are NaN or infinite", where=f"scores of {kind}"))
    return numbers


def _area(inside: Array, outside: Array, seed: int) -> tuple[float, intervals.Ends]:
    """Return the area under the ROC curve and its interval; resamples keep the numbers of both kinds."""
    scores = np.sort(inside), np.sort(outside)
    truth = np.repeat([1.0, 0.0], [len(inside), len(outside)])
    people = np.arange(len(truth))
    areas = Areas([Ranking.of(truth, np.concatenate(scores))], people)
    value = float(areas.auroc(np.ones((1, len(truth)), dtype=np.int64))[0, 0])
    draws = Draws(people, count=_DRAWS, seed=seed, strata=truth.astype(np.int64))
    samples = np.concatenate([areas.auroc(block)[:, 0] for block in draws.blocks()])
    ends, _ = intervals.edge_interval(value, samples, min(len(inside), len(outside)))
    return value, (min(ends[0], value), max(ends[1], value))


def _null(inside: Array, outside: Array, count: int, seed: int) -> Array:
    """Return the areas with permuted membership, shape (count,)."""
    if count < 1:
        raise ConfigError(expected("permutations >= 1", got=count, where="permutations"))
    ordered = np.sort(np.concatenate([inside, outside]))
    first, last = (np.searchsorted(ordered, ordered, side=side) for side in ("left", "right"))
    ranks = (first + last + 1) / 2
    rng, least = child(seed, "permuted membership"), len(inside) * (len(inside) + 1) / 2
    sums = np.array([rng.permutation(ranks)[: len(inside)].sum() for _ in range(count)])
    return np.asarray((sums - least) / (len(inside) * len(outside)))


def _most_false(rank: int, others: int, significance: float) -> float:
    """Return the upper limit of the false positive rate at the ``rank``-th highest score of non-members.

    The share of all non-members above it is a Beta variable, whatever their distribution.
    """
    return clopper_pearson(rank - 1, others, level=1 - 2 * significance)[1]
