"""The listener answers its reader while others hold as many connections as they can."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("uvicorn")

from starlette.requests import Request
from starlette.responses import PlainTextResponse

from meninx.serving import http_listener
from meninx.serving.http_listener import Listener

HALF = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: "
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40000\r\n\r\n"


async def echo(scope, receive, send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(f"{len(body)}")(scope, receive, send)


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener(echo, "127.0.0.1", 0)
    listener.start()
    yield listener
    listener.stop()


def connected(listener: Listener, content: bytes) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", listener.port), timeout=5)
    made.sendall(content)
    return made


def answer(listener: Listener, body: bytes | None = None) -> tuple[int, bytes]:
    """Return what the page's reader gets, within two seconds."""
    line = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=2)
    line.request("GET" if body is None else "POST", "/", body)
    response = line.getresponse()
    found = response.status, response.read()
    line.close()
    return found


def is_closed(one: socket.socket, seconds: float) -> bool:
    one.settimeout(seconds)
    try:
        return one.recv(100) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_the_reader_is_served_beside_hundreds_of_half_finished_requests(listener: Listener) -> None:
    others = [connected(listener, HALF) for _ in range(300)]
    try:
        assert answer(listener) == (200, b"0")
        assert answer(listener, b"x" * 1000) == (200, b"1000")
        assert sum(is_closed(one, 0.2) for one in others[:20]) == 20
        assert not is_closed(others[-1], 0.01)
    finally:
        for one in others:
            one.close()


def test_connections_that_idle_after_a_request_make_room_too(listener: Listener) -> None:
    others = [connected(listener, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") for _ in range(300)]
    try:
        assert answer(listener) == (200, b"0")
    finally:
        for one in others:
            one.close()


@pytest.mark.parametrize("before", [b"", HALF, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + HALF, POST])
def test_what_does_not_arrive_in_time_is_closed(listener: Listener, monkeypatch, before: bytes) -> None:
    monkeypatch.setattr(http_listener, "HEADER_SECONDS", 0.4)
    monkeypatch.setattr(http_listener, "BODY_SECONDS", 0.4)
    one, start = connected(listener, before), time.monotonic()
    try:
        if before.startswith(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            assert b"200 OK" in one.recv(1000)
        while time.monotonic() < start + 2:  # a byte now and then does not move the deadline
            if is_closed(one, 0.1):
                break
            one.sendall(b"x" if before else b"")
        assert 0.3 < time.monotonic() - start < 1.5
    except ConnectionError:
        assert 0.3 < time.monotonic() - start < 1.5
    finally:
        one.close()


def test_a_body_that_keeps_coming_may_take_longer(listener: Listener, monkeypatch) -> None:
    monkeypatch.setattr(http_listener, "BODY_SECONDS", 0.3)
    one = connected(listener, POST)
    try:
        for _ in range(8):
            time.sleep(0.1)
            one.sendall(b"x" * 5000)
        assert b"200 OK" in one.recv(1000)
    finally:
        one.close()
