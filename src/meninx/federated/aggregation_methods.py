"""The aggregation of a study, as its settings name it: makes the sides that sites and coordinator hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meninx.core.errors import DataError, problem
from meninx.federated.aggregators import PlainRoundSide, PlainSiteSide, RoundSide, SiteSide
from meninx.federated.config import AggregationConfig
from meninx.federated.encodings import CkksEncoding, RingEncoding, quantiser
from meninx.federated.encrypted_sides import EncryptedRoundSide, EncryptedSiteSide
from meninx.federated.masked_sides import MaskedRoundSide, MaskedSiteSide
from meninx.federated.messages import Position
from meninx.federated.shares_sides import SharesRoundSide, SharesSiteSide
from meninx.secagg import Roster, check_announced, check_encrypted_announced, quorum

SiteSides = Callable[[str], SiteSide]
"""From the identifier of a run of the study to a site's side."""
RoundSides = Callable[[Position, Sequence[str], Mapping[str, bytes], bytes], RoundSide]
"""From an attempt, its members, the keys of all sites and what the training begins with to the side of a
coordinator."""

AnnouncementCheck = Callable[[Mapping[str, bytes], str], None]
"""Takes the keys that sites announced, by name, and the run; raises to refuse them."""


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
    if config.method == "plain":
        return lambda run: PlainSiteSide(config.clip)
    if config.method == "ckks":
        ckks = CkksEncoding(config.clip, config.most_units)
        return lambda run: EncryptedSiteSide(roster, name, key, run, history, ckks)
    ring = RingEncoding(quantiser(config, len(roster.members)))
    if config.method == "shares":
        return lambda run: SharesSiteSide(roster, name, key, run, history, ring)
    return lambda run: MaskedSiteSide(roster, name, key, run, history, ring)


def round_sides(config: AggregationConfig, roster: Roster, size: int) -> RoundSides:
    """Return what makes the coordinator's side of the aggregation for each attempt at a round.

    Args:
        config: of the study.
        roster: signed by every site.
        size: numbers of the common model.
    """
    if config.method == "plain":
        return lambda at, members, announcements, model: PlainRoundSide(members, size, config.clip)
    if config.method == "ckks":
        ckks = CkksEncoding(config.clip, config.most_units)
        return lambda at, members, announcements, model: EncryptedRoundSide(
            roster, tuple(announcements.values()), at, members, ckks, model, size
        )
    ring = RingEncoding(quantiser(config, len(roster.members)))
    if config.method == "shares":
        return lambda at, members, announcements, model: SharesRoundSide(
            roster, tuple(announcements.values()), at, ring, model, size
        )
    return lambda at, members, announcements, model: MaskedRoundSide(
        roster, tuple(announcements.values()), at, members, ring, model, size
    )


def announcement_check(config: AggregationConfig, roster: Roster) -> AnnouncementCheck:
    """Return what refuses keys that the sites would refuse, so that one liar cannot stop all others."""

    def check(announced: Mapping[str, bytes], run: str) -> None:
        if config.method == "plain":
            if any(announced.values()):
                raise DataError(problem("a plain study has no keys", where="announcement"))
        elif config.method == "ckks":
            check_encrypted_announced(announced, roster, run)
        else:
            check_announced(announced, roster, run)

    return check


def quorum_of(config: AggregationConfig, sites: int) -> int:
    """Return the fewest sites whose sum may be opened.

    Without secure aggregation that is any two; one alone would not be a federated round. Shares need every
    site.

    Raises:
        ConfigError: too few or too many sites for the method.
    """
    if not config.secure:
        return min(2, sites)
    fewest = quorum(sites)
    return sites if config.method == "shares" else fewest
