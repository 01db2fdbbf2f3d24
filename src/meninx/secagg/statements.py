"""Signed statements: the messages of a site to the others, in one canonical encoding.

Every statement names the session: the digest of study, run, roster and the exchange keys of all sites. So a
statement of another study, run or roster, or of a site that was shown other keys, is refused. The signature
covers a domain (``meninx/secagg/1``) and the encoded statement, whose first field is its kind; a signature of
one kind never counts as another.

An attacker on the network can drop statements but not change, replay or invent them. The statements of a
round are not secret from the coordinator, except that shares are encrypted to their recipient.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meninx.core.errors import DataError, PrivacyRefusal, expected, problem
from meninx.secagg.roster import Roster

StatementT = TypeVar("StatementT", bound="SignedStatement")
STATEMENT_LIMIT = 1 << 23  # bytes; an upload of 10^8 parameters by 32 sites needs 1.6 MB
_DOMAIN = b"meninx/secagg/1/statement\x00"
_SESSION_DOMAIN = b"meninx/secagg/1/session\x00"
_ATTEMPT_DOMAIN = b"meninx/secagg/1/attempt\x00"


class SignedStatement(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"
):
    """Base of every signed statement.

    Attributes:
        site: the signing site.
    """

    site: str


class Announcement(SignedStatement, frozen=True, kw_only=True, tag="announcement"):
    """A site's fresh exchange key of this run.

    Attributes:
        study: name of the study.
        run: identifier of the run.
        roster: hash of the roster that the site signed.
        exchange_key: X25519 public key, 32 bytes.
    """

    study: str
    run: str
    roster: bytes
    exchange_key: bytes


class InSession(SignedStatement, frozen=True, kw_only=True):
    """Base of the statements of a round.

    Attributes:
        session: :func:`session_digest`.
        round: number of the round, from 0.
        attempt: number of the attempt at this round, from 0.
        members: U0, the sites of this attempt, sorted.
        model: digest of the starting model. A coordinator that gives one site a different model could extract
            that site's update from an honest sum (Pasquini et al. 2022).
    """

    session: bytes
    round: int
    attempt: int
    members: tuple[str, ...]
    model: bytes = b""

    @property
    def context(self) -> bytes:
        """Digest of session, round, attempt, members and model, which binds all keys of the attempt."""
        fields = (self.session, self.round, self.attempt, self.members, self.model)
        return hashlib.sha256(_ATTEMPT_DOMAIN + msgspec.msgpack.encode(fields)).digest()


class Masked(InSession, frozen=True, kw_only=True, tag="masked"):
    """A site's statement about the masked vector that it uploads.

    Attributes:
        bits: of the ring, 32 or 64.
        length: elements of the vector.
        leaves: SHA-256 of each chunk of the vector, one after the other.
        tags: per recipient, its authentication tag of the whole vector (:mod:`.payload`).
        own: commitment to the seed of the site's own mask.
        pairs: per other member, the commitment to the seed of the common mask.
        shares: per other member, the shares for it, encrypted.
    """

    bits: int
    length: int
    leaves: bytes
    tags: tuple[tuple[str, bytes], ...]
    own: bytes
    pairs: tuple[tuple[str, bytes], ...]
    shares: tuple[tuple[str, bytes], ...]


class Agreement(InSession, frozen=True, kw_only=True, tag="agreement"):
    """The one set of survivors that a site accepts in a round.

    Attributes:
        survivors: U1, sorted.
    """

    survivors: tuple[str, ...]


class Opening(InSession, frozen=True, kw_only=True, tag="opening"):
    """The secrets that a site opens after the agreement.

    Attributes:
        survivors: U1, sorted.
        own: seed of the site's own mask.
        pairs: per member outside the survivors, the seed of the common mask.
        shares: (lost survivor, other, share): the share of the lost survivor's own seed if ``other`` is
            empty, else of the seed that it shares with a member outside the survivors.
    """

    survivors: tuple[str, ...]
    own: bytes
    pairs: tuple[tuple[str, bytes], ...]
    shares: tuple[tuple[str, str, bytes], ...] = ()


class Shared(InSession, frozen=True, kw_only=True, tag="shared"):
    """A site's statement about the rest of a vector that it shared among all sites (:mod:`.sharing`).

    Attributes:
        bits: of the ring, 32 or 64.
        length: elements of the vector.
        leaves: SHA-256 of each chunk of the rest, one after the other.
        shares: per other site, the seed of its share, encrypted.
    """

    bits: int
    length: int
    leaves: bytes
    shares: tuple[tuple[str, bytes], ...]


class PartialSum(InSession, frozen=True, kw_only=True, tag="partial sum"):
    """A site's statement about the sum of its shares.

    Attributes:
        bits: of the ring, 32 or 64.
        length: elements of the vector.
        leaves: SHA-256 of each chunk of the sum, one after the other.
    """

    bits: int
    length: int
    leaves: bytes


class CkksKey(SignedStatement, frozen=True, kw_only=True, tag="ckks key"):
    """The key with which all sites of a run encrypt and decrypt (:mod:`.encrypted`).

    Attributes:
        study: name of the study.
        run: identifier of the run.
        roster: hash of the roster that the site signed.
        public: context without the secret key, for the coordinator.
        secret: context with the secret key, encrypted.
        ephemeral: X25519 public key, used once.
        keys: per other site, the key that decrypts ``secret``, encrypted to the site.
    """

    study: str
    run: str
    roster: bytes
    public: bytes
    secret: bytes
    ephemeral: bytes
    keys: tuple[tuple[str, bytes], ...]


class Encrypted(InSession, frozen=True, kw_only=True, tag="encrypted"):
    """A site's statement about the ciphertexts that it uploads (:mod:`.encrypted`).

    Attributes:
        key: SHA-256 of the context without the secret key.
        digest: SHA-256 of the ciphertexts.
    """

    key: bytes
    digest: bytes


class _Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    body: bytes
    signature: bytes


def sign(statement: SignedStatement, signing_key: Ed25519PrivateKey) -> bytes:
    """Return a statement with its signature, encoded."""
    body = msgspec.msgpack.encode(statement)
    return msgspec.msgpack.encode(_Envelope(body, signing_key.sign(_DOMAIN + body)))


def read(data: bytes, kind: type[StatementT], roster: Roster) -> StatementT:
    """Return a statement after verifying the signature of the member that it names.

    Raises:
        DataError: the bytes are too long, or not such a statement in its canonical encoding.
        PrivacyRefusal: the site is not a member, or did not sign this.
    """
    what = kind.__name__.lower()
    if len(data) > STATEMENT_LIMIT:
        rule = f"a statement of at most {STATEMENT_LIMIT:,} bytes"
        raise DataError(expected(rule, got=f"{len(data):,}", where=what))
    try:
        envelope = msgspec.msgpack.decode(data, type=_Envelope)
        statement = msgspec.msgpack.decode(envelope.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(problem("this is not a statement of meninx", where=what)) from error
    # One statement has one encoding. Otherwise two encodings of it could both carry a valid signature, and
    # the same message would count as two different ones.
    if msgspec.msgpack.encode(statement) != envelope.body:
        raise DataError(problem("the statement is not in its canonical encoding", where=what))
    try:
        roster.public_key(statement.site).verify(envelope.signature, _DOMAIN + envelope.body)
    except InvalidSignature:
        refusal = f"the signature is not that of {statement.site}"
        raise PrivacyRefusal(problem(refusal, where=what)) from None
    return statement


def session_digest(roster: Roster, run: str, exchange_keys: Mapping[str, bytes]) -> bytes:
    """Return the digest of study, run, roster and all exchange keys, which every later statement contains."""
    fields = (roster.study, run, roster.hash, sorted(exchange_keys.items()))
    return hashlib.sha256(_SESSION_DOMAIN + msgspec.msgpack.encode(fields)).digest()


def read_announcements(
    announcements: tuple[bytes, ...] | list[bytes], roster: Roster, run: str | None = None
) -> tuple[str, dict[str, bytes]]:
    """Return the run and the exchange key of each site that announced one.

    Args:
        announcements: signed announcements.
        roster: the roster that every site signed.
        run: the run to which they must belong; None takes that of the first.

    Raises:
        DataError, PrivacyRefusal: an announcement is forged or belongs to another study, run or roster, a
            site announced twice, or two sites announced the same key.
    """
    keys: dict[str, bytes] = {}
    for data in announcements:
        found = read(data, Announcement, roster)
        run = found.run if run is None else run
        if (found.study, found.run, found.roster) != (roster.study, run, roster.hash):
            what = f"the keys of {found.site} belong to another study, run or roster"
            raise PrivacyRefusal(problem(what, where="announcement"))
        if found.site in keys:
            raise PrivacyRefusal(problem(f"{found.site} announced two keys", where="announcement"))
        if len(found.exchange_key) != 32 or found.exchange_key in keys.values():
            raise PrivacyRefusal(problem(f"{found.site} has no key of its own", where="announcement"))
        keys[found.site] = found.exchange_key
    if run is None:
        raise DataError(problem("no site announced a key", where="announcements"))
    return run, keys
