"""Agreed attempt: the coordinator's part that is common to all kinds of secure aggregation.

Uploads arrive, the survivors are frozen, enough of them sign that set, and the secrets they open give the
sum::

    receive(upload) ... → freeze() → accept(agreement) ... → accept_reveal(...) ... → total()

Up to the agreement the coordinator learns only which sites took part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from meninx.core.errors import PrivacyRefusal, expected, problem
from meninx.secagg.roster import Roster, covered
from meninx.secagg.statements import Agreement, InSession, read, read_announcements, session_digest


class AgreedAttempt(ABC):
    """One attempt at a round: its members, those whose uploads arrived, and the signatures over them.

    Args:
        roster: signed by every site.
        announcements: signed exchange keys of the run, as shown to the sites.
        round: from 0.
        attempt: from 0.
        members: U0, the sites that were asked.
        model: digest of the starting model.
        needed: smallest number of members, survivors and signatures; None for the quorum.

    Attributes:
        roster: signed by every site.
        rules: quorum, and the number of colluders covered.
        run: identifier of the run, from the announcements.
        members: U0, sorted.

    Raises:
        PrivacyRefusal: the roster lacks signatures, an announcement is forged, or the members are below the
            quorum.
    """

    def __init__(
        self,
        roster: Roster,
        announcements: Sequence[bytes],
        round: int,
        attempt: int,
        members: Sequence[str],
        *,
        model: bytes = b"",
        needed: int | None = None,
    ) -> None:
        roster.require_signatures()
        self.roster, self.rules = roster, covered(len(roster.members))
        self._needed = self.rules.quorum if needed is None else needed
        self._announcements = tuple(sorted(announcements))
        self.run, keys = read_announcements(self._announcements, roster)
        self.members = tuple(sorted(set(members)))
        if not set(self.members) <= set(keys) or len(self.members) < self._needed:
            rule = f"at least {self._needed} members that announced keys"
            raise PrivacyRefusal(expected(rule, got=len(set(self.members) & set(keys)), where="members"))
        session = session_digest(roster, self.run, keys)
        self._context = InSession(
            site="", session=session, round=round, attempt=attempt, members=self.members, model=model
        ).context
        self._survivors: tuple[str, ...] = ()
        self._agreements: dict[str, bytes] = {}

    @abstractmethod
    def _uploaded(self) -> Iterable[str]:
        """Return the sites whose uploads arrived."""

    @abstractmethod
    def receive(self, upload: bytes) -> str:
        """Add an upload and return the name of its site.

        Raises:
            DataError: it is malformed or of another shape.
            PrivacyRefusal: it is forged, of another attempt, a second one of the site, or too late.
        """

    @abstractmethod
    def accept_reveal(self, reveal: bytes) -> str:
        """Add the secrets that a survivor opens and return its name.

        Raises:
            DataError: it is malformed.
            PrivacyRefusal: it is forged or of another attempt.
        """

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether the sum can be computed."""

    @property
    def survivors(self) -> tuple[str, ...]:
        """U1: the sites whose uploads count; those received so far until the set is frozen."""
        return self._survivors or tuple(sorted(self._uploaded()))

    def freeze(self) -> tuple[str, ...]:
        """Return the survivors; no later upload counts.

        Raises:
            PrivacyRefusal: they are below the quorum; this attempt can open nothing.
        """
        survivors = self.survivors
        if len(survivors) < self._needed:
            rule = f"uploads of at least {self._needed} of {self.rules.sites} sites"
            fix = "nothing is revealed; ask for another attempt when the sites are back"
            raise PrivacyRefusal(expected(rule, got=len(survivors), where="round", fix=fix))
        self._survivors = survivors
        return survivors

    def accept(self, agreement: bytes) -> str:
        """Add a signature over the survivors and return the name of its site.

        Raises:
            PrivacyRefusal: it is forged or over another set, or the site is no survivor.
        """
        self.freeze()
        found = read(agreement, Agreement, self.roster)
        self._check_context(found)
        if found.survivors != self._survivors or found.site not in self._survivors:
            raise PrivacyRefusal(problem(f"{found.site} signed other survivors", where="agreement"))
        self._agreements[found.site] = agreement
        return found.site

    @property
    def agreements(self) -> tuple[bytes, ...]:
        """The signatures over the survivors, for the sites."""
        return tuple(self._agreements[name] for name in sorted(self._agreements))

    @property
    def certified(self) -> bool:
        """Whether enough of the survivors signed their set."""
        return len(self._agreements) >= self._needed

    def _check_context(self, found: InSession) -> None:
        if found.context != self._context or found.site not in self.members:
            what = f"{found.site} answers in another run, round, attempt, set of members or model"
            raise PrivacyRefusal(problem(what, where="round"))
