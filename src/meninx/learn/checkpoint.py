"""Checkpoints in private/checkpoints: written whole or not at all, read without running code, never ahead of the ledger.

Random generators need no saving: every draw is a function of a seed or key and the step.
"""

from __future__ import annotations

import io
import pickle
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

VERSION = 1
FREE_TO_CHANGE = frozenset({"device", "threads", "tensorboard", "physical_batch", "epochs", "steps", "eval_every"})


def path_of(run: Run, name: str) -> Path:
    """Return the path of the checkpoint ``last`` or ``best``."""
    return run.private / "checkpoints" / f"{name}.pt"


def save(
    run: Run, name: str, trainee: Trainee, *, config: LearnConfig, info: DatasetInfo, plan: str, anchor: tuple[int, str]
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
    files.write_bytes(path, buffer.getvalue(), mode=0o600)
    return path


def load(run: Run, name: str) -> dict[str, Any]:
    """Return a checkpoint's content; only tensors and plain values are read (``weights_only``).

    Raises:
        DataError: no such checkpoint, or it is damaged or of another version.
    """
    path = path_of(run, name)
    if not path.is_file():
        fix = "train first, or give another run folder"
        raise DataError(expected(f"a checkpoint {name}.pt", got="no such file", where=f"{run.name}/private", fix=fix))
    return _parsed(path.read_bytes(), f"{run.name}/{path.name}")


def refuse_other_plan(run: Run, plan: str) -> None:
    """Raise PrivacyRefusal when the run was started under another privacy plan than ``plan``, its fingerprint, or none."""
    if path_of(run, "last").is_file():
        _refuse_plan(load(run, "last"), plan)


def _refuse_plan(content: dict[str, Any], plan: str) -> None:
    if content["plan"] != plan:
        fix = "resume with the run's config.toml, or start a new run"
        raise PrivacyRefusal(expected("the privacy plan the run was started with", got="another", where="resume", fix=fix))


def restore(run: Run, trainee: Trainee, *, config: LearnConfig, plan: str) -> None:
    """Put the last checkpoint into ``trainee``; nothing happens when there is none yet.

    Args:
        run: the run folder.
        trainee: fresh, of the same settings.
        config: the settings of the resumed run.
        plan: fingerprint of its privacy plan; empty without privacy.

    Raises:
        ConfigError: the run was started with other settings; names them.
        PrivacyRefusal: the run was started under another plan or none, or the checkpoint has seen steps that the
            ledger does not list, so that what was spent is unknown.
    """
    whole = distributed.current().shared_bytes(lambda: _checked(run, plan))
    if not whole:
        return
    content = _parsed(whole, run.name)
    _refuse_other_settings(config_of(content), config)
    trainee.load_state_dict(content)


def _checked(run: Run, plan: str) -> bytes:
    """Return the last checkpoint's bytes, none when there is none; refuse one of another plan or ahead of its ledger."""
    path = path_of(run, "last")
    if not path.is_file():
        return b""
    whole = path.read_bytes()
    content = _parsed(whole, f"{run.name}/{path.name}")
    _refuse_plan(content, plan)
    if plan:
        anchor = (int(content["anchor"][0]), str(content["anchor"][1]))
        ledger_file.read(run, anchor=anchor).verify(steps=int(content["step"]))
    return whole


def _parsed(whole: bytes, where: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(io.BytesIO(whole), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(expected("a whole checkpoint", got="a damaged file", where=where)) from error
    if content.get("version") != VERSION:
        raise DataError(expected(f"a checkpoint of version {VERSION}", got=content.get("version"), where=where))
    return content


def config_of(content: dict[str, Any]) -> LearnConfig:
    """Return the learning settings kept in a checkpoint."""
    return from_toml_table(tomllib.loads(content["config"]), "checkpoint")


def info_of(content: dict[str, Any]) -> DatasetInfo:
    """Return the dataset information kept in a checkpoint."""
    return DatasetInfo.from_toml(content["info"], "checkpoint")


def _refuse_other_settings(before: LearnConfig, now: LearnConfig) -> None:
    old, new = settings.to_table(before), settings.to_table(now)
    changed = [name for name in old if old[name] != new.get(name) and name not in FREE_TO_CHANGE]
    if changed:
        fix = "resume with the run's config.toml, or start a new run"
        raise ConfigError(
            expected("the settings the run was started with", got=f"another {', '.join(changed)}", where="resume", fix=fix)
        )
