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
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from meninx.core import check
from meninx.core.audit_records import AttackRecord, GroupRecord, OperatingPoint
from meninx.core.errors import ConfigError, DataError, expected, problem
from meninx.core.proportions import clopper_pearson, lower_limit
from meninx.core.randomness import child
from meninx.metrics import groups, intervals
from meninx.metrics.bootstrap import Areas, Draws
from meninx.metrics.classification import Ranking

Array = npt.NDArray[np.float64]
FPRS = (0.1, 0.01, 0.001)
NON_MEMBERS_TIMES_FPR = 10
"""A false positive rate needs at least this number, divided by the rate, of non-members."""
_TESTED_SHARES = (*FPRS, 0.25, 0.5)
"""Shares of the non-members above the thresholds of the test against a guarantee."""
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
    rank = threshold_rank(fpr, len(outside))
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


def compared(
    record: AttackRecord,
    members: npt.ArrayLike,
    others: npt.ArrayLike,
    most: Callable[[float], float],
    most_area: float,
    *,
    significance: float = 0.05,
) -> AttackRecord:
    """Return the record of an attack with what its test against a guarantee counts and finds.

    Args:
        record: of the attack.
        members: its scores of members, shape (members,).
        others: its scores of non-members, shape (others,).
        most: false positive rate -> largest true positive rate that the guarantee allows.
        most_area: largest area under the ROC curve that it allows.
        significance: largest probability of an excess although the guarantee holds.

    Guarantee: that of :func:`counts_exceed`.
    """
    inside, outside = _scores(members, "members"), np.sort(_scores(others, "non-members"))
    above = tuple(int((inside > outside[-rank]).sum()) for rank in threshold_ranks(len(outside)))
    counted = replace(record, above=above)
    return replace(counted, excess=counts_exceed(counted, most, most_area, significance=significance))


def threshold_ranks(others: int) -> tuple[int, ...]:
    """Return which of the highest scores of non-members are the thresholds of the test against a guarantee.

    They follow from the number of non-members alone, so no score chooses them.

    >>> threshold_ranks(60), threshold_ranks(2000)
    ((1, 7, 16, 31), (3, 21, 201, 501, 1001))
    """
    return tuple(sorted({threshold_rank(share, others) for share in _TESTED_SHARES}))


def counts_exceed(
    record: AttackRecord, most: Callable[[float], float], most_area: float, *, significance: float
) -> bool | None:
    """Return whether an attack exceeds what a guarantee allows; None where so few patients cannot show it.

    The members above each threshold and the false positive rate of the threshold have exact limits, which are
    compared with the whole curve of the guarantee. This includes its largest TPR - FPR, which is a point of
    the curve. The area has the limit of :func:`least_area`. Only counts are read, so somebody without the
    scores can repeat the test. Few patients cannot show an excess if an attack that tells all of them apart
    would not.

    Args:
        record: counts of the attack; those of a record without ``above`` are taken from its points.
        most: false positive rate -> largest true positive rate that the guarantee allows.
        most_area: largest area under the ROC curve that it allows.
        significance: largest probability of True although the guarantee holds. A union bound divides it
            among both limits of every threshold and the limit of the area.

    Guarantee: for independent scores of members and of non-members, from one continuous distribution each,
        the probability of True although the guarantee holds is at most ``significance``.
    """
    check.open_unit(significance=significance)
    counts = dict(zip(threshold_ranks(record.others), record.above, strict=False)) or {
        threshold_rank(point.fpr, record.others): round(point.tpr * record.members)
        for point in record.points
        if point.tpr is not None
    }
    each = significance / (2 * len(counts) + 1)

    def is_above(found: Mapping[int, int], area: float) -> bool:
        rates = (
            lower_limit(count, record.members, each) > most(_most_false(rank, record.others, each))
            for rank, count in found.items()
        )
        return least_area(area, record.members, record.others, each) > most_area or any(rates)

    if is_above(counts, record.auc):
        return True
    return False if is_above(dict.fromkeys(counts, record.members), 1.0) else None


def least_area(area: float, members: int, others: int, significance: float) -> float:
    """Return the limit that the true area under the ROC curve is below with at most ``significance``.

    The area of a sample is an average of means of min(members, others) independent pairs, so the bound of
    Chernoff and Hoeffding for such a mean holds for it, whatever the distributions and with ties.

    Args:
        area: of the sample, in [0, 1].
        members: their number, > 0.
        others: their number, > 0.
        significance: in (0, 1).

    References:
        Hoeffding, Journal of the American Statistical Association 58 (1963) 13-30, theorem 1 and section 5.
    """
    allowed = -math.log(significance) / min(members, others)
    low, high = 0.0, area
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _divergence(area, middle) > allowed else (low, middle)
    return low


def _divergence(share: float, truth: float) -> float:
    """Return the relative entropy of two coins, for 0 < ``truth`` < 1 or ``truth`` = ``share``."""
    pairs = ((share, truth), (1 - share, 1 - truth))
    return sum(one * math.log(one / two) if two > 0 else math.inf for one, two in pairs if one > 0)


def threshold_rank(fpr: float, others: int) -> int:
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
