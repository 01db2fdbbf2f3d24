"""What sums over changing participants leak over rounds: the figures of
docs/explanation/secure-aggregation.md.

A site's update is a part that stays over rounds (20 % of the variance) and a fresh part. The coordinator
solves for the parts that stay, by least squares over all rounds. No rule of the protocol is broken.
"""

from __future__ import annotations

import numpy as np
import pytest

STAYS, SIZE = 0.2, 1500


def correlation(count, rounds, left_out, seed):
    """Median correlation of the solution with a site's own lasting update."""
    rng = np.random.default_rng(seed)
    lasting = rng.standard_normal((count, SIZE)) * np.sqrt(STAYS)
    present, sums = np.ones((rounds, count)), np.empty((rounds, SIZE))
    for number in range(rounds):
        present[number, left_out(number, count, rng)] = 0
        updates = lasting + rng.standard_normal((count, SIZE)) * np.sqrt(1 - STAYS)
        sums[number] = present[number] @ updates
    solved = np.linalg.lstsq(present, sums, rcond=None)[0]
    return float(np.median([np.corrcoef(solved[site], lasting[site])[0, 1] for site in range(count)]))


def nobody(number, count, rng):
    return []


def by_chance(number, count, rng):
    """Each site is missing in 15 % of the rounds, one at most per round where no more may be missing."""
    missing = np.flatnonzero(rng.random(count) < 0.15)
    return rng.permutation(missing)[: count - (2 * count // 3 + 1)]


def on_purpose(number, count, rng):
    """The coordinator leaves out one site after the other, which the quorum allows."""
    return [number % count]


FIGURES = [(4, 100, 0.50, 0.74, 0.85), (7, 100, 0.37, 0.60, 0.64), (10, 100, 0.31, 0.53, 0.49)]


@pytest.mark.parametrize(("count", "rounds", "same", "chance", "purpose"), FIGURES)
def test_changing_participants_are_told_apart(count, rounds, same, chance, purpose):
    found = [
        np.median([correlation(count, rounds, who, seed) for seed in range(3)])
        for who in (nobody, by_chance, on_purpose)
    ]
    assert found == pytest.approx([same, chance, purpose], abs=0.05)
