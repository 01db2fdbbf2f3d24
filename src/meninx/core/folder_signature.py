"""The signature of a folder: ``signature.json``, a signed statement that names the key of its signer.

What the statement says is the folder's business: digests of its records, or of its list of files. Here is
what all of them share: where the file lies, and how it is written and read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from meninx.core import files, signed_file
from meninx.core.signed_file import Statement

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE = "signature.json"
SignatureT = TypeVar("SignatureT", bound="FolderSignature")


class FolderSignature(Statement, frozen=True, kw_only=True):
    """Base of what is signed for a folder; a subclass names its kind with ``tag``.

    Attributes:
        signer: raw public key, 32 bytes.
    """

    signer: bytes


def write(root: Path, statement: FolderSignature, key: Ed25519PrivateKey) -> None:
    """Write the signature of a folder.

    Raises:
        StorageError: the disk refused.
    """
    files.write_bytes(root / SIGNATURE, signed_file.seal(statement, key))


def read(root: Path, kind: type[SignatureT]) -> SignatureT | None:
    """Return what was signed, after checking the signature with the key that it names; None without one.

    Who holds that key is another question: compare :func:`meninx.core.signing_key.fingerprint`.

    Raises:
        DataError: it is no signature of this kind.
        PrivacyRefusal: it does not fit.
    """
    path = root / SIGNATURE
    if not path.is_file():
        return None
    content = files.read_bytes(path, limit=signed_file.LIMIT)
    statement = signed_file.read(content, kind, where=SIGNATURE)
    signed_file.check_signature(content, statement.signer, where=SIGNATURE)
    return statement
