"""Measured kernel choices, stored between runs on one machine, so that planning costs time only once."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from meninx.core import check, files, plain
from meninx.core.errors import MeninxError
from meninx.models import registry
from meninx.privacy.clipping import Choice, Planner, clipped_gradient_sum

ENVIRONMENT = "MENINX_CACHE"


@dataclass
class KernelCache:
    """A planner and its file. The file holds shapes of layers and seconds, and nothing about data.

    Attributes:
        planner: chooses kernels.
        path: the file; None stores nothing.
        saved: number of choices in the file.
    """

    planner: Planner
    path: Path | None
    saved: int = field(default=0)

    def save(self) -> None:
        """Write new choices, if there are any.

        Errors are ignored, because training does not need the file.
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
    """Return the planner of a run, with the stored choices for this machine.

    Args:
        device: device of the run.
        deterministic: choose by rule instead of by measurement, so that every machine uses the same kernels;
            no file is read or written.
    """
    if deterministic:
        return KernelCache(Planner(mode="rule"), None)
    path = folder() / f"kernels-{machine(device)}.json"
    choices = _read(path)
    return KernelCache(Planner(mode="measure", choices=choices), path, len(choices))


def folder() -> Path:
    """Return the cache folder: $MENINX_CACHE, or ``meninx`` in the user's cache folder.

    Its files may be deleted at any time.
    """
    own = os.environ.get(ENVIRONMENT)
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meninx"


def machine(device: torch.device) -> str:
    """Return twelve hexadecimal digits that depend on processor, threads, device and version of torch."""
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
    """Return the choices in a file; none if the file is missing or not valid."""
    try:
        table: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8"))
        return {str(key): Choice(str(item["kernel"]), dict(item["seconds"])) for key, item in table.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


@dataclass(frozen=True)
class KernelTable:
    """The planner's choices for one network and batch.

    Attributes:
        choices: key -> choice, one per kind of layer, in the order of the backward pass.
        planning_seconds: CPU seconds of the first private pass, including the planning.
        pass_seconds: CPU seconds of the second pass.
        cache: folder of the stored choices.
    """

    choices: dict[str, Choice]
    planning_seconds: float
    pass_seconds: float
    cache: str


def kernel_table(
    model: str, *, image_size: tuple[int, ...], channels: int = 1, batch: int = 32, views: int = 1
) -> KernelTable:
    """Return the planner's choices for a network on random images, measured if they are not stored yet.

    Args:
        model: name of a network.
        image_size: 2 or 3 numbers.
        channels: image channels.
        batch: images in a physical batch, views included.
        views: views of each image.

    Raises:
        ConfigError, PrivacyRefusal: no such network, or one that cannot be trained privately.
    """
    check.positive(
        channels=channels,
        batch=batch,
        views=views,
        **{f"image_size[{i}]": size for i, size in enumerate(image_size)},
    )
    device = torch.device("cpu")
    network = registry.build(model, spatial_dims=len(image_size), in_channels=channels, out_channels=2).to(
        device
    )
    units = max(1, batch // views)
    images = torch.randn(units * views, channels, *image_size, device=device)
    cache = opened(device, deterministic=False)
    seconds = []
    for _ in range(2):
        begun = time.process_time()
        clipped_gradient_sum(
            network,
            lambda outputs, _: outputs.flatten(1).square().mean(1),
            images,
            torch.zeros(len(images)),
            unit_index=torch.arange(units),
            n_units=units,
            max_grad_norm=1.0,
            views=views,
            planner=cache.planner,
        )
        seconds.append(time.process_time() - begun)
    cache.save()
    first, following = seconds
    return KernelTable(cache.planner.seen, first, following, cache=str(folder()))
