"""The signature of a dossier: Ed25519 over the digest of its list of files, so over every file.

The list, ``checksums.sha256``, names every file but itself and the signature. A file that is changed, added
or removed contradicts the list, and a changed list contradicts the signature.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from meninx.core import folder_signature, integrity, signing_key, workspace
from meninx.core.errors import UsageError, problem
from meninx.core.folder_signature import FolderSignature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

UNSIGNED = "unsigned"


class DossierSignature(FolderSignature, frozen=True, kw_only=True, tag="egress dossier"):
    """What is signed: ``signature.json``.

    Attributes:
        checksums: SHA-256 of ``checksums.sha256``.
        files: number of files in that list.
        run: identity of the run whose model is to be released.
    """

    checksums: str
    files: int
    run: str


def key_in(path: Path, out: Path) -> Ed25519PrivateKey:
    """Return the key in a file, made on first use with mode 0600.

    Args:
        path: the file.
        out: the dossier, in which a secret key must not lie.

    Raises:
        UsageError: the file lies in the dossier.
        DataError: the file is no key of Ed25519.
        PrivacyRefusal: others than its owner may read it.
    """
    try:
        workspace.apart(path, [out])
    except UsageError:
        fix = "keep it where nobody else reads it"
        raise UsageError(
            problem("the secret key must lie outside the dossier", where="key", fix=fix)
        ) from None
    return signing_key.made_or_read(path)


def write(root: Path, key: Ed25519PrivateKey, run: str) -> None:
    """Sign the list of files of a dossier."""
    statement = DossierSignature(
        checksums=integrity.digest_of(root),
        files=len(integrity.read(root)),
        run=run,
        signer=signing_key.public_bytes(key),
    )
    folder_signature.write(root, statement, key)


def read(root: Path) -> DossierSignature | None:
    """Return what was signed, see :func:`.folder_signature.read`."""
    return folder_signature.read(root, DossierSignature)
