"""A site's process: connects to the coordinator of an approved study and trains when it is asked.

Everything that the coordinator asks is answered by one :class:`.agent.SiteAgent`, which keeps dataset,
network and GPU between rounds. The process may be killed at any moment and started again.
"""

from __future__ import annotations

import hashlib
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from meninx.core import artifacts, files
from meninx.core.errors import (
    DataError,
    Interrupted,
    MeninxError,
    PrivacyRefusal,
    StorageError,
    problem,
)
from meninx.core.progress import SILENT, Progress
from meninx.core.result import Result, command
from meninx.federated import approval, authority, enrolment_keys, site_budget
from meninx.federated import events as kinds
from meninx.federated.agent import SiteAgent
from meninx.federated.approval import ApprovedStudy
from meninx.federated.assembly import StudyAssembly
from meninx.federated.connections import SiteClient, SiteSetup
from meninx.federated.events import (
    FILE,
    AbortReason,
    Emit,
    SiteConnected,
    SiteLost,
    StudyOutcome,
    StudyTerms,
)
from meninx.federated.mailbox import Presence
from meninx.federated.messages import Agree, Conclude, Declined, Finish, Position, Reply, Request, Train
from meninx.federated.processes import ENGINE, service
from meninx.federated.site_folder import SiteFolder
from meninx.federated.study import Study
from meninx.federated.study_watch import recorded, terms_of, watching
from meninx.secagg import Roster

ERRORS = "errors.txt"
HISTORY = "signed_rounds"  # what this site signed in secure aggregation, over all runs of the study
_MOST_ERRORS = 4 << 20  # bytes of the file of errors, after which it begins anew
_WITHDRAWN_SECONDS = 5.0  # after a final refusal, in which its reply leaves
_QUIET_SECONDS = 120.0  # without a request after the last one, in which a site without the mailbox ends


@dataclass(frozen=True, kw_only=True)
class SiteResult(Result):
    """A site's part of a study.

    Attributes:
        study: name of the study.
        site: name of the site.
        run: its run folder; None when the study ended before the site trained.
        epsilon: spent per patient over all runs of the study; None without privacy.
        run_epsilon: spent by this run alone; likewise.
        delta: of both; likewise.
        limit: epsilon over all runs at which the site stopped, at the latest; likewise.
        allowed: the most that the policy of the site allows over all runs; likewise.
    """

    study: str
    site: str
    run: Path | None
    epsilon: float | None
    run_epsilon: float | None = None
    delta: float | None = None
    limit: float | None = None
    allowed: float | None = None

    def summary(self) -> str:
        """Return the result in a few lines for people."""
        lines = [f"study: {self.study} is finished, with {self.site}"]
        if self.run is None:
            return "\n".join([*lines, "run: none, the study ended before this site released a model"])
        lines.append(f"run: {self.run}")
        if self.epsilon is not None and self.delta is not None:
            limit = "" if self.limit is None else f" of at most {self.limit:.3g}"
            words = f"{self.epsilon:.3g}{limit} in this study, per patient at delta {self.delta:g}"
            notes = [] if self.run_epsilon is None else [f"{self.run_epsilon:.3g} by this run alone"]
            if self.allowed is not None:
                notes.append(f"the policy allows {self.allowed:g}")
            further = f" ({'; '.join(notes)})" if notes else ""
            lines.append(f"epsilon: {words}, over all its runs{further}")
        lines.append(f"next: {command('evaluate', self.run)}, then {command('report', self.run)}")
        return "\n".join(lines)


