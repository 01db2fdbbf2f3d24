"""The run folder: ``release/`` may leave the hospital, ``private/`` stays; identity, state, lock and keys."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from meninx.core import artifacts, files, integrity, plain, provenance, randomness, workspace
from meninx.core.artifacts import RunRecord, RunState
from meninx.core.errors import DataError, UsageError, expected, problem
from meninx.core.randomness import KEY_BYTES

IDENTITY = "identity"
"""Purpose of the key under which patients and datasets have names outside ``private/``."""
NOT_FOR_RELEASE = "NOT FOR RELEASE: privacy noise of this run came from a seed (--deterministic)"


@dataclass(frozen=True)
class Run:
    """One run folder, made by :func:`create` and opened by :func:`open_run`."""

    root: Path

    @property
    def release(self) -> Path:
        """Folder of files that may leave the hospital: model, card, report, aggregates."""
        return self.root / "release"

    @property
    def private(self) -> Path:
        """Folder of checkpoints, logs, per-case predictions and keys; mode 0700."""
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
    def config_digest(self) -> str:
        """SHA-256 of the current ``config.toml``.

        Raises:
            DataError: the file cannot be read.
        """
        return hashlib.sha256(files.read_bytes(self.config_path)).hexdigest()

    @property
    def ledger_path(self) -> Path:
        """The privacy ledger, one JSON object per line."""
        return self.private / "ledger.jsonl"

    def ledger_text(self) -> str:
        """Return the privacy ledger as text; empty if there is none.

        Bytes that are not UTF-8 are preserved, so that the verification of the ledger refuses them.

        Raises:
            DataError: the file cannot be read, or is larger than ``artifacts.LEDGER_LIMIT``.
        """
        if not self.ledger_path.is_file():
            return ""
        return files.read_bytes(self.ledger_path, limit=artifacts.LEDGER_LIMIT).decode(
            "utf-8", "surrogateescape"
        )

    @property
    def metrics_path(self) -> Path:
        """Training curves and validation metrics, one JSON object per line."""
        return self.private / "metrics.jsonl"

    @property
    def record(self) -> RunRecord | None:
        """Identity and state of the run; None for a run of an older version.

        Raises:
            DataError: run.json is damaged.
        """
        return artifacts.read(self.root, RunRecord)

    def update(self, **changes: Any) -> RunRecord:
        """Change fields of ``run.json`` and return the new record.

        Raises:
            DataError: the run is of an older version and has no record.
        """
        record = artifacts.require(
            self.root, RunRecord, fix="start a new run: this one was made by an older version"
        )
        changed = replace(record, **changes)
        artifacts.write(self.root, changed)
        return changed

    def enlist(self, *, added: Iterable[Path] = (), removed: Iterable[Path] = ()) -> None:
        """Add files written to ``release/`` later to its list of digests, and delete removed ones from it.

        Nothing happens in an unfinished run or one of an older version. The caller holds :meth:`lock`.

        Before the list is written, ``run.json`` names both the old and the new list, so a process that is
        killed at any moment leaves a list that ``run.json`` names.

        Raises:
            DataError: the list is not the one that ``run.json`` names.
        """
        record, before = self.record, integrity.digest_of(self.release)
        if record is None or not before:
            return
        if not record.names_list(before):
            fix = "restore release/ from a backup; `meninx verify` names every change"
            raise DataError(
                problem("the list of digests is not the one that run.json names", where=self.name, fix=fix)
            )
        gone = {path.relative_to(self.release).as_posix() for path in removed}
        digests = {name: value for name, value in integrity.read(self.release).items() if name not in gone}
        digests |= integrity.measured(self.release, added)
        self.update(release=before, release_next=integrity.list_digest(digests))
        self.update(release=integrity.write(self.release, digests), release_next="")

    def key_path(self, purpose: str) -> Path:
        """Return the path of the secret key for one purpose: ``private/keys/<purpose>.key``, mode 0600."""
        return self.private / "keys" / f"{purpose}.key"

    def key(self, purpose: str, *, seed: int | None = None) -> bytes:
        """Return the secret key for one purpose, created on first use.

        Args:
            purpose: e.g. ``identity``, ``sampling`` or ``noise``; each purpose has an independent key.
            seed: None for the entropy of the operating system; an integer only in a run stamped NOT FOR
                RELEASE.

        Raises:
            DataError: the file is not a key.
            StorageError: the disk refused.
        """
        path = self.key_path(purpose)
        if not path.is_file():
            key = randomness.private_bytes(KEY_BYTES, deterministic_seed=seed, purpose=purpose)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write_bytes(path, key, mode=files.PRIVATE_MODE)
        return read_key(path)

    def read_json(self, name: str) -> Any:
        """Return the JSON at ``name``, or None if there is none.

        Raises:
            DataError: the file is not JSON.
        """
        path = self.root / name
        if not path.is_file():
            return None
        return plain.from_json(files.read_bytes(path), Any, where=path.name)

    def lock(self) -> AbstractContextManager[None]:
        """Lock the run folder for this process; raises RunLocked if another process holds it."""
        return workspace.locked(self.root)

    def audit_lock(self) -> AbstractContextManager[None]:
        """Keep other audits of the run away; raises RunLocked if another process audits it."""
        return workspace.audit_locked(self.root)

    def discard(self) -> None:
        """Remove the folder of a run that never began; a run that took a step is not changed."""
        record = self.record
        if record is not None and record.state is RunState.STARTING and not self.ledger_text():
            shutil.rmtree(self.root, ignore_errors=True)

    def point_latest(self) -> None:
        """Point the link ``latest`` beside the folder to this run, if the system allows links."""
        # A rename replaces the link atomically, so ``latest`` always exists.
        temporary = self.root.parent / f".latest-{os.getpid()}"
        try:
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(self.root.name)
            temporary.replace(self.root.parent / "latest")
        except OSError:  # Windows without the right to create links, or a folder called ``latest``
            temporary.unlink(missing_ok=True)


def keyed_data(key: bytes, digest: str) -> str:
    """Return the keyed digest that stands for a dataset in records outside ``private/``.

    Args:
        key: the run's key for identities, :data:`IDENTITY`.
        digest: plain digest of the dataset.
    """
    return artifacts.keyed(key, "data", digest)


def read_key(path: Path) -> bytes:
    """Return the secret key in a file.

    Raises:
        DataError: the file cannot be read or is not a key.
    """
    key = files.read_bytes(path, limit=KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise DataError(expected(f"a key of {KEY_BYTES} bytes", got=f"{len(key)}", where=path.name))
    return key


def create(
    parent: Path,
    name: str,
    *,
    config_toml: str,
    command: Iterable[str] = (),
    private: bool = False,
    deterministic: bool = False,
    now: datetime | None = None,
) -> Run:
    """Create ``parent/<time>_<name>`` with its two subfolders, config, environment and record.

    ``latest`` points to it only when training begins (:meth:`Run.point_latest`), so that a failed start does
    not move the link.

    Args:
        parent: folder of runs.
        name: recipe and seed, e.g. ``"cxr-dp_s0"``; characters other than letters, digits, ``-`` and ``_``
            become ``-``.
        config_toml: the resolved config.
        command: the user's command.
        private: whether the run trains with differential privacy.
        deterministic: whether to stamp the run NOT FOR RELEASE.
        now: the time in the name; by default the current time.

    Raises:
        StorageError: the disk refused.
    """
    stamp = (now or datetime.now(UTC)).strftime("%Y-%m-%d_%H%M%S")
    clean = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:80]
    run = Run(_made(parent / f"{stamp}_{clean}"))
    try:
        furnish(run, config_toml=config_toml, command=command, private=private, deterministic=deterministic)
    except BaseException:
        shutil.rmtree(run.root, ignore_errors=True)
        raise
    return run


def furnish(
    run: Run,
    *,
    config_toml: str,
    command: Iterable[str],
    private: bool,
    deterministic: bool,
    own_loop: bool = False,
) -> None:
    """Write the files that every new run has; the record comes last, so that it marks a complete folder.

    Args:
        run: the folder, which exists.
        config_toml: the resolved config.
        command: the user's command.
        private: whether the run trains with differential privacy.
        deterministic: whether to stamp the run NOT FOR RELEASE.
        own_loop: whether the run is trained in the user's own loop.

    Raises:
        StorageError: the disk refused.
    """
    workspace.make_private(run.root)
    try:
        run.release.mkdir(exist_ok=True)
    except OSError as error:
        raise files.storage_error(error, run.root) from error
    files.write_text(run.config_path, config_toml)
    artifacts.write(run.root, provenance.environment(command))
    if deterministic:
        files.write_text(run.root / "NOT_FOR_RELEASE", NOT_FOR_RELEASE + "\n")
    record = RunRecord(
        id=secrets.token_hex(16),
        name=run.name,
        private=private,
        deterministic=deterministic,
        own_loop=own_loop,
        config=hashlib.sha256(config_toml.encode()).hexdigest(),
        made=artifacts.now(),
    )
    artifacts.write(run.root, record)


def open_run(path: Path) -> Run:
    """Return the run in a folder that `meninx train` wrote.

    Raises:
        UsageError: the folder is not a run folder, or it belongs to a user's own loop, whose network and data
            meninx does not know.
        DataError: run.json is damaged.
    """
    root = path.resolve()
    if not (root / "config.toml").is_file() or not (root / "private").is_dir():
        lacking = "config.toml or private/ is missing" if root.exists() else "there is no such folder"
        fix = "give the folder that `meninx train` printed"
        if (root / "latest" / "config.toml").is_file():
            fix = f"give one of the runs in it, e.g. {path / 'latest'}"
        raise UsageError(problem(f"this is no run folder: {lacking}", where=str(path), fix=fix))
    run = Run(root)
    record = run.record
    if record is not None and record.own_loop:
        why = (
            "the run was trained in a loop of your own (meninx.privacy.training), so meninx knows neither "
            "its network nor its data"
        )
        fix = "go on with training(..., resume=True), and evaluate with your own code"
        raise UsageError(problem(why, where=run.name, fix=fix))
    return run


def _made(root: Path) -> Path:
    """Create a new folder and return it; a number is appended if the name is taken."""
    candidate, number = root, 2
    while True:
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            candidate, number = root.with_name(f"{root.name}-{number}"), number + 1
        except OSError as error:
            raise files.storage_error(error, root) from error
