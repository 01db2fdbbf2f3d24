"""Settings of the process that training changes and restores: device, threads, determinism."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from meninx.core import machine, randomness
from meninx.core.errors import ConfigError, expected
from meninx.learn import distributed
from meninx.learn.config import MemoryFormat, RuntimeConfig
from meninx.learn.distributed import World

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: an unknown name, or a device that this machine does not have.
    """
    if name == "auto":
        kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        name = next(kind for kind, usable in kinds.items() if usable)
    try:
        found = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            expected("auto, cpu, cuda, cuda:N or mps", got=repr(name), where="device")
        ) from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (found.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(found.type, False):
        raise ConfigError(
            expected("a device of this machine", got=repr(name), where="device", fix="use --device auto")
        )
    return found


def gpus() -> str:
    """Return the GPUs of this machine in words."""
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return "; ".join(f"{one.name}, {machine.shown_size(one.total_memory)}" for one in found)
    return "Apple GPU (mps)" if torch.backends.mps.is_available() else "none that torch can use"


def memory_format(setting: MemoryFormat, where: torch.device, *, dims: int, private: bool) -> MemoryFormat:
    """Return the memory layout for a setting: ``contiguous`` or ``channels_last``.

    Tensor cores need the channels of a 2-D pixel next to each other. On the CPU a private step took 1.1 to
    1.6 times as long with ``channels_last`` and a supervised one 0.93 to 1.04 times, so ``auto`` avoids it.

    Args:
        setting: of the config.
        where: device of the training.
        dims: spatial axes of the images.
        private: whether per-unit gradients are needed.
    """
    if setting != "auto":
        return setting
    return "channels_last" if where.type == "cuda" and dims == 2 and not private else "contiguous"


@contextmanager
def prepared(config: RuntimeConfig, world: World) -> Iterator[torch.device]:
    """Yield the device, with threads and determinism set; restore them and torch's generators at the end."""
    with ExitStack() as stack:
        if config.threads:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(config.threads)
        if config.deterministic:
            stack.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())
            stack.callback(_restore, os.environ.get(_CUBLAS))
            os.environ.setdefault(_CUBLAS, ":4096:8")
            torch.use_deterministic_algorithms(True)
        found = device(distributed.own_device(config.device, world))
        stack.enter_context(torch.random.fork_rng([found] if found.type == "cuda" else []))
        yield found


def seed_torch(seed: int, *names: str | int) -> None:
    """Seed torch's generators for one purpose: initialisation, or one step without privacy.

    A private step does not use these generators.
    """
    number = randomness.child_seed(seed, *names)
    if torch.accelerator.is_available():
        torch.manual_seed(number)
    else:  # torch.manual_seed would keep the text of three call stacks for devices that are not there
        torch.default_generator.manual_seed(number)


def _restore(value: str | None) -> None:
    if value is None:
        os.environ.pop(_CUBLAS, None)
    else:
        os.environ[_CUBLAS] = value
