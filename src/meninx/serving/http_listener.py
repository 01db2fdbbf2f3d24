"""One ASGI application in a thread: plain HTTP on loopback, TLS elsewhere.

Nobody can occupy the listener with requests that are never finished: header and body have deadlines, and
where one address or all of them together hold too many connections, the oldest one without a request in
progress is closed for a new one. On a machine of several accounts all of them come from one address, so a
limit that refused new connections would lock out the reader of a local page.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from meninx.core.errors import StorageError, UsageError, problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from uvicorn.protocols.http.h11_impl import H11Protocol as HttpProtocol
else:
    try:  # as uvicorn chooses
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as HttpProtocol
    except ImportError:
        from uvicorn.protocols.http.h11_impl import H11Protocol as HttpProtocol

CONNECTIONS, CONNECTIONS_OF_ONE = 256, 128  # at most, in all and from one address
HEADER_SECONDS, BODY_SECONDS = 10.0, 30.0  # until a header is complete; until a body is, beside its size
SLOWEST = 8192.0  # bytes of a body per second
_START_SECONDS = 30.0


class Connection(HttpProtocol):
    """One connection, which ends when a request does not arrive in time or its place is needed.

    uvicorn has neither a deadline for a request nor a choice of who has to go.
    """

    since = 0.0  # loop's time since which it is without a request
    _begun = 0.0  # loop's time at which the awaited part began
    _received = 0  # bytes of that part
    _timer: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether no request is in progress: none has come, or only a part of its header."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the place of an older connection where there are too many."""
        super().connection_made(transport)
        self.since = self.loop.time()
        _make_room(self)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Set the deadline of what is still missing, or forget it."""
        before = self.cycle
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.cycle is not before:
            self._cancel()
        if self.is_waiting or self.cycle.more_body:
            self._received += len(data)
            self._expect()
        else:
            self._cancel()

    def on_response_complete(self) -> None:
        """Note since when the connection is without a request."""
        self._cancel()
        self.since = self.loop.time()
        super().on_response_complete()

    def close_for_another(self) -> None:
        """End at once, and no longer be counted."""
        self.connections.discard(self)
        self.transport.abort()

    def _expect(self) -> None:
        if self._timer is None:
            self._begun, self._received = self.loop.time(), 0
            self._arm()

    def _arm(self) -> None:
        self._timer = self.loop.call_at(self._deadline(), self._check)

    def _deadline(self) -> float:
        if self.is_waiting:
            return self._begun + HEADER_SECONDS
        return self._begun + BODY_SECONDS + self._received / SLOWEST

    def _check(self) -> None:
        now = self.loop.time()
        if not self.is_waiting and self.flow.read_paused:  # the application is slow, not the other end
            self._begun = now
        if self._deadline() > now:
            self._arm()
        else:
            self.transport.abort()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _make_room(new: Connection) -> None:
    """Close those connections that wait longest until a new one is within the limits."""
    everybody = [one for one in new.connections if isinstance(one, Connection) and one is not new]
    same = [one for one in everybody if new.client and one.client and one.client[0] == new.client[0]]
    for group, most in ((same, CONNECTIONS_OF_ONE), (everybody, CONNECTIONS - 1)):
        present = [one for one in group if one in new.connections]
        waiting = sorted((one for one in present if one.is_waiting), key=lambda one: one.since)
        for one in waiting[: max(len(present) + 1 - most, 0)]:
            one.close_for_another()


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
            http=Connection,
            limit_concurrency=CONNECTIONS,
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
