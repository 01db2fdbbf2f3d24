"""Secret bytes by address: one key, a purpose and an index give the same bytes for ever, and no two addresses share any."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from meninx.core.errors import ConfigError, expected

KEY_BYTES = 32


def check_key(key: bytes) -> None:
    """Raise ConfigError unless ``key`` has 32 bytes; the message never shows them."""
    if len(key) != KEY_BYTES:
        fix = "draw it with core.randomness.private_bytes(32)"
        raise ConfigError(expected(f"a key of {KEY_BYTES} bytes", got=f"{len(key)} bytes", where="key", fix=fix))


def keystream(key: bytes, purpose: str, step: int, name: str = "") -> Callable[[int], bytes]:
    """Return a reader of the pseudorandom bytes at the address (purpose, step, name) under ``key``.

    The reader gives the next ``count`` bytes at each call, from the first; a new reader starts again.
    The address is turned into a key of its own by HMAC-SHA-256 (a pseudorandom function), which
    then runs ChaCha20 from counter zero. So addresses never overlap, whatever is read, and
    nothing has to be remembered between calls.

    Args:
        key: 32 secret bytes.
        purpose: what the bytes are for, e.g. ``"poisson"``; separates the uses of one key.
        step: optimiser step, >= 0.
        name: a second index, e.g. a parameter's name.

    References:
        Nir, Langley (2018), ChaCha20 and Poly1305 for IETF protocols, RFC 8439, section 2.4.
        Krawczyk, Bellare, Canetti (1997), HMAC, RFC 2104.
    """
    address = f"meninx/{len(purpose)}:{purpose}/{step}/{name}".encode()
    cipher = Cipher(ChaCha20(hmac.digest(key, address, hashlib.sha256), bytes(16)), mode=None).encryptor()
    return lambda count: cipher.update(bytes(count))


def stream_id(*keys: bytes) -> str:
    """Return 16 hexadecimal digits that name a set of keys without giving them away; equal keys, equal name."""
    digest = hashlib.sha256(b"meninx/stream")
    for key in keys:
        check_key(key)
        digest.update(hmac.digest(key, b"meninx/stream", hashlib.sha256))
    return digest.hexdigest()[:16]
