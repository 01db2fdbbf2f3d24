"""Checkpoints in private/checkpoints: written atomically, sealed by a digest, read without running code.

A checkpoint is never ahead of the ledger. A changed bit is detected, except in checkpoints of earlier
versions, which have no digest. Both the trainer and a user's own loop write checkpoints. Each names its kind,
and each reader refuses the other kind (:func:`write`, :func:`read`).

No random generator is saved, because every draw is a function of a seed or key and the step.
"""

from __future__ import annotations

import io
import tomllib
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meninx.core import files, integrity, settings
from meninx.core.errors import ConfigError, DataError, PrivacyRefusal, UsageError, expected, problem
from meninx.core.manifest import DatasetInfo
from meninx.core.run import Run
from meninx.learn import ledger_file
from meninx.learn.config import LearnConfig, from_toml_table
from meninx.learn.distributed import World
from meninx.learn.hooks import Evaluated, Hook, Outcome, RoundDone
from meninx.learn.state import MODEL, TrainState

VERSION = 3


class Kind(StrEnum):
    """Who wrote a checkpoint."""

    TRAINER = "trainer"
    """`meninx train`; also a file of an earlier version, which names no kind."""
    OWN_LOOP = "own loop"
    """:func:`meninx.privacy.training`."""


_OWNERS = {
    Kind.TRAINER: ("`meninx train`", "go on with `meninx train DATA --resume RUN`"),
    Kind.OWN_LOOP: ("meninx.privacy.training", "go on with meninx.privacy.training(..., resume=True)"),
}
_FLAT = 2  # version with a single player that has no name
_UNSEALED = 1  # version that also lacks a seal
_MOST_BYTES = 1 << 35
_KEYS = frozenset({"players", "step", "best", "plan", "anchor", "config", "info"})
_FLAT_KEYS = frozenset({"model", "optimizer", "schedule", "average"})


def path_of(run: Run, name: str) -> Path:
    """Return the path of the checkpoint ``last`` or ``best``."""
    return run.private / "checkpoints" / f"{name}.pt"


def save(
    run: Run,
    name: str,
    state: TrainState,
    *,
    config: LearnConfig,
    info: DatasetInfo,
    plan: str,
    anchor: tuple[int, str],
) -> Path:
    """Write a checkpoint atomically, mode 0600, and return its path.

    Args:
        run: the run folder.
        name: ``last`` (can be resumed) or ``best`` (weights only).
        state: the state to save.
        config: saved with the weights, so that the file can be used on its own.
        info: of the dataset, likewise.
        plan: fingerprint of the privacy plan; empty without privacy.
        anchor: current number of lines in the privacy ledger, and hash of the last.
    """
    content = state.state_dict()
    if name == "best":
        for player in content["players"].values():
            player["optimizer"] = None
    content |= {
        "version": VERSION,
        "plan": plan,
        "anchor": anchor,
        "config": settings.to_toml(config),
        "info": info.to_toml(),
    }
    return write(run, name, Kind.TRAINER, content)


def write(run: Run, name: str, kind: Kind, content: Mapping[str, Any]) -> Path:
    """Write a checkpoint's content with its kind and its seal, atomically, mode 0600, and return its path."""
    buffer = io.BytesIO()
    torch.save({**content, "kind": str(kind)}, buffer)
    path = path_of(run, name)
    files.write_bytes(path, integrity.seal(buffer.getvalue()), mode=files.PRIVATE_MODE)
    return path


def read(run: Run, name: str, kind: Kind) -> dict[str, Any]:
    """Return the content of a checkpoint of one kind; its entry ``sealed`` tells whether it had a digest.

    Only tensors and plain values are read (``weights_only``), so a hostile file cannot run code.

    Raises:
        DataError: the file is damaged, changed, or not from meninx.
        UsageError: it is a checkpoint of the other kind.
    """
    path = path_of(run, name)
    return _unpacked(_read(path), _where(path), kind)


def load(run: Run, name: str) -> dict[str, Any]:
    """Return a checkpoint's content; only tensors and plain values are read (``weights_only``).

    Its entry ``sealed`` is True if the file carried a correct digest and False for earlier versions.

    Raises:
        DataError: no such checkpoint, or it is damaged, changed or of another version.
    """
    path = path_of(run, name)
    if not path.is_file():
        fix = "train first, or give another run folder"
        raise DataError(problem(f"there is no checkpoint {name}.pt", where=f"{run.name}/private", fix=fix))
    return _parsed(_read(path), _where(path))


def refuse_other_plan(run: Run, plan: str) -> None:
    """Raise PrivacyRefusal if the run was started under another privacy plan.

    Args:
        run: the run folder.
        plan: fingerprint of the plan; empty without privacy.
    """
    if path_of(run, "last").is_file():
        _refuse_plan(load(run, "last"), plan)


def _refuse_plan(content: dict[str, Any], plan: str) -> None:
    if content["plan"] != plan:
        fix = "resume with the run's config.toml, or start a new run"
        raise PrivacyRefusal(
            problem(
                "the privacy plan differs from the one that the run was started with", where="resume", fix=fix
            )
        )


def restore(run: Run, state: TrainState, *, config: LearnConfig, plan: str, world: World) -> None:
    """Load the last checkpoint into ``state``; do nothing if there is none yet.

    Args:
        run: the run folder.
        state: a fresh state of the same settings.
        config: the settings of the resumed run.
        plan: fingerprint of its privacy plan; empty without privacy.
        world: the processes of the run; process 0 reads for all.

    Raises:
        ConfigError: the run was started with other settings; the message names them.
        PrivacyRefusal: the run was started under another plan or none, or the checkpoint contains steps that
            the ledger does not list, so the spent privacy is unknown.
    """
    whole = world.shared_bytes(lambda: _checked(run, plan))
    if not whole:
        return
    content = _parsed(whole, f"{run.name}/private/checkpoints/last.pt")
    _refuse_other_settings(config_of(content), config)
    state.load_state_dict(content)


