"""A study with real processes on loopback: one study from start to end, kills, stops, and who calls whom."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from bad_line import BadLine
from hospital_processes import FOUR, NOBODY, Hospitals, when

from meninx.core.errors import DataError, RunLocked, UsageError
from meninx.federated import processes
from meninx.federated.coordinator_process import SERVING


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
def test_sites_that_come_after_a_run_failed_for_want_of_them_take_part_when_it_is_resumed(
    hospitals: Callable[..., Hospitals],
) -> None:
    here = hospitals("late", FOUR, rounds=1)
    here.start("coordinator", "coordinator", "chest")
    engine = here.root / "chest" / "private" / "engine"
    when(lambda: (processes.running(engine) or NOBODY).role == SERVING)
    failed = here.start("run", "run", "chest", "--waiting-minutes", "0.02")
    assert failed.wait(60) == DataError.exit_code, here.log("run")
    assert "too few sites came" in here.log("run")
    for name in FOUR:
        here.start_site(name)
    here.start("resume", "resume", "chest", "--json")
    assert here.wait("resume") == 0
    assert json.loads(here.result("resume"))["sites"] == list(FOUR)


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

    for number, kind in enumerate(kinds):  # the coordinator and one site, each at five points
        when(shaken.seen(kind, number))
        shaken.kill("run")
        shaken.kill("east")
        shaken.start_site("east")
        shaken.start("run", "resume" if shaken.states else "run", "chest")
    assert shaken.wait("run") == 0, shaken.log("run")
    assert shaken.model() == quiet.model()
    accepted = [event["round"] for event in shaken.events() if event["event"] == "round_accepted"]
    assert len(set(accepted)) == 5


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--flower-only",)], ids=["mailbox", "flower alone"])
def test_a_dead_site_costs_less_than_a_minute_and_the_others_go_on(
    hospitals: Callable[..., Hospitals], words: tuple[str, ...]
) -> None:
    here = hospitals("dead", FOUR, rounds=2)
    for name in FOUR:
        here.start_site(name)
    here.start("run", "run", "chest", *words)
    when(lambda: any(event["event"] == "round_opened" for event in here.events()))
    here.kill("west")
    began = time.monotonic()
    when(lambda: any(event["event"] == "round_accepted" for event in here.events()), 120)
    assert time.monotonic() - began < 60
    first = next(event for event in here.events() if event["event"] == "round_accepted")
    assert first["survivors"] == ["east", "north", "south"]
    for name in ("east", "north", "south"):  # the survivors are told
        assert any(event["event"] == "site_lost" and event["site"] == "west" for event in here.told(name))
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
    sites = ("east", "north", "west")
    here = hospitals("traced", sites, rounds=3)
    traced: dict[str, Path] = {}

    def tracing(name: str) -> tuple[str, ...]:
        traced[name] = here.root / f"{name}.trace"
        return ("strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(traced[name]))

    with BadLine(delay=0.01) as line:
        for name in sites:
            here.start_site(name, before=tracing(name), environment=line.environment)
        here.start("run", "run", "chest", before=tracing("run"))
        when(here.seen("round_accepted"))
        assert here.start("stop", "stop", "chest", before=tracing("stop")).wait(120) == 0
        assert here.wait("run", 60) == 130
        here.start("resume", "resume", "chest", "--json", before=tracing("resume"))
        assert here.wait("resume") == 0
        assert json.loads(here.result("resume"))["rounds"] == 3
        for name in sites:
            assert here.wait(name) == 0
    address = here.root / "chest" / "study.toml"
    port = re.search(r'address = "127.0.0.1:(\d+)"', address.read_text()).group(1)
    for name, path in traced.items():
        calls = re.findall(
            r"sin_port=htons\((\d+)\), sin_addr=inet_addr\(\"([^\"]+)\"|inet_pton\(AF_INET6, \"([^\"]+)\"",
            path.read_text(),
        )
        assert {ip or ip6 for _, ip, ip6 in calls} <= {"127.0.0.1", "::1", "0.0.0.0", "::"}, name
        if name in sites:
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
