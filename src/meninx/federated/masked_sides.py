"""Masked aggregation: the two sides of :mod:`.aggregators` over the protocol of :mod:`meninx.secagg`.

The coordinator sees the sum of a round and no single contribution, as ``meninx.secagg`` argues. Each site can
compute the sum again from what the coordinator publishes, and refuses a model that does not follow from it.
"""

from __future__ import annotations

from collections.abc import Sequence

from meninx.federated.contribution import Contribution, RoundSum
from meninx.federated.encodings import RingEncoding
from meninx.federated.messages import Position
from meninx.federated.secure_sides import KeptVectors, SecureRoundSide, SecureSiteSide
from meninx.secagg import Aggregation, Roster, SiteProtocol, verify


class MaskedSiteSide(SecureSiteSide[SiteProtocol, RingEncoding]):
    """A site that masks its contribution."""

    kind = SiteProtocol

    def upload(self, at: Position, members: Sequence[str], given: Contribution) -> bytes:
        """Return the masked contribution, and forget the secrets of the round before."""
        self._tidy()
        earlier = self._session.open_round
        if earlier is not None and earlier < at.round:
            self._close()
        vector = self._encoding.encode(given)
        return self._session.upload(at.round, at.attempt, members, vector, model=given.model)

    def reveal(self, at: Position, agreements: Sequence[bytes], lost: Sequence[bytes]) -> bytes:
        """Return the secrets that open the sum over the agreed survivors.

        Args:
            at: round and attempt.
            agreements: signed by a quorum.
            lost: statements of survivors that did not reveal, with the encrypted shares.
        """
        return self._session.reveal(at.round, agreements, lost)

    def check(self, at: Position, transcript: bytes, total: bytes) -> tuple[float, bool]:
        """Return the share of the sum that was computed again, and whether it is the coordinator's."""
        elements = self._encoding.elements(total)
        found = verify(transcript, elements, roster=self._session.roster, round=at.round, site=self._session)
        if self._session.open_round == at.round:  # its secrets are opened, and nothing asks for them again
            self._close()
        return found.share, found.matches

    def decoded(self, total: bytes) -> RoundSum:
        """Return what a published sum says."""
        return self._encoding.decode(self._encoding.elements(total))

    def _close(self) -> None:
        self._session.close()
        self._file.rewrite(self._session.entries())


class MaskedRoundSide(SecureRoundSide[Aggregation]):
    """The coordinator's sum of masked contributions.

    Args:
        roster: signed by every site.
        announcements: signed keys of the run, as the sites saw them.
        at: round and attempt.
        members: sites that are asked.
        encoding: how contributions become integers.
        model: digest of what the sites' training began with.
        size: numbers of the common model.
    """

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
            Aggregation(
                roster, announcements, at.round, at.attempt, members, model=model, shape=encoding.shape(size)
            )
        )
        self._encoding, self._roster, self._round = encoding, roster, at.round
        self._kept = KeptVectors()

    def receive(self, site: str, upload: bytes) -> None:
        """Take a masked contribution in, and keep it for the sites."""
        super().receive(site, upload)
        self._kept.add("upload", site, upload)

    def enclosed(self, site: str, *, again: bool) -> tuple[bytes, ...]:
        """Return the statements of survivors that did not reveal, whose secrets the others open."""
        return self._attempt.lost() if again else ()

    def total(self) -> RoundSum:
        """Return the sum of the round."""
        return self._encoding.decode(self._attempt.total())

    def published(self) -> tuple[bytes, bytes]:
        """Return the transcript with all uploads, and the sum; empty where that is too much to send."""
        if not self._kept.whole:
            return b"", b""
        transcript = self._attempt.transcript().with_uploads(self._kept.of("upload"))
        return transcript.to_bytes(), self._attempt.total().tobytes()

    def verified(self, transcript: bytes, total: bytes) -> bool:
        """Return whether the sum is that of the signed uploads and the opened seeds."""
        elements = self._encoding.elements(total)
        return verify(transcript, elements, roster=self._roster, round=self._round).matches
