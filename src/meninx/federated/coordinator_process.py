"""The coordinator's process: serves a study to its sites and takes them through the rounds.

It may be killed at any moment. Another start with ``resume`` goes on with the round at hand; the sites find
the coordinator again by themselves.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
from filelock import FileLock

from meninx.core import files, names, workspace
from meninx.core.errors import (
    DataError,
    Interrupted,
    MeninxError,
    PrivacyRefusal,
    RunLocked,
    StorageError,
    UsageError,
    problem,
)
from meninx.core.progress import SILENT, Progress
from meninx.core.result import Result, command
from meninx.federated import approval, enrolment_keys, strategies
from meninx.federated.assembly import StudyAssembly
from meninx.federated.config import WAITING_MINUTES
from meninx.federated.connections import CoordinatorServer, CoordinatorSetup
from meninx.federated.events import FILE, Emit, SiteConnected, SiteLost, SiteRefused
from meninx.federated.first_model import first_model
from meninx.federated.mailbox import Presence
from meninx.federated.processes import ENGINE, STARTING, Service, running, service
from meninx.federated.rounds import MOST_WORDS
from meninx.federated.study import Study, StudyFolder
from meninx.federated.study_state import RoundPhase, StudyState
from meninx.federated.study_watch import recorded, terms_of, watching
from meninx.federated.vector import Vector
from meninx.federated.weight_layout import WeightLayout
from meninx.secagg import Roster

if TYPE_CHECKING:
    from rich.console import Console

StructT = TypeVar("StructT", bound=msgspec.Struct)

SERVING = "serving coordinator"  # role of a process that waits for orders
RUNS, ORDER = "runs", "order.json"
_OUTCOMES, _ORDER_LOCK = "outcome-{}.json", "order.lock"
_ORDERS = 0.3  # seconds between two looks for an order, or for its outcome
_PRESENCE = 1.0  # seconds between two looks who is connected
_FAREWELL = 3.0  # seconds in which the sites hear that the run is over


@dataclass(frozen=True, kw_only=True)
class CoordinatorResult(Result):
    """A study that was run.

    Attributes:
        study: name of the study.
        run: identifier of the run.
        rounds: rounds that gave a model.
        aborted: rounds that did not.
        sites: sites that released the model.
        spent: site -> epsilon per patient that its run spent, as the site reported it; None without privacy.
        epsilon: asked per patient; None without privacy, or where the study sets the noise.
        delta: of every epsilon; None where each site takes its own.
    """

    study: str
    run: str
    rounds: int
    aborted: int
    sites: tuple[str, ...]
    spent: dict[str, float | None] = field(default_factory=dict)
    epsilon: float | None = None
    delta: float | None = None

    def summary(self) -> str:
        """Return the result in a few lines for people."""
        lines = [f"study: {self.study} is finished"]
        lines.append(f"rounds: {self.rounds} gave a model, {self.aborted} none")
        delta = "" if self.delta is None else f" at delta {self.delta:g}"
        if self.epsilon is not None:
            lines.append(f"epsilon: the study asked for {self.epsilon:g}{delta} per patient at each site")
        spent = [f"{site} {value:.3g}" for site, value in self.spent.items() if value is not None]
        if spent:
            lines.append(f"spent in this run: {', '.join(spent)}{delta}, as each site's own ledger says")
        where = f"at {', '.join(self.sites) or 'no site'}, in each site's run folder"
        lines.append(f"model: {where} below runs/{self.study}")
        lines.append("next: at a site `meninx evaluate RUN` and `meninx report RUN` with its run folder")
        here = f"{command('report', self.out)} and {command('federate', 'status', self.out)}"
        lines.append(f"here: {here}")
        return "\n".join(lines)


class RunOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a run of a study begins.

    Attributes:
        resume: go on with the last run; else begin a new one.
        again: begin a new run although there was one of this revision of the study.
        warm: with ``again``: from the last accepted model of the run before, not from the seed.
        waiting_seconds: seconds after which the coordinator stops waiting for sites.
    """

    resume: bool = False
    again: bool = False
    warm: bool = False
    waiting_seconds: float = 60 * WAITING_MINUTES


class PlacedOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An order for the process that serves a study; its file is there until the run is over.

    Attributes:
        id: random; names the file of the outcome, so that only who placed the order takes it.
        start: how the run begins.
    """

    id: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    start: RunOrder

    def outcome(self, engine: Path) -> Path:
        """Return the path of the file that says how the run ended."""
        return engine / _OUTCOMES.format(self.id)


class RunOutcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a run that was ordered from another process ended.

    Attributes:
        error: why it did not finish; empty if it did.
        code: exit code of the error.
        run: identifier of the run.
        rounds: rounds that gave a model.
        aborted: rounds that did not.
        sites: sites that released the model.
        epsilon: site -> epsilon that its run spent; None without privacy.
    """

    error: str = ""
    code: int = 0
    run: str = ""
    rounds: int = 0
    aborted: int = 0
    sites: tuple[str, ...] = ()
    epsilon: dict[str, float | None] = {}


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How the coordinator listens.

    Attributes:
        host: address to listen on; empty for all of this machine, or loopback if the study's address is.
        port: port to listen on; None for that of the study's address.
        mailbox: whether short requests travel through the mailbox; the sites have to be told the same.
    """

    host: str = ""
    port: int | None = None
    mailbox: bool = True


def run(
    folder: StudyFolder,
    start: RunOrder,
    serving: Serving = Serving(),
    *,
    progress: Progress = SILENT,
    console: Console | None = None,
) -> CoordinatorResult:
    """Take the sites of a study through a run and return what came of it.

    If a process serves the study already (:func:`serve`), that process does it.

    Args:
        folder: the coordinator's folder, with the approvals of all sites.
        start: how the run begins.
        serving: how this process listens.
        progress: shows what happens.
        console: a terminal that shows the status of the study instead.

    Raises:
        PrivacyRefusal: a site has not approved the study, or other code is installed.
        UsageError: there is nothing to resume, or the last run was not resumed; or the port is taken.
        RunLocked: another process is busy with this study, or the one that serves it with another run.
        DataError: too few sites came, or too many rounds failed; the run can be resumed.
        Interrupted: somebody stopped it; likewise.
    """
    engine = folder.private / ENGINE
    with ExitStack() as stack:
        while True:
            there = running(engine)
            if there is not None and there.role == SERVING:
                return _result(folder, _ordered(engine, start))
            try:
                office = stack.enter_context(_served(folder, serving, "coordinator", progress, console))
            except RunLocked:
                there = running(engine)
                if there is not None and there.role not in (SERVING, STARTING):
                    raise
                time.sleep(_ORDERS)
                continue
            return _result(folder, office.conduct(start))


def serve(
    folder: StudyFolder,
    serving: Serving = Serving(),
    *,
    progress: Progress = SILENT,
    console: Console | None = None,
) -> None:
    """Let the sites of a study connect until somebody stops this process; :func:`run` begins the rounds.

    The errors are those of :func:`run` at its start.
    """
    engine = folder.private / ENGINE
    with ExitStack() as stack:
        stack.callback(progress.note, f"Study {folder.name} is no longer served; what was finished is saved.")
        office = stack.enter_context(_served(folder, serving, SERVING, progress, console))
        while not office.this.stopping.wait(_ORDERS):
            order = _read(engine / ORDER, PlacedOrder)
            if order is None:
                continue
            try:
                outcome = office.conduct(order.start)
            except MeninxError as error:
                outcome = RunOutcome(error=str(error), code=error.exit_code)
            _write(order.outcome(engine), outcome)
            (engine / ORDER).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Office:
    """A coordinator whose listener is open."""

    folder: StudyFolder
    study: Study
    roster: Roster
    server: CoordinatorServer
    this: Service
    emit: Emit

    def conduct(self, start: RunOrder) -> RunOutcome:
        """Go through a run to its end, and tell the sites."""
        study, config, log = self.study, self.study.config, self.folder.log()
        if self.folder.study().digest != study.digest:
            fix = f"{command('federate', 'stop', self.folder.root)}, then serve it again"
            what = "the study was published again since this process began to serve it"
            raise UsageError(problem(what, where=study.name, fix=fix))
        with closing(_state(self.this.folder / RUNS, study, start)) as state:
            run = state.header.run
            log.append("run started", run=run, round=state.next_number, resumed=start.resume)
            assembly = StudyAssembly(config, study.digest, self.roster)
            try:
                assembly.conduct(
                    self.folder.root,
                    state,
                    self.server.exchange,
                    emit=self.emit,
                    stop=self.this.wanted,
                    waiting_seconds=start.waiting_seconds,
                )
            except MeninxError as error:
                if not isinstance(error, Interrupted):
                    self._announce(failed=True)  # first, because on a full disk the log cannot be written
                log.append("run stopped", run=run, reason=str(error))
                raise
            rounds = state.rounds()
            log.append("run finished", run=run, rounds=len(rounds))
            self._announce()
            return RunOutcome(
                run=run,
                rounds=sum(one.phase is RoundPhase.ACCEPTED for one in rounds),
                aborted=sum(one.phase is RoundPhase.ABORTED for one in rounds),
                sites=tuple(sorted(state.finished())),
                epsilon=state.finished(),
            )

    def _announce(self, *, failed: bool = False) -> None:
        """Tell the sites that the run is over, and give them time to hear it.

        A site that connects later comes for the next run, so it must not hear it.
        """
        exchange = self.server.exchange
        here = tuple(sorted(exchange.present()))
        exchange.mailbox.announce(Presence(connected=here, ended=True, failed=failed))
        time.sleep(_FAREWELL)
        exchange.mailbox.announce(Presence(connected=tuple(sorted(exchange.present()))))


@contextmanager
def _served(
    folder: StudyFolder, serving: Serving, role: str, progress: Progress, console: Console | None
) -> Iterator[_Office]:
    """Serve a study for a block."""
    study, roster = approval.agreed(folder)
    engine = folder.private / ENGINE
    with service(engine) as this, ExitStack() as stack:
        for path in (engine / ORDER, *engine.glob(_OUTCOMES.format("*"))):
            path.unlink(missing_ok=True)  # of a process that was killed
        this.record(role)
        setup = coordinator_setup(folder, study, roster, serving)
        server = CoordinatorServer(setup)
        stack.callback(server.stop)
        server.start()
        this.record(role, f"{setup.host}:{server.port}")
        progress.note(_opening(folder, study, f"{setup.host}:{server.port}", role))
        watch = watching(folder.root, engine / FILE, progress=progress, console=console)
        emit = recorded(stack.enter_context(watch), folder.log(), study.name)
        emit(terms_of(study))
        stack.enter_context(_presence(server, emit))
        yield _Office(folder, study, roster, server, this, emit)


def _opening(folder: StudyFolder, study: Study, address: str, role: str) -> str:
    """Return what a coordinator says as soon as sites can connect."""
    sites = f"{len(study.site_names)} sites connect by {study.config.study.address}"
    words = f"Serving study {study.name} at {address}; its {sites}."
    if role != SERVING:
        return words
    begin, stop = command("federate", "run", folder.root), command("federate", "stop", folder.root)
    return f"{words} {begin} in another terminal begins the rounds; {stop} or Ctrl-C ends this process."


def _ordered(engine: Path, start: RunOrder) -> RunOutcome:
    """Have the process that serves a study conduct a run, and return how it ended.

    Raises:
        RunLocked: it conducts another run.
        Interrupted: it ended.
    """
    order, study = PlacedOrder(id=secrets.token_hex(16), start=start), engine.parent.parent.name
    with FileLock(engine / _ORDER_LOCK):
        if (engine / ORDER).exists():
            fix = "wait for its end, or stop the process that serves the study"
            raise RunLocked(problem("the coordinator conducts another run", where=study, fix=fix))
        _write(engine / ORDER, order)
    while running(engine) is not None and _read(engine / ORDER, PlacedOrder) == order:
        time.sleep(_ORDERS)
    outcome = _read(order.outcome(engine), RunOutcome)
    if outcome is None:
        raise Interrupted(problem("the process that serves the study ended", where=study))
    order.outcome(engine).unlink(missing_ok=True)
    return outcome


def _write(path: Path, value: msgspec.Struct) -> None:
    files.write_bytes(path, msgspec.json.encode(value), mode=files.PRIVATE_MODE)


def _read(path: Path, kind: type[StructT]) -> StructT | None:
    try:
        content = files.read_bytes(path)
    except DataError:
        if path.exists():
            raise
        return None  # another process may remove it at this moment
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, ValueError) as error:
        raise DataError(problem("the file is damaged", where=path.name)) from error


def _result(folder: StudyFolder, outcome: RunOutcome) -> CoordinatorResult:
    """Return the result of a run.

    Raises:
        MeninxError: of the kind that the process had that conducted it.
    """
    if outcome.error:
        kinds = {error.exit_code: error for error in (UsageError, DataError, PrivacyRefusal, Interrupted)}
        raise kinds.get(outcome.code, MeninxError)(outcome.error)
    privacy = folder.study().config.training.privacy
    return CoordinatorResult(
        out=folder.root,
        study=folder.name,
        run=outcome.run,
        rounds=outcome.rounds,
        aborted=outcome.aborted,
        sites=outcome.sites,
        spent=outcome.epsilon,
        epsilon=privacy.epsilon if privacy else None,
        delta=privacy.delta if privacy else None,
    )


def coordinator_setup(
    folder: StudyFolder, study: Study, roster: Roster, serving: Serving = Serving()
) -> CoordinatorSetup:
    """Return what the server of a study needs, from the coordinator's folder."""
    terms, sites = study.config.study, study.file.sites
    loopback = terms.host in ("127.0.0.1", "localhost")
    return CoordinatorSetup(
        study=study.name,
        digest=study.digest,
        terms=roster.to_bytes(),
        signing_key=folder.keys().signing,
        signing_keys={site.name: enrolment_keys.ed25519(site.signing, where=site.name) for site in sites},
        node_keys={site.name: enrolment_keys.p384(site.node, where=site.name) for site in sites},
        certificate=folder.server_certificate_path,
        certificate_key=folder.server_key_path,
        host=serving.host or ("127.0.0.1" if loopback else "0.0.0.0"),
        port=terms.port if serving.port is None else serving.port,
        mailbox=serving.mailbox,
    )


