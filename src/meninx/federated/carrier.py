"""Carriers of a study: they bring requests to sites in other processes, and replies back.

Short requests travel through the mailbox in milliseconds, long ones (models, updates) through Flower. Without
the mailbox everything travels through Flower. Both ends repeat what was lost: a request keeps its label when
it is sent again, and a site answers a label that it knows with the reply that it has.
"""

from __future__ import annotations

import collections
import queue
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from meninx.core.errors import DataError, Interrupted, MeninxError, UsageError, expected, problem
from meninx.federated.envelope import COORDINATOR, EnvelopeRefused, Signer
from meninx.federated.exchange import Site
from meninx.federated.flower import LOST_SECONDS, Arrival, FlowerLink, FlowerNode, StudyDiffers
from meninx.federated.line import NotAdmitted, Unreachable
from meninx.federated.mailbox import BRIEF, SMALL, Delivery, Mailbox, MailboxClient, Presence, Welcome
from meninx.federated.messages import (
    LIMIT,
    Declined,
    Reply,
    Request,
    Train,
    decode_reply,
    decode_request,
    encode,
)

ResultT = TypeVar("ResultT")

GRACE = (
    45.0  # seconds of absence after which the coordinator no longer waits for a site; a line is cut for 30
)
_LOOK = 0.1  # seconds between two looks at Flower's store while a long reply is awaited
_ENVELOPES = 1024  # bytes around a message
_SLOW, _QUICK = 1.0, 0.2  # seconds between two calls of a node without the mailbox: idle, and after a message
_LIVELY = 5.0  # seconds for which a node calls quickly after a message
_FETCHING = 15.0  # seconds after which a site asks again for a message that lies in Flower's store
_BACKOFF = (0.5, 8.0)  # seconds before a broken line is tried again: first and longest
_HEARTBEAT = 5.0  # seconds between two heartbeats of a node; Flower tolerates LOST_SECONDS
_ENDING = 3.0  # seconds in which a loop has to end
_REMEMBERED = 2  # replies that a site keeps for repeated requests


@dataclass
class _Asked:
    """A request that has no reply yet.

    Attributes:
        activation: of the site's node when Flower got the message; a later one means that it may be lost.
        absent_since: monotonic time, None while the site is connected (without the mailbox).
    """

    site: str
    data: bytes
    by_flower: bool
    activation: str | None = None
    absent_since: float | None = None


