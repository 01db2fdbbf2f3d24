"""A site's process: connects to the coordinator of an approved study and trains when it is asked.

Everything that the coordinator asks is answered by one :class:`.agent.SiteAgent`, which keeps dataset,
network and GPU between rounds. The process may be killed at any moment and started again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from meninx.core.artifacts import StudyPart
from meninx.core.errors import Interrupted, problem
from meninx.core.progress import SILENT, Progress
from meninx.core.result import Result
from meninx.federated import approval, authority, enrolment_keys, site_budget, strategies
from meninx.federated.agent import SiteAgent
from meninx.federated.aggregation_methods import site_ends
from meninx.federated.approval import ApprovedStudy
from meninx.federated.connections import SiteClient, SiteSetup
from meninx.federated.events import FILE, AnyEvent, Emit, ModelUnchecked, SiteConnected, SiteLost, SiteRefused
from meninx.federated.mailbox import Presence
from meninx.federated.messages import Reply, Request
from meninx.federated.processes import ENGINE, service
from meninx.federated.site_folder import SiteFolder
from meninx.federated.site_rounds import SiteRounds
from meninx.federated.study_watch import watching
from meninx.secagg import Roster
from meninx.train.config import TrainConfig

HISTORY = "signed_rounds"  # what this site signed in secure aggregation, over all runs of the study
_QUIET_SECONDS = 120.0  # without a request after the last one, in which a site without the mailbox ends


@dataclass(frozen=True, kw_only=True)
class SiteResult(Result):
    """A site's part of a study.

    Attributes:
        study: name of the study.
        site: name of the site.
        run: its run folder; None when the study ended before the site trained.
        epsilon: spent by the run; None without privacy.
    """

    study: str
    site: str
    run: Path | None
    epsilon: float | None


def run(
    site: SiteFolder,
    name: str,
    *,
    device: str = "auto",
    mailbox: bool = True,
    progress: Progress = SILENT,
) -> SiteResult:
    """Take part in a study until its run is over, and return what came of it.

    Args:
        site: folder of the site.
        name: name of the study, which the site has approved.
        device: where the network runs.
        mailbox: as the coordinator runs it.
        progress: shows what happens.

    Raises:
        PrivacyRefusal: the site has not approved this study as it is, or its policy or budget refuse it.
        NotAdmitted, EnvelopeRefused: the coordinator does not know this site, or is not the right one.
        RunLocked: another process takes part with this folder.
        Interrupted: somebody stopped it; what was finished is saved.
    """
    approved = approval.approved(site, name)
    engine = site.private / ENGINE / name
    with service(engine) as this, ExitStack() as stack:
        this.record("site")
        client = SiteClient(site_setup(site, approved, mailbox=mailbox))
        this.on_stop(client.stop)
        emit = stack.enter_context(watching(engine, engine / FILE, progress=progress, viewer=site.name))
        roster = approval.check_roster(client.terms(), approved)
        agent = _agent(site, approved, roster, device, engine / HISTORY, emit, progress, this.wanted)
        stack.callback(agent.close)
        log = site.log()
        log.append("took part", study=name, digest=approved.study.digest)
        part = _Part(agent, client, emit)
        stack.callback(part.end)
        client.run(part, notice=part.noticed)
        if part.ended:
            agent.forget()
            log.append("study ended", study=name)
        elif agent.result is None:
            raise Interrupted(
                problem("stopped; what was finished is saved", where=name, fix="start it again")
            )
        result = agent.result
        epsilon = None if result is None or result.privacy is None else result.privacy.epsilon
        return SiteResult(
            out=site.root,
            study=name,
            site=site.name,
            run=None if result is None else result.out,
            epsilon=epsilon,
        )


def site_setup(site: SiteFolder, approved: ApprovedStudy, *, mailbox: bool = True) -> SiteSetup:
    """Return what a site's client needs, from the site's folder."""
    study, keys = approved.study, site.keys()
    coordinator = study.file.coordinator
    return SiteSetup(
        study=study.name,
        name=site.name,
        digest=study.digest,
        signing_key=keys.signing,
        coordinator_key=enrolment_keys.ed25519(coordinator.signing, where="coordinator"),
        node_key=keys.node,
        address=study.config.study.address,
        root_certificate=authority.pem(coordinator.authority),
        mailbox=mailbox,
    )


class _Part:
    """The agent as the carrier sees it; ends the process when the run of the study is over."""

    def __init__(self, agent: SiteAgent, client: SiteClient, emit: Emit) -> None:
        self.name, self.ended = agent.name, False
        self._agent, self._client, self._emit = agent, client, emit
        self._connected: set[str] = set()
        self._last, self._over = time.monotonic(), threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def handle(self, request: Request) -> Reply:
        try:
            return self._agent.handle(request)
        finally:
            self._last = time.monotonic()

    def noticed(self, notice: Presence) -> None:
        """Write down who is connected, and stop when the run is over."""
        now = set(notice.connected)
        for site in sorted(now - self._connected):
            self._emit(SiteConnected(site=site))
        for site in sorted(self._connected - now):
            self._emit(SiteLost(site=site))
        self._connected = now
        if notice.ended:
            self.ended = True
            self._client.stop()

    def end(self) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            if self._agent.result is not None and time.monotonic() - self._last > _QUIET_SECONDS:
                self.ended = True
                self._client.stop()
                return


def _agent(
    site: SiteFolder,
    approved: ApprovedStudy,
    roster: Roster,
    device: str,
    history: Path,
    emit: Emit,
    progress: Progress,
    stop: Callable[[], bool],
) -> SiteAgent:
    """Return the agent of a site for an approved study."""
    study = approved.study
    config, sites = study.config, len(study.site_names)
    training: TrainConfig = config.training.replace(device=device)
    out = site.runs(study.name)

    def part(run: str) -> StudyPart:
        return StudyPart(
            study=study.name,
            run=run,
            site=site.name,
            sites=sites,
            digest=study.digest,
            algorithm=config.study.algorithm,
            aggregation=config.aggregation.method,
        )

    strategy, log = strategies.of_config(config.study), site.log()

    def told(event: AnyEvent) -> None:
        """Emit an event of this site, and write what it refused or could not check into the audit log."""
        emit(event)
        if isinstance(event, SiteRefused):
            log.append("request refused", study=study.name, reason=event.reason, final=event.final)
        elif isinstance(event, ModelUnchecked):
            log.append("model not checked", study=study.name, round=event.round, reason=event.reason)

    return SiteAgent(
        site.name,
        training,
        approved.data,
        out,
        study=study.name,
        part=part,
        ends=site_ends(config.aggregation, roster, site.name, site.keys().signing, history),
        rounds=SiteRounds(strategy, roster.names, seconds=60 * config.study.round_minutes),
        aggregation=config.aggregation,
        local=config.study.local_layers,
        hooks=strategy.hooks(),
        admit=site_budget.admission(site, study.name),
        opened=lambda run: site_budget.begin(site, study.name, run),
        discarding=lambda run: site_budget.discard(site, study.name, run),
        emit=told,
        progress=progress,
        stop=stop,
    )
