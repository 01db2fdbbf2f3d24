"""A reader never sees half a file, and a full disk is said in words."""

import contextlib
import errno
import os
from pathlib import Path

import pytest

from meninx.core import files, randomness
from meninx.core.errors import StorageError


def _interrupted_write(path: Path) -> None:
    with contextlib.suppress(RuntimeError), files.atomic(path) as stream:
        stream.write(b"new")
        raise RuntimeError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    _interrupted_write(path)
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_a_storage_error_and_loses_nothing(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        files.write_text(path, "new")
    with pytest.raises(StorageError, match="no space left"):
        files.append_line(tmp_path / "b.txt", "line")
    assert path.read_text() == "old"


def test_the_private_mode_is_kept(tmp_path: Path):
    files.write_text(tmp_path / "key", "x", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_private_bytes_come_from_the_system_unless_the_run_is_deterministic():
    assert randomness.private_bytes(16) != randomness.private_bytes(16)
    assert randomness.private_bytes(16, deterministic_seed=1) == randomness.private_bytes(16, deterministic_seed=1)
    assert randomness.private_bytes(16, deterministic_seed=1, purpose="a") != randomness.private_bytes(
        16, deterministic_seed=1, purpose="b"
    )


def test_named_children_of_a_seed_do_not_move_each_other():
    assert randomness.child(0, "split").random() == randomness.child(0, "split").random()
    assert randomness.child(0, "split").random() != randomness.child(0, "augment").random()


def test_names_from_a_file_cannot_meet_another_purpose() -> None:
    paths = [
        ("a", "b"),
        ("a/b",),
        ("a", "", "b"),
        ("a", "b", ""),
        ("", "a", "b"),
        ("a/", "b"),
        ("a", "/b"),
        ('a", "b',),
        ("[", "/"),
    ]
    assert len({randomness.child_seed(0, *path) for path in paths}) == len(paths)
    assert randomness.child_seed(0, "order", 3) == 2723741169552378311  # what published runs were made with
