"""Shared aggregation: the two ends of :mod:`.aggregators` with additive shares among all sites.

The sites are the aggregators of each other's updates (:mod:`meninx.secagg.sharing`). Every site has to take
part in every round, so a site that is away stops the study until it is back.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meninx.core.errors import DataError, problem
from meninx.federated.contribution import Contribution, RoundSum
from meninx.federated.masked import HistoryFile
from meninx.federated.messages import Position
from meninx.secagg import Quantiser, Roster, SharingAggregation, SharingSite


class SharedSiteEnd:
    """A site that shares its contribution among all sites.

    Args:
        roster: signed by every site.
        name: of this site.
        key: its enrolled key.
        run: identifier of the run of the study.
        history: the site's file for all runs of the study.
        scale: how contributions become integers.
    """

    recomputes = False

    def __init__(
        self, roster: Roster, name: str, key: Ed25519PrivateKey, run: str, history: Path, scale: Quantiser
    ) -> None:
        self._file, self._scale = HistoryFile(history), scale
        self._site = SharingSite(roster, name, key, run, record=self._file.add, history=self._file.read())

    def announce(self) -> bytes:
        """Return the site's signed exchange key of this run."""
        return self._site.announce()

    def meet(self, announcements: Sequence[bytes]) -> None:
        """Take the signed keys of all sites."""
        self._site.meet(announcements)

    def check_round(self, at: Position, members: Sequence[str]) -> None:
        """Refuse a round in which this site could upload nothing."""
        self._site.check_upload(at.round, at.attempt, members)

    def finish(self) -> None:
        """Forget the secrets of the run, on the disk too."""
        self._site.finish()
        self._file.rewrite(self._site.entries())

    def upload(self, at: Position, members: Sequence[str], given: Contribution) -> bytes:
        """Return the rest of the contribution and the encrypted shares."""
        self._file.tidy(self._site.entries())
        vector = self._scale.encode(given.update, given.units, given.metrics(self._scale.clip))
        return self._site.upload(at.round, at.attempt, members, vector, model=given.model)

    def agree(self, at: Position, survivors: Sequence[str]) -> bytes:
        """Return the site's signature over the survivors, which are all sites."""
        return self._site.agree(at.round, at.attempt, survivors)

    def reveal(self, at: Position, agreements: Sequence[bytes], lost: Sequence[bytes]) -> bytes:
        """Return the sum of the shares that this site got.

        Args:
            at: round and attempt.
            agreements: not needed; the sum is always over all sites.
            lost: statements of all other sites, with the encrypted shares.
        """
        return self._site.answer(at.round, at.attempt, lost)

    def check(self, at: Position, transcript: bytes, total: bytes) -> tuple[float, bool]:
        """Refuse: the coordinator publishes nothing from which the sum could be computed again."""
        raise DataError(problem("a study with shares has no such request", where="aggregation"))

    def decoded(self, total: bytes) -> RoundSum:
        """Refuse, as :meth:`check`."""
        raise DataError(problem("a study with shares has no such request", where="aggregation"))


class SharedRoundEnd:
    """The coordinator's sum of shared contributions.

    Args:
        roster: signed by every site.
        announcements: signed keys of the run, as the sites saw them.
        at: round and attempt.
        scale: how contributions become integers.
        model: digest of what the sites' training began with.
        size: numbers of the common model.
    """

    recomputes = False
    agrees = True
    needs_all = True

    def __init__(
        self,
        roster: Roster,
        announcements: Sequence[bytes],
        at: Position,
        scale: Quantiser,
        model: bytes,
        size: int,
    ) -> None:
        self._scale = scale
        shape = (scale.length(size), scale.bits)
        self._sum = SharingAggregation(roster, announcements, at.round, at.attempt, model=model, shape=shape)

    @property
    def survivors(self) -> tuple[str, ...]:
        """Sites whose contributions arrived."""
        return self._sum.survivors

    def receive(self, site: str, upload: bytes) -> None:
        """Take a shared contribution in."""
        self._same(site, self._sum.receive(upload))

    def accept_agreement(self, site: str, agreement: bytes) -> None:
        """Take a signature over the survivors in."""
        self._same(site, self._sum.agree(agreement))

    @property
    def agreements(self) -> tuple[bytes, ...]:
        """Signatures of all sites; empty while one is missing."""
        return self._sum.agreements

    def accept_reveal(self, site: str, reveal: bytes) -> None:
        """Take a site's sum of shares in."""
        self._same(site, self._sum.accept(reveal))

    def enclosed(self, site: str, *, again: bool) -> tuple[bytes, ...]:
        """Return the statements of all other sites, with the encrypted shares."""
        return self._sum.statements(site)

    @property
    def complete(self) -> bool:
        """Whether every site answered."""
        return self._sum.complete

    def total(self) -> RoundSum:
        """Return the sum of the round."""
        found = self._scale.decode(self._sum.total())
        return RoundSum.of_means(found.mean, found.weight, found.metrics)

    def published(self) -> tuple[bytes, bytes]:
        """Return nothing: the sum cannot be computed again without the shares."""
        return b"", b""

    def verified(self, transcript: bytes, total: bytes) -> bool:
        """Return false: nothing is published."""
        return False

    @staticmethod
    def _same(site: str, signer: str) -> None:
        if site != signer:
            raise DataError(problem(f"the answer of {site} is signed by {signer}", where="round"))
