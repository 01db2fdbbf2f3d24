"""The history file of a site: a torn line goes, a damaged one stops the site, a full disk spoils nothing."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from meninx.core.errors import DataError, StorageError
from meninx.federated.history_file import HistoryFile


def test_records_come_back_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path / "history")
    assert file.read() == ()
    for record in (b"one", b"\n\x00", b""):
        file.add(record)
    assert file.read() == (b"one", b"\n\x00", b"")
    assert stat.S_IMODE((tmp_path / "history").stat().st_mode) == 0o600
    file.tidy((b"one",))
    assert file.read() == (b"one",)


def test_a_torn_line_was_never_answered_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "history"
    HistoryFile(path).add(b"one")
    with path.open("ab") as stream:
        stream.write(b"dHd")
    assert HistoryFile(path).read() == (b"one",)
    assert path.read_bytes().endswith(b"\n")


def test_a_damaged_line_stops_the_site(tmp_path: Path) -> None:
    path = tmp_path / "history"
    HistoryFile(path).add(b"one")
    path.write_bytes(b"?" + path.read_bytes())
    with pytest.raises(DataError, match="could sign twice"):
        HistoryFile(path).read()


def test_after_a_full_disk_the_next_record_follows_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "history"
    file = HistoryFile(path)
    file.add(b"one")
    with monkeypatch.context() as patch:

        def full(handle: int) -> None:
            os.ftruncate(handle, path.stat().st_size - 3)  # a part of the line was written
            raise OSError(errno.ENOSPC, "full")

        patch.setattr("os.fsync", full)
        with pytest.raises(StorageError):
            file.add(b"two")
    file.add(b"three")
    assert file.read() == (b"one", b"three")
