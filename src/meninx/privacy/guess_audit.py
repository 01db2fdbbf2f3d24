"""Bounds on a guarantee from the number of correct guesses about canaries in one run.

Canaries are artificial units, each of which takes part in a run with probability 1/2, by its own coin. An
auditor guesses for some of them whether they took part and abstains from the rest. In a private run only few
more than half of the guesses can be correct. The canaries may depend on each other, so one run is enough.

A guarantee is a curve: the largest true positive rate (power) at each false positive rate. The functions here
take its inverse, the least false positive rate at each true positive rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, special, stats

from meninx.core import check
from meninx.core.errors import ConfigError, expected

LeastRate = Callable[[float], float]
"""Power in [0, 1] -> least false positive rate at which a guarantee allows it."""

MOST_MU = 200.0
"""Gaussian guarantees above this have power 1 at every rate that a float holds."""


def guess_p_value(canaries: int, guesses: int, correct: int, *, epsilon: float, delta: float) -> float:
    """Return an upper bound on the probability of this many correct guesses in an (epsilon, delta)-DP run.

    Guarantee: if each of ``canaries`` took part with probability 1/2, independently, and the run is private
        for adding or removing one of them, then at least ``correct`` of ``guesses`` guesses are correct with
        at most this probability.

    Args:
        canaries: all canaries, included or not, guessed or not.
        guesses: guesses made; their number must not depend on which canaries took part.
        correct: number of correct guesses.
        epsilon: of the guarantee, >= 0.
        delta: of the guarantee, in [0, 1].

    References:
        Steinke, Nasr, Jagielski (2023), Privacy Auditing with One (1) Training Run, Theorem 5.2, algorithm in
        appendix D.
    """
    _check_counts(canaries, guesses, correct)
    check.non_negative(epsilon=epsilon)
    check.probability(delta=delta)
    rate = special.expit(epsilon)
    tail = float(stats.binom.sf(correct - 1, guesses, rate))
    if delta == 0 or correct == 0:
        return min(1.0, tail)
    fewer = np.arange(1, correct + 1)
    gained = (stats.binom.sf(correct - fewer - 1, guesses, rate) - tail) / fewer
    return min(1.0, tail + max(0.0, float(gained.max())) * delta * 2 * canaries)


def guess_epsilon(canaries: int, guesses: int, correct: int, *, delta: float, significance: float) -> float:
    """Return the largest epsilon that this number of correct guesses refutes; 0 if it refutes none.

    Example::

        >>> round(guess_epsilon(1_000, 100, 90, delta=1e-5, significance=0.05), 4)
        1.6261
    """
    check.open_unit(significance=significance)

    def excess(epsilon: float) -> float:
        return significance - guess_p_value(canaries, guesses, correct, epsilon=epsilon, delta=delta)

    return _largest_refuted(excess, first=1.0, most=700.0)


def guesses_refute(
    canaries: int, guesses: int, correct: int, least_rate: LeastRate, *, significance: float
) -> bool:
    """Return whether this number of correct guesses has a probability below ``significance``.

    Guarantee: if each canary took part with probability 1/2, independently, and the run satisfies the
        guarantee for adding or removing one of them, the answer is True with probability at most
        ``significance``.

    Args:
        canaries: all canaries.
        guesses: guesses made; their number must not depend on which canaries took part.
        correct: number of correct guesses.
        least_rate: the guarantee; convex, and valid for both directions (adding and removing).
        significance: in (0, 1).

    References:
        Mahloujifar, Melis, Chaudhuri (2024), Auditing f-Differential Privacy in One Run, Algorithm 3.
    """
    return _excess(canaries, guesses, correct, least_rate, significance) > 0


def _excess(canaries: int, guesses: int, correct: int, least_rate: LeastRate, significance: float) -> float:
    """Return a number above 0 exactly when the guesses refute the guarantee.

    The recursion follows ``guesses_refute``'s reference: from the observed count downwards it bounds the mass
    that correct and wrong guesses may have, and a total above ``guesses / canaries`` is a contradiction.
    """
    _check_counts(canaries, guesses, correct)
    check.open_unit(significance=significance)
    right = significance * correct / canaries
    wrong = significance * (guesses - correct) / canaries
    for count in range(correct - 1, -1, -1):
        more = max(wrong, least_rate(right))
        if more == wrong:
            break  # both stay constant from here on
        right = min(1.0, right + count / (guesses - count) * (more - wrong))
        wrong = more
    return right + wrong - guesses / canaries


def gaussian_least_rate(mu: float) -> LeastRate:
    """Return the guarantee of Gaussian differential privacy: two unit normals, ``mu`` apart."""
    check.non_negative(mu=mu)
    return lambda power: float(special.ndtr(special.ndtri(power) - mu))


def guess_mu(canaries: int, guesses: int, correct: int, *, significance: float) -> float:
    """Return the largest mu of a Gaussian guarantee that the guesses refute; 0 if they refute none."""

    def excess(mu: float) -> float:
        return _excess(canaries, guesses, correct, gaussian_least_rate(mu), significance)

    return _largest_refuted(excess, first=1.0, most=MOST_MU)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the epsilon at ``delta`` of a Gaussian guarantee; 0 for mu = 0.

    Example::

        >>> round(gaussian_epsilon(guess_mu(1_000, 100, 90, significance=0.05), 1e-5), 4)
        2.4564

    References:
        Dong, Roth, Su (2022), Gaussian Differential Privacy, Corollary 2.13.
    """
    check.non_negative(mu=mu)
    check.open_unit(delta=delta)

    def excess(epsilon: float) -> float:
        """Return log(delta at epsilon) - log(delta)."""
        near = float(special.log_ndtr(mu / 2 - epsilon / mu))
        far = epsilon + float(special.log_ndtr(-mu / 2 - epsilon / mu))
        if far >= near:
            return -math.inf
        return near + math.log1p(-math.exp(far - near)) - math.log(delta)

    if mu == 0 or excess(0.0) <= 0:
        return 0.0
    high = mu * mu / 2 + mu * float(-special.ndtri(delta))  # there the first term alone equals delta
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-9)) if excess(high) < 0 else high


def _largest_refuted(excess: Callable[[float], float], *, first: float, most: float) -> float:
    """Return where a falling function crosses 0, in [0, most]; 0 when it starts at or below 0."""
    if excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, first
    while excess(high) > 0:
        if high >= most:
            return most
        low, high = high, min(most, 2 * high)
    return float(optimize.brentq(excess, low, high, xtol=1e-7))


def _check_counts(canaries: int, guesses: int, correct: int) -> None:
    """Raise ConfigError unless 0 <= correct <= guesses <= canaries and there are canaries."""
    if not 0 <= correct <= guesses <= canaries or canaries < 1:
        got = f"{correct} correct of {guesses} guesses on {canaries} canaries"
        rule = "0 <= correct <= guesses <= canaries, at least one canary"
        raise ConfigError(expected(rule, got=got, where="the guesses"))
