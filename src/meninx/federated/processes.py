"""The long processes of a study: one per folder, stopped by a signal or by ``meninx federate stop``."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from meninx.core import artifacts, files, workspace
from meninx.core.errors import DataError, RunLocked, UsageError, problem
from meninx.core.pool import Stop
from meninx.core.result import Result

RECORD, STOP, ENGINE = "process.json", "stop", "engine"
STARTING = "starting"  # role of a process that has not written its record yet
_LOOK = 0.2  # seconds between two looks for a signal or a stop file
_LIMIT = 1 << 16  # bytes of the record
_ENDING = 120.0  # seconds in which a process has to end after it was told to


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a running process writes about itself: ``process.json``.

    Attributes:
        pid: process number.
        role: ``coordinator`` or ``site``.
        since: time of its start, ISO 8601 in UTC.
        address: where the coordinator listens; empty at a site.
    """

    pid: int
    role: str
    since: str
    address: str = ""


@dataclass(frozen=True, kw_only=True)
class StopResult(Result):
    """Processes that were stopped.

    Attributes:
        stopped: what they were.
    """

    stopped: tuple[str, ...]


class Service:
    """This process as the one that serves a folder.

    Attributes:
        stopping: set as soon as somebody wants the process to stop.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stopping = threading.Event()
        self._calls: list[Callable[[], None]] = []

    def wanted(self) -> bool:
        """Return whether somebody wants the process to stop."""
        return self.stopping.is_set()

    def on_stop(self, call: Callable[[], None]) -> None:
        """Call something, from another thread, when the process shall stop."""
        self._calls.append(call)

    def record(self, role: str, address: str = "") -> None:
        """Write down what this process is.

        Raises:
            StorageError: the disk refused.
        """
        record = ProcessRecord(pid=os.getpid(), role=role, since=artifacts.now(), address=address)
        files.write_bytes(self.folder / RECORD, msgspec.json.encode(record), mode=files.PRIVATE_MODE)

    def watch(self, stop: Stop, ended: threading.Event) -> None:
        """Wait for a signal or a stop file, and pass it on once."""
        while not ended.wait(_LOOK):
            if stop.wanted or (self.folder / STOP).exists():
                self.stopping.set()
                for call in self._calls:
                    call()
                return


@contextmanager
def service(folder: Path) -> Iterator[Service]:
    """Serve a folder with this process for a block; the first signal asks it to stop, a second one ends it.

    Args:
        folder: private folder of the process; made when it is not there.

    Raises:
        RunLocked: another process serves it. A killed process holds nothing.
        StorageError: the disk refused.
    """
    with _only_one(folder):
        (folder / STOP).unlink(missing_ok=True)
        running, ended = Service(folder), threading.Event()
        with Stop() as stop:
            watcher = threading.Thread(target=running.watch, args=(stop, ended), daemon=True)
            watcher.start()
            try:
                yield running
            finally:
                ended.set()
                watcher.join()
                for name in (RECORD, STOP):
                    with contextlib.suppress(OSError):
                        (folder / name).unlink(missing_ok=True)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold a folder for a block; the error says how the process that has it is ended."""
    with ExitStack() as stack:
        try:
            stack.enter_context(workspace.held(folder))
        except RunLocked as error:
            what, fix = "a process serves this study already", "`meninx federate stop FOLDER` ends it"
            raise RunLocked(problem(what, where=folder.name, fix=fix)) from error
        yield


def running(folder: Path) -> ProcessRecord | None:
    """Return the record of the process that serves a folder; None when none does.

    Raises:
        DataError: its record is damaged.
    """
    if not _held(folder):
        return None
    path = folder / RECORD
    if not path.is_file():
        return ProcessRecord(pid=0, role=STARTING, since="")
    try:
        return msgspec.json.decode(files.read_bytes(path, limit=_LIMIT), type=ProcessRecord)
    except (msgspec.DecodeError, ValueError) as error:
        raise DataError(problem("the record of the process is damaged", where=RECORD)) from error


def stop(folder: Path, *, within: float = _ENDING) -> ProcessRecord | None:
    """Ask the process that serves a folder to stop, wait for it, and return what it was.

    Args:
        folder: private folder of the process.
        within: seconds to wait.

    Returns:
        None when no process served the folder.

    Raises:
        DataError: it did not end in time; it still may.
        StorageError: the disk refused.
    """
    record = running(folder)
    if record is None:
        return None
    files.write_text(folder / STOP, "", mode=files.PRIVATE_MODE)
    end = time.monotonic() + within
    while _held(folder):
        if time.monotonic() > end:
            fix = "wait, or end the process yourself; what it finished is saved"
            raise DataError(
                problem("the process has not stopped yet", where=f"process {record.pid}", fix=fix)
            )
        time.sleep(_LOOK)
    return record


def stop_folder(root: Path, study: str = "") -> StopResult:
    """Stop what serves the folder of a study or a site, and return what it was.

    Args:
        root: the folder.
        study: at a site: name of one study; empty for all of them.

    Raises:
        UsageError: nothing serves it.
        DataError: a process did not end in time.
    """
    engine = root / workspace.PRIVATE / ENGINE
    places = [engine, *sorted(path for path in engine.glob("*") if path.is_dir())]
    stopped = []
    for place in places:
        if not study or place.name == study:
            record = stop(place)
            if record is not None:
                stopped.append(f"{record.role} {place.name}" if place != engine else record.role)
    if not stopped:
        raise UsageError(problem("no process serves this folder", where=root.name))
    return StopResult(out=root, stopped=tuple(stopped))


def _held(folder: Path) -> bool:
    """Return whether a process holds the lock of a folder."""
    if not (folder / workspace.PRIVATE / workspace.LOCK).exists():
        return False
    try:
        with workspace.locked(folder):
            return False
    except RunLocked:
        return True
