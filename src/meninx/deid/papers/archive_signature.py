"""The signature of a clean archive: Ed25519 over ``deid.json``, the list of digests and the statement.

The signing key is derived from the site key, as every other secret of a site, so there is no further secret
to keep, and a run that is repeated gives the same bytes. Whoever holds the site key can sign; nobody learns
anything about it from the public key. Where the site key is destroyed, the signature can still be checked.

    >>> from meninx.deid.identity.keys import SiteKey
    >>> key = signing_key(SiteKey(bytes(range(32)), "north"))
    >>> fingerprint_of(key) == fingerprint_of(signing_key(SiteKey(bytes(range(32)), "south")))
    False
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from meninx.core import clean_archive, folder_signature
from meninx.core import signing_key as keys_in_files
from meninx.core.clean_archive import ArchiveSignature
from meninx.deid.identity.keys import SiteKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_PURPOSE = "signature of clean archives"


def signing_key(key: SiteKey) -> Ed25519PrivateKey:
    """Return the signing key of a site."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(key.derive(_PURPOSE))


def fingerprint_of(key: Ed25519PrivateKey) -> str:
    """Return the 64 hexadecimal digits by which people compare a signing key."""
    return keys_in_files.fingerprint(keys_in_files.public_bytes(key))


def write(root: Path, key: Ed25519PrivateKey) -> None:
    """Sign the public files of an archive, which have to be complete.

    Raises:
        DataError: one of them is missing.
        StorageError: the disk refused.
    """
    statement = ArchiveSignature(**clean_archive.digests(root), signer=keys_in_files.public_bytes(key))
    folder_signature.write(root, statement, key)
