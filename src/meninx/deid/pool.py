"""Running the worker over many files, in this process or in several, with results in the order of the files."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from types import FrameType, TracebackType
from typing import Any

from meninx.core.errors import DataError, Interrupted, UsageError, expected
from meninx.core.progress import Progress, task
from meninx.deid.discover import Found
from meninx.deid.journal import Entry
from meninx.deid.worker import Engine, process

AHEAD = 4  # files in flight a worker: enough to keep it busy, few enough to stop soon
_engine: Engine | None = None


class Stop:
    """Turns the first Ctrl-C into a wish that is heard between files; the second one interrupts at once."""

    def __init__(self) -> None:
        self.wanted = False
        self._before: Any = None

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._heard)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True


def interrupted() -> Interrupted:
    """Return the error of a run that the user stopped."""
    return Interrupted("stopped; every finished file is saved, run the same command again to go on")


def processed(
    engine: Engine, todo: Sequence[tuple[Found, Entry | None]], workers: int, stop: Stop, progress: Progress
) -> Generator[Entry, None, None]:
    """Yield the entry of every file in the order given.

    Raises:
        Interrupted: the user wanted to stop; what was in flight has been yielded before.
        DataError: a worker process died (out of memory, killed).
        UsageError: the workers died while starting.
        StorageError: from a worker.
    """
    with task(progress, "de-identify", len(todo)):
        for entry in _inline(engine, todo, stop) if workers == 1 else _pooled(engine, todo, workers, stop):
            yield entry
            progress.advance()


def _inline(engine: Engine, todo: Sequence[tuple[Found, Entry | None]], stop: Stop) -> Iterator[Entry]:
    for found, known in todo:
        if stop.wanted:
            raise interrupted()
        yield process(engine, found, known)


def _pooled(engine: Engine, todo: Sequence[tuple[Found, Entry | None]], workers: int, stop: Stop) -> Iterator[Entry]:
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(engine, begun))
    window: deque[Future[Entry]] = deque()
    done = 0
    try:
        for found, known in todo:
            if stop.wanted:
                break
            window.append(pool.submit(_one, found, known))
            if len(window) >= workers * AHEAD:
                yield window.popleft().result()
                done += 1
        if stop.wanted:
            for future in reversed(window):
                future.cancel()
        while window and not window[0].cancelled():
            yield window.popleft().result()
            done += 1
        if done < len(todo):
            raise interrupted()
    except BrokenProcessPool as error:
        if not begun.is_set():
            raise unguarded("worker processes that died while starting") from error
        fix = "run the same command again; it goes on where it stopped (fewer workers need less memory)"
        raise DataError(expected("worker processes that live", got="one that died", where="workers", fix=fix)) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def unguarded(got: str) -> UsageError:
    """Return the error of a script that starts anew in every worker process, because nothing tells the two apart."""
    what = 'a script that calls this below `if __name__ == "__main__":`'
    return UsageError(expected(what, got=got, where="workers", fix="put the call below that line, or use workers=1"))


def refuse_import_in_worker() -> None:
    """Refuse to work while a worker process of somebody imports the main script, before it has become a worker.

    Raises:
        UsageError: the script calls this at its top level.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # set by multiprocessing until the import is over
        raise unguarded("the call again in a worker process")


def _begin(engine: Engine, begun: Event) -> None:
    """Prepare a worker process; Ctrl-C is the main process's to handle."""
    global _engine
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _engine = engine
    begun.set()


def _one(found: Found, known: Entry | None) -> Entry:
    assert _engine is not None
    return process(_engine, found, known)
