"""What processes and results of a study say: broken lines, a busy folder, a taken port, results, refusals."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from meninx.cli.app import run
from meninx.core.errors import RunLocked, UsageError
from meninx.core.manifest import Manifest
from meninx.federated import carrier, processes
from meninx.federated.coordinator_process import CoordinatorResult
from meninx.federated.line import Unreachable, line_error
from meninx.federated.listener import Listener
from meninx.federated.site_process import SiteResult
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
