"""Exact limits of a proportion, of Clopper and Pearson: the one implementation of the program.

    >>> [round(end, 3) for end in clopper_pearson(14, 14)]
    [0.768, 1.0]
    >>> round(upper_limit(0, 59, 0.05), 3)
    0.05

The functions import scipy when they are called, because the light half of the program works without it.
"""

from __future__ import annotations


def clopper_pearson(events: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a proportion.

    Args:
        events: number of successes, from 0 to ``trials``; may be fractional for effective numbers.
        trials: number of independent trials, > 0.
        level: coverage; each end is wrong with probability (1 - level) / 2.

    Guarantee: for independent trials, at least a share ``level`` of such intervals contains the true
        proportion.

    References:
        Clopper and Pearson, Biometrika 26 (1934) 404-413.
    """
    tail = (1 - level) / 2
    return lower_limit(events, trials, tail), upper_limit(events, trials, tail)


def lower_limit(events: float, trials: float, significance: float) -> float:
    """Return the limit that a proportion is below with probability at most ``significance``.

    Args:
        events: number of successes, from 0 to ``trials``.
        trials: number of independent trials, > 0.
        significance: in (0, 1).
    """
    from scipy.special import betaincinv

    events = min(max(events, 0.0), trials)
    return float(betaincinv(events, trials - events + 1, significance)) if events > 0 else 0.0


def upper_limit(events: float, trials: float, significance: float) -> float:
    """Return the limit that a proportion is above with probability at most ``significance``.

    Args:
        events: number of successes, from 0 to ``trials``.
        trials: number of independent trials, > 0.
        significance: in (0, 1).
    """
    from scipy.special import betaincinv

    events = min(max(events, 0.0), trials)
    return float(betaincinv(events + 1, trials - events, 1 - significance)) if events < trials else 1.0
