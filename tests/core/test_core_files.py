"""A reader never sees half a file, and a full disk is said in words."""

import contextlib
import errno
import os
from pathlib import Path

import pytest

from meninx.core import files, randomness
from meninx.core.errors import DataError, StorageError
from meninx.core.journal import Journal


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
    assert randomness.private_bytes(16, deterministic_seed=1) == randomness.private_bytes(
        16, deterministic_seed=1
    )
    assert randomness.private_bytes(16, deterministic_seed=1, purpose="a") != randomness.private_bytes(
        16, deterministic_seed=1, purpose="b"
    )


def test_named_children_of_a_seed_do_not_move_each_other():
    assert randomness.child(0, "split").random() == randomness.child(0, "split").random()
    assert randomness.child(0, "split").random() != randomness.child(0, "augment").random()


@pytest.mark.parametrize(("umask", "public"), [(0o000, 0o666), (0o022, 0o644), (0o077, 0o600)])
def test_files_obey_the_umask_and_private_ones_are_the_owners(tmp_path: Path, umask: int, public: int):
    before = os.umask(umask)
    try:
        files.write_text(tmp_path / "public", "x")
        files.write_text(tmp_path / "private", "x", mode=files.PRIVATE_MODE)
        files.append_line(tmp_path / "lines", "x", mode=files.PRIVATE_MODE)
        with Journal(tmp_path / "journal").appending() as lines:
            lines.add({})
    finally:
        os.umask(before)
    modes = {item.name: item.stat().st_mode & 0o777 for item in tmp_path.iterdir()}
    assert modes == {"public": public, "private": 0o600, "lines": 0o600, "journal": 0o600}


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_no_partial_file_is_left_whatever_fails(tmp_path: Path, monkeypatch, call: str):
    def refuse(*_args, **_options):
        raise OSError(errno.EROFS, "read-only")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(StorageError, match="read-only"):
            files.write_bytes(tmp_path / "a", b"x" * 100)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (
        Path("/dev/zero"),
        tmp_path / "pipe",
        tmp_path,
        tmp_path / "none",
        tmp_path / "a\0b",
        tmp_path / "\ud800",
    ):
        for reader in (files.read_bytes, files.digest):
            with pytest.raises(DataError):
                reader(path)


def test_a_refused_folder_leaves_no_open_handle(tmp_path: Path):
    before = len(os.listdir("/proc/self/fd")) if Path("/proc").is_dir() else 0  # noqa: PTH208
    for _ in range(20):
        with pytest.raises(DataError):
            files.read_bytes(tmp_path)
    assert before == (len(os.listdir("/proc/self/fd")) if Path("/proc").is_dir() else 0)  # noqa: PTH208


def test_the_size_is_looked_at_before_reading(tmp_path: Path):
    huge = tmp_path / "huge.json"
    with huge.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(DataError, match=r"huge\.json"):
        files.read_bytes(huge)
    (tmp_path / "small").write_bytes(b"12345")
    assert files.read_bytes(tmp_path / "small", limit=5) == b"12345"
    with pytest.raises(DataError, match="at most 4"):
        files.read_bytes(tmp_path / "small", limit=4)


def test_foreign_bytes_are_named_and_not_shown(tmp_path: Path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfeM\xfcller")
    with pytest.raises(DataError, match=r"not UTF-8 text \(a\.json\)"):
        files.read_text(tmp_path / "a.json")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/",
        "/etc/passwd",
        "//host/share",
        "a/../../b",
        "..\\b",
        "C:x",
        "a/C:x",
        "c:\\x",
        "a\0",
        "a\nb",
        "\x7f",
        "\ud800",
        "x" * 5000,
        "out/x",
        "out",
        "round/x",
        "self",
    ],
)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str):
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "round").symlink_to(root / "round")
    (root / "self").symlink_to(root)
    with pytest.raises(DataError, match="table, row 3") as caught:
        files.below(root, name, where="table, row 3")
    assert "passwd" not in str(caught.value)


def test_names_inside_are_paths(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for name in ("a.png", "images/c001.png", "./a", "a//b", "Müller", "link/x", "series:1", " a", "..."):
        files.below(tmp_path, name, where="x")


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
