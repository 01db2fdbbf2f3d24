"""Status of a study: what it says after each kind of event, and what one site may see."""

import pytest
from study_events import SITES, study

from meninx.core import plain
from meninx.core.errors import UsageError
from meninx.federated import events as kinds
from meninx.federated.events import AbortReason, StudyOutcome
from meninx.federated.study_status import (
    AttemptResult,
    EpsilonLeft,
    SiteNumbers,
    SiteStep,
    StudyPhase,
    StudyStatus,
    status_of,
    view_of,
)


def numbers(status: StudyStatus, site: str) -> SiteNumbers:
    found = {one.name: one.numbers for one in status.sites}[site]
    assert found is not None
    return found


def test_a_study_in_its_second_round() -> None:
    status = status_of(study())
    assert (status.phase, status.rounds_accepted, status.rounds_planned) == (StudyPhase.ROUND_RUNNING, 1, 3)
    assert [(site.name, site.up) for site in status.sites] == [
        ("east", True),
        ("north", True),
        ("west", False),
    ]
    east, north, west = (numbers(status, site) for site in SITES)
    assert (east.step, east.sent, east.sent_now) == (SiteStep.UPLOADED, 8_201_100, 4_100_000)
    assert (west.step, west.rounds, west.missed, west.refused) == (SiteStep.TRAINING, 0, 1, 1)
    assert west.lost_reason == "the connection was cut"
    assert west.refusals[0].final
    assert east.budget is not None
    assert (east.budget.epsilon, east.budget.left) == (0.5, 7.5)
    assert (north.recomputed, north.differing, north.recomputed_share) == (1, 0, 1.0)
    assert status.current is not None
    assert status.current.round == 1
    assert status.updated == 1090.0


def test_the_end_is_estimated_from_past_rounds_with_their_failures() -> None:
    status = status_of(study())
    assert status.seconds_per_round == 60.0
    assert status.expected_end == 1080.0 + 2 * 60.0
    aborted = kinds.RoundAborted(time=1100.0, round=1, attempt=0, reason=AbortReason.OTHER)
    again = [
        kinds.RoundOpened(time=1110.0, round=2, attempt=0, members=SITES),
        kinds.RoundAccepted(time=1150.0, round=2, attempt=0, survivors=SITES),
    ]
    later = status_of([*study(), aborted, *again])
    assert later.seconds_per_round == (60.0 + 20.0 + 40.0) / 2
    assert later.expected_end == 1150.0 + 60.0
    assert (later.rounds_accepted, later.attempts_aborted) == (2, 1)


def test_no_end_is_estimated_before_the_first_model_and_after_the_last_event() -> None:
    assert status_of(study()[:6]).expected_end is None
    ended = kinds.StudyEnded(time=1200.0, outcome=StudyOutcome.STOPPED)
    status = status_of([*study(), ended])
    assert (status.phase, status.expected_end, status.over) == (StudyPhase.STOPPED, None, True)


@pytest.mark.parametrize("outcome", StudyOutcome)
def test_every_end_closes_the_round_that_runs(outcome: StudyOutcome) -> None:
    status = status_of([*study(), kinds.StudyEnded(time=1200.0, outcome=outcome)])
    assert status.current is not None
    assert (status.current.result, status.current.reason) == (AttemptResult.ABORTED, AbortReason.INTERRUPTED)
    assert str(status.phase) == str(outcome)


def test_a_resumed_study_keeps_its_totals_and_nobody_is_connected() -> None:
    resumed = kinds.StudyStarted(time=2000.0, study="chest", run="a1", sites=SITES, rounds=3)
    status = status_of([*study(), resumed])
    assert (status.run, status.phase, status.started) == ("a1", StudyPhase.WAITING, 1000.0)
    assert not any(site.up for site in status.sites)
    assert numbers(status, "east").sent == 8_201_100
    assert [attempt.result for attempt in status.rounds] == [AttemptResult.ACCEPTED, AttemptResult.ABORTED]


