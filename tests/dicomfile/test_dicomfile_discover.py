from __future__ import annotations

import os

import pytest

from meninx.core.errors import DataError
from meninx.dicomfile.discover import SourceFile, files_below


def test_files_come_in_one_order_and_one_file_alone_is_a_source(tmp_path):
    for name in ("b/2", "a/1", "c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [found.path for found in files_below(tmp_path)] == ["a/1", "b/2", "c"]
    assert files_below(tmp_path / "c") == [SourceFile("c")]


def test_links_that_leave_and_what_is_no_file_are_refused(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "a").write_bytes(b"")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "b").write_bytes(b"")
    (source / "inside").symlink_to(source / "a")
    (source / "outside").symlink_to(tmp_path / "secret" / "b")
    (source / "folder").symlink_to(tmp_path / "secret")
    (source / "loop").symlink_to(source)
    (source / "nowhere").symlink_to(source / "absent")
    (source / "circle").symlink_to(source / "circle")
    os.mkfifo(source / "pipe")
    assert {found.path: found.refused for found in files_below(source)} == {
        **{"a": "", "inside": "", "outside": "symlink-outside", "folder": "symlink-outside"},
        **{"pipe": "not-a-file", "nowhere": "broken-link", "circle": "broken-link"},
    }


def test_what_cannot_be_listed_is_told_without_its_name(tmp_path):
    with pytest.raises(DataError, match="nothing there"):
        files_below(tmp_path / "Marigold")
