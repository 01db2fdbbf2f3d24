"""The run folder: two rooms (``release/`` may leave the hospital, ``private/`` never), a lock, resume."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from meninx.core import files, provenance
from meninx.core.errors import DataError, RunLocked, UsageError, expected

NOT_FOR_RELEASE = "NOT FOR RELEASE: privacy noise of this run came from a seed (--deterministic)"


@dataclass(frozen=True)
class Run:
    """One run folder. Make it with :func:`create`, find it with :func:`open_run`."""

    root: Path

    @property
    def release(self) -> Path:
        """What may leave the hospital: model, card, report, aggregates."""
        return self.root / "release"

    @property
    def private(self) -> Path:
        """Checkpoints, logs, per-case predictions, keys; mode 0700."""
        return self.root / "private"

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.root.name

    @property
    def config_path(self) -> Path:
        """The resolved config, itself a recipe."""
        return self.root / "config.toml"

    @property
    def ledger_path(self) -> Path:
        """The privacy ledger, one JSON object a line; it lies beside the checkpoints."""
        return self.private / "ledger.jsonl"

    @property
    def metrics_path(self) -> Path:
        """Training curves and validation metrics, one JSON object a line."""
        return self.private / "metrics.jsonl"

    def log_metrics(self, **values: Any) -> None:
        """Append one line to the private training log."""
        try:
            with self.metrics_path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(values) + "\n")
        except OSError as error:
            raise files.storage_error(error, self.metrics_path) from error

    def write_json(self, name: str, content: Any) -> Path:
        """Write ``content`` to ``name`` below the run folder and return the path."""
        path = self.root / name
        files.write_json(path, content)
        return path

    def read_json(self, name: str) -> Any:
        """Return the JSON at ``name``, or None when there is none.

        Raises:
            DataError: the file is not JSON.
        """
        path = self.root / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise DataError(expected("valid JSON", got=str(error), where=str(path))) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder for this process.

        Raises:
            RunLocked: another process holds it. A killed process holds nothing: the lock is the kernel's.
        """
        path = self.private / "lock"
        with path.open("a+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                fix = "wait for it, or give another --out"
                raise RunLocked(
                    expected("one process a run folder", got="another process writing", where=self.name, fix=fix)
                ) from error
            yield


def create(
    parent: Path,
    name: str,
    *,
    config_toml: str,
    command: Iterable[str] = (),
    deterministic: bool = False,
    now: datetime | None = None,
) -> Run:
    """Make ``parent/<time>_<name>`` with its two rooms, config and environment, and point ``parent/latest`` to it.

    Args:
        parent: folder of runs.
        name: recipe and seed, e.g. ``"cxr-dp_s0"``; other characters than letters, digits, ``-`` and ``_`` become ``-``.
        config_toml: the resolved config.
        command: what the user typed.
        deterministic: stamps the run NOT FOR RELEASE.
        now: the time in the name; the present by default.

    Raises:
        StorageError: the disk refused.
    """
    stamp = (now or datetime.now(UTC)).strftime("%Y-%m-%d_%H%M%S")
    clean = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    root = _free(parent / f"{stamp}_{clean}")
    run = Run(root)
    try:
        run.release.mkdir(parents=True)
        run.private.mkdir(mode=0o700)
        run.private.chmod(0o700)
    except OSError as error:
        raise files.storage_error(error, root) from error
    files.write_text(run.config_path, config_toml)
    run.write_json("environment.json", provenance.environment(command))
    if deterministic:
        files.write_text(root / "NOT_FOR_RELEASE", NOT_FOR_RELEASE + "\n")
    _point_latest(parent, root)
    return run


def open_run(path: Path) -> Run:
    """Return the run in a folder.

    Raises:
        UsageError: the folder is not a run folder.
    """
    root = path.resolve()
    if not (root / "config.toml").is_file() or not (root / "private").is_dir():
        raise UsageError(
            expected(
                "a run folder with config.toml and private/",
                got="none",
                where=str(path),
                fix="give the folder that `meninx train` printed",
            )
        )
    return Run(root)


def _free(root: Path) -> Path:
    candidate, number = root, 2
    while candidate.exists():
        candidate, number = root.with_name(f"{root.name}-{number}"), number + 1
    return candidate


def _point_latest(parent: Path, root: Path) -> None:
    temporary = parent / f".latest-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(root.name)
    temporary.replace(parent / "latest")
