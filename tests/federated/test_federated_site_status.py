"""What a site's own events say of a study: its terms, the rounds that gave a model, and its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from meninx.core import files
from meninx.core.errors import StorageError
from meninx.federated import events as kinds
from meninx.federated import messages, site_process, status_page
from meninx.federated.events import AnyEvent
from meninx.federated.messages import Position
from meninx.federated.site_process import ErrorFile, RoundsSeen, _Part
from meninx.federated.study_status import StudyPhase, StudyStatus, status_of, view_of

SITES = ("east", "north", "west")
TERMS = kinds.StudyTerms(
    study="chest", sites=SITES, rounds=2, quorum=3, aggregation="masks", private=True, epsilon=8.0, delta=1e-3
)


def at(number: int) -> Position:
    return Position(study="chest", run="a1", round=number, attempt=0)


def train(number: int, model: bytes) -> messages.Train:
    return messages.Train(at=at(number), members=SITES, model=model, until=number + 1, horizon=2)


def seen_by_north(*requests: messages.Request, connected: tuple[str, ...] = SITES) -> list[AnyEvent]:
    found: list[AnyEvent] = [TERMS]
    seen = RoundsSeen(TERMS, found.append)
    for request in requests:
        seen.asked(request, connected)
        if isinstance(request, messages.Train):
            opened = kinds.RoundOpened(round=request.at.round, attempt=0, members=request.members)
            found.append(opened)
        done = messages.Finished(site="north") if isinstance(request, messages.Finish) else None
        seen.answered(request, done or messages.Done(site="north"))
    return found


def words(status: StudyStatus) -> str:
    return " ".join(f"{card.value} {card.detail}." for card in status_page.cards(status, 0.0))


def test_a_site_knows_the_terms_before_the_first_round() -> None:
    status = view_of("north", [TERMS])
    assert (status.study, status.rounds_planned, status.quorum) == ("chest", 2, 3)
    assert "0 of 2 rounds" in words(status)
    assert "a round needs 3" in words(status)
    assert "nothing is spent yet; the study asks for 8 at δ = 0.001" in words(status)


def test_the_coordinator_claims_nothing_about_privacy_that_it_does_not_know() -> None:
    assert "each hospital keeps its own account; the study asks for 8" in words(status_of([TERMS]))
    assert "no differential privacy" not in words(status_of([]))
    unknown = view_of("north", [kinds.SiteConnected(site="north")])
    assert "the quorum is not known here" in words(unknown)
    assert "not protected" not in words(unknown)


def test_without_the_mailbox_a_site_learns_from_the_survivors_who_is_lost() -> None:
    requests = (train(0, b"first"), messages.Agree(at=at(0), survivors=("east", "north")))
    found = seen_by_north(*requests, connected=())
    assert [event.site for event in found if isinstance(event, kinds.SiteConnected)] == list(SITES)
    (lost,) = (event for event in found if isinstance(event, kinds.SiteLost))
    assert (lost.site, lost.reason) == ("west", "it is not in the sum of round 1")
    again = seen_by_north(*requests, train(1, b"second"), connected=())
    assert [event.site for event in again if isinstance(event, kinds.SiteConnected)][3:] == ["west"]
    with_mailbox = seen_by_north(*requests)
    assert not any(isinstance(event, kinds.SiteLost | kinds.SiteConnected) for event in with_mailbox)


def test_another_model_means_that_the_round_before_gave_it_and_finish_ends_the_study() -> None:
    agreed = messages.Agree(at=at(0), survivors=SITES)
    requests = [train(0, b"first"), agreed, train(1, b"second"), messages.Finish(at=at(2), model=b"third")]
    status = view_of("north", seen_by_north(*requests))
    assert (status.phase, status.rounds_accepted, status.attempts_aborted) == (StudyPhase.FINISHED, 2, 0)
    assert not any(site.up for site in status.sites)
    assert "2 of 2 rounds gave a model." in words(status)
    assert status.rounds[0].survivors == 3


def test_the_same_model_again_means_that_the_round_before_gave_none() -> None:
    status = view_of("north", seen_by_north(train(0, b"first"), train(1, b"first")))
    assert (status.rounds_accepted, status.attempts_aborted) == (0, 1)


def test_a_site_that_was_started_again_counts_an_attempt_once() -> None:
    events = seen_by_north(train(0, b"first"))
    status = view_of("north", [*events, *seen_by_north(train(0, b"first"))])
    assert (len(status.rounds), status.attempts_aborted) == (1, 0)


def test_a_site_that_was_away_when_a_round_ended_does_not_say_how_it_ended() -> None:
    events = [*seen_by_north(train(0, b"first")), *seen_by_north(train(1, b"second"))]
    status = view_of("north", events)
    assert status.attempts_aborted == 0
    assert [str(attempt.result) for attempt in status.rounds] == ["not known here", "running"]
    assert "not known here" in status_page.page(status, now=0.0)


def test_a_site_does_not_say_that_rounds_failed_in_which_it_was_not_asked() -> None:
    """In cyclic transfer it has a turn of several, and in any study it may have missed a round."""
    status = view_of("north", seen_by_north(train(0, b"first"), messages.Finish(at=at(2), model=b"third")))
    assert "1 of 2 rounds gave a model, as far as this site knows." in words(status)


def test_a_site_that_leaves_after_the_end_is_no_warning() -> None:
    ended = kinds.StudyEnded(outcome=kinds.StudyOutcome.FINISHED)
    status = status_of([TERMS, ended, kinds.SiteLost(site="west", reason="its connection is closed")])
    assert not any(entry.warns for entry in status.history)


# a bug at a site


class Broken:
    """An agent with a bug."""

    name, result = "north", None

    def handle(self, request: messages.Request) -> messages.Reply:
        raise KeyError("patient 17")


def test_a_bug_leaves_its_traceback_at_the_site_and_one_sentence(tmp_path: Path) -> None:
    notes: list[str] = []
    errors = ErrorFile(tmp_path / "errors.txt", notes.append)
    part = _Part(Broken(), None, lambda event: None, TERMS, errors)  # type: ignore[arg-type]
    try:
        with pytest.raises(KeyError):
            part.handle(train(0, b"model"))
    finally:
        part.end()
    text = (tmp_path / "errors.txt").read_text()
    assert "Traceback (most recent call last)" in text
    assert "patient 17" in text
    assert 'raise KeyError("patient 17")' in text
    assert (tmp_path / "errors.txt").stat().st_mode & 0o077 == 0
    (note,) = notes
    assert "KeyError" in note
    assert "errors.txt" in note
    assert "patient 17" not in note


def test_a_bug_on_a_full_disk_is_still_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, line: str, **named: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(files, "append_line", full)
    notes: list[str] = []
    ErrorFile(tmp_path / "errors.txt", notes.append).add(KeyError("patient 17"))
    assert notes == ["An unexpected error (KeyError), which is a bug: its traceback could not be written."]


def test_a_file_of_errors_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_process, "_MOST_ERRORS", 500)
    errors = ErrorFile(tmp_path / "errors.txt", lambda text: None)
    for number in range(100):
        errors.add(KeyError(number))
    assert (tmp_path / "errors.txt").stat().st_size < 700
    assert "KeyError: 99" in (tmp_path / "errors.txt").read_text()
