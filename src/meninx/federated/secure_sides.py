"""Secure sides: what the two sides of :mod:`.aggregators` do, whatever hides the contributions.

A site's side is a session of :mod:`meninx.secagg` with the history file of the site, the coordinator's side
an attempt of :mod:`meninx.secagg`. :mod:`.masked_sides`, :mod:`.shares_sides` and :mod:`.encrypted_sides` add
what differs: how a contribution is hidden, what is opened, and how the sum is checked.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meninx.core.errors import DataError, problem
from meninx.federated.history_file import HistoryFile
from meninx.federated.messages import Position
from meninx.secagg import Roster
from meninx.secagg.agreed_attempt import AgreedAttempt
from meninx.secagg.site_session import SiteSession

SessionT = TypeVar("SessionT", bound=SiteSession)
EncodingKind = TypeVar("EncodingKind")
AttemptT = TypeVar("AttemptT", bound=AgreedAttempt)
WHOLE = 1 << 28
"""Bytes of vectors up to which the coordinator sends all of them to every site for the whole sum."""


class KeptVectors:
    """Vectors of an attempt, kept for its transcript while all of them have at most :data:`WHOLE` bytes.

    >>> kept = KeptVectors()
    >>> kept.add("upload", "north", b"123")
    >>> kept.whole, kept.of("upload")
    (True, {'north': b'123'})
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], bytes] = {}
        self.whole = True

    def add(self, kind: str, site: str, sent: bytes) -> None:
        """Keep what a site sent; keep nothing any more once it is too much."""
        self._kept[kind, site] = sent
        self.whole = self.whole and sum(map(len, self._kept.values())) <= WHOLE
        if not self.whole:
            self._kept.clear()

    def of(self, kind: str) -> dict[str, bytes]:
        """Return what was kept of one kind, by site."""
        return {site: sent for (one, site), sent in self._kept.items() if one == kind}


class SecureSiteSide(ABC, Generic[SessionT, EncodingKind]):
    """A site's session of one run, whose records lie in the site's history file.

    Args:
        roster: signed by every site.
        name: of this site.
        key: its enrolled key.
        run: identifier of the run of the study.
        history: the site's file for all runs of the study.
        encoding: how contributions become numbers.

    Attributes:
        kind: of the session.
    """

    kind: type[SessionT]

    knows_sum = True
    opens_sum = False

    def __init__(
        self,
        roster: Roster,
        name: str,
        key: Ed25519PrivateKey,
        run: str,
        history: Path,
        encoding: EncodingKind,
    ) -> None:
        self._file, self._encoding = HistoryFile(history), encoding
        self._session = self.kind(roster, name, key, run, record=self._file.add, history=self._file.read())

    def announce(self) -> bytes:
        """Return the site's signed keys of this run."""
        return self._session.announce()

    def meet(self, announcements: Sequence[bytes]) -> None:
        """Take the signed keys of all sites."""
        self._session.meet(announcements)

    def check_round(self, at: Position, members: Sequence[str]) -> None:
        """Refuse a round in which this site could upload nothing."""
        self._session.check_upload(at.round, at.attempt, members)

    def agree(self, at: Position, survivors: Sequence[str]) -> bytes:
        """Return the site's signature over the survivors."""
        return self._session.agree(at.round, at.attempt, survivors)

    def finish(self) -> None:
        """Forget the secrets of the run, on the disk too."""
        self._session.finish()
        self._file.rewrite(self._session.entries())

    def _tidy(self) -> None:
        """Remove what the history file holds beyond what is still needed."""
        self._file.tidy(self._session.entries())


class SecureRoundSide(ABC, Generic[AttemptT]):
    """The coordinator's side over an attempt whose survivors sign who is in the sum.

    Args:
        attempt: that collects what the sites send.
    """

    agrees = True
    needs_all = False
    recomputes = True

    def __init__(self, attempt: AttemptT) -> None:
        self._attempt = attempt

    @property
    def survivors(self) -> tuple[str, ...]:
        """Sites whose contributions arrived."""
        return self._attempt.survivors

    def receive(self, site: str, upload: bytes) -> None:
        """Take a hidden contribution in."""
        _refuse_another(site, self._attempt.receive(upload))

    def accept_agreement(self, site: str, agreement: bytes) -> None:
        """Take a signature over the survivors in."""
        _refuse_another(site, self._attempt.accept(agreement))

    @property
    def agreements(self) -> tuple[bytes, ...]:
        """Signatures over the survivors; empty while there are too few."""
        return self._attempt.agreements if self._attempt.certified else ()

    def accept_reveal(self, site: str, reveal: bytes) -> None:
        """Take in what a site opened."""
        _refuse_another(site, self._attempt.accept_reveal(reveal))

    @property
    def complete(self) -> bool:
        """Whether the sum can be computed."""
        return self._attempt.complete

    @property
    def confirmed(self) -> tuple[str, ...]:
        """No site: each is asked to compute the sum again."""
        return ()


def _refuse_another(site: str, signer: str) -> None:
    if site != signer:
        raise DataError(problem(f"the answer of {site} is signed by {signer}", where="round"))
