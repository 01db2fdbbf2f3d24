"""Authenticated encryption of a long text in chunks, as the STREAM construction does it, with AES-256-GCM.

The nonce of a chunk is a random prefix, the number of the chunk, and whether it is the last one. A reader
therefore detects chunks that were changed, cut off, repeated or exchanged. See Hoang, Reyhanitabar, Rogaway
and Vizár, *Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance*, CRYPTO 2015.

>>> import io
>>> sealed = io.BytesIO()
>>> write(sealed, bytes(32), bytes(PREFIX), b"header", [b"some ", b"lines"])
>>> b"".join(read(io.BytesIO(sealed.getvalue()), bytes(32), bytes(PREFIX), b"header", where="a.meninx"))
b'some lines'
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO

from meninx.core.errors import PrivacyRefusal, problem

CHUNK = 64 << 10  # bytes of text in a chunk
TAG = 16  # bytes that a chunk grows by
PREFIX = 7  # bytes of the random prefix; 4 of the number and 1 of the mark make up the 12 of a nonce
_MOST = 1 << 32  # chunks


def write(stream: IO[bytes], key: bytes, prefix: bytes, header: bytes, text: Iterable[bytes]) -> None:
    """Encrypt pieces of a text to a stream.

    Args:
        stream: receives the chunks.
        key: 32 bytes that were never used before.
        prefix: ``PREFIX`` random bytes.
        header: what is authenticated with every chunk.
        text: pieces of any length.

    Raises:
        OverflowError: the text has more than 2**32 chunks.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher, number, waiting = AESGCM(key), 0, bytearray()
    for piece in text:
        waiting += piece
        while len(waiting) > CHUNK:  # a full chunk may be the last one, so it waits for the next byte
            stream.write(cipher.encrypt(_nonce(prefix, number, last=False), bytes(waiting[:CHUNK]), header))
            del waiting[:CHUNK]
            number += 1
    stream.write(cipher.encrypt(_nonce(prefix, number, last=True), bytes(waiting), header))


def read(stream: IO[bytes], key: bytes, prefix: bytes, header: bytes, *, where: str) -> Iterator[bytes]:
    """Yield the text chunk by chunk.

    Guarantee: every chunk that is yielded is authentic and in its place. Whether the text is complete is
        known only when the iterator ends without an error.

    Args:
        stream: where the chunks begin.
        key: that of :func:`write`.
        prefix: that of :func:`write`.
        header: that of :func:`write`.
        where: name of the file, for messages.

    Raises:
        PrivacyRefusal: the key is another one, or the file was changed, cut or put together from others.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher, number = AESGCM(key), 0
    sealed = stream.read(CHUNK + TAG)
    while True:
        after = stream.read(CHUNK + TAG) if len(sealed) == CHUNK + TAG else b""
        try:
            yield cipher.decrypt(_nonce(prefix, number, last=not after), sealed, header)
        except (InvalidTag, ValueError) as error:
            fix = "take the copy with the SHA-256 of the file beside it, and the key that it was sealed for"
            what = "the escrow was changed or is not complete, or the key is another one"
            raise PrivacyRefusal(problem(what, where=where, fix=fix)) from error
        if not after:
            return
        sealed, number = after, number + 1


def _nonce(prefix: bytes, number: int, *, last: bool) -> bytes:
    if number >= _MOST:
        raise OverflowError("more than 2**32 chunks")
    return prefix + number.to_bytes(4, "big") + bytes([last])
