"""One sentence per event of a study, for the terminal, the page and logs; rounds count from 1.

>>> from meninx.federated.events import RoundOpened
>>> sentence(RoundOpened(round=2, attempt=0, members=("east", "north", "west")))
'Round 3 started with 3 sites.'
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meninx.federated import events as kinds
from meninx.federated.events import AnyEvent


def sentence(event: AnyEvent) -> str:
    """Return an event in words.

    The text is as hostile as what the event holds: whoever shows it escapes it.
    """
    return _SENTENCES[type(event)](event)


def warns(event: AnyEvent) -> bool:
    """Return whether a person should look at the event."""
    if isinstance(event, kinds.SumRecomputed):
        return not event.matches
    if isinstance(event, kinds.StudyEnded):
        return event.outcome is kinds.StudyOutcome.FAILED
    return isinstance(event, _WARNINGS)


def size(count: int) -> str:
    """Return a number of bytes for people.

    >>> size(980), size(4_100_000), size(12_300_000_000)
    ('980 B', '4.1 MB', '12.3 GB')
    """
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.95:
            break
        amount, unit = amount / 1000, larger
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"


def share(value: float) -> str:
    """Return a share in per cent; only the whole is 100 %, and only nothing is 0 %.

    >>> share(1), share(0.9999), share(0.01), share(0.0001)
    ('100 %', '> 99.9 %', '1 %', '< 0.1 %')
    """
    if 0 < value < 0.001:
        return "< 0.1 %"
    if 0.999 < value < 1:
        return "> 99.9 %"
    return f"{100 * value:.3g} %"


def duration(seconds: float) -> str:
    """Return a duration for people: two units at most.

    >>> duration(0.4), duration(59), duration(750), duration(12_000), duration(200_000)
    ('0 s', '59 s', '12 min 30 s', '3 h 20 min', '2 d 7 h')
    """
    left = max(round(seconds), 0)
    if left < 60:
        return f"{left} s"
    parts = ((left // 86400, "d"), (left // 3600 % 24, "h"), (left // 60 % 60, "min"), (left % 60, "s"))
    first = next(number for number, (amount, _) in enumerate(parts) if amount)
    return " ".join(f"{amount} {unit}" for amount, unit in parts[first : first + 2] if amount)


def _aborted(event: kinds.RoundAborted) -> str:
    detail = f" ({event.detail})" if event.detail else ""
    return f"Round {event.round + 1} gave no model: {event.reason}{detail}."


def _because(reason: str) -> str:
    return f": {reason}" if reason else "."


def _recomputed(event: kinds.SumRecomputed) -> str:
    part = "the whole sum" if event.share >= 1 else f"{share(event.share)} of the sum"
    result = "it matches" if event.matches else "IT DIFFERS from what the coordinator published"
    return f"{event.site} computed {part} of round {event.round + 1} again: {result}."


def _spent(event: kinds.EpsilonSpent) -> str:
    limit = "" if event.limit is None else f" of {event.limit:.4g}"
    words = f"ε = {event.epsilon:.4g}{limit} per patient over all runs"
    return f"{event.site} has spent {words}, at δ = {event.delta:.3g}."


def _clipped(event: kinds.UpdatesClipped) -> str:
    if not event.site:
        return f"{share(event.share)} of the elements of the updates of round {event.round + 1} were clipped."
    return (
        f"{event.elements:,} elements ({share(event.share)}) of the update of {event.site} in round "
        f"{event.round + 1} were clipped."
    )


_ENDS = {
    kinds.StudyOutcome.FINISHED: "finished",
    kinds.StudyOutcome.STOPPED: "was stopped",
    kinds.StudyOutcome.FAILED: "failed",
}


def _terms(event: kinds.StudyTerms) -> str:
    asked = "" if event.epsilon is None else f", ε = {event.epsilon:.4g} asked per patient"
    return f"Study {event.study}: {len(event.sites)} sites, {event.rounds} rounds{asked}."


def _accepted(event: kinds.RoundAccepted) -> str:
    sites = f" from {len(event.survivors)} sites" if event.survivors else ""
    return f"Round {event.round + 1} gave a new model{sites}."


_SENTENCES: dict[type, Callable[[Any], str]] = {
    kinds.StudyTerms: _terms,
    kinds.StudyStarted: lambda event: f"The study started ({len(event.sites)} sites, {event.rounds} rounds).",
    kinds.SiteConnected: lambda event: f"{event.site} connected.",
    kinds.SiteLost: lambda event: f"{event.site} is not connected{_because(event.reason)}",
    kinds.SitesAwaited: lambda event: (
        f"Waiting for sites: {event.connected} connected, {event.needed} needed."
    ),
    kinds.RoundOpened: lambda event: f"Round {event.round + 1} started with {len(event.members)} sites.",
    kinds.UpdateUploaded: lambda event: (
        f"{event.site} uploaded its part of round {event.round + 1} ({size(event.sent)})."
    ),
    kinds.SurvivorsAgreed: lambda event: f"{event.site} signed the survivors of round {event.round + 1}.",
    kinds.SecretsRevealed: lambda event: f"{event.site} opened its secrets of round {event.round + 1}.",
    kinds.RoundAccepted: _accepted,
    kinds.RoundAborted: _aborted,
    kinds.UpdatesClipped: _clipped,
    kinds.SumsDiffer: lambda event: (
        f"Rounds {event.earlier + 1} and {event.round + 1} differ by {event.site} alone: "
        "the difference of the two sums tells about its update."
    ),
    kinds.SiteRefused: lambda event: f"{event.site} refused{_because(event.reason)}",
    kinds.SumRecomputed: _recomputed,
    kinds.ModelUnchecked: lambda event: (
        f"{event.site} could not check the model of round {event.round + 1}{_because(event.reason)}"
    ),
    kinds.SumUnchecked: lambda event: (
        f"No site computed the sum of round {event.round + 1} again{_because(event.reason)}"
    ),
    kinds.EpsilonSpent: _spent,
    kinds.ModelReleased: lambda event: f"{event.site} released the model in its own run folder.",
    kinds.RecordReceived: lambda event: f"{event.site} has its copy of the record of the study.",
    kinds.StudyEnded: lambda event: f"The study {_ENDS[event.outcome]}{_because(event.reason)}",
}
_WARNINGS = (
    kinds.SitesAwaited,
    kinds.SiteLost,
    kinds.RoundAborted,
    kinds.UpdatesClipped,
    kinds.SumsDiffer,
    kinds.SiteRefused,
    kinds.ModelUnchecked,
    kinds.SumUnchecked,
)
