"""The record of a real study: at the coordinator and the sites, whole at every moment, and in reports."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("flwr")

from rounds_samples import Study, weights

from meninx.core import artifacts, plain
from meninx.core.artifacts import StudyPart
from meninx.core.errors import DataError, Interrupted
from meninx.core.federation import FederatedRecord
from meninx.federated import approval, coordinator_process, events, messages, site_process
from meninx.federated.agent import InProcess, SiteAgent
from meninx.federated.config import StudyConfig
from meninx.federated.coordinator_process import RunOrder
from meninx.federated.events import AnyEvent
from meninx.federated.study_record import RecordFile, received
from meninx.federated.study_state import StudyState
from meninx.federated.vector import model_digest
from meninx.report import sources
from meninx.report import stage as report
from meninx.report.config import ReportConfig

SITES = ("east", "north", "west")
BEGIN = RunOrder()


class Room:
    """A coordinator's office and the agents of its sites in one process, without a network."""

    def __init__(self, consortium, stop: Callable[[], bool] = lambda: False) -> None:
        consortium.approve_all()
        self.folder, self.sites, self.events = consortium.folder, consortium.sites, []
        self.study, self.roster = approval.agreed(self.folder)
        self.stop = stop

    def agents(self) -> dict[str, SiteAgent]:
        found = {}
        for name, site in self.sites.items():
            approved = approval.approved(site, "chest")
            history = site.private / "engine" / "signed_rounds"
            history.parent.mkdir(exist_ok=True)
            found[name] = site_process._agent(
                site, approved, self.roster, "cpu", history, events.ignore, site_process.SILENT,
                lambda: False,
            )  # fmt: skip
        return found

    def conduct(self, order: RunOrder = BEGIN) -> coordinator_process.RunOutcome:
        """Carry out an order, as the process of the coordinator does."""
        agents = self.agents()
        exchange = InProcess(agents)
        exchange.mailbox = SimpleNamespace(announce=lambda notice: None)
        this = SimpleNamespace(folder=self.folder.private / "engine", wanted=self.stop)
        server = SimpleNamespace(exchange=exchange)
        with ExitStack() as stack:
            for agent in agents.values():
                stack.callback(agent.close)
            office = coordinator_process._Office(
                self.folder, self.study, self.roster, server, this, self.events.append
            )
            return office.conduct(order)


def text_of(sources: list[Path], out: Path) -> str:
    report.run(ReportConfig(), sources, out)
    page = next(out.glob("*.html")) if out.is_dir() else out
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8"))).split())


CONFIG = StudyConfig.of(name="chest", rounds=3, local_steps=1, train={"model": "resnet9-small"})


class Watched:
    """A study of sites without a trainer, and what its record said after every event."""

    def __init__(self, root: Path) -> None:
        self.study, self.root = Study(root, names=SITES), root / "chest"
        self.seen: list[tuple[int, bool]] = []

    def run(self, state: StudyState, *, stop: int = -1) -> RecordFile:
        """Go through the rounds; ``stop`` is the number of accepted rounds after which somebody stops it."""
        kept = RecordFile(self.root, state, CONFIG, self.study.roster)
        kept._cost = 0.0
        accepted = 0

        def emit(event: AnyEvent) -> None:
            nonlocal accepted
            accepted += isinstance(event, events.RoundAccepted)
            record = self.read()
            self.seen.append((len([entry for entry in record.rounds if entry.accepted]), record.finished))
            if accepted == stop:
                raise Interrupted("stopped")

        with closing(state), kept.following(emit) as followed:
            coordinator = self.study.coordinator(state)
            coordinator._emit = followed
            coordinator.run()
        return kept

    def read(self) -> FederatedRecord:
        record = artifacts.read(self.root, FederatedRecord)
        assert record is not None
        return record


def test_the_record_is_whole_while_a_study_runs_stops_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meninx.federated.study_record._SPARING", 0.0)
    here = Watched(tmp_path)
    with pytest.raises(Interrupted):
        here.run(here.study.begin(), stop=2)
    record = here.read()
    assert (len(record.rounds), record.finished) == (2, False)
    assert {number for number, _ in here.seen} == {0, 1, 2}
    here.run(here.study.resume())
    record = here.read()
    assert (len(record.rounds), record.finished) == (3, True)
    assert record.model == model_digest(weights(here.study.resume()))


