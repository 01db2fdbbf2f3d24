"""Keys by which an institution takes part in studies, their files, and their fingerprint in words.

Every site and the coordinator have three key pairs, made once by ``meninx federate enrol`` and ``new``:

- Ed25519 signs statements and the messages of secure aggregation,
- ECDSA P-384 identifies the site's node to Flower,
- ECDSA P-384 belongs to the TLS certificate (:mod:`.authority`).

Private keys lie in ``private/keys/`` (mode 0600, folder 0700) and never leave it. People compare
fingerprints by telephone; twelve words are 132 bits:

>>> len(words(bytes(32)).split()), words(bytes(32)).split()[0]
(12, 'a')
"""

from __future__ import annotations

import functools
import hashlib
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from meninx.core import files, signing_key, workspace
from meninx.core.errors import DataError, UsageError, problem
from meninx.core.signed_file import is_weak

WORDS, BITS_PER_WORD = 12, 11
KEYS = "keys"  # folder in the private room
_SIGNING, _NODE, _TLS = "signing.key", "node.key", "tls.key"
_NEXT, _RETIRED = "keys.next", "retired"  # folders in the private room


class PublicKeys(NamedTuple):
    """Public keys of an institution.

    Attributes:
        name: name of the site, or ``coordinator``.
        signing: raw Ed25519 public key, 32 bytes.
        node: ECDSA P-384 public key as SubjectPublicKeyInfo in DER.
        tls: the key of the TLS certificate, as ``node``.
    """

    name: str
    signing: bytes
    node: bytes
    tls: bytes

    def fingerprint(self) -> str:
        """Return 64 hexadecimal digits of SHA-256 over the name and the keys."""
        parts = (self.name.encode(), self.signing, self.node, self.tls)
        framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hashlib.sha256(b"meninx keys 1\0" + framed).hexdigest()

    def in_words(self) -> str:
        """Return the fingerprint as twelve words."""
        return words(bytes.fromhex(self.fingerprint()))


@dataclass(frozen=True)
class EnrolmentKeys:
    """Private keys of an institution.

    Attributes:
        name: name of the site, or ``coordinator``.
        signing: signs statements and messages.
        node: identifies the node to Flower.
        tls: belongs to the TLS certificate.
    """

    name: str
    signing: Ed25519PrivateKey
    node: ec.EllipticCurvePrivateKey
    tls: ec.EllipticCurvePrivateKey

    @property
    def public(self) -> PublicKeys:
        """The public keys."""
        signing = self.signing.public_key().public_bytes_raw()
        return PublicKeys(self.name, signing, spki(self.node.public_key()), spki(self.tls.public_key()))


def generate(name: str) -> EnrolmentKeys:
    """Return new keys from the operating system's entropy."""
    node, tls = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    return EnrolmentKeys(name, Ed25519PrivateKey.generate(), node, tls)


def store(root: Path, keys: EnrolmentKeys, *, folder: str = KEYS) -> None:
    """Write keys below ``root/private/keys``; an existing key is never replaced.

    Args:
        root: folder of the site or the study.
        keys: the keys.
        folder: folder in the private room.

    Raises:
        UsageError: there are keys already, or the private room is a link.
        StorageError: the disk refused.
    """
    room = root / workspace.PRIVATE / folder
    if any((room / name).exists() for name in (_SIGNING, _NODE, _TLS)):
        fix = "use them, or rotate them with `meninx federate enrol SITE --rotate`"
        raise UsageError(problem("the folder has keys already", where=f"{root.name}/private/keys", fix=fix))
    workspace.make_private(root)
    room.mkdir(mode=0o700, exist_ok=True)
    content = {
        _SIGNING: signing_key.pem(keys.signing),
        _NODE: _openssh(keys.node),
        _TLS: signing_key.pem(keys.tls),
    }
    for name, value in content.items():
        files.write_bytes(room / name, value, mode=files.PRIVATE_MODE)


def load(root: Path, name: str, *, folder: str = KEYS) -> EnrolmentKeys:
    """Return the keys in ``root/private/keys``.

    Args:
        root: folder of the site or the study.
        name: name of the site, or ``coordinator``.
        folder: folder in the private room.

    Raises:
        DataError: a key is missing, damaged or of another type.
    """
    room = root / workspace.PRIVATE / folder
    signing = _loaded(room / _SIGNING)
    node, tls = _loaded(room / _NODE, ssh=True), _loaded(room / _TLS)
    if (
        not isinstance(signing, Ed25519PrivateKey)
        or not isinstance(node, ec.EllipticCurvePrivateKey)
        or not isinstance(tls, ec.EllipticCurvePrivateKey)
    ):
        raise DataError(problem("a key has another type", where=f"{root.name}/private/{folder}"))
    return EnrolmentKeys(name, signing, node, tls)


