"""Events of a study: what is written is read, text is cleaned, and a torn line costs one event."""

import math
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from study_events import HOSTILE, SITES, any_event, study

from meninx.core.errors import DataError
from meninx.federated import event_words
from meninx.federated.events import (
    LONGEST_TEXT,
    MOST_ITEMS,
    AbortReason,
    EpsilonSpent,
    RoundAborted,
    RoundOpened,
    SiteConnected,
    SiteLost,
    SiteRefused,
    StudyEvents,
    StudyOutcome,
    ignore,
)


def test_events_come_back_as_they_were_written(tmp_path: Path) -> None:
    events = StudyEvents(tmp_path / "deep" / "events.jsonl")
    with events.writing() as emit:
        for event in study():
            emit(event)
    assert list(events.read()) == study()
    assert events.path.stat().st_mode & 0o077 == 0


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(some=st.lists(any_event(st.sampled_from(SITES) | HOSTILE, HOSTILE), max_size=8))
def test_any_event_comes_back_and_its_text_is_one_short_line(some: list, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.unlink(missing_ok=True)
    events = StudyEvents(path)
    with events.writing() as emit:
        for event in some:
            emit(event)
    assert list(events.read()) == some
    for event in some:
        sentence = event_words.sentence(event)
        assert sentence.isprintable()
        assert len(sentence) < 4 * LONGEST_TEXT
        assert isinstance(event_words.warns(event), bool)


def test_several_threads_write_whole_lines(tmp_path: Path) -> None:
    events = StudyEvents(tmp_path / "events.jsonl")
    with events.writing() as emit:
        threads = [
            threading.Thread(target=lambda: [emit(SiteConnected(site="x" * 400)) for _ in range(50)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(list(events.read())) == 200


def test_a_torn_last_line_is_left_out_and_cut_when_writing_goes_on(tmp_path: Path) -> None:
    events = StudyEvents(tmp_path / "events.jsonl")
    with events.writing() as emit:
        emit(SiteConnected(site="east"))
    with events.path.open("ab") as stream:
        stream.write(b'{"event": "site_lo')
    assert len(list(events.read())) == 1
    with events.writing() as emit:
        emit(SiteLost(site="east"))
    assert [type(event) for event in events.read()] == [SiteConnected, SiteLost]


@pytest.mark.parametrize(
    "line",
    [
        b'{"event": "site_vanished", "site": "east", "time": 1.0}',
        b'{"event": "site_connected", "time": 1.0}',
        b'{"event": "site_connected", "site": "east", "time": 1.0, "path": "/etc"}',
        b'{"event": "site_connected", "site": 7, "time": 1.0}',
        b'{"event": "site_connected", "site": "east", "time": NaN}',
        b'{"event": "site_connected", "site": "east", "time": -1.0}',
        b'{"event": "epsilon_spent", "site": "east", "time": 1.0, "epsilon": Infinity, "delta": 0.0}',
        b'{"event": "epsilon_spent", "site": "east", "time": 1.0, "epsilon": -1.0, "delta": 0.0}',
        b'{"event": "round_accepted", "time": 1.0, "round": 0, "attempt": 0, "survivors": [],'
        b' "metrics": {"loss": NaN}}',
        b'{"event": "update_uploaded", "site": "a", "time": 1.0, "round": 0, "attempt": 0, "sent": 1e300}',
        b'{"event": "round_aborted", "time": 1.0, "round": 0, "attempt": 0, "reason": "because"}',
    ],
)
def test_what_is_no_event_is_refused_with_its_line(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "site_connected", "site": "east", "time": 1.0}\n' + line + b"\n")
    with pytest.raises(DataError, match=r"events\.jsonl, line 2"):
        list(StudyEvents(path).read())


def test_numbers_that_are_not_finite_are_refused_where_they_arise() -> None:
    with pytest.raises(ValueError, match="epsilon is not finite"):
        EpsilonSpent(site="east", epsilon=math.inf, delta=1e-5)


def test_a_missing_file_has_no_events(tmp_path: Path) -> None:
    assert list(StudyEvents(tmp_path / "events.jsonl").read()) == []


def test_a_failed_round_in_words() -> None:
    event = RoundAborted(round=2, attempt=0, reason=AbortReason.BELOW_QUORUM, detail="west is missing")
    words = "Round 3 gave no model: fewer sites than the quorum"
    assert event_words.sentence(event) == f"{words} (west is missing)."
    plain = RoundAborted(round=2, attempt=0, reason=AbortReason.BELOW_QUORUM)
    assert event_words.sentence(plain) == f"{words}."


def test_nobody_watching_costs_nothing() -> None:
    assert ignore(SiteConnected(site="east")) is None
    assert {str(outcome) for outcome in StudyOutcome} == {"finished", "stopped", "failed"}


def test_numbers_of_others_never_make_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    events = StudyEvents(tmp_path / "events.jsonl")
    with events.writing() as emit:
        emit(SiteRefused(site="x" * 9_000_000, reason="no", code=2**62))
        emit(RoundOpened(round=-1, attempt=-(2**70), members=("north",) * 5000))
    refused, opened = events.read()
    assert (refused.code, len(refused.site)) == (2**53, LONGEST_TEXT)
    assert (opened.round, opened.attempt, len(opened.members)) == (0, 0, MOST_ITEMS)


def test_a_file_of_events_stops_growing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meninx.federated.events.MOST_BYTES", 1000)
    events = StudyEvents(tmp_path / "events.jsonl")
    with events.writing() as emit:
        for _ in range(100):
            emit(SiteConnected(site="north"))
    assert events.path.stat().st_size < 1200
