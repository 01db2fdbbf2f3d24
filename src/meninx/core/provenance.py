"""Provenance of a result: versions, command, machine and digests, without anything that names a person."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path, PureWindowsPath

PACKAGES = (
    "meninx",
    "torch",
    "monai",
    "dp-accounting",
    "numpy",
    "pydicom",
    "nibabel",
    "highdicom",
    "cyclopts",
)


_OF_A_STEP = ("meninx", "torch", "monai")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Versions, machine and command of a run: ``environment.json``; no host, user or path of a person.

    Attributes:
        python: version of Python.
        system: operating system.
        machine: kind of processor.
        cpus: number of processors; None if unknown.
        packages: package -> version.
        source: Git revision of a checkout; None for an installed package.
        command: the user's command, with paths reduced to their last parts.
    """

    python: str = ""
    system: str = ""
    machine: str = ""
    cpus: int | None = None
    packages: dict[str, str] = field(default_factory=dict)
    source: str | None = None
    command: tuple[str, ...] = ()


def environment(command: Iterable[str] = ()) -> Environment:
    """Return the environment of this process; without ``command`` that of ``sys.argv``."""
    return Environment(
        python=platform.python_version(),
        system=platform.system(),
        machine=platform.machine(),
        cpus=os.cpu_count(),
        packages=packages(),
        source=_source_revision(),
        command=_command(tuple(command) or tuple(sys.argv)),
    )


def version() -> str:
    """Return the version of meninx; ``0+unknown`` if it runs from sources that were never installed."""
    return _version("meninx") or "0+unknown"


def packages() -> dict[str, str]:
    """Return package -> version for those of :data:`PACKAGES` that are installed."""
    return versions(PACKAGES)


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return package -> version for those of ``names`` that are installed."""
    return {name: version for name in names if (version := _version(name))}


def software() -> str:
    """Return name and version of the packages that determine the result of a training step, as one text."""
    return ", ".join(f"{name} {version}" for name, version in packages().items() if name in _OF_A_STEP)


@functools.cache  # a process has one version of a package
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _command(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command without folders; ``python -m meninx`` is written as the program of that name."""
    found = [_without_folders(word) for word in words]
    if found and found[0] == "__main__.py":
        found[0] = "meninx"
    return tuple(found)


def _without_folders(word: str) -> str:
    """Return a word of a command with a path reduced to its last part, also after ``--option=``.

    Folders often contain user names, and a folder of an archive may contain a patient's.
    """
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    if "/" in value or "\\" in value:
        value = PureWindowsPath(value).name or "."
    return f"{option}{equals}{value}"


@functools.cache
def _source_revision() -> str | None:
    here = Path(__file__).resolve().parents[3]
    if not (here / "pyproject.toml").is_file() or not (here / ".git").exists():
        return None  # an installed package; a repository around it is not meninx's
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
