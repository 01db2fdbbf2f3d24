"""The record of a study, ``federated.json``: from the coordinator's state to what a report prints."""

from __future__ import annotations

from pathlib import Path

from meninx.core import artifacts
from meninx.core.federation import FederatedRecord, FederatedRound
from meninx.federated.aggregation_methods import quorum_of
from meninx.federated.config import StudyConfig
from meninx.federated.encodings import quantiser
from meninx.federated.study_state import Round, RoundPhase, Stage, StudyState
from meninx.federated.vector import name_of
from meninx.secagg import Roster, covered
from meninx.secagg.ckks import COLLUSION

_SHOWN = "Nothing is hidden from the coordinator: it sees the update of every site."
_HANDED_ON = (
    "Nothing is added up: each site, and the coordinator, sees the model that the site before trained."
)
_ALL = (
    "The sum of a round is over all {sites} sites. Up to {colluders} may collude with the coordinator: they "
    "learn the sum of the others and no single update. Every site has to take part in every round."
)


def write(
    folder: Path, state: StudyState, config: StudyConfig, roster: Roster, *, simulated: bool = False
) -> FederatedRecord:
    """Write the record of a study as it stands, and return it.

    Args:
        folder: of the coordinator.
        state: of the study.
        config: its settings.
        roster: that every site signed.
        simulated: all sites were in one process.
    """
    privacy = config.training.privacy
    colluders, sentence = _covered(config, len(roster.members))
    record = FederatedRecord(
        study=state.header.study,
        run=state.header.run,
        digest=state.header.terms,
        layout=state.header.layout,
        model=name_of(state.model()[1].weights),
        algorithm=config.study.algorithm,
        aggregation=config.aggregation.method,
        sites=roster.names,
        quorum=_fewest(config, len(roster.members)),
        colluders=colluders,
        sentence=sentence,
        finished=state.stage is Stage.FINISHED,
        simulated=simulated,
        private=privacy is not None,
        delta=privacy.delta if privacy is not None else 0.0,
        epsilon=state.finished(),
        refusals=state.left(),
        rounds=tuple(_round(entry, config, len(roster.members)) for entry in state.rounds()),
        made=artifacts.now(),
    )
    artifacts.write(folder, record)
    return record


def _covered(config: StudyConfig, sites: int) -> tuple[int | None, str]:
    """Return how many colluding sites are covered, and what is covered in words."""
    if config.study.algorithm == "cyclic":
        return None, _HANDED_ON
    if config.aggregation.method == "plain":
        return None, _SHOWN
    if config.aggregation.method == "masks":
        rules = covered(sites)
        return rules.colluders, rules.sentence()
    if config.aggregation.method == "ckks":
        return 0, COLLUSION
    return sites - 2, _ALL.format(sites=sites, colluders=sites - 2)


def _fewest(config: StudyConfig, sites: int) -> int:
    """Return the fewest sites of a sum; 1 where nothing is added up."""
    return 1 if config.study.algorithm == "cyclic" else quorum_of(config.aggregation, sites)


def _error(entry: Round, config: StudyConfig, sites: int) -> float | None:
    """Return the largest rounding error of a sum of integers; None of other sums."""
    if config.aggregation.method not in ("masks", "shares"):
        return None
    return quantiser(config.aggregation, sites).error_bound(len(entry.survivors), entry.units)


def _round(entry: Round, config: StudyConfig, sites: int) -> FederatedRound:
    accepted = entry.phase is RoundPhase.ACCEPTED
    survivors = entry.survivors if accepted else ()
    return FederatedRound(
        number=entry.number,
        accepted=accepted,
        attempts=entry.attempt + 1,
        survivors=survivors,
        missing=tuple(name for name in entry.members if name not in entry.survivors),
        units=entry.units,
        loss=entry.loss,
        cut=entry.cut,
        short=entry.short,
        opened=entry.survivors if entry.opened else (),
        model=entry.model,
        error=_error(entry, config, sites) if accepted else None,
        unchecked=entry.unchecked,
        recomputed=entry.checked,
        mismatches=entry.mismatches,
        received=entry.received,
        seconds=round(entry.seconds, 3),
        words=entry.words if entry.phase.over and not accepted else "",
    )
