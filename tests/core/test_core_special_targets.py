"""Nothing but a regular file is replaced by a new one."""

from __future__ import annotations

import os

import pytest

from meninx.cli import early
from meninx.core import files
from meninx.core.errors import UsageError


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "link to a file", "link to nothing", "folder"])
def test_a_file_is_never_written_over_a_link_a_pipe_or_a_folder(kind, tmp_path):
    place, goal = tmp_path / "out", tmp_path / "goal"
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        {"pipe": os.mkfifo, "file": lambda path: path.touch(), "nothing": str}[kind.split()[-1]](goal)
        place.symlink_to(goal)
    before = place.lstat()
    with pytest.raises(UsageError, match="regular file"):
        files.write_text(place, "originals", mode=files.PRIVATE_MODE)
    with pytest.raises(UsageError, match="regular file"):
        early.new_file(place, overwrite=True)
    assert (place.lstat().st_ino, place.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "goal"}
