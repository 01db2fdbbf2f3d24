"""Several processes that train one model, with one summation per step.

Every process computes the same draw and the same noise from the run's secret keys, so neither is transmitted.
A step divides the drawn units into one share per process. Each process clips its own share in as many
physical batches as it needs; one sum over the processes then equals the result of a single process. Nothing
is padded: processes wait for each other only in the sum, so shares and batches may have any size, and an
empty share adds zeros.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from meninx.core.errors import ConfigError, DataError, Interrupted, UsageError, expected, problem

TIMEOUT = timedelta(minutes=30)  # longer than validation and release, for which the other processes wait
# The checksum is sent as two marks below 2**12, whose sums over up to 4096 processes are exact in float32.
_PARTS = 1 << 12
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of one run; with a single process all methods are trivial.

    Attributes:
        rank: number of this process, from 0; only process 0 writes files and shows progress.
        size: number of processes.
        local: number of this process on its machine, which selects its GPU.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def all_reduce(
        self, tensors: Sequence[Tensor], numbers: Sequence[float] = (), *, same: object = ""
    ) -> list[float]:
        """Replace float32 tensors by their sums over all processes, and return the summed numbers.

        A single reduction sums all of them. Afterwards the tensors are equal in all processes, bit for bit.

        Args:
            tensors: of the same shapes in every process, on one device; changed in place.
            numbers: summed with them; integers are exact below 2**24.
            same: a value that must agree between the processes, e.g. the draw; compared by a checksum.

        Raises:
            DataError: ``same`` differs between the processes.
            Interrupted: another process has ended.
        """
        if self.size == 1:
            return list(numbers)
        marks = [float(part) for part in divmod(zlib.crc32(repr(same).encode()) % _PARTS**2, _PARTS)]
        device = tensors[0].device if tensors else torch.device("cpu")
        head = torch.tensor([*marks, *numbers], dtype=torch.float32, device=device)
        # One flat tensor, so that a step has one collective operation and every process the same summands.
        flat = torch.cat([head, *(tensor.reshape(-1) for tensor in tensors)])
        self._together(lambda: dist.all_reduce(flat))
        first, *parts = torch.split(flat, [len(head), *(tensor.numel() for tensor in tensors)])
        sums: list[float] = first.tolist()
        # Equal marks add up to a multiple of the own one. A different draw (another version of numpy, say)
        # would otherwise leave a wrong sum without an error.
        if sums[:2] != [self.size * mark for mark in marks]:
            raise self._disagree("draw")
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))
        return sums[2:]

    def shared(self, make: Callable[[], T]) -> T:
        """Return the result of ``make`` in process 0, in every process; the value is sent as JSON.

        Raises:
            Interrupted: process 0 raised an error, which it reports itself; or it has ended.
        """
        if self.size == 1:
            return make()
        made: T = json.loads(self.shared_bytes(lambda: json.dumps(make()).encode()))
        return made

    def shared_bytes(self, make: Callable[[], bytes]) -> bytes:
        """Return the bytes that ``make`` returns in process 0, in every process; see :meth:`shared`."""
        if self.size == 1:
            return make()
        # A length of -1 reports an error in process 0. It is sent even then, because the other processes
        # would wait for the broadcast until the timeout.
        content, length = b"", torch.tensor([-1])
        try:
            if self.main:
                content = make()
                length[0] = len(content)
        finally:
            self._together(lambda: dist.broadcast(length, 0))
        if length[0] < 0:
            raise Interrupted(f"process {self.rank} stopped because process 0 did; its message says why")
        body = torch.empty(int(length), dtype=torch.uint8)
        if content:
            body.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self._together(lambda: dist.broadcast(body, 0))
        return body.numpy().tobytes()

    def agree(self, what: str, make: Callable[[], str]) -> None:
        """Raise DataError in a process where ``make`` returns a different text from process 0."""
        if self.size == 1:
            return
        own = make()
        if self.shared(lambda: own) != own:
            raise self._disagree(what)

    def _together(self, operation: Callable[[], object]) -> None:
        try:
            operation()
        except RuntimeError as error:
            fix = "see the message of the one that failed, then go on with --resume"
            got = "one that is gone or silent"
            raise Interrupted(
                expected(f"all {self.size} processes", got=got, where=f"process {self.rank}", fix=fix)
            ) from error

    def _disagree(self, what: str) -> DataError:
        fix = "start all processes with one command, on equal machines, data and versions"
        where = f"process {self.rank} of {self.size}"
        return DataError(problem(f"the {what} differs between processes", where=where, fix=fix))


@contextmanager
def joined(*, init: str = "env://", timeout: timedelta = TIMEOUT) -> Iterator[World]:
    """Join the processes that torchrun started for a block; a world of one if it started none.

    CPU tensors are sent by gloo and GPU tensors by NCCL, without encryption, so processes on several machines
    need a closed network.

    Args:
        init: address where the processes meet; by default from torchrun's environment variables.
        timeout: time after which a silent process is considered lost.

    Raises:
        UsageError: the environment names several processes but is incomplete, or a process is missing.
    """
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        yield World()
        return
    if dist.is_initialized():  # an outer block joined the group and will leave it
        yield World(rank=dist.get_rank(), size=dist.get_world_size(), local=_number("LOCAL_RANK"))
        return
    # If this module is imported only after the group exists, it keeps the group and its threads alive beyond
    # the end of the interpreter.
    importlib.import_module("torch.distributed.nn.functional")
    world = World(rank=_number("RANK"), size=size, local=_number("LOCAL_RANK"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        dist.init_process_group(backend, init_method=init, rank=world.rank, world_size=size, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        fix = "start all processes with torchrun"
        raise UsageError(
            problem(f"fewer than {size} processes have started", where=f"process {world.rank}", fix=fix)
        ) from error
    try:
        yield world
    finally:
        dist.destroy_process_group()


def is_main() -> bool:
    """Return whether this process writes the output for the user, inside and outside of :func:`joined`."""
    return _number("WORLD_SIZE", 1) == 1 or _number("RANK") == 0


def own_device(name: str, world: World) -> str:
    """Return the device of this process for a device name of the settings: one GPU per process.

    Raises:
        ConfigError: a single device for several processes, or fewer GPUs than processes.
    """
    if world.size == 1 or name == "cpu":
        return name
    if name not in ("auto", "cuda"):
        fix = "give --device auto, cuda or cpu"
        raise ConfigError(
            expected("a device for each of several processes", got=repr(name), where="device", fix=fix)
        )
    if not torch.cuda.is_available():
        return "cpu" if name == "auto" else name
    if world.local >= torch.cuda.device_count():
        fix = "start as many processes as there are GPUs, or give --device cpu"
        raise ConfigError(
            expected("a GPU for each process", got=torch.cuda.device_count(), where="device", fix=fix)
        )
    torch.cuda.set_device(world.local)
    return f"cuda:{world.local}"


def refuse_shared_statistics(model: nn.Module, world: World) -> None:
    """Raise ConfigError if several processes would each keep their own statistics of their cases."""
    for name, module in model.named_modules() if world.size > 1 else ():
        if module.training and getattr(module, "running_mean", None) is not None:
            fix = "use group normalisation, freeze the layer, or train in one process"
            got = f"{type(module).__name__} that keeps statistics"
            raise ConfigError(
                expected("layers without memory on several processes", got=got, where=name, fix=fix)
            )


def digest(model: nn.Module) -> str:
    """Return a digest of all weights and buffers of a model, bit for bit."""
    found = hashlib.sha256()
    for value in model.state_dict().values():
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _number(name: str, default: int | None = None) -> int:
    text: Any = os.environ.get(name, default)
    try:
        return int(text)
    except (TypeError, ValueError) as error:
        fix = "start with torchrun, or unset WORLD_SIZE"
        raise UsageError(
            problem("torchrun did not set a number", where=f"environment variable {name}", fix=fix)
        ) from error
