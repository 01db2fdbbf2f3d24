"""A study with real processes on loopback: one study from start to end, kills, stops, and who calls whom."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from bad_line import BadLine

from meninx.core.errors import DataError, RunLocked, UsageError
from meninx.core.manifest import Manifest
from meninx.federated import approval, enrolment, processes, site_folder, study
from meninx.federated.config import DataConfig, StudyConfig
from meninx.federated.coordinator_process import SERVING
from meninx.federated.policy import PolicyConfig

POLICY = PolicyConfig(allowed_recipes=("any",), require_differential_privacy=False, min_quorum=2)


NOBODY = processes.ProcessRecord(pid=0, role="", since="")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Hospitals:
    """Folders of a study that all its sites approved, and processes that serve them."""

    def __init__(self, root: Path, patients: Path, sites: tuple[str, ...], **settings: object) -> None:
        self.root, self.sites = root, sites
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        facts = DataConfig.of_dataset(Manifest.read(patients).info)
        train = {"model": "resnet9-small", "lr": 3e-3, "batch_size": 8, "physical_batch": 8}
        config = StudyConfig.of(
            local_steps=2, address=f"127.0.0.1:{free_port()}", data=facts, train=train, **settings
        )
        folder = study.create(root / "chest", config)
        policy = POLICY.replace(require_secure_aggregation=config.aggregation.secure)
        found = [site_folder.create(root / name, name, policy) for name in sites]
        for site in found:
            enrolment.request(site)
        enrolment.accept(folder, [site.request_path for site in found])
        for site in found:
            approval.approve(site, folder.study(), patients)
            approval.receive(folder, site.approval_path("chest"))

    def start(self, name: str, *words: str, before: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        log, out = (self.root / f"{name}.log").open("ab"), (self.root / f"{name}.out").open("wb")
        command = [*before, sys.executable, "-m", "meninx", "federate", *words]
        process = subprocess.Popen(
            command, stdout=out, stderr=log, cwd=self.root, env=self.environment, start_new_session=True
        )
        log.close()
        out.close()
        self.running[name] = process
        return process

    def start_site(self, name: str, *words: str, **keywords: tuple[str, ...]) -> None:
        self.start(name, "site", name, "chest", "--device", "cpu", *words, **keywords)

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text()

    def result(self, name: str) -> str:
        return (self.root / f"{name}.out").read_text()

    def events(self) -> list[dict]:
        path = self.root / "chest" / "private" / "engine" / "events.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def model(self) -> str:
        """Return the name of the last accepted model."""
        path = sorted((self.root / "chest" / "private" / "engine" / "runs").glob("*.sqlite3"))[-1]
        with closing(sqlite3.connect(path)) as base:
            return base.execute("SELECT name FROM models ORDER BY number DESC").fetchone()[0]

    def wait(self, name: str, seconds: float = 400.0) -> int:
        code = self.running[name].wait(seconds)
        assert code in {0, 130}, self.log(name)
        return code

    def stop_all(self) -> None:
        for name in list(self.running):
            if self.running[name].poll() is None:
                self.kill(name)


@pytest.fixture
def hospitals(tmp_path: Path, patients: Path) -> Iterator[Callable[..., Hospitals]]:
    with ExitStack() as stack:

        def make(name: str, sites: tuple[str, ...], **settings: object) -> Hospitals:
            found = Hospitals(tmp_path / name, patients, sites, **settings)
            stack.callback(found.stop_all)
            return found

        yield make


def when(condition: Callable[[], bool], seconds: float = 200.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


FOUR = ("east", "north", "south", "west")


@pytest.mark.slow
def test_four_sites_finish_a_study_and_the_verbs_say_what_happened(
    hospitals: Callable[..., Hospitals],
) -> None:
    here = hospitals("plain run", FOUR, rounds=2)
    here.start("coordinator", "coordinator", "chest")
    engine = here.root / "chest" / "private" / "engine"
    when(lambda: (processes.running(engine) or NOBODY).role == SERVING)
    for name in FOUR:
        here.start_site(name)
    here.start("run", "run", "chest", "--json")  # ordered from the process that serves
    assert here.wait("run") == 0
    result = json.loads(here.result("run"))
    assert (result["rounds"], result["aborted"], result["sites"]) == (2, 0, list(FOUR))
    for name in FOUR:
        assert here.wait(name) == 0
        assert "run: " in here.result(name)
    assert here.start("again", "run", "chest").wait(60) == 2
    assert "--again" in here.log("again")
    stopped = here.start("stop", "stop", "chest")
    assert stopped.wait(60) == 0
    assert here.wait("coordinator", 30) == 0
    assert here.start("stop again", "stop", "chest").wait(60) == 2


@pytest.mark.slow
def test_killed_sites_and_a_killed_coordinator_come_back_to_the_same_model(
    hospitals: Callable[..., Hospitals],
) -> None:
    quiet = hospitals("quiet", FOUR, rounds=5)
    for name in FOUR:
        quiet.start_site(name)
    quiet.start("run", "run", "chest")
    assert quiet.wait("run") == 0
    quiet.stop_all()

    kinds = ["site_connected", "round_opened", "update_uploaded", "survivors_agreed", "secrets_revealed"]
    shaken = hospitals("shaken", FOUR, rounds=5)
    for name in FOUR:
        shaken.start_site(name)
    shaken.start("run", "run", "chest")

    def seen(kind: str, number: int) -> Callable[[], bool]:
        return lambda: any(
            event["event"] == kind and event.get("round", number) == number for event in shaken.events()
        )

    for number, kind in enumerate(kinds):  # the coordinator and one site, each at five points
        when(seen(kind, number))
        shaken.kill("run")
        shaken.kill("east")
        shaken.start_site("east")
        begun = any((shaken.root / "chest" / "private" / "engine" / "runs").glob("*.sqlite3"))
        shaken.start("run", "resume" if begun else "run", "chest")
    assert shaken.wait("run") == 0, shaken.log("run")
    assert shaken.model() == quiet.model()
    accepted = [event["round"] for event in shaken.events() if event["event"] == "round_accepted"]
    assert len(set(accepted)) == 5


@pytest.mark.slow
def test_a_dead_site_costs_less_than_a_minute_and_the_others_go_on(
    hospitals: Callable[..., Hospitals],
) -> None:
    here = hospitals("dead", FOUR, rounds=2)
    for name in FOUR:
        here.start_site(name)
    here.start("run", "run", "chest")
    when(lambda: any(event["event"] == "round_opened" for event in here.events()))
    here.kill("west")
    began = time.monotonic()
    when(lambda: any(event["event"] == "round_accepted" for event in here.events()), 120)
    assert time.monotonic() - began < 75
    first = next(event for event in here.events() if event["event"] == "round_accepted")
    assert first["survivors"] == ["east", "north", "south"]
    told = (here.root / "east" / "private" / "engine" / "chest" / "events.jsonl").read_text()
    events = [json.loads(line) for line in told.splitlines()]
    assert any(event["event"] == "site_lost" and event["site"] == "west" for event in events)
    assert here.wait("run") == 0


@pytest.mark.slow
def test_a_stopped_study_is_resumed(hospitals: Callable[..., Hospitals]) -> None:
    here = hospitals("stopped", FOUR, rounds=3)
    for name in FOUR:
        here.start_site(name)
    here.start("run", "run", "chest")
    when(lambda: any(event["event"] == "round_accepted" for event in here.events()))
    os.kill(here.running["run"].pid, signal.SIGTERM)
    assert here.wait("run", 60) == 130
    here.start("resume", "resume", "chest", "--json")
    assert here.wait("resume") == 0
    assert json.loads(here.result("resume"))["rounds"] == 3


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_nobody_connects_beyond_loopback_and_sites_use_the_proxy(hospitals: Callable[..., Hospitals]) -> None:
    here = hospitals("traced", ("east", "north"), rounds=1, aggregation="plain")
    with BadLine(delay=0.01) as line:
        traced = {}
        for name in ("east", "north", "run"):
            traced[name] = here.root / f"{name}.trace"
            strace = ("strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(traced[name]))
            if name == "run":
                here.start("run", "run", "chest", before=strace)
            else:
                here.environment |= line.environment
                here.start_site(name, before=strace)
                here.environment = {
                    key: value for key, value in here.environment.items() if key not in line.environment
                }
        assert here.wait("run") == 0
    address = here.root / "chest" / "study.toml"
    port = re.search(r'address = "127.0.0.1:(\d+)"', address.read_text()).group(1)
    for name, path in traced.items():
        calls = re.findall(
            r"sin_port=htons\((\d+)\), sin_addr=inet_addr\(\"([^\"]+)\"|inet_pton\(AF_INET6, \"([^\"]+)\"",
            path.read_text(),
        )
        assert {ip or ip6 for _, ip, ip6 in calls} <= {"127.0.0.1", "::1", "0.0.0.0", "::"}, name
        if name != "run":
            assert calls
            assert port not in {number for number, _, _ in calls}  # only the proxy is called
    assert set(line.calls) == {f"127.0.0.1:{port}"}


# the process itself


def test_one_process_serves_a_folder_and_a_stop_file_ends_it(tmp_path: Path) -> None:
    ended: list[str] = []

    def serve() -> None:
        with processes.service(tmp_path / "engine") as this:
            this.on_stop(lambda: ended.append("told"))
            this.record("site")
            this.stopping.wait(20)

    assert processes.running(tmp_path / "engine") is None
    thread = threading.Thread(target=serve)
    thread.start()
    when(
        lambda: (
            (processes.running(tmp_path / "engine") or processes.ProcessRecord(pid=0, role="", since="")).role
            == "site"
        ),
        5,
    )
    with pytest.raises(RunLocked), processes.service(tmp_path / "engine"):
        pass
    record = processes.stop(tmp_path / "engine")
    thread.join(5)
    assert record is not None
    assert (record.pid, record.role, ended) == (os.getpid(), "site", ["told"])
    assert processes.running(tmp_path / "engine") is None
    assert processes.stop(tmp_path / "engine") is None
    with pytest.raises(UsageError, match="no process serves"):
        processes.stop_folder(tmp_path)


def test_a_damaged_record_is_an_error_with_a_sentence(tmp_path: Path) -> None:
    with processes.service(tmp_path / "engine"):
        (tmp_path / "engine" / processes.RECORD).write_text("{")
        with pytest.raises(DataError, match="damaged"):
            processes.running(tmp_path / "engine")


def test_a_process_that_does_not_end_is_named(tmp_path: Path) -> None:
    with processes.service(tmp_path / "engine") as this:
        this.record("site")
        with pytest.raises(DataError, match=rf"has not stopped yet \(process {os.getpid()}\)"):
            processes.stop(tmp_path / "engine", within=0.3)