def _checked(run: Run, plan: str) -> bytes:
    """Return the bytes of the last checkpoint, empty if there is none.

    A checkpoint of another plan, or ahead of its ledger, is refused.
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
    """Return the path of the file from the run folder on, for messages."""
    return "/".join(path.parts[-4:])


def _read(path: Path) -> bytes:
    """Return the bytes of a checkpoint; refuse a size that no checkpoint has."""
    if path.stat().st_size > _MOST_BYTES:
        raise DataError(
            expected("a checkpoint", got=f"more than {_MOST_BYTES >> 30} GiB", where=_where(path))
        )
    return path.read_bytes()


def _unpacked(whole: bytes, where: str, kind: Kind) -> dict[str, Any]:
    """Return the content of a checkpoint of one kind, whose seal must be correct or absent."""
    body, sealed = integrity.unseal(whole)
    damaged = _damaged(where)
    if not sealed and body is not whole:
        raise damaged
    try:
        content: Any = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged or hostile bytes can make torch raise anything
        raise damaged from error
    if not isinstance(content, dict):
        raise damaged
    found = content.get("kind", str(Kind.TRAINER))
    if not isinstance(found, str) or found not in list(Kind):
        raise damaged
    if found != kind:
        owner, fix = _OWNERS[Kind(found)]
        rule = f"a checkpoint of {_OWNERS[kind][0]}"
        raise UsageError(expected(rule, got=f"one of {owner}", where=where, fix=fix))
    return {**content, "sealed": sealed}


def _damaged(where: str) -> DataError:
    fix = "restore it from a backup, or train again"
    return DataError(problem("the checkpoint is damaged or not from meninx", where=where, fix=fix))


def _parsed(whole: bytes, where: str) -> dict[str, Any]:
    content = _unpacked(whole, where, Kind.TRAINER)
    sealed, version = content["sealed"], content.get("version")
    if version not in (VERSION, _FLAT, _UNSEALED):
        raise DataError(expected(f"a checkpoint of version {VERSION}", got=repr(version)[:40], where=where))
    if version != VERSION:
        content = _of_one_player(content)
    if not content.keys() >= _KEYS or sealed != (version != _UNSEALED):
        raise _damaged(where)
    return content


def _of_one_player(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of an earlier version, with a single unnamed player, in the current form."""
    if not content.keys() >= _FLAT_KEYS:
        return {}
    own = {name: content[name] for name in ("optimizer", "schedule", "average")}
    rest = {name: value for name, value in content.items() if name not in _FLAT_KEYS}
    return {**rest, "players": {MODEL: {"weights": content["model"], **own}}}


def weights_of(content: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights that are evaluated: the averaged ones of the only player, or else its own."""
    (player,) = content["players"].values()
    weights: dict[str, Tensor] = player["average"]["shadow"] if player["average"] else player["weights"]
    return weights


def config_of(content: dict[str, Any]) -> LearnConfig:
    """Return the learning settings stored in a checkpoint."""
    return from_toml_table(tomllib.loads(content["config"]), "checkpoint")


def info_of(content: dict[str, Any]) -> DatasetInfo:
    """Return the dataset information stored in a checkpoint."""
    return DatasetInfo.from_toml(content["info"], "checkpoint")


def _refuse_other_settings(before: LearnConfig, now: LearnConfig) -> None:
    old, new = settings.to_flat(before), settings.to_flat(now)
    changed = [name for name in old if old[name] != new.get(name) and name not in ledger_file.FREE_TO_CHANGE]
    if changed:
        fix = "resume with the run's config.toml, or start a new run"
        raise ConfigError(
            problem(
                f"the settings differ from those that the run was started with: {', '.join(changed)}",
                where="resume",
                fix=fix,
            )
        )


class CheckpointHook(Hook):
    """Saves ``last`` at evaluations and at the end of a round, and ``best`` when the metric improves.

    An interrupted round is saved, too, unless a step was in progress. A private run that was interrupted
    before its first step is not saved and starts again, with new keys.

    Args:
        run: the run folder.
        config: saved with the weights.
        info: of the dataset, likewise.
        plan: fingerprint of the privacy plan; empty without privacy.
        anchor: returns the number of ledger lines and the hash of the last.
    """

    def __init__(
        self,
        run: Run,
        config: LearnConfig,
        info: DatasetInfo,
        *,
        plan: str,
        anchor: Callable[[], tuple[int, str]],
    ) -> None:
        self.run, self.config, self.info, self.plan, self.anchor = run, config, info, plan, anchor

    def on_evaluation(self, state: TrainState, event: Evaluated) -> None:
        """Save the state, and the weights as ``best`` if they improved."""
        if event.improved:
            self.save("best", state)
        self.save("last", state)

    def on_round_end(self, state: TrainState, event: RoundDone) -> None:
        """Save the state unless a step was interrupted half-way."""
        begun = state.step > 0 or not self.plan
        if event.outcome is Outcome.DONE or (event.outcome is Outcome.INTERRUPTED and begun):
            self.save("last", state)

    def save(self, name: str, state: TrainState) -> None:
        """Save the state as the checkpoint ``name``."""
        save(self.run, name, state, config=self.config, info=self.info, plan=self.plan, anchor=self.anchor())