class StudyExchange:
    """The coordinator's end: an :class:`.exchange.Exchange` for sites in other processes."""

    def __init__(
        self,
        signer: Signer,
        link: FlowerLink,
        sites: Collection[str],
        *,
        terms: bytes = b"",
        mailbox: bool = True,
        grace: float = GRACE,
    ) -> None:
        """Start with nothing asked.

        Args:
            signer: the coordinator's, with the keys of the sites.
            link: Flower's SuperLink, in which the sites are enrolled.
            sites: enrolled sites.
            terms: what a site fetches before anything else.
            mailbox: whether short requests travel through the mailbox.
            grace: seconds of absence after which a site is no longer waited for.
        """
        self.mailbox = Mailbox(
            signer,
            self._answered,
            lambda site: Welcome(terms, link.number(site), mailbox),
            refused=self._note_refusal,
        )
        self._refusals: dict[str, str] = {}
        self._signer, self._link, self._sites = signer, link, frozenset(sites)
        self._use_mailbox, self._grace = mailbox, grace
        self._replies: dict[str, bytes] = {}
        self._news = threading.Condition()

    def present(self) -> frozenset[str]:
        """Return the enrolled sites that are connected now."""
        if self._use_mailbox:
            return frozenset(site for site in self._sites if self.mailbox.absent_for(site) == 0)
        return self._sites & set(self._link.connected())

    def refusals(self) -> dict[str, str]:
        """Return site -> reason of the sites that did not take part since the last call."""
        with self._news:
            found, self._refusals = self._refusals, {}
        return found

    def ask(self, requests: Mapping[str, Request], *, within: float) -> Mapping[str, Reply]:
        """Return the replies that arrived within the time; a site that did not answer is absent.

        A site that is absent for longer than the grace time is not waited for.
        """
        unknown = sorted(set(requests) - self._sites)
        if unknown:
            raise UsageError(expected("enrolled sites", got=unknown, where="requests"))
        end = time.monotonic() + within
        asked = {secrets.token_hex(8): self._asked(site, request) for site, request in requests.items()}
        replies: dict[str, Reply] = {}
        try:
            for label, one in asked.items():
                self._offer(label, one, within)
            while len(replies) < len(requests) and (left := end - time.monotonic()) > 0:
                self._collect_from_flower(asked, left)
                with self._news:
                    for label in [label for label in asked if label in self._replies]:
                        site = asked.pop(label).site
                        replies[site] = _reply_of(site, self._replies.pop(label))
                for label in [label for label, one in asked.items() if self._given_up(one)]:
                    self._withdraw(label, asked.pop(label))
                if not asked:
                    break
                with self._news:
                    if not self._replies:
                        self._news.wait(min(left, _LOOK))
        finally:
            for label, one in asked.items():
                self._withdraw(label, one)
        return replies

    def _asked(self, site: str, request: Request) -> _Asked:
        data = encode(request)
        long = isinstance(request, Train) or len(data) > BRIEF  # the reply to Train is long
        return _Asked(site, data, long or not self._use_mailbox)

    def _offer(self, label: str, one: _Asked, within: float) -> None:
        if one.by_flower:
            self._send(label, one, within)
        if self._use_mailbox:
            self.mailbox.post(one.site, label, b"" if one.by_flower else one.data)

    def _send(self, label: str, one: _Asked, within: float) -> None:
        """Give a message to Flower; without success it is tried again when the site's node connects."""
        activation = self._link.connected().get(one.site)
        sealed = self._signer.seal(one.site, "request", one.data, valid=within)
        one.activation = activation if self._link.send(one.site, label, sealed, within=within) else None

    def _collect_from_flower(self, asked: Mapping[str, _Asked], left: float) -> None:
        waiting = {label: one for label, one in asked.items() if one.by_flower}
        if not waiting:
            return
        for arrival in self._link.arrivals():
            one = waiting.get(arrival.label)
            if one is None:
                continue
            if not arrival.data:
                one.activation = None  # Flower reports a lost node or message
                continue
            try:
                envelope = self._signer.open(arrival.data, purpose="answer", limit=LIMIT + _ENVELOPES)
            except EnvelopeRefused:
                continue
            if envelope.sender == one.site:
                self._answered(one.site, arrival.label, envelope.body)
        connected = self._link.connected()
        for label, one in waiting.items():
            now = connected.get(one.site)
            one.absent_since = (one.absent_since or time.monotonic()) if now is None else None
            if now is not None and now != one.activation and label not in self._replies:
                self._send(label, one, left)

    def _given_up(self, one: _Asked) -> bool:
        if self._use_mailbox:
            return self.mailbox.absent_for(one.site) > self._grace
        left = max(self._grace - LOST_SECONDS + _HEARTBEAT, 0.0)  # Flower itself waited for a sign before
        return one.absent_since is not None and time.monotonic() - one.absent_since > left

    def _withdraw(self, label: str, one: _Asked) -> None:
        if self._use_mailbox:
            self.mailbox.withdraw(one.site, label)
        if one.by_flower:
            self._link.forget({label})
        with self._news:
            self._replies.pop(label, None)

    def _note_refusal(self, site: str, reason: str) -> None:
        with self._news:
            self._refusals[site] = reason

    def _answered(self, site: str, label: str, reply: bytes) -> None:
        with self._news:
            self._replies[label] = reply
            self._news.notify_all()


def _reply_of(site: str, data: bytes) -> Reply:
    """Return a site's reply; what is not one, or is another site's, counts as a refusal."""
    try:
        reply = decode_reply(data)
    except DataError as error:
        return Declined(site=site, reason=str(error), code=error.exit_code)
    if reply.site != site:
        return Declined(site=site, reason="its reply names another site", code=DataError.exit_code)
    return reply


