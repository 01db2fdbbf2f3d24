"""The record of a study, ``federated.json``: from the coordinator's state to what a report prints."""

from __future__ import annotations

from pathlib import Path

from meninx.core import artifacts
from meninx.core.federation import FederatedRecord, FederatedRound
from meninx.federated.aggregation_methods import method_of
from meninx.federated.config import StudyConfig
from meninx.federated.encodings import quantiser
from meninx.federated.study_state import Round, RoundPhase, Stage, StudyState
from meninx.federated.vector import name_of
from meninx.secagg import Roster


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
    method, sites = method_of(config), len(roster.members)
    record = FederatedRecord(
        study=state.header.study,
        run=state.header.run,
        digest=state.header.terms,
        layout=state.header.layout,
        model=name_of(state.model()[1].weights),
        algorithm=config.study.algorithm,
        aggregation=config.aggregation.method,
        sites=roster.names,
        quorum=method.fewest(sites),
        colluders=method.colluders(sites),
        sentence=method.sentence(sites),
        finished=state.stage is Stage.FINISHED,
        simulated=simulated,
        private=privacy is not None,
        delta=privacy.delta if privacy is not None else 0.0,
        epsilon=state.finished(),
        refusals=state.left(),
        rounds=tuple(_round(entry, config, sites) for entry in state.rounds()),
        made=artifacts.now(),
    )
    artifacts.write(folder, record)
    return record


def _error(entry: Round, config: StudyConfig, sites: int) -> float | None:
    """Return the largest rounding error of a sum of integers; None of other sums."""
    if not method_of(config).integers:
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
