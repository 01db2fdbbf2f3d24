"""The audit of one run from the scores of its canaries, and the verdict on a claimed guarantee.

A score is any number that tends to be larger for canaries that took part. The scores may come from a run of
this program or of any other::

    >>> import numpy as np
    >>> from meninx.privacy import Claim, Phase
    >>> rng = np.random.default_rng(0)
    >>> audit = audit_scores(rng.normal(4.0, 1.0, 500), rng.normal(0.0, 1.0, 500),
    ...                      Claim.of_mechanism([Phase(sample_rate=1.0, noise_multiplier=0.5, steps=1)],
    ...                                         delta=1e-5))
    >>> audit.verdict, audit.refuted_by
    ('refuted', ('mu', 'TPR - FPR'))

Three kinds of numbers are kept apart. *Certified* bounds hold with the stated confidence for every run with
the claimed guarantee. The *asymptotic* comparison of mu relies on the normal distribution of an average over
hundreds of canaries. *Model-based* numbers also assume that the scores are those of two normal distributions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from meninx.core import check
from meninx.core.audit_records import ScoreAudit, ScoreCheck
from meninx.core.errors import ConfigError, DataError, expected, problem
from meninx.core.proportions import lower_limit, upper_limit
from meninx.privacy.claim import Array, Claim, area_mu
from meninx.privacy.guess_audit import (
    gaussian_epsilon,
    guess_epsilon,
    guess_mu,
    guesses_refute,
)

SIGNIFICANCE = 0.05
SIDE_SHARES = (0.02, 0.05, 0.1, 0.2)
"""Shares of the canaries guessed as included; as many are guessed as excluded."""
RATES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
"""Shares of the excluded canaries above each threshold of a test. They are fixed in advance, because
thresholds chosen after seeing the scores would invalidate the confidence."""
LEAST_CANARIES = 20
"""Smallest number of canaries of each kind."""
MOST_CANARIES = 10_000_000
_SPLIT_SEED = 0
_SPLIT_SHARES = np.linspace(0.01, 0.5, 25)
CHECKS = 3  # number of checks behind the verdict, which share the significance (a union bound)


def audit_scores(
    included: npt.ArrayLike, excluded: npt.ArrayLike, claim: Claim, *, significance: float = SIGNIFICANCE
) -> ScoreAudit:
    """Return bounds, estimates and the verdict on a claim.

    Guarantee: let each canary take part with probability 1/2 by its own coin, and the claim be true for
        adding or removing one of them. Then each certified bound exceeds the truth with probability at most
        ``significance``. The verdict is ``refuted`` with probability at most ``significance``, up to the
        normal approximation of one third of it, and for canaries whose scores do not depend on each other's
        membership.

    Args:
        included: scores of the canaries that took part.
        excluded: scores of those that did not.
        claim: the guarantee to test.
        significance: probability of a false accusation, in (0, 0.5).

    Raises:
        DataError: fewer than 20 canaries of a kind, or a score that is not finite.
    """
    check.open_unit(significance=significance)
    if significance >= 0.5:
        raise ConfigError(expected("significance < 0.5", got=significance, where="significance"))
    inside, outside = _scores(included, "included"), _scores(excluded, "excluded")
    each = significance / CHECKS
    mu_check, shape = _mu_check(inside, outside, claim, each), _area(inside, outside)
    checks = (
        mu_check,
        _guess_check(inside, outside, claim, each),
        _rates_check(inside, outside, claim, each),
    )
    grid = _grid(inside, outside, significance)
    fdp_mu = max(guess_mu(*guess, significance=share) for guess, share in grid)
    low, high = gaussian_interval(shape, len(inside), len(outside), significance=significance)
    one_sided, _ = gaussian_interval(shape, len(inside), len(outside), significance=2 * significance)
    return ScoreAudit(
        included=len(inside),
        excluded=len(outside),
        confidence=1 - significance,
        delta=claim.delta,
        one_run_epsilon=max(
            guess_epsilon(*guess, delta=claim.delta, significance=share) for guess, share in grid
        ),
        fdp_mu=fdp_mu,
        fdp_epsilon=gaussian_epsilon(fdp_mu, claim.delta),
        fdp_split_epsilon=gaussian_epsilon(_split_mu(inside, outside, significance), claim.delta),
        rates_epsilon=_rates_epsilon(inside, outside, claim.delta, significance),
        advantage=_advantage(inside, outside, significance),
        auroc=shape,
        mu=area_mu_of(shape, len(inside), len(outside)),
        mu_low=low,
        mu_high=high,
        gdp_epsilon=gaussian_epsilon(max(0.0, one_sided), claim.delta),
        claim_epsilon=claim.epsilon,
        claim_mu=_finite(claim.mu),
        claim_advantage=claim.advantage,
        checks=checks,
        verdict=_verdict(checks, claim, one_sided),
    )


def _verdict(checks: Sequence[ScoreCheck], claim: Claim, one_sided: float) -> str:
    """Return ``refuted``, ``suspicious`` or ``consistent``."""
    if any(item.refuted for item in checks):
        return "refuted"
    unlikely = not claim.phases and gaussian_epsilon(max(0.0, one_sided), claim.delta) > claim.epsilon
    return "suspicious" if unlikely else "consistent"


def _scores(values: npt.ArrayLike, kind: str) -> Array:
    """Return scores in ascending order, as float64 of shape (canaries,).

    Raises:
        DataError: not a list of 20 to 10,000,000 finite numbers.
    """
    found = np.asarray(values)
    if found.ndim != 1 or found.dtype.kind not in "fiu":
        got = f"an array of shape {found.shape} and type {found.dtype}"
        raise DataError(expected("a list of numbers", got=got, where=f"scores of {kind} canaries"))
    if not LEAST_CANARIES <= len(found) <= MOST_CANARIES:
        rule = f"{LEAST_CANARIES} to {MOST_CANARIES:,} scores"
        fix = "use more canaries: 1,000 are usual"
        raise DataError(expected(rule, got=len(found), where=f"scores of {kind} canaries", fix=fix))
    numbers = found.astype(np.float64)
    if not np.isfinite(numbers).all():
        bad = int((~np.isfinite(numbers)).sum())
        raise DataError(problem(f"{bad} scores are NaN or infinite", where=f"scores of {kind} canaries"))
    return np.sort(numbers)


# mu


def _area(inside: Array, outside: Array) -> float:
    """Return the probability that an included canary scores above an excluded one; ties count one half."""
    below = np.searchsorted(outside, inside, side="left") + np.searchsorted(outside, inside, side="right")
    return float(below.mean()) / 2 / len(outside)


def _spread(moments: tuple[float, float, float], included: int, excluded: int) -> float:
    """Return the standard deviation of the area of a sample, by Hanley and McNeil (1982), equation 1."""
    area, both_in, both_out = moments
    variance = (
        area * (1 - area) + (included - 1) * (both_in - area**2) + (excluded - 1) * (both_out - area**2)
    )
    return math.sqrt(max(0.0, variance) / (included * excluded))


def _mu_check(inside: Array, outside: Array, claim: Claim, significance: float) -> ScoreCheck:
    """Return whether the area under the ROC curve exceeds what the claim allows.

    The standard deviation is that of the claim's own curve, so no distribution of the scores is assumed.
    """
    area = _area(inside, outside)
    return ScoreCheck(
        name="mu",
        basis="asymptotic",
        measured=area_mu_of(area, len(inside), len(outside)),
        allowed=_finite(claim.mu),
        refuted=area_refutes(area, len(inside), len(outside), claim, significance=significance),
    )


def area_refutes(area: float, included: int, excluded: int, claim: Claim, *, significance: float) -> bool:
    """Return whether an area under the ROC curve exceeds what a claim allows, beyond chance.

    Args:
        area: of the scores.
        included: canaries that took part.
        excluded: canaries that did not.
        claim: the guarantee to test.
        significance: of this check, a third of the audit's.
    """
    spread = _spread(claim.moments, included, excluded)
    far = area - claim.area > -float(special.ndtri(significance)) * spread and claim.area < 1
    return bool(far and area > claim.area)


def area_mu_of(area: float, included: int, excluded: int) -> float:
    """Return the estimate of mu from an area under the ROC curve.

    Args:
        area: of the scores.
        included: canaries that took part.
        excluded: canaries that did not.
    """
    return area_mu(_shrunk(area, included, excluded))


def gaussian_interval(
    area: float, included: int, excluded: int, *, significance: float = SIGNIFICANCE
) -> tuple[float, float]:
    """Return the two-sided interval of mu for two unit normals, by inverting a test of the area.

    Args:
        area: area under the ROC curve of the scores.
        included: canaries that took part.
        excluded: canaries that did not.
        significance: probability that the interval misses mu, half on each side.

    Returns:
        Both ends; the lower one may be negative.
    """
    wide = -float(special.ndtri(significance / 2))
    found = _shrunk(area, included, excluded)

    def excess(mu: float, end: float) -> float:
        moments = _normal_moments(mu)
        return found - moments[0] - end * wide * _spread(moments, included, excluded)

    low, high = (optimize.brentq(excess, -12.0, 12.0, args=(end,), xtol=1e-6) for end in (1.0, -1.0))
    return float(low), float(high)


def _finite(mu: float) -> float | None:
    """Return a number as records store it: None if it is not finite, which JSON cannot express."""
    return mu if math.isfinite(mu) else None


def _shrunk(area: float, included: int, excluded: int) -> float:
    """Return the area moved by half a canary towards one half, so that separated scores have a finite mu."""
    fewest = min(included, excluded)
    return (area * fewest + 0.5) / (fewest + 1)


def _normal_moments(mu: float) -> tuple[float, float, float]:
    """Return the moments of the ROC curve of two unit normals."""
    distance = mu / math.sqrt(2)
    area = float(special.ndtr(distance))
    both = area - 2 * float(special.owens_t(distance, 1 / math.sqrt(3)))
    return area, both, both


# guesses

Guess = tuple[int, int, int]
"""Canaries, guesses, correct guesses."""


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The certified bounds on epsilon of scores that tell every canary apart; other scores reach no more.

    Attributes:
        one_run: Steinke et al. (2023).
        fdp: f-DP form, Mahloujifar et al. (2024).
        fdp_split: the same with the guess count chosen on one half; with the best count.
        rates: error rates, Clopper-Pearson.
    """

    one_run: float
    fdp: float
    fdp_split: float
    rates: float


