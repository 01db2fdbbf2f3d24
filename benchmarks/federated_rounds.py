"""Seconds of a round with real processes on loopback: ours, and Flower's own SecAgg+ as it is deployed.

``bench_federated.py --end-to-end`` calls this. Both sides have one coordinator and four sites as separate
processes, TLS, one million parameters and no training: each site returns the same vector.

Flower runs its SuperLink (state in memory), four SuperNodes and ``SecAggPlusWorkflow`` with
``secaggplus_mod`` (``flower_secagg.py``) at its best setting: its processes look for tasks, and the server
application for replies, every 0.05 s instead of 1 and 3. Its nodes do not authenticate. Ours runs the
:class:`.rounds.Coordinator` over Flower's fleet routes with its state on the disk. Each site has the history
file and the check of the common model that a hospital has.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
}
SITES = ("east", "north", "south", "west")
_LAYOUT = "one vector"
WEIGHT = 100
_START_SECONDS, _ROUND_SECONDS = 60.0, 240.0
_APPLICATION = """
[project]
name = "secagg"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr"]
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "secagg.flower_secagg:server"
clientapp = "secagg.flower_secagg:client"
[tool.flwr.app.config]
clients = {clients}
rounds = {rounds}
size = {size}
out = "{out}"
"""


@dataclass(frozen=True)
class _Desk:
    """Files and processes of one measurement."""

    folder: Path
    stack: ExitStack

    def start(self, name: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a process that ends with the measurement."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                env={**os.environ, **ENVIRONMENT, **environment},
            )
        self.stack.callback(_end, process)
        return process

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for a condition; the logs tell why it did not come."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                logs = [f"{path.name}:\n{path.read_text()[-1500:]}" for path in self.folder.glob("*.log")]
                raise SystemExit(f"{what} did not come in {seconds:.0f} s\n" + "\n".join(logs))
            time.sleep(0.05)


@contextmanager
def _desk() -> Iterator[_Desk]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        yield _Desk(Path(folder), stack)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(seconds)


def _certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Return PEM files of an authority, and of a certificate for loopback and its key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from meninx.federated import authority

    root_key, key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    root = authority.self_signed(root_key, "benchmark")
    leaf = authority.issue(root, root_key, key.public_key(), "coordinator", hosts=())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    paths = folder / "root.pem", folder / "leaf.pem", folder / "leaf.key"
    for path, content in zip(paths, (authority.pem(root), authority.pem(leaf), secret), strict=True):
        path.write_bytes(content)
    return paths


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


# Flower


def flower_seconds(rounds: int, size: int) -> list[float]:
    """Return seconds of each round of Flower's SecAgg+; the first one, which warms up, is left out."""
    with _desk() as desk:
        root, leaf, key = map(str, _certificates(desk.folder))
        own_tls = ("--ssl-certfile", leaf, "--ssl-keyfile", key, "--ssl-ca-certfile", root)
        address, home = f"127.0.0.1:{_free_port()}", desk.folder / "home"
        out = _application(desk.folder / "application", rounds + 1, size)
        _connection(home, address, root)
        host, port = address.split(":")
        link = ("flower-superlink", "--host", host, "--port", port, *own_tls)
        desk.start("superlink", *link, "--disable-runtime-dependency-installation", FLWR_HOME=str(home))
        desk.wait(lambda: _answers(host, int(port)), _START_SECONDS, "the SuperLink")
        for site in SITES:
            node = ("flower-supernode", "--superlink", address, "--root-certificates", root)
            runtime = ("--host", host, "--port", str(_free_port()), *own_tls)
            desk.start(site, *node, *runtime, FLWR_HOME=str(home / site))
        desk.start("run", "flwr", "run", str(out.parent), "benchmark", FLWR_HOME=str(home))
        found: list[dict[str, float]] = []
        while len(found) <= rounds:
            before = len(found)
            desk.wait(lambda: len(_rounds(out)) > before, _ROUND_SECONDS, "a round of Flower")  # noqa: B023
            found = _rounds(out)
        assert abs(found[0]["first"]) > 1e-4, "Flower added nothing up"
        return [one["seconds"] for one in found[1:]]


def _application(folder: Path, rounds: int, size: int) -> Path:
    package = folder / "secagg"
    package.mkdir(parents=True)
    out = folder / "rounds.json"
    (package / "__init__.py").write_text("")
    shutil.copy(Path(__file__).with_name("flower_secagg.py"), package)
    settings = {"clients": len(SITES), "rounds": rounds, "size": size, "out": out}
    (folder / "pyproject.toml").write_text(_APPLICATION.format(**settings))
    return out


