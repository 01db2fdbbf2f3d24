"""Aggregation methods: one record for each way in which a study adds updates up.

Whatever depends on the method is in its record: the two sides, the fewest sites of a sum, how many colluders
are covered, who sees what in words, what a site can check, and the bytes that leave a site. Coordinator,
site, policy, review page and the record of a study read it here. No torch is imported.

>>> [(name, method.fewest(10), method.colluders(10)) for name, method in METHODS.items()]
[('masks', 7, 3), ('shares', 10, 8), ('ckks', 7, 0), ('plain', 2, None)]
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meninx.core.errors import ConfigError, DataError, expected, problem
from meninx.federated.aggregators import PlainRoundSide, PlainSiteSide, RoundSide, SiteSide
from meninx.federated.config import AggregationConfig, StudyConfig
from meninx.federated.encodings import CkksEncoding, RingEncoding, quantiser
from meninx.federated.encrypted_sides import EncryptedRoundSide, EncryptedSiteSide
from meninx.federated.masked_sides import MaskedRoundSide, MaskedSiteSide
from meninx.federated.messages import Position
from meninx.federated.shares_sides import SharesRoundSide, SharesSiteSide
from meninx.secagg import Roster, check_announced, check_encrypted_announced, covered, quorum
from meninx.secagg.ckks import COLLUSION

CKKS_EXPANSION = 8.1
"""Bytes of a ciphertext per byte of float32."""

SiteSides = Callable[[str], SiteSide]
"""From the identifier of a run of the study to a site's side."""
RoundSides = Callable[[Position, Sequence[str], Mapping[str, bytes], bytes], RoundSide]
"""From an attempt, its members, the keys of all sites and what the training begins with to the side of a
coordinator."""
AnnouncementCheck = Callable[[Mapping[str, bytes], str], None]
"""Takes the keys that sites announced, by name, and the run; raises to refuse them."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to add updates up.

    Attributes:
        encoding: from the settings and the number of sites to how contributions become numbers.
        site_side: from roster, name and enrolled key of a site, run of the study, history file and encoding
            to the site's side.
        round_side: from roster, keys of all sites, attempt, members, encoding, digest of what the training
            begins with, and the numbers of the common model to the coordinator's side of the attempt.
        check_keys: from announced keys by site, the roster and the run; refuses what the sites would refuse,
            so that one liar cannot stop all others.
        fewest: from the number of sites to the fewest sites whose sum may be opened; raises ConfigError for
            too few or too many sites.
        colluders: from the number of sites to how many may collude with the coordinator and learn no single
            update; None where nothing is hidden from it.
        seen: who sees single updates, in words; empty where nobody does.
        sentence: from the number of sites to who learns what, in words.
        checks: what a site checks of the next model, in words.
        bytes_sent: from the numbers of an update and the bytes of an integer to the bytes of the vectors that
            leave a site in a round.
        integers: sums are exact sums of rounded integers, so there is a bound of their error.
    """

    encoding: Callable[[AggregationConfig, int], Any]
    site_side: Callable[[Roster, str, Ed25519PrivateKey, str, Path, Any], SiteSide]
    round_side: Callable[[Roster, Sequence[bytes], Position, Sequence[str], Any, bytes, int], RoundSide]
    check_keys: Callable[[Mapping[str, bytes], Roster, str], None]
    fewest: Callable[[int], int]
    colluders: Callable[[int], int | None]
    seen: str
    sentence: Callable[[int], str]
    checks: str
    bytes_sent: Callable[[int, int], int]
    integers: bool


def _ring(config: AggregationConfig, sites: int) -> RingEncoding:
    return RingEncoding(quantiser(config, sites))


def _ckks(config: AggregationConfig, sites: int) -> CkksEncoding:
    return CkksEncoding(config.clip, config.most_units)


def _no_keys(announced: Mapping[str, bytes], roster: Roster, run: str) -> None:
    if any(announced.values()):
        raise DataError(problem("a plain study has no keys", where="announcement"))


def _everybody(sites: int) -> int:
    quorum(sites)  # refuses too few and too many
    return sites


def _of_shares(sites: int) -> str:
    others = sites - 2
    return (
        f"The sum of a round is over all {sites} sites. Up to {others} {'site' if others == 1 else 'sites'} "
        "may collude with the coordinator: together they learn the sum of the others and no single update. "
        "Every site has to take part in every round."
    )


