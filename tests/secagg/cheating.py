"""A cheating coordinator with colluding sites, against the real protocol, and what it learns exactly.

The coordinator asks honest sites whatever it likes, in any order, and keeps every answer. What it learns is
computed by linear algebra: each upload of an honest site is one equation over unknown updates and unknown
masks; masks whose seed was opened, can be rebuilt from shares or is known to a colluder are known. The
combinations of updates that follow are those in which no unknown mask is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from secagg_sites import Consortium, signing_keys

from meninx.core.errors import MeninxError
from meninx.secagg import SiteProtocol
from meninx.secagg import payload as upload_bytes
from meninx.secagg.statements import Agreement, Announcement, Masked, Opening, read, sign

P = 2**31 - 1  # the field of the linear algebra


@dataclass
class Knowledge:
    """What coordinator and colluders hold after a round."""

    threshold: int
    colluders: frozenset[str]
    uploads: list[Masked] = field(default_factory=list)  # of honest sites
    own: set[tuple[bytes, str]] = field(default_factory=set)  # (context, site) whose own seed is open
    pairs: set[tuple[bytes, frozenset[str]]] = field(default_factory=set)
    shares: dict[tuple[bytes, str, str], set[str]] = field(default_factory=dict)

    def see_upload(self, statement: Masked) -> None:
        self.uploads.append(statement)
        for colluder in self.colluders:  # reads its own shares of every seed
            for other in ("", *statement.members):
                if colluder in statement.members and other != statement.site:
                    self.see_share(statement.context, statement.site, other, colluder)

    def see_opening(self, opening: Opening) -> None:
        self.own.add((opening.context, opening.site))
        self.pairs |= {(opening.context, frozenset((opening.site, other))) for other, _ in opening.pairs}
        for lost, other, _ in opening.shares:
            self.see_share(opening.context, lost, other, opening.site)

    def see_share(self, context: bytes, owner: str, other: str, holder: str) -> None:
        self.shares.setdefault((context, owner, other), set()).add(holder)

    def knows_own(self, context: bytes, site: str) -> bool:
        return (context, site) in self.own or self._rebuilt(context, site, "")

    def knows_pair(self, context: bytes, one: str, other: str) -> bool:
        if one in self.colluders or other in self.colluders:
            return True
        opened = (context, frozenset((one, other))) in self.pairs
        return opened or self._rebuilt(context, one, other) or self._rebuilt(context, other, one)

    def _rebuilt(self, context: bytes, owner: str, other: str) -> bool:
        return len(self.shares.get((context, owner, other), ())) >= self.threshold

    def derived(self) -> list[dict[str, int]]:
        """Independent combinations of honest updates that follow, as coefficients by site."""
        sites = sorted({statement.site for statement in self.uploads})
        unknown: dict[object, int] = {}
        rows = []
        for statement in self.uploads:
            masks: dict[int, int] = {}
            context, site = statement.context, statement.site
            if not self.knows_own(context, site):
                masks[unknown.setdefault((context, site), len(unknown))] = 1
            for other in statement.members:
                if other != site and not self.knows_pair(context, site, other):
                    number = unknown.setdefault((context, frozenset((site, other))), len(unknown))
                    masks[number] = 1 if site < other else -1
            rows.append((masks, sites.index(site)))
        matrix = np.zeros((len(rows), len(unknown) + len(sites)), dtype=np.int64)
        for number, (masks, site_number) in enumerate(rows):
            for column, value in masks.items():
                matrix[number, column] = value % P
            matrix[number, len(unknown) + site_number] = 1
        left = eliminated(matrix, len(unknown))[:, len(unknown) :]
        return [
            {site: signed(int(value)) for site, value in zip(sites, row, strict=True) if value}
            for row in reduced(left)
        ]


def signed(value: int) -> int:
    return value if value <= P // 2 else value - P


def eliminated(matrix: np.ndarray, columns: int) -> np.ndarray:
    """Rows that are left when the first columns are eliminated."""
    rows = matrix.copy()
    for column in range(columns):
        found = np.flatnonzero(rows[:, column])
        if not len(found):
            continue
        pivot = rows[found[0]].copy()
        rows = np.delete(rows, found[0], axis=0)
        factors = rows[:, column] * pow(int(pivot[column]), -1, P) % P
        rows = (rows - factors[:, None] * pivot) % P
    return rows


def reduced(matrix: np.ndarray) -> np.ndarray:
    """Row-reduced basis of the row space."""
    rows, basis = matrix % P, []
    for column in range(matrix.shape[1]):
        found = np.flatnonzero(rows[:, column]) if len(rows) else []
        if not len(found):
            continue
        pivot = rows[found[0]] * pow(int(rows[found[0], column]), -1, P) % P
        rows = np.delete(rows, found[0], axis=0)
        rows = (rows - rows[:, column][:, None] * pivot) % P
        basis = [(row - row[column] * pivot) % P for row in basis] + [pivot]
    return np.array(basis, dtype=np.int64).reshape(len(basis), matrix.shape[1])


def leak(derived: Sequence[dict[str, int]], smallest: int) -> str:
    """Why this is more than one sum over at least ``smallest`` honest sites; empty if it is not."""
    if len(derived) > 1:
        return f"{len(derived)} independent combinations of updates"
    for combination in derived:
        if set(combination.values()) != {1}:
            return "a combination that is no sum"
        if len(combination) < smallest:
            return f"a sum of {len(combination)} honest sites"
    return ""


@dataclass
class CheatingCoordinator:
    """Plays rounds; ``colluders`` sign what it likes. ``rng`` drives what it tries."""

    consortium: Consortium
    colluders: tuple[str, ...]
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.names = self.consortium.names
        self.honest = tuple(name for name in self.names if name not in self.colluders)
        self.rules = self.consortium.sites[self.names[0]].rules
        self.keys = signing_keys(self.consortium.count)
        self.refusals = 0

    def play(self, round: int) -> Knowledge:
        """One round of cheating; returns what is known at its end."""
        self.known = Knowledge(self.rules.threshold, frozenset(self.colluders))
        self.statements: dict[tuple[int, str], bytes] = {}
        self.signatures: list[tuple[Agreement, bytes]] = []
        moves: list[Callable[[int], None]] = [
            self.split_view, self.second_attempt, self.partition, self.lost_outside, self.noise,
        ]  # fmt: skip
        moves[int(self.rng.integers(len(moves)))](round)
        return self.known

    # what it may do

    def asked(self, action: Callable[[], bytes]) -> bytes | None:
        try:
            return action()
        except MeninxError:
            self.refusals += 1
            return None

    def upload(
        self, round: int, attempt: int, members: Sequence[str], sites: Sequence[str], model: bytes = b""
    ) -> None:
        vector = np.zeros(1, dtype="<u4")
        for name in sites:
            found = self.asked(
                lambda name=name: self.consortium.sites[name].upload(
                    round, attempt, members, vector, model=model
                )
            )
            if found is not None:
                data = upload_bytes.split(found)[0]
                self.statements[attempt, name] = data
                if name in self.honest:
                    self.known.see_upload(read(data, Masked, self.consortium.roster))

    def agree(self, round: int, attempt: int, survivors: Sequence[str], sites: Sequence[str]) -> None:
        for name in sites:
            if name in self.colluders:
                continue
            found = self.asked(lambda name=name: self.consortium.sites[name].agree(round, attempt, survivors))
            if found is not None:
                self.signatures.append((read(found, Agreement, self.consortium.roster), found))

    def certificate(self, wanted: Agreement) -> list[bytes]:
        """All signatures over one set: of honest sites that gave them, and of every colluder."""
        chosen = [
            data
            for found, data in self.signatures
            if (found.context, found.survivors) == (wanted.context, wanted.survivors)
        ]
        forged = Agreement(
            site="", session=wanted.session, round=wanted.round, attempt=wanted.attempt,
            members=wanted.members, model=wanted.model, survivors=wanted.survivors,
        )  # fmt: skip
        for name in self.colluders:
            if name in wanted.survivors:
                fields = {key: getattr(forged, key) for key in forged.__struct_fields__} | {"site": name}
                chosen.append(sign(Agreement(**fields), self.keys[name]))
        return chosen

    def reveal(self, round: int, sites: Sequence[str], lost: Sequence[str] = (), attempt: int = 0) -> None:
        """Show every certificate that can be made to every site, and whatever else was signed."""
        kinds = {(found.context, found.survivors): found for found, _ in self.signatures}
        tries = [self.certificate(found) for found in kinds.values()]
        tries.append([data for _, data in self.signatures])
        statements = [self.statements[attempt, name] for name in lost if (attempt, name) in self.statements]
        for name in sites:
            for agreements in tries if name in self.honest else ():
                for lost_statements in (statements, ()):
                    found = self.asked(
                        lambda name=name, agreements=agreements, lost=lost_statements: self.consortium.sites[
                            name
                        ].reveal(round, agreements, lost)
                    )
                    if found is not None:
                        self.known.see_opening(read(found, Opening, self.consortium.roster))

    def restart(self, sites: Sequence[str]) -> None:
        """Processes of sites are killed and start again from what they recorded."""
        for name in sites:
            site = self.consortium.sites[name]
            if (
                type(site) is SiteProtocol and site.run == self.consortium.run
            ):  # a planted fault keeps no history
                self.consortium.start(name)

    def forget(self, sites: Sequence[str]) -> None:
        """Sites close the round and keep the history that they still need."""
        for name in sites:
            site = self.consortium.sites[name]
            if type(site) is SiteProtocol and site.phase not in ("start", "announced"):
                site.close()
                self.consortium.history[name][:] = site.entries()

    # strategies

    def some(self, names: Sequence[str], least: int) -> tuple[str, ...]:
        count = int(self.rng.integers(min(least, len(names)), len(names) + 1))
        return tuple(sorted(self.rng.permutation(names)[:count].tolist()))

    def victim(self) -> str:
        return str(self.rng.choice(self.honest))

    def split_view(self, round: int) -> None:
        """Some sites are told that the victim survived, the others that it dropped."""
        members = self.some(self.names, self.rules.quorum + 1)
        self.upload(round, 0, members, members)
        victim = self.victim()
        informed = self.some(self.honest, 1) if self.rng.integers(2) else (victim,)
        kept = self.some(members, self.rules.quorum) if self.rng.integers(2) else members
        without = tuple(name for name in kept if name != victim)
        self.agree(round, 0, members, informed)
        self.agree(round, 0, without, [name for name in members if name != victim])
        self.reveal(round, members, self.some(members, 1))

    def second_attempt(self, round: int) -> None:
        """A completed attempt is called failed, and another one follows without the victim."""
        victim = self.victim()
        members = self.names
        self.upload(round, 0, members, members)
        whole = bool(self.rng.integers(2))
        survivors = members if whole else self.some(members, self.rules.quorum)
        signers = survivors if whole else self.some(survivors, self.rules.quorum)
        self.agree(round, 0, survivors, signers)
        if whole or self.rng.integers(2):
            self.reveal(round, members, self.some(survivors, 1))
        fewer = tuple(name for name in members if name != victim)
        chosen = fewer if self.rng.integers(2) else members
        self.upload(round, 1, chosen, chosen)
        self.agree(round, 1, fewer, fewer)
        self.reveal(round, members, self.some(fewer, 1), attempt=1)

    def partition(self, round: int) -> None:
        """Groups of sites are shown members and survivors of their own."""
        first = self.some(self.names, self.rules.quorum)
        second = self.some(self.names, self.rules.quorum)
        half = self.some(self.honest, 1)
        rest = [name for name in self.honest if name not in half]
        self.upload(round, 0, first, half)
        self.upload(round, 0, second, rest, b"another model" if self.rng.integers(2) else b"")
        for members, group in ((first, half), (second, rest)):
            for survivors in (members, self.some(members, self.rules.quorum), (*group, *self.colluders)):
                self.agree(round, 0, tuple(sorted(set(survivors))), group)
        self.reveal(round, self.honest, self.some(self.names, 1))

    def lost_outside(self, round: int) -> None:
        """The victim is left out of the survivors and named as lost at the same time."""
        self.upload(round, 0, self.names, self.names)
        victim = self.victim()
        survivors = tuple(name for name in self.names if name != victim)
        self.agree(round, 0, survivors, survivors)
        self.reveal(round, survivors, [victim])
        self.reveal(round, survivors, [victim, *self.some(survivors, 1)])

    def noise(self, round: int) -> None:
        """Any requests in any order."""
        members = self.some(self.names, self.rules.quorum)
        self.upload(round, 0, members, members)
        for _ in range(int(self.rng.integers(2, 6))):
            attempt = int(self.rng.integers(2))
            survivors = self.some(members, max(1, self.rules.quorum - 1))
            group = self.some(self.honest, 1)
            kind = int(self.rng.integers(6))
            if kind == 4:
                self.restart(group)
            elif kind == 5:
                self.forget(group)
            elif kind == 0:
                again = self.some(self.names, self.rules.quorum)
                self.upload(round, attempt, again, group)
            elif kind == 1:
                self.agree(round, attempt, survivors, survivors)
            elif kind == 2:
                self.agree(round, attempt, survivors, group)
            else:
                self.reveal(round, group, self.some(self.names, 1), attempt)
        self.reveal(round, self.honest, self.some(self.names, 1))


def equivocate(consortium: Consortium, colluder: str) -> None:
    """Start another run in which a colluder announces two keys and half of the sites see the second one."""
    consortium.run = "run-2"
    for name in consortium.names:
        consortium.start(name)
    first = [site.announce() for site in consortium.sites.values()]
    found = read(first[consortium.names.index(colluder)], Announcement, consortium.roster)
    key = X25519PrivateKey.generate().public_key().public_bytes_raw()
    other = sign(msgspec.structs.replace(found, exchange_key=key), signing_keys(consortium.count)[colluder])
    second = [other if name == colluder else data for name, data in zip(consortium.names, first, strict=True)]
    for number, name in enumerate(consortium.names):
        shown = second if number % 2 and name != colluder else first
        consortium.sites[name].meet(shown)


# rules that are planted away, to show that the search finds what they prevent


class SignsEverySet(SiteProtocol):
    """Without the rule of one set per round."""

    def agree(self, round: int, attempt: int, survivors: Sequence[str]) -> bytes:
        if self._open is not None:
            self._open.signed = self._last = None
        if self.phase in ("agreed", "revealed"):
            self.phase = type(self.phase)("uploaded")
        return super().agree(round, attempt, survivors)


class NeedsNoQuorum(SiteProtocol):
    """Without the rule that a quorum must have signed the same set."""

    def _check_certificate(self, here: object, survivors: object, agreements: object) -> None:
        pass


class ReopensRounds(SiteProtocol):
    """Without the rule that a signature closes the round."""

    def upload(self, *args: object, **options: object) -> bytes:
        self._last = None
        return super().upload(*args, **options)


class OpensLostOutside(SiteProtocol):
    """Without the rule that only survivors can be lost."""

    def _shares_of_lost(self, current, survivors, lost):
        shares = []
        for data in lost:
            statement = read(data, Masked, self.roster)
            if statement.site != self.name:
                shares += [
                    (statement.site, other, share) for other, share in self.pairs.unsealed(statement).items()
                ]
        return tuple(shares)
