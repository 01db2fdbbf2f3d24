"""The journal: a torn tail is cut, damage before whole lines is said, a full disk leaves no half line."""

import errno
import os
from pathlib import Path

import pytest

from meninx.core import journal as journals
from meninx.core.errors import DataError, StorageError
from meninx.core.journal import Journal


def test_a_tail_torn_at_any_byte_is_cut_and_the_next_line_follows_the_whole_ones(tmp_path: Path):
    path = tmp_path / "journal"
    with Journal(path).appending() as lines:
        for number in range(3):
            lines.add({"number": number, "name": 'Müller {"}'})
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = whole[:cut].count(b"\n")
        with Journal(path).appending() as lines:
            lines.add({"number": "after"})
        assert [table["number"] for table in Journal(path).tables()] == [*range(kept), "after"]


@pytest.mark.parametrize(
    "tail", [b"\0\0\0\0", b"\0\n", b"[1]\n", b"{]\n\xff\xfe\n", b"[" * 100_000, b"9" * 5000 + b"\n"]
)
def test_what_a_power_cut_leaves_at_the_end_is_a_torn_tail(tmp_path: Path, tail: bytes):
    path = tmp_path / "journal"
    path.write_bytes(b'{"a":1}\n' + tail)
    assert list(Journal(path).tables()) == [{"a": 1}]
    Journal(path).cut()
    assert path.read_bytes() == b'{"a":1}\n'


def test_damage_before_whole_lines_is_said_and_nothing_is_cut(tmp_path: Path):
    path = tmp_path / "journal"
    path.write_bytes(b'{"a":1}\n{"b":\x00}\n{"c":3}\n')
    before = path.read_bytes()
    with pytest.raises(DataError, match="journal, line 3"):
        list(Journal(path).tables())
    with pytest.raises(DataError, match="damaged"), Journal(path).appending():
        pass
    assert path.read_bytes() == before


def test_a_huge_line_takes_no_memory(tmp_path: Path):
    path = tmp_path / "journal"
    with path.open("wb") as stream:
        stream.write(b'{"a":1}\n')
        stream.truncate(journals.LINE_LIMIT * 3)
    assert list(Journal(path).tables()) == [{"a": 1}]
    with Journal(path).appending() as lines, pytest.raises(DataError, match="at most"):
        lines.add({"a": "x" * journals.LINE_LIMIT})
    assert path.read_bytes() == b'{"a":1}\n'


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch):
    path = tmp_path / "journal"

    def full(_handle):
        raise OSError(errno.ENOSPC, "full")

    with Journal(path).appending(durable=True) as lines:
        lines.add({"a": 1})
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StorageError, match="no space left"):
                lines.add({"b": 2})
        lines.add({"c": 3})
    assert list(Journal(path).tables()) == [{"a": 1}, {"c": 3}]


def test_an_error_of_the_work_is_not_called_one_of_the_disk(tmp_path: Path):
    with pytest.raises(FileNotFoundError), Journal(tmp_path / "journal").appending():
        (tmp_path / "none").read_text()


def test_rewriting_keeps_the_old_lines_until_the_new_ones_are_complete(tmp_path: Path):
    path = tmp_path / "journal"
    Journal(path).rewrite([{"a": 1}])
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ZeroDivisionError):
        Journal(path).rewrite({"a": 1 // number} for number in (1, 0))
    assert list(Journal(path).tables()) == [{"a": 1}]
    assert list(Journal(tmp_path / "none").tables()) == []
