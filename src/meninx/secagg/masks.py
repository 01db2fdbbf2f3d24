"""Masks: pseudorandom vectors over the ring, added to and removed from a vector in one pass.

A mask is the keystream of AES-256 in counter mode under a seed of 32 bytes that is used for nothing else,
read as little-endian elements of 4 or 8 bytes. Adding it modulo 2^32 or 2^64 makes the result uniform for
anyone without the seed. Counter mode can start at any position, so a part of a vector can be recomputed
separately.

Seeds of pairs come from HKDF-SHA-256 over the X25519 secret of the two sites, bound to the digest of study,
run, roster, all exchange keys, round, attempt and members (``context``) and to the two names. An opened seed
therefore reveals the mask of one attempt of one pair: neither the exchange key nor the seeds of other rounds
can be computed from it.

The coordinator, c colluding sites and the network learn only the length of a masked vector, as long as one of
its seeds is unknown to them. ``tests/secagg`` compares the keystream with the vectors of NIST SP 800-38A.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from meninx.core.errors import ConfigError, DataError, expected

Ring: TypeAlias = np.ndarray[Any, np.dtype[Any]]  # one axis, uint32 or uint64, little-endian

SEED_BYTES = 32
# 128 KiB: vector and keystream stay in the second-level cache while all masks are applied to a chunk.
CHUNK_BYTES = 1 << 17
_BLOCK = 16
_ZEROS = bytes(CHUNK_BYTES)
_COMMIT_DOMAIN = b"meninx/secagg/1/commitment\x00"


@dataclass(frozen=True, slots=True)
class Mask:
    """A seed and the sign of its keystream.

    Attributes:
        seed: 32 secret bytes.
        add: True to add the keystream, False to subtract it.
    """

    seed: bytes | bytearray
    add: bool = True

    def __repr__(self) -> str:
        return f"Mask(seed=<secret>, add={self.add})"


def ring_type(bits: int) -> np.dtype[Any]:
    """Return the element type of the ring 2^bits.

    Raises:
        ConfigError: bits is neither 32 nor 64.
    """
    if bits not in (32, 64):
        raise ConfigError(expected("a ring of 32 or 64 bits", got=bits, where="bits"))
    return np.dtype("<u4") if bits == 32 else np.dtype("<u8")


def check_ring(vector: Ring, where: str = "vector") -> int:
    """Return the bits of a vector's ring.

    Raises:
        DataError: it is not a contiguous vector of uint32 or uint64.
    """
    if vector.ndim != 1 or vector.dtype not in (np.dtype("<u4"), np.dtype("<u8")):
        got = f"{vector.ndim} axes of {vector.dtype}"
        raise DataError(expected("one axis of uint32 or uint64", got=got, where=where, fix="encode it first"))
    return vector.dtype.itemsize * 8


def apply_masks(vector: Ring, masks: Iterable[Mask], *, start: int = 0) -> None:
    """Add or subtract the keystreams of all masks in place; memory does not grow with their number.

    >>> vector = np.arange(5, dtype="<u4")
    >>> seed = bytes(range(32))
    >>> apply_masks(vector, [Mask(seed)])
    >>> apply_masks(vector[2:], [Mask(seed, add=False)], start=2)
    >>> vector[2:]
    array([2, 3, 4], dtype=uint32)

    Args:
        vector: ring elements, changed in place.
        masks: seeds and signs.
        start: index of the vector's first element in the whole vector.
    """
    check_ring(vector)
    size = vector.dtype.itemsize
    skip = start * size % _BLOCK  # the keystream is addressed in blocks of 16 bytes
    streams = [(_stream(mask.seed, start * size - skip), mask.add) for mask in masks]
    buffer = bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    if skip:
        for encryptor, _ in streams:
            encryptor.update_into(_ZEROS[:skip], view[:skip])
    keystream = np.frombuffer(buffer, dtype=vector.dtype)
    step = CHUNK_BYTES // size
    for first in range(0, len(vector), step):
        part = vector[first : first + step]
        taken = len(part) * size
        zeros, target = (_ZEROS, view) if taken == CHUNK_BYTES else (_ZEROS[:taken], view[:taken])
        for encryptor, add in streams:
            encryptor.update_into(zeros, target)
            (np.add if add else np.subtract)(part, keystream[: len(part)], out=part)
    view[:] = _ZEROS  # so that the last keystream does not remain in memory


def _stream(seed: bytes | bytearray, offset: int) -> Any:
    """Return an encryptor whose keystream begins at a byte offset, a multiple of 16."""
    if len(seed) != SEED_BYTES:
        raise DataError(expected(f"a seed of {SEED_BYTES} bytes", got=f"{len(seed)} bytes", where="mask"))
    counter = (offset // _BLOCK).to_bytes(_BLOCK, "big")
    return Cipher(AES(seed), CTR(counter)).encryptor()


def derive(secret: bytes | bytearray, context: bytes, purpose: str, *sites: str) -> bytes:
    """Return a key of 32 bytes from a pair's secret, for one purpose in one attempt.

    Args:
        secret: X25519 secret of the pair.
        context: digest of session, round, attempt and members.
        purpose: e.g. ``"mask"``; keys for different purposes are independent.
        sites: the two names; sorted by the caller if the key has no direction.
    """
    label = "\x00".join(("meninx/secagg/1", purpose, *sites))
    return HKDF(hashes.SHA256(), SEED_BYTES, salt=context, info=label.encode()).derive(bytes(secret))


def commitment(seed: bytes | bytearray, context: bytes) -> bytes:
    """Return the commitment to a seed.

    A plain hash hides the seed because it has 256 random bits; a low-entropy value would need a salt.
    """
    return hashlib.sha256(_COMMIT_DOMAIN + context + bytes(seed)).digest()
