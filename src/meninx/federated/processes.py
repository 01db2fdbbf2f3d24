"""The processes of a study: the coordinator's server and a site's client, started, watched and stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meninx.federated import mailbox
from meninx.federated.carrier import SiteCarrier, StudyExchange
from meninx.federated.envelope import COORDINATOR, Signer
from meninx.federated.flower import FLEET_ROUTES, FlowerLink, FlowerNode
from meninx.federated.line import open_line
from meninx.federated.listener import AllowList, Listener

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from starlette.types import ASGIApp

    from meninx.federated.exchange import Site

_FLEET_BODY = 8 << 20  # bytes; Flower sends objects of 5 MB


@dataclass(frozen=True, kw_only=True)
class CoordinatorSetup:
    """What the coordinator's server needs.

    Attributes:
        study: name of the study.
        code: hash of the approved code.
        signing_key: the coordinator's key.
        signing_keys: enrolled keys of the sites, without revoked ones.
        node_keys: enrolled node keys of the same sites.
        certificate: TLS certificate, PEM file.
        certificate_key: its private key, PEM file.
        host: address of the public listener.
        port: 0 for a free one.
        folder: private folder for Flower's state.
        mailbox: whether short requests travel through the mailbox; False for Flower alone.
    """

    study: str
    code: str
    signing_key: Ed25519PrivateKey
    signing_keys: Mapping[str, Ed25519PublicKey]
    node_keys: Mapping[str, ec.EllipticCurvePublicKey]
    certificate: Path
    certificate_key: Path
    host: str
    port: int
    folder: Path
    mailbox: bool = True


@dataclass(frozen=True, kw_only=True)
class SiteSetup:
    """What a site's client needs.

    Attributes:
        study: name of the study.
        name: this site.
        code: hash of the code that this site approved.
        signing_key: the site's key.
        coordinator_key: the coordinator's enrolled key.
        node_key: the site's node key.
        address: ``host:port`` of the coordinator.
        root_certificate: the study's certificate authority, PEM.
        folder: private folder for the client's state.
        mailbox: as at the coordinator.
    """

    study: str
    name: str
    code: str
    signing_key: Ed25519PrivateKey
    coordinator_key: Ed25519PublicKey
    node_key: ec.EllipticCurvePrivateKey
    address: str
    root_certificate: bytes
    folder: Path
    mailbox: bool = True


class CoordinatorServer:
    """The public listener of a study and the exchange behind it."""

    def __init__(self, setup: CoordinatorSetup) -> None:
        """Bind the address and open the state; sites are answered after :meth:`start`."""
        self._link = FlowerLink(setup.folder / "flower.sqlite", setup.code)
        self._link.enrol(setup.node_keys)
        signer = Signer(setup.study, COORDINATOR, setup.signing_key, setup.signing_keys)
        self.exchange = StudyExchange(signer, self._link, set(setup.node_keys), mailbox=setup.mailbox)
        routes: dict[str, tuple[ASGIApp, int]] = dict.fromkeys(FLEET_ROUTES, (self._link.app, _FLEET_BODY))
        if setup.mailbox:
            routes |= dict.fromkeys(mailbox.ROUTES, (self.exchange.mailbox, mailbox.ENVELOPE))
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


def site_carrier(
    setup: SiteSetup, site: Site, *, notice: Callable[[bytes], None] = lambda notice: None
) -> SiteCarrier:
    """Return the client of a site, which connects when it is run."""
    signer = Signer(setup.study, setup.name, setup.signing_key, {COORDINATOR: setup.coordinator_key})
    node = FlowerNode(
        setup.address,
        setup.root_certificate,
        setup.node_key,
        code=setup.code,
        memory=setup.folder / "flower_node.txt",
    )
    client = None
    if setup.mailbox:
        client = mailbox.MailboxClient(signer, setup.address, open_line(setup.root_certificate))
    return SiteCarrier(site, signer, node, client, notice=notice)
