"""What processes and results of a study say: broken lines, a busy folder, a taken port, results, refusals."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("flwr")

from meninx.cli.app import run
from meninx.core.errors import Interrupted, RunLocked, UsageError
from meninx.core.manifest import Manifest
from meninx.federated import (
    approval,
    carrier,
    coordinator_process,
    messages,
    processes,
    simulate,
    site_folder,
    site_process,
)
from meninx.federated.connections import SiteClient
from meninx.federated.coordinator_process import CoordinatorResult, RunOrder
from meninx.federated.events import AnyEvent, StudyEnded, StudyOutcome
from meninx.federated.line import Unreachable, line_error
from meninx.federated.mailbox import Presence
from meninx.federated.messages import Position
from meninx.federated.site_process import SiteResult
from meninx.federated.study_watch import terms_of
from meninx.serving.http_listener import Listener
from meninx.synthetic import write_dataset


def test_an_attempt_that_fails_is_reported_each_time_and_with_its_reason() -> None:
    failures: list[str] = []
    stopping = threading.Event()

    def call() -> None:
        raise line_error(ConnectionError("Connection refused"))

    def broken(error: Unreachable) -> None:
        failures.append(str(error))
        stopping.set()

    with pytest.raises(Exception, match="stopped"):
        carrier.persistently(call, stopping, broken)
    assert failures == ["no connection to the coordinator: Connection refused (network)"]


def test_a_busy_folder_names_the_command_that_ends_its_process(tmp_path: Path) -> None:
    with (
        processes.service(tmp_path / "engine"),
        pytest.raises(RunLocked, match=r"serves this study already .* `meninx federate stop"),
        processes.service(tmp_path / "engine"),
    ):
        pass


def test_a_taken_port_names_the_way_out() -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        """Answer nothing."""

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        with pytest.raises(UsageError, match="give another one by --port"):
            Listener(app, "127.0.0.1", one.getsockname()[1])  # type: ignore[arg-type]


def test_results_say_where_the_model_is_and_what_comes_next(tmp_path: Path) -> None:
    asked = CoordinatorResult(
        out=tmp_path, study="chest", run="a1", rounds=3, aborted=0, sites=("east", "west"), epsilon=8.0,
        delta=1e-3,
    ).summary()  # fmt: skip
    assert "model: at east, west, in each site's run folder below runs/chest" in asked
    assert "the study asked for 8 at delta 0.001 per patient" in asked
    assert "[" not in asked
    spent = SiteResult(
        out=tmp_path, study="chest", site="east", run=Path("east/runs/chest/1"), epsilon=7.9, delta=1e-3,
        limit=8.0,
    ).summary()  # fmt: skip
    assert "run: east/runs/chest/1" in spent
    assert "epsilon: 7.9 of at most 8 in this study, per patient at delta 0.001" in spent
    assert "`meninx evaluate east/runs/chest/1`" in spent


def test_a_simulation_that_cannot_end_is_refused_before_it_trains(tmp_path: Path, capsys) -> None:
    sites = [tmp_path / name for name in ("east", "north", "west")]
    for path in sites:
        write_dataset(path, patients=12, size=16)
    command = ["federate", "simulate", *map(str, sites[:2]), "--recipe", "tiny"]
    assert run([*command, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "needs 3 sites, 2 are given" in said
    assert "--aggregation plain" in said
    assert "tiny.toml" not in said
    assert len(Manifest.read(sites[0]).split("test"))


def test_a_site_says_once_and_then_rarely_that_it_cannot_reach_the_coordinator(consortium) -> None:
    consortium.approve_all()
    site = consortium.sites["north"]
    setup = site_process.site_setup(site, approval.approved(site, "chest").study)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{one.getsockname()[1]}"  # nobody listens there
        notes: list[str] = []
        client = SiteClient(dataclasses.replace(setup, address=address), notes.append)
        threading.Timer(1.0, client.stop).start()  # after more than one attempt
        with pytest.raises(Interrupted):
            client.terms()
    (words,) = notes
    assert words.startswith(f"{address}: no connection to the coordinator")
    assert "tries again by itself" in words


class Agent:
    """A site's agent whose only answer is a final refusal."""

    name, result = "north", None

    def __init__(self) -> None:
        self.forgotten = False

    def handle(self, request: messages.Request) -> messages.Reply:
        return messages.Declined(site="north", reason="the budget is used up", code=4, final=True)

    def forget(self) -> None:
        self.forgotten = True


class Client:
    def __init__(self) -> None:
        self.stopped = threading.Event()

    def stop(self) -> None:
        self.stopped.set()


