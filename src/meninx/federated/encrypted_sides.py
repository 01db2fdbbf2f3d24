"""Encrypted aggregation: the two sides of :mod:`.aggregators` with CKKS (optional; TenSEAL).

The sites hold one key, the coordinator adds ciphertexts, and the sites decrypt the sum that a quorum agreed
on (:mod:`meninx.secagg.encrypted`). It suits small models, e.g. a head: a round carries the ciphertexts of
all survivors to each of them, 32 bytes per weight and survivor.

A site that decrypted a sum knows it without the coordinator, and refuses a model that does not follow from
it. The coordinator needs one site to decrypt; a site that it did not ask cannot check the model.
"""

from __future__ import annotations

from collections.abc import Sequence

from meninx.core.errors import DataError, problem
from meninx.federated.contribution import Contribution, RoundSum, plain_length
from meninx.federated.encodings import CkksEncoding
from meninx.federated.messages import Position
from meninx.federated.secure_sides import SecureRoundSide, SecureSiteSide
from meninx.secagg import EncryptedAggregation, EncryptedSite, Roster
from meninx.secagg.encrypted import decrypted_sum


class EncryptedSiteSide(SecureSiteSide[EncryptedSite, CkksEncoding]):
    """A site that encrypts its contribution under the key of all sites."""

    kind = EncryptedSite
    opens_sum = True

    def upload(self, at: Position, members: Sequence[str], given: Contribution) -> bytes:
        """Return the encrypted contribution."""
        self._tidy()
        vector = self._encoding.encode(given)
        return self._session.upload(at.round, at.attempt, members, vector, model=given.model)

    def reveal(self, at: Position, agreements: Sequence[bytes], lost: Sequence[bytes]) -> bytes:
        """Return the decrypted sum over the agreed survivors.

        Args:
            at: round and attempt.
            agreements: signed by a quorum.
            lost: uploads of all survivors.
        """
        return self._session.decrypt(at.round, agreements, lost)

    def check(self, at: Position, transcript: bytes, total: bytes) -> tuple[float, bool]:
        """Refuse: each site adds and decrypts the sum itself."""
        raise DataError(problem("a study with encryption has no such request", where="aggregation"))

    def decoded(self, total: bytes) -> RoundSum:
        """Return what a sum says that :meth:`reveal` returned."""
        return self._encoding.decode(decrypted_sum(total))


class EncryptedRoundSide(SecureRoundSide[EncryptedAggregation]):
    """The coordinator's sum of encrypted contributions.

    Args:
        roster: signed by every site.
        announcements: keys of the run, as the sites saw them.
        at: round and attempt.
        members: sites that are asked.
        encoding: how contributions become numbers.
        model: digest of what the sites' training began with.
        size: numbers of the common model.
    """

    def __init__(
        self,
        roster: Roster,
        announcements: Sequence[bytes],
        at: Position,
        members: Sequence[str],
        encoding: CkksEncoding,
        model: bytes,
        size: int,
    ) -> None:
        super().__init__(
            EncryptedAggregation(roster, announcements, at.round, at.attempt, members, model=model)
        )
        self._encoding, self._size = encoding, size

    def enclosed(self, site: str, *, again: bool) -> tuple[bytes, ...]:
        """Return the uploads of all survivors, which the site adds and decrypts itself."""
        return self._attempt.uploads()

    @property
    def confirmed(self) -> tuple[str, ...]:
        """Sites that decrypted and signed the sum."""
        return self._attempt.confirmed

    def total(self) -> RoundSum:
        """Return the sum of the round.

        Raises:
            DataError: no site has a unit, the sum is damaged, or a mean is beyond the clip.
        """
        total = self._attempt.total()
        if len(total) != plain_length(self._size):
            raise DataError(problem("the sum has another length, or is not finite", where="round"))
        return self._encoding.decode(total)

    def published(self) -> tuple[bytes, bytes]:
        """Return nothing: every site computed the sum already."""
        return b"", b""

    def verified(self, transcript: bytes, total: bytes) -> bool:
        """Return false: nothing is published."""
        return False
