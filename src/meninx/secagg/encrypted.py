"""Encrypted aggregation: the protocol around CKKS, with the same agreement as masks.

The first site of the roster creates a key for the run and sends it to each other site, encrypted to the
site's enrolled key. Each site uploads ciphertexts with a signature over their digest. The sites agree on one
set of survivors per round. Then a site receives the signed uploads of exactly these survivors, adds them
itself, decrypts the sum, and returns it. So a site never decrypts a single update, nor any sum except the one
that a quorum signed, whatever the coordinator requests. A site that decrypts also knows the sum, and so the
next model, without trusting the coordinator.

The coordinator alone, which may send anything, learns one sum per round, over at least q sites. The
coordinator with one colluding site learns every update (:data:`.ckks.COLLUSION`). The network learns sizes
and times, and with the key of one site everything. There is no forward secrecy: the key of a run is encrypted
to long-lived keys, so a site's enrolled key, if it is stolen later, decrypts recorded traffic of the run.
Sums over changing participants leak over rounds as with masks (:mod:`.site_protocol`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from meninx.core.errors import DataError, PrivacyRefusal, UsageError, expected, problem
from meninx.core.randomness import KEY_BYTES
from meninx.secagg import payload
from meninx.secagg.agreed_attempt import AgreedAttempt
from meninx.secagg.ckks import ROUNDING, CkksAggregation, CkksSite, Values, ckks_keys
from meninx.secagg.masks import derive
from meninx.secagg.pair_secrets import check_announced
from meninx.secagg.roster import Roster
from meninx.secagg.shares import Draw
from meninx.secagg.site_history import (
    CkksKeyHeld,
    HistoryEntry,
    SurvivorsSigned,
    UpdateEncrypted,
)
from meninx.secagg.site_session import SiteSession
from meninx.secagg.statements import CkksKey, Encrypted, PartialSum, read, sign

_FIELD = 2**255 - 19
_NONCE = 12


class EncryptedSite(SiteSession):
    """One site's part in a run with homomorphic encryption.

    Guarantee: while no site colludes with the coordinator, an arbitrary coordinator learns at most one sum of
    updates per round, over at least a quorum of sites. CKKS draws its random numbers from the operating
    system, whatever ``draw`` is.

    Args and errors: as :class:`.SiteSession`.
    """

    _held: CkksKeyHeld | None = None
    _sent: UpdateEncrypted | None = None
    _signed: SurvivorsSigned | None = None

    def announce(self) -> bytes:
        """Return the signed exchange key, from the first site of the roster with the key of the run."""
        exchange = super().announce()
        if self.name != self.roster.names[0]:
            return msgspec.msgpack.encode((exchange, b""))
        if self._held is None:
            secret, public = ckks_keys()
            statement = sign(self._made_key(secret, public), self._signing_key)
            self._hold(
                CkksKeyHeld(study=self.roster.study, run=self.run, context=secret, statement=statement)
            )
        assert self._held is not None
        return msgspec.msgpack.encode((exchange, self._held.statement))

    def meet(self, announcements: Sequence[bytes]) -> None:
        """Accept the announcements of the sites of this run, once.

        Raises:
            PrivacyRefusal: as :meth:`.SiteSession.meet`; or the key of the run is missing, forged or
                different from an earlier one.
        """
        parts = [_parts(data) for data in announcements]
        super().meet([exchange for exchange, _ in parts])
        statement = _key_statement(parts)
        if self._held is not None and self._held.statement != statement:
            raise PrivacyRefusal(problem("another key was shown before in this run", where="CKKS key"))
        if self._held is None:
            found = _checked_key(statement, self.roster, self.run)
            context = self._opened_key(found)
            CkksSite(context)  # refuses anything but a context with a secret key
            self._hold(
                CkksKeyHeld(study=self.roster.study, run=self.run, context=context, statement=statement)
            )

    def upload(
        self, round: int, attempt: int, members: Sequence[str], vector: Values, *, model: bytes = b""
    ) -> bytes:
        """Return the signed ciphertexts of a vector; a repeated request returns the same bytes.

        Args:
            round: from 0; above every round that this site signed.
            attempt: from 0.
            members: U0, the sites of this attempt, including this one.
            vector: floating-point values within ±2^13.
            model: digest of the starting model; sites with different models are never in one sum.

        Raises:
            PrivacyRefusal: the round is closed, the members are strangers or below the quorum, or a later
                attempt was encrypted before.
            UsageError: the sites have not met.
        """
        chosen = self._members(members)
        self._check_round(round, attempt)
        here = self._here(round, attempt, chosen, model)
        if self._sent is not None and (round, attempt) <= (self._sent.round, self._sent.attempt):
            if self._statement(self._sent).context != here.context:
                what = "a later attempt, or one with other members or another model, was encrypted before"
                raise PrivacyRefusal(problem(what, where="upload", fix="ask for a later attempt"))
            return self._sent.upload
        held = self._key_of_run()
        ciphertexts = CkksSite(held.context).encrypt(vector)
        statement = Encrypted(
            site=self.name, session=here.session, round=round, attempt=attempt, members=chosen,
            model=model, key=_name_of(held, self.roster), digest=hashlib.sha256(ciphertexts).digest(),
        )  # fmt: skip
        head = sign(statement, self._signing_key)
        upload = payload.join(head, np.frombuffer(ciphertexts, dtype=np.uint8))
        self._sent = UpdateEncrypted(
            study=self.roster.study, run=self.run, round=round, attempt=attempt, upload=upload
        )
        self._write(self._sent)
        self._signed = None
        return upload

    def agree(self, round: int, attempt: int, survivors: Sequence[str]) -> bytes:
        """Return the signature over the survivors; this site gives only one per round.

        Raises:
            PrivacyRefusal: another set was signed in this round, or the set contains strangers, is below the
                quorum or lacks this site.
            UsageError: this site has uploaded nothing in this attempt.
        """
        if self._sent is None or (self._sent.round, self._sent.attempt) != (round, attempt):
            raise self._not_uploaded(round, attempt)
        self._signed = self._agreement(self._statement(self._sent), survivors, self._signed)
        return self._signed.agreement

    def decrypt(self, round: int, agreements: Sequence[bytes], uploads: Sequence[bytes]) -> bytes:
        """Return the sum over the survivors, signed.

        Args:
            round: of the agreement.
            agreements: signed by a quorum over the set that this site signed.
            uploads: of exactly these survivors.

        Raises:
            PrivacyRefusal: the quorum is not reached, or an upload is missing, forged or not of this attempt.
            UsageError: this site has signed no survivors in this round.
        """
        if self._sent is None or self._signed is None or self._signed.round != round:
            raise UsageError(problem(f"no survivors were signed in round {round}", where="decrypt"))
        here, survivors, held = self._statement(self._sent), self._signed.survivors, self._key_of_run()
        self._check_certificate(here, survivors, agreements)
        given = {}
        for upload in uploads:
            statement, ciphertexts = _read_upload(upload, self.roster)
            if (statement.context, statement.key) != (here.context, here.key) or statement.site in given:
                what = (
                    f"{statement.site} encrypted in another attempt or under another key, or is given twice"
                )
                raise PrivacyRefusal(problem(what, where="uploads"))
            given[statement.site] = ciphertexts
        if tuple(sorted(given)) != survivors:
            raise PrivacyRefusal(problem("these are not the uploads of the survivors", where="uploads"))
        aggregation = CkksAggregation(read(held.statement, CkksKey, self.roster).public)
        for name in survivors:
            aggregation.receive(given[name])
        total = CkksSite(held.context).decrypt(aggregation.total())
        ring = np.rint(total * ROUNDING).astype("<i8").view("<u8")
        summed = PartialSum(
            site=self.name, session=here.session, round=round, attempt=here.attempt, members=here.members,
            model=here.model, bits=64, length=len(ring), leaves=payload.leaves(ring),
        )  # fmt: skip
        return payload.join(sign(summed, self._signing_key), ring)

    def finish(self) -> None:
        """End the run and discard its keys; :meth:`entries` then contains no secret."""
        super().finish()
        self._held = self._sent = self._signed = None

    def _needed(self) -> list[HistoryEntry | None]:
        """Return the entries that are still needed: keys, and the upload of the last attempt."""
        last = self._last if self._last is not self._signed else None
        return [last, self._key, self._met, self._held, self._sent, self._signed]

    # the key of the run

    def _made_key(self, secret: bytes, public: bytes) -> CkksKey:
        """Return the statement with a fresh key for every other site."""
        ephemeral = X25519PrivateKey.from_private_bytes(self._draw(KEY_BYTES))
        key, context = self._draw(KEY_BYTES), _key_context(self.roster, self.run)
        keys = []
        for member in self.roster.members:
            if member.name != self.name:
                shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(exchange_key_of(member.key)))
                keys.append(
                    (
                        member.name,
                        _lock(key, derive(shared, context, "ckks", self.name, member.name), self._draw),
                    )
                )
        return CkksKey(
            site=self.name, study=self.roster.study, run=self.run, roster=self.roster.hash, public=public,
            secret=_lock(secret, key, self._draw), ephemeral=ephemeral.public_key().public_bytes_raw(),
            keys=tuple(keys),
        )  # fmt: skip

    def _opened_key(self, found: CkksKey) -> bytes:
        """Return the context that the key's maker encrypted to this site."""
        own = X25519PrivateKey.from_private_bytes(_exchange_secret(self._signing_key))
        context = _key_context(self.roster, self.run)
        try:
            shared = own.exchange(X25519PublicKey.from_public_bytes(found.ephemeral))
            locked = dict(found.keys)[self.name]
            key = _unlock(locked, derive(shared, context, "ckks", found.site, self.name))
            return _unlock(found.secret, key)
        except (InvalidTag, ValueError, KeyError):
            what = f"the key that {found.site} made is not for {self.name}, or was changed"
            raise PrivacyRefusal(problem(what, where="CKKS key")) from None

    def _hold(self, held: CkksKeyHeld) -> None:
        self._write(held)
        self._held = held

    def _key_of_run(self) -> CkksKeyHeld:
        if self._held is None:
            raise UsageError(problem("the sites of this run have not met", where=self.name))
        return self._held

    def _statement(self, sent: UpdateEncrypted) -> Encrypted:
        return read(payload.split(sent.upload)[0], Encrypted, self.roster)

    def _restore(self, entry: HistoryEntry) -> None:
        super()._restore(entry)
        if entry.run != self.run:
            return
        if isinstance(entry, CkksKeyHeld):
            self._held = entry
        elif isinstance(entry, UpdateEncrypted):
            self._sent, self._signed = entry, None
        elif isinstance(entry, SurvivorsSigned) and self._sent is not None:
            self._signed = entry


