"""Aggregation: the two sides of how the contributions of a round are added up, behind one small seam.

The agent of a site holds a :class:`SiteSide`, the coordinator makes a :class:`RoundSide` for each attempt at
a round. Both know contributions and sums, not how they are protected::

    site                             coordinator
    upload(contribution) ──bytes──▶  receive(site, bytes)
    agree(survivors)     ──bytes──▶  accept_agreement(site, bytes)     only where agrees
    reveal(agreements)   ──bytes──▶  accept_reveal(site, bytes)        only where agrees
                                     total() ─▶ RoundSum
    check(transcript)    ◀──bytes──  published()                       only where recomputes

:mod:`.masked_sides`, :mod:`.shares_sides` and :mod:`.encrypted_sides` hide the updates from the coordinator,
and every site can check that the next model follows from the sum.

Here is the plain one, which shows every update to the coordinator. A site cannot check the next model: it
does not know the updates of the others, and the coordinator does not publish them. So the coordinator of a
plain study can send any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from meninx.core.errors import DataError, expected, problem
from meninx.federated.contribution import Contribution, RoundSum, plain_length, plain_sum
from meninx.federated.messages import Position
from meninx.federated.vector import Vector, from_bytes, to_bytes


class SiteSide(Protocol):
    """A site's side of the aggregation, for one run of a study."""

    @property
    def knows_sum(self) -> bool:
        """Whether a site can learn the sum without believing the coordinator, and so check the next model."""

    @property
    def opens_sum(self) -> bool:
        """Whether what a site reveals is the sum itself, which :meth:`decoded` reads."""

    def announce(self) -> bytes:
        """Return the site's signed keys of this run; empty where none are needed."""

    def meet(self, announcements: Sequence[bytes]) -> None:
        """Take the signed keys of all sites."""

    def check_round(self, at: Position, members: Sequence[str]) -> None:
        """Raise every error of :meth:`upload` that does not depend on the contribution.

        Called before training, so that no step is wasted.
        """

    def upload(self, at: Position, members: Sequence[str], given: Contribution) -> bytes:
        """Return what the site uploads; the same bytes when it is asked again."""

    def agree(self, at: Position, survivors: Sequence[str]) -> bytes:
        """Return the site's signature over the survivors of a round."""

    def reveal(self, at: Position, agreements: Sequence[bytes], lost: Sequence[bytes]) -> bytes:
        """Return the secrets that open the sum over the agreed survivors."""

    def check(self, at: Position, transcript: bytes, total: bytes) -> tuple[float, bool]:
        """Return the share of the sum that was computed again, and whether it is the coordinator's."""

    def decoded(self, total: bytes) -> RoundSum:
        """Return what a sum says that was published or, where :attr:`opens_sum`, revealed.

        Raises:
            DataError: no sum of contributions has this value.
        """

    def finish(self) -> None:
        """Forget the secrets of the run, on the disk too; what was signed stays on record."""


class RoundSide(Protocol):
    """The coordinator's side of the aggregation, for one attempt at a round."""

    @property
    def recomputes(self) -> bool:
        """Whether sites can compute the sum themselves."""

    @property
    def agrees(self) -> bool:
        """Whether the sites agree on survivors and reveal secrets before there is a sum."""

    @property
    def survivors(self) -> tuple[str, ...]:
        """Sites whose contributions arrived."""

    def receive(self, site: str, upload: bytes) -> None:
        """Take a site's upload in."""

    def accept_agreement(self, site: str, agreement: bytes) -> None:
        """Take a site's signature in."""

    @property
    def agreements(self) -> tuple[bytes, ...]:
        """Signatures of a quorum; empty while there is none."""

    def accept_reveal(self, site: str, reveal: bytes) -> None:
        """Take a site's secrets in."""

    @property
    def needs_all(self) -> bool:
        """Whether every member has to give an update and to answer later on."""

    def enclosed(self, site: str, *, again: bool) -> tuple[bytes, ...]:
        """Return what goes to a site beside the agreements when it is asked to reveal.

        Args:
            site: who is asked.
            again: some survivors did not answer the first time.
        """

    @property
    def complete(self) -> bool:
        """Whether the sum can be opened."""

    @property
    def confirmed(self) -> tuple[str, ...]:
        """Sites that computed this very sum themselves and signed it, so that none has to be asked again."""

    def total(self) -> RoundSum:
        """Return the sum of the round."""

    def published(self) -> tuple[bytes, bytes]:
        """Return the transcript and the sum, from which sites compute the sum again; empty for none."""

    def verified(self, transcript: bytes, total: bytes) -> bool:
        """Return whether a published transcript leads to its sum, by the check of the sites."""


