"""Flower's own SecAgg+ as an application of Flower: what its SuperLink and SuperNodes run in the benchmark.

``federated_rounds.py`` copies this module into an application package and starts it. It needs nothing of
meninx. Each client returns the same vector without training. The server writes the seconds of each round.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
from flwr.app import Context, Message
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import Grid, LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import ServerApp

WEIGHT = 100
_LOOK = 0.05  # seconds between two looks for replies; Flower's own loop waits 3


class _Vector(NumPyClient):
    """A client whose training is one vector."""

    def __init__(self, size: int) -> None:
        self._update = (np.random.default_rng(0).standard_normal(size) * 0.01).astype(np.float32)

    def fit(self, parameters: Any, config: Any) -> Any:
        """Return the vector, its weight and no metrics."""
        return [self._update], WEIGHT, {}


def client_fn(context: Context) -> Any:
    """Return the client of a message."""
    return _Vector(int(context.run_config["size"])).to_client()


client = ClientApp(client_fn, mods=[secaggplus_mod])
server = ServerApp()


class _Quick:
    """A grid whose wait for replies ends soon after the last one."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Return all replies."""
        waiting, replies = set(self._grid.push_messages(messages)), list[Message]()
        while waiting:
            found = list(self._grid.pull_messages(waiting))
            replies += found
            waiting -= {message.metadata.reply_to_message_id for message in found}
            if waiting:
                time.sleep(_LOOK)
        return replies


class _Timed(SecAggPlusWorkflow):
    """The workflow; writes seconds, and the first number of the model that came of each round."""

    def __init__(self, out: Path) -> None:
        super().__init__(1.0, 0.6, max_weight=1000.0)
        self._out, self._rounds = out, list[dict[str, float]]()

    def __call__(self, grid: Grid, context: Context) -> None:
        """Run one round."""
        began = time.monotonic()
        super().__call__(grid, context)
        seconds = time.monotonic() - began
        (parameters,) = context.state.array_records.values()
        first = next(iter(parameters.values())).numpy().ravel()[0]
        self._rounds.append({"seconds": seconds, "first": float(first)})
        self._out.write_text(json.dumps(self._rounds), encoding="utf-8")


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds with all clients."""
    config = context.run_config
    count, zeros = int(config["clients"]), np.zeros(int(config["size"]), np.float32)
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=count,
        min_available_clients=count,
        initial_parameters=ndarrays_to_parameters([zeros]),
    )
    legacy = LegacyContext(context, config=ServerConfig(num_rounds=int(config["rounds"])), strategy=strategy)
    quick = cast("Grid", _Quick(grid))
    DefaultWorkflow(fit_workflow=_Timed(Path(str(config["out"]))))(quick, legacy)
