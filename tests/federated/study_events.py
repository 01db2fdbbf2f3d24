"""Events for the tests of status, page and terminal: a study of three sites, and a strategy for any event."""

from __future__ import annotations

from hypothesis import strategies as st

from meninx.federated import events as kinds
from meninx.federated.events import AbortReason, AnyEvent, StudyOutcome

SITES = ("east", "north", "west")
COUNTS = st.integers(0, 1 << 40)
SMALL = st.integers(0, 6)
AMOUNTS = st.floats(0, 1e6)
SHARES = st.floats(0, 1)
HOSTILE = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="<>&\"'`={}%$\\\n\r\t\0\x1b\u202e\u2066\u2028[]/#", max_size=40),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            "</style><img src=x onerror=alert(1)>",
            '"} 1\nmeninx_evil{site="x',
            "\\",
            '\\"',
            "{{ 7 * 7 }}",
            "[bold red]x[/bold red]",
            "[/]",
            "\u202egnp.exe",
            "\u05d0\u05d1\u05d2 \u0645\u0631\u062d\u0628\u0627",
            "\x1b[2J\x1b]0;owned\x07",
            "x" * 5000,
            "\ud800",
            "]]>--><!--",
        ]
    ),
)


def study(*, rounds: int = 3) -> list[AnyEvent]:
    """Return a study in its second round: west was lost and refused, east has spent epsilon."""
    events: list[AnyEvent] = [
        kinds.StudyStarted(
            time=1000.0,
            study="chest",
            run="a1",
            sites=SITES,
            rounds=rounds,
            quorum=3,
            aggregation="pairwise masks",
        ),
        *(kinds.SiteConnected(time=1001.0, site=site) for site in SITES),
        kinds.RoundOpened(time=1010.0, round=0, attempt=0, members=SITES),
    ]
    for number, site in enumerate(SITES):
        time = 1020.0 + number
        events += [
            kinds.UpdateUploaded(time=time, site=site, round=0, attempt=0, sent=4_100_000 + number),
            kinds.SurvivorsAgreed(time=time + 5, site=site, round=0, attempt=0, sent=200),
            kinds.SecretsRevealed(time=time + 6, site=site, round=0, attempt=0, sent=900),
            kinds.EpsilonSpent(time=time + 7, site=site, epsilon=0.5 + number, delta=1e-5, limit=8.0),
        ]
    return [
        *events,
        kinds.RoundAccepted(
            time=1070.0, round=0, attempt=0, survivors=("east", "north"), metrics={"loss": 0.6}
        ),
        kinds.SumRecomputed(time=1071.0, site="north", round=0, share=1.0, matches=True),
        kinds.RoundOpened(time=1080.0, round=1, attempt=0, members=SITES),
        kinds.SiteLost(time=1085.0, site="west", reason="the connection was cut"),
        kinds.SiteRefused(time=1086.0, site="west", reason="budget of patients spent", code=4, final=True),
        kinds.UpdateUploaded(time=1090.0, site="east", round=1, attempt=0, sent=4_100_000),
    ]


def any_event(sites: st.SearchStrategy[str], text: st.SearchStrategy[str]) -> st.SearchStrategy[AnyEvent]:
    """Return a strategy for one event of any kind."""
    times = st.floats(0, 4e9)
    groups = st.lists(sites, max_size=4, unique=True).map(tuple)
    at = {"time": times, "round": SMALL, "attempt": SMALL}
    sent = {"site": sites, **at, "sent": COUNTS}
    return st.one_of(
        st.builds(
            kinds.StudyTerms,
            time=times,
            study=text,
            sites=groups,
            rounds=SMALL,
            quorum=SMALL,
            aggregation=text,
            private=st.booleans(),
            epsilon=st.none() | AMOUNTS,
            delta=st.none() | AMOUNTS,
        ),
        st.builds(
            kinds.StudyStarted,
            time=times,
            study=text,
            run=text,
            sites=groups,
            rounds=SMALL,
            quorum=SMALL,
            aggregation=text,
            connected=groups,
        ),
        st.builds(kinds.SiteConnected, time=times, site=sites),
        st.builds(kinds.SiteLost, time=times, site=sites, reason=text),
        st.builds(kinds.SitesAwaited, time=times, connected=SMALL, needed=SMALL),
        st.builds(kinds.RoundOpened, **at, members=groups),
        st.builds(kinds.UpdateUploaded, **sent),
        st.builds(kinds.SurvivorsAgreed, **sent),
        st.builds(kinds.SecretsRevealed, **sent),
        st.builds(
            kinds.RoundAccepted,
            **at,
            survivors=groups,
            metrics=st.dictionaries(text, st.floats(-1e9, 1e9), max_size=2),
        ),
        st.builds(kinds.RoundAborted, **at, reason=st.sampled_from(AbortReason), detail=text),
        st.builds(kinds.UpdatesClipped, time=times, round=SMALL, share=SHARES),
        st.builds(kinds.SumsDiffer, time=times, site=sites, round=SMALL, earlier=SMALL),
        st.builds(kinds.SiteRefused, time=times, site=sites, reason=text, code=SMALL, final=st.booleans()),
        st.builds(
            kinds.SumRecomputed, time=times, site=sites, round=SMALL, share=SHARES, matches=st.booleans()
        ),
        st.builds(
            kinds.EpsilonSpent,
            time=times,
            site=sites,
            epsilon=AMOUNTS,
            delta=SHARES,
            limit=st.none() | AMOUNTS,
        ),
        st.builds(kinds.RecordReceived, time=times, site=sites, record=text),
        st.builds(kinds.ModelUnchecked, time=times, site=sites, round=SMALL, reason=text),
        st.builds(kinds.SumUnchecked, time=times, round=SMALL, reason=text),
        st.builds(kinds.ModelReleased, time=times, site=sites),
        st.builds(kinds.StudyEnded, time=times, outcome=st.sampled_from(StudyOutcome), reason=text),
    )