class PlainSiteSide:
    """A site that shows its contribution.

    Args:
        clip: largest change of a weight in one round.
    """

    knows_sum = False
    opens_sum = False

    def __init__(self, clip: float) -> None:
        self._clip = clip

    def announce(self) -> bytes:
        """Return nothing."""
        return b""

    def meet(self, announcements: Sequence[bytes]) -> None:
        """Do nothing."""

    def check_round(self, at: Position, members: Sequence[str]) -> None:
        """Do nothing: every round is taken."""

    def finish(self) -> None:
        """Do nothing."""

    def upload(self, at: Position, members: Sequence[str], given: Contribution) -> bytes:
        """Return the contribution."""
        return to_bytes(given.plain(self._clip))

    def agree(self, at: Position, survivors: Sequence[str]) -> bytes:
        """Refuse: nothing is hidden that could be opened."""
        raise _not_asked()

    def reveal(self, at: Position, agreements: Sequence[bytes], lost: Sequence[bytes]) -> bytes:
        """Refuse, as :meth:`agree`."""
        raise _not_asked()

    def check(self, at: Position, transcript: bytes, total: bytes) -> tuple[float, bool]:
        """Refuse: a site does not have the contributions of the others."""
        raise _not_asked()

    def decoded(self, total: bytes) -> RoundSum:
        """Refuse, as :meth:`check`."""
        raise _not_asked()


class PlainRoundSide:
    """The sum of contributions that the coordinator sees.

    Args:
        members: sites that were asked.
        size: numbers of the common model.
        clip: largest change of a weight in one round.
    """

    recomputes = False
    agrees = False
    needs_all = False
    agreements: tuple[bytes, ...] = ()
    confirmed: tuple[str, ...] = ()

    def __init__(self, members: Sequence[str], size: int, clip: float) -> None:
        self._members, self._size, self._clip = tuple(members), size, clip
        self._received: dict[str, Vector] = {}

    @property
    def survivors(self) -> tuple[str, ...]:
        """Sites whose contributions arrived."""
        return tuple(name for name in self._members if name in self._received)

    def receive(self, site: str, upload: bytes) -> None:
        """Take a contribution in.

        Raises:
            DataError: of a stranger, of another length, or out of range.
        """
        if site not in self._members:
            raise DataError(problem("the site was not asked", where=site))
        vector = from_bytes(upload, plain_length(self._size))
        if not (np.abs(vector[: self._size]) <= self._clip).all():
            got = "a larger one, or none that is finite"
            raise DataError(expected(f"values of at most {self._clip:g}", got=got, where=site))
        self._received[site] = vector

    def accept_agreement(self, site: str, agreement: bytes) -> None:
        """Refuse: nothing is agreed on."""
        raise _not_asked()

    def accept_reveal(self, site: str, reveal: bytes) -> None:
        """Refuse: nothing is hidden."""
        raise _not_asked()

    def enclosed(self, site: str, *, again: bool) -> tuple[bytes, ...]:
        """Return nothing."""
        return ()

    @property
    def complete(self) -> bool:
        """Whether any contribution arrived."""
        return bool(self._received)

    def total(self) -> RoundSum:
        """Return the sum over the survivors, added up in the order of their names."""
        return plain_sum([self._received[name] for name in sorted(self._received)])

    def published(self) -> tuple[bytes, bytes]:
        """Return nothing: whoever published it would show every site's update to the others."""
        return b"", b""

    def verified(self, transcript: bytes, total: bytes) -> bool:
        """Return false: nothing is published."""
        return False


def _not_asked() -> DataError:
    return DataError(problem("a study with plain aggregation has no such request", where="aggregation"))
