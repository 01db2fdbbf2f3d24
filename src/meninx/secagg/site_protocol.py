"""Site protocol: the answers of one site in a run, as an explicit table of transitions.

The site follows these rules for any message of the coordinator:

- Its exchange key is drawn once per run. It masks only among sites whose keys carry the signature of a roster
  member.
- It masks one vector per (round, attempt). A repeated request returns the same bytes; another vector is
  refused, because two vectors under the same masks reveal their difference.
- It signs one set of survivors per round and study. From then on the round is closed: no later attempt and no
  later run gets a vector for this round number.
- It opens secrets only if a quorum of the roster signed the same set: the seed of its own mask, the seeds
  that it shares with members outside the set, and shares of the secrets that lost members of the set would
  have opened. Nothing else is ever opened, so a second request for the same set cannot extend it.

``record`` is called with an entry before a signature or a secret is returned. If it raises, nothing is
returned.

With at most ``covered(n).colluders`` colluding sites, the coordinator learns the sum over one set of
survivors per round, and which sites took part. Colluding sites learn that sum minus their own updates. The
network learns sizes and times. Sums of several rounds reveal more when participants change: the sums over two
sets that differ in one site differ by about that site's update, if the model barely changed between the
rounds. The protocol cannot prevent this; log it, and bound it with differential privacy. The caller must
train again for each round number: the same cached update in two rounds with different survivors would reveal
the difference exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from meninx.core.errors import PrivacyRefusal, UsageError, expected, problem
from meninx.secagg import payload
from meninx.secagg.masks import SEED_BYTES, Ring, check_ring
from meninx.secagg.site_history import (
    AttemptUsed,
    HistoryEntry,
    KeyDrawn,
    SecretsOpened,
    SitesMet,
    SurvivorsSigned,
    VectorMasked,
)
from meninx.secagg.site_session import SiteSession
from meninx.secagg.statements import (
    InSession,
    Masked,
    Opening,
    read,
    sign,
)


class SitePhase(StrEnum):
    """State of a site in a run."""

    START = "start"
    ANNOUNCED = "announced"
    MET = "met"
    UPLOADED = "uploaded"
    AGREED = "agreed"
    REVEALED = "revealed"
    FINISHED = "finished"


_P = SitePhase
TRANSITIONS: dict[tuple[SitePhase, str], SitePhase] = {
    (_P.START, "announce"): _P.ANNOUNCED,
    (_P.ANNOUNCED, "announce"): _P.ANNOUNCED,  # the same bytes again
    (_P.ANNOUNCED, "meet"): _P.MET,
    (_P.MET, "upload"): _P.UPLOADED,
    (_P.UPLOADED, "upload"): _P.UPLOADED,  # the same bytes again, a later attempt or a later round
    (_P.UPLOADED, "agree"): _P.AGREED,
    (_P.AGREED, "agree"): _P.AGREED,  # the same bytes again
    (_P.AGREED, "reveal"): _P.REVEALED,
    (_P.REVEALED, "reveal"): _P.REVEALED,  # the same set; more of it may be lost
    (_P.REVEALED, "agree"): _P.REVEALED,  # the same bytes again
    (_P.AGREED, "upload"): _P.UPLOADED,  # a later round only
    (_P.REVEALED, "upload"): _P.UPLOADED,  # a later round only
    (_P.UPLOADED, "close"): _P.MET,
    (_P.AGREED, "close"): _P.MET,
    (_P.REVEALED, "close"): _P.MET,
    (_P.MET, "close"): _P.MET,
}
TRANSITIONS |= {(phase, "finish"): _P.FINISHED for phase in SitePhase}
for _phase in (_P.MET, _P.UPLOADED, _P.AGREED, _P.REVEALED):  # repeated keys do not change the state
    TRANSITIONS |= {(_phase, "announce"): _phase, (_phase, "meet"): _phase}


@dataclass
class _OpenRound:
    """Data of the round in progress."""

    statement: Masked
    statement_bytes: bytes
    seed: bytearray
    signed: SurvivorsSigned | None = None
    opened: list[SecretsOpened] = field(default_factory=list)

    @property
    def position(self) -> tuple[int, int]:
        return self.statement.round, self.statement.attempt


class SiteProtocol(SiteSession):
    """One site's part in the secure aggregation of one run.

    Guarantee: while at most ``covered(n).colluders`` sites collude with a coordinator that may send anything,
    they learn at most one sum of updates per round, over at least ``quorum - colluders`` other sites. The
    assumptions are that X25519, HKDF-SHA-256, AES-256, Ed25519 and SHA-256 are secure, ``record`` is durable,
    signing keys are secret, and only one process at a time uses a history.

    Args and errors: as :class:`.SiteSession`.
    """

    phase = SitePhase.START
    _open: _OpenRound | None = None
    _used = (-1, -1)  # the last attempt in which a vector was masked in this run

    def announce(self) -> bytes:
        """Return the signed exchange key of this run, always the same bytes.

        Raises:
            UsageError: the run is finished.
        """
        phase = self._next("announce")
        announcement = super().announce()
        self.phase = phase
        return announcement

    def meet(self, announcements: Sequence[bytes]) -> None:
        """Accept the announcements of the sites of this run, once: see :meth:`.SiteSession.meet`.

        Raises:
            UsageError: this site has not announced its own key.
        """
        phase = self._next("meet")
        super().meet(announcements)
        self.phase = phase

    def upload(
        self, round: int, attempt: int, members: Sequence[str], vector: Ring, *, model: bytes = b""
    ) -> bytes:
        """Return the masked vector with its signed statement.

        Args:
            round: from 0; above every round that this site signed.
            attempt: from 0.
            members: U0, the sites of this attempt, including this one.
            vector: ring elements of :meth:`.quantiser.Quantiser.encode`; not changed.
            model: digest of the starting model; sites with different models are never in one sum.

        Raises:
            PrivacyRefusal: the round is closed, the members are strangers or below the quorum, or another
                vector was masked in this attempt.
            UsageError: the sites have not met.
        """
        phase = self._next("upload")
        chosen = self._members(members)
        check_ring(vector)
        position = (round, attempt)
        self._check_round(round, attempt)
        here = self._here(round, attempt, chosen, model)
        if position <= self._used:
            return self._upload_again(here, vector)
        seed = bytearray(self._draw(SEED_BYTES))
        masked = self.pairs.masked(vector, seed, here)
        points = [self.roster.position(other) + 1 for other in _without(chosen, (self.name,))]
        statement = self.pairs.statement(masked, seed, here, points, self.rules.threshold, self._draw)
        signed = sign(statement, self._signing_key)
        self._write(self._masked_entry(statement, signed, seed))
        self._erase_round()
        self._open, self._used = _OpenRound(statement, signed, seed), position
        self.phase = phase
        return payload.join(signed, masked)

    def check_upload(self, round: int, attempt: int, members: Sequence[str]) -> None:
        """Refuse an attempt in which this site would upload nothing: see :meth:`.SiteSession.check_upload`.

        Raises:
            PrivacyRefusal: also if this or a later attempt was masked among other members.
        """
        self._next("upload")
        super().check_upload(round, attempt, members)
        if (round, attempt) <= self._used:
            current = self._open
            same = current is not None and current.position == (round, attempt)
            if current is None or not same or current.statement.members != tuple(sorted(members)):
                what = "this attempt, a later one or one with other members was masked before"
                raise PrivacyRefusal(problem(what, where="upload", fix="ask for a later attempt"))

    @property
    def open_round(self) -> int | None:
        """The round whose secrets this site holds; None if it holds none."""
        return None if self._open is None else self._open.statement.round

    def agree(self, round: int, attempt: int, survivors: Sequence[str]) -> bytes:
        """Return the signature over the survivors; this site gives only one per round.

        Args:
            round: of the upload.
            attempt: of the upload.
            survivors: U1, at least a quorum of the members, including this site.

        Raises:
            PrivacyRefusal: another set was signed in this round, or the set holds strangers, is below the
                quorum or lacks this site.
            UsageError: this site has uploaded nothing in this attempt.
        """
        phase = self._next("agree")
        current = self._current(round, attempt)
        entry = self._agreement(current.statement, survivors, current.signed)
        current.signed = entry
        self.phase = phase
        return entry.agreement

    def reveal(self, round: int, agreements: Sequence[bytes], lost: Sequence[bytes] = ()) -> bytes:
        """Return the secrets that open the sum over the survivors, signed.

        Args:
            round: of the agreement.
            agreements: signed by a quorum over the set that this site signed.
            lost: signed statements of the uploads of survivors that did not reveal; they hold the shares.

        Raises:
            PrivacyRefusal: the quorum is not reached, an agreement is forged or over another set, or a lost
                member is not another survivor.
            UsageError: this site has signed no survivors in this round.
        """
        phase = self._next("reveal")
        current = self._open
        if current is None or current.signed is None or current.signed.round != round:
            raise UsageError(problem(f"no survivors were signed in round {round}", where="reveal"))
        survivors = current.signed.survivors
        self._check_certificate(current.statement, survivors, agreements)
        shares = self._shares_of_lost(current, survivors, lost)
        context, outside = current.statement.context, _without(current.statement.members, survivors)
        opening = Opening(
            site=self.name, session=self._session, round=round, attempt=current.signed.attempt,
            members=current.statement.members, model=current.statement.model, survivors=survivors,
            own=bytes(current.seed),
            pairs=tuple((other, self.pairs.seed(context, other)) for other in outside), shares=shares,
        )  # fmt: skip
        names = tuple(sorted({name for name, _, _ in shares}))
        entry = SecretsOpened(
            study=self.roster.study,
            run=self.run,
            round=round,
            lost=names,
            opening=sign(opening, self._signing_key),
        )
        if entry not in current.opened:
            self._write(entry)
            current.opened.append(entry)
        self.phase = phase
        return entry.opening

    def close(self) -> None:
        """End the round and erase its secrets; the caller then rewrites its history with :meth:`entries`."""
        self.phase = self._next("close")
        self._erase_round()

    def finish(self) -> None:
        """End the run and discard its keys; :meth:`entries` then contains no secret."""
        self.phase = self._next("finish")
        self._erase_round()
        super().finish()

    def _needed(self) -> list[HistoryEntry | None]:
        """Return the entries that are still needed, without the seeds of closed rounds."""
        current = self._open
        last = self._last if current is None or current.signed is not self._last else None
        found: list[HistoryEntry | None] = [last, self._key, self._met]
        if current is None and self._key is not None and self._used >= (0, 0):
            round, attempt = self._used
            found.append(AttemptUsed(study=self.roster.study, run=self.run, round=round, attempt=attempt))
        if current is not None:
            found.append(self._masked_entry(current.statement, current.statement_bytes, current.seed))
            found += [current.signed, *current.opened]
        return found

    def tag_key(self, statement: Masked) -> bytes:
        """Return the key with which this site checks the vector of another site (:mod:`.payload`)."""
        if statement.session != self._session or statement.site not in _without(
            self.pairs.sites, (self.name,)
        ):
            raise PrivacyRefusal(problem("the upload belongs to another run or site", where="transcript"))
        return self.pairs.tag_key(statement)

    # transitions

    def _next(self, action: str) -> SitePhase:
        phase = TRANSITIONS.get((self.phase, action))
        if phase is None:
            raise UsageError(
                problem(f"a site cannot {action} when it has state '{self.phase}'", where=self.name)
            )
        return phase

    def _masked_entry(self, statement: Masked, signed: bytes, seed: bytearray) -> VectorMasked:
        return VectorMasked(
            study=self.roster.study,
            run=self.run,
            round=statement.round,
            attempt=statement.attempt,
            seed=bytes(seed),
            statement=signed,
        )

    def _current(self, round: int, attempt: int) -> _OpenRound:
        if self._open is None or self._open.position != (round, attempt):
            raise self._not_uploaded(round, attempt)
        return self._open

    # secrets

    def _upload_again(self, here: InSession, vector: Ring) -> bytes:
        """Return the bytes of an earlier upload, computed again from the recorded seed."""
        current = self._open
        if current is None or here.context != current.statement.context:
            # The seeds of pairs depend on the attempt only, so a second vector would reveal a difference.
            what = "this attempt, a later one or one with other members or another model was masked before"
            raise PrivacyRefusal(problem(what, where="upload", fix="ask for a later attempt"))
        statement = current.statement
        masked = self.pairs.masked(vector, current.seed, statement)
        if payload.leaves(masked) != statement.leaves or len(masked) != statement.length:
            raise PrivacyRefusal(problem("another vector was masked in this attempt", where="upload"))
        return payload.join(current.statement_bytes, masked)

    def _shares_of_lost(
        self, current: _OpenRound, survivors: tuple[str, ...], lost: Sequence[bytes]
    ) -> tuple[tuple[str, str, bytes], ...]:
        """Return this site's shares of only those secrets that the lost survivors would have opened."""
        outside = _without(current.statement.members, survivors)
        shares: dict[tuple[str, str], bytes] = {}
        for data in lost:
            theirs = read(data, Masked, self.roster)
            if theirs.context != current.statement.context:
                raise PrivacyRefusal(problem("the upload belongs to another round or run", where="lost"))
            if theirs.site == self.name or theirs.site not in survivors:
                # A member outside the survivors is not in the sum, so its own seed must never be opened: its
                # upload would be readable.
                raise PrivacyRefusal(problem(f"{theirs.site} is no other survivor", where="lost"))
            for other, share in self.pairs.unsealed(theirs).items():
                if other in ("", *outside):
                    shares[theirs.site, other] = share
        if len(survivors) - len({name for name, _ in shares}) < self.rules.threshold:
            rule = f"at most {len(survivors) - self.rules.threshold} lost survivors"
            raise PrivacyRefusal(expected(rule, got=len({name for name, _ in shares}), where="lost"))
        return tuple((name, other, share) for (name, other), share in sorted(shares.items()))

    def _erase_round(self) -> None:
        if self._open is not None:
            self._open.seed[:] = bytes(SEED_BYTES)
            self._open = None

    # after a crash

    def _restore(self, entry: HistoryEntry) -> None:
        """Apply one entry of the history; those of other runs count only for the rounds that they closed."""
        super()._restore(entry)
        if entry.run != self.run:
            return
        if isinstance(entry, KeyDrawn):
            self.phase = SitePhase.ANNOUNCED
        elif isinstance(entry, SitesMet):
            self.phase = SitePhase.MET
        elif isinstance(entry, VectorMasked):
            statement = read(entry.statement, Masked, self.roster)
            self._open = _OpenRound(statement, entry.statement, bytearray(entry.seed))
            self._used, self.phase = self._open.position, SitePhase.UPLOADED
        elif isinstance(entry, AttemptUsed):
            self._used = (entry.round, entry.attempt)
        elif self._open is not None and isinstance(entry, SurvivorsSigned):
            self._open.signed, self.phase = entry, SitePhase.AGREED
        elif self._open is not None and isinstance(entry, SecretsOpened):
            self._open.opened.append(entry)
            self.phase = SitePhase.REVEALED


def _without(names: Sequence[str], taken: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in taken)
