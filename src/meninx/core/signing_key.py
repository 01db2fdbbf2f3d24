"""Ed25519 keys in files: made from the entropy of the operating system, readable by their owner only.

>>> import tempfile
>>> path = Path(tempfile.mkdtemp()) / "signing.key"
>>> key = made_or_read(path)
>>> fingerprint(public_bytes(key)) == fingerprint(public_bytes(read(path)))
True
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from meninx.core import files
from meninx.core.errors import DataError, PrivacyRefusal, UsageError, expected, problem

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LIMIT = 1 << 14  # bytes of a key file
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def made_or_read(path: Path) -> Ed25519PrivateKey:
    """Return the key in a file; without one make it, with mode 0600.

    Raises:
        DataError: the file is not a key of Ed25519.
        PrivacyRefusal: others than its owner may read it.
        StorageError: the disk refused.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not path.is_file():
        files.write_bytes(path, pem(Ed25519PrivateKey.generate()), mode=files.PRIVATE_MODE)
    return read(path)


def read(path: Path) -> Ed25519PrivateKey:
    """Return the key in a file; raises as :func:`made_or_read`."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    content = files.read_bytes(path, limit=LIMIT)
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        fix = f"chmod 600 {path.name}, if nobody else has read it; else make another key"
        raise PrivacyRefusal(problem("others may read the secret key", where=path.name, fix=fix))
    key = loaded(content, where=path.name)
    if not isinstance(key, Ed25519PrivateKey):
        raise DataError(expected("a key of Ed25519", got="one of another type", where=path.name))
    return key


def loaded(content: bytes, *, where: str, ssh: bool = False) -> object:
    """Return the private key in the content of a file.

    Args:
        content: PEM, or the form of OpenSSH.
        where: name of the file, for messages.
        ssh: it has the form of OpenSSH.

    Raises:
        DataError: it is no key, or one with a pass phrase.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    reader = serialization.load_ssh_private_key if ssh else serialization.load_pem_private_key
    try:
        return reader(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise DataError(problem("the file is not a key", where=where)) from error


def pem(key: Ed25519PrivateKey | EllipticCurvePrivateKey) -> bytes:
    """Return a private key in PEM, without a pass phrase."""
    from cryptography.hazmat.primitives import serialization

    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, pkcs8, plain)


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """Return the raw public key, 32 bytes."""
    return key.public_key().public_bytes_raw()


def fingerprint(public: bytes) -> str:
    """Return what names a public key: 64 hexadecimal digits of SHA-256."""
    return hashlib.sha256(b"meninx signing key 1\0" + public).hexdigest()


def read_fingerprint(text: str) -> str:
    """Return a fingerprint that a person typed; blanks, colons and capitals do not count.

    >>> read_fingerprint("AB:" * 31 + "AB") == "ab" * 32
    True

    Raises:
        UsageError: it is not 64 hexadecimal digits.
    """
    plain = re.sub(r"[\s:]", "", text).lower()
    if not _FINGERPRINT.fullmatch(plain):
        fix = "give the whole fingerprint as the signer read it to you"
        raise UsageError(
            expected("64 hexadecimal digits", got=f"{len(plain)} characters", where="signer", fix=fix)
        )
    return plain
