"""The process pool of all stages: results in order, stops between items, and detection of dead workers.

    >>> with Stop() as stop:
    ...     list(mapped(abs, [-1, 2, -3], workers=1, stop=stop))
    [1, 2, 3]

What all items share is the context of a call: ``setup`` opens it, and ``work`` receives it with every item.
No module holds it, so calls in several threads do not meet.

Processes are started with ``spawn`` on every platform, so a stage behaves identically on Linux, macOS and
Windows. A worker that dies (killed for memory, crashed in a codec) is detected; the items that it may have
held are tried again one at a time in a separate process, and the error names the item that kills its process.
Workers leave the handling of signals to the main process and end with it, even after SIGKILL.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import cached_property, partial
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.synchronize import Event
from types import FrameType, TracebackType
from typing import Any, Generic, TypeVar, overload

from meninx.core.errors import DataError, Interrupted, UsageError, expected

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
ContextT = TypeVar("ContextT")
Setup = Callable[..., AbstractContextManager[Any]]
AHEAD = 4  # items in flight per worker: enough to keep it busy, few enough to stop quickly
_POLL = 0.2  # seconds after which a stop is seen while an item is in work
STARTS = 3  # attempts to start a process for one item
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stop:
    """Turns the first SIGINT, SIGTERM or SIGHUP into a request to stop between items.

    A second signal raises KeyboardInterrupt at once. Outside the main thread no signal is handled. A SIGHUP
    or SIGTERM that is ignored, as under ``nohup``, stays ignored.

    Args:
        note: shows one line to the user; called at once when a stop is requested.

    Attributes:
        wanted: whether a stop was requested.
    """

    def __init__(self, note: Callable[[str], None] | None = None) -> None:
        self.wanted, self._note = False, note
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            heard = [
                number
                for number in SIGNALS
                if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT
            ]
            self._before = {number: signal.signal(number, self._heard) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
        if self._note is not None:
            # A line that cannot be shown, e.g. because another is being written, stops nothing.
            with suppress(Exception):
                self._note("stopping: what is in work is finished, and nothing further begins")


def interrupted() -> Interrupted:
    """Return the error of a stage that the user stopped."""
    return Interrupted("stopped; every finished item is saved, run the same command again to go on")


@overload
def mapped(
    work: Callable[[ItemT], ResultT],
    items: Iterable[ItemT],
    *,
    workers: int,
    stop: Stop,
    died: Callable[[ItemT], ResultT] | None = None,
) -> Generator[ResultT, None, None]: ...
@overload
def mapped(
    work: Callable[[ContextT, ItemT], ResultT],
    items: Iterable[ItemT],
    *,
    workers: int,
    stop: Stop,
    setup: Callable[..., AbstractContextManager[ContextT]],
    setup_args: tuple[Any, ...] = (),
    died: Callable[[ItemT], ResultT] | None = None,
) -> Generator[ResultT, None, None]: ...
def mapped(
    work: Callable[..., ResultT],
    items: Iterable[ItemT],
    *,
    workers: int,
    stop: Stop,
    setup: Setup | None = None,
    setup_args: tuple[Any, ...] = (),
    died: Callable[[ItemT], ResultT] | None = None,
) -> Generator[ResultT, None, None]:
    """Yield ``work(item)`` for every item, in the order of the items, which are taken lazily.

    With ``setup`` it is ``work(context, item)``.

    Args:
        work: a function of a module, so that other processes can import it.
        items: the items.
        workers: number of processes; 1 runs everything in this one.
        stop: when it is requested, no further item begins; those in work are still yielded before Interrupted
            is raised.
        setup: opens the context in every process before its first item. In this process it is closed after
            the last one; a worker process ends instead.
        setup_args: its arguments.
        died: returns the result of an item that kills its worker; without it such an item stops the stage.

    Raises:
        Interrupted: a stop was requested.
        DataError: an item kills its worker process and ``died`` is not given; the message gives its number.
        UsageError: the worker processes die while starting, because the calling script does not guard its
            main part.
        Exception: whatever ``work`` raises.
    """
    if workers == 1:
        with ExitStack() as stack:
            yield from _inline(opened(stack, work, setup, setup_args), items, stop)
        return
    refuse_import_in_worker()
    crew = _Crew(work, workers, setup, setup_args, died)
    try:
        for item in items:
            if stop.wanted:
                break
            crew.submit(item)
            if crew.full:
                yield crew.next(stop)
        else:
            while crew.window and not stop.wanted:
                yield crew.next(stop)
            if not crew.window:
                return
        crew.cancel()
        while crew.window:
            yield crew.next(stop)
    except _NotBegun:
        pass
    finally:
        crew.close()
    raise interrupted()


def opened(
    stack: ExitStack, work: Callable[..., ResultT], setup: Setup | None, arguments: tuple[Any, ...]
) -> Callable[[Any], ResultT]:
    """Return ``work`` with the context that ``setup`` opens, which ``stack`` closes."""
    return work if setup is None else partial(work, stack.enter_context(setup(*arguments)))


def _inline(work: Callable[[ItemT], ResultT], items: Iterable[ItemT], stop: Stop) -> Iterator[ResultT]:
    for item in items:
        if stop.wanted:
            raise interrupted()
        yield work(item)


class _NotBegun(Exception):
    """A stop was requested before an item began."""


class _Task(Generic[ItemT, ResultT]):
    """A submitted item; ``suspect`` if a worker that may have held it has died."""

    def __init__(self, number: int, item: ItemT, future: Future[ResultT]) -> None:
        self.number, self.item, self.future, self.suspect = number, item, future, False


class _Crew(Generic[ItemT, ResultT]):
    """Worker processes and their items; all of them are replaced when one dies."""

    def __init__(
        self,
        work: Callable[..., ResultT],
        workers: int,
        setup: Setup | None,
        arguments: tuple[Any, ...],
        died: Callable[[ItemT], ResultT] | None,
    ) -> None:
        self.workers, self.died = workers, died
        self._task = (work, setup, arguments)
        self._count = 0
        self.window: deque[_Task[ItemT, ResultT]] = deque()
        self._pool = self._opened(workers)
        self._apart: _Workers | None = None

    @property
    def full(self) -> bool:
        return len(self.window) >= self.workers * AHEAD

    def submit(self, item: ItemT) -> None:
        self._count += 1
        self.window.append(_Task(self._count, item, self._pool.submit(item)))

    def next(self, stop: Stop) -> ResultT:
        """Return the result of the oldest item.

        Raises:
            _NotBegun: a stop was requested before the item began.
        """
        task = self.window[0]
        while not task.suspect and not wait([task.future], _POLL).done:
            if stop.wanted:
                self.cancel()
        if task.future.cancelled() or (task.suspect and stop.wanted):
            raise _NotBegun
        if not task.suspect:
            try:
                result = task.future.result()
            except BrokenProcessPool as error:
                self._renew(error)
            except BaseException:
                self.window.popleft()
                raise
            else:
                self.window.popleft()
                return result
        self.window.popleft()
        return self._alone(task)

    def _alone(self, task: _Task[ItemT, ResultT]) -> ResultT:
        """Return the result of an item that runs alone in its process, after a worker died.

        A process that had died before, or was killed while it started, does not count against the item.
        """
        for _ in range(STARTS):
            fresh = self._apart is None
            self._apart = self._apart or self._opened(1)
            try:
                result: ResultT = self._apart.submit(task.item).result()
                return result
            except BrokenProcessPool as error:
                ended, self._apart = self._apart, None
                ended.kill()
                if ended.refused_to_start:
                    raise unguarded("worker processes that died while starting") from error
                if fresh and ended.begun:
                    if self.died is not None:
                        return self.died(task.item)
                    raise _deadly(
                        f"one that died on item {task.number} (killed for memory, or a crash in a codec)"
                    ) from error
        raise _deadly(f"{STARTS} that were killed while they started")

    def _renew(self, error: BrokenProcessPool) -> None:
        """Start new workers after one died.

        Workers take items in order, and an executor hands out one item more than it has workers. So the item
        of a dead worker is among the first ``workers + 1`` lost items. These are marked to run alone, and the
        others are submitted again.

        Raises:
            UsageError: no worker began to work, because each of them exited while it started.
        """
        self._pool.kill()
        if self._pool.refused_to_start:
            raise unguarded("worker processes that died while starting") from error
        self._pool = self._opened(self.workers)
        lost = [task for task in self.window if _lost(task.future)]
        for place, task in enumerate(lost):
            task.suspect = place <= self.workers
            if not task.suspect:
                task.future = self._pool.submit(task.item)

    def cancel(self) -> None:
        """Let no worker begin another item, and cancel the waiting ones from the last one backwards."""
        self._pool.begin_nothing()
        for task in reversed(self.window):
            task.future.cancel()

    def close(self) -> None:
        try:
            self._pool.close()
        finally:
            if self._apart is not None:
                self._apart.close()

    def _opened(self, count: int) -> _Workers:
        return _Workers(count, *self._task)


class _Workers:
    """An executor that can always be ended, together with every process that it started.

    An executor starts a process when an item is submitted. If a worker dies at that moment, the executor ends
    the others but overlooks the new process, which waits for items forever, and so does a shutdown of the
    executor. This class therefore keeps track of all processes and kills them itself.
    """

    def __init__(
        self, count: int, work: Callable[..., Any], setup: Setup | None, arguments: tuple[Any, ...]
    ) -> None:
        self._context = _Context()
        self._begun, self._ending = self._context.Event(), self._context.Event()
        self._pool = ProcessPoolExecutor(
            count,
            mp_context=self._context,
            initializer=_begin,
            initargs=(self._begun, self._ending, work, setup, arguments),
        )

    @property
    def begun(self) -> bool:
        """Whether at least one process was ready for its first item."""
        return self._begun.is_set()

    @property
    def refused_to_start(self) -> bool:
        """Whether no process was ready and one exited by itself, because it could not import the main script.

        A killed process (for memory, by the user) has a negative exit code instead.
        """
        return not self.begun and any(code >= 0 for code in self._context.exit_codes())

    def submit(self, item: Any) -> Future[Any]:
        """Return the future of an item; it holds BrokenProcessPool if a worker is known to be dead."""
        try:
            return self._pool.submit(_done, item)
        # OSError: the process started for this item was killed before it had read its arguments.
        except (BrokenProcessPool, OSError) as error:
            future: Future[Any] = Future()
            future.set_exception(BrokenProcessPool(f"a worker died before this item ({error})"))
            return future

    def begin_nothing(self) -> None:
        """Let the processes refuse what an executor has given them and they have not begun."""
        self._ending.set()

    def close(self) -> None:
        """End the processes after their current items, or at once if this is interrupted."""
        if self._context.exit_codes():  # one is dead, and the executor might wait for another one forever
            self._context.kill()
        try:
            self._pool.shutdown(wait=True, cancel_futures=True)
        except BaseException:
            # A third Ctrl-C. The interpreter would wait for these processes when it ends.
            self.kill()
            raise

    def kill(self) -> None:
        """End the processes at once."""
        self._context.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._context.kill()


def _deadly(got: str) -> DataError:
    fix = "give the machine more memory or take the item out; the same command goes on where it stopped"
    return DataError(expected("worker processes that live", got=got, where="workers", fix=fix))


def _lost(future: Future[Any]) -> bool:
    """Return whether the result of an item was lost with its workers."""
    return future.cancelled() or (future.done() and isinstance(future.exception(), BrokenProcessPool))


class _Process(SpawnProcess):
    """A worker that is killed instead of terminated by an executor, because workers ignore SIGTERM.

    While it imports what it needs, signals wait. A Ctrl-C reaches all processes of a terminal, and one that
    is in the middle of an import would end with a traceback.
    """

    def start(self) -> None:
        if sys.platform != "win32":
            multiprocessing.resource_tracker.ensure_running()  # it would let the signals through
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                super().start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        else:
            super().start()

    def terminate(self) -> None:
        self.kill()


class _Context(SpawnContext):
    """Starts :class:`_Process` and keeps a list of all of them."""

    def __init__(self) -> None:
        super().__init__()
        self._started: list[_Process] = []

    def Process(self, *args: Any, **keywords: Any) -> _Process:  # type: ignore[override]  # noqa: N802
        """Return a new process, not started yet."""
        process = _Process(*args, **keywords)
        self._started.append(process)
        return process

    def exit_codes(self) -> list[int]:
        """Return the exit codes of the processes that have ended."""
        codes = [process.exitcode for process in self._started if process.pid is not None]
        return [code for code in codes if code is not None]

    def kill(self) -> None:
        """Kill every process and wait until it has ended."""
        started = [process for process in self._started if process.pid is not None]
        for process in started:
            process.kill()
        for process in started:
            process.join()


class _Post:
    """What a worker process does with its items; it belongs to one pool, which started it.

    An executor gives the result of its initializer to nobody, so the process keeps it.
    """

    def __init__(
        self, ending: Event, work: Callable[..., Any], setup: Setup | None, arguments: tuple[Any, ...]
    ) -> None:
        self.ending, self._task = ending, (work, setup, arguments)
        self._stack = ExitStack()  # never closed: the process ends

    @cached_property
    def work(self) -> Callable[[Any], Any]:
        """The work with its context, which is opened before the first item."""
        return opened(self._stack, *self._task)


_post: list[_Post] = []  # empty in every process but a worker, where it holds one


def _done(item: Any) -> Any:
    """Return the result of an item.

    The context is opened here so that its error is reported as the item's: an error in the executor's
    initializer would only break the pool.
    """
    if _post[0].ending.is_set():
        raise _NotBegun
    return _post[0].work(item)


def unguarded(got: str) -> UsageError:
    """Return the error of a script that runs its main part again in every worker process."""
    what = 'a script that calls this below `if __name__ == "__main__":`'
    return UsageError(
        expected(what, got=got, where="workers", fix="put the call below that line, or use workers=1")
    )


def refuse_import_in_worker() -> None:
    """Refuse to work in a process that imports the main script to become a worker.

    Raises:
        UsageError: the script calls this at its top level.
    """
    # multiprocessing sets the attribute until the import is finished.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise unguarded("the call again in a worker process")


def _begin(
    begun: Event,
    ending: Event,
    work: Callable[..., Any],
    setup: Setup | None,
    arguments: tuple[Any, ...],
) -> None:
    """Prepare a worker process: it ignores signals and ends when the main process ends."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _post.append(_Post(ending, work, setup, arguments))
    begun.set()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