def prepare_next(root: Path, name: str) -> EnrolmentKeys:
    """Return keys that :func:`replace` will put in place, from the disk if a rotation was interrupted.

    Raises:
        StorageError: the disk refused.
    """
    try:
        return load(root, name, folder=_NEXT)
    except DataError:  # none, or half of them: nothing was signed with them yet
        shutil.rmtree(root / workspace.PRIVATE / _NEXT, ignore_errors=True)
    keys = generate(name)
    store(root, keys, folder=_NEXT)
    return keys


def replace(root: Path) -> None:
    """Move the keys into ``private/retired`` and the prepared ones into their place, by two renames.

    Raises:
        StorageError: the disk refused.
    """
    room = root / workspace.PRIVATE
    try:
        (room / _RETIRED).mkdir(mode=0o700, exist_ok=True)
        if (room / KEYS).exists():
            (room / KEYS).rename(room / _RETIRED / f"{len(retired(root)):03}")
        (room / _NEXT).rename(room / KEYS)
    except OSError as error:
        raise files.storage_error(error, room) from error


def retired(root: Path) -> tuple[str, ...]:
    """Return the folders in the private room that hold keys out of use, the oldest first."""
    room = root / workspace.PRIVATE
    found = sorted((room / _RETIRED).iterdir()) if (room / _RETIRED).is_dir() else []
    return tuple(path.relative_to(room).as_posix() for path in found)


def tls_key_path(root: Path) -> Path:
    """Return where the private key of the TLS certificate lies, in PEM."""
    return root / workspace.PRIVATE / KEYS / _TLS


def read_ec_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return an ECDSA private key from a PEM file; DataError if it is none."""
    key = _loaded(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise DataError(problem("the key has another type", where=f"private/{path.name}"))
    return key


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key as SubjectPublicKeyInfo in DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def p384(key: bytes, *, where: str) -> ec.EllipticCurvePublicKey:
    """Return an ECDSA P-384 public key from its DER.

    Raises:
        DataError: it is none.
    """
    try:
        found = serialization.load_der_public_key(key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DataError(problem("a public key cannot be read", where=where)) from error
    if not isinstance(found, ec.EllipticCurvePublicKey) or not isinstance(found.curve, ec.SECP384R1):
        raise DataError(problem("a public key is not of ECDSA P-384", where=where))
    if spki(found) != key:
        raise DataError(problem("a public key is not in its one form", where=where))
    return found


def ed25519(key: bytes, *, where: str) -> Ed25519PublicKey:
    """Return an Ed25519 public key from its 32 bytes.

    Raises:
        DataError: it is none.
    """
    if is_weak(key):
        raise DataError(problem("a public key of Ed25519 is a weak one", where=where))
    try:
        return Ed25519PublicKey.from_public_bytes(key)
    except ValueError as error:
        raise DataError(problem("a public key is not of Ed25519", where=where)) from error


def words(digest: bytes) -> str:
    """Return the first 132 bits of a digest as twelve words of RFC 1751's list."""
    found = _word_list()
    number = int.from_bytes(digest, "big") >> (8 * len(digest) - WORDS * BITS_PER_WORD)
    parts = [
        found[number >> (BITS_PER_WORD * place) & ((1 << BITS_PER_WORD) - 1)]
        for place in reversed(range(WORDS))
    ]
    return " ".join(parts)


@functools.cache
def _word_list() -> tuple[str, ...]:
    text = (resources.files("meninx.federated") / "words.txt").read_text(encoding="ascii")
    return tuple(word for line in text.splitlines() if not line.startswith("#") for word in line.split())


def _openssh(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as Flower's nodes read it."""
    openssh, plain = serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, openssh, plain)


def _loaded(path: Path, *, ssh: bool = False) -> object:
    content = files.read_bytes(path, limit=signing_key.LIMIT)
    return signing_key.loaded(content, where=f"private/keys/{path.name}", ssh=ssh)
