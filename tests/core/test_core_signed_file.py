"""Signed files: one kind never passes for another, and a weak key signs nothing."""

from __future__ import annotations

import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from meninx.core import signed_file
from meninx.core.errors import DataError, PrivacyRefusal
from meninx.core.signed_file import Statement
from meninx.federated import enrolment_keys

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


class Note(Statement, frozen=True, kw_only=True, tag="note"):
    text: str


class Letter(Statement, frozen=True, kw_only=True, tag="letter"):
    text: str


def test_a_statement_is_of_one_kind_and_one_key():
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    content = signed_file.seal(Note(text="hello"), key)
    assert signed_file.read(content, Note, where="x").text == "hello"
    signed_file.check_signature(content, key.public_key().public_bytes_raw(), where="x")
    with pytest.raises(PrivacyRefusal, match="signature"):
        signed_file.check_signature(content, other.public_key().public_bytes_raw(), where="x")
    with pytest.raises(DataError, match="no letter"):
        signed_file.read(content, Letter, where="x")
    renamed = content.replace(b'"kind": "note"', b'"kind": "letter"').replace(b'\\"note\\"', b'\\"letter\\"')
    assert signed_file.read(renamed, Letter, where="x").text == "hello"
    with pytest.raises(PrivacyRefusal, match="signature"):
        signed_file.check_signature(renamed, key.public_key().public_bytes_raw(), where="x")


def _add(one: tuple[int, int], two: tuple[int, int]) -> tuple[int, int]:
    (x1, y1), (x2, y2) = one, two
    product = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P
    return x, (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P


def _point(y: int) -> tuple[int, int] | None:
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    root = pow(square, (P + 3) // 8, P)
    for x in (root, root * pow(2, (P - 1) // 4, P) % P):
        if x * x % P == square:
            return x, y % P
    return None


def test_the_weak_keys_are_the_points_of_small_order_and_no_others():
    """Eight points, of which some have two encodings; each vanishes when it is doubled three times."""
    found = set()
    for encoding in signed_file._SMALL_ORDER:
        point = _point(int.from_bytes(encoding, "little"))
        assert point is not None
        found |= {point, (-point[0] % P, point[1])}
        for _ in range(3):
            point = _add(point, point)
        assert point == (0, 1)
    assert len(found) == 8
    assert {_add(one, two) for one, two in itertools.product(found, repeat=2)} == found


def test_a_weak_key_takes_part_in_nothing():
    for encoding, sign in itertools.product(signed_file._SMALL_ORDER, (0, 0x80)):
        key = bytes([*encoding[:-1], encoding[-1] | sign])
        with pytest.raises(DataError, match="weak"):
            enrolment_keys.ed25519(key, where="x")
        assert not any(signed_file.verified(key, bytes(64), bytes([number])) for number in range(40))
    zero = Ed25519PublicKey.from_public_bytes(bytes(32))
    fits = 0
    for number in range(40):
        try:
            zero.verify(bytes(64), bytes([number]))
        except Exception:
            continue
        fits += 1
    assert fits  # the library itself lets one signature fit several messages under such a key
