"""Studies with homomorphic encryption end with the same model as plain ones."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from rounds_samples import NAMES, START, Study, expected_model, weights

from meninx.core.errors import DataError
from meninx.federated import messages
from meninx.federated.config import MOST_UNITS
from meninx.federated.contribution import MOST_LOSS
from meninx.federated.encodings import CkksEncoding
from meninx.federated.site_rounds import SiteRounds
from meninx.federated.strategies import FedAvg
from meninx.federated.study_state import RoundPhase
from meninx.secagg.ckks import LARGEST_VALUE

pytest.importorskip("tenseal")


def test_rounds_with_encryption_give_the_weighted_mean_although_sites_are_lost(tmp_path: Path) -> None:
    study = Study(tmp_path, "ckks")

    def lose(name: str, request: object) -> bool:
        second = getattr(request, "at", None) is not None and request.at.round == 1
        return name == "north" and second and isinstance(request, messages.Train)

    study.line.lose = lose
    state = study.run()
    three = tuple(name for name in NAMES if name != "north")
    assert [entry.phase for entry in state.rounds()] == [RoundPhase.ACCEPTED] * 3
    assert np.abs(weights(state) - expected_model([NAMES, three, NAMES])).max() < 1e-5
    checked = [dict.fromkeys(names, 1.0) for names in (NAMES, three, NAMES)]
    assert [entry.checked for entry in state.rounds()] == checked  # each survivor signed the sum it decrypted


def test_site_that_starts_again_goes_on_from_its_history(tmp_path: Path) -> None:
    study = Study(tmp_path, "ckks", strategy=FedAvg(rounds=1))
    answer = study.line.answer

    def restarting(name: str, request: messages.Request) -> messages.Reply:
        study.sites[name] = study.line.sites[name] = study.sites[name].restarted()
        return answer(name, request)

    study.line.answer = restarting
    assert np.abs(weights(study.run()) - expected_model([NAMES])).max() < 1e-5
    side = study.sites["east"]._sides("r")
    with pytest.raises(DataError, match="no such request"):
        side.check(messages.Position(study="chest", run="r", round=0, attempt=0), b"", b"")


def test_what_a_site_decrypted_leads_to_the_model_of_the_coordinator_and_to_no_other(tmp_path: Path) -> None:
    study = Study(tmp_path, "ckks", strategy=FedAvg(rounds=1))
    answer, opened = study.line.answer, {}

    def listening(name: str, request: messages.Request) -> messages.Reply:
        reply = answer(name, request)
        if isinstance(reply, messages.Revealed):
            opened[name] = (request.at, study.sites[name]._side.decoded(reply.reveal))
        return reply

    study.line.answer = listening
    model = weights(study.run())
    assert set(opened) == set(NAMES)
    for name, (at, total) in opened.items():
        rounds, folder = SiteRounds(FedAvg(rounds=2), NAMES), tmp_path / f"private-{name}"
        folder.mkdir()
        rounds.begin(folder, at, 0, START)
        rounds.computed(folder, at, total)
        later = msgspec.structs.replace(at, round=1)
        with pytest.raises(DataError, match="not what the sum of round 1 leads to"):
            rounds.begin(folder, later, 1, model + np.float32(1e-3))
        assert rounds.begin(folder, later, 1, model) == ""


@pytest.mark.parametrize("clip", [1e-3, 0.5, 8.0, 100.0])
def test_largest_contribution_stays_in_the_range(clip: float) -> None:
    largest = MOST_UNITS[32] * max(clip, MOST_LOSS) * CkksEncoding(clip).scale
    assert LARGEST_VALUE / 2 < largest <= LARGEST_VALUE
