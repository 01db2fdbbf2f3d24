"""Secret sharing: the sites of a study are the aggregators of each other's updates.

Each site splits its vector into one additive share per site, itself included, and a rest. A share is the
keystream of a fresh seed, so only the seed is sent, encrypted to its recipient; the rest goes to the
coordinator. Every site sums its shares and returns the sum. All these sums and all rests together give the
sum of the updates::

    upload:  x_i - sum over j of PRG(s_ij)         and s_ij, encrypted to j
    answer:  sum over i of PRG(s_ij)               after j has every other site's statement of this attempt

The members of an attempt are always all sites of the roster, so there is one sum per attempt and no set that
a coordinator could choose. No site may be missing: a lost site stops the round, and the next attempt begins
with fresh seeds.

The coordinator, which may send anything, learns the sum over all sites; with c colluding sites it learns that
sum minus their updates, because no other site has the seeds s_ij, s_ji, s_ii and s_jj of two honest sites i
and j. So n - 2 colluders are covered. The network learns sizes and times. A site answers only for the attempt
of its last upload, from statements that each other site signed once, so a second answer reveals nothing new.
Sums of several rounds always have the same participants. The information in a single sum about a site is not
limited here.

**Every site can compute the sum again** (:meth:`SharingSite.recompute`) from what the coordinator publishes:
the n signed rests and the n signed sums of shares. Any other sum needs another signature of a site, so the
coordinator alone cannot change it. A colluding site can: it can sign a false sum of shares, or seal one seed
and subtract another, just as it could send a false update. The transcript reveals nothing new to the
coordinator, and to n - 2 colluding sites no more than they learn together with the coordinator.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from meninx.core.errors import DataError, PrivacyRefusal, UsageError, expected, problem
from meninx.secagg import payload
from meninx.secagg.agreed_attempt import AgreedAttempt
from meninx.secagg.masks import SEED_BYTES, Mask, Ring, apply_masks, check_ring, ring_type
from meninx.secagg.roster import Roster
from meninx.secagg.site_history import HistoryEntry, SharesDrawn
from meninx.secagg.site_session import SiteSession
from meninx.secagg.statements import (
    Agreement,
    InSession,
    PartialSum,
    Shared,
    read,
    sign,
)


class SharingSite(SiteSession):
    """One site's part in a run with secret sharing.

    Guarantee: an arbitrary coordinator with at most n - 2 of the n sites learns, per attempt, only the sum of
    the updates of all sites (assumptions as for :class:`.site_protocol.SiteProtocol`).

    Args and errors: as :class:`.SiteSession`.
    """

    _drawn: SharesDrawn | None = None

    def upload(
        self, round: int, attempt: int, members: Sequence[str], vector: Ring, *, model: bytes = b""
    ) -> bytes:
        """Return the rest of the vector with the encrypted seeds of its shares.

        Args:
            round: from 0.
            attempt: from 0.
            members: all sites of the roster.
            vector: ring elements of :meth:`.quantiser.Quantiser.encode`; not changed.
            model: digest of the starting model; sites with different models are never in one sum.

        Raises:
            PrivacyRefusal: a site is missing among the members, a later attempt was shared before, or another
                vector was shared in this attempt.
            UsageError: the sites have not met.
        """
        here = self._position(round, attempt, members, model)
        check_ring(vector)
        drawn = self._drawn
        if drawn is not None and (round, attempt) <= (drawn.round, drawn.attempt):
            return self._upload_again(here, drawn, vector)
        seeds = {name: self._draw(SEED_BYTES) for name in self.roster.names}
        rest = _rest(vector, seeds.values())
        statement = Shared(
            site=self.name, session=here.session, round=round, attempt=attempt, members=here.members,
            model=model, bits=check_ring(rest), length=len(rest), leaves=payload.leaves(rest),
            shares=tuple(
                (name, self.pairs.seal(seed, here.context, name, draw=self._draw))
                for name, seed in seeds.items() if name != self.name
            ),
        )  # fmt: skip
        entry = SharesDrawn(
            study=self.roster.study, run=self.run, round=round, attempt=attempt,
            seeds=tuple(seeds.values()), statement=sign(statement, self._signing_key),
        )  # fmt: skip
        self._write(entry)
        self._drawn = entry
        return payload.join(entry.statement, rest)

    def check_upload(self, round: int, attempt: int, members: Sequence[str]) -> None:
        """Refuse an attempt in which this site would upload nothing, e.g. because a site is missing."""
        self._position(round, attempt, members, b"")

    def agree(self, round: int, attempt: int, survivors: Sequence[str]) -> bytes:
        """Return the signature over the survivors, which are all sites of the roster.

        Raises:
            PrivacyRefusal: a site is missing.
        """
        own = self._own(round, attempt)
        here = self._position(round, attempt, survivors, own.model)
        return sign(
            Agreement(
                site=self.name, session=here.session, round=round, attempt=attempt, members=here.members,
                model=here.model, survivors=self.roster.names,
            ),
            self._signing_key,
        )  # fmt: skip

    def answer(self, round: int, attempt: int, statements: Sequence[bytes]) -> bytes:
        """Return the signed sum of the shares for this site.

        Args:
            round: of the upload.
            attempt: of the upload.
            statements: signed statements of the uploads of all other sites.

        Raises:
            PrivacyRefusal: a statement is missing, forged, of another attempt or another shape.
            UsageError: this site has not uploaded in this attempt.
        """
        own = self._own(round, attempt)
        assert self._drawn is not None
        seeds = {self.name: self._drawn.seeds[self.roster.position(self.name)]}
        for data in statements:
            found = read(data, Shared, self.roster)
            same = (found.context, found.length, found.bits) == (own.context, own.length, own.bits)
            if not same or found.site in seeds:
                what = f"{found.site} shared in another attempt or shape, or is given twice"
                raise PrivacyRefusal(problem(what, where="statements"))
            seeds[found.site] = self._seed_of(found)
        missing = [name for name in self.roster.names if name not in seeds]
        if missing:
            raise PrivacyRefusal(
                problem(f"the shares of {', '.join(missing)} are missing", where="statements")
            )
        total = np.zeros(own.length, dtype=ring_type(own.bits))
        apply_masks(total, [Mask(seed) for seed in seeds.values()])
        statement = PartialSum(
            site=self.name, session=own.session, round=round, attempt=attempt, members=own.members,
            model=own.model, bits=own.bits, length=own.length, leaves=payload.leaves(total),
        )  # fmt: skip
        return payload.join(sign(statement, self._signing_key), total)

    def recompute(self, round: int, attempt: int, transcript: bytes, total: Ring) -> bool:
        """Return whether a published sum is the sum of what all sites signed.

        Args:
            round: of the upload.
            attempt: of the upload.
            transcript: :meth:`SharingTranscript.to_bytes`.
            total: the published sum.

        Raises:
            PrivacyRefusal: a rest or sum of shares is not the one that its site signed in this attempt.
            DataError: the transcript is malformed, incomplete or of another shape.
            UsageError: this site has not uploaded in this attempt.
        """
        own = self._own(round, attempt)
        assert self._met is not None
        again = SharingAggregation(
            self.roster,
            self._met.announcements,
            round,
            attempt,
            model=own.model,
            shape=(own.length, own.bits),
        )
        return again.leads_to(transcript, total)

    def finish(self) -> None:
        """End the run and discard its keys and seeds."""
        super().finish()
        self._drawn = None

    def _needed(self) -> list[HistoryEntry | None]:
        """Return the entries that are still needed: keys, and the seeds of the last attempt."""
        return [*super()._needed(), self._drawn]

    def _own(self, round: int, attempt: int) -> Shared:
        """Return the statement that this site signed in an attempt."""
        drawn = self._drawn
        if drawn is None or (drawn.round, drawn.attempt) != (round, attempt):
            raise self._not_uploaded(round, attempt)
        return read(drawn.statement, Shared, self.roster)

    def _position(self, round: int, attempt: int, members: Sequence[str], model: bytes) -> InSession:
        if tuple(sorted(members)) != self.roster.names or self.pairs.sites != self.roster.names:
            rule = f"all {self.rules.sites} sites of the roster"
            fix = "wait for the others; shares tolerate no dropout"
            raise PrivacyRefusal(expected(rule, got=len(set(members)), where="members", fix=fix))
        if min(round, attempt) < 0:
            raise DataError(expected("round and attempt from 0", got=min(round, attempt), where="round"))
        return self._here(round, attempt, self.roster.names, model)

    def _upload_again(self, here: InSession, drawn: SharesDrawn, vector: Ring) -> bytes:
        statement = read(drawn.statement, Shared, self.roster)
        if here.context != statement.context:
            what = "a later attempt was shared before"
            raise PrivacyRefusal(problem(what, where="upload", fix="ask for a later attempt"))
        rest = _rest(vector, drawn.seeds)
        if payload.leaves(rest) != statement.leaves:
            raise PrivacyRefusal(problem("another vector was shared in this attempt", where="upload"))
        return payload.join(drawn.statement, rest)

    def _seed_of(self, statement: Shared) -> bytes:
        """Return the seed of another site's share for this one."""
        sealed = dict(statement.shares).get(self.name, b"")
        seed = self.pairs.unseal(sealed, statement.context, statement.site)
        if len(seed) != SEED_BYTES:
            raise DataError(
                problem(f"the share of {statement.site} has the wrong length", where="statements")
            )
        return seed

    def _restore(self, entry: HistoryEntry) -> None:
        super()._restore(entry)
        if entry.run == self.run and isinstance(entry, SharesDrawn):
            self._drawn = entry