@pytest.fixture
def part(consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A site's part of a run, as its process has it, with the events that it emits."""
    monkeypatch.setattr(site_process, "_WITHDRAWN_SECONDS", 0.0)
    emitted: list[AnyEvent] = []
    agent, client = Agent(), Client()
    errors = site_process.ErrorFile(tmp_path / "errors.txt", lambda text: None)
    found = site_process._Part(
        cast(Any, agent), cast(Any, client), emitted.append, terms_of(consortium.study), errors
    )
    yield SimpleNamespace(part=found, agent=agent, client=client, events=emitted)
    found.end()


def test_a_site_ends_after_a_final_refusal_and_keeps_no_secret_of_the_run(part) -> None:
    at = Position(study="chest", run="a1", round=0, attempt=0)
    part.part.handle(messages.Hello(at=at))
    assert part.part.refusal == "the budget is used up"
    assert part.agent.forgotten
    assert part.client.stopped.wait(5)


@pytest.mark.parametrize("failed", [False, True])
def test_a_site_ends_when_the_run_is_over_and_knows_whether_it_failed(part, failed: bool) -> None:
    at = Position(study="chest", run="a1", round=0, attempt=0)
    part.part.handle(messages.Hello(at=at))
    part.part.noticed(Presence(connected=("east",), ended=True, failed=failed))
    assert (part.part.ended, part.part.failed) == (True, failed)
    assert part.client.stopped.is_set()
    (ended,) = [event for event in part.events if isinstance(event, StudyEnded)]
    assert ended.outcome is (StudyOutcome.FAILED if failed else StudyOutcome.FINISHED)


def office(consortium, announced: list[Presence]) -> Any:
    """A coordinator that serves the study as it is now; nothing listens."""
    exchange = SimpleNamespace(present=frozenset, mailbox=SimpleNamespace(announce=announced.append))
    server = SimpleNamespace(exchange=exchange)
    return coordinator_process._Office(
        consortium.folder, consortium.study, cast(Any, None), cast(Any, server), cast(Any, None), print
    )


def test_a_site_that_comes_after_the_end_of_a_run_does_not_hear_of_that_end(
    consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end at once, and no further run could begin: without sites, no news replaces the last."""
    monkeypatch.setattr(coordinator_process, "_FAREWELL", 0.0)
    announced: list[Presence] = []
    office(consortium, announced)._announce(failed=True)
    assert announced == [Presence(ended=True, failed=True), Presence()]


def test_a_study_that_was_published_again_is_not_run_as_it_was_before(consortium) -> None:
    serving = office(consortium, [])
    toml = consortium.folder.root / "study.toml"
    toml.write_text(toml.read_text().replace("rounds = 2", "rounds = 3"))
    consortium.folder.publish(consortium.folder.published().file.sites)
    with pytest.raises(UsageError, match=r"published again .*meninx federate stop"):
        serving.conduct(RunOrder())


def test_a_study_that_was_not_served_yet_has_a_status_with_the_next_step(consortium, capsys) -> None:
    folder = consortium.folder.root.rename(consortium.folder.root.parent / "the chest")
    assert run(["federate", "status", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "east: has not answered" in said
    assert f"not run yet; next: `meninx federate enrol '{folder}' --accept FILE...`" in said
    assert run(["federate", "status", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ready"] is False


def test_a_coordinator_says_where_it_serves_and_how_a_run_begins(consortium) -> None:
    consortium.folder.root.rename(consortium.folder.root.parent / "the chest")
    folder = dataclasses.replace(consortium.folder, root=consortium.folder.root.parent / "the chest")
    words = coordinator_process._opening(folder, folder.study(), "0.0.0.0:8443", coordinator_process.SERVING)
    assert words.startswith("Serving study chest at 0.0.0.0:8443; its 3 sites connect by 127.0.0.1:8443.")
    for verb in ("run", "stop"):
        assert f"`meninx federate {verb} '{folder.root}'`" in words


def test_a_site_that_is_not_enrolled_reads_that_it_has_no_certificate(consortium) -> None:
    site = consortium.sites["north"]
    south = site_folder.create(site.root.parent / "south", "south", site.policy())
    page = approval.review(south, consortium.study, consortium.data)
    assert page.certificate_days is None
    assert "none: this site is not enrolled in this study" in page.summary()
    assert "in 0 days" not in page.summary()


def test_a_simulation_that_is_interrupted_says_that_it_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(simulate, "run", interrupted)
    write_dataset(tmp_path / "east", patients=4, size=16)
    command = ["federate", "simulate", str(tmp_path / "east"), "--recipe", "tiny"]
    assert run([*command, "--out", str(tmp_path / "out")]) == 130
    assert "the same command again goes on" in capsys.readouterr().err


def test_the_steps_of_a_study_are_listed_in_the_order_of_use(capsys) -> None:
    assert run(["federate", "--help"]) == 0
    shown = capsys.readouterr().out
    verbs = ("new", "enrol", "review", "doctor", "coordinator", "site", "run", "status", "resume", "stop")
    places = [shown.index(f"\n│ {verb} ") for verb in verbs]
    assert places == sorted(places)
