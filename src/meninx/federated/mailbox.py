"""Mailbox: short messages between the coordinator and its sites in milliseconds, by long polling.

A site keeps one call open (``poll``), which the coordinator answers as soon as it has a request for the site,
and posts its reply in another call (``reply``). Both bodies are envelopes (:mod:`.envelope`). A request stays
in the mailbox until its reply is there, and each poll names the requests that the site already has, so a lost
answer is delivered again. Requests that are too large for it lie in Flower's store; the mailbox then tells
the site that something lies there.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import httpx
import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from meninx.core.errors import DataError, problem
from meninx.federated.envelope import COORDINATOR, Envelope, EnvelopeRefused, Signer
from meninx.federated.line import line_error

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

StructT = TypeVar("StructT", bound=msgspec.Struct)

POLL, REPLY, WELCOME = "/v1/meninx/poll", "/v1/meninx/reply", "/v1/meninx/welcome"
REFUSAL = "/v1/meninx/refusal"
LONGEST_REFUSAL = 4096  # bytes of the reason for which a site does not take part
SMALL = 8 << 20  # bytes of a reply that the mailbox carries, at most
BRIEF = (
    1 << 17
)  # bytes of a request that it carries: a site that receives one does not poll, and counts as gone
ENVELOPE = SMALL + (1 << 16)  # bytes of such a body with its label and notice
_HOLD = 20.0  # seconds for which a poll is held; proxies cut a silent connection after 60
_PRESENT = 10.0  # seconds after the last sign of a site for which it counts as connected
_MEDIA = "application/octet-stream"


class Poll(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a site says when it polls.

    Attributes:
        held: labels of the requests that it has and has not answered.
        leaving: the site stops; the coordinator answers at once.
    """

    held: tuple[str, ...] = ()
    leaving: bool = False


class Delivery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the coordinator answers to a poll.

    Attributes:
        label: label of a request; empty if there is none.
        request: its bytes; empty if it lies in Flower's store.
        notice: news about the other sites; None if there are none.
    """

    label: str = ""
    request: bytes = b""
    notice: Presence | None = None


class Welcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a site fetches before anything else.

    Attributes:
        terms: the roster that all sites signed.
        node: number of the site's node in Flower.
        mailbox: whether short requests travel through the mailbox.
    """

    terms: bytes
    node: int
    mailbox: bool = True


class Presence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the coordinator tells its sites about each other.

    Attributes:
        connected: sites that are connected.
        ended: this run of the study is over; a site may stop.
        failed: it gave no model to release; somebody has to resume it.
    """

    connected: tuple[str, ...] = ()
    ended: bool = False
    failed: bool = False


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A site's reply to the request with this label."""

    label: str
    reply: bytes


_ENCODE = msgspec.msgpack.encode


@dataclass
class _Box:
    """What the mailbox knows about one site."""

    requests: dict[str, bytes] = field(
        default_factory=dict
    )  # label -> bytes, empty where Flower carries them
    shown: Presence | None = None  # what the site knows
    seen: float = field(default_factory=time.monotonic)  # time of the last sign of the site
    polls: int = 0  # number of the newest poll
    open: bool = False  # the newest poll is held now
    closed: bool = True  # the site has not called yet, or its last connection was closed
    wake: asyncio.Event | None = None


