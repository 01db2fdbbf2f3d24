"""The coordinator's public listener: TLS, an allow-list of routes, POST only, bounded bodies."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from meninx.core.errors import StorageError, UsageError, problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BODY_SECONDS = 120.0  # in which a body has to arrive
_PART_SECONDS = 45.0  # in which the next part of a body has to arrive
_CONNECTIONS = 256  # at most
_CALLS = 96  # open at once from one address, behind which several sites may be
_HELD, _HELD_OF_ONE = 512 << 20, 128 << 20  # bytes of unchecked bodies, in all and of one address
_START_SECONDS = 30.0


class AllowList:
    """An ASGI application that passes on the listed routes and answers 404 to everything else.

    Guarantee: no application sees a request whose path is not listed for it, whose method is not POST, or
        whose body is longer than its limit or arrives too slowly. One address has a bounded number of open
        calls, and the bodies whose signature is not checked yet have a bounded length in all and per address.
    """

    def __init__(self, routes: Mapping[str, tuple[ASGIApp, int]]) -> None:
        """Take the application and the limit in bytes by exact path."""
        self._routes = dict(routes)
        self._load = _Load()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        app, limit = self._routes.get(scope["path"], (None, 0))
        if app is None or scope["method"] != "POST":
            await _answer(send, 404)
            return
        address = (scope.get("client") or ("", 0))[0]
        with self._load.call(address) as allowed:
            if not allowed:
                await _answer(send, 503)
                return
            await self._passed(app, limit, address, scope, receive, send)

    async def _passed(
        self, app: ASGIApp, limit: int, address: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Pass on a request whose body is within all limits."""
        with self._load.body(address) as taken:
            try:
                body = await asyncio.wait_for(_body(receive, limit, taken), _BODY_SECONDS)
            except TimeoutError:
                await _answer(send, 408)
                return
            except _TooMuch as error:
                await _answer(send, error.status)
                return
        first = True

        async def replay() -> Message:
            nonlocal first
            if first:
                first = False
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        await app(scope, replay, send)


class _TooMuch(Exception):
    """A body that is not taken.

    Attributes:
        status: of the answer.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Load:
    """Open calls and bytes of bodies that arrive, in all and by address."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    @contextmanager
    def call(self, address: str) -> Iterator[bool]:
        """Count a call for a block, and yield whether its address may have one more."""
        self._calls[address] += 1
        try:
            yield self._calls[address] <= _CALLS
        finally:
            self._calls[address] -= 1
            self._calls += Counter()  # forgets what is 0

    @contextmanager
    def body(self, address: str) -> Iterator[Callable[[int], None]]:
        """Yield a function that counts bytes of a body for a block; it raises _TooMuch beyond the limits."""
        held = 0

        def taken(count: int) -> None:
            nonlocal held
            held += count
            self._bytes[address] += count
            if self._bytes[address] > _HELD_OF_ONE or self._bytes.total() > _HELD:
                raise _TooMuch(503)

        try:
            yield taken
        finally:
            self._bytes[address] -= held
            self._bytes += Counter()


async def _body(receive: Receive, limit: int, taken: Callable[[int], None]) -> bytes:
    """Return a whole body.

    Raises:
        TimeoutError: a part of it did not arrive in time.
        _TooMuch: it is longer than the limit, or was cut off, or there are too many bodies.
    """
    parts, size, more = [], 0, True
    while more:
        message = await asyncio.wait_for(receive(), _PART_SECONDS)
        if message["type"] == "http.disconnect":
            raise _TooMuch(413)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > limit:
            raise _TooMuch(413)
        taken(len(parts[-1]))
    return b"".join(parts)


async def _answer(send: Send, status: int) -> None:
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


class Listener:
    """Serves one ASGI application from a thread of this process."""

    def __init__(
        self, app: ASGIApp, host: str, port: int, *, certificate: Path | None = None, key: Path | None = None
    ) -> None:
        """Bind the address at once, so that an occupied port is an error here.

        Args:
            app: what is served; its lifespan is not used.
            host: address to bind.
            port: 0 for a free one, see :attr:`port`.
            certificate: PEM file of the TLS certificate; None for plain HTTP, which only loopback may use.
            key: PEM file of its private key.

        Raises:
            UsageError: the address is not free, or plain HTTP was asked for beyond loopback.
        """
        if certificate is None and host not in ("127.0.0.1", "::1"):
            raise UsageError(problem("only a listener on loopback may do without TLS", where=host))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(
            family, socket.SOCK_STREAM, socket.IPPROTO_TCP
        )  # so that asyncio sends at once
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise UsageError(
                problem(
                    f"the address {host}:{port} is not free ({error.strerror})",
                    where="listener",
                    fix="end the program that has it, or give another one by --port or --host",
                )
            ) from error
        self.port: int = self._socket.getsockname()[1]
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # errors of meninx say the same
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            date_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        self._server = uvicorn.Server(config)
        self._failure = "no reason"
        self._thread = threading.Thread(target=self._serve, name=f"listener-{self.port}", daemon=True)

    def start(self) -> None:
        """Return when the listener answers.

        Raises:
            StorageError: it did not start, e.g. because of an unreadable certificate.
        """
        self._thread.start()
        end = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                raise StorageError(
                    problem(
                        f"the listener did not start ({self._failure})",
                        where=f"port {self.port}",
                        fix="check certificate and key",
                    )
                )
            time.sleep(0.01)

    def stop(self) -> None:
        """Close the listener and its connections."""
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._socket.close()

    def _serve(self) -> None:
        try:
            asyncio.run(self._until_stopped())
        except (OSError, ValueError) as error:  # an unreadable certificate or key; start() tells
            self._failure = type(error).__name__

    async def _until_stopped(self) -> None:
        await self._server.serve(sockets=[self._socket])
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()  # the other end did not close it in time
        await asyncio.sleep(0)
