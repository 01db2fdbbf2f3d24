"""A study whose coordinator and sites are real processes on loopback, for tests of what happens to them."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from meninx.core.manifest import Manifest
from meninx.federated import approval, enrolment, processes, site_folder, study
from meninx.federated.config import DataConfig, StudyConfig
from meninx.federated.first_model import first_model
from meninx.federated.policy import PolicyConfig

POLICY = PolicyConfig(
    allowed_recipes=("any",),
    require_differential_privacy=False,
    min_quorum=2,
    max_epsilon=8.0,
    max_delta=1e-3,
    allow_deterministic=True,
)


NOBODY = processes.ProcessRecord(pid=0, role="", since="")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Hospitals:
    """Folders of a study that all its sites approved, and processes that serve them."""

    def __init__(
        self,
        root: Path,
        patients: Path,
        sites: tuple[str, ...],
        *,
        train: Mapping[str, object] = {},
        **settings: object,
    ) -> None:
        self.root, self.sites = root, sites
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        facts = DataConfig.of_dataset(Manifest.read(patients).info)
        table = {"model": "resnet9-small", "lr": 3e-3, "batch_size": 8, "physical_batch": 8, **train}
        terms = {"local_steps": 2, "address": f"127.0.0.1:{free_port()}", **settings}
        config = StudyConfig.of(data=facts, train=table, **terms)
        start, _ = first_model(config.training, config.data.info(), config.study.local_layers)
        self.bytes_of_weights = start.nbytes
        folder = study.create(root / "chest", config)
        policy = POLICY.replace(require_secure_aggregation=config.aggregation.secure)
        found = [site_folder.create(root / name, name, policy) for name in sites]
        for site in found:
            enrolment.request(site)
        enrolment.accept(folder, [site.request_path for site in found])
        for site in found:
            approval.approve(site, folder.study(), patients)
            approval.receive(folder, site.approval_path("chest"))

    def start(
        self,
        name: str,
        *words: str,
        before: tuple[str, ...] = (),
        environment: Mapping[str, str] = {},
    ) -> subprocess.Popen[bytes]:
        log, out = (self.root / f"{name}.log").open("ab"), (self.root / f"{name}.out").open("wb")
        command = [*before, sys.executable, "-m", "meninx", "federate", *words]
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=log,
            cwd=self.root,
            env={**self.environment, **environment},
            start_new_session=True,
        )
        log.close()
        out.close()
        self.running[name] = process
        return process

    def start_site(self, name: str, *words: str, **keywords: Any) -> None:
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

    def seen(self, kind: str, number: int = 0) -> Callable[[], bool]:
        """Return whether an event of a kind was seen in a round, as a condition."""
        return lambda: any(
            event["event"] == kind and event.get("round", number) == number for event in self.events()
        )

    def seen_of(self, kind: str, site: str) -> bool:
        """Return whether an event of a kind was seen about a site."""
        return any(event["event"] == kind and event.get("site") == site for event in self.events())

    def told(self, site: str) -> list[dict]:
        """Return the events that a site has seen."""
        path = self.root / site / "private" / "engine" / "chest" / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def runs(self, site: str) -> list[Path]:
        """Return the run folders of a site."""
        folder = self.root / site / "runs" / "chest"
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted(path for path in found if path.is_dir() and not path.is_symlink())

    @property
    def states(self) -> list[Path]:
        """The coordinator's states of all runs."""
        return sorted((self.root / "chest" / "private" / "engine" / "runs").glob("*.sqlite3"))

    def model(self) -> str:
        """Return the name of the last accepted model."""
        path = self.states[-1]
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


def when(condition: Callable[[], bool], seconds: float = 200.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


FOUR = ("east", "north", "south", "west")