class Mailbox:
    """The coordinator's end: keeps requests until they are answered."""

    def __init__(
        self,
        signer: Signer,
        answered: Callable[[str, str, bytes], None],
        welcome: Callable[[str], Welcome],
        *,
        refused: Callable[[str, str], None] = lambda site, reason: None,
        hold: float = _HOLD,
    ) -> None:
        """Start empty.

        Args:
            signer: the coordinator's, with the keys of the sites.
            answered: called with site, label and reply when a reply arrives, from a thread of the server.
            welcome: called with a site for what the site fetches before anything else.
            refused: called with site and reason when a site does not take part, from the server's thread.
            hold: seconds for which a poll is held.
        """
        self._signer, self._answered, self._welcome, self._hold = signer, answered, welcome, hold
        self._refused = refused
        self._boxes: dict[str, _Box] = {}
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = False
        self._notice: Presence | None = None

    def post(self, site: str, label: str, request: bytes) -> None:
        """Offer a request to a site; no bytes if it lies in Flower's store."""
        with self._lock:
            self._box(site).requests[label] = request
        self._wake(site)

    def withdraw(self, site: str, label: str) -> None:
        """Take a request out."""
        with self._lock:
            self._box(site).requests.pop(label, None)

    def announce(self, notice: Presence) -> None:
        """Tell all sites; a later notice replaces this one."""
        self._notice = notice
        for site in list(self._boxes):
            self._wake(site)

    def close(self) -> None:
        """Answer the open polls, so that the listener can stop."""
        self._ending = True
        for site in list(self._boxes):
            self._wake(site)

    def absent_for(self, site: str) -> float:
        """Return seconds since the last sign of a site; 0 while it is connected."""
        with self._lock:
            box = self._box(site)
            silent = time.monotonic() - box.seen
            connected = box.open or (not box.closed and silent < _PRESENT)
            return 0.0 if connected else max(silent, 1e-3)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call of a site (ASGI)."""
        self._loop = asyncio.get_running_loop()
        request = Request(scope, receive)
        body = await request.body()
        try:
            response: Response
            if self._ending:
                response = PlainTextResponse("the coordinator is stopping", status_code=503)
            elif scope["path"] == POLL:
                response = await self._poll(body, request)
            elif scope["path"] == WELCOME:
                envelope = self._signer.open(body, purpose="hello", limit=0)
                response = self._sealed(envelope, "welcome", _ENCODE(self._welcome(envelope.sender)))
            elif scope["path"] == REFUSAL:
                envelope = self._signer.open(body, purpose="refusal", limit=LONGEST_REFUSAL)
                self._refused(envelope.sender, envelope.body.decode("utf-8", "replace"))
                response = self._sealed(envelope, "receipt", b"")
            else:
                response = await run_in_threadpool(self._reply, body)
        except EnvelopeRefused as error:
            response = PlainTextResponse(str(error), status_code=401)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            response = PlainTextResponse("the body is not one of meninx", status_code=400)
        await response(scope, receive, send)

    async def _poll(self, body: bytes, request: Request) -> Response:
        envelope = self._signer.open(body, purpose="poll", limit=1 << 16)
        said = msgspec.msgpack.decode(envelope.body, type=Poll)
        site = envelope.sender
        with self._lock:
            box = self._box(site)
            if box.wake is not None:
                box.wake.set()  # an older poll, whose line broke, ends
            box.wake, box.open, box.closed = asyncio.Event(), True, False
            box.polls += 1
            number = box.polls
        delivery: Delivery | None = Delivery() if said.leaving else None
        try:
            if delivery is None:
                delivery = await self._waited(box, number, frozenset(said.held), request)
        finally:
            with self._lock:
                if box.polls == number:
                    box.open, box.wake, box.seen = False, None, time.monotonic()
                    box.closed = said.leaving or delivery is None
        if delivery is None:
            return Response(status_code=204)  # nobody reads it
        return self._sealed(envelope, "delivery", _ENCODE(delivery))

    async def _waited(
        self, box: _Box, number: int, held: frozenset[str], request: Request
    ) -> Delivery | None:
        """Return what there is for a site, nothing after the time, None if its connection closed."""
        end = time.monotonic() + self._hold
        closed = asyncio.ensure_future(_closed(request))
        try:
            while True:
                with self._lock:
                    wake = box.wake
                    if box.polls != number or wake is None:
                        return Delivery()
                    wake.clear()
                    found = self._next(box, held)
                left = end - time.monotonic()
                if found is not None or left <= 0 or self._ending:
                    return found or Delivery()
                waiting = asyncio.ensure_future(wake.wait())
                await asyncio.wait({waiting, closed}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if closed.done():
                    return None
        finally:
            closed.cancel()

    def _next(self, box: _Box, held: frozenset[str]) -> Delivery | None:
        news = self._notice if self._notice != box.shown else None
        box.shown = self._notice
        for label, request in box.requests.items():
            if label not in held:
                return Delivery(label, request, news)
        return None if news is None else Delivery(notice=news)

    def _reply(self, body: bytes) -> Response:
        envelope = self._signer.open(body, purpose="reply", limit=ENVELOPE)
        answer = msgspec.msgpack.decode(envelope.body, type=Answer)
        with self._lock:
            box = self._box(envelope.sender)
            box.seen = time.monotonic()
            asked = box.requests.pop(answer.label, None) is not None
        if asked:
            self._answered(envelope.sender, answer.label, answer.reply)
        return self._sealed(envelope, "receipt", b"")

    def _sealed(self, asked: Envelope, purpose: str, body: bytes) -> Response:
        sealed = self._signer.seal(asked.sender, purpose, body, answers=asked.nonce)
        return Response(sealed, media_type=_MEDIA)

    def _box(self, site: str) -> _Box:
        return self._boxes.setdefault(site, _Box())

    def _wake(self, site: str) -> None:
        with self._lock:
            wake = self._box(site).wake
        if wake is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(wake.set)


class MailboxClient:
    """The site's end."""

    def __init__(self, signer: Signer, address: str, line: httpx.Client, *, hold: float = _HOLD) -> None:
        """Prepare; nothing is sent yet.

        Args:
            signer: the site's, with the coordinator's key.
            address: ``host:port`` of the coordinator.
            line: the connection (:func:`.line.open_line`).
            hold: seconds for which the coordinator holds a poll.
        """
        self._signer, self._line, self._hold = signer, line, hold
        self._base = f"https://{address}"

    def poll(self, held: tuple[str, ...] = ()) -> Delivery:
        """Return what the coordinator has for this site, after at most the time of a poll.

        Raises:
            Unreachable: the line broke; poll again.
            NotAdmitted: one end does not accept the other.
            EnvelopeRefused: the answer is not the coordinator's.
        """
        body = self._call(POLL, "poll", _ENCODE(Poll(held)), "delivery", timeout=self._hold + 10)
        return _decoded(body, Delivery) if body else Delivery()

    def reply(self, label: str, reply: bytes) -> None:
        """Send the reply to a request; the errors are those of :meth:`poll`."""
        self._call(REPLY, "reply", _ENCODE(Answer(label, reply)), "receipt", timeout=30.0)

    def welcome(self) -> Welcome:
        """Return what a site fetches before anything else; the errors are those of :meth:`poll`."""
        return _decoded(self._call(WELCOME, "hello", b"", "welcome", timeout=30.0), Welcome)

    def refuse(self, reason: str) -> None:
        """Tell the coordinator why this site does not take part; the errors are those of :meth:`poll`."""
        body = reason.encode("utf-8", "replace")[:LONGEST_REFUSAL]
        self._call(REFUSAL, "refusal", body, "receipt", timeout=10.0)

    def leave(self) -> None:
        """Tell the coordinator that this site stops, which ends the poll of another thread."""
        with suppress(DataError):
            self._call(POLL, "poll", _ENCODE(Poll(leaving=True)), "delivery", timeout=2.0)

    def close(self) -> None:
        """Close the line."""
        self._line.close()

    def _call(self, route: str, purpose: str, body: bytes, answer: str, *, timeout: float) -> bytes:
        sealed, nonce = self._signer.sealed(COORDINATOR, purpose, body)
        try:
            response = self._line.post(
                self._base + route, content=sealed, timeout=timeout, headers={"content-type": _MEDIA}
            )
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise line_error(error) from error
        if response.status_code == 204:
            return b""
        return self._signer.open(response.content, purpose=answer, answers=nonce, limit=ENVELOPE).body


async def _closed(request: Request) -> None:
    """Return when the other end has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _decoded(body: bytes, kind: type[StructT]) -> StructT:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(problem("the coordinator's answer is not one of meninx", where="mailbox")) from error
