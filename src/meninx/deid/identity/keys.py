"""The site key, the only secret of a site: every pseudonym, UID and date shift is derived from it."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import unicodedata
from dataclasses import dataclass
from io import BufferedReader
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any

from meninx.core import files
from meninx.core.errors import DataError, PrivacyRefusal, StorageError, expected, problem

MINIMUM_BYTES, MAXIMUM_BYTES = 32, 1 << 20
# Of 64 random hexadecimal digits, fewer than ten are distinct once in 10**12 keys; of 32 random bytes, never.
MINIMUM_DISTINCT = 10
_SHORTEST_PERIOD = 16  # bytes: 128 bits if they are random
_SALT = b"meninx de-identification, key derivation 1"


def normal(text: str) -> str:
    """Return ``text`` in the one form in which identities are compared: NFKC, stripped, casefolded.

    Leading zeros stay.
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).strip().casefold()).strip()


class SiteKey:
    """Subkeys for one site, derived as HKDF (RFC 5869) does with HMAC-SHA-256.

    Guarantee: without the bytes of the key file no output can be computed from an original value, and no
        subkey tells anything about another purpose or another site. Whoever holds the key can recompute every
        pseudonym from a list of candidates, so the key must stay in the hospital.
    """

    def __init__(self, secret: bytes, site: str) -> None:
        _refuse_guessable(secret, "the site key")
        self._root = hmac.digest(_SALT, secret, "sha256")
        self.site = normal(site)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a worker process that is being started; see :func:`refuse_pickle`."""
        refuse_pickle()
        return self.__dict__

    def derive(self, purpose: str) -> bytes:
        """Return the 32-byte subkey of one purpose, e.g. ``"uid"``."""
        return hmac.digest(self._root, framed("purpose", purpose, "site", self.site) + b"\x01", "sha256")

    def fingerprint(self) -> str:
        """Return 32 hexadecimal digits that differ for two keys or two sites and reveal nothing else."""
        return self.derive("fingerprint").hex()[:32]


def refuse_pickle() -> None:
    """Refuse to copy or pickle an object that holds a key, unless it goes to a worker that is being started.

    Raises:
        TypeError: no worker of this process is being started.
    """
    if get_spawning_popen() is None:
        raise TypeError("an object that holds a site key cannot be pickled; name a key file")


def framed(*parts: str) -> bytes:
    """Return the parts with their lengths, so that no two lists of parts give the same bytes."""
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def read_key(path: Path | None, site: str) -> SiteKey:
    """Return the site key in a file; its bytes are used as they are.

    Guarantee: on POSIX a key is used only if no other user can read or replace the file; see
        :func:`refuse_open_to_others`.

    Raises:
        PrivacyRefusal: no file was named, it cannot be read, others may read or change it, it holds fewer
            than 32 bytes, or bytes that no random generator gives (zeros, one short text again and again).
    """
    if path is None:
        fix = "name the site's own with --key FILE; --key FILE --new-key makes it"
        raise PrivacyRefusal(problem("there is no key", where="key", fix=fix))
    try:
        with files.regular(path) as stream:
            refuse_open_to_others(path, stream, "key")
            secret = stream.read(MAXIMUM_BYTES + 1)
        if len(secret) > MAXIMUM_BYTES:
            raise DataError(problem("the file is too large", where="key"))
    except (DataError, OSError) as error:
        fix = "name the key file of this site with --key FILE; --new-key makes it when there is none yet"
        what, got = (
            f"a readable key file of at most {MAXIMUM_BYTES:,} bytes",
            "none" if not path.exists() else "another one",
        )
        raise PrivacyRefusal(expected(what, got=got, where="key", fix=fix)) from error
    _refuse_guessable(secret, "key")
    return SiteKey(secret, site)


def refuse_open_to_others(path: Path, stream: BufferedReader, where: str) -> None:
    """Refuse a secret file that another user of the machine may read or replace.

    A link is followed: its target is checked, and the owner of the link. Windows and file systems without
    owners and modes are not checked.

    Args:
        path: the file, as it was named.
        stream: the open file; its own mode is checked, so it cannot be exchanged in between.
        where: name of the setting, for the message.

    Raises:
        PrivacyRefusal: with the command that mends it.
    """
    if os.name != "posix" or not hasattr(os, "geteuid"):
        return
    found, user = os.fstat(stream.fileno()), os.geteuid()
    if found.st_mode & 0o077:
        fix = f"run `chmod 600 {path.name}`; if others could read it, consider a new key for new archives"
        got = f"mode {stat.S_IMODE(found.st_mode):04o}"
        raise PrivacyRefusal(
            expected("a file that only its owner can read and write", got=got, where=where, fix=fix)
        )
    # The administrator, as whom a container often runs, may use the file of any user.
    if user and not {found.st_uid, path.lstat().st_uid} <= {user, 0}:
        fix = f"run `chown {user} {path.name}` as the administrator, or name a file of your own"
        raise PrivacyRefusal(
            expected("a file of your own", got="a file or link of another user", where=where, fix=fix)
        )
    folder = path.resolve().parent.stat().st_mode
    if folder & stat.S_IWOTH and not folder & stat.S_ISVTX:
        fix = "move it to a folder that only you can write to, or run `chmod o-w` on its folder"
        raise PrivacyRefusal(
            expected("a folder that others cannot change", got="one open to everybody", where=where, fix=fix)
        )


@dataclass(frozen=True)
class KeyFile:
    """The file that holds a site's key. It is read when a stage or a :class:`Deidentifier` begins.

    Attributes:
        path: where the file lies.

    Example:
        >>> KeyFile(Path("north.key"))
        KeyFile(path=PosixPath('north.key'))
    """

    path: Path

    @classmethod
    def create(cls, path: Path | str) -> KeyFile:
        """Write a new random key and return its file; see :func:`make_key`."""
        return cls(make_key(Path(path)))

    def read(self, site: str) -> SiteKey:
        """Return the key for one site; see :func:`read_key`."""
        return read_key(self.path, site)


def throwaway_key(site: str) -> SiteKey:
    """Return a random key that is never written, for a dry run before the site has its key."""
    return SiteKey(secrets.token_bytes(MINIMUM_BYTES), site)


def refuse_existing_key(path: Path) -> None:
    """Refuse to make a key where there is one.

    Raises:
        PrivacyRefusal: the file exists; a key is never overwritten, because nothing de-identified with it
            could be continued.
    """
    if path.exists():
        fix = "leave out --new-key to use the key that is there, or name another file"
        rule = "a new file for the key"
        raise PrivacyRefusal(expected(rule, got="an existing one", where=path.name, fix=fix))


def make_key(path: Path) -> Path:
    """Write a new random key of 64 hexadecimal digits (256 bits) with mode 0600 and return its path.

    Raises:
        PrivacyRefusal: as :func:`refuse_existing_key`.
        StorageError: the file cannot be written.
    """
    refuse_existing_key(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:  # also where another process has just made it
        raise StorageError(
            expected("a writable folder for the key", got=error.strerror, where=str(path.parent))
        ) from error
    with os.fdopen(handle, "wb") as stream:
        stream.write(secrets.token_hex(32).encode())
        stream.flush()
        os.fsync(stream.fileno())
    return path


def plain_digest(content: bytes) -> str:
    """Return the SHA-256 of ``content`` as hexadecimal digits.

    For the private room only, never for what is published.
    """
    return hashlib.sha256(content).hexdigest()


def _refuse_guessable(secret: bytes, where: str) -> None:
    """Refuse a key that is too short, or that no random generator gives."""
    fix = "name another file with --key FILE; --key FILE --new-key makes a good one"
    if len(secret) < MINIMUM_BYTES:
        rule, got = f"a key of at least {MINIMUM_BYTES} bytes", f"{len(secret)} bytes"
        raise PrivacyRefusal(expected(rule, got=got, where=where, fix=fix))
    if len(set(secret)) < MINIMUM_DISTINCT:
        rule, got = "a random key", f"one of {len(set(secret))} distinct bytes"
        raise PrivacyRefusal(expected(rule, got=got, where=where, fix=fix))
    if (secret + secret).find(secret, 1) < _SHORTEST_PERIOD:
        raise PrivacyRefusal(expected("a random key", got="a short text repeated", where=where, fix=fix))
