"""Masked aggregation: the two ends of :mod:`.aggregators` over the protocol of :mod:`meninx.secagg`.

The coordinator sees the sum of a round and no single contribution, as ``meninx.secagg`` argues. Each site can
compute the sum again from what the coordinator publishes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meninx.core import files
from meninx.core.errors import DataError, problem
from meninx.federated.config import AggregationConfig
from meninx.federated.contribution import METRICS, MOST_LOSS, Contribution, RoundSum
from meninx.federated.messages import Position
from meninx.secagg import Aggregation, Quantiser, Roster, SiteProtocol, verify
from meninx.secagg.masks import Ring

_LIMIT = 1 << 28  # bytes of a history
WHOLE = 1 << 28
"""Bytes of uploads up to which the coordinator sends all of them to every site for the whole sum."""


def quantiser(config: AggregationConfig, sites: int) -> Quantiser:
    """Return how the contributions of a study become integers.

    Args:
        config: of the study.
        sites: sites of the roster.
    """
    return Quantiser(
        clip=config.clip, sites=sites, bits=config.ring_bits, max_weight=config.most_units, metrics=METRICS,
        metric_clip=MOST_LOSS,
    )  # fmt: skip


def _round_sum(scale: Quantiser, total: Ring) -> RoundSum:
    found = scale.decode(total)
    return RoundSum.of_means(found.mean, found.weight, found.metrics)


class HistoryFile:
    """What a site wrote down before it answered, one record per line; readable by its owner alone.

    Args:
        path: the file; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[bytes, ...]:
        """Return the records; a line that was cut short by a crash was never answered and is left out.

        Raises:
            DataError: the file is damaged before its end.
        """
        if not self._path.is_file():
            return ()
        *lines, torn = files.read_bytes(self._path, limit=_LIMIT).split(b"\n")
        if torn:
            self.rewrite(tuple(map(self._decoded, lines)))
        return tuple(map(self._decoded, lines))

    def add(self, record: bytes) -> None:
        """Append a record and wait until it is on the disk."""
        files.append_line(self._path, base64.b64encode(record).decode(), mode=files.PRIVATE_MODE)

    def rewrite(self, records: Sequence[bytes]) -> None:
        """Replace the file by the records that are still needed."""
        text = b"".join(base64.b64encode(record) + b"\n" for record in records)
        files.write_bytes(self._path, text, mode=files.PRIVATE_MODE)

    def tidy(self, needed: Sequence[bytes]) -> None:
        """Replace the file where it holds more than is still needed: secrets of earlier rounds and runs."""
        if len(self.read()) > len(needed):
            self.rewrite(needed)

    def _decoded(self, line: bytes) -> bytes:
        try:
            return base64.b64decode(line, validate=True)
        except binascii.Error as error:
            fix = "restore it from a backup, or leave the run; without it the site could sign twice"
            raise DataError(problem("the history is damaged", where=self._path.name, fix=fix)) from error


class MaskedSiteEnd:
    """A site that masks its contribution.

    Args:
        roster: signed by every site.
        name: of this site.
        key: its enrolled key.
        run: identifier of the run of the study.
        history: the site's file for all runs of the study.
        scale: how contributions become integers.
    """

    recomputes = True

    def __init__(
        self, roster: Roster, name: str, key: Ed25519PrivateKey, run: str, history: Path, scale: Quantiser
    ) -> None:
        self._file, self._scale, self._roster = HistoryFile(history), scale, roster
        self._protocol = SiteProtocol(
            roster, name, key, run, record=self._file.add, history=self._file.read()
        )

    def announce(self) -> bytes:
        """Return the site's signed exchange key of this run."""
        return self._protocol.announce()

    def meet(self, announcements: Sequence[bytes]) -> None:
        """Take the signed keys of all sites."""
        self._protocol.meet(announcements)

    def check_round(self, at: Position, members: Sequence[str]) -> None:
        """Refuse a round in which this site could upload nothing."""
        self._protocol.check_upload(at.round, at.attempt, members)

    def finish(self) -> None:
        """Forget the secrets of the run, on the disk too."""
        self._protocol.finish()
        self._file.rewrite(self._protocol.entries())

    def upload(self, at: Position, members: Sequence[str], given: Contribution) -> bytes:
        """Return the masked contribution, and forget the secrets of the round before."""
        self._file.tidy(self._protocol.entries())
        earlier = self._protocol.open_round
        if earlier is not None and earlier < at.round:
            self._close()
        vector = self._scale.encode(given.update, given.units, given.metrics(self._scale.clip))
        return self._protocol.upload(at.round, at.attempt, members, vector, model=given.model)

    def agree(self, at: Position, survivors: Sequence[str]) -> bytes:
        """Return the site's signature over the survivors, its only one of the round."""
        return self._protocol.agree(at.round, at.attempt, survivors)

    def reveal(self, at: Position, agreements: Sequence[bytes], lost: Sequence[bytes]) -> bytes:
        """Return the secrets that open the sum over the agreed survivors."""
        return self._protocol.reveal(at.round, agreements, lost)

    def check(self, at: Position, transcript: bytes, total: bytes) -> tuple[float, bool]:
        """Return the share of the sum that was computed again, and whether it is the coordinator's."""
        elements = self._elements(total)
        found = verify(transcript, elements, roster=self._roster, round=at.round, site=self._protocol)
        if self._protocol.open_round == at.round:  # its secrets are opened, and nothing asks for them again
            self._close()
        return found.share, found.matches

    def _close(self) -> None:
        self._protocol.close()
        self._file.rewrite(self._protocol.entries())

    def decoded(self, total: bytes) -> RoundSum:
        """Return what a published sum says."""
        return _round_sum(self._scale, self._elements(total))

    def _elements(self, total: bytes) -> Ring:
        width = self._scale.bits // 8
        if len(total) % width:
            raise DataError(problem("the published sum is damaged", where="sum"))
        return np.frombuffer(total, f"<u{width}")


