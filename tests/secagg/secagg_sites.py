"""A consortium in memory: signed roster, one protocol per site with its history, and an honest round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meninx.secagg import Aggregation, Member, Roster, SiteProtocol
from meninx.secagg.roster import public_bytes


@cache
def signing_keys(count: int) -> dict[str, Ed25519PrivateKey]:
    return {f"site{number:02d}": Ed25519PrivateKey.generate() for number in range(count)}


@cache
def signed_roster(count: int, study: str = "chest") -> Roster:
    keys = signing_keys(count)
    members = tuple(Member(name=name, key=public_bytes(key)) for name, key in keys.items())
    roster = Roster(study=study, members=members)
    return roster.signed({name: roster.signature(key) for name, key in keys.items()})


@dataclass
class Consortium:
    """All sites of one run; ``history`` is what each site recorded."""

    count: int
    run: str = "run-1"
    history: dict[str, list[bytes]] = field(default_factory=dict)
    sites: dict[str, SiteProtocol] = field(default_factory=dict)
    announcements: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.roster = signed_roster(self.count)
        for name in self.names:
            self.history.setdefault(name, [])
            self.start(name)
        self.announcements = [site.announce() for site in self.sites.values()]
        for site in self.sites.values():
            site.meet(self.announcements)

    @property
    def names(self) -> tuple[str, ...]:
        return self.roster.names

    @property
    def quorum(self) -> int:
        return self.sites[self.names[0]].rules.quorum

    def start(self, name: str) -> SiteProtocol:
        """The process of a site begins, again after a kill."""
        key = signing_keys(self.count)[name]
        past = tuple(self.history[name])
        self.sites[name] = SiteProtocol(
            self.roster, name, key, self.run, record=self.history[name].append, history=past
        )
        return self.sites[name]

    def aggregation(self, round: int = 0, attempt: int = 0, members: Iterable[str] = ()) -> Aggregation:
        return Aggregation(self.roster, self.announcements, round, attempt, tuple(members) or self.names)


def random_vector(length: int, seed: int, bits: int = 32) -> np.ndarray[Any, Any]:
    kind = np.dtype("<u4" if bits == 32 else "<u8")
    return np.random.default_rng(seed).integers(0, 2**bits, size=length, dtype=kind)


def agreed_round(
    consortium: Consortium,
    vectors: dict[str, np.ndarray[Any, Any]],
    *,
    uploading: Sequence[str],
    agreeing: Sequence[str] | None = None,
    revealing: Sequence[str] | None = None,
    round: int = 0,
) -> tuple[Aggregation, dict[str, bytes]]:
    """One round of an honest coordinator; sites are lost at the three stages."""
    aggregation = consortium.aggregation(round)
    uploads = {}
    for name in uploading:
        uploads[name] = consortium.sites[name].upload(round, 0, consortium.names, vectors[name])
        aggregation.receive(uploads[name])
    survivors = aggregation.freeze()
    for name in uploading if agreeing is None else agreeing:
        aggregation.accept(consortium.sites[name].agree(round, 0, survivors))
    present = tuple(uploading if agreeing is None else agreeing) if revealing is None else revealing
    for name in present:
        aggregation.accept_reveal(consortium.sites[name].reveal(round, aggregation.agreements))
    if aggregation.lost():
        for name in present:
            opening = consortium.sites[name].reveal(round, aggregation.agreements, aggregation.lost())
            aggregation.accept_reveal(opening)
    return aggregation, uploads