def _connection(home: Path, address: str, root: str) -> None:
    home.mkdir()
    text = f'[superlink]\ndefault = "benchmark"\n[superlink.benchmark]\naddress = "{address}"\n'
    (home / "config.toml").write_text(f'{text}root-certificates = "{root}"\n')


def _answers(host: str, port: int) -> bool:
    import socket

    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def _rounds(out: Path) -> list[dict[str, float]]:
    with suppress(OSError, json.JSONDecodeError):
        found: list[dict[str, float]] = json.loads(out.read_text())
        return found
    return []


# ours


def our_seconds(rounds: int, size: int, *, mailbox: bool, checks: bool = True) -> list[float]:
    """Return seconds of each round of ours; the first one, which warms up, is left out.

    Args:
        rounds: measured rounds.
        size: parameters.
        mailbox: short messages travel through the mailbox; else everything through Flower.
        checks: every site computes the sum again, which Flower has not.
    """
    with _desk() as desk:
        out, address = desk.folder / "rounds.json", f"127.0.0.1:{_free_port()}"
        plan = _plan(desk.folder, address, rounds + 1, size, mailbox=mailbox, checks=checks)
        for name in ("coordinator", *SITES):
            desk.start(name, sys.executable, __file__, str(plan), name)
        desk.wait(out.exists, _START_SECONDS + (rounds + 1) * _ROUND_SECONDS, "the end of our rounds")
        found: list[float] = json.loads(out.read_text())
        assert len(found) == rounds + 1, found
        return found[1:]


