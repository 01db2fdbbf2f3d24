"""Checkpoints in private/checkpoints: written whole or not at all, sealed by a digest, read without running code.

They are never ahead of the ledger. A changed bit is refused; checkpoints of earlier versions have no digest
and are read.

Random generators need no saving: every draw is a function of a seed or key and the step.
"""

from __future__ import annotations

import hashlib
import io
import tomllib
from pathlib import Path
from typing import Any

import torch

from meninx.core import files, settings
from meninx.core.errors import ConfigError, DataError, PrivacyRefusal, expected
from meninx.core.manifest import DatasetInfo
from meninx.core.run import Run
from meninx.learn import distributed, ledger_file
from meninx.learn.config import LearnConfig, from_toml_table
from meninx.learn.trainee import Trainee

VERSION = 2
_UNSEALED = 1  # version without a seal, of earlier programs
_SEAL = b"\nmeninx-sha256:"
_SEAL_BYTES = len(_SEAL) + 64 + 1
_MOST_BYTES = 1 << 35
_KEYS = frozenset(
    {"model", "optimizer", "schedule", "average", "step", "best", "plan", "anchor", "config", "info"}
)


def path_of(run: Run, name: str) -> Path:
    """Return the path of the checkpoint ``last`` or ``best``."""
    return run.private / "checkpoints" / f"{name}.pt"


def save(
    run: Run,
    name: str,
    trainee: Trainee,
    *,
    config: LearnConfig,
    info: DatasetInfo,
    plan: str,
    anchor: tuple[int, str],
) -> Path:
    """Write a checkpoint atomically, mode 0600, and return its path.

    Args:
        run: the run folder.
        name: ``last`` (can be resumed) or ``best`` (weights alone).
        trainee: what to keep.
        config: kept beside the weights, so that the file explains itself.
        info: of the dataset, likewise.
        plan: fingerprint of the privacy plan; empty without privacy.
        anchor: number of lines in the privacy ledger at this moment, and hash of the last.
    """
    content = trainee.state_dict()
    if name == "best":
        content["optimizer"] = None
    content |= {
        "version": VERSION,
        "plan": plan,
        "anchor": anchor,
        "config": settings.to_toml(config),
        "info": info.to_toml(),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path = path_of(run, name)
    files.write_bytes(path, _sealed(buffer.getvalue()), mode=0o600)
    return path


def load(run: Run, name: str) -> dict[str, Any]:
    """Return a checkpoint's content; only tensors and plain values are read (``weights_only``).

    The content's ``sealed`` says whether the file carried a digest that was right; false for those of earlier
    versions.

    Raises:
        DataError: no such checkpoint, or it is damaged, changed or of another version.
    """
    path = path_of(run, name)
    if not path.is_file():
        fix = "train first, or give another run folder"
        raise DataError(
            expected(f"a checkpoint {name}.pt", got="no such file", where=f"{run.name}/private", fix=fix)
        )
    return _parsed(_read(path), _where(path))


def refuse_other_plan(run: Run, plan: str) -> None:
    """Raise PrivacyRefusal when the run was started under another privacy plan than ``plan``, its fingerprint, or none."""
    if path_of(run, "last").is_file():
        _refuse_plan(load(run, "last"), plan)


def _refuse_plan(content: dict[str, Any], plan: str) -> None:
    if content["plan"] != plan:
        fix = "resume with the run's config.toml, or start a new run"
        raise PrivacyRefusal(
            expected("the privacy plan the run was started with", got="another", where="resume", fix=fix)
        )


def restore(run: Run, trainee: Trainee, *, config: LearnConfig, plan: str) -> None:
    """Put the last checkpoint into ``trainee``; nothing happens when there is none yet.

    Args:
        run: the run folder.
        trainee: fresh, of the same settings.
        config: the settings of the resumed run.
        plan: fingerprint of its privacy plan; empty without privacy.

    Raises:
        ConfigError: the run was started with other settings; names them.
        PrivacyRefusal: the run was started under another plan or none, or the checkpoint has seen steps that
            the ledger does not list, so that what was spent is unknown.
    """
    whole = distributed.current().shared_bytes(lambda: _checked(run, plan))
    if not whole:
        return
    content = _parsed(whole, f"{run.name}/private/checkpoints/last.pt")
    _refuse_other_settings(config_of(content), config)
    trainee.load_state_dict(content)


def _checked(run: Run, plan: str) -> bytes:
    """Return the last checkpoint's bytes, none when there is none.

    Refuse one of another plan or ahead of its ledger.
    """
    path = path_of(run, "last")
    if not path.is_file():
        return b""
    whole = _read(path)
    content = _parsed(whole, _where(path))
    _refuse_plan(content, plan)
    if plan:
        anchor = (int(content["anchor"][0]), str(content["anchor"][1]))
        ledger_file.read(run, anchor=anchor).verify(steps=int(content["step"]))
    return whole


def _where(path: Path) -> str:
    """Return the file's name from the run folder on."""
    return "/".join(path.parts[-4:])


def _read(path: Path) -> bytes:
    """Return the bytes of a checkpoint of a size that can be one."""
    if path.stat().st_size > _MOST_BYTES:
        raise DataError(
            expected("a checkpoint", got=f"more than {_MOST_BYTES >> 30} GiB", where=_where(path))
        )
    return path.read_bytes()


def _sealed(content: bytes) -> bytes:
    """Return the content of a file followed by its digest, which readers of torch's format pass over."""
    return b"%b%b%b\n" % (content, _SEAL, hashlib.sha256(content).hexdigest().encode())


def _unsealed(whole: bytes) -> tuple[bytes, bool]:
    """Return the content and whether a digest stood behind it that is the right one."""
    content, seal = whole[:-_SEAL_BYTES], whole[-_SEAL_BYTES:]
    if not seal.startswith(_SEAL):
        return whole, False
    return content, seal == _sealed(content)[-_SEAL_BYTES:]


def _parsed(whole: bytes, where: str) -> dict[str, Any]:
    body, sealed = _unsealed(whole)
    fix = "restore it from a backup, or train again"
    damaged = DataError(expected("a whole checkpoint", got="a damaged or foreign file", where=where, fix=fix))
    if not sealed and body is not whole:
        raise damaged
    try:
        content: Any = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch meets in foreign bytes
        raise damaged from error
    if not isinstance(content, dict):
        raise damaged
    version = content.get("version")
    if version not in (VERSION, _UNSEALED):
        raise DataError(expected(f"a checkpoint of version {VERSION}", got=repr(version)[:40], where=where))
    if not content.keys() >= _KEYS or sealed != (version == VERSION):
        raise damaged
    return {**content, "sealed": sealed}


def config_of(content: dict[str, Any]) -> LearnConfig:
    """Return the learning settings kept in a checkpoint."""
    return from_toml_table(tomllib.loads(content["config"]), "checkpoint")


def info_of(content: dict[str, Any]) -> DatasetInfo:
    """Return the dataset information kept in a checkpoint."""
    return DatasetInfo.from_toml(content["info"], "checkpoint")


def _refuse_other_settings(before: LearnConfig, now: LearnConfig) -> None:
    old, new = settings.to_flat(before), settings.to_flat(now)
    changed = [name for name in old if old[name] != new.get(name) and name not in ledger_file.FREE_TO_CHANGE]
    if changed:
        fix = "resume with the run's config.toml, or start a new run"
        raise ConfigError(
            expected(
                "the settings the run was started with",
                got=f"another {', '.join(changed)}",
                where="resume",
                fix=fix,
            )
        )
