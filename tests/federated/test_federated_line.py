"""Carriers through a hospital's proxy on a bad line, in one process."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from bad_line import BadLine
from federated_network import EchoSite, Network, agree, coordinator, replace_round, running, train

from meninx.federated import mailbox as short_messages
from meninx.federated.messages import Agreed, Done, Recompute, Uploaded


def wait_until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


def study_behind(
    stack: ExitStack, line: BadLine, folder: Path, patch: pytest.MonkeyPatch, *, mailbox: bool = True
):
    """Return the server and its sites, which reach it through the proxy."""
    network = Network(folder, mailbox=mailbox)
    server = stack.enter_context(coordinator(network.coordinator_setup()))
    for name, value in line.environment.items():
        patch.setenv(name, value)
    sites = {name: EchoSite(name) for name in network.nodes}
    for name, site in sites.items():
        stack.enter_context(running(network.site_setup(name, server.port), site))
    wait_until(lambda: server.exchange.present() == set(sites))
    return server, sites


@pytest.mark.parametrize(
    "mailbox", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["mailbox", "flower alone"]
)
def test_every_connection_goes_through_the_proxy(
    tmp_path: Path, patch: pytest.MonkeyPatch, mailbox: bool
) -> None:
    with BadLine(delay=0.02) as line, ExitStack() as stack:
        server, sites = study_behind(stack, line, tmp_path, patch, mailbox=mailbox)
        assert set(server.exchange.ask(dict.fromkeys(sites, agree()), within=20)) == set(sites)
        assert set(server.exchange.ask(dict.fromkeys(sites, train(b"model")), within=20)) == set(sites)
        assert set(line.calls) == {f"127.0.0.1:{server.port}"}


@pytest.mark.parametrize(
    "mailbox", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["mailbox", "flower alone"]
)
@pytest.mark.parametrize(
    "moment",
    [
        "before",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("while it works", "while it uploads")),
    ],
)
def test_a_cut_loses_no_message_and_repeats_no_work(
    tmp_path: Path, patch: pytest.MonkeyPatch, mailbox: bool, moment: str
) -> None:
    model = os.urandom(1_000_000)
    with BadLine(delay=0.01, bits_per_second=40e6) as line, ExitStack() as stack:
        server, sites = study_behind(stack, line, tmp_path, patch, mailbox=mailbox)
        if moment == "before":
            line.cut(1.0)
        elif moment == "while it works":
            sites["east"].work = lambda request: line.cut(1.0)
        else:
            sites["east"].work = lambda request: threading.Timer(0.15, line.cut, (1.0,)).start()
        replies = server.exchange.ask(dict.fromkeys(sites, train(model)), within=25)
        assert {name: reply.upload == model for name, reply in replies.items()} == {
            "east": True,
            "north": True,
        }
        assert [len(site.asked) for site in sites.values()] == [1, 1]
        replies = server.exchange.ask(dict.fromkeys(sites, agree(1)), within=30)
        assert replies == {name: Agreed(site=name, agreement=b"1") for name in sites}


@pytest.mark.slow
def test_ten_rounds_on_a_bad_line_with_a_cut_of_thirty_seconds_end_with_all_sites(
    tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    model = os.urandom(400_000)
    with BadLine(delay=0.05, bits_per_second=10e6) as line, ExitStack() as stack:
        server, sites = study_behind(stack, line, tmp_path, patch)
        for number in range(10):
            if number in (2, 6):
                threading.Timer(0.3, line.cut, (30.0,)).start()
            replies = server.exchange.ask(dict.fromkeys(sites, train(model, number)), within=120)
            assert {name for name, reply in replies.items() if isinstance(reply, Uploaded)} == set(sites)
            assert set(server.exchange.ask(dict.fromkeys(sites, agree(number)), within=60)) == set(sites)


@pytest.mark.slow
def test_a_site_that_receives_a_long_request_over_a_slow_line_is_not_gone(
    tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    patch.setattr(short_messages, "_PRESENT", 1.0)
    with BadLine(delay=0.02, bits_per_second=4e6) as line, ExitStack() as stack:
        server, sites = study_behind(stack, line, tmp_path, patch)
        server.exchange._grace = 3.0
        request = Recompute(at=replace_round(0), transcript=os.urandom(2_000_000), total=b"")
        began = time.monotonic()
        replies = server.exchange.ask(dict.fromkeys(sites, request), within=60)
        assert replies == {name: Done(site=name) for name in sites}
        assert time.monotonic() - began > 4.5  # longer than a site that is gone is waited for


@pytest.mark.parametrize(
    ("mailbox", "grace"),
    [(True, 1.5), pytest.param(False, 16.5, marks=pytest.mark.slow)],
    ids=["mailbox", "flower alone"],
)
def test_a_site_that_is_gone_costs_the_grace_time_and_not_more(
    tmp_path: Path, patch: pytest.MonkeyPatch, mailbox: bool, grace: float
) -> None:
    network = Network(tmp_path, mailbox=mailbox)
    with coordinator(network.coordinator_setup()) as server, ExitStack() as stack:
        server.exchange._grace = grace  # without the mailbox Flower notices after up to 20 s of it
        east = EchoSite("east")
        stack.enter_context(running(network.site_setup("east", server.port), east))
        with running(network.site_setup("north", server.port), EchoSite("north")):
            wait_until(lambda: len(server.exchange.present()) == 2)
        wait_until(lambda: server.exchange.present() == {"east"})
        began = time.monotonic()
        replies = server.exchange.ask({"east": train(b"m"), "north": train(b"m")}, within=600)
        assert set(replies) == {"east"}
        assert time.monotonic() - began < 6
