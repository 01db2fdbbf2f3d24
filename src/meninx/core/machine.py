"""Resources of this machine: processors, memory and disk space available for a run."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from pathlib import Path

_UNKNOWN = 4 << 30  # bytes of memory assumed if the system does not report it
_MEMORY = Path("/proc/meminfo")
_SIZE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([KMGT]B)", re.IGNORECASE)
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_GROUP = Path("/sys/fs/cgroup")  # version 2; a container may use less memory than the machine has


def processors() -> int:
    """Return the number of processors that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int:
    """Return the bytes of available memory, including system caches that can be dropped."""
    return max(0, min(_system_memory(), _group_memory()))


def free_disk(folder: Path) -> int:
    """Return the free bytes on the disk of a folder; 0 if the system does not report them."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _system_memory() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _MEMORY.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    if sys.platform != "win32":
        with contextlib.suppress(OSError, ValueError):  # macOS reports only the total
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return _UNKNOWN


def _group_memory() -> int:
    """Return the memory left in this process's control group; a huge number without a limit."""
    with contextlib.suppress(OSError, ValueError):
        limit = int((_GROUP / "memory.max").read_text(encoding="ascii"))  # "max" without a limit
        return limit - int((_GROUP / "memory.current").read_text(encoding="ascii"))
    return 1 << 62


def byte_size(text: str) -> int | None:
    """Return the bytes that a text such as ``20 GB`` or ``512MB`` means; None for any other text.

    >>> byte_size("1.5 GB")
    1500000000
    """
    match = _SIZE.fullmatch(text.strip())
    return int(float(match[1]) * _UNITS[match[2].upper()]) if match else None


def shown_size(count: int) -> str:
    """Return a number of bytes as text, e.g. ``1.5 GB``."""
    for unit in ("TB", "GB", "MB"):
        if count >= _UNITS[unit]:
            return f"{count / _UNITS[unit]:.1f} {unit}"
    return f"{count / _UNITS['KB']:.1f} KB"
