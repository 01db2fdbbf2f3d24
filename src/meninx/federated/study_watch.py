"""What people see of a study that runs in this process: events file, terminal, snapshot and page.

    with watching(folder, private / "events.jsonl", console=console, page_port=0) as watch:
        Coordinator(..., emit=watch.emit).run()      # watch.url is the address of the page

:func:`find_events` finds the file again from another process (``meninx federate status``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meninx.core import workspace
from meninx.core.errors import DataError, problem
from meninx.federated import events as kinds
from meninx.federated import site_folder, status_page
from meninx.federated.events import AnyEvent, Emit, StudyEvents
from meninx.federated.study_status import StatusFold

if TYPE_CHECKING:
    from rich.console import Console

_SNAPSHOT_AFTER = (kinds.RoundAccepted, kinds.RoundAborted, kinds.StudyEnded)
_DEEPEST = 2  # folders between private/ and the file


@dataclass(frozen=True)
class Watch:
    """What a running study is given.

    Attributes:
        emit: takes events, from any thread.
        url: address of the page for one person; empty without a page.
    """

    emit: Emit
    url: str


@contextmanager
def watching(
    folder: Path,
    events: Path,
    *,
    console: Console | None,
    viewer: str | None = None,
    page_port: int | None = None,
) -> Iterator[Watch]:
    """Write the events of a study and show them until the block ends.

    Args:
        folder: folder of the study or site. The snapshot (``status.html``, ``status.json``) is written into
            it after every round and at the end.
        events: file of events; need not exist.
        console: terminal or log; None to print nothing.
        viewer: the site that looks; None for the coordinator.
        page_port: port of the page at 127.0.0.1, 0 for a free one; None for no page.

    Raises:
        DataError: the file of events is damaged before its end.
        StorageError: the disk refused.
        UsageError: the port is taken.
    """
    file = StudyEvents(events)
    earlier = tuple(file.read())
    fold = StatusFold(viewer)
    for event in earlier:
        fold.add(event)
    lock = threading.Lock()
    with ExitStack() as stack:
        write = stack.enter_context(file.writing())
        show: Emit = kinds.ignore
        if console is not None:
            from meninx.federated.status_terminal import showing

            show = stack.enter_context(showing(console, viewer=viewer, earlier=earlier))
        url = ""
        if page_port is not None:
            from meninx.federated.status_server import scrape_token_of, serving

            token = scrape_token_of(events.parent)
            url = stack.enter_context(serving(file, viewer=viewer, port=page_port, scrape_token=token)).url

        def emit(event: AnyEvent) -> None:
            write(event)
            show(event)
            with lock:
                fold.add(event)
                if isinstance(event, _SNAPSHOT_AFTER):
                    status_page.write_snapshot(fold.status(), folder, now=time.time())

        yield Watch(emit, url)


def find_events(folder: Path) -> StudyEvents:
    """Return the events that were written last in a folder of a study, a site or a simulation.

    Raises:
        DataError: there are none.
    """
    private = folder / workspace.PRIVATE
    patterns = ("/".join(["*"] * depth + [kinds.FILE]) for depth in range(_DEEPEST + 1))
    found = [path for pattern in patterns for path in private.glob(pattern) if path.is_file()]
    if not found:
        fix = "start the study first"
        raise DataError(problem("this folder holds no events of a study", where=str(folder), fix=fix))
    return StudyEvents(max(found, key=lambda path: path.stat().st_mtime_ns))


def viewer_of(folder: Path) -> str | None:
    """Return the name of the site whose folder it is; None for the folder of a coordinator."""
    if not (folder / workspace.PRIVATE / site_folder.RECORD).is_file():
        return None
    return site_folder.open_folder(folder).name
