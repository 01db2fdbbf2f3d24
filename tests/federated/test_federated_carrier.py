"""Carriers in one process: a coordinator behind TLS on loopback, sites in threads."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from federated_network import EchoSite, Network, agree, coordinator, running, train

from meninx.core.errors import DataError, UsageError
from meninx.federated import carrier
from meninx.federated.exchange import Exchange
from meninx.federated.messages import Agreed, Declined, Request, Uploaded


def wait_until(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


class Study:
    """A coordinator with two sites."""

    def __init__(self, stack: ExitStack, folder: Path, *, mailbox: bool = True) -> None:
        self.network = Network(folder, mailbox=mailbox)
        self.server = stack.enter_context(coordinator(self.network.coordinator_setup()))
        self.sites = {name: EchoSite(name) for name in self.network.nodes}
        self.exchange: Exchange = self.server.exchange
        for name, site in self.sites.items():
            stack.enter_context(running(self.network.site_setup(name, self.server.port), site))
        wait_until(lambda: self.exchange.present() == {"east", "north"})

    def ask(self, request: Request, within: float = 20.0) -> dict:
        return dict(self.exchange.ask(dict.fromkeys(self.sites, request), within=within))


@pytest.fixture(params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["mailbox", "flower alone"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Study]:
    with ExitStack() as stack:
        yield Study(stack, tmp_path, mailbox=request.param)


def test_short_and_long_messages_arrive_whole(study: Study) -> None:
    assert study.ask(agree(3)) == {name: Agreed(site=name, agreement=b"3") for name in study.sites}
    model = os.urandom(6_000_000)  # more than one object of Flower
    replies = study.ask(train(model, 1))
    assert {name: reply.upload == model for name, reply in replies.items()} == {"east": True, "north": True}


def test_errors_of_a_site_become_refusals_without_a_traceback(study: Study) -> None:
    def typed(request: Request) -> None:
        raise DataError("the dataset changed")

    def bug(request: Request) -> None:
        raise KeyError("patient 17")

    study.sites["east"].work, study.sites["north"].work = typed, bug
    replies = study.ask(agree())
    assert replies["east"] == Declined(site="east", reason="the dataset changed", code=3)
    assert replies["north"] == Declined(
        site="north", reason="an unexpected error at the site (KeyError)", code=1
    )


def test_a_site_that_is_too_slow_is_left_out_and_its_late_reply_is_not_taken_for_the_next(
    study: Study,
) -> None:
    free = threading.Event()
    study.sites["north"].work = lambda request: free.wait(10) and None
    began = time.monotonic()
    replies = study.ask(train(b"old"), within=3.0)
    assert set(replies) == {"east"}
    assert time.monotonic() - began < 5
    free.set()
    replies = study.ask(train(b"new", 1))
    assert {name: reply.upload for name, reply in replies.items()} == {"east": b"new", "north": b"new"}


def test_a_site_that_names_another_one_is_refused(study: Study) -> None:
    study.sites["north"].name = "east"
    reply = study.ask(agree())["north"]
    assert isinstance(reply, Declined)
    assert "another site" in reply.reason


def test_only_enrolled_sites_can_be_asked(study: Study) -> None:
    with pytest.raises(UsageError, match="west"):
        study.exchange.ask({"west": agree()}, within=1)


def test_a_site_refuses_a_run_of_another_study_and_the_coordinator_reads_why(tmp_path: Path) -> None:
    network = Network(tmp_path, ("east",))
    site = EchoSite("east")
    with (
        coordinator(network.coordinator_setup(digest="bad" * 20)) as server,
        running(network.site_setup("east", server.port), site),
    ):
        reply = server.exchange.ask({"east": train(b"model")}, within=10)["east"]
    assert isinstance(reply, Declined)
    assert reply.final
    assert "this site approved 'c0dec0dec0de'" in reply.reason
    assert site.asked == []


def test_the_quick_exchange_takes_milliseconds_and_the_long_one_less_than_flower_needs(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        study = Study(stack, tmp_path)
        quick, long = [], []
        for number in range(5):
            began = time.monotonic()
            study.ask(agree(number))
            quick.append(time.monotonic() - began)
            began = time.monotonic()
            assert all(
                isinstance(reply, Uploaded) for reply in study.ask(train(bytes(1000), number)).values()
            )
            long.append(time.monotonic() - began)
    assert sorted(quick)[2] < 0.2
    assert sorted(long)[2] < 3.0


def test_a_late_site_gets_what_waits_for_it(tmp_path: Path) -> None:
    network = Network(tmp_path)
    with coordinator(network.coordinator_setup()) as server, ExitStack() as stack:
        sites = {name: EchoSite(name) for name in network.nodes}

        def arrive() -> None:
            time.sleep(0.5)
            for name, site in sites.items():
                stack.enter_context(running(network.site_setup(name, server.port), site))

        threading.Thread(target=arrive).start()
        assert set(server.exchange.ask(dict.fromkeys(sites, train(b"model")), within=20)) == set(sites)


def test_a_site_learns_from_the_coordinator_how_messages_travel(tmp_path: Path) -> None:
    network = Network(tmp_path, ("east",), mailbox=False)
    with (
        coordinator(network.coordinator_setup()) as server,
        running(network.site_setup("east", server.port), EchoSite("east")),
    ):
        assert server.exchange.ask({"east": agree(3)}, within=15) == {
            "east": Agreed(site="east", agreement=b"3")
        }


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_a_site_follows_a_coordinator_that_is_started_again_in_the_other_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    monkeypatch.setattr(carrier, "_HEARTBEAT", 0.2)
    network = Network(tmp_path, ("east",))
    with ExitStack() as stack:
        with coordinator(network.coordinator_setup(mailbox=before)) as server:
            port = server.port
            stack.enter_context(running(network.site_setup("east", port), EchoSite("east")))
            assert set(server.exchange.ask({"east": agree(1)}, within=15)) == {"east"}
        with coordinator(network.coordinator_setup(mailbox=not before, port=port)) as server:
            assert set(server.exchange.ask({"east": agree(2)}, within=40)) == {"east"}
            assert set(server.exchange.ask({"east": train(b"model", 2)}, within=40)) == {"east"}
