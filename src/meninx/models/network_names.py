"""The names of networks, available without torch; :mod:`meninx.models.registry` builds the networks.

>>> refuse_unknown("resnet9")
>>> refuse_unknown("resnet99")
Traceback (most recent call last):
meninx.core.errors.ConfigError: expected a known model, got 'resnet99' (model); did you mean 'resnet9'?
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from meninx.core import check, plugins
from meninx.core.errors import ConfigError, expected

CLASSIFIERS = (
    "resnet9", "resnet9-small", "resnet18", "resnet34", "resnet50", "wrn-16-4", "wrn-40-4",
    "efficientnet-lite0",
)  # fmt: skip
"""Built-in networks with one output per label."""
SEGMENTERS = ("unet", "unet-small", "unet-plain")
"""Built-in networks with one output map per label."""
MONAI_PREFIX = "monai:"
OWN_PREFIX = "own:"
"""Prefix of the name of a network that a caller passed as an object; it cannot be built from its name."""


def refuse_unknown(name: str, known: Iterable[str] = (*CLASSIFIERS, *SEGMENTERS)) -> None:
    """Refuse a name that is not built in, not of an installed package and does not begin with ``monai:``.

    Raises:
        ConfigError: suggests the nearest name.
    """
    ours = [*known, *plugins.names(plugins.NETWORKS)]
    if name not in ours and not name.startswith((MONAI_PREFIX, OWN_PREFIX)):
        listed = f"known: {', '.join(ours)}, or monai:<class of monai.networks.nets>"
        fix = check.did_you_mean(name, ours) or listed
        raise ConfigError(expected("a known model", got=repr(name), where="model", fix=fix))


def refuse_unknown_of_monai(name: str, known: Iterable[str]) -> None:
    """Refuse a class that is not among MONAI's networks.

    Raises:
        ConfigError: suggests the nearest name.
    """
    classes = set(known)
    if name not in classes:
        fix = check.did_you_mean(name, classes) or "see monai.networks.nets for the names"
        got = repr(name)
        raise ConfigError(expected("a network of monai.networks.nets", got=got, where="model", fix=fix))


def refuse_other_task(name: str, task: str) -> None:
    """Refuse a built-in network that is meant for another task; other networks pass.

    Args:
        name: name of the network.
        task: task of the dataset.

    Raises:
        ConfigError: the network is for another task; the message names one that fits.
    """
    segments = task == "segmentation"
    if name in (CLASSIFIERS if segments else SEGMENTERS):
        got = f"{name}, which is for {'classification' if segments else 'segmentation'}"
        fix = f"leave the model out, or give e.g. {'unet' if segments else 'resnet9'}"
        raise ConfigError(expected(f"a network for {task}", got=got, where="model", fix=fix))


def names_of_monai() -> set[str]:
    """Return the names that ``monai.networks.nets`` exports, from its source: importing MONAI is slow.

    These are the classes of its networks and some other names. The set is empty where MONAI is not installed.
    """
    spec = importlib.util.find_spec("monai")
    if spec is None or not spec.submodule_search_locations:
        return set()
    path = Path(spec.submodule_search_locations[0], "networks", "nets", "__init__.py")
    nodes = ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []
    return {
        item.asname or item.name for node in nodes if isinstance(node, ast.ImportFrom) for item in node.names
    }
