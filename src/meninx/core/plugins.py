"""Networks, readers and tasks of other packages, found by their entry points.

A package offers them in its ``pyproject.toml``; after ``pip install`` meninx knows the name::

    [project.entry-points."meninx.networks"]
    tinynet = "mypackage.nets:TinyNet"       # called with spatial_dims, in_channels, out_channels and the
    options

    [project.entry-points."meninx.readers"]
    ourlayout = "mypackage.layout:read"      # called with (folder, PrepareConfig, site)

    [project.entry-points."meninx.tasks"]
    ordinal = "mypackage.tasks:ordinal"      # called with (DatasetInfo, TaskConfig)

Code of another package runs with all rights of the program: install only what you trust.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from meninx.core.errors import ConfigError

NETWORKS = "meninx.networks"
READERS = "meninx.readers"
TASKS = "meninx.tasks"


def names(group: str) -> tuple[str, ...]:
    """Return the names that installed packages offer in a group, sorted."""
    return tuple(sorted({point.name for point in metadata.entry_points(group=group)}))


def load(group: str, name: str) -> Any:
    """Return the object behind a name, imported now.

    Raises:
        ConfigError: two packages offer the name, or its package cannot be imported.
    """
    points = {point.value: point for point in metadata.entry_points(group=group, name=name)}
    if len(points) > 1:
        raise ConfigError(f"{len(points)} installed packages offer {name} as {group}: uninstall all but one")
    (point,) = points.values()
    try:
        return point.load()
    except Exception as error:  # whatever another package does on import
        reason = type(error).__name__
        raise ConfigError(f"{name} ({group}) cannot be imported from {point.value}: {reason}") from error
