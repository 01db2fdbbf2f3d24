"""The sealed file: a header that anybody can read, and chunks that one key opens.

    meninx escrow 1      magic and version, ended by a line feed
    4 bytes              length of the header
    header               JSON: site, fingerprints of keys, salt, nonce prefix, keyed digest of the content
    chunks               :mod:`.sealed_stream`; the header is authenticated with each of them

The content key is random to everybody else: HKDF-SHA-256 over a subkey of the site key (``kind`` is ``key``),
or over an X25519 exchange of a fresh key with that of a broker (``broker``), with a fresh salt.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Literal

import msgspec
from msgspec import Meta

from meninx.core import files, plain
from meninx.core.errors import DataError, PrivacyRefusal, UsageError, expected, problem
from meninx.deid.escrow import broker_key, sealed_stream
from meninx.deid.identity.keys import SiteKey, framed, normal, read_key

MAGIC = b"meninx escrow 1\n"
NAME = "escrow.meninx"
BY_KEY = "key"  # value of the setting `escrow` for the site key's holder
_LONGEST_HEADER = 4096
_LABEL = b"meninx escrow 1, content key"

Hex16 = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
Hex32 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Hex32OrNone = Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")]


class EscrowHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands before the chunks.

    Attributes:
        kind: who opens it.
        site: name of the site, normalised.
        key: fingerprint of the site key for this site.
        broker: fingerprint of the broker's key; empty without one.
        fresh: public half of the key that was made for this file; empty without a broker.
        salt: of the derivation of the content key.
        prefix: of the nonces.
        content: digest of the text under a subkey of the site key; tells the writer whether it changed.
    """

    kind: Literal["key", "broker"]
    site: Annotated[str, Meta(min_length=1, max_length=256)]
    key: Hex16
    broker: Hex32OrNone = ""
    fresh: Hex32OrNone = ""
    salt: Hex32
    prefix: Annotated[str, Meta(pattern="^[0-9a-f]{14}$")]
    content: Hex32


@dataclass(frozen=True)
class Recipient:
    """Who will be able to open an escrow.

    Attributes:
        broker: public key of a broker, 32 bytes; None for the site key's holder.
    """

    broker: bytes | None = None

    @classmethod
    def of(cls, setting: str) -> Recipient:
        """Return the recipient that a setting names: ``key``, or the file of a broker's public key.

        Raises:
            DataError, PrivacyRefusal: see :func:`.broker_key.read_public`.
        """
        return cls(None if setting == BY_KEY else broker_key.read_public(Path(setting)))

    def header(self, key: SiteKey, content: bytes) -> tuple[EscrowHeader, bytes]:
        """Return a new header and its content key.

        Raises:
            DataError: the broker's key is one with which every exchange gives zeros.
        """
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        salt, prefix = secrets.token_bytes(32), secrets.token_bytes(sealed_stream.PREFIX)
        common = {"site": key.site, "key": key.fingerprint(), "salt": salt.hex(), "prefix": prefix.hex()}
        if self.broker is None:
            made = EscrowHeader(kind="key", content=content.hex(), **common)
            return made, _derived(key.derive("escrow"), made)
        fresh = X25519PrivateKey.generate()
        made = EscrowHeader(
            kind="broker",
            content=content.hex(),
            broker=broker_key.fingerprint(self.broker),
            fresh=fresh.public_key().public_bytes_raw().hex(),
            **common,
        )
        return made, _derived(_shared(fresh.private_bytes_raw(), self.broker), made)

    def is_of(self, header: EscrowHeader) -> bool:
        """Return whether a file was sealed for this recipient."""
        return header.broker == (broker_key.fingerprint(self.broker) if self.broker else "")


@dataclass(frozen=True)
class Opener:
    """A key that may open an escrow: exactly one of the two files.

    Attributes:
        key: file of the site key.
        broker: file of a broker's private key.
    """

    key: Path | None = None
    broker: Path | None = None

    def __post_init__(self) -> None:
        if (self.key is None) == (self.broker is None):
            fix = "name the site key with --key FILE, or the broker's private key with --broker FILE"
            raise UsageError(expected("one key", got="none or two", where="key", fix=fix))

    @property
    def path(self) -> Path:
        """The file that was given."""
        place = self.key or self.broker
        assert place is not None
        return place

    def content_key(self, header: EscrowHeader, *, where: str) -> bytes:
        """Return the content key of a file.

        Raises:
            PrivacyRefusal: the file was sealed for another key; names whose.
        """
        if self.broker is not None:
            private = broker_key.read_private(self.broker)
            own = broker_key.fingerprint(private.public_key().public_bytes_raw())
            if header.kind != "broker" or header.broker != own:
                got = f"one for the broker {header.broker[:16]}" if header.broker else "one for a site key"
                rule = f"an escrow for the broker {own[:16]}"
                raise PrivacyRefusal(expected(rule, got=got, where=where, fix="ask that broker, or the site"))
            return _derived(_shared(private.private_bytes_raw(), bytes.fromhex(header.fresh)), header)
        key = read_key(self.key, header.site)
        if header.kind != "key":
            fix = "send the file and the pseudonyms to the broker"
            got = f"one for the broker {header.broker[:16]}"
            raise PrivacyRefusal(expected("an escrow for the site key", got=got, where=where, fix=fix))
        if key.fingerprint() != header.key:
            got = f"one of the site {shown(header.site)!r} under another key"
            fix = "name the key with which that site de-identified the archive"
            raise PrivacyRefusal(expected("an escrow of this key", got=got, where=where, fix=fix))
        return _derived(key.derive("escrow"), header)

    def log_key(self, header: EscrowHeader) -> bytes:
        """Return the key of the access log that belongs to this key."""
        if self.broker is None:
            return read_key(self.key, header.site).derive("escrow access log")
        secret = broker_key.read_private(self.broker).private_bytes_raw()
        return hmac.digest(secret, b"meninx escrow access log 1", "sha256")