def run(
    site: SiteFolder,
    name: str,
    *,
    device: str = "auto",
    progress: Progress = SILENT,
) -> SiteResult:
    """Take part in a study until its run is over, and return what came of it.

    Args:
        site: folder of the site.
        name: name of the study, which the site has approved.
        device: where the network runs.
        progress: shows what happens.

    Raises:
        PrivacyRefusal: the site has not approved this study as it is, or its policy or budget refuse it.
        NotAdmitted, EnvelopeRefused: the coordinator does not know this site, or is not the right one.
        RunLocked: another process takes part with this folder.
        Interrupted: somebody stopped it; what was finished is saved.
    """
    engine = site.private / ENGINE / name
    with service(engine) as this, ExitStack() as stack:
        this.record("site")
        approved = _admitted(site, name)
        client = SiteClient(site_setup(site, approved.study), progress.note)
        this.on_stop(client.stop)
        emit = stack.enter_context(watching(engine, engine / FILE, progress=progress, viewer=site.name))
        terms = terms_of(approved.study)
        emit(terms)
        try:
            roster = approval.check_roster(client.terms(), approved)
        except Interrupted as error:
            what = "stopped before the coordinator was reached"
            fix = "the same command tries again"
            raise Interrupted(problem(what, where=approved.study.config.study.address, fix=fix)) from error
        agent = _agent(site, approved, roster, device, engine / HISTORY, emit, progress, this.wanted)
        stack.callback(agent.close)
        log = site.log()
        log.append("took part", study=name, digest=approved.study.digest)
        part = _Part(agent, client, emit, terms, ErrorFile(engine / ERRORS, progress.note))
        stack.callback(part.end)
        client.run(part, notice=part.noticed)
        if part.refusal:
            raise PrivacyRefusal(part.refusal)
        if part.failed:
            fix = "start this site again when the coordinator resumes it"
            raise DataError(problem("the run of the study failed at the coordinator", where=name, fix=fix))
        if part.ended:
            agent.forget()
            log.append(site_budget.ENDED, study=name)
        elif agent.result is None:
            raise Interrupted(
                problem("stopped; what was finished is saved", where=name, fix="start it again")
            )
        result = agent.result
        privacy, spent = None if result is None else result.privacy, agent.spending
        return SiteResult(
            out=site.root,
            study=name,
            site=site.name,
            run=None if result is None else result.out,
            epsilon=spent.epsilon if spent else None,
            run_epsilon=privacy.epsilon if privacy else None,
            delta=privacy.delta if privacy else None,
            limit=spent.limit if spent else None,
            allowed=site.policy().max_epsilon if spent else None,
        )


def _admitted(site: SiteFolder, name: str) -> ApprovedStudy:
    """Return the study if the site may take part; otherwise the coordinator reads why it does not.

    Raises:
        PrivacyRefusal: the approval, the policy, the installed code or the budget refuse it.
    """
    try:
        approved = approval.approved(site, name)
        site_budget.check_start(site, name, approved.study.config.training, approved.data)
    except PrivacyRefusal as error:
        study = approval.stored_study(site, name)
        if study is not None and study.site(site.name) is not None:
            with suppress(DataError):  # the refusal does not depend on whether the coordinator can be reached
                SiteClient(site_setup(site, study)).refuse(str(error))
        raise
    return approved


def site_setup(site: SiteFolder, study: Study) -> SiteSetup:
    """Return what a site's client needs, from the site's folder."""
    keys = site.keys()
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
    )


class RoundsSeen:
    """What a site concludes about the study from the requests that it gets, as events.

    Another model in the next request to train, or in that to finish, means that the round before gave it; the
    same model means that it gave none. Without the mailbox nobody tells the site who is connected: it takes
    the members of a round for connected, and a member that is not among the survivors for lost.

    Args:
        terms: of the approved study.
        emit: takes the events.
    """

    def __init__(self, terms: StudyTerms, emit: Emit) -> None:
        self._terms, self._emit = terms, emit
        self._run, self._ended = "", False
        self._open: Position | None = None
        self._model = b""
        self._survivors: tuple[str, ...] = ()
        self._members: frozenset[str] = frozenset()

    def asked(self, request: Request, connected: tuple[str, ...]) -> None:
        """Emit what follows from a request before it is answered."""
        at, terms = request.at, self._terms
        if at.study != terms.study:
            return
        if at.run != self._run:
            self._run, self._open, self._ended = at.run, None, False
            self._emit(
                kinds.StudyStarted(
                    study=terms.study,
                    run=at.run,
                    sites=terms.sites,
                    rounds=terms.rounds,
                    quorum=terms.quorum,
                    aggregation=terms.aggregation,
                    connected=connected,
                )
            )
        if isinstance(request, Agree):
            self._survivors = request.survivors
        if not connected and isinstance(request, Train | Agree):
            self._infer_connected(request)
        if isinstance(request, Train | Finish):
            name = hashlib.sha256(request.model).digest()
            if self._open is not None and (isinstance(request, Finish) or self._open != at):
                self._close(self._open, accepted=name != self._model)
            if isinstance(request, Train) and self._open != at:
                self._open, self._model, self._survivors = at, name, ()

    def answered(self, request: Request, reply: Reply) -> None:
        """Emit what follows from a request that was answered."""
        if isinstance(request, Finish | Conclude) and not isinstance(reply, Declined):
            self.end()

    def end(self, *, failed: bool = False) -> None:
        """Emit once that the run is over."""
        if self._run and not self._ended:
            self._ended = True
            outcome = StudyOutcome.FAILED if failed else StudyOutcome.FINISHED
            self._emit(kinds.StudyEnded(outcome=outcome))

    def _infer_connected(self, request: Train | Agree) -> None:
        here = frozenset(request.members if isinstance(request, Train) else request.survivors)
        for site in sorted(here - self._members):
            self._emit(SiteConnected(site=site))
        for site in sorted(self._members - here):
            reason = f"it is not in the sum of round {request.at.round + 1}"
            self._emit(SiteLost(site=site, reason=reason))
        self._members = here

    def _close(self, at: Position, *, accepted: bool) -> None:
        self._open = None
        if accepted:
            self._emit(kinds.RoundAccepted(round=at.round, attempt=at.attempt, survivors=self._survivors))
        else:
            self._emit(kinds.RoundAborted(round=at.round, attempt=at.attempt, reason=AbortReason.OTHER))


