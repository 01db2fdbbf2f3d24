"""Networks, readers, tasks, federated algorithms and attacks of other packages, found by entry points.

A package offers them in its ``pyproject.toml``; after ``pip install`` their names can be used::

    [project.entry-points."meninx.networks"]
    tinynet = "mypackage.nets:TinyNet"       # called with spatial_dims, in_channels, out_channels, options

    [project.entry-points."meninx.readers"]
    ourlayout = "mypackage.layout:read"      # called with (folder, PrepareConfig, site)

    [project.entry-points."meninx.tasks"]
    ordinal = "mypackage.tasks:ordinal"      # called with (DatasetInfo, TaskConfig)

    [project.entry-points."meninx.strategies"]
    fedadam = "mypackage.rounds:FedAdam"     # called with (rounds, steps): federated.strategies.Strategy

    [project.entry-points."meninx.reconstruction_attacks"]
    mirror = "mypackage.attacks:MIRROR"      # an audit.reconstruction.attacks.AttackKind

A name of meninx's own (a network ``unet``, a task ``auto``) is refused.

The code of another package runs with all rights of the program, so install only packages that you trust.
"""

from __future__ import annotations

import functools
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from meninx.core.errors import ConfigError, problem

NETWORKS = "meninx.networks"
READERS = "meninx.readers"
TASKS = "meninx.tasks"
STRATEGIES = "meninx.strategies"
ATTACKS = "meninx.reconstruction_attacks"


def names(group: str) -> tuple[str, ...]:
    """Return the names that installed packages offer in a group, sorted."""
    return tuple(sorted({point.name for point in _offered(group)}))


def origin(group: str, name: str) -> str:
    """Return name and version of the installed package that offers a name; empty when none does."""
    found = sorted(
        f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
        for point in _offered(group).select(name=name)
    )
    return " or ".join(dict.fromkeys(found))


def refuse_own(group: str, name: str) -> None:
    """Refuse a name of meninx's own that an installed package also offers.

    A recipe with this name would be ambiguous, and the package's object would never be used.

    Raises:
        ConfigError: a package offers the name; the message names the package.
    """
    for point in _offered(group).select(name=name):
        package = point.dist.name if point.dist is not None else point.value
        why = f"the package {package} offers {name} as {group}, which is a name of meninx's own"
        fix = f"rename its entry point, or uninstall {package}"
        raise ConfigError(problem(why, where=point.value, fix=fix))


def load(group: str, name: str) -> Any:
    """Return the object behind a name, imported now.

    Raises:
        ConfigError: two packages offer the name, or its package cannot be imported.
    """
    points = {point.value: point for point in _offered(group).select(name=name)}
    if len(points) > 1:
        raise ConfigError(f"{len(points)} installed packages offer {name} as {group}: uninstall all but one")
    (point,) = points.values()
    try:
        return point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the import of another package can raise anything, also SystemExit
        reason = type(error).__name__
        raise ConfigError(f"{name} ({group}) cannot be imported from {point.value}: {reason}") from error


def _offered(group: str) -> metadata.EntryPoints:
    """Return what installed packages offer in a group."""
    return _entry_points(group, tuple((place, _changed(place)) for place in sys.path))


@functools.lru_cache(maxsize=8)
def _entry_points(group: str, places: tuple[tuple[str, int], ...]) -> metadata.EntryPoints:
    """Return the entry points of a group.

    Settings ask for names often, so the metadata of all packages is read once for each state of the search
    path.

    Args:
        group: name of the group.
        places: folders of the search path, each with its time of change.
    """
    return metadata.entry_points(group=group)


def _changed(place: str) -> int:
    """Return when a folder was changed last, in nanoseconds: a package was installed or removed.

    0 where there is no folder.
    """
    try:
        return Path(place).stat().st_mtime_ns
    except OSError:
        return 0
