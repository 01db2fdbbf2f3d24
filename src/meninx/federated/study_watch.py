"""What people see of a study that runs in this process: events file, terminal and snapshot.

    with watching(folder, private / "events.jsonl", progress=progress) as emit:
        Coordinator(..., emit=emit).run()

:func:`find_events` finds the file again from another process (``meninx federate status``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from meninx.core import workspace
from meninx.core.errors import DataError, problem
from meninx.core.progress import Progress
from meninx.federated import events as kinds
from meninx.federated import site_folder, status_page, strategies
from meninx.federated.aggregation_methods import fewest
from meninx.federated.event_words import sentence
from meninx.federated.events import AnyEvent, Emit, StudyEvents
from meninx.federated.study_status import StatusFold, StudyStatus

if TYPE_CHECKING:
    from rich.console import Console

    from meninx.federated.audit_log import AuditLog
    from meninx.federated.study import Study

_SNAPSHOT_AFTER = (kinds.RoundAccepted, kinds.RoundAborted, kinds.StudyEnded)
_DEEPEST = 2  # folders between private/ and the file


@contextmanager
def watching(
    folder: Path,
    events: Path,
    *,
    progress: Progress,
    console: Console | None = None,
    viewer: str | None = None,
) -> Iterator[Emit]:
    """Yield a function that takes the events of a study, from any thread, and shows them.

    Args:
        folder: the snapshot (``status.html``, ``status.json``) is written into it after every round and at
            the end.
        events: file of events; need not exist.
        progress: gets one line per event, unless the console shows the study.
        console: a terminal on which the status of the study is drawn again and again; None or a console that
            is no terminal for lines.
        viewer: the site that looks; None for the coordinator.

    Raises:
        StorageError: the disk refused.
    """
    file, lock = StudyEvents(events), threading.Lock()
    try:
        fold = _folded(file, viewer)
    except DataError as error:  # the study goes on from its own state; the events are for people alone
        aside = file.set_aside()
        progress.note(f"{error}. The file was renamed to {aside.name}; a new one begins.")
        fold = StatusFold(viewer)
    with ExitStack() as stack:
        write = stack.enter_context(file.writing())
        drawn = console is not None and console.is_terminal
        if console is not None and drawn:
            from meninx.federated.status_terminal import drawing

            stack.enter_context(drawing(console, lambda: _locked(lock, fold)))

        def emit(event: AnyEvent) -> None:
            write(event)
            with lock:
                leaves = isinstance(event, kinds.SiteLost) and fold.over
                fold.add(event)
            if not drawn and not leaves:
                progress.note(sentence(event))
            with lock:
                if isinstance(event, _SNAPSHOT_AFTER):
                    status_page.write_snapshot(fold.status(), folder, now=time.time())

        yield emit


def recorded(emit: Emit, log: AuditLog, study: str) -> Emit:
    """Return a function that emits an event, and first logs for the audit what has to be provable later.

    Args:
        emit: takes every event.
        log: of the coordinator or of the site.
        study: name of the study.

    Raises:
        DataError, StorageError: of the returned function, when the log is damaged or the disk refused.
    """

    def emitted(event: AnyEvent) -> None:
        match event:
            case kinds.SiteRefused():
                where = {"study": study, "site": event.site}
                log.append("request refused", **where, reason=event.reason, final=event.final)
            case kinds.ModelUnchecked():
                log.append("model not checked", study=study, round=event.round, reason=event.reason)
            case kinds.SumsDiffer(site=site, round=number, earlier=earlier):
                log.append("sums differ by one site", study=study, site=site, round=number, earlier=earlier)
            case kinds.SumRecomputed(matches=False, site=site, round=number, share=share):
                log.append("sum not confirmed", study=study, site=site, round=number, share=share)
            case kinds.RecordReceived():
                log.append("study record received", study=study, record=event.record)
            case _:
                pass
        emit(event)

    return emitted


def _folded(file: StudyEvents, viewer: str | None) -> StatusFold:
    fold = StatusFold(viewer)
    for event in file.read():
        fold.add(event)
    return fold


def _locked(lock: threading.Lock, fold: StatusFold) -> StudyStatus:
    with lock:
        return fold.status()


def terms_of(study: Study) -> kinds.StudyTerms:
    """Return what is known of a study before it runs, as an event."""
    config, names = study.config, study.site_names
    privacy = config.training.privacy
    return kinds.StudyTerms(
        study=study.name,
        sites=names,
        rounds=strategies.of_config(config.study).turns(names),
        quorum=fewest(config, len(names)),
        aggregation=config.aggregation.method,
        private=privacy is not None,
        epsilon=privacy.epsilon if privacy else None,
        delta=privacy.delta if privacy else None,
    )


def has_events(folder: Path) -> bool:
    """Return whether a folder holds events of a study."""
    return bool(_found(folder))


def find_events(folder: Path) -> StudyEvents:
    """Return the events that were written last in a folder of a study, a site or a simulation.

    Raises:
        DataError: there are none.
    """
    found = _found(folder)
    if not found:
        fix = "start the study first"
        raise DataError(problem("this folder holds no events of a study", where=str(folder), fix=fix))
    return StudyEvents(max(found, key=lambda path: path.stat().st_mtime_ns))


def _found(folder: Path) -> list[Path]:
    private = folder / workspace.PRIVATE
    patterns = ("/".join(["*"] * depth + [kinds.FILE]) for depth in range(_DEEPEST + 1))
    return [path for pattern in patterns for path in private.glob(pattern) if path.is_file()]


def viewer_of(folder: Path) -> str | None:
    """Return the name of the site whose folder it is; None for the folder of a coordinator."""
    if not (folder / workspace.PRIVATE / site_folder.RECORD).is_file():
        return None
    return site_folder.open_folder(folder).name