class EncryptedAggregation(AgreedAttempt):
    """The coordinator's side of one attempt with homomorphic encryption.

    Args:
        roster: signed by every site.
        announcements: of the run, as shown to the sites.
        round: from 0.
        attempt: from 0.
        members: U0, the sites that were asked.
        model: digest of the starting model.

    Raises:
        PrivacyRefusal: as :class:`.agreed_attempt.AgreedAttempt`; or the key of the run is missing or forged.
    """

    def __init__(
        self,
        roster: Roster,
        announcements: Sequence[bytes],
        round: int,
        attempt: int,
        members: Sequence[str],
        *,
        model: bytes = b"",
    ) -> None:
        parts = [_parts(data) for data in announcements]
        exchange = [data for data, _ in parts]
        super().__init__(roster, exchange, round, attempt, members, model=model)
        key = _checked_key(_key_statement(parts), roster, self.run)
        CkksAggregation(key.public)  # refuses a context that holds the secret key
        self._key = hashlib.sha256(key.public).digest()
        self._uploads: dict[str, bytes] = {}
        self._sums: dict[str, bytes] = {}

    def _uploaded(self) -> Iterable[str]:
        return self._uploads

    def receive(self, upload: bytes) -> str:
        """Add an upload and return the name of its site.

        Raises:
            PrivacyRefusal: it is forged, of another attempt, a second one of the site, or too late.
            DataError: it is malformed.
        """
        statement, _ = _read_upload(upload, self.roster)
        self._check_context(statement)
        known = self._uploads.get(statement.site)
        if known == upload:
            return statement.site
        if known is not None or self._survivors or statement.key != self._key:
            what = f"{statement.site} sent a second upload, a late one, or one under another key"
            raise PrivacyRefusal(problem(what, where="upload"))
        self._uploads[statement.site] = upload
        return statement.site

    def uploads(self) -> tuple[bytes, ...]:
        """Return the uploads of the survivors, for :meth:`EncryptedSite.decrypt`."""
        return tuple(self._uploads[name] for name in self.survivors)

    def accept_reveal(self, reveal: bytes) -> str:
        """Add the sum that a survivor decrypted and return its name.

        Raises:
            PrivacyRefusal: it is forged, of another attempt, or differs from that of another survivor.
        """
        head, body = payload.split(reveal)
        statement = read(head, PartialSum, self.roster)
        self._check_context(statement)
        if statement.site not in self._survivors:
            raise PrivacyRefusal(problem(f"{statement.site} is no survivor", where="sum"))
        payload.check_leaves(payload.vector_of(body, statement), statement)
        if self._sums and bytes(body) != next(iter(self._sums.values())):
            raise PrivacyRefusal(problem(f"{statement.site} decrypted another sum", where="sum"))
        self._sums[statement.site] = bytes(body)
        return statement.site

    @property
    def confirmed(self) -> tuple[str, ...]:
        """Survivors that decrypted this sum and signed it."""
        return tuple(sorted(self._sums))

    @property
    def complete(self) -> bool:
        """Whether a survivor decrypted the sum."""
        return bool(self._sums)

    def total(self) -> Values:
        """Return the sum over the survivors, float64.

        Raises:
            UsageError: no survivor decrypted it.
        """
        if not self._sums:
            raise UsageError(problem("no survivor has decrypted the sum", where="round"))
        return _values_of(next(iter(self._sums.values())))