_RECOMPUTED = (
    "computes each sum again, up to 256 MB a round, and refuses a model that does not follow from it"
)
METHODS: Mapping[str, Method] = {
    "masks": Method(
        encoding=_ring,
        site_side=MaskedSiteSide,
        round_side=MaskedRoundSide,
        check_keys=check_announced,
        fewest=quorum,
        colluders=lambda sites: covered(sites).colluders,
        seen="",
        sentence=lambda sites: covered(sites).sentence(),
        checks=_RECOMPUTED,
        bytes_sent=lambda numbers, width: numbers * width,
        integers=True,
    ),
    "shares": Method(
        encoding=_ring,
        site_side=SharesSiteSide,
        round_side=SharesRoundSide,
        check_keys=check_announced,
        fewest=_everybody,
        colluders=lambda sites: sites - 2,
        seen="",
        sentence=_of_shares,
        checks=_RECOMPUTED,
        bytes_sent=lambda numbers, width: 2 * numbers * width,  # the rest, and the sum of shares
        integers=True,
    ),
    "ckks": Method(
        encoding=_ckks,
        site_side=EncryptedSiteSide,
        round_side=EncryptedRoundSide,
        check_keys=check_encrypted_announced,
        fewest=quorum,
        colluders=lambda sites: 0,
        seen="",
        sentence=lambda sites: COLLUSION,
        checks="decrypts each sum that it is asked for, and refuses a model that does not follow from it",
        bytes_sent=lambda numbers, width: math.ceil(numbers * 4 * CKKS_EXPANSION) + 8 * numbers,
        integers=False,
    ),
    "plain": Method(
        encoding=lambda config, sites: config.clip,
        site_side=lambda roster, name, key, run, history, clip: PlainSiteSide(clip),
        round_side=lambda roster, keys, at, members, clip, model, size: PlainRoundSide(members, size, clip),
        check_keys=_no_keys,
        fewest=lambda sites: min(2, sites),  # one alone would not be a federated round
        colluders=lambda sites: None,
        seen="the coordinator sees the update of every site",
        sentence=lambda sites: (
            "No secure aggregation: the coordinator sees the update of every single site in every round."
        ),
        checks="cannot check that a model follows from the updates: the coordinator can send any model",
        bytes_sent=lambda numbers, width: 4 * numbers,
        integers=False,
    ),
}
"""By the name in the settings."""

_HANDED_ON = dataclasses.replace(
    METHODS["plain"],
    fewest=lambda sites: 1,
    seen="each site sees the model of the site before",
    sentence=lambda sites: (
        "No secure aggregation, and nothing is added up: each site sees the model that the site before "
        "trained, and the coordinator sees the model of every site."
    ),
    checks="cannot check the model that it gets: the coordinator can send any model",
)
"""Of cyclic transfer."""


def method_of(study: StudyConfig) -> Method:
    """Return how a study adds updates up, or hands the model on."""
    return named(study.aggregation.method) if study.study.adds_up else _HANDED_ON


def named(name: str) -> Method:
    """Return the method of a name.

    Raises:
        ConfigError: there is none; no other method's claims are made for it.
    """
    if name not in METHODS:
        *most, last = METHODS
        rule = f"{', '.join(most)} or {last}"
        raise ConfigError(expected(rule, got=name, where="aggregation"))
    return METHODS[name]


def site_sides(
    config: AggregationConfig, roster: Roster, name: str, key: Ed25519PrivateKey, history: Path
) -> SiteSides:
    """Return what makes a site's side of the aggregation.

    Args:
        config: of the study.
        roster: signed by every site.
        name: of the site.
        key: its enrolled signing key.
        history: the site's private file for all runs of the study.
    """
    method = named(config.method)
    encoding = method.encoding(config, len(roster.members))
    return lambda run: method.site_side(roster, name, key, run, history, encoding)


def round_sides(config: AggregationConfig, roster: Roster, size: int) -> RoundSides:
    """Return what makes the coordinator's side of the aggregation for each attempt at a round.

    Args:
        config: of the study.
        roster: signed by every site.
        size: numbers of the common model.
    """
    method = named(config.method)
    encoding = method.encoding(config, len(roster.members))
    return lambda at, members, keys, model: method.round_side(
        roster, tuple(keys.values()), at, members, encoding, model, size
    )


def announcement_check(config: AggregationConfig, roster: Roster) -> AnnouncementCheck:
    """Return what refuses keys that the sites would refuse, so that one liar cannot stop all others."""
    method = named(config.method)
    return lambda announced, run: method.check_keys(announced, roster, run)


def fewest(study: StudyConfig, sites: int) -> int:
    """Return the fewest sites whose sum may be opened; 1 where nothing is added up.

    Raises:
        ConfigError: too few or too many sites for the method.
    """
    return method_of(study).fewest(sites)
