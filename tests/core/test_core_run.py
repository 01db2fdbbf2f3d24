"""The run folder: two rooms, one process at a time, a name that says what it is."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from meninx.core import run as runs
from meninx.core.errors import UsageError

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_run_has_a_private_room_that_only_its_owner_enters(tmp_path: Path):
    run = runs.create(tmp_path, "cxr dp/s0", config_toml="epochs = 1\n", now=WHEN)
    assert run.name == "2026-01-02_030405_cxr-dp-s0"
    assert run.private.stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "latest").exists()  # a start that fails must not move it
    run.point_latest()
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


OTHER = """
import sys
from pathlib import Path
from meninx.core.errors import RunLocked
from meninx.core.run import Run
try:
    with Run(Path(sys.argv[1])).lock():
        print("locked")
except RunLocked as error:
    print(error)
"""


def _in_another_process(root: Path) -> str:
    return subprocess.run([sys.executable, "-c", OTHER, str(root)], capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path: Path):
    run = runs.create(tmp_path, "a", config_toml="")
    with run.lock():
        assert "another process" in _in_another_process(run.root)
    assert _in_another_process(run.root) == "locked\n"