def _first(study: Study) -> tuple[Vector, WeightLayout]:
    """Return the first common model of a study, from its seed, and its layout."""
    config = study.config
    return first_model(config.training, config.data.info(), config.study.local_layers)


def _state(folder: Path, study: Study, start: RunOrder) -> StudyState:
    """Return the state of the run that goes on or begins; the states of earlier runs stay beside it."""
    weights, layout = _first(study)
    paths = sorted(folder.glob("*.sqlite3"))
    named = {"study": study.name, "terms": study.digest, "layout": layout.digest}
    if start.resume:
        if not paths:
            raise UsageError(
                problem("the study was not begun", where=study.name, fix="`meninx federate run`")
            )
        return StudyState.resume(paths[-1], **named)
    model, first = strategies.of_config(study.config.study).init(weights), 0
    if paths:
        with closing(StudyState.opened(paths[-1])) as before:
            if before.header.terms == study.digest and not start.again:  # a new revision is a new run anyway
                fix = "`meninx federate resume` goes on with it; `run --again` begins another one"
                raise UsageError(problem("the study was run before", where=study.name, fix=fix))
            first = before.next_number
            if start.warm:
                model = _warm(before, study, layout)
    workspace.make_private(folder.parent)
    return StudyState.begin(folder / f"{len(paths) + 1:04d}.sqlite3", **named, weights=model, first=first)


