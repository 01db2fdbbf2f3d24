"""Step memory: how far the resident set grows over the loaded model, each variant in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

MIB = 1 << 20
_SCARCE = (
    4 << 30
)  # bytes; with less to spare the kernel takes pages back and the resident set says too little
_VARIANTS = ("sgd", "ours", "hooks")
_STEADY_STEPS = 3
_TIMEOUT = 180


def measure(script: Path, key: str, formats: dict[str, str]) -> dict[str, dict[str, float]]:
    """Return variant -> MiB of ``first`` and ``steady`` growth, for those that ran.

    Args:
        script: the benchmark's command.
        key: the case.
        formats: variant -> memory format; the variants that ran in the rounds.
    """
    found = {}
    spare = _kilobytes("/proc/meminfo", "MemAvailable")
    if spare < _SCARCE:
        print(
            f"  memory is not to be quoted: {spare >> 20} MiB free, wanted {_SCARCE >> 20}", file=sys.stderr
        )
    # Freed blocks go back at once, so that the resident set is what is in use and not what was in use once.
    settings = {
        "MALLOC_MMAP_THRESHOLD_": "1048576",
        "MALLOC_TRIM_THRESHOLD_": "1048576",
        "MALLOC_ARENA_MAX": "1",
    }
    for variant in _VARIANTS:
        if variant not in formats:
            continue
        command = [sys.executable, str(script), "--one-memory", key, variant, formats[variant]]
        environment = {**os.environ, **settings}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True, timeout=_TIMEOUT
            )
        except subprocess.TimeoutExpired:
            print(f"  memory of {variant}: not measured, took more than {_TIMEOUT} s", file=sys.stderr)
        except subprocess.CalledProcessError as error:
            print(
                f"  memory of {variant}: fails: {(error.stderr.splitlines() or ['?'])[-1]}", file=sys.stderr
            )
        else:
            found[variant] = json.loads(done.stdout.splitlines()[-1])
    return found


def one(key: str, variant: str, memory_format: str) -> dict[str, float]:
    """Return MiB that the first step and the steady steps add to the loaded model.

    For our lanes the first step is the planning one.
    """
    from dp import steps
    from dp.cases import cases_of
    from dp.setup import prepare

    steps.quiet()
    case = cases_of("cpu")[key]
    steps.sgd(
        prepare(case, memory_format)
    )()  # code pages and kernels of the framework are not the step's memory
    setup = prepare(case, memory_format)
    step = steps.STEPS[variant](setup, steps.new_planner() if variant == "ours" else None)
    _tidy()
    loaded = _resident()
    result = {}
    for word, count in (("first", 1), ("second", 1), ("steady", _STEADY_STEPS)):
        _reset_peak()
        for _ in range(count):
            step()
        result[word] = (_peak() - loaded) / MIB
        _tidy()
    return result


def _tidy() -> None:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak() -> int:
    return _kilobytes("/proc/self/status", "VmHWM")


def _resident() -> int:
    return _kilobytes("/proc/self/status", "VmRSS")


def _kilobytes(page: str, name: str) -> int:
    """Return an entry of a page of /proc, in bytes."""
    lines = Path(page).read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))