@dataclass(frozen=True)
class _Work:
    """A request that arrived at a site.

    Attributes:
        arrival: Flower's message, None if it came through the mailbox.
    """

    label: str
    data: bytes
    arrival: Arrival | None


class SiteCarrier:
    """The site's end: fetches requests, has them handled one at a time and sends the replies."""

    def __init__(
        self,
        site: Site,
        signer: Signer,
        node: FlowerNode,
        mailbox: MailboxClient | None,
        *,
        notice: Callable[[Presence], None] = lambda notice: None,
        broken: Callable[[Unreachable], None] = lambda error: None,
    ) -> None:
        """Prepare; nothing is sent before :meth:`run`.

        Args:
            site: handles the requests.
            signer: the site's, with the coordinator's key.
            node: the site's node of Flower.
            mailbox: None where the coordinator does without it.
            notice: called with news about the other sites.
            broken: called after each attempt to reach the coordinator that failed.
        """
        self._broken_line = broken
        self._site, self._signer, self._node, self._mailbox, self._notice = (
            site,
            signer,
            node,
            mailbox,
            notice,
        )
        self._work: queue.Queue[_Work | None] = queue.Queue()
        self._held: set[str] = set()
        self._fetching: dict[str, float] = {}
        self._replies: collections.OrderedDict[str, bytes] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._fetch, self._stopping = threading.Event(), threading.Event()
        self._broken = threading.Event()  # the node has to connect again
        self._failure: Exception | None = None

    def run(self) -> None:
        """Serve until :meth:`stop`.

        Raises:
            NotAdmitted, EnvelopeRefused: one end does not accept the other.
        """
        threads: list[threading.Thread] = []
        try:
            persistently(self._node.connect, self._stopping, self._broken_line)
            loops = [self._node_loop, self._heartbeat_loop]
            if self._mailbox is not None:
                loops.append(self._mailbox_loop)
            threads = [threading.Thread(target=self._guarded, args=(loop,), daemon=True) for loop in loops]
            for thread in threads:
                thread.start()
            while not self._stopping.is_set():
                work = self._work.get()
                if work is not None:
                    self._serve(work)
        except Interrupted:
            if not self._stopping.is_set():
                raise
        finally:
            self.stop()
            self._close(threads)
        if self._failure is not None:
            raise self._failure

    def _close(self, threads: Sequence[threading.Thread]) -> None:
        if threads and self._mailbox is not None:
            self._mailbox.leave()
        for thread in threads:
            thread.join(_ENDING)
        self._node.close()

    def stop(self) -> None:
        """Make :meth:`run` return after the request that is being handled."""
        self._stopping.set()
        self._fetch.set()
        self._work.put(None)

    def _serve(self, work: _Work) -> None:
        reply = self._replies.get(work.label)
        if reply is None:
            reply = self._handled(work.data)
            self._replies[work.label] = reply
            while len(self._replies) > _REMEMBERED:
                self._replies.popitem(last=False)
        persistently(lambda: self._send(work, reply), self._stopping)
        with self._lock:
            self._held.discard(work.label)

    def _handled(self, data: bytes) -> bytes:
        try:
            return encode(self._site.handle(decode_request(data)))
        except Interrupted:
            raise  # the user stops this site
        except MeninxError as error:
            return encode(Declined(site=self._site.name, reason=str(error), code=error.exit_code))
        except Exception as error:  # a bug at one site must not end the others' study, nor send a traceback
            reason = f"an unexpected error at the site ({type(error).__name__})"
            return encode(Declined(site=self._site.name, reason=reason, code=1))

    def _send(self, work: _Work, reply: bytes) -> None:
        if (
            self._mailbox is not None
            and len(reply) <= SMALL
            and (work.arrival is None or len(reply) < 1 << 16)
        ):
            self._mailbox.reply(work.label, reply)
            return
        if work.arrival is None:
            raise DataError(
                expected(f"a reply of at most {SMALL:,} bytes", got=f"{len(reply):,}", where="mailbox")
            )
        try:
            self._node.reply(work.arrival, self._signer.seal(COORDINATOR, "answer", reply, valid=3600.0))
        except Unreachable:
            with self._lock:
                self._fetching[work.label] = time.monotonic()
            self._broken.set()  # the coordinator sends the request again when the node is back
            self._fetch.set()

    def _mailbox_loop(self) -> None:
        while not self._stopping.is_set():
            delivery = persistently(self._poll, self._stopping, self._broken_line)
            if delivery.notice is not None:
                self._notice(delivery.notice)
            if not delivery.label:
                continue
            if delivery.request:
                self._accept(_Work(delivery.label, delivery.request, None))
            else:
                with self._lock:
                    self._fetching[delivery.label] = time.monotonic()
                self._fetch.set()

    def _poll(self) -> Delivery:
        assert self._mailbox is not None
        now = time.monotonic()
        with self._lock:
            fetching = [label for label, since in self._fetching.items() if now - since < _FETCHING]
            held = (*sorted(self._held), *fetching)
        return self._mailbox.poll(held)

    def _node_loop(self) -> None:
        lively = 0.0
        while not self._stopping.is_set():
            if self._mailbox is None:
                self._fetch.wait(_QUICK if time.monotonic() < lively else _SLOW)
            else:
                self._fetch.wait()
            if self._stopping.is_set():
                return
            arrival = self._received()
            if arrival is not None:
                lively = time.monotonic() + _LIVELY
                continue
            with self._lock:
                old = time.monotonic() - _FETCHING
                self._fetching = {label: since for label, since in self._fetching.items() if since > old}
                if not self._fetching:
                    self._fetch.clear()
            if self._mailbox is not None:
                self._stopping.wait(_QUICK)

    def _received(self) -> Arrival | None:
        """Fetch one message from Flower and put it to the work."""
        try:
            if self._broken.is_set():
                self._node.connect()
                self._broken.clear()
            arrival = self._node.receive()
        except StudyDiffers as error:
            self._decline_study(error)
            return error.arrival
        except NotAdmitted:
            persistently(
                self._node.connect, self._stopping
            )  # the coordinator may have lost its state; else this fails too
            return None
        except Unreachable:
            self._broken.set()
            self._stopping.wait(_BACKOFF[0])
            return None
        except DataError:  # a damaged message is gone; the coordinator sends a request that is missing again
            return None
        if arrival is None:
            return None
        with self._lock:
            self._fetching.pop(arrival.label, None)
        try:
            envelope = self._signer.open(arrival.data, purpose="request", limit=LIMIT + _ENVELOPES)
        except EnvelopeRefused:  # stale, replayed or forged; the study goes on without it
            return arrival
        if envelope.sender == COORDINATOR:
            self._accept(_Work(arrival.label, envelope.body, arrival))
        return arrival

    def _decline_study(self, error: StudyDiffers) -> None:
        refused = encode(Declined(site=self._site.name, reason=str(error), code=error.exit_code, final=True))
        with self._lock:
            self._fetching.pop(error.arrival.label, None)
        persistently(
            lambda: self._send(_Work(error.arrival.label, b"", error.arrival), refused), self._stopping
        )

    def _accept(self, work: _Work) -> None:
        with self._lock:
            self._held.add(work.label)
        self._work.put(work)

    def _heartbeat_loop(self) -> None:
        while not self._stopping.wait(_HEARTBEAT):
            try:
                self._node.beat()
            except (Unreachable, NotAdmitted):
                self._broken.set()
                self._fetch.set()

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except Interrupted:
            return
        except Exception as error:  # whatever ends a loop ends the process
            self._failure = error
            self.stop()


def persistently(
    call: Callable[[], ResultT],
    stopping: threading.Event,
    broken: Callable[[Unreachable], None] = lambda error: None,
) -> ResultT:
    """Return what a call returns, tried again while the line is broken.

    Args:
        call: what is tried.
        stopping: ends the attempts.
        broken: called after each attempt that failed.

    Raises:
        Interrupted: the event was set.
    """
    pause, longest = _BACKOFF
    while not stopping.is_set():
        try:
            return call()
        except Unreachable as error:
            broken(error)
            stopping.wait(pause)
            pause = min(2 * pause, longest)
    raise Interrupted(problem("stopped while the line was broken"))
