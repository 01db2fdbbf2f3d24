"""Secure aggregation beside Flower's own SecAgg+: processor time, bytes, recomputation, CKKS, whole rounds.

Run: ``python benchmarks/bench_federated.py [--rounds 5] [--end-to-end] [--json OUT] [--write PAGE]``.
In one process both take turns, round by round; a cell is the median over rounds of processor milliseconds on
one thread, so trust the ratios. ``--end-to-end`` adds seconds of a round with real processes
(``federated_rounds.py``), ``--end-to-end-only`` measures these alone.

Flower's client is ``secaggplus_mod``, its server the two stages of ``SecAggPlusWorkflow`` that add and
unmask, with a grid in memory instead of a network and without the strategy. Ours is measured twice: what
Flower does, too (quantise, mask; add, unmask), and all that a site or the coordinator does, with digests,
tags, shares of seeds and signatures, which Flower has not.
"""

# ruff: noqa: E402 -- numpy reads the environment when it is imported

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1")

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import federated_rounds
import pages

warnings.simplefilter("ignore")  # of packages that Flower imports
from flwr.app import Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from flwr.compat.common import recorddict_compat
from flwr.server import LegacyContext, SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.supercore.task_identity import TaskIdentity

from meninx.secagg import (
    Aggregation,
    CkksAggregation,
    CkksSite,
    Member,
    Quantiser,
    Roster,
    SiteProtocol,
    ckks_keys,
    verify,
)
from meninx.secagg import payload as upload_bytes
from meninx.secagg.statements import Masked, read

MILLION = 1_000_000
END_TO_END_ROUNDS = 3
CASES = [(5, MILLION), (10, MILLION), (5, 10 * MILLION)]
WEIGHT, CLIP = 100, 0.05


def milliseconds(action: Callable[[], Any]) -> tuple[float, Any]:
    """Return processor milliseconds and what the action returned."""
    start = time.process_time()
    result = action()
    return 1e3 * (time.process_time() - start), result


# Flower


class _Clients:
    """A grid in memory; adds up the processor time of one client and the bytes of its upload."""

    def __init__(self, update: np.ndarray[Any, Any], count: int) -> None:
        self.update, self.count = update, count
        self.contexts: dict[int, Context] = {}
        self.client_ms, self.all_ms, self.sent = 0.0, 0.0, 0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Return every client's reply."""
        return [self._reply(copy.deepcopy(message)) for message in messages]  # a network copies them, too

    def _reply(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if node not in self.contexts:
            self.contexts[node] = Context(
                run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={}
            )

        def fit(request: Message, _: Context) -> Message:
            fitted = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([self.update]), WEIGHT, {})
            return Message(recorddict_compat.fitres_to_recorddict(fitted, True), reply_to=request)

        spent, reply = milliseconds(lambda: secaggplus_mod(message, self.contexts[node], fit))
        self.all_ms += spent
        if node == 1:
            self.client_ms += spent
            found = reply.content.config_records[RECORD_KEY_CONFIGS]
            self.sent += sum(map(len, found.get(Key.MASKED_PARAMETERS, [])))
        return reply