def test_a_new_run_begins_at_zero_and_its_history_goes_on() -> None:
    new = kinds.StudyStarted(
        time=2000.0, study="chest", run="a2", sites=SITES, rounds=5, connected=("east", "north")
    )
    status = status_of([*study(), new])
    assert (status.run, status.started, status.rounds_accepted, status.rounds) == ("a2", 2000.0, 0, ())
    budget = EpsilonLeft(epsilon=0.5, delta=1e-5, limit=8.0, left=7.5)
    assert numbers(status, "east") == SiteNumbers(budget=budget)  # which is that of all runs
    assert [site.up for site in status.sites] == [True, True, False]
    assert len(status.history) == len(status_of(study()).history) + 1


def test_a_site_that_is_asked_to_train_is_connected() -> None:
    again = kinds.RoundOpened(time=2000.0, round=2, attempt=0, members=SITES)
    status = status_of([*study(), again])
    assert all(site.up for site in status.sites)
    assert numbers(status, "west").lost_reason == ""
    assert all(site.up for site in view_of("east", [*study(), again]).sites)


def test_a_round_decided_before_a_stop_counts_once() -> None:
    resumed = kinds.StudyStarted(time=2000.0, study="chest", run="a1", sites=SITES, rounds=3)
    accepted = kinds.RoundAccepted(time=2001.0, round=1, attempt=0, survivors=("east", "north"))
    status = status_of([*study(), resumed, accepted, accepted])
    assert (status.rounds_accepted, status.attempts_aborted, len(status.rounds)) == (2, 0, 2)
    assert numbers(status, "east").rounds == 2


def test_an_accepted_round_without_its_start_counts() -> None:
    status = status_of([kinds.RoundAccepted(time=5.0, round=0, attempt=0, survivors=SITES)])
    assert (status.rounds_accepted, len(status.rounds)) == (1, 1)


def test_the_status_of_no_event_is_a_status() -> None:
    status = status_of([])
    assert (status.phase, status.sites, status.current, status.updated) == (
        StudyPhase.NOT_STARTED,
        (),
        None,
        None,
    )


def test_a_clock_that_goes_back_gives_no_negative_time() -> None:
    back = kinds.RoundAccepted(time=900.0, round=1, attempt=0, survivors=SITES)
    status = status_of([*study(), back])
    assert status.rounds[-1].seconds == 0.0


def test_a_budget_that_is_overspent_has_nothing_left() -> None:
    spent = kinds.EpsilonSpent(time=1.0, site="east", epsilon=9.0, delta=1e-5, limit=8.0)
    budget = numbers(status_of([spent]), "east").budget
    assert budget is not None
    assert budget.left == 0.0


def test_a_site_sees_its_own_numbers_and_the_names_of_the_others() -> None:
    view = view_of("east", study())
    assert [(site.name, site.up, site.numbers is not None) for site in view.sites] == [
        ("east", True, True),
        ("north", True, False),
        ("west", False, False),
    ]
    text = plain.to_json(view)
    assert "budget of patients" not in text
    assert "connection was cut" not in text
    assert "4100001" not in text
    assert numbers(view, "east") == numbers(status_of(study()), "east")
    assert not any("north" in entry.text or "west" in entry.text for entry in view.history)


def test_details_of_a_failed_round_stay_with_the_coordinator() -> None:
    aborted = kinds.RoundAborted(
        time=1095.0, round=1, attempt=0, reason=AbortReason.BELOW_QUORUM, detail="west has 17 patients"
    )
    assert "17 patients" in plain.to_json(status_of([*study(), aborted]))
    view = view_of("east", [*study(), aborted])
    assert "17 patients" not in plain.to_json(view)
    assert view.rounds[-1].reason is AbortReason.BELOW_QUORUM


def test_a_stranger_has_no_view() -> None:
    with pytest.raises(UsageError, match="no site of this name"):
        view_of("south", study())
