"""The record of a study, ``federated.json``: from the coordinator's state to what a report prints.

The coordinator keeps it in its folder. At the end each site gets a copy into the folder of its run, without
what other sites reported about themselves.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from meninx.core import artifacts, files, names, plain
from meninx.core.artifacts import StudyPart
from meninx.core.errors import DataError, expected, problem
from meninx.core.federation import EARLIER_RUNS, FederatedRecord, FederatedRound
from meninx.core.summaries import FORMAT
from meninx.federated import events
from meninx.federated.aggregation_methods import method_of
from meninx.federated.config import StudyConfig
from meninx.federated.encodings import quantiser
from meninx.federated.events import AnyEvent, Emit
from meninx.federated.study_state import Round, RoundPhase, Stage, StudyState
from meninx.federated.vector import model_digest
from meninx.secagg import Roster

_CHANGES = (events.RoundAccepted, events.RoundAborted, events.SiteRefused, events.ModelReleased)
_SPARING = 20.0  # the record is written in at most a 20th of the time
_RUN = re.compile(r"[A-Za-z0-9_-]{1,64}")


class RecordFile:
    """Keeps ``federated.json`` of a study up with the state of its run.

    The file is whole at every moment: it is replaced at once. The record of an earlier run moves to
    folder ``earlier`` when a new run begins.

    Args:
        folder: of the coordinator.
        state: of the run.
        config: settings of the study.
        roster: that every site signed.
        simulated: all sites are in one process.
    """

    def __init__(
        self, folder: Path, state: StudyState, config: StudyConfig, roster: Roster, *, simulated: bool = False
    ) -> None:
        self._folder, self._state, self._config, self._roster = folder, state, config, roster
        self._simulated = simulated
        self._written, self._cost = -math.inf, 0.0

    @contextmanager
    def following(self, emit: Emit) -> Iterator[Emit]:
        """Yield a function that passes events of the coordinator on, and writes the record after each change.

        The record is also written at the start and at the end, whatever ends the block.
        """

        def followed(event: AnyEvent) -> None:
            if isinstance(event, _CHANGES) and time.monotonic() - self._written > _SPARING * self._cost:
                self.write()
            emit(event)

        self._keep_earlier()
        self.write()
        try:
            yield followed
        finally:
            self.write()

    def write(self) -> None:
        """Write the record of the study as it stands.

        Raises:
            StorageError: the disk refused.
        """
        began = time.monotonic()
        artifacts.write(self._folder, self.record())
        self._written = time.monotonic()
        self._cost = self._written - began

    def record(self) -> FederatedRecord:
        """Return the record of the study as it stands."""
        state, config, sites = self._state, self._config, len(self._roster.members)
        privacy, method = config.training.privacy, method_of(config)
        spent = state.finished()
        return FederatedRecord(
            study=state.header.study,
            run=state.header.run,
            digest=state.header.terms,
            layout=state.header.layout,
            model=model_digest(state.model()[1].weights),
            algorithm=config.study.algorithm,
            aggregation=config.aggregation.method,
            sites=self._roster.names,
            quorum=method.fewest(sites),
            colluders=method.colluders(sites),
            sentence=method.sentence(sites),
            finished=state.stage is Stage.FINISHED,
            simulated=self._simulated,
            private=privacy is not None,
            delta=privacy.delta if privacy is not None else 0.0,
            epsilon=spent,
            largest=max((value for value in spent.values() if value is not None), default=None),
            refusals=state.left(),
            rounds=tuple(_round(entry, config, sites) for entry in state.rounds()),
            made=artifacts.now(),
        )

    def copy_for(self, site: str) -> bytes:
        """Return the record as a site may see it: of other sites neither epsilon nor reasons of refusals."""
        record = self.record()
        rounds = tuple(replace(entry, words=entry.words.partition(" (")[0]) for entry in record.rounds)
        refusals = {name: reason if name == site else "" for name, reason in record.refusals.items()}
        epsilon = {name: value for name, value in record.epsilon.items() if name == site}
        copy = replace(record, copy_of=site, rounds=rounds, refusals=refusals, epsilon=epsilon)
        return plain.to_json(copy).encode()

    def _keep_earlier(self) -> None:
        earlier = artifacts.read(self._folder, FederatedRecord)
        if earlier is None or earlier.run == self._state.header.run or not _RUN.fullmatch(earlier.run):
            return
        artifacts.write(self._folder / EARLIER_RUNS / earlier.run, earlier)


def received(content: bytes, part: StudyPart, model: str) -> FederatedRecord:
    """Return the record of a study that its coordinator gave to a site, checked against what the site knows.

    Args:
        content: the record.
        part: the site's own part in the study.
        model: SHA-256 of the common weights that the site released; empty where it is not known.

    Raises:
        DataError: it is damaged, of another study or run, or about another model.
    """
    if len(content) > files.TEXT_LIMIT:
        rule = f"a record of at most {files.TEXT_LIMIT:,} bytes"
        raise DataError(expected(rule, got=f"{len(content):,}", where="record"))
    record = plain.from_json(content, FederatedRecord, where="record")
    if any(names.printable(text) != text for text in _texts(plain.to_plain(record))):
        raise DataError(problem("the record has text that cannot be shown", where="record"))
    stated = (record.study, record.run, record.digest, record.copy_of, len(record.sites), record.version)
    if stated != (part.study, part.run, part.digest, part.site, part.sites, FORMAT):
        raise DataError(problem("the record is of another study, run or site", where="record"))
    if not record.finished or part.site not in record.sites:
        raise DataError(problem("the record is not that of a finished study of this site", where="record"))
    if model and record.model != model:
        raise DataError(problem("the record names another model than this site released", where="record"))
    return record


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a plain value, with the names of its tables."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from value
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


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
