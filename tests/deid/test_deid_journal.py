from __future__ import annotations

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
