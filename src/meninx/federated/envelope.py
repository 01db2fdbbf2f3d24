"""Signed envelopes: what the coordinator and a site send each other, whatever carries it.

TLS protects the line, and Flower signs a timestamp only, so every body also carries a signature by the
enrolled key of its sender, over the study, both names, the purpose, a nonce, the time and the body:

>>> from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
>>> east, coordinator = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
>>> keys = {"east": east.public_key(), "coordinator": coordinator.public_key()}
>>> site = Signer("chest", "east", east, keys)
>>> office = Signer("chest", "coordinator", coordinator, keys)
>>> office.open(site.seal("coordinator", "poll", b"ready"), purpose="poll").body
b'ready'

Guarantee: an opened envelope was sealed by the holder of the sender's enrolled key, for this study, this
    receiver
and this purpose, within its time, and was not opened before by this object. An envelope that answers another
one was sealed after that one was seen.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from meninx.core.errors import DataError, problem
from meninx.core.randomness import private_bytes

COORDINATOR = "coordinator"  # name of the coordinator as sender and receiver
CLOCK_TOLERANCE = 300.0  # seconds that two clocks may differ, as Flower tolerates
_DOMAIN = b"meninx federated envelope 1\n"
_NONCE_BYTES = 16
_OVERHEAD = 1024  # bytes that an envelope adds to its body, at most
_LONGEST = 86_400.0  # seconds for which an envelope may be valid
_CLEANING = 60.0  # seconds between two removals of old nonces


class EnvelopeRefused(DataError):
    """An envelope is not authentic, not meant for this party, too old, or was opened before."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One signed body.

    Attributes:
        nonce: random bytes that make the envelope unique.
        answers: nonce of the envelope that this one answers; empty if it answers none.
        sealed: time of sealing, in seconds since 1970.
        valid: seconds after ``sealed`` in which it may be opened.
    """

    study: str
    sender: str
    receiver: str
    purpose: str
    nonce: bytes
    answers: bytes
    sealed: float
    valid: float
    body: bytes
    signature: bytes = b""


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Envelope)


class Signer:
    """One party of a study: signs what it sends, and verifies what it receives."""

    def __init__(
        self,
        study: str,
        name: str,
        signing_key: Ed25519PrivateKey,
        keys: Mapping[str, Ed25519PublicKey],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Start with an empty memory of nonces.

        Args:
            study: name of the study; envelopes of another study are refused.
            name: this party, a site or :data:`COORDINATOR`.
            signing_key: its enrolled key.
            keys: enrolled public keys by name. The mapping is read at each envelope, so a key that is removed
                from it is revoked at once.
            clock: seconds since 1970.
        """
        self.study, self.name = study, name
        self._signing_key, self._keys, self._clock = signing_key, keys, clock
        self._opened: dict[bytes, float] = {}  # nonce -> time after which it would be too old anyway
        self._cleaned = 0.0
        self._lock = threading.Lock()

    def seal(
        self, receiver: str, purpose: str, body: bytes, *, answers: bytes = b"", valid: float = 60.0
    ) -> bytes:
        """Return the bytes of a signed envelope."""
        return self.sealed(receiver, purpose, body, answers=answers, valid=valid)[0]

    def sealed(
        self, receiver: str, purpose: str, body: bytes, *, answers: bytes = b"", valid: float = 60.0
    ) -> tuple[bytes, bytes]:
        """Return the bytes of a signed envelope, and its nonce, which an answer has to name."""
        envelope = Envelope(
            study=self.study,
            sender=self.name,
            receiver=receiver,
            purpose=purpose,
            nonce=private_bytes(_NONCE_BYTES),
            answers=answers,
            sealed=self._clock(),
            valid=min(float(valid), _LONGEST),
            body=body,
        )
        signature = self._signing_key.sign(_signed(envelope))
        return _ENCODER.encode(msgspec.structs.replace(envelope, signature=signature)), envelope.nonce

    def open(self, data: bytes, *, purpose: str, answers: bytes = b"", limit: int = 1 << 20) -> Envelope:
        """Return a verified envelope.

        Args:
            data: bytes from the network.
            purpose: the only purpose that is accepted here.
            answers: nonce of the envelope that it has to answer; empty if none.
            limit: bytes of its body, at most.

        Raises:
            EnvelopeRefused: it does not verify; the reason is a sentence that names no secret.
        """
        if len(data) > limit + _OVERHEAD:
            raise _refused(f"it has {len(data):,} bytes, and at most {limit:,} are accepted")
        try:
            envelope = _DECODER.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _refused("it is not an envelope of meninx") from None
        key = self._keys.get(envelope.sender)
        try:
            if key is None or len(envelope.nonce) != _NONCE_BYTES:
                raise InvalidSignature
            key.verify(envelope.signature, _signed(envelope))
        except InvalidSignature:
            raise _refused("its signature is not that of an enrolled and unrevoked key") from None
        meant = (envelope.study, envelope.receiver, envelope.purpose, envelope.answers)
        if meant != (self.study, self.name, purpose, answers):
            raise _refused("it is meant for another study, receiver, purpose or question")
        self._check_time(envelope)
        return envelope

    def _check_time(self, envelope: Envelope) -> None:
        now = self._clock()
        age = now - envelope.sealed
        longest = min(envelope.valid, _LONGEST) + CLOCK_TOLERANCE
        if not -CLOCK_TOLERANCE <= age <= longest:
            raise _refused(
                f"it was sealed {abs(age):.0f} s {'ago' if age > 0 else 'ahead'} by the clocks of both ends",
                fix=f"set the clocks; they may differ by {CLOCK_TOLERANCE:.0f} s",
            )
        with self._lock:
            if now - self._cleaned > _CLEANING:
                self._opened = {nonce: end for nonce, end in self._opened.items() if end >= now}
                self._cleaned = now
            if envelope.nonce in self._opened:
                raise _refused("it was opened before")
            self._opened[envelope.nonce] = envelope.sealed + longest


def _signed(envelope: Envelope) -> bytes:
    """Return what the signature covers: every field, the body by its digest."""
    digest = hashlib.sha256(envelope.body).digest()
    return _DOMAIN + _ENCODER.encode(msgspec.structs.replace(envelope, body=digest, signature=b""))


def _refused(why: str, *, fix: str = "") -> EnvelopeRefused:
    return EnvelopeRefused(problem(f"the envelope is refused: {why}", where="federated", fix=fix))