def _plan(folder: Path, address: str, rounds: int, size: int, *, mailbox: bool, checks: bool) -> Path:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from meninx.secagg import Member, Roster

    root, leaf, leaf_key = _certificates(folder)
    keys = {name: Ed25519PrivateKey.generate() for name in ("coordinator", *SITES)}
    members = tuple(Member(name=name, key=keys[name].public_key().public_bytes_raw()) for name in SITES)
    roster = Roster(study="benchmark", members=members)
    roster = roster.signed({name: roster.signature(keys[name]) for name in SITES})
    nodes = {
        name: ec.generate_private_key(ec.SECP384R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        for name in SITES
    }
    plan = {
        "keys": {name: key.private_bytes_raw() for name, key in keys.items()},
        "nodes": nodes,
        "roster": roster.to_bytes(),
        "address": address,
        "files": (root, leaf, leaf_key),
        "rounds": rounds,
        "size": size,
        "mailbox": mailbox,
        "checks": checks,
    }
    path = folder / "plan"
    path.write_bytes(pickle.dumps(plan))
    return path


class _Role:
    """A process of ours: the coordinator or a site."""

    def __init__(self, plan: Path, name: str) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        from meninx.federated.config import AggregationConfig
        from meninx.federated.strategies import FedAvg
        from meninx.secagg import Roster

        found: dict[str, Any] = pickle.loads(plan.read_bytes())
        self.name, self.folder, self.plan = name, plan.parent, found
        self.keys = {one: Ed25519PrivateKey.from_private_bytes(raw) for one, raw in found["keys"].items()}
        self.nodes: dict[str, Any] = {
            one: load_pem_private_key(pem, None) for one, pem in found["nodes"].items()
        }
        self.roster = Roster.from_bytes(found["roster"])
        self.config = AggregationConfig.of(aggregation="masks", clip=0.05)
        self.strategy = FedAvg(rounds=found["rounds"])

    def coordinate(self) -> None:
        """Run all rounds and write their seconds."""
        import numpy as np

        from meninx.federated.aggregation_methods import announcement_check, round_sides
        from meninx.federated.connections import CoordinatorServer, CoordinatorSetup
        from meninx.federated.rounds import Coordinator, Terms
        from meninx.federated.study_state import StudyState
        from meninx.secagg import quorum

        plan, size = self.plan, self.plan["size"]
        _, leaf, leaf_key = plan["files"]
        host, port = plan["address"].split(":")
        setup = CoordinatorSetup(
            study="benchmark", digest="c0de" * 16, terms=plan["roster"], signing_key=self.keys["coordinator"],
            signing_keys={name: self.keys[name].public_key() for name in SITES},
            node_keys={name: key.public_key() for name, key in self.nodes.items()},
            certificate=leaf, certificate_key=leaf_key, host=host, port=int(port), mailbox=plan["mailbox"],
        )  # fmt: skip
        terms = Terms(
            sites=SITES, quorum=quorum(len(SITES)), strategy=self.strategy,
            waiting_seconds=_START_SECONDS, checks=plan["checks"],
        )  # fmt: skip
        first = self.strategy.init(np.zeros(size, np.float32))
        path = self.folder / "state.sqlite3"
        state = StudyState.begin(path, study="benchmark", terms="t", layout=_LAYOUT, weights=first)
        server = CoordinatorServer(setup)
        server.start()
        try:
            Coordinator(
                terms, state, server.exchange, round_sides(self.config, self.roster, size),
                announcing=announcement_check(self.config, self.roster),
            ).run()  # fmt: skip
        finally:
            server.stop()
        found = state.rounds()
        assert all(one.phase == "accepted" and one.survivors == SITES for one in found), found
        assert all(len(one.checked) == len(SITES) * plan["checks"] for one in found), found
        assert abs(state.model()[1].weights[0]) > 1e-4, "nothing was added up"
        partial = self.folder / "partial"
        partial.write_text(json.dumps([one.seconds for one in found]))
        partial.rename(self.folder / "rounds.json")

    def take_part(self) -> None:
        """Answer the coordinator."""
        from meninx.federated.connections import SiteClient, SiteSetup

        setup = SiteSetup(
            study="benchmark", name=self.name, digest="c0de" * 16, signing_key=self.keys[self.name],
            coordinator_key=self.keys["coordinator"].public_key(), node_key=self.nodes[self.name],
            address=self.plan["address"], root_certificate=self.plan["files"][0].read_bytes(),
        )  # fmt: skip
        client = SiteClient(setup)
        client.terms()
        client.run(_VectorSite(self))


class _VectorSite:
    """A site whose training is one vector; all else is as at a hospital."""

    def __init__(self, role: _Role) -> None:
        import numpy as np

        from meninx.federated.aggregation_methods import site_sides
        from meninx.federated.site_rounds import SiteRounds

        self.name, self._folder, self._run = role.name, role.folder / f"of {role.name}", ""
        self._end: Any = None
        self._folder.mkdir()
        history = self._folder / "history"
        self._ends = site_sides(role.config, role.roster, role.name, role.keys[role.name], history)
        self._rounds = SiteRounds(role.strategy, SITES)
        size = role.plan["size"]
        self._update = (np.random.default_rng(0).standard_normal(size) * 0.01).astype(np.float32)

    def handle(self, request: Any) -> Any:
        """Return the reply."""
        from meninx.federated import messages
        from meninx.federated.contribution import Contribution, beginning
        from meninx.federated.vector import from_bytes

        at, rounds, folder = request.at, self._rounds, self._folder
        if at.run != self._run:
            self._end, self._run = self._ends(at.run), at.run
        end = self._end
        match request:
            case messages.Hello():
                return messages.Greeting(site=self.name, announcement=end.announce(), layout=_LAYOUT)
            case messages.Meet():
                end.meet(request.announcements)
            case messages.Train():
                position, _ = rounds.turn(request, self.name)
                end.check_round(at, request.members)
                rounds.begin(folder, at, position, from_bytes(request.model, self._update.size))
                begun = beginning(request.model, request.until, request.horizon)
                given = Contribution(self._update, WEIGHT, model=begun)
                upload = end.upload(at, request.members, given)
                return messages.Uploaded(site=self.name, at=at, upload=upload)
            case messages.Agree():
                signature = end.agree(at, request.survivors)
                rounds.signed(folder, at, request.survivors)
                return messages.Agreed(site=self.name, agreement=signature)
            case messages.Reveal():
                opened = end.reveal(at, request.agreements, request.lost)
                return messages.Revealed(site=self.name, reveal=opened)
            case messages.Recompute():
                share, matches = end.check(at, request.transcript, request.total)
                rounds.computed(folder, at, end.decoded(request.total) if matches else None)
                return messages.Recomputed(site=self.name, share=share, matches=matches)
            case messages.Finish():
                return messages.Finished(site=self.name)
        return messages.Done(site=self.name)


if __name__ == "__main__":
    role = _Role(Path(sys.argv[1]), sys.argv[2])
    if role.name == "coordinator":
        role.coordinate()
    else:
        role.take_part()
