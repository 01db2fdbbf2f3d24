"""A full disk of the coordinator at any of its writes: a typed error, and resume ends with the same model."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from rounds_samples import NAMES, START, Study, expected_model, weights, without_waiting_for_the_disk

from meninx.core.errors import StorageError
from meninx.federated.study_state import Stage, StudyState


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting_for_the_disk(monkeypatch)


@contextmanager
def full_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[list[int]]:
    """Make one transaction of the state fail as SQLite does on a full disk; yields their count."""
    count, original = [0], StudyState._transaction

    @contextmanager
    def transaction(self: StudyState) -> Iterator[None]:
        count[0] += 1
        if count[0] == number:
            with self._guarded():
                raise sqlite3.OperationalError("database or disk is full")
        with original(self):
            yield

    with monkeypatch.context() as patch:
        patch.setattr(StudyState, "_transaction", transaction)
        yield count


def survives(root: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    study = Study(root)
    with (
        full_at(monkeypatch, number),
        closing(study.begin()) as state,
        pytest.raises(StorageError, match="free space or permissions, then resume"),
    ):
        study.coordinator(state).run()
    with closing(study.resume()) as state:
        study.coordinator(state).run()
        assert state.stage is Stage.FINISHED
        np.testing.assert_allclose(weights(state), expected_model([NAMES] * 3), atol=1e-5)
        assert [one.survivors for one in state.rounds()] == [NAMES] * 3  # none was lost


def transactions(root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    study = Study(root)
    with full_at(monkeypatch, 0) as count, closing(study.begin()) as state:
        study.coordinator(state).run()
    return count[0]


def test_a_full_disk_at_some_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = transactions(tmp_path / "quiet", monkeypatch)
    assert count > 50
    for number in range(1, count + 1, count // 6):
        survives(tmp_path / str(number), monkeypatch, number)


@pytest.mark.slow
def test_a_full_disk_at_every_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, transactions(tmp_path / "quiet", monkeypatch) + 1):
        survives(tmp_path / str(number), monkeypatch, number)


def test_sqlite_itself_runs_out_of_pages(tmp_path: Path) -> None:
    study = Study(tmp_path)
    with closing(study.begin()) as state:
        (pages,) = state._base.execute("PRAGMA page_count").fetchone()
        state._base.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageError, match="cannot be written: database or disk is full"):
            study.coordinator(state).run()
    with closing(study.resume()) as state:
        study.coordinator(state).run()
        assert state.stage is Stage.FINISHED
        assert not np.array_equal(weights(state), START)
