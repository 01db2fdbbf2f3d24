"""Folders of plain files appear as a whole: after an error or a kill, and for two processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from meninx.core import files, staging, workspace
from meninx.core.errors import DataError, Interrupted, RunLocked, StorageError, UsageError
from meninx.core.staging import FOLDER, building


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


def fail(out, error):
    with building(out, fingerprint="x") as build:
        files.write_text(build.new("one"), "one")
        files.write_text(build.new(f"{files.PARTIAL}1"), "torn")
        raise error


def test_an_output_folder_below_a_file_is_refused_by_the_check_too(tmp_path):
    (tmp_path / "file").write_text("")
    checks = (partial(staging.check, names=[]), partial(workspace.check, stage="deid", fingerprint=""))
    for check in checks:
        with pytest.raises(UsageError, match="below a file"):
            check(tmp_path / "file" / "a" / "out")
        check(tmp_path / "new" / "out")


def test_nothing_is_seen_before_all_is_there_and_other_files_stay(tmp_path):
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    (out / "a" / "old").write_text("old")
    with building(out, fingerprint="x", last="done.json") as build:
        files.write_text(build.new("a/new"), "new")
        files.write_text(build.new("done.json"), "{}")
        assert [path.name for path in out.iterdir() if path.name != FOLDER] == ["a"]
        assert build.existing("a/old") == out / "a" / "old"
        assert build.in_output("a/old")
        assert not build.in_output("a/new")
    assert tree(out) == {"a/old": "old", "a/new": "new", "done.json": "{}"}


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(DataError):
        fail(tmp_path / "b" / "out", DataError("no"))
    assert not (tmp_path / "b").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(ZeroDivisionError):
        fail(tmp_path / "out", ZeroDivisionError())
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("fingerprint", "there"), [("x", True), ("y", False), ("", False)])
def test_an_interruption_is_continued_with_the_same_settings_alone(tmp_path, fingerprint, there):
    for error in (Interrupted("stop"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            fail(tmp_path, error)
    with building(tmp_path, fingerprint=fingerprint) as build:
        assert (build.existing("one") is not None) is there
    assert tree(tmp_path) == ({"one": "one"} if there else {})


KILLED = """
import os, signal, sys
from pathlib import Path
from meninx.core import files, staging
out = Path(sys.argv[1])
moves = []
real = Path.replace
def replace(path, target):
    if staging.FOLDER in path.parts and staging.FOLDER not in Path(target).parts:
        moves.append(target)
        if len(moves) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    return real(path, target)
Path.replace = replace
with staging.building(out, fingerprint="x", last="done") as build:
    for name in ("done", "one", "two"):
        files.write_text(build.new(name), name)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_a_kill_while_files_move_is_mended_by_the_next_call(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} == {FOLDER, "one"}
    with building(tmp_path, fingerprint="x", last="done") as build:
        assert build.existing("one") == tmp_path / "one"
        assert build.existing("two") == build.staged / "two"
    assert tree(tmp_path) == {"one": "one", "two": "two", "done": "done"}


HOLDING = """
import sys, time
from pathlib import Path
from meninx.core import staging
with staging.building(Path(sys.argv[1]), fingerprint="x"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_one_process_at_a_time_and_a_killed_one_holds_nothing(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE)
    assert other.stdout.readline()
    with pytest.raises(RunLocked), building(tmp_path, fingerprint="x"):
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    other.stdout.close()
    with building(tmp_path, fingerprint="x"):
        time.sleep(0)
    assert list(tmp_path.iterdir()) == []


def test_a_file_or_a_link_in_its_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((UsageError, StorageError)), building(tmp_path / "file", fingerprint="x"):
        pass
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("kept")
    (tmp_path / "out" / FOLDER).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="link"), building(tmp_path / "out", fingerprint="x"):
        pass
    assert (tmp_path / "elsewhere" / "kept").exists()


def test_a_link_in_the_hidden_folder_is_not_followed(tmp_path):
    def stopped() -> None:
        with building(tmp_path / "out", fingerprint="x"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    (tmp_path / "elsewhere").mkdir()
    place = tmp_path / "out" / FOLDER / "files"
    place.rmdir()
    place.symlink_to(tmp_path / "elsewhere")
    with building(tmp_path / "out", fingerprint="x") as build:
        files.write_text(build.new("one"), "new")
        assert list((tmp_path / "elsewhere").iterdir()) == []
    assert tree(tmp_path / "out") == {"one": "new"}


@pytest.mark.parametrize("leads", ["elsewhere", "nowhere"])
def test_a_link_among_the_folders_is_refused_before_a_file_moves(tmp_path, leads):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    (elsewhere / "kept").mkdir(parents=True)
    (out / "a").mkdir(parents=True)
    (out / "a" / "link").symlink_to(tmp_path / leads)

    def built() -> None:
        with building(out, fingerprint="x") as build:
            for name in ("a/first", "a/link/deep/one", "second"):
                files.write_text(build.new(name), "new")

    with pytest.raises(UsageError, match=r"is a link \(a/link\)"):
        built()
    assert [path.name for path in elsewhere.rglob("*")] == ["kept"]
    assert not (tmp_path / "nowhere").exists()
    assert tree(out) == {}
    assert (out / "a" / "link").is_symlink()


def test_the_output_folder_and_a_replaced_file_may_be_links(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "real" / "one").symlink_to(tmp_path / "kept")
    (tmp_path / "out").symlink_to(tmp_path / "real")
    with building(tmp_path / "out", fingerprint="x") as build:
        files.write_text(build.new("one"), "new")
    assert tree(tmp_path / "real") == {"one": "new"}
    assert (tmp_path / "kept").read_text() == "kept"


def test_what_is_replaced_lies_aside_until_all_is_there(tmp_path, monkeypatch):
    source, target, aside = (tmp_path / name for name in ("source", "target", "aside"))
    for folder, text in ((source, "new"), (target, "old")):
        (folder / "bundle").mkdir(parents=True)
        (folder / "bundle" / "file").write_text(text)
        (folder / "sums").write_text(text)
    order, real = [], Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, place: (order.append(path), real(path, place))[1])
    staging.move_whole(source, target, aside, last=["bundle"])
    assert tree(target) == {"bundle/file": "new", "sums": "new"}
    assert [path.name for path in order if path.parent == source] == ["sums", "bundle"]
    assert not source.exists()
    assert not aside.exists()
