"""The key pair of an honest broker: X25519, in PEM files that OpenSSL reads and writes, too.

The broker keeps the private file. A hospital that has the public one can seal an escrow, and cannot open it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meninx.core import files, signing_key
from meninx.core.errors import DataError, PrivacyRefusal, expected, problem
from meninx.core.result import Result
from meninx.deid.identity.keys import refuse_open_to_others

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

SUFFIX = ".pub"  # appended to the name of the private file


@dataclass(frozen=True, kw_only=True)
class BrokerKeyResult(Result):
    """The pair that was made.

    Attributes:
        public: file for the hospitals.
        fingerprint: names the pair; hospitals compare it by telephone.
    """

    public: Path
    fingerprint: str

    def summary(self) -> str:
        """Return what to do with the two files."""
        return (
            f"private key: {self.out} (keep it; without it no escrow for this broker opens)\n"
            f"public key for hospitals: {self.public}\nfingerprint to read out: {self.fingerprint}"
        )


def make_pair(path: Path) -> BrokerKeyResult:
    """Write a new private key (mode 0600) and its public file, and return where they are.

    Raises:
        PrivacyRefusal: one of the files exists; neither is ever overwritten.
        StorageError: the disk refused.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    public = path.with_name(path.name + SUFFIX)
    for place in (path, public):
        if place.exists() or place.is_symlink():
            rule = "a new file for the broker's key"
            raise PrivacyRefusal(
                expected(rule, got="an existing one", where=place.name, fix="choose another name")
            )
    key = X25519PrivateKey.generate()
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    _write_new(path, key.private_bytes(serialization.Encoding.PEM, pkcs8, plain), files.PRIVATE_MODE)
    _write_new(public, key.public_key().public_bytes(serialization.Encoding.PEM, form), 0o644)
    return BrokerKeyResult(
        out=path, public=public, fingerprint=fingerprint(key.public_key().public_bytes_raw())
    )


def read_private(path: Path) -> X25519PrivateKey:
    """Return a broker's private key.

    Raises:
        PrivacyRefusal: other users may read or replace the file.
        DataError: it is no private key of X25519.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    with files.regular(path) as stream:
        refuse_open_to_others(path, stream, "broker")
        content = stream.read(signing_key.LIMIT)
    key = signing_key.loaded(content, where=path.name)
    if not isinstance(key, X25519PrivateKey):
        raise DataError(expected("a private key of X25519", got="one of another type", where=path.name))
    return key


def read_public(path: Path) -> bytes:
    """Return a broker's public key, 32 bytes.

    Raises:
        DataError: it is no public key of X25519.
        PrivacyRefusal: the file holds a private key, which must not leave the broker.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    content = files.read_bytes(path, limit=signing_key.LIMIT)
    fix = "ask the broker for the file that `meninx escrow broker-key` ends with .pub"
    if b"PRIVATE KEY" in content:
        raise PrivacyRefusal(
            problem("this is a private key, not a broker's public one", where="escrow", fix=fix)
        )
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise DataError(problem("the file is no public key", where="escrow", fix=fix)) from error
    if not isinstance(key, X25519PublicKey):
        raise DataError(
            expected("a public key of X25519", got="one of another type", where="escrow", fix=fix)
        )
    return key.public_bytes_raw()


def fingerprint(public: bytes) -> str:
    """Return what names a broker's key: 64 hexadecimal digits of SHA-256."""
    return hashlib.sha256(b"meninx broker key 1\0" + public).hexdigest()


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise files.storage_error(error, path) from error
