"""The run folder: two rooms, one process at a time, a name that says what it is."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from meninx.core import files
from meninx.core import run as runs
from meninx.core.artifacts import RunState
from meninx.core.errors import DataError, StorageError, UsageError

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
    return subprocess.run(
        [sys.executable, "-c", OTHER, str(root)], capture_output=True, text=True, timeout=60, check=True
    ).stdout


def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path: Path):
    run = runs.create(tmp_path, "a", config_toml="")
    with run.lock():
        assert "another process" in _in_another_process(run.root)
    assert _in_another_process(run.root) == "locked\n"


def test_a_failed_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_args: object, **_options: object) -> None:
        raise StorageError("full")

    monkeypatch.setattr(files, "write_text", full)
    with pytest.raises(StorageError):
        runs.create(tmp_path, "a", config_toml="")
    assert list(tmp_path.iterdir()) == []


def test_only_a_run_that_took_no_step_is_discarded(tmp_path: Path):
    run = runs.create(tmp_path, "a", config_toml="")
    run.ledger_path.write_text("{}\n")
    run.discard()
    assert run.root.is_dir()
    run.ledger_path.unlink()
    run.update(state=RunState.TRAINING)
    run.discard()
    assert run.root.is_dir()
    run.update(state=RunState.STARTING)
    run.discard()
    assert not run.root.exists()


def test_changing_the_record_keeps_the_rest(tmp_path: Path):
    run = runs.create(tmp_path, "a", config_toml="x = 1\n", private=True, now=WHEN)
    before = run.record
    assert before is not None
    assert before.config == hashlib.sha256(b"x = 1\n").hexdigest()
    assert run.update(step=5) == replace(before, step=5) == run.record
    (run.root / "run.json").unlink()
    with pytest.raises(DataError, match="older version"):
        run.update(step=6)


def test_latest_is_a_link_that_never_takes_the_place_of_a_folder(tmp_path: Path):
    first, second = (runs.create(tmp_path, name, config_toml="") for name in ("a", "b"))
    first.point_latest()
    second.point_latest()
    assert (tmp_path / "latest").resolve() == second.root
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").mkdir()
    first.point_latest()
    assert not (tmp_path / "latest").is_symlink()
    assert not list(tmp_path.glob(".latest*"))


def test_the_command_is_kept_without_folders(tmp_path: Path):
    words = [
        "meninx",
        "train",
        "/home/meier/data",
        "--out=/home/meier/x",
        "../secret/b",
        "C:\\Users\\Meier\\c",
        "~/d",
        "--epsilon",
        "8",
    ]
    run = runs.create(tmp_path, "a", config_toml="", command=words)
    known = run.read_json("environment.json")["command"]
    assert known == ["meninx", "train", "data", "--out=x", "b", "c", "d", "--epsilon", "8"]


def test_damaged_json_is_a_data_error(tmp_path: Path):
    run = runs.create(tmp_path, "a", config_toml="")
    for text in ("", "{", "9" * 5000, "[" * 100_000):
        (run.root / "x.json").write_text(text)
        with pytest.raises(DataError, match=r"x\.json"):
            run.read_json("x.json")
    assert run.read_json("none.json") is None


WITHOUT_FCNTL = """
import importlib, pkgutil, sys
import filelock  # the one library that may use it
sys.modules["fcntl"] = None
for name in sys.argv[2:]:
    package = importlib.import_module(name)
    for item in pkgutil.iter_modules(package.__path__, f"{name}."):
        importlib.import_module(item.name)
from pathlib import Path
from meninx.core import workspace
with workspace.claim(Path(sys.argv[1]) / "out", stage="x", fingerprint="a"):
    pass
"""


def test_locks_need_no_fcntl_of_our_own(tmp_path: Path):
    packages = ("meninx.core", "meninx.deid", "meninx.prepare", "meninx.verify")
    subprocess.run([sys.executable, "-c", WITHOUT_FCNTL, str(tmp_path), *packages], timeout=60, check=True)
