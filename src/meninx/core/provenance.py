"""Where a result came from: versions, command, machine and digests, without anything that names a person."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from meninx.core import files

PACKAGES = ("meninx", "torch", "monai", "dp-accounting", "numpy", "pydicom", "nibabel", "highdicom", "cyclopts")


def environment(command: Iterable[str] = ()) -> dict[str, Any]:
    """Return versions, platform and command as JSON-able values; no host, user or path of a person."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "source": _source_revision(),
        "command": [_without_folders(word) for word in command] or [_without_folders(word) for word in sys.argv],
    }


def data_digest(paths: Iterable[Path], root: Path) -> str:
    """Return one SHA-256 over the relative names and contents of files, independent of listing order."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.relative_to(root).as_posix()}\0{files.digest(path)}\n".encode())
    return total.hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _without_folders(word: str) -> str:
    return Path(word).name if word.startswith(("/", "~")) else word


def _source_revision() -> str | None:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
