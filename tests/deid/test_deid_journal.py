from __future__ import annotations

import pytest

from meninx.core.errors import RunLocked
from meninx.deid.journal import WRITTEN, Entry, Journal, locked


def entry(path: str) -> Entry:
    return Entry(path=path, status=WRITTEN, patient=("Ö 1", "P1"), uids={"1.2": "2.25.3"}, actions={"PatientID": {"Z": 1}})


def test_what_is_added_is_read_and_rewritten_in_order(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl", "print")
    assert journal.fingerprint_there() is None
    journal.rewrite([])
    with journal.appending() as appender:
        for path in ("b", "a\udc80", "c"):
            appender.add(entry(path))
    assert journal.fingerprint_there() == "print"
    assert journal.read() == {path: entry(path) for path in ("b", "a\udc80", "c")}
    journal.rewrite(journal.read().values())
    assert list(journal.read()) == ["a\udc80", "b", "c"]
    assert journal.path.stat().st_mode & 0o777 == 0o600


def test_a_journal_cut_at_any_byte_is_read_up_to_the_cut(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl", "print")
    journal.rewrite([entry("a"), entry("b")])
    whole = journal.path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        journal.path.write_bytes(whole[:cut])
        assert len(journal.read()) == max(0, sum(end <= cut for end in ends) - 1)
        assert journal.fingerprint_there() == ("print" if cut >= ends[0] else "")


def test_two_processes_do_not_share_a_folder(tmp_path):
    with locked(tmp_path / "lock"), pytest.raises(RunLocked), locked(tmp_path / "lock"):
        pass
    with locked(tmp_path / "lock"):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
