"""One ASGI application in a thread: plain HTTP on loopback, TLS elsewhere."""

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

_CONNECTIONS = 256  # at most
_START_SECONDS = 30.0


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
