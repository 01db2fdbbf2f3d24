"""A study's keys and certificates, and its coordinator and sites, for tests of the carriers."""

from __future__ import annotations

import datetime
import ipaddress
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meninx.federated.connections import CoordinatorServer, CoordinatorSetup, SiteClient, SiteSetup
from meninx.federated.messages import Agree, Agreed, Done, Position, Reply, Request, Train, Uploaded

DIGEST = "c0de" * 16
AT = Position(study="chest", run="r1", round=0, attempt=0)


def agree(number: int = 0) -> Agree:
    return Agree(at=replace_round(number), survivors=("east", "north"))


def train(model: bytes, number: int = 0) -> Train:
    return Train(at=replace_round(number), members=("east", "north"), model=model, until=1, horizon=1)


def replace_round(number: int) -> Position:
    return Position(study="chest", run="r1", round=number, attempt=0)


class EchoSite:
    """Uploads the model that it got; remembers what it was asked."""

    def __init__(self, name: str, work: Callable[[Request], None] = lambda request: None) -> None:
        self.name, self.work, self.asked = name, work, []

    def handle(self, request: Request) -> Reply:
        self.asked.append(request)
        self.work(request)
        if isinstance(request, Train):
            return Uploaded(site=self.name, at=request.at, upload=request.model)
        if isinstance(request, Agree):
            return Agreed(site=self.name, agreement=repr(request.at.round).encode())
        return Done(site=self.name)


class Authority:
    """A certificate authority with one server certificate for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "study root")])
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "coordinator")])
        root = _certificate(
            root_name, root_name, root_key, root_key, [(x509.BasicConstraints(True, 0), True)]
        )
        addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        leaf = _certificate(name, root_name, key, root_key, [(addresses, False)])
        self.root = root.public_bytes(serialization.Encoding.PEM)
        self.certificate, self.key = folder / "certificate.pem", folder / "key.pem"
        self.certificate.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        self.key.write_bytes(_pem(key))


def _certificate(subject, issuer, key, issuer_key, extensions):
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=30))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def _pem(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Network:
    """Keys of one study; starts its coordinator and its sites."""

    def __init__(
        self, folder: Path, sites: tuple[str, ...] = ("east", "north"), *, mailbox: bool = True
    ) -> None:
        self.authority = Authority(folder / "authority")
        self.mailbox = mailbox
        self.signing = {name: Ed25519PrivateKey.generate() for name in ("coordinator", *sites)}
        self.nodes = {name: ec.generate_private_key(ec.SECP384R1()) for name in sites}
        self.folder = folder

    def coordinator_setup(self, **changes) -> CoordinatorSetup:
        setup = CoordinatorSetup(
            study="chest",
            digest=DIGEST,
            terms=b"the roster",
            signing_key=self.signing["coordinator"],
            signing_keys={name: self.signing[name].public_key() for name in self.nodes},
            node_keys={name: key.public_key() for name, key in self.nodes.items()},
            certificate=self.authority.certificate,
            certificate_key=self.authority.key,
            host="127.0.0.1",
            port=0,
            mailbox=self.mailbox,
        )
        return replace(setup, **changes)

    def site_setup(self, name: str, port: int, **changes) -> SiteSetup:
        setup = SiteSetup(
            study="chest",
            name=name,
            digest=DIGEST,
            signing_key=self.signing[name],
            coordinator_key=self.signing["coordinator"].public_key(),
            node_key=self.nodes[name],
            address=f"127.0.0.1:{port}",
            root_certificate=self.authority.root,
        )
        return replace(setup, **changes)


@contextmanager
def coordinator(setup: CoordinatorSetup) -> Iterator[CoordinatorServer]:
    server = CoordinatorServer(setup)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def running(setup: SiteSetup, site: EchoSite) -> Iterator[SiteClient]:
    """Run a site in a thread."""
    client = SiteClient(setup)
    thread = threading.Thread(target=client.run, args=(site,), daemon=True)
    thread.start()
    try:
        yield client
    finally:
        client.stop()
        thread.join(10)
        assert not thread.is_alive()
