"""The two ends of a study on the network: what a coordinator serves, and what a site connects to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meninx.core.errors import Interrupted
from meninx.federated import mailbox
from meninx.federated.carrier import SiteCarrier, StudyExchange, persistently
from meninx.federated.envelope import COORDINATOR, Signer
from meninx.federated.flower import FLEET_ROUTES, FlowerLink, FlowerNode
from meninx.federated.line import Unreachable, open_line
from meninx.federated.listener import AllowList
from meninx.serving.http_listener import Listener

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from starlette.types import ASGIApp

    from meninx.federated.exchange import Site

_HELLO_BODY = 4096  # bytes of a site's first call
_NOTE_AGAIN = 300.0  # seconds between two sentences about a coordinator that cannot be reached
_POLL_BODY = 1 << 17  # bytes of a call that waits for requests
_FLEET_BODY = 8 << 20  # bytes; Flower sends objects of 5 MB


@dataclass(frozen=True, kw_only=True)
class CoordinatorSetup:
    """What the coordinator's server needs.

    Attributes:
        study: name of the study.
        digest: of the study file.
        terms: what each site fetches before anything else: the roster that all sites signed.
        signing_key: the coordinator's key.
        signing_keys: enrolled keys of the sites, without revoked ones.
        node_keys: enrolled node keys of the same sites.
        certificate: TLS certificate, PEM file.
        certificate_key: its private key, PEM file.
        host: address of the public listener.
        port: 0 for a free one.
        mailbox: whether short requests travel through the mailbox; False for Flower alone.
    """

    study: str
    digest: str
    terms: bytes
    signing_key: Ed25519PrivateKey
    signing_keys: Mapping[str, Ed25519PublicKey]
    node_keys: Mapping[str, ec.EllipticCurvePublicKey]
    certificate: Path
    certificate_key: Path
    host: str
    port: int
    mailbox: bool = True


@dataclass(frozen=True, kw_only=True)
class SiteSetup:
    """What a site's client needs.

    Attributes:
        study: name of the study.
        name: this site.
        digest: of the study file that this site approved.
        signing_key: the site's key.
        coordinator_key: the coordinator's enrolled key.
        node_key: the site's node key.
        address: ``host:port`` of the coordinator.
        root_certificate: the study's certificate authority, PEM.
    """

    study: str
    name: str
    digest: str
    signing_key: Ed25519PrivateKey
    coordinator_key: Ed25519PublicKey
    node_key: ec.EllipticCurvePrivateKey
    address: str
    root_certificate: bytes


class CoordinatorServer:
    """The public listener of a study and the exchange behind it."""

    def __init__(self, setup: CoordinatorSetup) -> None:
        """Bind the address and open the state; sites are answered after :meth:`start`."""
        self._link = FlowerLink(setup.digest)
        self._link.enrol(setup.node_keys)
        signer = Signer(setup.study, COORDINATOR, setup.signing_key, setup.signing_keys)
        self.exchange = StudyExchange(
            signer, self._link, set(setup.node_keys), terms=setup.terms, mailbox=setup.mailbox
        )
        routes: dict[str, tuple[ASGIApp, int]] = dict.fromkeys(FLEET_ROUTES, (self._link.app, _FLEET_BODY))
        routes[mailbox.WELCOME] = (self.exchange.mailbox, _HELLO_BODY)
        routes[mailbox.REFUSAL] = (self.exchange.mailbox, mailbox.LONGEST_REFUSAL + _HELLO_BODY)
        if setup.mailbox:
            routes[mailbox.POLL] = (self.exchange.mailbox, _POLL_BODY)
            routes[mailbox.REPLY] = (self.exchange.mailbox, mailbox.ENVELOPE)
        self._listener = Listener(
            AllowList(routes),
            setup.host,
            setup.port,
            certificate=setup.certificate,
            key=setup.certificate_key,
        )
        self.port = self._listener.port

    def start(self) -> None:
        """Answer the sites from now on."""
        self._listener.start()

    def stop(self) -> None:
        """Close the listener and end Flower's run."""
        self.exchange.mailbox.close()
        self._listener.stop()
        self._link.close()


class _ModeChanged(Exception):
    """The coordinator was started again, with the mailbox instead of without it, or the reverse."""


class SiteClient:
    """A site's connection to the coordinator."""

    def __init__(self, setup: SiteSetup, note: Callable[[str], None] = lambda text: None) -> None:
        """Prepare; nothing is sent yet.

        Args:
            setup: what the client needs.
            note: takes a sentence while the coordinator cannot be reached, at once and then rarely.
        """
        self._setup, self._note, self._noted = setup, note, -_NOTE_AGAIN
        self._signer = Signer(
            setup.study, setup.name, setup.signing_key, {COORDINATOR: setup.coordinator_key}
        )
        self._mailbox = mailbox.MailboxClient(self._signer, setup.address, open_line(setup.root_certificate))
        self._carrier: SiteCarrier | None = None
        self._stopping = threading.Event()

    def terms(self) -> bytes:
        """Return what the coordinator gives to each site before anything else; waits for the coordinator.

        Raises:
            NotAdmitted, EnvelopeRefused: one end does not accept the other.
            Interrupted: :meth:`stop` was called.
        """
        return persistently(self._mailbox.welcome, self._stopping, self._broken).terms

    def refuse(self, reason: str) -> None:
        """Tell the coordinator in one call why this site does not take part, and close the line.

        Args:
            reason: in words, without a value of a patient.

        Raises:
            Unreachable, NotAdmitted, EnvelopeRefused: the coordinator did not take it.
        """
        try:
            self._mailbox.refuse(reason)
        finally:
            self._mailbox.close()

    def run(self, site: Site, *, notice: Callable[[mailbox.Presence], None] = lambda notice: None) -> None:
        """Serve the coordinator's requests until :meth:`stop`.

        Args:
            site: handles the requests, in this thread.
            notice: called with news about the other sites.

        Raises:
            NotAdmitted, EnvelopeRefused: one end does not accept the other.
        """
        try:
            while not self._stopping.is_set():
                with suppress(_ModeChanged):
                    return self._serve(site, notice)
        except Interrupted:
            if not self._stopping.is_set():
                raise
        finally:
            self._mailbox.close()

    def _serve(self, site: Site, notice: Callable[[mailbox.Presence], None]) -> None:
        """Serve requests in the way in which the coordinator sends them now."""
        setup = self._setup
        mode = persistently(self._mailbox.welcome, self._stopping, self._broken).mailbox

        def number() -> int:
            welcome = self._mailbox.welcome()
            if welcome.mailbox != mode:
                raise _ModeChanged
            return welcome.node

        node = FlowerNode(
            setup.address, setup.root_certificate, setup.node_key, digest=setup.digest, number=number
        )
        client = self._mailbox if mode else None
        carrier = SiteCarrier(site, self._signer, node, client, notice=notice, broken=self._broken)
        self._carrier = carrier
        if self._stopping.is_set():  # since the coordinator answered
            carrier.stop()
        carrier.run()

    def _broken(self, error: Unreachable) -> None:
        """Say that the coordinator cannot be reached, unless it was said lately."""
        now = time.monotonic()
        if now - self._noted >= _NOTE_AGAIN:
            self._noted = now
            self._note(f"{self._setup.address}: {error}. This site tries again by itself; Ctrl-C ends it.")

    def stop(self) -> None:
        """Make :meth:`run` return after the request that is being handled."""
        self._stopping.set()
        if self._carrier is not None:
            self._carrier.stop()
