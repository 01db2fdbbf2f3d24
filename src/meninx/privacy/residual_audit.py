"""What the residuals of canaries show directly: how large the noise is, and how long a clipped unit.

A residual is what a step released at the coordinate of a canary minus the sum over all other units there, in
standard deviations of the noise that the plan promises. Of a canary that takes no part it is noise alone.
Scores compare a run with its epsilon, so at a very large epsilon they can refute nothing; this comparison
works at every epsilon::

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> squares = (rng.normal(0, 0.5, (200, 50)) ** 2).sum(1)  # half of the promised noise, 50 steps
    >>> found = audit_residuals(squares[:100], squares[100:], steps=(50, 50), rate=0.2, mu=0.0)
    >>> round(found.noise, 1), found.refuted_by
    (0.5, ('noise',))
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special

from meninx.core import check
from meninx.core.audit_records import MechanismCheck
from meninx.core.errors import DataError, expected

SIGNIFICANCE = 1e-3
"""Largest probability of accusing a correct run by the noise, and by the length."""
TOLERANCE = 0.01
"""How much longer than promised a clipped unit may be; rounding and the normal approximation stay below."""
LEAST_CANARIES = 20
Array = npt.NDArray[np.float64]


def audit_residuals(
    included: npt.ArrayLike,
    excluded: npt.ArrayLike,
    *,
    steps: tuple[npt.ArrayLike, npt.ArrayLike],
    rate: float,
    mu: float,
    significance: float = SIGNIFICANCE,
) -> MechanismCheck:
    """Return the size of the noise and the length of a clipped unit, each over what the plan promises.

    Args:
        included: sum over the steps of each canary's squared residual, of those that take part.
        excluded: of those that do not.
        steps: steps in each sum, of those that take part and of those that do not; a number or one for each.
        rate: probability of a unit in a step, by the plan.
        mu: promised length of a clipped canary over the promised noise; 0 leaves the length out.
        significance: of the noise and of the length.

    Guarantee: a run with independent Gaussian noise of the promised size or more is accused by the noise with
        probability at most ``significance``; the limits are those of chi-square. The length has limits by
        normal approximation over the canaries.

    Raises:
        DataError: fewer than 20 canaries of a kind were seen in any step, or sums that are negative or not
            finite.
    """
    check.open_unit(significance=significance)
    inside, _ = _seen(included, steps[0], "included")
    outside, counts = _seen(excluded, steps[1], "excluded")
    freedom, total = float(counts.sum()), float((outside * counts).sum())
    # Standard deviation of the two means' difference if both were noise alone, as promised.
    hidden = math.sqrt(2 / counts.mean() * (1 / len(inside) + 1 / len(outside)))
    low, high = (
        math.sqrt(total / float(2 * special.gammaincinv(freedom / 2, share)))
        for share in (1 - significance, significance)
    )
    noise = math.sqrt(total / freedom)
    deviations = -float(special.ndtri(significance))
    length, length_low, length_high = None, None, None
    if deviations * hidden < rate * mu * mu:
        length, length_low, length_high = _length(inside, outside, rate * mu * mu, deviations)
    refuted: tuple[str, ...] = ("noise",) if high < 1 else ()
    if length_low is not None and length_low > 1 + TOLERANCE:
        refuted += ("length",)
    return MechanismCheck(
        noise=noise, noise_low=low, noise_high=high, length=length, length_low=length_low,
        length_high=length_high, samples=int(freedom), significance=significance, refuted_by=refuted,
    )  # fmt: skip


def _seen(values: npt.ArrayLike, steps: npt.ArrayLike, name: str) -> tuple[Array, Array]:
    """Return the mean squared residual of each canary that was seen in a step, and in how many."""
    sums = np.asarray(values, dtype=np.float64)
    counts = np.broadcast_to(np.asarray(steps, dtype=np.float64), sums.shape)
    there = counts > 0
    if sums.ndim != 1 or there.sum() < LEAST_CANARIES or not (np.isfinite(sums) & (sums >= 0)).all():
        rule = f"finite sums of squares of at least {LEAST_CANARIES} canaries"
        raise DataError(expected(rule, got=f"{int(there.sum())} of shape {sums.shape}", where=name))
    return sums[there] / counts[there], counts[there]


def _length(inside: Array, outside: Array, promised: float, deviations: float) -> tuple[float, float, float]:
    """Return the length of a clipped unit and its limits.

    Args:
        inside: mean squared residual of each canary that takes part.
        outside: of each that does not.
        promised: by how much the former exceeds the latter when a clipped unit has its promised length.
        deviations: standard deviations between the length and each limit.
    """
    error = math.sqrt(np.var(inside, ddof=1) / len(inside) + np.var(outside, ddof=1) / len(outside))
    excess = float(inside.mean() - outside.mean())
    low, value, high = (
        math.sqrt(max(0.0, (excess + shift * error) / promised)) for shift in (-deviations, 0.0, deviations)
    )
    return value, low, high
