"""Strategies that remember vectors between rounds: sites compute the common model with the same memory."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr")

from meninx.core.errors import DataError
from meninx.federated import strategies
from meninx.federated.contribution import RoundSum
from meninx.federated.coordinator_process import RunOrder, _state
from meninx.federated.messages import Position
from meninx.federated.site_rounds import SiteRounds
from meninx.federated.strategies import FedAvg, ServerState
from meninx.federated.vector import Vector

SITES = ("east", "north", "west")
START = np.linspace(-1, 1, 4, dtype=np.float32)


@dataclass(frozen=True)
class Momentum(FedAvg):
    """FedAvg with momentum at the server."""

    beta: float = 0.9

    def init(self, weights: Vector) -> ServerState:
        return ServerState(weights, {"momentum": np.zeros_like(weights)})

    def apply(self, state: ServerState, total: RoundSum) -> ServerState:
        momentum = np.float32(self.beta) * state.memory["momentum"] + total.mean
        return ServerState(state.weights + momentum, {"momentum": momentum})


class Office:
    """A coordinator's model and memory, and a site that follows them."""

    def __init__(self, folder: Path, strategy: FedAvg) -> None:
        self.folder, self.strategy = folder, strategy
        self.state = strategy.init(START)
        self.rounds = SiteRounds(strategy, SITES)

    def begin(self, number: int) -> str:
        at = Position(study="chest", run="a1", round=number, attempt=0)
        return self.rounds.begin(self.folder, at, number, self.state.weights)

    def sum(self, number: int, *, computed: bool = True, accepted: bool = True) -> None:
        total = RoundSum(np.full(4, 0.1 * (number + 1), np.float32), 3)
        if computed:
            self.rounds.computed(
                self.folder, Position(study="chest", run="a1", round=number, attempt=0), total
            )
        if accepted:
            self.state = self.strategy.apply(self.state, total)


def test_a_site_applies_a_strategy_with_the_memory_of_the_rounds_before(tmp_path: Path) -> None:
    office = Office(tmp_path, Momentum(rounds=5, steps=1))
    for number, accepted in enumerate((True, False, True, True)):  # an aborted round leaves the memory
        assert office.begin(number) == ""
        office.sum(number, accepted=accepted)
    assert office.begin(4) == ""
    office.state = ServerState(office.state.weights + np.float32(0.01), office.state.memory)
    at = Position(study="chest", run="a1", round=5, attempt=0)
    office.sum(4)
    with pytest.raises(DataError, match="not what the sum of round 5 leads to"):
        office.rounds.finish(tmp_path, at, office.state.weights + np.float32(0.01))


def test_a_site_that_missed_a_sum_says_that_it_cannot_follow_a_strategy_with_memory(tmp_path: Path) -> None:
    office = Office(tmp_path, Momentum(rounds=5, steps=1))
    office.begin(0)
    office.sum(0, computed=False)
    assert "not asked for the sum of round 1" in office.begin(1)
    office.sum(1)
    assert "the strategy remembers sums that this site does not know" in office.begin(2)
    plain = Office(tmp_path / "plain", FedAvg(rounds=5, steps=1))
    plain.folder.mkdir()
    plain.begin(0)
    plain.sum(0, computed=False)
    assert "not asked" in plain.begin(1)
    plain.sum(1)
    assert plain.begin(2) == ""  # FedAvg needs the last model alone


def test_a_site_that_joins_in_a_later_round_does_not_know_the_memory(tmp_path: Path) -> None:
    office = Office(tmp_path, Momentum(rounds=5, steps=1))
    office.sum(0)
    assert office.begin(1) == ""
    office.sum(1)
    assert "the strategy remembers" in office.begin(2)


def test_a_warm_start_takes_the_model_and_not_the_memory_that_sites_do_not_know(
    consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategies, "of_config", lambda terms: Momentum(terms.rounds, terms.local_steps))
    with closing(_state(tmp_path, consortium.study, RunOrder())) as first:
        model = first.model()[1]
        trained = ServerState(model.weights + 1, {"momentum": np.ones_like(model.weights)})
        now = first.begin_round(SITES)
        first.accept(now, trained, survivors=SITES)
    with closing(_state(tmp_path, consortium.study, RunOrder(again=True, warm=True))) as warm:
        begun = warm.model()[1]
    assert np.array_equal(begun.weights, trained.weights)
    assert not begun.memory["momentum"].any()
