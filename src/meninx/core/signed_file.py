"""Signed files: a statement of one institution for others to read, as JSON with an Ed25519 signature.

A file holds its kind, the exact text that was signed, and the signature. The kind is part of what is
signed, so a file of one kind never passes for another:

>>> from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
>>> class Note(Statement, frozen=True, kw_only=True, tag="note"):
...     text: str
>>> key = Ed25519PrivateKey.generate()
>>> content = seal(Note(text="hello"), key)
>>> read(content, Note, where="note.json").text
'hello'
>>> check_signature(content, key.public_key().public_bytes_raw(), where="note.json")

Guarantee: :func:`read` looks at the size before it decodes, accepts the fields of the kind and no others,
and builds no path and no text for a terminal. A statement counts only after :func:`check_signature`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from meninx.core.errors import DataError, PrivacyRefusal, expected, problem

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

StatementT = TypeVar("StatementT", bound="Statement")
LIMIT = 1 << 20  # bytes of a signed file
KEY_BYTES, SIGNATURE_BYTES = 32, 64  # of Ed25519
_DOMAIN = b"meninx federated 1\0"  # named after the first files of this form; the kind tells them apart
_SMALL_ORDER = frozenset(
    bytes.fromhex(text)
    for text in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        *(first + "ff" * 30 + "7f" for first in ("ec", "ed", "ee")),
    )
)
"""Encodings, sign bit cleared, of the points of Ed25519 under which one signature fits many messages."""


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of everything that is signed; a subclass names its kind with ``tag``."""


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    body: str
    signature: bytes


def seal(statement: Statement, key: Ed25519PrivateKey) -> bytes:
    """Return the content of a signed file."""
    kind = _kind(type(statement))
    body = msgspec.json.encode(statement, order="sorted").decode()
    envelope = _Envelope(kind=kind, body=body, signature=key.sign(_signed(kind, body)))
    return msgspec.json.format(msgspec.json.encode(envelope), indent=1) + b"\n"


def read(content: bytes, kind: type[StatementT], *, where: str) -> StatementT:
    """Return the statement in a signed file; its signature is not looked at (:func:`check_signature`).

    Args:
        content: the file.
        kind: the expected class.
        where: name of the file, for messages.

    Raises:
        DataError: the file is too large, of another kind, or has unknown, missing or wrong fields.
    """
    envelope = _envelope(content, where)
    wanted = _kind(kind)
    if envelope.kind != wanted:
        raise DataError(problem(f"the file is no {wanted}", where=where))
    try:
        return msgspec.json.decode(envelope.body, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DataError(problem(f"the {wanted} is not as meninx writes it", where=where)) from error


def kind_of(content: bytes, *, where: str) -> str:
    """Return the kind that a signed file states; DataError if it is none."""
    return _envelope(content, where).kind


def digest(content: bytes, *, where: str) -> str:
    """Return the SHA-256 of what is signed in a file, 64 hexadecimal digits; layout does not count."""
    envelope = _envelope(content, where)
    return hashlib.sha256(_signed(envelope.kind, envelope.body)).hexdigest()


def check_signature(content: bytes, key: bytes, *, where: str) -> None:
    """Refuse a file that was not signed with a key.

    Args:
        content: the file.
        key: raw Ed25519 public key, 32 bytes.
        where: name of the file, for messages.

    Raises:
        PrivacyRefusal: the signature does not fit.
        DataError: it is no signed file.
    """
    envelope = _envelope(content, where)
    if not verified(key, envelope.signature, _signed(envelope.kind, envelope.body)):
        fix = "ask the sender for the file again, and compare the fingerprints by telephone"
        raise PrivacyRefusal(problem("the signature does not fit the content", where=where, fix=fix))


def verified(key: bytes, signature: bytes, content: bytes) -> bool:
    """Return whether an Ed25519 signature fits; a weak key, or one of a wrong length, fits nothing."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if len(key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES or is_weak(key):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True


def is_weak(key: bytes) -> bool:
    """Return whether an Ed25519 public key is a point of small order; no key is by chance."""
    return bytes([*key[:-1], key[-1] & 0x7F]) in _SMALL_ORDER if key else True


def _envelope(content: bytes, where: str) -> _Envelope:
    if len(content) > LIMIT:
        got = f"{len(content):,}"
        raise DataError(expected(f"a signed file of at most {LIMIT:,} bytes", got=got, where=where))
    try:
        return msgspec.json.decode(content, type=_Envelope)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DataError(problem("the file is not a signed file of meninx", where=where)) from error


def _signed(kind: str, body: str) -> bytes:
    return _DOMAIN + kind.encode() + b"\0" + body.encode()


def _kind(kind: type[Any]) -> str:
    return str(kind.__struct_config__.tag)
