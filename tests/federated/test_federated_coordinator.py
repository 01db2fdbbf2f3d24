"""The process of a coordinator without its sites: what it records, and whose run it conducts."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("flwr")

from meninx.core.errors import DataError, Interrupted, RunLocked
from meninx.core.progress import SILENT
from meninx.federated import coordinator_process, events
from meninx.federated.coordinator_process import RunOrder, RunOutcome, Serving
from meninx.federated.processes import ProcessRecord
from meninx.federated.strategies import ServerState
from meninx.federated.study_state import StudyState

HERE = Serving(host="127.0.0.1", port=0)


def test_refusals_and_doubtful_sums_are_in_the_signed_log_of_the_coordinator(consortium) -> None:
    consortium.approve_all()
    with coordinator_process._served(consortium.folder, HERE, "coordinator", SILENT, None) as office:
        office.emit(events.SiteRefused(site="east", reason="the budget is used up", code=4, final=True))
        office.emit(events.SumsDiffer(site="west", round=1, earlier=0))
        office.emit(events.SumRecomputed(site="north", round=1, share=0.5, matches=True))
        office.emit(events.SumRecomputed(site="north", round=2, share=0.5, matches=False))
    entries = [(entry.event, entry.details) for entry in consortium.folder.log().verify()][-3:]
    assert entries == [
        (
            "request refused",
            {"study": "chest", "site": "east", "reason": "the budget is used up", "final": True},
        ),
        ("sums differ by one site", {"study": "chest", "site": "west", "round": 1, "earlier": 0}),
        ("sum not confirmed", {"study": "chest", "site": "north", "round": 2, "share": 0.5}),
    ]


class Office:
    """A coordinator that goes through a run as soon as it may."""

    def __init__(self) -> None:
        self.this = SimpleNamespace(stopping=threading.Event())
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.conducted: list[RunOrder] = []

    def conduct(self, order: RunOrder) -> RunOutcome:
        self.conducted.append(order)
        self.begun.set()
        assert self.may_end.wait(10)
        if order.resume:
            raise DataError("too few sites came")
        return RunOutcome(run=f"run-{order.waiting_seconds:g}")


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Office]]:
    """The private folder of a study that an office serves."""
    office, engine = Office(), tmp_path / "chest" / "private" / "engine"
    engine.mkdir(parents=True)

    @contextmanager
    def served(*arguments: object) -> Iterator[Office]:
        yield office

    record = ProcessRecord(pid=1, role=coordinator_process.SERVING, since="")
    monkeypatch.setattr(coordinator_process, "_served", served)
    monkeypatch.setattr(coordinator_process, "_ORDERS", 0.01)
    monkeypatch.setattr(
        coordinator_process, "running", lambda folder: None if office.this.stopping.is_set() else record
    )
    folder = SimpleNamespace(private=engine.parent, name="chest")
    thread = threading.Thread(target=coordinator_process.serve, args=(folder,), daemon=True)
    thread.start()
    yield engine, office
    office.may_end.set()
    office.this.stopping.set()
    thread.join(5)


def ordered(engine: Path, **start: object) -> Future[RunOutcome]:
    pool = ThreadPoolExecutor(1)
    found = pool.submit(coordinator_process._ordered, engine, RunOrder(**start))
    pool.shutdown(wait=False)
    return found


def test_an_order_is_refused_while_another_run_is_conducted(serving: tuple[Path, Office]) -> None:
    engine, office = serving
    first = ordered(engine, waiting_seconds=1)
    assert office.begun.wait(5)
    with pytest.raises(RunLocked, match=r"conducts another run \(chest\)"):
        ordered(engine, waiting_seconds=2).result(5)
    office.may_end.set()
    assert first.result(5).run == "run-1"
    assert ordered(engine, waiting_seconds=3).result(5).run == "run-3"
    assert [order.waiting_seconds for order in office.conducted] == [1, 3]
    assert {path.name for path in engine.iterdir()} <= {"order.lock"}


def test_each_order_gets_its_own_outcome_also_if_another_follows_at_once(
    serving: tuple[Path, Office], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, office = serving
    office.may_end.set()
    pause, slow = coordinator_process.time.sleep, threading.Event()

    def sleep(seconds: float) -> None:  # the first caller looks for its outcome after the second run
        if threading.current_thread().name.startswith("first"):
            slow.wait(5)
        pause(seconds)

    monkeypatch.setattr(coordinator_process.time, "sleep", sleep)
    with ThreadPoolExecutor(1, thread_name_prefix="first") as pool:
        first = pool.submit(coordinator_process._ordered, engine, RunOrder(waiting_seconds=1))
        while len(office.conducted) < 1 or (engine / coordinator_process.ORDER).exists():
            pause(0.01)
        assert ordered(engine, waiting_seconds=2).result(5).run == "run-2"
        slow.set()
        assert first.result(5).run == "run-1"


def test_an_order_that_fails_says_why_and_leaves_the_coordinator_free(serving: tuple[Path, Office]) -> None:
    engine, office = serving
    office.may_end.set()
    assert ordered(engine, resume=True).result(5).error == "too few sites came"
    assert ordered(engine, waiting_seconds=2).result(5).run == "run-2"


def test_a_process_that_ends_leaves_nobody_waiting(serving: tuple[Path, Office]) -> None:
    engine, office = serving
    waiting = ordered(engine)
    assert office.begun.wait(5)
    office.this.stopping.set()
    with pytest.raises(Interrupted, match="ended"):
        waiting.result(5)


def test_an_order_whose_process_was_started_again_is_over(serving: tuple[Path, Office]) -> None:
    engine, office = serving
    waiting = ordered(engine)
    assert office.begun.wait(5)
    (engine / coordinator_process.ORDER).unlink()  # as a new process does at its start
    with pytest.raises(Interrupted, match="ended"):
        waiting.result(5)


@pytest.mark.skipif(os.name == "nt", reason="no permission bits")
def test_the_state_of_a_study_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    first = ServerState(np.zeros(3, np.float32))
    path = tmp_path / "study.sqlite3"
    with closing(StudyState.begin(path, study="chest", terms="t", layout="l", weights=first)):
        assert {item.name: oct(item.stat().st_mode & 0o777) for item in tmp_path.iterdir()} == dict.fromkeys(
            ("study.sqlite3", "study.sqlite3-shm", "study.sqlite3-wal"), "0o600"
        )
