"""The largest AUROC that any attacker reaches on a release that depends on the private attribute by a code.

A release is ``G(code, U)``: a fixed map of the code of an image and of randomness U that is independent of
the image and of the attribute. No attacker, however trained, ranks released images better than one who sees
the codes. The best ranking of M codes is that of their likelihood ratio, so

    A = 1/2 + 1/4 sum_ij |p_i q_j - p_j q_i|  <=  1/2 + TV - TV^2/2,

where p and q are the distributions of the code in two groups and TV is their total variation. The same holds
for 1 - AUROC, the AUROC of the attacker who reverses the ranking. Patients that took no part in fitting the
release estimate A from above:

    >>> rng = np.random.default_rng(0)
    >>> sex = Grouping("sex", ("F", "M"), rng.integers(0, 2, 4000))
    >>> codes = rng.integers(0, 16, 4000)  # equally frequent in both groups
    >>> patients = [f"P{number}" for number in range(4000)]
    >>> (found,) = certify_release(codes, [sex], patients, leaves=16, target=0.6)
    >>> found.met, 0.5 < found.plug_in < found.limit < 0.6
    (True, True)
    >>> part = replace(sex, index=sex.index[:200])
    >>> (few,) = certify_release(codes[:200], [part], patients[:200], leaves=16)
    >>> few.limit, few.needed
    (None, 631)

Proof of the bound on A (method ``ranking``). The best order of the codes is unknown but fixed. Let A' be the
share of pairs, one calibration patient of each group, that this order ranks correctly. Ties count half, and a
patient with several images counts with the mean over the images.

1. A' is at most the plug-in value, which is the maximum of the same share over all orders.
2. A' is a two-sample U-statistic with a kernel in [0, 1] and mean A. Hoeffding (section 5) writes it as a
   mean of averages of k = min(n0, n1) independent values of the kernel. So for every convex f, by Jensen's
   inequality twice, E f(A') <= E f(B/k), where B is binomial with k trials of probability A.
3. With f(x) = max(h - x, 0), Markov's inequality gives P(A' <= a) <= E max(h - B/k, 0) / (h - a) for every
   h > a. The limit is the largest A for which the smallest of these values over h is at least delta.

No union over the M codes or their orders is needed, because step 1 replaces the unknown order by the maximum.
The deviation is at most sqrt(ln(1/delta) / (2 min(n0, n1))), Hoeffding's, and in practice a sixth less.
McDiarmid's inequality for the plug-in TV (method ``total variation``) has sqrt((1/n0 + 1/n1) ln(1/delta) /
2), and its plug-in value is larger by a factor of about sqrt(2) where both groups have the same distribution.

References:
    Hoeffding, Journal of the American Statistical Association 58 (1963) 13-30, section 5. Bentkus, Annals of
    Probability 32 (2004) 1650-1673 (step 3). McDiarmid, in Surveys in Combinatorics (1989) 148-188.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from meninx.core import check
from meninx.core.errors import ConfigError, DataError, expected, problem
from meninx.core.randomness import child
from meninx.metrics.groups import Grouping

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Method = Literal["ranking", "total variation"]
Comparison = Literal["pairs", "rest"]
METHODS, COMPARISONS = ("ranking", "total variation"), ("pairs", "rest")
TARGET, DELTA = 0.60, 0.05
RULE = "a random image of a random new patient"
"""What a certificate is about: each patient counts once, whatever the number of images."""
_PRECISION = 1e-7


@dataclass(frozen=True, kw_only=True)
class ReleaseCertificate:
    """What is certified about one comparison of two groups, or how many patients it would take.

    Guarantee: with probability at least 1 - ``delta`` over the calibration patients, ``limit`` is at least
        the AUROC of every attacker who sees one released image of a new patient from the same population,
        adaptive or not. All certificates of one call hold together with the probability that was asked for.
        Assumptions: the calibration patients are independent draws from this population and took no part in
        fitting; the release depends on image and attribute only by the code; the code of an image is fixed,
        so that releasing it again reveals nothing more. The statement is conditional on the fitted mechanism.
        It is about one image without its labels: labels that are published beside it, or the codes of several
        images of one patient, may tell more when they are combined.

    Attributes:
        attribute: name of the private attribute.
        groups: the two groups that are compared.
        patients: number of calibration patients in each.
        leaves: number M of codes.
        target: largest AUROC that is accepted.
        delta: error probability of this comparison: that of the call divided by the number of comparisons.
        needed: patients per group for which the limit is expected to reach the target if the groups do not
            differ.
        method: ``ranking`` or ``total variation``.
        plug_in: AUROC of the best order of the codes on the calibration patients themselves, biased upwards;
            None where refused.
        limit: upper confidence limit of the AUROC of every attacker; None where refused.
    """

    attribute: str
    groups: tuple[str, str]
    patients: tuple[int, int]
    leaves: int
    target: float
    delta: float
    needed: int
    method: Method = "ranking"
    plug_in: float | None = None
    limit: float | None = None

    @property
    def met(self) -> bool:
        """Whether the limit is certified to be at most the target."""
        return self.limit is not None and self.limit <= self.target

    @property
    def in_words(self) -> str:
        """The certificate, or its refusal, as a sentence without a full stop."""
        who = f"{self.attribute} {self.groups[0]} against {self.groups[1]}"
        has = f"{self.patients[0]:,} and {self.patients[1]:,}"
        if self.limit is None:
            needs = f"needs {self.needed:,} patients per group for AUROC {self.target:.2f}, has {has}"
            return f"{who}: not certified: {needs}"
        verdict = "at most" if self.met else "above"
        rests_on = f"confidence {1 - self.delta:.4g}, {has} patients"
        return (
            f"{who}: no attacker's AUROC exceeds {self.limit:.3f} for {RULE} ({rests_on}), {verdict} the"
            f" target of {self.target:g}"
        )


def certify_release(
    codes: npt.ArrayLike,
    attributes: Sequence[Grouping],
    patients: Sequence[str],
    *,
    leaves: int,
    target: float = TARGET,
    delta: float = DELTA,
    comparison: Comparison = "pairs",
    method: Method = "ranking",
    seed: int = 0,
) -> tuple[ReleaseCertificate, ...]:
    """Return a certificate for every comparison of two groups of every attribute.

    The certificates are about :data:`RULE`. The rows of a patient share a weight of one, so that the proof
    counts patients. ``delta`` is divided equally among all comparisons of all attributes, refused ones
    included (union bound), so all certificates hold together.

    Args:
        codes: code of each row, from 0 to ``leaves - 1``, shape (rows,); -1 for a row that is not released.
        attributes: the groups of the rows; a row of no known group is left out. See :func:`joint`.
        patients: patient of each row; none of them took part in fitting the mechanism.
        leaves: number M of codes that the mechanism can release.
        target: largest AUROC that is accepted, in (0.5, 1).
        delta: probability that any of the limits is too low, in (0, 1).
        comparison: ``pairs`` of groups, or each group against the ``rest``.
        method: ``ranking``, or ``total variation``, which needs more than twice as many patients.
        seed: public seed; matters only for patients whose rows lie in several groups.

    Raises:
        ConfigError: a value out of its range.
        DataError: arrays of different lengths, a code out of range, or an attribute with fewer than two
        groups.
    """
    numbers = np.asarray(codes, dtype=np.int64)
    check.one_of(COMPARISONS, comparison=comparison)
    _refuse_odd(numbers, attributes, patients, leaves)
    weighted = [
        (item, _weights(patients, item.index, (item.index >= 0) & (numbers >= 0), seed))
        for item in attributes
    ]
    pairs = [(item, weights, *pair) for item, weights in weighted for pair in _compared(item, comparison)]
    share = delta / len(pairs)
    needed = patients_needed(leaves, target, share, method=method)
    found = []
    for item, weights, names, sides in pairs:
        masses = [_masses(numbers, np.isin(item.index, side), weights, leaves) for side in sides]
        sizes = round(masses[0].sum()), round(masses[1].sum())
        certificate = ReleaseCertificate(
            attribute=item.attribute, groups=names, patients=sizes, leaves=leaves,
            target=target, delta=share, needed=needed, method=method,
        )  # fmt: skip
        if min(sizes) >= needed:
            certificate = replace(
                certificate,
                plug_in=best_attacker(*masses),
                limit=attacker_limit(*masses, delta=share, method=method),
            )
        found.append(certificate)
    return tuple(found)


def joint(first: Grouping, second: Grouping) -> Grouping:
    """Return the groups of two attributes together, e.g. ``sex x age``; unknown where either is.

    >>> sex = Grouping("sex", ("F", "M"), np.array([0, 1, 1]))
    >>> age = Grouping("age", ("young", "old"), np.array([1, 0, -1]))
    >>> both = joint(sex, age)
    >>> both.attribute, both.names, both.index.tolist()
    ('sex x age', ('F, young', 'F, old', 'M, young', 'M, old'), [1, 2, -1])
    """
    known = (first.index >= 0) & (second.index >= 0)
    return Grouping(
        f"{first.attribute} x {second.attribute}",
        tuple(f"{one}, {other}" for one in first.names for other in second.names),
        np.where(known, first.index * len(second.names) + second.index, -1),
    )


def best_attacker(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Return the AUROC of the best ranking of codes with these masses in two groups; it is at least 1/2.

    Args:
        first: mass or count of each code in one group, shape (leaves,), positive sum.
        second: the same in the other group.

    Examples:
        >>> best_attacker([1, 1], [1, 1]), best_attacker([1, 0], [0, 1]), best_attacker([3, 1], [1, 3])
        (0.5, 1.0, 0.75)
    """
    p, q = _shares(first), _shares(second)
    return float(0.5 + np.abs(np.outer(p, q) - np.outer(q, p)).sum() / 4)


