"""Payload: the bytes of a masked vector, and how a receiver verifies that they are those that were signed.

There are two checks for different readers:

- ``leaves``: SHA-256 of each chunk of 64 KiB, in the signed statement. With them anyone can check any part:
  the coordinator, a site that recomputes samples, or an auditor years later.
- ``tags``: AES-GMAC of the whole vector, one per recipient, under a key that only the sender and the
  recipient know (derived from their exchange keys, used once). A site that recomputes a whole sum checks its
  tag at a tenth of the cost of the leaves. The coordinator does not have this key, so it cannot create a tag
  for other bytes: the probability of a forgery is at most (length / 16 + 1) / 2^128 per attempt.

Neither reveals anything about the update under the masks.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from meninx.core.errors import DataError, PrivacyRefusal, expected, problem
from meninx.secagg.masks import Ring, ring_type
from meninx.secagg.statements import STATEMENT_LIMIT, Masked, PartialSum, Shared

OfVector: TypeAlias = Masked | Shared | PartialSum

LEAF_BYTES = 1 << 16
_DIGEST = 32
_LENGTH_BYTES = 4
_NONCE = bytes(12)  # each key is derived for one tag and used once


def leaves(vector: Ring) -> bytes:
    """Return SHA-256 of each chunk of 64 KiB, one after the other."""
    data = vector.view(np.uint8).data
    chunks = range(0, len(data), LEAF_BYTES)
    return b"".join(hashlib.sha256(data[start : start + LEAF_BYTES]).digest() for start in chunks)


def leaf_count(length: int, bits: int) -> int:
    """Return the number of chunks of a vector."""
    return -(-length * (bits // 8) // LEAF_BYTES)


def tag(vector: Ring, key: bytes) -> bytes:
    """Return the authentication tag of a vector under a key that is used once."""
    encryptor = Cipher(AES(key), GCM(_NONCE)).encryptor()
    encryptor.authenticate_additional_data(vector.view(np.uint8).data)
    encryptor.finalize()
    return encryptor.tag


def join(statement: bytes, vector: Ring) -> bytes:
    """Return an upload: length of the statement, signed statement, vector."""
    head = len(statement).to_bytes(_LENGTH_BYTES, "big") + statement
    return b"".join((head, vector.view(np.uint8).data))


def split(upload: bytes) -> tuple[bytes, memoryview]:
    """Return the signed statement and the vector's bytes of an upload.

    Raises:
        DataError: the upload is truncated.
    """
    length = int.from_bytes(upload[:_LENGTH_BYTES], "big")
    if not 0 < length <= min(STATEMENT_LIMIT, len(upload) - _LENGTH_BYTES):
        raise DataError(problem("the upload is cut off or not one of meninx", where="upload"))
    end = _LENGTH_BYTES + length
    return bytes(upload[_LENGTH_BYTES:end]), memoryview(upload)[end:]


def vector_of(data: bytes | memoryview, statement: OfVector) -> Ring:
    """Return the vector of an upload without copying it; its digest is not checked yet.

    Raises:
        DataError: the length differs from the signed one.
    """
    if statement.bits not in (32, 64):
        rule = "a ring of 32 or 64 bits"
        raise DataError(expected(rule, got=statement.bits, where=f"vector of {statement.site}"))
    kind = ring_type(statement.bits)
    if len(data) != statement.length * kind.itemsize:
        rule = f"{statement.length * kind.itemsize:,} bytes"
        raise DataError(expected(rule, got=f"{len(data):,}", where=f"vector of {statement.site}"))
    return np.frombuffer(data, dtype=kind)


def check_leaves(vector: Ring, statement: OfVector, *, first: int = 0, last: int | None = None) -> None:
    """Raise PrivacyRefusal unless the chunks of a vector are those that the site signed.

    Args:
        vector: the elements of chunks ``first`` to ``last``.
        statement: the site's signed statement.
        first: number of the first chunk.
        last: one more than the number of the last chunk; None for all remaining chunks.
    """
    signed = statement.leaves[first * _DIGEST : None if last is None else last * _DIGEST]
    if not hmac.compare_digest(leaves(vector), signed):
        raise PrivacyRefusal(
            problem(f"the vector is not the one that {statement.site} signed", where="upload")
        )


def check_tag(vector: Ring, statement: Masked, recipient: str, key: bytes) -> None:
    """Raise PrivacyRefusal unless the vector is the one that the site tagged for this recipient."""
    tags: Mapping[str, Any] = dict(statement.tags)
    if recipient not in tags or not hmac.compare_digest(tag(vector, key), tags[recipient]):
        raise PrivacyRefusal(problem(f"the vector is not the one that {statement.site} sent", where="upload"))
