from __future__ import annotations

import pytest
from deid_samples import clean, image, save, tree

from meninx.core.errors import UsageError


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "theirs",
    [
        {"private/thesis.txt": b"years of work"},
        {"private/lookup.csv": b"id_old,id_new\n"},
        {
            "private/journal.jsonl": b'{"case_id": "c1"}\n',
            "private/settings.json": b"{}",
            "images/c1.png": b"png",
        },
        {"private/journal.jsonl": b"", "manifest.csv": b"case_id\n", "images/c1.png": b"png"},
    ],
    ids=["a room called private", "tables without a journal", "an unfinished dataset", "a dataset"],
)
def test_a_foreign_folder_is_left_as_it_is(tmp_path, theirs, overwrite):
    save(image(), tmp_path / "in" / "a")
    for name, content in theirs.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(content)
    (tmp_path / "out" / "private").chmod(0o755)
    with pytest.raises(
        UsageError,
        match=r"output folder holds (other files|a complete result)|expected a new or empty output folder",
    ):
        clean(tmp_path, overwrite=overwrite)
    assert tree(tmp_path / "out") == theirs
    assert (tmp_path / "out" / "private").stat().st_mode & 0o777 == 0o755


def test_what_a_run_killed_at_its_start_left_is_no_foreign_folder(tmp_path):
    save(image(), tmp_path / "in" / "a")
    (tmp_path / "out" / "private" / "staging").mkdir(parents=True)
    for name in ("lock", ".partial-x1"):
        (tmp_path / "out" / "private" / name).write_bytes(b"")
    assert clean(tmp_path).files_written == 1