def write(path: Path, recipient: Recipient, key: SiteKey, content: bytes, text: Iterable[bytes]) -> None:
    """Write a sealed file with mode 0600, and its SHA-256 beside it.

    Args:
        path: the file; replaced once the new one is complete.
        recipient: who can open it.
        key: the site's.
        content: keyed digest of the text, see :func:`content_digest`.
        text: pieces of the text.

    Raises:
        StorageError: the disk refused.
    """
    header, secret = recipient.header(key, content)
    encoded = msgspec.json.encode(header, order="sorted")
    with files.atomic(path, mode=files.PRIVATE_MODE) as stream:
        stream.write(MAGIC + len(encoded).to_bytes(4, "big") + encoded)
        sealed_stream.write(stream, secret, bytes.fromhex(header.prefix), encoded, text)
    line = f"{files.digest(path)}  {path.name}\n"
    files.write_text(digest_place(path), line, mode=files.PRIVATE_MODE)


def digest_place(path: Path) -> Path:
    """Return where the SHA-256 of a sealed file stands, in the form of ``sha256sum``."""
    return path.with_name(path.name + ".sha256")


def is_current(path: Path, recipient: Recipient, key: SiteKey, content: bytes) -> bool:
    """Return whether an undamaged file for this recipient holds this content already."""
    if not path.is_file() or not digest_place(path).is_file():
        return False
    try:
        header = read_header(path)
        listed = files.read_text(digest_place(path), limit=_LONGEST_HEADER)
    except DataError:
        return False
    return (
        recipient.is_of(header)
        and header.key == key.fingerprint()
        and hmac.compare_digest(header.content, content.hex())
        and listed == f"{files.digest(path)}  {path.name}\n"
    )


def content_digest(key: SiteKey, text: Iterable[bytes]) -> bytes:
    """Return the digest of a text under a subkey of the site key, 32 bytes."""
    digest = hmac.new(key.derive("escrow content"), digestmod="sha256")
    for piece in text:
        digest.update(piece)
    return digest.digest()


def read_header(path: Path) -> EscrowHeader:
    """Return the header of a sealed file; nothing of it is authentic before the chunks are read.

    Raises:
        DataError: it is none, or one of another version.
    """
    with files.regular(path) as stream:
        return _header(stream, path.name)[0]


def read(path: Path, opener: Opener) -> Iterator[bytes]:
    """Yield the text of a sealed file in pieces.

    Guarantee: as :func:`.sealed_stream.read`.

    Raises:
        DataError: it is no sealed file.
        PrivacyRefusal: the key is not that of the file, or the file was changed.
    """
    with files.regular(path) as stream:
        header, encoded = _header(stream, path.name)
        secret = opener.content_key(header, where=path.name)
        prefix = bytes.fromhex(header.prefix)
        yield from sealed_stream.read(stream, secret, prefix, encoded, where=path.name)


def refuse_other_site(header: EscrowHeader, site: str | None, *, where: str) -> None:
    """Refuse the escrow of a site that was not named; None accepts every site.

    Raises:
        PrivacyRefusal: with the names of both.
    """
    if site is not None and normal(site) != header.site:
        got = f"one of the site {shown(header.site)!r}"
        fix = "name the escrow of that site, or leave out --site"
        raise PrivacyRefusal(
            expected(f"an escrow of the site {shown(normal(site))!r}", got=got, where=where, fix=fix)
        )


def shown(text: str) -> str:
    """Return the name of a site for a message: printable, at most 64 characters."""
    return "".join(sign if sign.isprintable() else "?" for sign in text[:64])


def _header(stream: IO[bytes], where: str) -> tuple[EscrowHeader, bytes]:
    if stream.read(len(MAGIC)) != MAGIC:
        raise DataError(problem("the file is no escrow of this version of meninx", where=where))
    size = int.from_bytes(stream.read(4), "big")
    if not 0 < size <= _LONGEST_HEADER:
        raise DataError(problem("the header of the escrow is damaged", where=where))
    encoded = stream.read(size)
    header = plain.from_json(encoded, EscrowHeader, where=where)
    if (header.kind == "broker") != bool(header.broker and header.fresh):
        raise DataError(problem("the header of the escrow is damaged", where=where))
    return header, encoded


def _shared(private: bytes, public: bytes) -> bytes:
    """Return the secret of an exchange, bound to the two public keys."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    own = X25519PrivateKey.from_private_bytes(private)
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        fix = "ask the broker for the public key again"
        raise PrivacyRefusal(
            problem("the exchange with this key is not secret", where="escrow", fix=fix)
        ) from error


def _derived(secret: bytes, header: EscrowHeader) -> bytes:
    """Return the content key: HKDF, with what names the recipient in its info."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = _LABEL + framed(header.kind, header.site, header.key, header.broker, header.fresh)
    return HKDF(SHA256(), 32, bytes.fromhex(header.salt), info).derive(secret)
