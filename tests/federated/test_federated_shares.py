"""Studies with additive shares among the sites end with the same model as plain ones."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from rounds_samples import NAMES, Line, Study, expected_model, weights

from meninx.core.errors import ConfigError
from meninx.federated import events, messages, secure_sides
from meninx.federated.aggregation_methods import named
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
    assert [named("shares").fewest(sites) for sites in (3, 4, 10)] == [3, 4, 10]
    with pytest.raises(ConfigError, match="3 to 32 sites"):
        named("shares").fewest(2)


def test_every_site_computes_the_sum_of_the_shares_again(tmp_path: Path) -> None:
    study = Study(tmp_path, "shares")
    state = study.run()
    assert all(entry.checked == dict.fromkeys(NAMES, 1.0) for entry in state.rounds())
    assert len(study.of(events.SumRecomputed)) == 12


@pytest.mark.parametrize("part", ["total", "transcript"])
def test_a_sum_that_the_signed_shares_do_not_add_up_to_is_not_accepted(tmp_path: Path, part: str) -> None:
    study = Study(tmp_path, "shares")

    class Lying(Line):
        def answer(self, name: str, request: messages.Request) -> messages.Reply:
            if isinstance(request, messages.Recompute) and request.at.round == 1:
                sent = getattr(request, part)
                false = {part: sent[:-1] + bytes([sent[-1] ^ 1])}
                request = msgspec.structs.replace(request, **false)
            return super().answer(name, request)

    state = study.run(Lying(study.sites))
    second = state.rounds()[1]
    assert second.checked == {}
    if part == "total":
        assert (second.phase, second.mismatches) == (RoundPhase.ABORTED, NAMES)
    else:
        assert "not the one that" in study.of(events.SiteRefused)[0].reason


def test_shares_that_are_too_large_to_be_published_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secure_sides, "WHOLE", 0)
    study = Study(tmp_path, "shares")
    state = study.run()
    assert len(study.of(events.SumUnchecked)) == 3
    assert all(entry.unchecked and not entry.checked for entry in state.rounds())
