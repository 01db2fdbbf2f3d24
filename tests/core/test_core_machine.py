"""What the machine has: free memory and disk, and sizes as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from meninx.core import machine


def test_memory_disk_and_processors_are_positive(tmp_path: Path) -> None:
    assert machine.free_memory() > 1 << 20
    assert machine.free_disk(tmp_path) > 1 << 20
    assert machine.free_disk(tmp_path / "none") == 0
    assert machine.processors() >= 1


def test_the_limit_of_a_control_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_GROUP", tmp_path)
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert machine.free_memory() == 4000000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory() > 4000000


def test_a_system_that_tells_nothing_gets_a_cautious_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_MEMORY", tmp_path / "none")
    monkeypatch.setattr(machine, "_GROUP", tmp_path)
    assert machine.free_memory() > 1 << 20


@pytest.mark.parametrize(
    ("text", "size"),
    [("20 GB", 20 * 10**9), ("1.5tb", 1500 * 10**9), ("512MB", 512 * 10**6), (" 3 KB ", 3000)],
)
def test_a_size_is_read_and_shown(text: str, size: int) -> None:
    assert machine.byte_size(text) == size
    assert machine.byte_size(machine.shown_size(size)) == size


@pytest.mark.parametrize("text", ["", "20", "GB", "-1 GB", "1e9 GB", "20 GiB", "1 GB x", "9999999 GB"])
def test_other_text_is_no_size(text: str) -> None:
    assert machine.byte_size(text) is None