def decrypted_sum(reveal: bytes) -> Values:
    """Return the sum, float64, that a site's own :meth:`EncryptedSite.decrypt` returned.

    Raises:
        DataError: it is cut off.
    """
    return _values_of(payload.split(reveal)[1])


def check_encrypted_announced(announcements: Mapping[str, bytes], roster: Roster, run: str) -> None:
    """Refuse announcements that no site would accept: see :func:`.pair_secrets.check_announced`.

    The first site of the roster, and no other, must also announce the key of the run.
    """
    parts = {site: _parts(data) for site, data in announcements.items()}
    check_announced({site: exchange for site, (exchange, _) in parts.items()}, roster, run)
    for site, (_, statement) in parts.items():
        if bool(statement) != (site == roster.names[0]):
            raise PrivacyRefusal(problem(f"the key of the run is not for {site} to make", where="CKKS key"))
        if statement:
            CkksAggregation(
                _checked_key(statement, roster, run).public
            )  # refuses a secret or foreign context


def exchange_key_of(key: bytes) -> bytes:
    """Return the X25519 public key that belongs to an Ed25519 public key (RFC 7748, section 4.1).

    >>> signing = Ed25519PrivateKey.from_private_bytes(bytes(32))
    >>> public = X25519PrivateKey.from_private_bytes(_exchange_secret(signing)).public_key()
    >>> exchange_key_of(signing.public_key().public_bytes_raw()) == public.public_bytes_raw()
    True
    """
    y = int.from_bytes(key, "little") & (2**255 - 1)
    return ((1 + y) * pow(1 - y, -1, _FIELD) % _FIELD).to_bytes(32, "little")