class SharingTranscript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The coordinator's publication about one attempt; it consists of signed messages of the sites only.

    Attributes:
        uploads: of all sites: signed statement and rest.
        answers: of all sites: signed statement and sum of shares.
    """

    uploads: tuple[bytes, ...]
    answers: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """Return the transcript as MessagePack."""
        return msgspec.msgpack.encode(self)


class SharingAggregation(AgreedAttempt):
    """The coordinator's side of one attempt with secret sharing. Members and survivors are all sites.

    Args:
        roster: signed by every site.
        announcements: signed exchange keys of the run, of all sites.
        round: from 0.
        attempt: from 0.
        model: digest of the starting model.
        shape: elements and bits of every vector; None takes those of the first one.

    Raises:
        PrivacyRefusal: an announcement is forged, or a site's is missing.
    """

    def __init__(
        self,
        roster: Roster,
        announcements: Sequence[bytes],
        round: int,
        attempt: int,
        *,
        model: bytes = b"",
        shape: tuple[int, int] | None = None,
    ) -> None:
        everybody = len(roster.members)
        super().__init__(roster, announcements, round, attempt, roster.names, model=model, needed=everybody)
        self._begun = (round, attempt, model)
        self._uploads: dict[str, bytes] = {}
        self._answers: dict[str, bytes] = {}
        self._shape = shape
        self._sum: Ring | None = None

    def _uploaded(self) -> Iterable[str]:
        return self._uploads

    def receive(self, upload: bytes) -> str:
        """Add an upload and return the name of its site.

        Raises:
            DataError: it is malformed or of another shape.
            PrivacyRefusal: it is forged, of another attempt, or a second one of the site.
        """
        return self._take(upload, Shared, self._uploads)

    def accept_reveal(self, reveal: bytes) -> str:
        """Add a site's sum of shares and return its name; raises as :meth:`receive`."""
        return self._take(reveal, PartialSum, self._answers)

    def _take(self, data: bytes, kind: type[Shared] | type[PartialSum], known: dict[str, bytes]) -> str:
        head, body = payload.split(data)
        statement = read(head, kind, self.roster)
        self._check_context(statement)
        if known.get(statement.site, head) != head:
            raise PrivacyRefusal(problem(f"{statement.site} answered twice, differently", where="round"))
        if self._shape not in (None, (statement.length, statement.bits)):
            raise DataError(problem(f"{statement.site} sent a vector of another shape", where="round"))
        vector = payload.vector_of(body, statement)
        payload.check_leaves(vector, statement)
        if statement.site not in known:
            known[statement.site] = head
            self._shape = (statement.length, statement.bits)
            self._sum = vector.copy() if self._sum is None else self._sum + vector
        return statement.site

    def statements(self, site: str) -> tuple[bytes, ...]:
        """Return the statements of all other sites, which a site needs for its answer."""
        return tuple(self._uploads[name] for name in sorted(self._uploads) if name != site)

    @property
    def complete(self) -> bool:
        """Whether every site uploaded and answered."""
        return tuple(sorted(self._uploads)) == self.roster.names == tuple(sorted(self._answers))

    def total(self) -> Ring:
        """Return the sum over all sites, for :meth:`.quantiser.Quantiser.decode`.

        Raises:
            UsageError: a site has not answered; nothing can be computed.
        """
        if not self.complete or self._sum is None:
            waiting = [name for name in self.roster.names if name not in self._answers]
            raise UsageError(problem(f"the shares of {', '.join(waiting)} are missing", where="round"))
        return self._sum.copy()

    def verified(self, transcript: bytes, total: Ring) -> bool:
        """Return whether a transcript of this attempt leads to a sum, with the check that sites use.

        Raises:
            PrivacyRefusal, DataError: as :meth:`SharingSite.recompute`.
        """
        round, attempt, model = self._begun
        again = SharingAggregation(
            self.roster, self._announcements, round, attempt, model=model, shape=self._shape
        )
        return again.leads_to(transcript, total)

    def leads_to(self, transcript: bytes, total: Ring) -> bool:
        """Add all messages of a transcript, and return whether their sum is the given one.

        Raises:
            PrivacyRefusal: a part is not the one that its site signed in this attempt.
            DataError: the transcript is malformed, incomplete or of another shape.
        """
        try:
            found = msgspec.msgpack.decode(transcript, type=SharingTranscript)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataError(problem("this is not a transcript of meninx", where="transcript")) from error
        for upload in found.uploads:
            self.receive(upload)
        for answer in found.answers:
            self.accept_reveal(answer)
        if not self.complete:
            raise DataError(problem("an upload or answer of a site is missing", where="transcript"))
        return bool(np.array_equal(self.total(), total))


def _rest(vector: Ring, seeds: Iterable[bytes]) -> Ring:
    rest = vector.copy()
    apply_masks(rest, [Mask(seed, add=False) for seed in seeds])
    return rest
