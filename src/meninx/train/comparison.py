"""Differences between two compared runs other than privacy: dataset, network, image size, start, features.

The difference between a private run and a run without privacy is the cost of privacy only if both agree in
all of these.
"""

from __future__ import annotations

from dataclasses import dataclass

from meninx.core import artifacts
from meninx.core.artifacts import DataRecord, PrivacyRecord, SettingDifference, StartRecord
from meninx.core.manifest import DatasetInfo
from meninx.core.run import Run
from meninx.learn.config import LearnConfig, ModelConfig
from meninx.models import registry

_TRAINED = {
    "none": "all layers trained",
    "features": "head alone trained",
    "bitfit": "biases, norm layers and head trained",
}
_DIGITS = 12  # digits of a digest that are shown


@dataclass(frozen=True)
class Arm:
    """One of two compared runs.

    Attributes:
        run: the run folder.
        config: settings of its training.
        info: description of the training dataset.
    """

    run: Run
    config: LearnConfig
    info: DatasetInfo


def differing_settings(one: Arm, other: Arm) -> tuple[SettingDifference, ...]:
    """Return the settings other than privacy that differ, as texts without digests of private data.

    Args:
        one: the measured run.
        other: the baseline.
    """
    mine, theirs = _described(one), _described(other)
    pairs = [(what, text, theirs[what]) for what, text in mine.items() if text != theirs[what]]
    here, there = (artifacts.read(arm.run.root, DataRecord) for arm in (one, other))
    if here is not None and there is not None and here.digest != there.digest:
        pairs.insert(0, ("dataset", one.info.name, f"another one, {other.info.name}"))
    return tuple(SettingDifference(what=what, run=text, baseline=their) for what, text, their in pairs)


def _described(arm: Arm) -> dict[str, str]:
    """Return the compared settings as texts."""
    record = artifacts.read(arm.run.root, PrivacyRecord)
    start = record.start if record is not None else None
    return {
        "network": _network(arm.config.model),
        "image size": _size(arm.config.model, arm.info),
        "initialisation": _initialisation(arm.config, start),
        "features": _features(arm.config.model, start),
    }


def _network(model: ModelConfig) -> str:
    options = ", ".join(f"{name} = {value}" for name, value in sorted(model.options.items()))
    return f"{model.name} with {options}" if options else model.name


def _size(model: ModelConfig, info: DatasetInfo) -> str:
    text = " x ".join(map(str, model.patch_size or model.image_size or info.size)) or "of every image"
    return f"patches of {text}" if model.patch_size else text


def _initialisation(config: LearnConfig, start: StartRecord | None) -> str:
    seed = f"seed {config.runtime.seed}"
    if start is None or not start.file:
        own = config.model.name.startswith(registry.OWN_PREFIX)
        return "weights given with the network" if own else f"random, {seed}"
    head = f"random tensors of {seed}" if start.fresh else "all tensors kept"
    return f"weights {start.sha256[:_DIGITS]}, {head}"


def _features(model: ModelConfig, start: StartRecord | None) -> str:
    trained = _TRAINED.get(model.freeze, f"{model.freeze} frozen")
    if model.lora_rank:
        trained = f"adapters of rank {model.lora_rank}, alpha {model.lora_alpha:g}; " + (
            _TRAINED["bitfit"] if model.freeze == "bitfit" else _TRAINED["features"]
        )
    if model.unfreeze_every:
        trained += f", one more block every {model.unfreeze_every} epochs"
    if start is not None and start.standardized:
        trained += f", standardised by {start.standardized} ({start.standardized_sha256[:_DIGITS]})"
    return trained
