"""Site session: a site's part that is common to all kinds of secure aggregation.

A session is one run from the view of one site: the roster that all sites signed, fresh exchange keys, the
secrets of pairs, and the rule that a site signs one set of survivors per round. Each kind of aggregation adds
the upload and the opening::

    announce ─▶ meet ─▶ upload ─▶ agree ─▶ open        open is
                          ▲                  │           masks   SiteProtocol.reveal
                          └── next round ◀───┘           shares  SharingSite.answer
                                                         CKKS    EncryptedSite.decrypt

:mod:`.site_protocol` explains the rules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from meninx.core.errors import DataError, PrivacyRefusal, UsageError, expected, problem
from meninx.core.randomness import KEY_BYTES, private_bytes
from meninx.secagg.pair_secrets import PairSecrets
from meninx.secagg.roster import Roster, covered, public_bytes
from meninx.secagg.shares import Draw
from meninx.secagg.site_history import (
    HistoryEntry,
    KeyDrawn,
    SitesMet,
    SurvivorsSigned,
    read_history,
    to_record,
)
from meninx.secagg.statements import (
    Agreement,
    Announcement,
    InSession,
    read,
    read_announcements,
    session_digest,
    sign,
)


class SiteSession(ABC):
    """One site in one run: keys, secrets of pairs, and its signatures over survivors.

    Args:
        roster: signed by every site.
        name: of this site.
        signing_key: its enrolled key.
        run: identifier of the run.
        record: function that makes an entry durable before it returns.
        history: recorded entries of this study, also of earlier runs, in their order.
        draw: returns that many random bytes; only tests and runs that are not for release replace it.

    Raises:
        PrivacyRefusal: the roster lacks signatures, or the key is not that of the named member.
        DataError: the history is damaged.
    """

    def __init__(
        self,
        roster: Roster,
        name: str,
        signing_key: Ed25519PrivateKey,
        run: str,
        *,
        record: Callable[[bytes], None],
        history: Iterable[bytes] = (),
        draw: Draw = private_bytes,
    ) -> None:
        roster.require_signatures()
        self.rules = covered(len(roster.members))
        if roster.members[roster.position(name)].key != public_bytes(signing_key):
            raise PrivacyRefusal(problem(f"the roster lists another key for {name}", where="roster"))
        self.roster, self.name, self.run = roster, name, run
        self._signing_key, self._record, self._draw = signing_key, record, draw
        self._key: KeyDrawn | None = None
        self._met: SitesMet | None = None
        self._session = b""
        self._pairs: PairSecrets | None = None
        self._last: SurvivorsSigned | None = None  # of the highest round that was signed in any run
        for entry in read_history(history, roster.study):
            self._restore(entry)

    def announce(self) -> bytes:
        """Return the signed exchange key of this run, always the same bytes."""
        if self._key is None:
            secret = self._draw(KEY_BYTES)
            key = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
            statement = Announcement(
                site=self.name,
                study=self.roster.study,
                run=self.run,
                roster=self.roster.hash,
                exchange_key=key,
            )
            entry = KeyDrawn(
                study=self.roster.study,
                run=self.run,
                secret=secret,
                announcement=sign(statement, self._signing_key),
            )
            self._write(entry)
            self._key = entry
        return self._key.announcement

    def meet(self, announcements: Sequence[bytes]) -> None:
        """Accept the announcements of the sites of this run, once.

        Args:
            announcements: of at least a quorum of the roster, including this site's own.

        Raises:
            PrivacyRefusal: an announcement is forged, this site's own is missing or changed, there are too
                few, or they differ from earlier ones.
        """
        ordered = tuple(sorted(announcements))
        if self._met is not None:
            if ordered != self._met.announcements:
                raise PrivacyRefusal(
                    problem("other keys were shown before in this run", where="announcements")
                )
            return
        entry = SitesMet(study=self.roster.study, run=self.run, announcements=ordered)
        self._exchange(entry)
        self._write(entry)
        self._met = entry

    @abstractmethod
    def agree(self, round: int, attempt: int, survivors: Sequence[str]) -> bytes:
        """Return the signature over the survivors of an attempt in which this site uploaded.

        Args:
            round: of the upload.
            attempt: of the upload.
            survivors: U1, including this site.

        Raises:
            PrivacyRefusal: another set was signed in this round, or the set contains strangers, is too small
                or lacks this site.
            UsageError: this site has uploaded nothing in this attempt.
        """

    def check_upload(self, round: int, attempt: int, members: Sequence[str]) -> None:
        """Refuse an attempt in which this site would not upload any vector.

        Raises:
            PrivacyRefusal: the round is closed, or the members are strangers or below the quorum.
            UsageError: the sites have not met.
        """
        self._members(members)
        self._check_round(round, attempt)

    @property
    def session(self) -> bytes:
        """Digest of study, run, roster and the accepted exchange keys; empty before they are accepted."""
        return self._session

    @property
    def pairs(self) -> PairSecrets:
        """The secrets that this site shares with each other site.

        Raises:
            UsageError: the sites have not met.
        """
        if self._pairs is None:
            raise UsageError(problem("the sites of this run have not met", where=self.name))
        return self._pairs

    def finish(self) -> None:
        """End the run and discard its keys; :meth:`entries` then contains no secret."""
        if self._pairs is not None:
            self._pairs.erase()
        self._pairs = self._key = self._met = None

    def entries(self) -> tuple[bytes, ...]:
        """Return the history that is still needed."""
        return tuple(to_record(entry) for entry in self._needed() if entry is not None)

    # for the kinds of aggregation

    def _needed(self) -> list[HistoryEntry | None]:
        """Return the entries that are still needed, in their order."""
        return [self._last, self._key, self._met]

    def _here(self, round: int, attempt: int, members: tuple[str, ...], model: bytes) -> InSession:
        """Return the attempt to which keys and statements of this site are bound."""
        return InSession(
            site=self.name, session=self._session, round=round, attempt=attempt, members=members, model=model
        )

    @staticmethod
    def _not_uploaded(round: int, attempt: int) -> UsageError:
        return UsageError(
            problem(f"this site has no upload of round {round}, attempt {attempt}", where="round")
        )

    def _write(self, entry: HistoryEntry) -> None:
        self._record(to_record(entry))

    def _restore(self, entry: HistoryEntry) -> None:
        """Apply one entry of the history; those of other runs count only for the rounds that they closed."""
        if isinstance(entry, SurvivorsSigned) and (self._last is None or entry.round >= self._last.round):
            self._last = entry
        if entry.run == self.run and isinstance(entry, KeyDrawn):
            self._key = entry
        elif entry.run == self.run and isinstance(entry, SitesMet):
            self._exchange(entry)
            self._met = entry

    def _check_round(self, round: int, attempt: int) -> None:
        """Refuse a round whose survivors this site has signed, in any run, and every round before it."""
        if min(round, attempt) < 0 or (self._last is not None and round <= self._last.round):
            what = f"round {round} is closed: this site has signed its survivors or those of a later round"
            fix = "go on with the next round, from the same model"
            raise PrivacyRefusal(problem(what, where="round", fix=fix))

    def _agreement(
        self, here: InSession, survivors: Sequence[str], signed: SurvivorsSigned | None
    ) -> SurvivorsSigned:
        """Return the recorded signature over the survivors; a repeated request returns the same one.

        Args:
            here: the attempt in which this site uploaded.
            survivors: U1.
            signed: the earlier signature of this site in this round, if any.
        """
        chosen = tuple(sorted(survivors))
        if signed is not None:
            if chosen != signed.survivors:
                what = f"another set of survivors was signed in round {here.round}"
                raise PrivacyRefusal(problem(what, where="survivors", fix="go on with the next round"))
            return signed
        self._check_round(here.round, here.attempt)
        self._check_set(chosen, here.members, "survivors")
        agreement = Agreement(
            site=self.name, session=self._session, round=here.round, attempt=here.attempt,
            members=here.members, model=here.model, survivors=chosen,
        )  # fmt: skip
        entry = SurvivorsSigned(
            study=self.roster.study, run=self.run, round=here.round, attempt=here.attempt, survivors=chosen,
            agreement=sign(agreement, self._signing_key),
        )  # fmt: skip
        self._write(entry)
        self._last = entry
        return entry

    def _members(self, members: Sequence[str]) -> tuple[str, ...]:
        chosen = tuple(sorted(members))
        self._check_set(chosen, self.pairs.sites, "members")
        return chosen

    def _check_set(self, chosen: tuple[str, ...], within: tuple[str, ...], what: str) -> None:
        """Refuse a set that names strangers, names a site twice, lacks this site or is below the quorum."""
        for name in chosen:
            self.roster.position(name)  # strangers to the roster
        if len(set(chosen)) < len(chosen):
            raise PrivacyRefusal(problem("a site is listed twice", where=what))
        strangers = [name for name in chosen if name not in within]
        if strangers:
            refusal = f"{', '.join(strangers)} did not take part before"
            raise PrivacyRefusal(problem(refusal, where=what))
        if self.name not in chosen:
            raise PrivacyRefusal(problem(f"{self.name} itself is missing", where=what))
        if len(chosen) < self.rules.quorum:
            rule = f"at least {self.rules.quorum} of the {self.rules.sites} sites of the roster"
            raise PrivacyRefusal(expected(rule, got=len(chosen), where=what))

    def _check_certificate(
        self, here: InSession, survivors: tuple[str, ...], agreements: Sequence[bytes]
    ) -> None:
        """Raise PrivacyRefusal unless a quorum signed the same set as this site."""
        signers = set()
        for data in agreements:
            found = read(data, Agreement, self.roster)
            same = (found.context, found.survivors) == (here.context, survivors)
            if not same or found.site not in found.survivors:
                what = f"{found.site} signed another set of survivors, round, attempt or session"
                raise PrivacyRefusal(problem(what, where="agreements"))
            signers.add(found.site)
        if len(signers) < self.rules.quorum:
            rule = f"agreements of {self.rules.quorum} sites"
            raise PrivacyRefusal(expected(rule, got=len(signers), where="agreements"))

    def _exchange(self, entry: SitesMet) -> None:
        """Check the announcements and compute the X25519 secret of each pair."""
        if self._key is None:
            raise DataError(problem("the key of this run is missing", where="history"))
        if self._key.announcement not in entry.announcements:
            raise PrivacyRefusal(
                problem("this site's own key is missing or was changed", where="announcements")
            )
        _, keys = read_announcements(entry.announcements, self.roster, self.run)
        if len(keys) < self.rules.quorum:
            rule = f"the keys of at least {self.rules.quorum} of {self.rules.sites} sites"
            raise PrivacyRefusal(expected(rule, got=len(keys), where="announcements"))
        self._pairs = PairSecrets(self.name, self._key.secret, keys)
        self._session = session_digest(self.roster, self.run, keys)