def ceilings(included: int, excluded: int, *, delta: float, significance: float = SIGNIFICANCE) -> Ceilings:
    """Return the largest certified bounds on epsilon that numbers of canaries allow, whatever the run does.

    Args:
        included: canaries that took part.
        excluded: canaries that did not.
        delta: at which epsilons are stated.
        significance: probability that a bound exceeds the truth.
    """
    total = included + excluded
    sides = _sides(total)
    share = significance / len(sides)
    perfect = [(total, 2 * side, 2 * side) for side in sides]
    half = _halves(total)[1].sum()
    split = [
        (int(half), 2 * side, 2 * side)
        for side in {max(1, round(share * half)) for share in _SPLIT_SHARES}
        if 2 * side <= half
    ]
    inside, outside = np.ones(included), np.zeros(excluded)
    return Ceilings(
        one_run=max(guess_epsilon(*guess, delta=delta, significance=share) for guess in perfect),
        fdp=gaussian_epsilon(max(guess_mu(*guess, significance=share) for guess in perfect), delta),
        fdp_split=gaussian_epsilon(
            max((guess_mu(*guess, significance=significance) for guess in split), default=0.0), delta
        ),
        rates=_rates_epsilon(inside, outside, delta, significance),
    )


def _sides(canaries: int) -> list[int]:
    """Return the fixed grid of the number of canaries guessed on each side."""
    return sorted({max(1, round(share * canaries)) for share in SIDE_SHARES})


