"""Random and directed cheating learns one sum per round, over enough honest sites, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from cheating import (
    CheatingCoordinator,
    Knowledge,
    NeedsNoQuorum,
    OpensLostOutside,
    ReopensRounds,
    SignsEverySet,
    equivocate,
    leak,
    reduced,
)
from secagg_sites import Consortium, signing_keys

from meninx.secagg import covered

SETTINGS = [(count, c) for count in range(3, 13) for c in range(covered(count).colluders + 1)]


def played(count, colluders, rounds, seed, protocol=None, split=False):
    """Leaks found, sums opened and refusals, over rounds of cheating."""
    consortium = Consortium(count)
    if protocol is not None:
        consortium = planted(consortium, protocol)
    rng = np.random.default_rng(seed)
    chosen = tuple(rng.permutation(consortium.names)[:colluders].tolist())
    if split:
        equivocate(consortium, chosen[0])
    coordinator = CheatingCoordinator(consortium, chosen, rng)
    rules = covered(count)
    found, sums = [], 0
    for round in range(rounds):
        derived = coordinator.play(round).derived()
        sums += bool(derived)
        reason = leak(derived, rules.quorum - colluders)
        if reason:
            found.append(reason)
    return found, sums, coordinator.refusals


def planted(consortium, protocol):
    for name in consortium.names:
        consortium.sites[name] = protocol(
            consortium.roster, name, signing_keys(consortium.count)[name], "run-1", record=[].append
        )
    consortium.announcements = [site.announce() for site in consortium.sites.values()]
    for site in consortium.sites.values():
        site.meet(consortium.announcements)
    return consortium


def test_settings_are_all_that_the_rules_cover():
    for count, colluders in SETTINGS:
        rules = covered(count)
        assert 2 * rules.quorum > count + colluders
        assert colluders < rules.threshold <= rules.quorum
    for count in range(3, 33):
        rules = covered(count)
        beyond = rules.colluders + 1
        assert not (2 * rules.quorum > count + beyond and rules.quorum - beyond >= 2)
        assert rules.colluders < rules.threshold <= rules.quorum
        assert count - 2 * rules.dropouts >= rules.threshold - (count == 3)


@pytest.mark.parametrize(("count", "colluders"), [(3, 1), (4, 1), (5, 2), (7, 2)])
def test_quick_search_finds_no_leak(count, colluders):
    found, sums, refusals = played(count, colluders, 20, seed=count)
    assert found == []
    assert sums > 0  # some rounds were completed
    assert refusals > 0


@pytest.mark.parametrize(("count", "colluders"), [(5, 2), (7, 2)])
def test_quick_search_with_two_keys_of_a_colluder_finds_no_leak(count, colluders):
    found, _, refusals = played(count, colluders, 15, seed=count, split=True)
    assert found == []
    assert refusals > 0


@pytest.mark.slow
@pytest.mark.parametrize(("count", "colluders"), SETTINGS)
def test_search_finds_no_leak(count, colluders):
    found, sums, _ = played(count, colluders, 120, seed=1000 * count + colluders)
    assert found == []
    assert sums > 0
    if colluders:
        assert played(count, colluders, 20, seed=count, split=True)[0] == []


@pytest.mark.parametrize("protocol", [SignsEverySet, NeedsNoQuorum, ReopensRounds, OpensLostOutside])
def test_search_finds_leaks_when_a_rule_is_planted_away(protocol):
    found = [reason for seed in (3, 4) for reason in played(5, 2, 20, seed=seed, protocol=protocol)[0]]
    assert found


def test_more_colluders_than_covered_leak():
    assert covered(4).colluders == 1
    found, _, _ = played(4, 2, 40, seed=5)
    assert found


def test_linear_algebra_finds_sums_and_differences():
    rows = np.array([[1, 1, 1], [1, 1, 0], [2, 2, 1]])
    assert reduced(rows).tolist() == [[1, 1, 0], [0, 0, 1]]
    assert leak([], 2) == ""
    assert leak([{"a": 1, "b": 1}], 2) == ""
    assert "a sum of 1" in leak([{"a": 1}], 2)
    assert "no sum" in leak([{"a": 1, "b": -1}], 2)
    assert "2 independent" in leak([{"a": 1, "b": 1}, {"c": 1, "b": 1}], 2)
    assert Knowledge(2, frozenset()).derived() == []