def total_variation(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Return half the sum of absolute differences of two distributions of codes, arguments as above."""
    return float(np.abs(_shares(first) - _shares(second)).sum() / 2)


def area_of(variation: float) -> float:
    """Return the largest AUROC for a total variation, 1/2 + TV - TV^2/2.

    The ROC curve is nowhere higher than ``min(1, false positive rate + TV)``, whose area this is.
    """
    return 0.5 + min(1.0, variation) - min(1.0, variation) ** 2 / 2


def attacker_limit(
    first: npt.ArrayLike, second: npt.ArrayLike, *, delta: float = DELTA, method: Method = "ranking"
) -> float:
    """Return the upper confidence limit of :func:`best_attacker` of two populations, from counts of patients.

    Args:
        first: number of independent patients of one group with each code, shape (leaves,). The images of a
            patient may share a weight of one among several codes.
        second: the same of the other group.
        delta: probability that the limit is too low.
        method: see the top of this module, where the limits are proven.
    """
    sizes = round(np.sum(first)), round(np.sum(second))
    if method == "ranking":
        return ranking_limit(best_attacker(first, second), min(sizes), delta)
    return area_of(total_variation(first, second) + _mcdiarmid(sizes, delta))


def ranking_limit(area: float, trials: int, delta: float) -> float:
    """Return the upper confidence limit of the AUROC of a fixed ranking from its AUROC on a sample.

    It does not rise with ``trials``: a mean of more independent values is smaller in convex order.

    Args:
        area: AUROC on the sample, or any larger number.
        trials: independent patients in the smaller group.
        delta: probability that the limit is too low.
    """
    low, high = min(1.0, area), 1.0
    while high - low > _PRECISION:
        middle = (low + high) / 2
        if _tail(area, trials, middle) > delta:
            low = middle
        else:
            high = middle
    return high


def patients_needed(
    leaves: int, target: float = TARGET, delta: float = DELTA, *, method: Method = "ranking"
) -> int:
    """Return the patients per group for which the limit is expected to reach a target.

    The limit is that of the expected plug-in value for groups that do not differ, all codes equally frequent,
    where the plug-in is largest. Groups that differ need more, or never reach the target.

    Args:
        leaves: number M of codes, at least 2.
        target: AUROC, in (0.5, 1).
        delta: error probability of one comparison, in (0, 1).
        method: ``ranking`` or ``total variation``.

    Examples:
        >>> patients_needed(16, 0.55, method="total variation"), patients_needed(16, 0.55)
        (6039, 2547)
    """
    check.one_of(METHODS, method=method)
    check.open_unit(delta=delta)
    if leaves < 2 or not 0.5 < target < 1:
        what = "leaves >= 2 and 0.5 < target < 1"
        raise ConfigError(expected(what, got=(leaves, target), where="leaves, target"))
    limit = _expected_ranking if method == "ranking" else _expected_variation
    short, enough = 0, 1
    while limit(enough, leaves, delta) > target:
        short, enough = enough, 2 * enough
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (middle, enough) if limit(middle, leaves, delta) > target else (short, middle)
    return enough


def _expected_ranking(patients: int, leaves: int, delta: float) -> float:
    """Return the limit for the mean plug-in AUROC of equal groups, by the normal approximation of counts."""
    plug_in = 0.5 + (leaves - 1) / math.sqrt(2 * math.pi * leaves * patients)
    return ranking_limit(min(1.0, plug_in), patients, delta)


def _expected_variation(patients: int, leaves: int, delta: float) -> float:
    """Return the same for the mean plug-in TV of equal groups, sqrt(leaves / (pi patients))."""
    return area_of(math.sqrt(leaves / (math.pi * patients)) + _mcdiarmid((patients, patients), delta))


def _mcdiarmid(sizes: tuple[int, int], delta: float) -> float:
    return math.sqrt((1 / sizes[0] + 1 / sizes[1]) * math.log(1 / delta) / 2)


def _tail(area: float, trials: int, mean: float) -> float:
    """Return a bound on P(A' <= area) if the ranking's true AUROC is ``mean``: step 3 of the proof.

    The quotient is smallest at a whole number ``trials * h``, between which it is monotone. Only numbers up
    to two standard deviations of a fair coin above ``area`` are tried; leaving out others gives a larger
    bound.
    """
    from scipy.special import bdtr  # the light half of the program works without scipy

    first = math.floor(trials * area + 1e-9) + 1
    steps = np.arange(first, min(trials, first + math.ceil(math.sqrt(trials)) + 1) + 1, dtype=np.float64)
    if not steps.size:
        return 1.0
    below = bdtr(steps - 1, trials, mean)
    inner = bdtr(np.maximum(steps - 2, 0.0), trials - 1, mean) * (steps >= 2) if trials > 1 else 0.0
    expected_gap = steps * below - trials * mean * inner
    return float(min(1.0, np.min(np.maximum(expected_gap, 0.0) / (steps - trials * area))))


def _masses(codes: Numbers, rows: npt.NDArray[np.bool_], weights: Array, leaves: int) -> Array:
    """Return the number of patients with each code among some rows, shape (leaves,), with fractions."""
    kept = rows & (codes >= 0)
    counted = np.bincount(codes[kept], weights=weights[kept], minlength=leaves)
    return counted.astype(np.float64)


def _shares(masses: npt.ArrayLike) -> Array:
    values = np.asarray(masses, dtype=np.float64)
    return np.asarray(values / values.sum())


def _compared(
    item: Grouping, comparison: Comparison
) -> Iterator[tuple[tuple[str, str], tuple[list[int], list[int]]]]:
    """Yield (names of both sides, group numbers of both sides) of every comparison of one attribute."""
    every = range(len(item.names))
    if comparison == "pairs" or len(every) == 2:
        for one, other in itertools.combinations(every, 2):
            yield (item.names[one], item.names[other]), ([one], [other])
        return
    for one in every:
        yield (item.names[one], "rest"), ([one], [other for other in every if other != one])


def _weights(patients: Sequence[str], groups: Numbers, usable: npt.NDArray[np.bool_], seed: int) -> Array:
    """Return the weight of each row: one per patient, shared by the usable rows of one group.

    The group of a patient with rows in several (an age that passed from one bin to the next) is that of a row
    drawn by seed and patient. Given the group, such a row is any of the group's rows with equal probability,
    so their mean has the distribution's expectation and less variance than the drawn row.
    """
    rows: dict[str, list[int]] = {}
    for row in np.flatnonzero(usable).tolist():
        rows.setdefault(patients[row], []).append(row)
    weights = np.zeros(len(groups))
    for patient, own in rows.items():
        there = groups[own]
        chosen = there[0]
        if (there != chosen).any():
            chosen = there[child(seed, "certificate", patient).integers(len(own))]
        kept = np.array(own)[there == chosen]
        weights[kept] = 1 / len(kept)
    return weights


def _refuse_odd(codes: Numbers, attributes: Sequence[Grouping], patients: Sequence[str], leaves: int) -> None:
    lengths = {len(patients), *(len(item.index) for item in attributes)}
    if codes.ndim != 1 or lengths != {len(codes)} or not attributes:
        raise DataError(
            expected("one code, patient and group per row", got=f"{len(codes)} codes", where="codes")
        )
    if codes.size and not -1 <= codes.min() <= codes.max() < leaves:
        raise DataError(problem(f"a code is not from 0 to {leaves - 1}", where="codes"))
    if any(len(item.names) < 2 for item in attributes):
        raise DataError(expected("at least two groups of every attribute", got="one", where="attributes"))
