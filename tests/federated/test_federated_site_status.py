"""What a site's own events say of a study: its terms, the rounds that gave a model, and its end."""

from __future__ import annotations

from meninx.federated import events as kinds
from meninx.federated import messages, status_page
from meninx.federated.events import AnyEvent
from meninx.federated.messages import Position
from meninx.federated.site_process import RoundsSeen
from meninx.federated.study_status import StudyPhase, StudyStatus, status_of, view_of

SITES = ("east", "north", "west")
TERMS = kinds.StudyTerms(
    study="chest", sites=SITES, rounds=2, quorum=3, aggregation="masks", private=True, epsilon=8.0, delta=1e-3
)


def at(number: int) -> Position:
    return Position(study="chest", run="a1", round=number, attempt=0)


def train(number: int, model: bytes) -> messages.Train:
    return messages.Train(at=at(number), members=SITES, model=model, until=number + 1, horizon=2)


def seen_by_north(*requests: messages.Request) -> list[AnyEvent]:
    found: list[AnyEvent] = [TERMS]
    seen = RoundsSeen(TERMS, found.append)
    for request in requests:
        seen.asked(request, SITES)
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


def test_a_site_does_not_say_that_rounds_failed_in_which_it_was_not_asked() -> None:
    """In cyclic transfer it has a turn of several, and in any study it may have missed a round."""
    status = view_of("north", seen_by_north(train(0, b"first"), messages.Finish(at=at(2), model=b"third")))
    assert "1 of 2 rounds gave a model, as far as this site was asked to train." in words(status)


def test_a_site_that_leaves_after_the_end_is_no_warning() -> None:
    ended = kinds.StudyEnded(outcome=kinds.StudyOutcome.FINISHED)
    status = status_of([TERMS, ended, kinds.SiteLost(site="west", reason="its connection is closed")])
    assert not any(entry.warns for entry in status.history)
