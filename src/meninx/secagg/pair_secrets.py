"""Pair secrets: the secret of a site with each other site of a run, and the keys derived from it.

One X25519 exchange per pair and run gives a secret from which HKDF derives, separately for each attempt: the
seed of the common mask, the key that encrypts shares in one direction, and the key of an authentication tag
in one direction. The secret itself never leaves this object.

An outsider who sees all public keys learns none of these. A colluding site knows the secrets of its own pairs
only. After :meth:`PairSecrets.erase` the site itself cannot compute a mask again. Exchange keys are fresh for
each run, so an attacker who takes over the site's machine later cannot compute it either, as far as memory
and disk are really erased.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from meninx.core.errors import DataError, PrivacyRefusal, problem
from meninx.secagg import payload
from meninx.secagg.masks import Mask, Ring, apply_masks, check_ring, commitment, derive
from meninx.secagg.roster import Roster
from meninx.secagg.shares import SHARE_BYTES, Draw, seal, split_secret, unseal
from meninx.secagg.statements import InSession, Masked, read_announcements


def check_announced(announcements: Mapping[str, bytes], roster: Roster, run: str) -> None:
    """Refuse exchange keys that no site of a run would accept.

    Args:
        announcements: signed announcements by the name of the site that sent them.
        roster: signed by every site.
        run: identifier of the run.

    Raises:
        DataError, PrivacyRefusal: an announcement is forged, is another site's, belongs to another study, run
            or roster, repeats the key of another site, or has a key that leads to a known secret.
    """
    _, keys = read_announcements(tuple(announcements.values()), roster, run)
    if set(keys) != set(announcements):
        raise PrivacyRefusal(problem("a site announced the key of another one", where="announcement"))
    own = X25519PrivateKey.generate()
    for site, key in keys.items():
        _agreed(own, site, key)


def _agreed(own: X25519PrivateKey, other: str, key: bytes) -> bytes:
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(key))
    except ValueError:  # a point of low order, for which the shared secret is zero whatever the own key
        raise PrivacyRefusal(problem(f"the key of {other} is not valid", where="announcements")) from None


class PairSecrets:
    """The secrets of one site with the other sites of a run.

    Args:
        name: of this site.
        private_key: its X25519 key of the run, 32 bytes.
        public_keys: X25519 keys of all sites of the run, by name.

    Raises:
        PrivacyRefusal: a key leads to a known secret (a point of low order).
    """

    def __init__(self, name: str, private_key: bytes, public_keys: Mapping[str, bytes]) -> None:
        self.name = name
        own = X25519PrivateKey.from_private_bytes(private_key)
        self._secrets: dict[str, bytearray] = {}
        for other, key in public_keys.items():
            if other != name:
                self._secrets[other] = bytearray(_agreed(own, other, key))

    @property
    def sites(self) -> tuple[str, ...]:
        """All sites of the run including this one, sorted."""
        return tuple(sorted((*self._secrets, self.name)))

    def seed(self, context: bytes, other: str) -> bytes:
        """Return the seed of the common mask of this site and another one in one attempt."""
        return derive(self._secrets[other], context, "mask", *sorted((self.name, other)))

    def tag_key(self, statement: Masked) -> bytes:
        """Return the key with which this site checks the vector of another site (:mod:`.payload`)."""
        return derive(self._secrets[statement.site], statement.context, "tag", statement.site, self.name)

    def masked(self, vector: Ring, own_seed: bytes | bytearray, position: InSession) -> Ring:
        """Return a vector plus this site's own mask and the signed masks of all its pairs in an attempt."""
        masked = vector.copy()
        context = position.context
        pairs = [Mask(self.seed(context, other), add=self.name < other) for other in self._others(position)]
        apply_masks(masked, [Mask(own_seed), *pairs])
        return masked

    def statement(
        self,
        masked: Ring,
        own_seed: bytes | bytearray,
        position: InSession,
        points: Sequence[int],
        threshold: int,
        draw: Draw,
    ) -> Masked:
        """Return the statement that this site signs about its masked vector.

        Args:
            masked: from :meth:`masked`.
            own_seed: of the site's own mask.
            position: session, round, attempt and members.
            points: number of each other member, in the order of the members.
            threshold: shares that rebuild a seed.
            draw: returns that many random bytes.
        """
        others, context = self._others(position), position.context
        seeds = [own_seed, *(self.seed(context, other) for other in others)]
        split = [split_secret(seed, points, threshold, draw=draw) for seed in seeds]
        tags, pairs, shares = [], [], []
        for number, other in enumerate(others):
            secret = self._secrets[other]
            tag = payload.tag(masked, derive(secret, context, "tag", self.name, other))
            pieces = b"".join(shares_of_one[number] for shares_of_one in split)
            tags.append((other, tag))
            pairs.append((other, commitment(seeds[number + 1], context)))
            shares.append((other, seal(pieces, secret, context, self.name, other, draw=draw)))
        return Masked(
            site=self.name,
            session=position.session,
            round=position.round,
            attempt=position.attempt,
            members=position.members,
            model=position.model,
            bits=check_ring(masked),
            length=len(masked),
            leaves=payload.leaves(masked),
            tags=tuple(tags),
            own=commitment(own_seed, context),
            pairs=tuple(pairs),
            shares=tuple(shares),
        )

    def unsealed(self, statement: Masked) -> dict[str, bytes]:
        """Return this site's shares from another's upload.

        Returns:
            Member -> share of the common seed of the other site and that member; the empty name stands for
            the other site's own seed.

        Raises:
            PrivacyRefusal: the shares are not for this site, or were made for another attempt.
            DataError: they are malformed.
        """
        sealed = dict(statement.shares).get(self.name)
        if sealed is None or statement.site not in self._secrets:
            what = f"the upload of {statement.site} has no share for {self.name}"
            raise PrivacyRefusal(problem(what, where="lost"))
        secret = self._secrets[statement.site]
        plain = unseal(sealed, secret, statement.context, statement.site, self.name)
        names = ("", *(name for name in statement.members if name != statement.site))
        if len(plain) != SHARE_BYTES * len(names):
            raise DataError(problem(f"the shares of {statement.site} have the wrong length", where="lost"))
        return {name: plain[i * SHARE_BYTES : (i + 1) * SHARE_BYTES] for i, name in enumerate(names)}

    def seal(self, plaintext: bytes, context: bytes, recipient: str, *, draw: Draw) -> bytes:
        """Return bytes encrypted to another site in one attempt (:func:`.shares.seal`)."""
        return seal(plaintext, self._secrets[recipient], context, self.name, recipient, draw=draw)

    def unseal(self, sealed: bytes, context: bytes, sender: str) -> bytes:
        """Return the bytes that another site encrypted to this one in one attempt.

        Raises:
            PrivacyRefusal: they were changed, replayed, or encrypted by or to a different site.
        """
        return unseal(sealed, self._secrets[sender], context, sender, self.name)

    def erase(self) -> None:
        """Overwrite the secrets."""
        for secret in self._secrets.values():
            secret[:] = bytes(len(secret))
        self._secrets = {}

    def _others(self, position: InSession) -> tuple[str, ...]:
        return tuple(name for name in position.members if name != self.name)
