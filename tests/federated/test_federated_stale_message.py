"""A stale, replayed or damaged message of Flower is passed over; the site's process goes on."""

from __future__ import annotations

from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federated_network import EchoSite

from meninx.core.errors import DataError
from meninx.federated.carrier import SiteCarrier
from meninx.federated.envelope import COORDINATOR, Signer
from meninx.federated.flower import Arrival


class Node:
    """A node that gets a forged message, then a damaged one, and then nothing before the site is stopped."""

    carrier: SiteCarrier

    def __init__(self) -> None:
        self.calls = 0

    def connect(self) -> None: ...

    def beat(self) -> None: ...

    def close(self) -> None: ...

    def receive(self) -> Arrival | None:
        self.calls += 1
        if self.calls == 1:
            return Arrival("one", b"forged", cast(Any, None))
        if self.calls == 2:
            raise DataError("an object of Flower is damaged")
        self.carrier.stop()
        return None


def test_a_message_that_cannot_be_opened_does_not_end_the_site() -> None:
    own, office = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    signer = Signer("chest", "east", own, {COORDINATOR: office.public_key()})
    node = Node()
    node.carrier = SiteCarrier(EchoSite("east"), signer, cast(Any, node), None)
    node.carrier.run()
    assert node.calls == 3
