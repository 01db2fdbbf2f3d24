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

from meninx.core import artifacts, files, folder_signature, integrity
from meninx.core import signing_key as keys_in_files
from meninx.core.artifacts import DeidRecord
from meninx.core.folder_signature import FolderSignature
from meninx.deid.identity.keys import SiteKey
from meninx.deid.papers.statement import STATEMENT

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_PURPOSE = "signature of clean archives"


class ArchiveSignature(FolderSignature, frozen=True, kw_only=True, tag="clean archive"):
    """What is signed: ``signature.json``.

    Attributes:
        record: SHA-256 of ``deid.json``, which holds the number of lines and the last digest of the log.
        checksums: SHA-256 of ``checksums.sha256``, which lists the images and the audit log.
        statement: SHA-256 of ``statement.html``.
    """

    record: str
    checksums: str
    statement: str


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
    statement = ArchiveSignature(**digests(root), signer=keys_in_files.public_bytes(key))
    folder_signature.write(root, statement, key)


def digests(root: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that is signed, by the name of its field."""
    return {
        "record": files.digest(root / artifacts.place(DeidRecord)),
        "checksums": files.digest(root / integrity.CHECKSUMS),
        "statement": files.digest(root / STATEMENT),
    }


def read(root: Path) -> ArchiveSignature | None:
    """Return what was signed, see :func:`.folder_signature.read`."""
    return folder_signature.read(root, ArchiveSignature)
