"""Batches assembled ahead of the step by threads, the same for any number of them.

::

    loader = BatchLoader(assembler, workers=2)
    loader.follow(sampler, until=total_steps)
    with loader:
        for step in range(total_steps):
            for batch in loader.batches(sampler(step), step, most=32):
                ...

A batch is a function of the drawn cases, the step and the public seed (:mod:`.batches`), so the loader may
assemble it early and in any order. It predicts the next batches from the sampler, which is a function of the
step alone. A batch that it did not predict is assembled on request, and one that is never requested is
dropped.

Workers are threads: decoding, decompression and the operations of numpy and torch on images release the
interpreter lock, threads share the images in memory, and nothing is copied between processes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch

from meninx.core import machine
from meninx.learn.batches import Assembler, Batch
from meninx.learn.distributed import World
from meninx.learn.sampler import UnitBatch

AHEAD_BYTES = 1 << 30  # of batches assembled in advance; a single batch may be larger
_AHEAD = 2  # batches assembled in advance, per worker
_MOST_WORKERS = 8

Call = tuple[UnitBatch, int]
"""Units and step, which determine a batch."""


class BatchLoader:
    """Yields the batches of a step, and assembles those of the next steps while the step runs.

    Args:
        assembler: makes a batch.
        workers: number of threads; 0 assembles each batch on request.

    Guarantee: the batches are those of ``assembler``, bit for bit, for any number of workers. An error in a
        worker is raised when its batch is requested, as it would be without workers.
    """

    def __init__(self, assembler: Assembler, *, workers: int = 0) -> None:
        self.assembler, self.workers = assembler, workers
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[tuple[Call, Future[Batch]]] = deque()
        self._coming: Iterator[Call] = iter(())
        self._sampler: Callable[[int], UnitBatch] | None = None
        self._until, self._world = 0, World()
        self._depth = _AHEAD * workers

    @property
    def views(self) -> int:
        """Copies of each case in a batch."""
        return self.assembler.views

    def follow(self, sampler: Callable[[int], UnitBatch], *, until: int, world: World | None = None) -> None:
        """Set the sampler from which the units of the next steps are predicted.

        Args:
            sampler: returns the units of a step over all processes.
            until: number of steps.
            world: the processes that share a step; by default this one alone.
        """
        self._drop()
        self._sampler, self._until, self._world = sampler, until, world or World()

    def batches(self, units: UnitBatch, step: int, most: int) -> Iterator[Batch]:
        """Yield the units in order, in batches of at most ``most`` cases, on the device.

        Args:
            units: this process's share of the step.
            step: optimiser step.
            most: largest number of cases in memory at once; a unit is never divided.
        """
        for part in units.microbatches(most):
            yield self._batch((part, step), most)

    def _batch(self, call: Call, most: int) -> Batch:
        """Return a batch that a worker has begun, or assemble it now."""
        units, step = call
        if not self.workers:
            return self.assembler(units.units, step, first=units.first)
        future = self._taken(call)
        if future is None:
            self._guess_after(call, most)
            self._fill()
            batch = self.assembler.assembled(units.units, step, first=units.first)
        else:
            self._fill()  # before waiting, so that the other workers are busy in the meantime
            batch = future.result()
        self._depth = max(1, min(_AHEAD * self.workers, AHEAD_BYTES // max(1, batch.nbytes)))
        return self.assembler.moved(batch)

    def _taken(self, call: Call) -> Future[Batch] | None:
        """Return the batch that a worker has begun for a call, and drop those before it; None if none has."""
        if all(call != begun for begun, _ in self._waiting):
            return None
        while True:
            begun, future = self._waiting.popleft()
            if begun == call:
                return future
            future.cancel()

    def _guess_after(self, call: Call, most: int) -> None:
        """Predict the following batches again, after a call that was not predicted."""
        self._drop()
        coming = self._guesses(call[1], most)
        for guess in coming:
            if guess == call:
                self._coming = coming
            if guess == call or guess[1] != call[1]:
                return  # the step has other units than the sampler's, so the next batches are unknown

    def _guesses(self, step: int, most: int) -> Iterator[Call]:
        """Yield the batches from ``step`` on, as the sampler draws them."""
        if self._sampler is None:
            return
        for number in range(step, self._until):
            for part in self._sampler(number).share(self._world.rank, self._world.size).microbatches(most):
                yield part, number

    def _fill(self) -> None:
        """Begin batches until the allowed number is waiting."""
        while len(self._waiting) < self._depth:
            call = next(self._coming, None)
            if call is None:
                return
            units, step = call
            begun = self._threads().submit(self.assembler.assembled, units.units, step, first=units.first)
            self._waiting.append((call, begun))

    def _threads(self) -> ThreadPoolExecutor:
        """Return the pool; each worker uses one processor and does not change the threads of the step."""
        if self._pool is None:
            met = threading.Barrier(self.workers + 1)

            def begin() -> None:
                torch.get_num_threads()  # otherwise torch resets the number at the thread's first operation
                torch.set_num_threads(1)
                met.wait()

            own = torch.get_num_threads()
            self._pool = ThreadPoolExecutor(self.workers, "batches", initializer=begin)
            try:
                for _ in range(self.workers):
                    self._pool.submit(lambda: None)
                met.wait()
            except BaseException:
                met.abort()  # otherwise the threads would wait forever after an interruption
                raise
            finally:
                torch.set_num_threads(own)  # threads that torch starts later use the number set last
        return self._pool

    def _drop(self) -> None:
        """Discard batches in progress and predictions."""
        self._coming = iter(())
        while self._waiting:
            self._waiting.popleft()[1].cancel()

    def close(self) -> None:
        """End the workers after their current batches; a later call starts new ones."""
        self._drop()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def worker_count(setting: int | str, device: torch.device) -> int:
    """Return the number of workers for a setting.

    ``auto`` means the number of processors minus one, at most eight, if training runs on a GPU. On the CPU it
    means none, because the step itself keeps all processors busy.
    """
    if isinstance(setting, int):
        return setting
    return min(_MOST_WORKERS, machine.processors() - 1) if device.type != "cpu" else 0
