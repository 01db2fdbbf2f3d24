"""Measured kernel choices, kept between runs on one machine, so that planning is paid for once."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from meninx.core import files, plain
from meninx.core.errors import MeninxError
from meninx.privacy.clipping import Choice, Planner

ENVIRONMENT = "MENINX_CACHE"


@dataclass
class KernelCache:
    """A planner with a file behind it. The file holds shapes of layers and seconds, nothing about data.

    Attributes:
        planner: chooses kernels.
        path: the file; None keeps nothing.
        saved: number of choices in the file.
    """

    planner: Planner
    path: Path | None
    saved: int = field(default=0)

    def save(self) -> None:
        """Write new choices, if there are any.

        A folder that cannot be written to is no reason to stop training.
        """
        if self.path is None or len(self.planner.choices) == self.saved:
            return
        table = {
            key: {"kernel": item.kernel, "seconds": dict(item.seconds)}
            for key, item in self.planner.choices.items()
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(self.path, plain.to_json(table))
        except (OSError, MeninxError):
            self.path = None
        self.saved = len(self.planner.choices)


def opened(device: torch.device, *, deterministic: bool) -> KernelCache:
    """Return the planner of a run, with what is known of this machine.

    Args:
        device: where the run computes.
        deterministic: choose by rule instead of by measuring: the same kernels everywhere, nothing read or
            written.
    """
    if deterministic:
        return KernelCache(Planner(mode="rule"), None)
    path = folder() / f"kernels-{machine(device)}.json"
    choices = _read(path)
    return KernelCache(Planner(mode="measure", choices=choices), path, len(choices))


def folder() -> Path:
    """Return the folder of what may be deleted at any time: $MENINX_CACHE, or ``meninx`` in the user's cache folder."""
    own = os.environ.get(ENVIRONMENT)
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meninx"


def machine(device: torch.device) -> str:
    """Return twelve digits that change with processor, threads, device and version of torch."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability()
    )
    facts = (
        torch.__version__,
        torch.get_num_threads(),
        platform.machine(),
        platform.processor(),
        device.type,
        name,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def _read(path: Path) -> dict[str, Choice]:
    """Return the choices in a file; none if there is none or it is not readable as such."""
    try:
        table: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8"))
        return {str(key): Choice(str(item["kernel"]), dict(item["seconds"])) for key, item in table.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