class _Proxy(ClientProxy):
    def __init__(self, node: int) -> None:
        super().__init__(str(node))
        self.node_id = node

    def get_properties(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    get_parameters = fit = evaluate = reconnect = get_properties


class _NoAverage(FedAvg):
    """The workflow without what a strategy does after it."""

    def aggregate_fit(self, *_: Any, **__: Any) -> Any:
        return None, {}


def flower_round(count: int, update: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return client and server milliseconds and bytes per parameter of one round."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
    manager = SimpleClientManager()
    for node in range(1, count + 1):
        manager.register(_Proxy(node))
    strategy = _NoAverage(min_fit_clients=count, min_available_clients=count)
    base = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
    context = LegacyContext(base, strategy=strategy, client_manager=manager)
    empty = ndarrays_to_parameters([np.zeros(1, np.float32)])
    context.state.array_records[MAIN_PARAMS_RECORD] = recorddict_compat.parameters_to_arrayrecord(empty, True)
    configs = recorddict_compat.ConfigRecord({str(WorkflowKey.CURRENT_ROUND): 1})
    context.state.config_records[MAIN_CONFIGS_RECORD] = configs
    clients = _Clients(update, count)
    timed: dict[str, float] = {}

    class _Timed(SecAggPlusWorkflow):
        def collect_masked_vectors_stage(self, *args: Any) -> bool:
            return stage(super().collect_masked_vectors_stage, *args)

        def unmask_stage(self, *args: Any) -> bool:
            return stage(super().unmask_stage, *args)

    def stage(run: Callable[..., bool], *args: Any) -> bool:
        before = clients.all_ms
        spent, done = milliseconds(lambda: run(*args))
        timed["server"] = timed.get("server", 0.0) + spent - (clients.all_ms - before)
        assert done
        return done

    _Timed(1.0, 0.6, max_weight=1000.0)(clients, context)
    return {"client": clients.client_ms, "server": timed["server"], "bytes": clients.sent / update.size}


# ours


@dataclass
class _Ours:
    """Sites and coordinator of one run."""

    count: int

    def __post_init__(self) -> None:
        keys = {f"site{number:02d}": Ed25519PrivateKey.generate() for number in range(self.count)}
        members = [Member(name=name, key=key.public_key().public_bytes_raw()) for name, key in keys.items()]
        roster = Roster(study="benchmark", members=tuple(members))
        self.roster = roster.signed({name: roster.signature(key) for name, key in keys.items()})
        self.sites = {
            name: SiteProtocol(self.roster, name, key, "run", record=lambda entry: None)
            for name, key in keys.items()
        }
        self.announcements = [site.announce() for site in self.sites.values()]
        for site in self.sites.values():
            site.meet(self.announcements)
        self.quantiser = Quantiser(clip=CLIP, sites=self.count, max_weight=1000)

    def round(self, number: int, update: np.ndarray[Any, Any]) -> dict[str, float]:
        """Return milliseconds of a site and of the coordinator, and bytes per parameter."""
        names = self.roster.names
        first = self.sites[names[0]]
        aggregation = Aggregation(self.roster, self.announcements, number, 0, names)
        self.uploads = {}
        encode_ms, vector = milliseconds(lambda: self.quantiser.encode(update, WEIGHT))
        for name in names[1:]:
            self.uploads[name] = self.sites[name].upload(number, 0, names, vector)
        upload_ms, self.uploads[names[0]] = milliseconds(lambda: first.upload(number, 0, names, vector))
        statement, _ = upload_bytes.split(self.uploads[names[0]])
        position = read(statement, Masked, self.roster)
        mask_ms, _ = milliseconds(lambda: first.pairs.masked(vector, bytes(32), position))
        receive_ms, _ = milliseconds(lambda: [aggregation.receive(data) for data in self.uploads.values()])
        add_ms, _ = milliseconds(lambda: self._added(vector))
        survivors = aggregation.freeze()
        for name in names:
            aggregation.accept(self.sites[name].agree(number, 0, survivors))
        openings = [self.sites[name].reveal(number, aggregation.agreements) for name in names]
        open_ms, _ = milliseconds(lambda: [aggregation.accept_reveal(opening) for opening in openings])
        total_ms, self.total = milliseconds(aggregation.total)
        decode_ms, _ = milliseconds(lambda: self.quantiser.decode(self.total))
        self.transcript = aggregation.transcript().with_uploads(self.uploads)
        return {
            "client": encode_ms + mask_ms,
            "client whole": encode_ms + upload_ms,
            "server": add_ms + total_ms + decode_ms,
            "server whole": receive_ms + open_ms + total_ms + decode_ms,
            "bytes": len(self.uploads[names[0]]) / update.size,
        }

    def _added(self, vector: np.ndarray[Any, Any]) -> None:
        total = vector.copy()
        for data in list(self.uploads.values())[1:]:
            total += np.frombuffer(data, dtype=vector.dtype, count=len(vector))

    def recomputation(self) -> dict[str, float]:
        """Return milliseconds in which a site or an outsider computes the last sum again."""
        site = self.sites[self.roster.names[0]]
        found = {}
        for name, options in (
            ("by a site", {"site": site}),
            ("by an outsider", {}),
            ("by a site, a 1 % sample", {"share": 0.01, "site": site}),
        ):
            found[name], outcome = milliseconds(
                lambda options=options: verify(self.transcript, self.total, roster=self.roster, **options)
            )
            assert outcome.matches
        return found


def ckks_round(update: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return milliseconds, bytes per parameter and error of two sites' sum by CKKS."""
    private, public = ckks_keys()
    site, aggregation = CkksSite(private), CkksAggregation(public)
    client_ms, upload = milliseconds(lambda: site.encrypt(update))
    aggregation.receive(upload)
    server_ms, _ = milliseconds(lambda: aggregation.receive(upload))
    decrypt_ms, total = milliseconds(lambda: site.decrypt(aggregation.total()))
    return {
        "client, ms": client_ms,
        "server, per site, ms": server_ms,
        "decrypt, ms": decrypt_ms,
        "B per parameter": len(upload) / update.size,
        "largest error": float(np.abs(total - 2 * update.astype(np.float64)).max()),
    }


# tables


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each number over rounds."""
    return {name: median(one[name] for one in rounds) for name in rounds[0]}


def against(flower: dict[str, float], ours: dict[str, float], name: str, part: str) -> str:
    """Return the cell ``milliseconds (how many times less than Flower)``."""
    return f"{ours[name]:.1f} ({flower[part] / ours[name]:.1f}×)"


def masks_table(cases: list[dict[str, Any]]) -> str:
    """Return the table of processor time and bytes beside Flower."""
    lines = [
        "| sites, parameters | client: Flower, ms | ours: quantise, mask | ours: all | server: Flower, ms "
        "| ours: add, unmask | ours: all | B per parameter: Flower | ours |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        flower, ours = case["flower"], case["ours"]
        cells = [
            f"{case['sites']}, {case['parameters'] // MILLION} M",
            f"{flower['client']:.1f}",
            against(flower, ours, "client", "client"),
            against(flower, ours, "client whole", "client"),
            f"{flower['server']:.1f}",
            against(flower, ours, "server", "server"),
            against(flower, ours, "server whole", "server"),
            f"{flower['bytes']:.2f}",
            f"{ours['bytes']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def other_table(found: dict[str, dict[str, float]]) -> str:
    """Return the table of recomputation and of CKKS."""
    again, ckks = found["recomputation"], found["ckks"]
    lines = ["| 1 M parameters | |", "|---|---|"]
    lines += [f"| sum of 10 sites computed again {name}, ms | {value:.1f} |" for name, value in again.items()]
    for name, value in ckks.items():
        number = f"{value:.1e}" if value < 1e-3 else f"{value:.1f}"
        lines.append(f"| CKKS: {name} | {number} |")
    return "\n".join(lines) + "\n"


def end_to_end(rounds: int) -> dict[str, Any]:
    """Return seconds of whole rounds of Flower and of ours, and the load of the machine at the start."""
    load = os.getloadavg()[0]
    flower = federated_rounds.flower_seconds(rounds, MILLION)
    ours = {
        "mailbox, every site computes the sum again": {"mailbox": True},
        "mailbox, nobody computes it again": {"mailbox": True, "checks": False},
        "Flower messages alone, every site computes the sum again": {"mailbox": False},
        "Flower messages alone, nobody computes it again": {"mailbox": False, "checks": False},
    }
    found = {name: federated_rounds.our_seconds(rounds, MILLION, **options) for name, options in ours.items()}
    return {"load": load, "Flower's SecAgg+": flower, **found}


def end_to_end_table(found: dict[str, Any]) -> str:
    """Return the table of whole rounds: medians, ranges and ratios to Flower."""
    flower = median(found["Flower's SecAgg+"])
    lines = [
        f"| round of four sites, 1 M parameters (load {found['load']:.1f} at the start) | n "
        "| seconds, median | fastest to slowest | ratio to Flower |",
        "|---|---|---|---|---|",
    ]
    for name, seconds in found.items():
        if name != "load":
            middle, span = median(seconds), f"{min(seconds):.1f} to {max(seconds):.1f}"
            lines.append(f"| {name} | {len(seconds)} | {middle:.1f} | {span} | {middle / flower:.2f} |")
    return "\n".join(lines) + "\n"


def measured(quick: bool, rounds: int) -> dict[str, Any]:
    """Return all numbers."""
    rng = np.random.default_rng(0)
    cases, again = [], {}
    for count, parameters in CASES[: 2 if quick else None]:
        update = (rng.standard_normal(parameters) * 0.01).astype(np.float32)
        ours = _Ours(count)
        flower_rounds, our_rounds = [], []
        for number in range(rounds + 1):  # the first warms up
            flower_rounds.append(flower_round(count, update))
            our_rounds.append(ours.round(number, update))
        found = {"flower": medians(flower_rounds[1:]), "ours": medians(our_rounds[1:])}
        cases.append({"sites": count, "parameters": parameters, **found})
        if (count, parameters) == (10, MILLION):
            again = medians([ours.recomputation() for _ in range(rounds)])
    update = rng.uniform(-1, 1, MILLION).astype(np.float32)
    return {"cases": cases, "recomputation": again, "ckks": ckks_round(update)}


def main() -> None:
    """Print the tables; write them into a page and all numbers as JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="1 M parameters only")
    parser.add_argument("--end-to-end", action="store_true", help="whole rounds with real processes, too")
    parser.add_argument("--end-to-end-only", action="store_true", help="whole rounds with real processes")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all numbers here")
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="put the tables into a page of the documentation"
    )
    args = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    found, tables = {}, {}
    if not args.end_to_end_only:
        found = measured(args.quick, args.rounds)
        tables["bench-federated"] = f"{masks_table(found['cases'])}\n{other_table(found)}"
    if args.end_to_end or args.end_to_end_only:
        found["end to end"] = end_to_end(max(args.rounds, END_TO_END_ROUNDS))
        tables["bench-federated-rounds"] = end_to_end_table(found["end to end"])
    print("\n".join(tables.values()))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if args.write:
        for name, text in tables.items():
            pages.put(args.write, name, text)


if __name__ == "__main__":
    main()
