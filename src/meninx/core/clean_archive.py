"""What stages share about a clean archive, which ``meninx deid`` writes: names in it, and its signature."""

from __future__ import annotations

from pathlib import Path

from meninx.core import artifacts, files, folder_signature, integrity, signing_key
from meninx.core.artifacts import DeidRecord
from meninx.core.errors import PrivacyRefusal, expected
from meninx.core.folder_signature import FolderSignature

IMAGES, STATEMENT = "images", "statement.html"


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


def is_image(path: str) -> bool:
    """Return whether a path in the list of digests is that of an image."""
    return path.startswith(f"{IMAGES}/")


def digests(root: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that is signed, by the name of its field.

    Raises:
        DataError: one of them is missing.
    """
    return {
        "record": files.digest(root / artifacts.place(DeidRecord)),
        "checksums": files.digest(root / integrity.CHECKSUMS),
        "statement": files.digest(root / STATEMENT),
    }


def read_signature(root: Path) -> ArchiveSignature | None:
    """Return what was signed, see :func:`.folder_signature.read`."""
    return folder_signature.read(root, ArchiveSignature)


def other_files(root: Path, signed: ArchiveSignature) -> list[str]:
    """Return the names of files that are not those that were signed."""
    names = {
        "record": artifacts.place(DeidRecord),
        "checksums": integrity.CHECKSUMS,
        "statement": STATEMENT,
    }
    there = digests(root)
    return [names[key] for key in names if there[key] != getattr(signed, key)]


def checked_signer(root: Path, record: DeidRecord) -> str:
    """Return the fingerprint of the key that signed an archive as it lies there; empty without a signature.

    Raises:
        DataError: a file that is signed is missing, or the signature is none.
        PrivacyRefusal: the signature fits neither its key nor the files.
    """
    signed = read_signature(root)
    if signed is None:
        return ""
    signer, others = signing_key.fingerprint(signed.signer), other_files(root, signed)
    if others or signer != record.signer:
        got = f"other content of {', '.join(others)}" if others else "another key than deid.json names"
        rule, fix = "the archive that was signed", "`meninx verify` says what was changed"
        raise PrivacyRefusal(expected(rule, got=got, where=folder_signature.SIGNATURE, fix=fix))
    return signer