class MaskedRoundEnd:
    """The coordinator's sum of masked contributions.

    Args:
        roster: signed by every site.
        announcements: signed keys of the run, as the sites saw them.
        at: round and attempt.
        members: sites that are asked.
        scale: how contributions become integers.
        model: digest of what the sites' training began with.
        size: numbers of the common model.
    """

    recomputes = True
    agrees = True
    needs_all = False

    def __init__(
        self,
        roster: Roster,
        announcements: Sequence[bytes],
        at: Position,
        members: Sequence[str],
        scale: Quantiser,
        model: bytes,
        size: int,
    ) -> None:
        self._scale, self._roster, self._round = scale, roster, at.round
        shape = (scale.length(size), scale.bits)
        self._sum = Aggregation(
            roster, announcements, at.round, at.attempt, members, model=model, shape=shape
        )
        self._uploads: dict[str, bytes] = {}

    @property
    def survivors(self) -> tuple[str, ...]:
        """Sites whose contributions arrived."""
        return self._sum.survivors

    def receive(self, site: str, upload: bytes) -> None:
        """Take a masked contribution in."""
        self._same(site, self._sum.receive(upload))
        self._uploads[site] = upload

    def accept_agreement(self, site: str, agreement: bytes) -> None:
        """Take a signature over the survivors in."""
        self._same(site, self._sum.accept(agreement))

    @property
    def agreements(self) -> tuple[bytes, ...]:
        """Signatures of a quorum; empty while there is none."""
        return self._sum.agreements if self._sum.certified else ()

    def accept_reveal(self, site: str, reveal: bytes) -> None:
        """Take opened secrets in."""
        self._same(site, self._sum.accept_reveal(reveal))

    def enclosed(self, site: str, *, again: bool) -> tuple[bytes, ...]:
        """Return the statements of survivors that did not reveal, whose secrets the others open."""
        return self._sum.lost() if again else ()

    @property
    def complete(self) -> bool:
        """Whether the sum can be opened."""
        return self._sum.complete

    def total(self) -> RoundSum:
        """Return the sum of the round."""
        return _round_sum(self._scale, self._sum.total())

    def published(self) -> tuple[bytes, bytes]:
        """Return the transcript with all uploads, and the sum; empty where that is too much to send."""
        if sum(map(len, self._uploads.values())) > WHOLE:
            return b"", b""
        transcript = self._sum.transcript().with_uploads(self._uploads)
        return transcript.to_bytes(), self._sum.total().tobytes()

    def verified(self, transcript: bytes, total: bytes) -> bool:
        """Return whether the sum is that of the signed uploads and the opened seeds."""
        elements = np.frombuffer(total, f"<u{self._scale.bits // 8}")
        return verify(transcript, elements, roster=self._roster, round=self._round).matches

    @staticmethod
    def _same(site: str, signer: str) -> None:
        if site != signer:
            raise DataError(problem(f"the answer of {site} is signed by {signer}", where="round"))
