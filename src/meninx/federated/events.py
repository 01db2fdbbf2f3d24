"""Events: what happened in a study, as typed values that the terminal, the page and JSON show alike.

>>> Event(kind=EventKind.ROUND_ACCEPTED, round=2, numbers={"sites": 3}).line()
'round 3 accepted: sites 3'
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class EventKind(StrEnum):
    """What happened."""

    STUDY_STARTED = "study started"
    STUDY_RESUMED = "study resumed"
    SITE_JOINED = "site joined"
    WAITING = "waiting for sites"
    ROUND_STARTED = "round started"
    SITE_UPLOADED = "site uploaded"
    SITE_REFUSED = "site refused"
    SITE_DROPPED = "site dropped out"
    ROUND_AGREED = "survivors agreed"
    SUM_CHECKED = "sum computed again"
    SUM_MISMATCH = "sum differs at a site"
    DIFFERENCE_OF_ONE = "participants differ by one"
    UPDATES_CUT = "updates were cut"
    ROUND_ACCEPTED = "round accepted"
    ROUND_ABORTED = "round aborted"
    SITE_FINISHED = "site released the model"
    STUDY_FINISHED = "study finished"
    STUDY_FAILED = "study failed"


WARNINGS = frozenset(
    {
        EventKind.WAITING,
        EventKind.SITE_REFUSED,
        EventKind.SITE_DROPPED,
        EventKind.SUM_MISMATCH,
        EventKind.DIFFERENCE_OF_ONE,
        EventKind.UPDATES_CUT,
        EventKind.ROUND_ABORTED,
        EventKind.STUDY_FAILED,
    }
)
"""Kinds that a person should look at."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: what.
        round: number of the round, from 0; -1 outside of rounds.
        site: the site it is about; empty for the whole study.
        words: reason or explanation; no value of a patient.
        numbers: by name, e.g. bytes, seconds, loss.
        at: time, seconds since 1970.
    """

    kind: EventKind
    round: int = -1
    site: str = ""
    words: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    at: float = field(default_factory=time.time, compare=False)

    @property
    def warns(self) -> bool:
        """Whether a person should look at it."""
        return self.kind in WARNINGS

    def line(self) -> str:
        """Return the event as one line for people; rounds count from 1."""
        what = str(self.kind)
        if self.round >= 0:
            what = what.replace("round ", f"round {self.round + 1} ", 1) if "round " in what else what
            what = what if "round " in what else f"round {self.round + 1}: {what}"
        who = f" ({self.site})" if self.site else ""
        numbers = ", ".join(f"{name} {value:.6g}" for name, value in self.numbers.items())
        tail = "; ".join(part for part in (self.words, numbers) if part)
        return f"{what}{who}: {tail}" if tail else f"{what}{who}"


Listener = Callable[[Event], None]
"""Takes events; must not raise."""