def _warm(before: StudyState, study: Study, layout: WeightLayout) -> strategies.ServerState:
    """Return the last accepted model of an earlier run, for a run of the same or another revision.

    What the strategy remembered in that run is not taken over: sites that compute the common model begin with
    the memory of a new run.

    Raises:
        UsageError: its weights are those of another network.
    """
    if before.header.layout != layout.digest:
        fix = "leave --warm out, to begin with the weights of the study's seed"
        what = "the network changed since the run before, so its model does not fit"
        raise UsageError(problem(what, where=study.name, fix=fix))
    _, model = before.model()
    return strategies.of_config(study.config.study).init(model.weights)


@contextmanager
def _presence(server: CoordinatorServer, emit: Emit) -> Iterator[None]:
    """Tell events and sites who is connected, and events who does not take part, for a block."""
    ended = threading.Event()

    def looked(before: frozenset[str]) -> frozenset[str]:
        now = server.exchange.present()
        for site, reason in server.exchange.refusals().items():
            words = names.printable(reason)[:MOST_WORDS]
            emit(SiteRefused(site=site, reason=words, code=PrivacyRefusal.exit_code))
        for site in sorted(now - before):
            emit(SiteConnected(site=site))
        for site in sorted(before - now):
            emit(SiteLost(site=site, reason="its connection is closed"))
        if now != before:
            server.exchange.mailbox.announce(Presence(connected=tuple(sorted(now))))
        return now

    def watch() -> None:
        before: frozenset[str] = frozenset()
        while not ended.wait(_PRESENCE):
            with suppress(StorageError):  # on a full disk; the rounds end with a sentence at their next write
                before = looked(before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