def test_the_record_names_rounds_that_failed_and_the_end_of_a_study_that_failed(tmp_path: Path) -> None:
    here = Watched(tmp_path)
    here.study.line.lose = lambda name, request: name == "east" and isinstance(request, messages.Agree)
    with pytest.raises(DataError):
        here.run(here.study.begin())
    record = here.read()
    assert not record.finished
    assert not any(entry.accepted for entry in record.rounds)
    assert record.rounds[0].words


def test_a_new_run_keeps_the_record_of_the_run_before_and_the_report_shows_both(tmp_path: Path) -> None:
    here = Watched(tmp_path)
    here.run(here.study.begin())
    first = here.read()
    here.study.path.unlink()
    here.run(here.study.begin(first=3))
    found = sources.read([here.root])
    assert [item.run for item in found] == [here.read().run, first.run]
    assert first.run != here.read().run


def test_a_long_study_is_not_slowed_down_by_its_record(tmp_path: Path) -> None:
    here = Watched(tmp_path)
    kept = RecordFile(here.root, here.study.begin(), CONFIG, here.study.roster)
    with kept.following(lambda event: None) as followed:
        kept._cost = 1e9
        before = (here.root / "federated.json").stat().st_mtime_ns
        followed(events.RoundAccepted(round=0, attempt=0, survivors=SITES))
        assert (here.root / "federated.json").stat().st_mtime_ns == before
    assert (here.root / "federated.json").stat().st_mtime_ns != before


def part_of(record: FederatedRecord, site: str) -> StudyPart:
    return StudyPart(study=record.study, run=record.run, site=site, sites=3, digest=record.digest)


def test_a_site_gets_the_record_without_what_others_said_of_themselves(tmp_path: Path) -> None:
    here = Watched(tmp_path)
    kept = here.run(here.study.begin())
    with closing(here.study.resume()) as state:
        kept = RecordFile(here.root, state, CONFIG, here.study.roster)
        state.finish("east", 2.0)
        state.finish("north", 3.0)
        state.leave("west", "the disk of west is full")
        copy = received(kept.copy_for("east"), part_of(kept.record(), "east"), kept.record().model)
    assert copy.epsilon == {"east": 2.0}
    assert copy.largest == 3.0
    assert copy.refusals == {"west": ""}
    assert copy.copy_of == "east"
    assert len(copy.rounds) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run": "other"}, "another study, run or site"),
        ({"copy_of": "west"}, "another study, run or site"),
        ({"digest": "0" * 64}, "another study, run or site"),
        ({"finished": False}, "not that of a finished study"),
        ({"model": "0" * 64}, "another model"),
        ({"sentence": "red\x1b[31m"}, "text"),
        ({"sites": ("a", "b", "c")}, "not that of a finished study"),
    ],
)
def test_a_record_that_does_not_fit_the_run_of_the_site_is_refused(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    here = Watched(tmp_path)
    here.run(here.study.begin())
    good = dataclasses.replace(here.read(), copy_of="east")
    part = part_of(good, "east")
    assert received(plain.to_json(good).encode(), part, good.model) == good
    bad = dataclasses.replace(good, **changes)
    with pytest.raises(DataError, match=words):
        received(plain.to_json(bad).encode(), part, good.model)
    with pytest.raises(DataError):
        received(b"[" * 1000, part, "")


@pytest.mark.slow
def test_a_study_is_in_the_reports_of_its_coordinator_and_of_every_site(
    consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_process, "_FAREWELL", 0.0)
    room = Room(consortium)
    outcome = room.conduct()
    record = artifacts.read(room.folder.root, FederatedRecord)
    assert record is not None
    assert (record.study, record.run, record.finished, record.simulated) == (
        "chest",
        outcome.run,
        True,
        False,
    )
    assert [entry.survivors for entry in record.rounds] == [SITES] * 2
    assert set(outcome.epsilon) == set(SITES)
    assert all(0 < value <= 8 for value in outcome.epsilon.values())
    assert record.epsilon == outcome.epsilon

    page = text_of([room.folder.root], tmp_path / "coordinator.html")
    assert "3 sites trained study chest together: 2 rounds gave a model." in page
    assert "The folder of its coordinator was not" not in page

    north = (consortium.sites["north"].runs("chest") / "latest").resolve()
    own = artifacts.read(north, FederatedRecord)
    assert own is not None
    assert own.epsilon == {"north": record.epsilon["north"]}
    assert own.largest == max(record.epsilon.values())
    entries = (consortium.sites["north"].root / "private" / "audit.jsonl").read_text()
    assert "study record received" in entries
    page = text_of([north], tmp_path / "north.html")
    assert "3 sites trained study chest together: 2 rounds gave a model." in page
    assert "The folder of its coordinator was not" not in page