class ErrorFile:
    """A private file of unexpected errors with their tracebacks, which may hold values of patients.

    Args:
        path: the file; need not exist.
        note: takes one sentence per error, without its message.
    """

    def __init__(self, path: Path, note: Callable[[str], None]) -> None:
        self._path, self._note = path, note

    def add(self, error: Exception) -> None:
        """Append an error; nothing is raised when the disk refuses, and the sentence says so."""
        kept = f"its traceback is in {self._path}, which may hold values of patients and stays at the site"
        try:
            if self._path.is_file() and self._path.stat().st_size > _MOST_ERRORS:
                self._path.unlink()
            text = "".join(traceback.format_exception(error))
            files.append_line(self._path, f"{artifacts.now()}\n{text}", mode=files.PRIVATE_MODE)
        except (OSError, StorageError):
            kept = "its traceback could not be written"
        self._note(f"An unexpected error ({type(error).__name__}), which is a bug: {kept}.")


class _Part:
    """The agent as the carrier sees it; ends the process when the run of the study is over."""

    def __init__(
        self, agent: SiteAgent, client: SiteClient, emit: Emit, terms: StudyTerms, errors: ErrorFile
    ) -> None:
        self.name, self.ended, self.failed, self.refusal = agent.name, False, False, ""
        self._agent, self._client, self._emit, self._errors = agent, client, emit, errors
        self._rounds = RoundsSeen(terms, emit)
        self._connected: set[str] = set()
        self._last, self._over = time.monotonic(), threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def handle(self, request: Request) -> Reply:
        try:
            self._rounds.asked(request, tuple(sorted(self._connected)))
            reply = self._agent.handle(request)
            self._rounds.answered(request, reply)
            if isinstance(reply, Declined) and reply.final:
                self.refusal = reply.reason
                self._agent.forget()  # the run goes on without this site
            return reply
        except MeninxError:
            raise
        except Exception as error:  # a bug; the coordinator reads its kind alone
            self._errors.add(error)
            raise
        finally:
            self._last = time.monotonic()

    def noticed(self, notice: Presence) -> None:
        """Write down who is connected, and stop when the run is over."""
        if notice.ended:
            self.ended, self.failed = True, notice.failed
            self._rounds.end(failed=notice.failed)
            self._client.stop()
            return
        now = set(notice.connected)
        for site in sorted(now - self._connected):
            self._emit(SiteConnected(site=site))
        for site in sorted(self._connected - now):
            self._emit(SiteLost(site=site))
        self._connected = now

    def end(self) -> None:
        self._over.set()
        self._emit(SiteLost(site=self.name, reason="its process ended"))

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            quiet = time.monotonic() - self._last
            if self.refusal and quiet > _WITHDRAWN_SECONDS:
                self._client.stop()
                return
            if self._agent.result is not None and quiet > _QUIET_SECONDS:
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
    privacy = study.config.training.privacy
    return StudyAssembly(study.config, study.digest, roster).agent(
        site.name,
        site.keys().signing,
        approved.data,
        site.runs(study.name),
        history,
        device=device,
        admit=site_budget.admission(site, study.name),
        opened=lambda run: site_budget.begin(site, study.name, run),
        discarding=lambda run: site_budget.discard(site, study.name, run),
        account=site_budget.account(site, study.name, privacy.epsilon if privacy else None),
        emit=recorded(emit, site.log(), study.name),
        progress=progress,
        stop=stop,
    )
