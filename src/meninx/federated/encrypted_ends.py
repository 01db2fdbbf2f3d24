"""Encrypted aggregation: the two ends of :mod:`.aggregators` with homomorphic encryption (optional; TenSEAL).

The sites hold one key, the coordinator adds ciphertexts, and the sites decrypt the sum that a quorum agreed
on (:mod:`meninx.secagg.encrypted`). It suits small models, e.g. a head: a round carries the ciphertexts of
all survivors to each of them, 32 bytes per weight and survivor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meninx.core.errors import DataError, expected, problem
from meninx.federated.config import MOST_UNITS, AggregationConfig
from meninx.federated.contribution import METRICS, MOST_LOSS, Contribution, RoundSum, plain_length
from meninx.federated.masked import HistoryFile
from meninx.federated.messages import Position
from meninx.secagg import EncryptedAggregation, EncryptedSite, Roster
from meninx.secagg.ckks import LARGEST_VALUE

_SLACK = 1.01  # CKKS is not exact


def scale_of(clip: float, most_units: int = MOST_UNITS[32]) -> float:
    """Return the power of two, at most 1, by which contributions are multiplied to stay in the range of CKKS.

    >>> scale_of(0.5), scale_of(8.0)
    (0.125, 0.125)

    Args:
        clip: largest change of a weight in one round.
        most_units: units that a site has at most.
    """
    largest = most_units * max(clip, MOST_LOSS)
    return float(2.0 ** min(0.0, np.floor(np.log2(LARGEST_VALUE / largest))))


class EncryptedSiteEnd:
    """A site that encrypts its contribution under the key of all sites.

    Args:
        roster: signed by every site.
        name: of this site.
        key: its enrolled key.
        run: identifier of the run of the study.
        history: the site's file for all runs of the study.
        config: of the study's aggregation.
    """

    recomputes = False

    def __init__(
        self,
        roster: Roster,
        name: str,
        key: Ed25519PrivateKey,
        run: str,
        history: Path,
        config: AggregationConfig,
    ) -> None:
        self._file, self._clip = HistoryFile(history), config.clip
        self._most, self._scale = config.most_units, scale_of(config.clip, config.most_units)
        self._site = EncryptedSite(roster, name, key, run, record=self._file.add, history=self._file.read())

    def announce(self) -> bytes:
        """Return the site's signed exchange key, and the key of the run from the first site."""
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
        """Return the encrypted contribution."""
        self._file.tidy(self._site.entries())
        if given.units > self._most:
            rule = f"at most {self._most} units"
            raise DataError(expected(rule, got=given.units, where="weight"))
        values = given.plain(self._clip).astype(np.float64)
        values[-METRICS - 1] = 1.0  # the place of the units, which multiply everything
        values *= given.units * self._scale
        return self._site.upload(at.round, at.attempt, members, values, model=given.model)

    def agree(self, at: Position, survivors: Sequence[str]) -> bytes:
        """Return the site's signature over the survivors, its only one of the round."""
        return self._site.agree(at.round, at.attempt, survivors)

    def reveal(self, at: Position, agreements: Sequence[bytes], lost: Sequence[bytes]) -> bytes:
        """Return the decrypted sum over the agreed survivors.

        Args:
            at: round and attempt.
            agreements: signed by a quorum.
            lost: uploads of all survivors.
        """
        return self._site.decrypt(at.round, agreements, lost)

    def check(self, at: Position, transcript: bytes, total: bytes) -> tuple[float, bool]:
        """Refuse: each site adds and decrypts the sum itself."""
        raise DataError(problem("a study with encryption has no such request", where="aggregation"))

    def decoded(self, total: bytes) -> RoundSum:
        """Refuse, as :meth:`check`."""
        raise DataError(problem("a study with encryption has no such request", where="aggregation"))


class EncryptedRoundEnd:
    """The coordinator's sum of encrypted contributions.

    Args:
        roster: signed by every site.
        announcements: keys of the run, as the sites saw them.
        at: round and attempt.
        members: sites that are asked.
        config: of the study's aggregation.
        model: digest of what the sites' training began with.
        size: numbers of the common model.
    """

    recomputes = False
    agrees = True
    needs_all = False

    def __init__(
        self,
        roster: Roster,
        announcements: Sequence[bytes],
        at: Position,
        members: Sequence[str],
        config: AggregationConfig,
        model: bytes,
        size: int,
    ) -> None:
        self._scale = scale_of(config.clip, config.most_units)
        self._clip, self._size = config.clip, size
        self._sum = EncryptedAggregation(roster, announcements, at.round, at.attempt, members, model=model)

    @property
    def survivors(self) -> tuple[str, ...]:
        """Sites whose contributions arrived."""
        return self._sum.survivors

    def receive(self, site: str, upload: bytes) -> None:
        """Take an encrypted contribution in."""
        self._same(site, self._sum.receive(upload))

    def accept_agreement(self, site: str, agreement: bytes) -> None:
        """Take a signature over the survivors in."""
        self._same(site, self._sum.accept(agreement))

    @property
    def agreements(self) -> tuple[bytes, ...]:
        """Signatures of a quorum; empty while there is none."""
        return self._sum.agreements if self._sum.certified else ()

    def accept_reveal(self, site: str, reveal: bytes) -> None:
        """Take the sum in that a site decrypted."""
        self._same(site, self._sum.accept_sum(reveal))

    def enclosed(self, site: str, *, again: bool) -> tuple[bytes, ...]:
        """Return the uploads of all survivors, which the site adds and decrypts itself."""
        return self._sum.uploads()

    @property
    def complete(self) -> bool:
        """Whether a site decrypted the sum."""
        return self._sum.complete

    def total(self) -> RoundSum:
        """Return the sum of the round.

        Raises:
            DataError: no site has a unit, the sum is damaged, or a mean is beyond the clip.
        """
        total = self._sum.total() / self._scale
        if len(total) != plain_length(self._size) or not np.isfinite(total).all():
            raise DataError(problem("the sum has another length, or is not finite", where="round"))
        units = round(float(total[-METRICS - 1]))
        if units < 1:
            raise DataError(problem("the sum has no unit", where="round"))
        means = total / units
        mean = means[: -METRICS - 1].astype(np.float32)
        if (np.abs(mean) > _SLACK * self._clip).any():
            what = f"expected means of at most {self._clip:g}, got a larger one"
            raise DataError(problem(what, where="round"))
        return RoundSum.of_means(mean, units, [float(value) for value in means[-METRICS:]])

    def published(self) -> tuple[bytes, bytes]:
        """Return nothing: every site computed the sum already."""
        return b"", b""

    def verified(self, transcript: bytes, total: bytes) -> bool:
        """Return false: nothing is published."""
        return False

    @staticmethod
    def _same(site: str, signer: str) -> None:
        if site != signer:
            raise DataError(problem(f"the answer of {site} is signed by {signer}", where="round"))
