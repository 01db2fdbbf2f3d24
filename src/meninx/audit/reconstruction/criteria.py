"""Whether an attack succeeds, can be judged at all, and whether its controls hold: one decision for all.

An attack succeeds at a level of noise by either of two criteria: more images are close to their
reconstruction than nulls and public images explain, or the reconstructions put the right image first among
members more often than nulls and guessing explain. All tests of an audit share its significance.
"""

from __future__ import annotations

from meninx.core.proportions import clopper_pearson
from meninx.core.reconstruction_records import IdentificationRecord, MatchRecord

OFTEN = 0.5
"""Success from which on an attack is right more often than wrong."""
CLOSE, FIRST = "close", "first"
_TESTS = 2
"""Of a match: closeness and ranking."""
_CONTROL_FACTOR = 1.5
"""Of the share of the null, which the negative control may reach by chance of the threshold itself."""


def lower(share: float, of: float, significance: float) -> float:
    """Return the lower limit of a share that is too high with probability ``significance``."""
    return clopper_pearson(share * of, of, 1 - 2 * significance)[0]


def each_test(significance: float, matches: int) -> float:
    """Return the significance of each of the two tests of each match.

    >>> each_test(0.05, 5)
    0.005
    """
    return significance / (_TESTS * max(1, matches))


def beyond_null(match: MatchRecord, each: float) -> tuple[str, ...]:
    """Return by which criteria an attack succeeds: :data:`CLOSE`, :data:`FIRST`, both or none.

    Args:
        match: an attack at one level.
        each: significance of a single test.
    """
    found = []
    if lower(match.success, match.patients, each) > match.without_model:
        found.append(CLOSE)
    ranking = match.ranking
    if ranking is not None and lower(ranking.success, ranking.patients, each) > ranking.null:
        found.append(FIRST)
    return tuple(found)


def can_be_judged(match: MatchRecord, each: float) -> bool:
    """Return whether full success would be beyond the null; otherwise a failure says nothing."""
    ranking = match.ranking
    if lower(1.0, match.patients, each) > match.without_model:
        return True
    return ranking is not None and lower(1.0, ranking.patients, each) > ranking.null


def exceeds_bound(match: MatchRecord, each: float) -> bool:
    """Return whether a success is above its bound beyond chance."""
    ranking = match.ranking
    if lower(match.success, match.patients, each) > match.bound + 1e-12:
        return True
    return ranking is not None and lower(ranking.success, ranking.patients, each) > ranking.bound + 1e-12


def threshold_fails(match: MatchRecord, each: float) -> bool:
    """Return whether held-out patients count as reconstructed from steps of others."""
    return lower(match.control, match.control_patients, each) > _CONTROL_FACTOR * match.null


def above_guess(found: IdentificationRecord, each: float) -> bool:
    """Return whether an attacker picks the right image more often than a blind guess does."""
    return lower(found.success, found.trials, each) > found.guess


def often(found: IdentificationRecord, each: float) -> bool:
    """Return whether an attacker picks the right one of ten or more images more often than a wrong one."""
    return found.candidates >= 10 and lower(found.success, found.trials, each) >= OFTEN
