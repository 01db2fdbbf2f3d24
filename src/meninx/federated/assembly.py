"""The two ends of a study, put together from what all sites signed.

A simulation and the processes of a real study take their coordinator and their sites from here, so both run
the same rounds by the same terms::

    study = StudyAssembly(config, digest, roster)
    agent = study.agent("north", key, data, out, history)           # at a site
    study.conduct(folder, state, exchange, emit=emit)  # at the coordinator
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meninx.core.artifacts import StudyPart
from meninx.core.errors import Interrupted
from meninx.core.progress import SILENT, Progress
from meninx.federated import events, strategies, study_record
from meninx.federated.agent import Account, Admission, SiteAgent
from meninx.federated.aggregation_methods import announcement_check, fewest, round_sides, site_sides
from meninx.federated.config import WAITING_MINUTES, StudyConfig
from meninx.federated.events import Emit
from meninx.federated.exchange import Exchange
from meninx.federated.rounds import Coordinator, Terms
from meninx.federated.site_rounds import SiteRounds
from meninx.federated.strategies import Strategy
from meninx.federated.study_state import Stage, StudyState
from meninx.learn.trainer import never
from meninx.secagg import Roster


@dataclass(frozen=True)
class StudyAssembly:
    """A study that all its sites signed.

    Attributes:
        config: its settings.
        digest: SHA-256 of its terms.
        roster: signed by every site.
    """

    config: StudyConfig
    digest: str
    roster: Roster

    @functools.cached_property
    def strategy(self) -> Strategy:
        """The algorithm of the study."""
        return strategies.of_config(self.config.study)

    def part(self, site: str, run: str) -> StudyPart:
        """Return the record of a site's part in a run of the study."""
        return StudyPart(
            study=self.config.name,
            run=run,
            site=site,
            sites=len(self.roster.names),
            digest=self.digest,
            algorithm=self.config.study.algorithm,
            aggregation=self.config.aggregation.method,
        )

    def agent(
        self,
        name: str,
        key: Ed25519PrivateKey,
        source: Path,
        out: Path,
        history: Path,
        *,
        device: str = "auto",
        admit: Admission = lambda config, data, resumed: None,
        opened: Callable[[Path], None] = lambda run: None,
        discarding: Callable[[Path], None] = lambda run: None,
        account: Account | None = None,
        emit: Emit = events.ignore,
        progress: Progress = SILENT,
        stop: Callable[[], bool] = never,
    ) -> SiteAgent:
        """Return the agent of a site.

        Args:
            name: of the site.
            key: its enrolled signing key.
            source: its prepared dataset.
            out: folder of its runs.
            history: private file of what it signed, over all runs of the study.
            device: where the network runs.
            admit: asked before the site's run is opened; raises PrivacyRefusal when the site does not allow
                it.
            opened: called with the folder of a new run before its first step.
            discarding: called with the folder of a run without a step before the folder is removed.
            account: states what the study has spent at the site; by default what this run has spent.
            emit: takes events about this site.
            progress: shows steps and loss.
            stop: asked after each step; true interrupts the training.
        """
        study, aggregation = self.config.study, self.config.aggregation
        return SiteAgent(
            name,
            self.config.training.replace(device=device),
            source,
            out,
            study=self.config.name,
            part=functools.partial(self.part, name),
            sides=site_sides(aggregation, self.roster, name, key, history),
            rounds=SiteRounds(self.strategy, self.roster.names, seconds=60 * study.round_minutes),
            aggregation=aggregation,
            local=study.local_layers,
            hooks=self.strategy.hooks(),
            admit=admit,
            opened=opened,
            discarding=discarding,
            account=account,
            emit=emit,
            progress=progress,
            stop=stop,
        )

    def conduct(
        self,
        folder: Path,
        state: StudyState,
        exchange: Exchange,
        *,
        emit: Emit = events.ignore,
        stop: Callable[[], bool] = never,
        waiting_seconds: float = 60 * WAITING_MINUTES,
        simulated: bool = False,
    ) -> None:
        """Take the sites through the rounds that are left, and keep the record of the study up with them.

        At the end every site that released the model gets its copy of the record.

        Args:
            folder: of the coordinator, in which the record lies.
            state: of the run, begun or resumed.
            exchange: carries requests and replies.
            emit: takes events.
            stop: asked between requests; true ends the run, which can be resumed.
            waiting_seconds: time after which the coordinator stops waiting for sites.
            simulated: all sites are in this process.

        Raises:
            DataError: too few sites came, or too many rounds failed. The study can be resumed.
            Interrupted: somebody stopped it; likewise.
            StorageError: the state or the record cannot be written.
        """
        aggregation, roster = self.config.aggregation, self.roster
        terms = Terms(
            sites=roster.names,
            quorum=fewest(self.config, len(roster.names)),
            strategy=self.strategy,
            round_seconds=60 * self.config.study.round_minutes,
            waiting_seconds=waiting_seconds,
        )
        kept = study_record.RecordFile(folder, state, self.config, roster, simulated=simulated)
        with kept.following(emit) as followed:
            coordinator = Coordinator(
                terms,
                state,
                exchange,
                round_sides(aggregation, roster, state.model()[1].weights.size),
                announcing=announcement_check(aggregation, roster),
                emit=followed,
                aggregation=aggregation.method,
                stop=stop,
            )
            if state.stage is not Stage.FINISHED:
                coordinator.run()
        with suppress(Interrupted):  # the study is finished, with or without the copies
            coordinator.conclude(kept.copy_for)
