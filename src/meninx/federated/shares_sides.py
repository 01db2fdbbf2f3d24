"""Shared aggregation: the two sides of :mod:`.aggregators` with additive shares among all sites.

The sites are the aggregators of each other's updates (:mod:`meninx.secagg.sharing`). Every site has to take
part in every round, so a site that is away stops the study until it is back. Each site can compute the sum
again from what the coordinator publishes, and refuses a model that does not follow from it.
"""

from __future__ import annotations

from collections.abc import Sequence

from meninx.federated.contribution import Contribution, RoundSum
from meninx.federated.encodings import RingEncoding
from meninx.federated.messages import Position
from meninx.federated.secure_sides import KeptVectors, SecureRoundSide, SecureSiteSide
from meninx.secagg import Roster, SharingAggregation, SharingSite
from meninx.secagg.sharing import SharingTranscript


class SharesSiteSide(SecureSiteSide[SharingSite, RingEncoding]):
    """A site that shares its contribution among all sites."""

    kind = SharingSite

    def upload(self, at: Position, members: Sequence[str], given: Contribution) -> bytes:
        """Return the rest of the contribution and the encrypted shares."""
        self._tidy()
        vector = self._encoding.encode(given)
        return self._session.upload(at.round, at.attempt, members, vector, model=given.model)

    def reveal(self, at: Position, agreements: Sequence[bytes], lost: Sequence[bytes]) -> bytes:
        """Return the sum of the shares that this site got.

        Args:
            at: round and attempt.
            agreements: not needed; the sum is always over all sites.
            lost: statements of all other sites, with the encrypted shares.
        """
        return self._session.answer(at.round, at.attempt, lost)

    def check(self, at: Position, transcript: bytes, total: bytes) -> tuple[float, bool]:
        """Return 1, for the whole sum was computed again, and whether it is the coordinator's."""
        elements = self._encoding.elements(total)
        return 1.0, self._session.recompute(at.round, at.attempt, transcript, elements)

    def decoded(self, total: bytes) -> RoundSum:
        """Return what a published sum says."""
        return self._encoding.decode(self._encoding.elements(total))


class SharesRoundSide(SecureRoundSide[SharingAggregation]):
    """The coordinator's sum of shared contributions.

    Args:
        roster: signed by every site.
        announcements: signed keys of the run, as the sites saw them.
        at: round and attempt.
        members: all sites; the sites refuse any others.
        encoding: how contributions become integers.
        model: digest of what the sites' training began with.
        size: numbers of the common model.
    """

    needs_all = True

    def __init__(
        self,
        roster: Roster,
        announcements: Sequence[bytes],
        at: Position,
        members: Sequence[str],
        encoding: RingEncoding,
        model: bytes,
        size: int,
    ) -> None:
        super().__init__(
            SharingAggregation(
                roster, announcements, at.round, at.attempt, model=model, shape=encoding.shape(size)
            )
        )
        self._encoding, self._names = encoding, roster.names
        self._kept = KeptVectors()

    def receive(self, site: str, upload: bytes) -> None:
        """Take a shared contribution in, and keep it for the sites."""
        super().receive(site, upload)
        self._kept.add("upload", site, upload)

    def accept_reveal(self, site: str, reveal: bytes) -> None:
        """Take a site's sum of shares in, and keep it for the sites."""
        super().accept_reveal(site, reveal)
        self._kept.add("answer", site, reveal)

    def enclosed(self, site: str, *, again: bool) -> tuple[bytes, ...]:
        """Return the statements of all other sites, with the encrypted shares."""
        return self._attempt.statements(site)

    def total(self) -> RoundSum:
        """Return the sum of the round."""
        return self._encoding.decode(self._attempt.total())

    def published(self) -> tuple[bytes, bytes]:
        """Return all rests and sums of shares, and the sum; empty where that is too much to send."""
        if not self._kept.whole:
            return b"", b""
        uploads, answers = self._kept.of("upload"), self._kept.of("answer")
        transcript = SharingTranscript(
            uploads=tuple(uploads[name] for name in self._names),
            answers=tuple(answers[name] for name in self._names),
        )
        return transcript.to_bytes(), self._attempt.total().tobytes()

    def verified(self, transcript: bytes, total: bytes) -> bool:
        """Return whether the sum is that of the signed rests and sums of shares."""
        return self._attempt.verified(transcript, self._encoding.elements(total))
