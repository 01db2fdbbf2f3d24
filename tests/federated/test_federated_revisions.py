"""A new revision of a study begins a new run; the state of the run before stays and may lend its model."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from meninx.core.errors import DataError, UsageError
from meninx.federated.coordinator_process import RunOrder, _state
from meninx.federated.strategies import ServerState


def test_a_new_revision_begins_a_new_run_beside_the_old_one(consortium, tmp_path: Path) -> None:
    folder, first = tmp_path / "engine" / "runs", consortium.study
    with closing(_state(folder, first, RunOrder())) as state:
        trained = ServerState(state.model()[1].weights + 1)
        now = state.begin_round(("east", "north", "west"))
        state.accept(now, trained, survivors=now.members)
        numbers = state.next_number
    with pytest.raises(UsageError, match="run before"):
        _state(folder, first, RunOrder())
    changed = dataclasses.replace(first, digest="d" * 64)
    with pytest.raises(DataError, match="other terms"):
        _state(folder, changed, RunOrder(resume=True))
    with closing(_state(folder, changed, RunOrder())) as second:
        assert (second.header.terms, second.header.first) == ("d" * 64, numbers)
        assert not np.array_equal(second.model()[1].weights, trained.weights)
    third = dataclasses.replace(first, digest="e" * 64)
    (folder / "0002.sqlite3").unlink()
    with closing(_state(folder, third, RunOrder(again=True, warm=True))) as warm:
        assert np.array_equal(warm.model()[1].weights, trained.weights)
    assert (folder / "0001.sqlite3").is_file()


def test_a_model_of_another_network_is_not_taken(consortium, tmp_path: Path) -> None:
    folder, first = tmp_path / "engine" / "runs", consortium.study
    _state(folder, first, RunOrder()).close()
    training = first.config.train | {"model": "resnet9-small", "model_options": {"width": 8}}
    other = dataclasses.replace(first, digest="d" * 64, config=first.config.replace(train=training))
    with pytest.raises(UsageError, match="the network changed"):
        _state(folder, other, RunOrder(again=True, warm=True))
