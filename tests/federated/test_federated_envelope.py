"""Envelopes: who may open what, when and how often."""

from __future__ import annotations

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from meninx.federated.envelope import CLOCK_TOLERANCE, COORDINATOR, Envelope, EnvelopeRefused, Signer

EAST, NORTH, OFFICE = (Ed25519PrivateKey.generate() for _ in range(3))


class Clock:
    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def parties(clock: Clock | None = None) -> tuple[Signer, Signer, dict]:
    clock = clock or Clock()
    keys = {"east": EAST.public_key(), "north": NORTH.public_key(), COORDINATOR: OFFICE.public_key()}
    return (
        Signer("chest", "east", EAST, keys, clock=clock),
        Signer("chest", COORDINATOR, OFFICE, keys, clock=clock),
        keys,
    )


@given(st.binary(max_size=300), st.floats(1, 3600))
def test_what_one_seals_the_other_opens(body: bytes, valid: float) -> None:
    east, office, _ = parties()
    envelope = office.open(east.seal(COORDINATOR, "poll", body, valid=valid), purpose="poll")
    assert (envelope.sender, envelope.body) == ("east", body)


@given(st.data())
def test_no_changed_byte_is_accepted(data: st.DataObject) -> None:
    east, office, _ = parties()
    sealed = bytearray(east.seal(COORDINATOR, "poll", b"twelve bytes"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(EnvelopeRefused):
        office.open(bytes(sealed), purpose="poll")


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeRefused):
        parties()[1].open(data, purpose="poll")


def test_an_envelope_is_opened_once() -> None:
    east, office, _ = parties()
    sealed = east.seal(COORDINATOR, "poll", b"")
    office.open(sealed, purpose="poll")
    with pytest.raises(EnvelopeRefused, match="opened before"):
        office.open(sealed, purpose="poll")


def test_an_old_envelope_stays_refused_after_its_nonce_was_forgotten() -> None:
    clock = Clock()
    east, office, _ = parties(clock)
    sealed = east.seal(COORDINATOR, "poll", b"", valid=60)
    office.open(sealed, purpose="poll")
    for _ in range(200):
        clock.now += 10
        office.open(east.seal(COORDINATOR, "poll", b""), purpose="poll")  # removes old nonces
        with pytest.raises(EnvelopeRefused):
            office.open(sealed, purpose="poll")
    assert len(office._opened) < 60


@pytest.mark.parametrize("skew", [-CLOCK_TOLERANCE - 1, CLOCK_TOLERANCE + 61, 600, float("nan")])
def test_a_clock_that_is_wrong_is_named_with_its_difference(skew: float) -> None:
    clock = Clock()
    east, office, _ = parties(clock)
    sealed = east.seal(COORDINATOR, "poll", b"")
    clock.now += skew
    with pytest.raises(EnvelopeRefused, match="set the clocks"):
        office.open(sealed, purpose="poll")


@pytest.mark.parametrize(
    ("receiver", "purpose", "answers"),
    [("north", "poll", b""), (COORDINATOR, "reply", b""), (COORDINATOR, "poll", b"another question")],
)
def test_another_receiver_purpose_or_question_is_refused(receiver: str, purpose: str, answers: bytes) -> None:
    east, office, _ = parties()
    with pytest.raises(EnvelopeRefused, match="meant for another"):
        office.open(east.seal(receiver, purpose, b"", answers=answers), purpose="poll")


def test_another_study_is_refused() -> None:
    _, office, keys = parties()
    other = Signer("brain", "east", EAST, keys, clock=Clock())
    with pytest.raises(EnvelopeRefused, match="another study"):
        office.open(other.seal(COORDINATOR, "poll", b""), purpose="poll")


def test_a_revoked_key_is_refused_at_once() -> None:
    east, office, keys = parties()
    office.open(east.seal(COORDINATOR, "poll", b""), purpose="poll")
    del keys["east"]
    with pytest.raises(EnvelopeRefused, match="unrevoked"):
        office.open(east.seal(COORDINATOR, "poll", b""), purpose="poll")


def test_a_site_cannot_speak_in_another_name() -> None:
    _, office, keys = parties()
    liar = Signer("chest", "north", EAST, keys, clock=Clock())  # east's key, north's name
    with pytest.raises(EnvelopeRefused, match="signature"):
        office.open(liar.seal(COORDINATOR, "poll", b""), purpose="poll")


def test_a_long_body_is_refused_before_it_is_decoded() -> None:
    east, office, _ = parties()
    with pytest.raises(EnvelopeRefused, match="at most 100"):
        office.open(east.seal(COORDINATOR, "poll", bytes(5000)), purpose="poll", limit=100)


def test_every_field_is_signed() -> None:
    east, office, _ = parties()
    envelope = msgspec.msgpack.decode(east.seal(COORDINATOR, "poll", b"body"), type=Envelope)
    changes = {"study": "brain", "sender": "north", "receiver": "north", "purpose": "reply", "answers": b"x"}
    changes |= {"nonce": bytes(16), "sealed": envelope.sealed + 1, "valid": 61.0, "body": b"other"}
    assert {*changes, "signature"} == set(Envelope.__struct_fields__)
    for name, value in changes.items():
        forged = msgspec.structs.replace(envelope, **{name: value})
        with pytest.raises(EnvelopeRefused):
            office.open(msgspec.msgpack.encode(forged), purpose="poll")