def _grid(inside: Array, outside: Array, significance: float) -> list[tuple[Guess, float]]:
    """Return the guesses of every count of the fixed grid, each with its share of the significance.

    The counts are fixed before the scores are seen and the significance is divided among them, so the best
    of them may be reported.
    """
    total = len(inside) + len(outside)
    sides = _sides(total)
    return [((total, 2 * side, _correct(inside, outside, side)), significance / len(sides)) for side in sides]


def _correct(inside: Array, outside: Array, side: int) -> int:
    """Return the number of correct guesses: ``side`` highest scores as included, as many lowest as excluded.

    Among equal scores at the edge the wrong ones count first, so that a constant score gains nothing.
    """
    return _right_above(inside, outside, side) + _right_above(-outside[::-1], -inside[::-1], side)


def _right_above(right: Array, wrong: Array, side: int) -> int:
    """Return how many of the ``side`` highest of all scores are in ``right``; ties go to ``wrong``."""
    edge = np.partition(np.concatenate([right, wrong]), -side)[-side]
    above_right = len(right) - int(np.searchsorted(right, edge, side="right"))
    above_wrong = len(wrong) - int(np.searchsorted(wrong, edge, side="left"))
    return min(side, above_right + max(0, side - above_right - above_wrong))


def _split_mu(inside: Array, outside: Array, significance: float) -> float:
    """Return the certified mu with the guess count chosen on a random half and tested on the other.

    The choice uses only one half, so the test on the other needs no correction. The split is fixed by a seed:
    repeated calls cannot pick the most favourable split.
    """
    scores = np.concatenate([inside, outside])
    member = np.arange(len(scores)) < len(inside)
    halves = [
        (np.sort(scores[half & member]), np.sort(scores[half & ~member])) for half in _halves(len(scores))
    ]
    sizes = [len(own) + len(other) for own, other in halves]
    if not min(sizes):
        return 0.0

    def mu(half: int, share: float) -> float:
        side = max(1, round(share * sizes[half]))
        guess = (sizes[half], 2 * side, _correct(*halves[half], side))
        return guess_mu(*guess, significance=significance) if 2 * side <= sizes[half] else 0.0

    best = max(_SPLIT_SHARES, key=lambda share: mu(0, float(share)))
    return mu(1, float(best))


