"""The aggregation of a study, as its settings name it: makes the ends that sites and coordinator hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meninx.core.errors import DataError, problem
from meninx.federated.aggregators import PlainRoundEnd, PlainSiteEnd, RoundEnd, SiteEnd
from meninx.federated.config import AggregationConfig
from meninx.federated.encrypted_ends import EncryptedRoundEnd, EncryptedSiteEnd
from meninx.federated.masked import MaskedRoundEnd, MaskedSiteEnd, quantiser
from meninx.federated.messages import Position
from meninx.federated.shared import SharedRoundEnd, SharedSiteEnd
from meninx.secagg import Roster, check_announced, check_encrypted_announced, quorum

SiteEnds = Callable[[str], SiteEnd]
"""From the identifier of a run of the study to a site's end."""
RoundEnds = Callable[[Position, Sequence[str], Mapping[str, bytes], bytes], RoundEnd]
"""From an attempt, its members, the keys of all sites and what the training begins with to the end of a
coordinator."""

AnnouncementCheck = Callable[[Mapping[str, bytes], str], None]
"""Takes the keys that sites announced, by name, and the run; raises to refuse them."""


def site_ends(
    config: AggregationConfig, roster: Roster, name: str, key: Ed25519PrivateKey, history: Path
) -> SiteEnds:
    """Return what makes a site's end of the aggregation.

    Args:
        config: of the study.
        roster: signed by every site.
        name: of the site.
        key: its enrolled signing key.
        history: the site's private file for all runs of the study.
    """
    if config.method == "plain":
        return lambda run: PlainSiteEnd(config.clip)
    if config.method == "ckks":
        return lambda run: EncryptedSiteEnd(roster, name, key, run, history, config)
    scale = quantiser(config, len(roster.members))
    if config.method == "shares":
        return lambda run: SharedSiteEnd(roster, name, key, run, history, scale)
    return lambda run: MaskedSiteEnd(roster, name, key, run, history, scale)


def round_ends(config: AggregationConfig, roster: Roster, size: int) -> RoundEnds:
    """Return what makes the coordinator's end of the aggregation for each attempt at a round.

    Args:
        config: of the study.
        roster: signed by every site.
        size: numbers of the common model.
    """
    if config.method == "plain":
        return lambda at, members, announcements, model: PlainRoundEnd(members, size, config.clip)
    if config.method == "ckks":
        return lambda at, members, announcements, model: EncryptedRoundEnd(
            roster, tuple(announcements.values()), at, members, config, model, size
        )
    scale = quantiser(config, len(roster.members))
    if config.method == "shares":
        return lambda at, members, announcements, model: SharedRoundEnd(
            roster, tuple(announcements.values()), at, scale, model, size
        )
    return lambda at, members, announcements, model: MaskedRoundEnd(
        roster, tuple(announcements.values()), at, members, scale, model, size
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
