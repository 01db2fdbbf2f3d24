"""Studies with additive shares among the sites end with the same model as plain ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rounds_samples import NAMES, Study, expected_model, weights

from meninx.core.errors import ConfigError, DataError
from meninx.federated import messages
from meninx.federated.aggregation_methods import quorum_of
from meninx.federated.config import AggregationConfig
from meninx.federated.study_state import RoundPhase


def test_three_rounds_with_shares_give_the_weighted_mean(tmp_path: Path) -> None:
    study = Study(tmp_path, "shares")
    state = study.run()
    assert np.abs(weights(state) - expected_model([NAMES] * 3)).max() < 1e-5
    assert [entry.phase for entry in state.rounds()] == [RoundPhase.ACCEPTED] * 3


def test_round_in_which_a_site_answers_no_shares_is_lost_and_the_next_one_is_whole(tmp_path: Path) -> None:
    study, lost = Study(tmp_path, "shares"), []

    def lose(name: str, request: object) -> bool:
        gone = name == "north" and isinstance(request, messages.Reveal) and len(lost) < 2
        lost.extend([request] if gone else [])
        return gone

    study.line.lose = lose
    state = study.run()
    assert [entry.phase for entry in state.rounds()][:2] == [RoundPhase.ABORTED, RoundPhase.ACCEPTED]
    assert all(
        set(entry.survivors) == set(NAMES) for entry in state.rounds() if entry.phase == RoundPhase.ACCEPTED
    )


def test_site_that_starts_again_goes_on_from_its_history(tmp_path: Path) -> None:
    study, seen = Study(tmp_path, "shares"), []
    answer = study.line.answer

    def restarting(name: str, request: messages.Request) -> messages.Reply:
        seen.append(request)
        study.sites[name] = study.line.sites[name] = study.sites[name].restarted()
        return answer(name, request)

    study.line.answer = restarting
    state = study.run()
    assert np.abs(weights(state) - expected_model([NAMES] * 3)).max() < 1e-5


def test_shares_need_every_site_and_three_at_least() -> None:
    config = AggregationConfig.of(aggregation="shares", clip=4.0)
    assert [quorum_of(config, sites) for sites in (3, 4, 10)] == [3, 4, 10]
    with pytest.raises(ConfigError, match="3 to 32 sites"):
        quorum_of(config, 2)


def test_shares_are_not_computed_again(tmp_path: Path) -> None:
    study = Study(tmp_path, "shares")
    study.run()
    end = study.sites["east"]._end
    with pytest.raises(DataError, match="no such request"):
        end.check(messages.Position(study="chest", run="r", round=0, attempt=0), b"", b"")
    assert not any(isinstance(request, messages.Recompute) for _, request in study.line.log)
