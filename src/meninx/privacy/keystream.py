"""Pseudorandom bytes addressed by key, purpose and index.

Sampling and noise read their randomness here, so that it depends only on the step and never on what was drawn
before: a resumed run repeats an interrupted step exactly, and no generator state has to be stored. Two
addresses never share bytes.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from meninx.core.errors import ConfigError, expected
from meninx.core.randomness import KEY_BYTES


def check_key(key: bytes) -> None:
    """Raise ConfigError unless ``key`` has 32 bytes; the message never shows them."""
    if len(key) != KEY_BYTES:
        fix = "draw it with core.randomness.private_bytes(32)"
        raise ConfigError(
            expected(f"a key of {KEY_BYTES} bytes", got=f"{len(key)} bytes", where="key", fix=fix)
        )


class Keystream:
    """A reader of the pseudorandom bytes at one address; each read continues where the last one ended."""

    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()

    def read(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        return self._cipher.update(bytes(count))

    def read_over(self, zeros: memoryview, out: memoryview) -> None:
        """Write the next ``len(zeros)`` bytes into ``out``, of the same length, without allocating memory."""
        self._cipher.update_into(zeros, out)


def keystream(key: bytes, purpose: str, step: int, name: str = "") -> Keystream:
    """Return a reader of the pseudorandom bytes at the address (purpose, step, name) under ``key``.

    A new reader starts from the first byte. HMAC-SHA-256 (a pseudorandom function) derives a separate key for
    each address, under which ChaCha20 runs from counter zero. So addresses never overlap, whatever is read.

    Example::

        >>> key = bytes(32)  # a real key comes from core.randomness
        >>> keystream(key, "poisson", 0).read(4) == keystream(key, "poisson", 0).read(4)
        True
        >>> keystream(key, "poisson", 0).read(4) == keystream(key, "gaussian", 0).read(4)
        False

    Args:
        key: 32 secret bytes.
        purpose: what the bytes are for, e.g. ``"poisson"``; separates the uses of one key.
        step: optimiser step, >= 0.
        name: a second index, e.g. a parameter's name.

    References:
        Nir, Langley (2018), ChaCha20 and Poly1305 for IETF protocols, RFC 8439, section 2.4.
        Krawczyk, Bellare, Canetti (1997), HMAC, RFC 2104.
    """
    # The length prefix makes the encoding injective: no (purpose, step, name) can spell another one's
    # address.
    address = f"meninx/{len(purpose)}:{purpose}/{step}/{name}".encode()
    return Keystream(hmac.digest(key, address, hashlib.sha256))


def stream_id(*keys: bytes) -> str:
    """Return 16 hexadecimal digits that identify a set of keys without revealing them.

    Equal keys have equal names. The ledger stores the name, to recognise keys that are used a second time.
    """
    digest = hashlib.sha256(b"meninx/stream")
    for key in keys:
        check_key(key)
        digest.update(hmac.digest(key, b"meninx/stream", hashlib.sha256))
    return digest.hexdigest()[:16]
