"""What the coordinator's listener lets through: an allow-list of routes, POST only, bounded bodies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BODY_SECONDS = 120.0  # in which a body has to arrive
_PART_SECONDS = 45.0  # in which the next part of a body has to arrive
_CALLS = 96  # open at once from one address, behind which several sites may be
_HELD, _HELD_OF_ONE = 512 << 20, 128 << 20  # bytes of unchecked bodies, in all and of one address


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