def _exchange_secret(signing_key: Ed25519PrivateKey) -> bytes:
    """Return the X25519 private key that belongs to an Ed25519 private key."""
    return hashlib.sha512(signing_key.private_bytes_raw()).digest()[:32]


def _lock(plain: bytes, key: bytes, draw: Draw) -> bytes:
    nonce = draw(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plain, None)


def _unlock(locked: bytes, key: bytes) -> bytes:
    return AESGCM(key).decrypt(locked[:_NONCE], locked[_NONCE:], None)


def _key_context(roster: Roster, run: str) -> bytes:
    fields = ("meninx/secagg/1/ckks", roster.study, run, roster.hash)
    return hashlib.sha256(msgspec.msgpack.encode(fields)).digest()


def _parts(announcement: bytes) -> tuple[bytes, bytes]:
    """Return the exchange key's announcement and the statement about the key of the run, empty for none."""
    try:
        return msgspec.msgpack.decode(announcement, type=tuple[bytes, bytes])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(problem("this is not an announcement of meninx", where="announcement")) from error


def _key_statement(parts: Sequence[tuple[bytes, bytes]]) -> bytes:
    found = [statement for _, statement in parts if statement]
    if len(found) != 1:
        rule = "one key of the run, made by the first site of the roster"
        raise PrivacyRefusal(expected(rule, got=len(found), where="announcements"))
    return found[0]


def _checked_key(statement: bytes, roster: Roster, run: str) -> CkksKey:
    found = read(statement, CkksKey, roster)
    wanted = (roster.names[0], roster.study, run, roster.hash)
    if (found.site, found.study, found.run, found.roster) != wanted:
        raise PrivacyRefusal(
            problem("the key belongs to another site, study, run or roster", where="CKKS key")
        )
    return found


def _name_of(held: CkksKeyHeld, roster: Roster) -> bytes:
    return hashlib.sha256(read(held.statement, CkksKey, roster).public).digest()


def _values_of(body: bytes | memoryview) -> Values:
    return np.asarray(np.frombuffer(body, dtype="<i8") / ROUNDING)


def _read_upload(upload: bytes, roster: Roster) -> tuple[Encrypted, bytes]:
    """Return the statement and the ciphertexts of an upload, whose digest was signed."""
    head, body = payload.split(upload)
    statement = read(head, Encrypted, roster)
    if hashlib.sha256(body).digest() != statement.digest:
        raise PrivacyRefusal(
            problem(f"the ciphertexts are not those that {statement.site} signed", where="upload")
        )
    return statement, bytes(body)
