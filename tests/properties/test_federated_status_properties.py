"""Whatever happens in a study, the view of one site does not depend on what another site did or sent."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from study_events import COUNTS, HOSTILE, SITES, any_event

from meninx.core import plain
from meninx.federated import events as kinds
from meninx.federated.events import AnyEvent
from meninx.federated.study_status import status_of, view_of

START = kinds.StudyStarted(time=0.0, study="chest", run="a1", sites=SITES, rounds=5)


def of_all_sites(event: AnyEvent) -> AnyEvent:
    """Return the event; a start names every site."""
    return msgspec.structs.replace(event, sites=SITES) if isinstance(event, kinds.StudyStarted) else event


EVENTS = st.lists(any_event(st.sampled_from(SITES), HOSTILE).map(of_all_sites), max_size=12)
PRESENCE = (kinds.SiteConnected, kinds.SiteLost)


@st.composite
def changed(draw: st.DrawFn, event: AnyEvent) -> list[AnyEvent]:
    """Return other events that another site could have caused in the place of one."""
    if isinstance(event, kinds.RoundAborted):
        return [msgspec.structs.replace(event, detail=draw(HOSTILE))]
    if isinstance(event, kinds.StudyEnded):
        return [msgspec.structs.replace(event, reason=draw(HOSTILE))]
    if getattr(event, "site", "east") == "east":
        return [event]
    if isinstance(event, kinds.SiteLost):
        return [msgspec.structs.replace(event, reason=draw(HOSTILE))]
    if isinstance(event, kinds.SiteConnected):
        return [event]
    others = any_event(st.sampled_from(("north", "west")), HOSTILE).filter(
        lambda other: hasattr(other, "site") and not isinstance(other, PRESENCE)
    )
    return draw(st.lists(others, max_size=2))


@settings(max_examples=30, deadline=None)
@given(data=st.data(), events=EVENTS)
def test_the_view_of_a_site_does_not_depend_on_the_others(
    data: st.DataObject, events: list[AnyEvent]
) -> None:
    other = [new for event in events for new in data.draw(changed(event))]
    assert view_of("east", [START, *events]) == view_of("east", [START, *other])


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, sent=COUNTS)
def test_another_sites_numbers_and_words_are_in_no_field_of_the_view(
    events: list[AnyEvent], sent: int
) -> None:
    marked = [
        kinds.SiteRefused(time=1.0, site="north", reason="MARKED-REASON", code=2),
        kinds.UpdateUploaded(time=1.0, site="north", round=0, attempt=0, sent=(1 << 45) + sent),
        kinds.EpsilonSpent(time=1.0, site="north", epsilon=3.14159265, delta=1e-5),
        kinds.SiteLost(time=1.0, site="north", reason="MARKED-LOSS"),
    ]
    view = view_of("east", [START, *events, *marked])
    text = plain.to_json(view)
    assert all(mark not in text for mark in ("MARKED", "3.14159265", str((1 << 45) + sent)))
    assert all(site.numbers is None for site in view.sites if site.name != "east")


def of_the_last_run(events: list[AnyEvent]) -> list[AnyEvent]:
    """Return the events since the run changed the last time."""
    run, begin = None, 0
    for number, event in enumerate(events):
        if isinstance(event, kinds.StudyStarted) and event.run != run:
            run, begin = event.run, number
    return events[begin:]


@settings(max_examples=100, deadline=None)
@given(events=st.lists(any_event(st.sampled_from(SITES) | HOSTILE, HOSTILE), max_size=25))
def test_any_events_give_a_status_whose_numbers_add_up(events: list[AnyEvent]) -> None:
    status = status_of(events)
    events = of_the_last_run(events)
    sent = [event.sent for event in events if hasattr(event, "sent")]
    known = [site.numbers for site in status.sites if site.numbers is not None]
    assert sum(numbers.sent for numbers in known) == sum(sent)
    assert all(0 <= numbers.sent_now <= numbers.sent for numbers in known)
    assert status.rounds_accepted == len({e.round for e in events if isinstance(e, kinds.RoundAccepted)})
    assert all(attempt.seconds is None or attempt.seconds >= 0 for attempt in status.rounds)
    assert sum(attempt.seconds is None for attempt in status.rounds) <= 1
