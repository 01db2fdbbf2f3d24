"""Studies for the tests of the rounds: sites without a trainer, and exchanges that lose sites."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meninx.core.errors import MeninxError
from meninx.federated import messages, study_state
from meninx.federated.aggregation_methods import announcement_check, named, round_sides, site_sides
from meninx.federated.aggregators import SiteSide
from meninx.federated.config import AggregationConfig
from meninx.federated.contribution import Contribution, beginning
from meninx.federated.events import AnyEvent
from meninx.federated.messages import Reply, Request
from meninx.federated.rounds import Coordinator, Terms
from meninx.federated.strategies import FedAvg, Strategy
from meninx.federated.study_state import StudyState
from meninx.federated.vector import Vector, from_bytes, model_digest
from meninx.secagg import Member, Roster
from meninx.secagg.roster import public_bytes

NAMES = ("east", "north", "south", "west")
SIZE = 5
START = np.linspace(-1, 1, SIZE, dtype=np.float32)


def without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make writes quick: processes are killed in these tests, not machines."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
    connected = study_state._connected

    def quick(path: Path) -> sqlite3.Connection:
        base = connected(path)
        base.execute("PRAGMA synchronous = OFF")
        return base

    monkeypatch.setattr(study_state, "_connected", quick)


class Killed(BaseException):
    """A process that ends at once, without any handler of its own."""


def enrolled(names: Iterable[str] = NAMES) -> tuple[Roster, dict[str, Ed25519PrivateKey]]:
    """Return a roster that all sites signed, and their keys."""
    keys = {name: Ed25519PrivateKey.generate() for name in names}
    members = tuple(Member(name=name, key=public_bytes(key)) for name, key in keys.items())
    roster = Roster(study="chest", members=members)
    return roster.signed({name: roster.signature(key) for name, key in keys.items()}), keys


def update_of(name: str, model: Vector, until: int) -> Vector:
    """Return what a site without a trainer learns: something of its own, from the model and the position."""
    own = np.arange(SIZE) * (1 + NAMES.index(name)) / 100
    return (0.1 * np.sin(10 * model + until) + own).astype(np.float32)


class Learner:
    """A site without a trainer, whose side of the aggregation is real.

    Attributes:
        trained: number of the round and digest of the model of every update that was made.
    """

    def __init__(self, name: str, sides: Callable[[str], SiteSide]) -> None:
        self.name, self._sides, self._side, self._run = name, sides, None, ""
        self.trained: list[tuple[int, str]] = []
        self.finished: str = ""

    def restarted(self) -> Learner:
        """Return the site as a new process finds it: what is not on its disk is gone."""
        fresh = Learner(self.name, self._sides)
        fresh.trained, fresh.finished = self.trained, self.finished
        return fresh

    def handle(self, request: Request) -> Reply:
        try:
            return self._answered(request)
        except MeninxError as error:
            return messages.Declined(site=self.name, reason=str(error), code=error.exit_code)

    def _answered(self, request: Request) -> Reply:
        if request.at.run != self._run:
            self._side, self._run = self._sides(request.at.run), request.at.run
        side, at = self._side, request.at
        match request:
            case messages.Hello():
                return messages.Greeting(site=self.name, announcement=side.announce(), layout="l")
            case messages.Meet():
                side.meet(request.announcements)
                return messages.Done(site=self.name)
            case messages.Train():
                model = from_bytes(request.model, SIZE)
                self.trained.append((at.round, model_digest(model)))
                begun = beginning(request.model, request.until, request.horizon)
                units = 10 * (1 + NAMES.index(self.name))
                given = Contribution(update_of(self.name, model, request.until), units, model=begun)
                upload = side.upload(at, request.members, given)
                return messages.Uploaded(site=self.name, at=at, upload=upload)
            case messages.Agree():
                return messages.Agreed(site=self.name, agreement=side.agree(at, request.survivors))
            case messages.Reveal():
                opened = side.reveal(at, request.agreements, request.lost)
                return messages.Revealed(site=self.name, reveal=opened)
            case messages.Recompute():
                share, matches = side.check(at, request.transcript, request.total)
                return messages.Recomputed(site=self.name, share=share, matches=matches)
            case messages.Finish():
                self.finished = model_digest(from_bytes(request.model, SIZE))
                return messages.Finished(site=self.name)


@dataclass
class Line:
    """An exchange among sites of this process that can lose them.

    Attributes:
        sites: by name.
        lose: from a site and a request to whether the site does not answer it; it is away until it is back.
        log: every request that a site got.
    """

    sites: dict[str, Learner]
    lose: Callable[[str, Request], bool] = lambda name, request: False
    away: set[str] = field(default_factory=set)
    log: list[tuple[str, Request]] = field(default_factory=list)

    def present(self) -> frozenset[str]:
        return frozenset(self.sites) - self.away

    def ask(self, requests: Mapping[str, Request], *, within: float) -> Mapping[str, Reply]:
        replies = {}
        for name, request in requests.items():
            if name in self.away or self.lose(name, request):
                continue
            self.log.append((name, request))
            carried = messages.decode_request(messages.encode(request))
            replies[name] = messages.decode_reply(messages.encode(self.answer(name, carried)))
        return replies

    def answer(self, name: str, request: Request) -> Reply:
        return self.sites[name].handle(request)


class RestartingLine(Line):
    """A carrier that asks a killed site again: it is killed at one request and starts again from disk."""

    def __init__(self, sites: dict[str, Learner], victim: str, at: int, *, answered: bool) -> None:
        super().__init__(sites)
        self._victim, self._left, self._answered = victim, at, answered

    def answer(self, name: str, request: Request) -> Reply:
        if name != self._victim:
            return super().answer(name, request)
        self._left -= 1
        if self._left == 0:
            if self._answered:  # it wrote down what it promised, and its reply was lost
                self.sites[name].handle(request)
            self.sites[name] = self.sites[name].restarted()
        return super().answer(name, request)


@dataclass
class Study:
    """A study of sites without a trainer, in a folder."""

    root: Path
    method: str = "masks"
    names: tuple[str, ...] = NAMES
    strategy: Strategy = field(default_factory=lambda: FedAvg(rounds=3))
    waiting: float = 0.0
    most_units: int = 0
    events: list[AnyEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = AggregationConfig.of(aggregation=self.method, clip=4.0, max_units=self.most_units)
        self.roster, keys = enrolled(self.names)
        self.sites = {
            name: Learner(
                name, site_sides(self.config, self.roster, name, keys[name], self.root / f"history-{name}")
            )
            for name in self.names
        }
        self.line = Line(self.sites)

    @property
    def path(self) -> Path:
        return self.root / "study.sqlite3"

    def begin(self, **changes: object) -> StudyState:
        return StudyState.begin(
            self.path, study="chest", terms="t", layout="l", weights=self.strategy.init(START), **changes
        )

    def resume(self) -> StudyState:
        return StudyState.resume(self.path, study="chest", terms="t", layout="l")

    def coordinator(self, state: StudyState, line: Line | None = None) -> Coordinator:
        quorum = named(self.method).fewest(len(self.names))
        terms = Terms(
            sites=self.roster.names, quorum=quorum, strategy=self.strategy, waiting_seconds=self.waiting
        )
        sides = round_sides(self.config, self.roster, SIZE)
        return Coordinator(
            terms, state, line or self.line, sides, emit=self.events.append, aggregation=self.method,
            announcing=announcement_check(self.config, self.roster),
        )  # fmt: skip

    def run(self, line: Line | None = None) -> StudyState:
        state = self.begin()
        self.coordinator(state, line).run()
        return state

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]


def weights(state: StudyState) -> Vector:
    return state.model()[1].weights


def expected_model(names_of_round: Iterable[Iterable[str]], *, start: Vector = START) -> Vector:
    """Return the model that rounds over these sites give, computed from the updates alone."""
    model = start.astype(np.float64)
    for position, names in enumerate(names_of_round):
        seen = model.astype(np.float32)
        parts = [(10 * (1 + NAMES.index(name)), update_of(name, seen, position + 1)) for name in names]
        model = seen + sum(units * update.astype(np.float64) for units, update in parts) / sum(
            units for units, _ in parts
        )
    return model.astype(np.float32)
