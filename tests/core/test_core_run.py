"""The run folder: two rooms, one process at a time, a name that says what it is."""

import multiprocessing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from meninx.core import run as runs
from meninx.core.errors import RunLocked, UsageError

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_run_has_a_private_room_that_only_its_owner_enters(tmp_path: Path):
    run = runs.create(tmp_path, "cxr dp/s0", config_toml="epochs = 1\n", now=WHEN)
    assert run.name == "2026-01-02_030405_cxr-dp-s0"
    assert run.private.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "latest").resolve() == run.root
    assert runs.open_run(tmp_path / "latest").root == run.root
    assert not (run.root / "NOT_FOR_RELEASE").exists()


def test_a_second_run_of_the_same_second_gets_its_own_folder(tmp_path: Path):
    first, second = (runs.create(tmp_path, "a", config_toml="", now=WHEN) for _ in range(2))
    assert first.root != second.root


def test_a_deterministic_run_is_stamped(tmp_path: Path):
    run = runs.create(tmp_path, "a", config_toml="", deterministic=True)
    assert "NOT FOR RELEASE" in (run.root / "NOT_FOR_RELEASE").read_text()


def test_a_folder_that_is_no_run_is_a_usage_error(tmp_path: Path):
    with pytest.raises(UsageError, match="run folder"):
        runs.open_run(tmp_path)


def _try_to_lock(root: str, answer) -> None:
    try:
        with runs.Run(Path(root)).lock():
            answer.put("locked")
    except RunLocked as error:
        answer.put(str(error))


def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path: Path):
    run = runs.create(tmp_path, "a", config_toml="")
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    with run.lock():
        other = context.Process(target=_try_to_lock, args=(str(run.root), answer))
        other.start()
        other.join()
        assert "another process" in answer.get()
    _try_to_lock(str(run.root), answer)
    assert answer.get() == "locked"
