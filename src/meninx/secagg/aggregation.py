"""Aggregation: the coordinator's side of one attempt at a round.

Uploads come in, one set of survivors is agreed on, the survivors open seeds, and the sum follows::

    receive(upload) ... → freeze() → accept(agreement) ... → accept_reveal(opening) ... → total()

The object holds one running sum, for any number of sites; its caller stores the uploads if sites are to
compute the sum again. After a crash, the same bytes can be given to a new object.

If every site follows the rules of :mod:`.site_protocol`, the coordinator learns the sum over the survivors.
With c colluding sites it learns that sum minus their updates. From an incomplete attempt it learns only which
sites answered. Members that disappear after the agreement do not stop the round as long as ``threshold``
survivors reveal. Below that, the round is lost, nothing about it can be computed, and the next round starts
from the same model.

The coordinator does not trust the sites either: each statement is checked against the roster, each opened
seed against its commitment. A site that masks a wrong vector spoils the sum, as it could with a false update.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meninx.core.errors import DataError, PrivacyRefusal, UsageError, expected, problem
from meninx.secagg import payload
from meninx.secagg.agreed_attempt import AgreedAttempt
from meninx.secagg.masks import Mask, Ring, apply_masks, commitment
from meninx.secagg.roster import Roster
from meninx.secagg.shares import join_checked
from meninx.secagg.statements import (
    Masked,
    Opening,
    read,
)
from meninx.secagg.verification import SeedPair, Transcript, check_seed

_OWN = ""  # key of the survivor's own mask among its seeds


class Aggregation(AgreedAttempt):
    """Collects the messages of the sites in one attempt, and computes their sum.

    Args:
        roster: signed by every site.
        announcements: signed exchange keys of the run, as shown to the sites.
        round: from 0.
        attempt: from 0.
        members: U0, the sites that were asked.
        model: digest of the starting model.
        shape: elements and bits of every upload; None takes those of the first one.

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
        shape: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(roster, announcements, round, attempt, members, model=model)
        self._shape = shape
        self._statements: dict[str, tuple[bytes, Masked]] = {}
        self._sum: Ring | None = None
        self._total: Ring | None = None
        self._seeds: dict[tuple[str, str], bytes] = {}
        self._shares: dict[tuple[str, str], dict[int, bytes]] = {}
        self._revealed: set[str] = set()

    def _uploaded(self) -> Iterable[str]:
        return self._statements

    # uploads

    def receive(self, upload: bytes) -> str:
        """Add an upload and return the name of its site.

        Raises:
            DataError: it is malformed, of another shape, or its site and another one derived different seeds.
            PrivacyRefusal: it is forged, of another attempt, a second one of the site, or too late.
        """
        data, body = payload.split(upload)
        statement = read(data, Masked, self.roster)
        site = statement.site
        self._check_context(statement)
        known = self._statements.get(site)
        if known is not None and known[0] == data:
            return site  # a retransmission
        if known is not None or self._survivors:
            what = (
                f"{site} sent {'a second upload' if known else 'its upload after the survivors were named'}"
            )
            raise PrivacyRefusal(problem(what, where="upload"))
        self._check_statement(statement)
        vector = payload.vector_of(body, statement)
        payload.check_leaves(vector, statement)
        if self._sum is None:
            self._sum = vector.copy()
        else:
            self._sum += vector
        self._statements[site] = (data, statement)
        self._shape = (statement.length, statement.bits)
        return site

    def _check_statement(self, statement: Masked) -> None:
        others = tuple(name for name in self.members if name != statement.site)
        for field in (statement.tags, statement.pairs, statement.shares):
            if tuple(name for name, _ in field) != others:
                what = "the statement does not name every other member once"
                raise DataError(problem(what, where=f"upload of {statement.site}"))
        length, bits = self._shape or (statement.length, statement.bits)
        if (statement.length, statement.bits) != (length, bits):
            rule = f"{length:,} elements of {bits} bits"
            got = f"{statement.length:,} of {statement.bits}"
            raise DataError(expected(rule, got=got, where=f"upload of {statement.site}"))
        for _, other in self._statements.values():
            if dict(other.pairs)[statement.site] != dict(statement.pairs)[other.site]:
                what = f"{statement.site} and {other.site} derived different seeds for their common mask"
                raise DataError(problem(what, where="upload", fix="one of them departs from the protocol"))

    # opening

    def accept_reveal(self, reveal: bytes) -> str:
        """Add the secrets that a survivor opens and return its name.

        Raises:
            PrivacyRefusal: they are forged, of another round, or not those that were committed to.
        """
        found = read(reveal, Opening, self.roster)
        self._check_context(found)
        if not self._survivors or found.survivors != self._survivors or found.site not in self._survivors:
            raise PrivacyRefusal(problem(f"{found.site} opens secrets of other survivors", where="reveal"))
        seeds = {_OWN: found.own, **dict(found.pairs)}
        if set(seeds) != {_OWN, *self._outside}:
            raise PrivacyRefusal(problem(f"{found.site} opens too few or too many seeds", where="reveal"))
        for other, seed in seeds.items():
            check_seed(seed, self._committed(found.site, other), self._context, found.site)
        self._seeds |= {(found.site, other): seed for other, seed in seeds.items()}
        self._revealed.add(found.site)
        for lost, other, share in found.shares:
            if lost in self._survivors and other in ("", *self._outside):
                self._shares.setdefault((lost, other), {})[self.roster.position(found.site) + 1] = share
        return found.site

    def lost(self) -> tuple[bytes, ...]:
        """Return the statements of survivors that have not revealed, to request their shares from others."""
        return tuple(self._statements[name][0] for name in self._survivors if name not in self._revealed)

    @property
    def complete(self) -> bool:
        """Whether the sum can be computed."""
        self._rebuild()
        return bool(self._survivors) and not self._missing()

    def _rebuild(self) -> None:
        """Rebuild seeds of lost survivors for which enough shares have arrived."""
        for (name, other), shares in self._shares.items():
            if (name, other) not in self._seeds and len(shares) >= self.rules.threshold:
                committed = self._committed(name, other)

                def accept(seed: bytes, committed: bytes = committed) -> bool:
                    return commitment(seed, self._context) == committed

                seed = join_checked(shares, self.rules.threshold, accept)
                if seed is not None:
                    self._seeds[name, other] = seed

    def _missing(self) -> list[str]:
        needed = (_OWN, *self._outside)
        return [name for name in self._survivors if any((name, other) not in self._seeds for other in needed)]

    # results

    def total(self) -> Ring:
        """Return the sum over the survivors, as ring elements for :meth:`.quantiser.Quantiser.decode`.

        Raises:
            UsageError: seeds are missing; nothing can be computed.
        """
        if self._total is None:  # expanding the masks is expensive, so the result is kept
            self._require_complete()
            assert self._sum is not None
            self._total = self._sum.copy()
            apply_masks(self._total, self._masks())
        return self._total.copy()

    def transcript(self) -> Transcript:
        """Return the transcript with which the sites compute the sum again.

        :meth:`.verification.Transcript.with_uploads` adds the vectors.

        Raises:
            UsageError: seeds are missing.
        """
        self._require_complete()
        return Transcript(
            announcements=self._announcements,
            statements=tuple(self._statements[name][0] for name in self._survivors),
            agreements=self.agreements,
            seeds=tuple(self._seeds[name, _OWN] for name in self._survivors),
            pairs=tuple(
                SeedPair(name, other, self._seeds[name, other])
                for name in self._survivors
                for other in self._outside
            ),
        )

    def _masks(self) -> list[Mask]:
        own = [Mask(self._seeds[name, _OWN], add=False) for name in self._survivors]
        # The site whose name comes first added the common mask and the other one subtracted it.
        pairs = [
            Mask(self._seeds[name, other], add=name > other)
            for name in self._survivors
            for other in self._outside
        ]
        return own + pairs

    def _require_complete(self) -> None:
        if not self.complete:
            waiting = self._missing() or list(self.members)
            fix = f"ask at least {self.rules.threshold} survivors for the shares of those that are lost"
            raise UsageError(
                problem(f"the seeds of {', '.join(waiting)} are missing", where="round", fix=fix)
            )

    @property
    def _outside(self) -> tuple[str, ...]:
        return tuple(name for name in self.members if name not in self._survivors)

    def _committed(self, name: str, other: str) -> bytes:
        statement = self._statements[name][1]
        return statement.own if other == _OWN else dict(statement.pairs)[other]
