from __future__ import annotations

import pytest
from deid_samples import clean, image, key_file, save

from meninx.core.errors import DataError
from meninx.deid.output import WRITTEN, FileJournal, FileResult


def entry(path: str, digest: str = "") -> FileResult:
    mapped = {"uids": {"1.2": "2.25.3"}, "actions": {"PatientID": {"Z": 1}}, "review": ("localizer",)}
    return FileResult(path=path, digest=digest, status=WRITTEN, patient=("Ö 1", "P1"), **mapped)


def add(journal: FileJournal, *entries: FileResult) -> None:
    with journal.adding() as adder:
        for one in entries:
            adder.add(one)


def test_what_is_added_is_read_and_a_later_run_has_the_last_word(tmp_path):
    journal = FileJournal(tmp_path)
    assert list(journal.entries()) == []
    add(journal, entry("a\udc80"), entry("c"))
    journal.settle()
    add(journal, entry("a"), entry("c", "new"), entry("d"))
    wanted = [entry("a"), entry("a\udc80"), entry("c", "new"), entry("d")]
    assert list(journal.entries()) == wanted
    journal.settle()
    journal.settle()
    assert list(journal.entries()) == wanted
    assert list(journal.known_of(["a", "b", "d", "e"])) == [entry("a"), None, entry("d"), None]
    assert journal.known.path.stat().st_mode & 0o777 == 0o600


def test_a_journal_cut_at_any_byte_is_read_up_to_the_cut(tmp_path):
    journal = FileJournal(tmp_path)
    add(journal, entry("a"), entry("b"))
    whole = journal.new.path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(0, len(whole) + 1, 7):
        journal.new.path.write_bytes(whole[:cut])
        assert len(list(journal.entries())) == sum(end <= cut for end in ends)


def test_lines_in_another_order_are_read_by_path_and_the_last_one_counts(tmp_path):
    journal = FileJournal(tmp_path)
    add(journal, entry("c"), entry("a"), entry("b"), entry("a", "new"))
    assert list(journal.entries()) == [entry("a", "new"), entry("b"), entry("c")]
    journal.settle()
    assert [table["path"] for table in journal.known.tables()] == ["a", "b", "c"]
    lines = journal.known.path.read_bytes().splitlines(keepends=True)
    journal.known.path.write_bytes(b"".join([lines[2], *lines]))
    assert list(journal.known_of(["a", "b", "c"])) == [entry("a", "new"), entry("b"), entry("c")]
    journal.settle()
    assert journal.known.path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize(
    "change", [{"colour": "x"}, {"path": 1}, {"patient": ["P"]}, {"uids": []}, {"review": [3]}]
)
def test_a_line_with_other_fields_is_a_data_error_that_says_what_to_do(tmp_path, change):
    journal = FileJournal(tmp_path)
    with journal.new.appending() as lines:
        lines.add(vars(entry("a")) | change)
    with pytest.raises(DataError, match="give --overwrite"):
        list(journal.entries())


@pytest.mark.parametrize("fault", ["swapped", "twice"])
def test_an_edited_journal_changes_no_number_of_the_next_run(tmp_path, fault):
    for number in (1, 2, 3, 4):
        save(image(number), tmp_path / "in" / f"a{number}")
    clean(tmp_path)
    before = (tmp_path / "out" / "deid.json").read_bytes()
    path = tmp_path / "out" / "private" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    swapped = [lines[2], lines[1], lines[0], *lines[3:]]
    path.write_bytes(b"".join(swapped if fault == "swapped" else [line for line in lines for _ in "ab"]))
    clean(tmp_path, key=key_file(tmp_path))
    assert (tmp_path / "out" / "deid.json").read_bytes() == before
    assert path.read_bytes() == b"".join(lines)