def _halves(canaries: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which canaries choose the number of guesses, and which test it."""
    chosen = np.random.default_rng(_SPLIT_SEED).random(canaries) < 0.5
    return chosen, ~chosen


def _guess_check(inside: Array, outside: Array, claim: Claim, significance: float) -> ScoreCheck:
    """Return whether correct guesses refute the claim's curve (the f-DP form)."""
    grid = _grid(inside, outside, significance)
    refuted = any(guesses_refute(*guess, claim.least_rate, significance=share) for guess, share in grid)
    best = max(correct / guesses for (_, guesses, correct), _ in grid)
    return ScoreCheck(name="guesses", basis="certified", measured=best, allowed=None, refuted=refuted)


# true and false positive rates


def _rates(inside: Array, outside: Array, significance: float) -> list[tuple[float, float]]:
    """Return pairs (upper limit of the FPR, lower limit of the TPR) that hold jointly with the confidence.

    A threshold is the k-th highest excluded score, so the probability that another excluded score lies above
    it is a Beta variable, whatever the distribution; for the included ones the limit is Clopper-Pearson's.
    """
    ranks = sorted({max(1, round(share * len(outside))) for share in RATES})
    each = significance / (2 * len(ranks))
    limits = []
    for rank in ranks:
        above = len(inside) - int(np.searchsorted(inside, outside[-rank], side="right"))
        limits.append((upper_limit(rank - 1, len(outside), each), lower_limit(above, len(inside), each)))
    return limits


def _advantage(inside: Array, outside: Array, significance: float) -> float:
    """Return the certified lower limit of TPR - FPR; at least 0."""
    return max(0.0, *(least - most for most, least in _rates(inside, outside, significance)))


def _rates_epsilon(inside: Array, outside: Array, delta: float, significance: float) -> float:
    """Return the certified lower bound on epsilon from the rates of both errors."""
    found = [0.0]
    for sides in ((inside, outside), (-outside[::-1], -inside[::-1])):
        for most, least in _rates(*sides, significance / 2):
            if least > delta:
                found.append(math.log((least - delta) / most))
    return max(found)


def _rates_check(inside: Array, outside: Array, claim: Claim, significance: float) -> ScoreCheck:
    """Return whether a true positive rate is above the claim's curve at the false positive rate."""
    limits = _rates(inside, outside, significance)
    return ScoreCheck(
        name="TPR - FPR",
        basis="certified",
        measured=_advantage(inside, outside, significance),
        allowed=claim.advantage,
        refuted=any(least > float(claim.power(most)) for most, least in limits),
    )
