"""Refusal of settings without an effect, and the settings as the program resolved them.

A user who sets something expects an effect; choices left to the program are recorded with the chosen values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tomli_w

from meninx.core import settings
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import ConfigError, UsageError, expected, in_words
from meninx.core.manifest import DatasetInfo, Manifest, TaskKind
from meninx.learn import augment, runtime
from meninx.learn.config import OptimConfig, RuntimeConfig, SamplingConfig
from meninx.learn.task import image_task
from meninx.privacy.plan import Plan
from meninx.train.config import EvaluateConfig, PrivacyConfig, TrainConfig

_ADAPTIVE_MOMENTS = ("adam", "adamw", "nadam")
Rule = tuple[str, bool, str]
"""A setting, whether it has an effect here, and what it requires."""


def refuse_idle(config: TrainConfig, data: Manifest) -> None:
    """Raise ConfigError for the first setting that differs from its default without an effect on this run.

    As an exception, ``steps`` may be given together with ``epochs``, so that a flag can shorten a recipe; the
    written config then contains only the steps.
    """
    _refuse(config, _training_rules(config, data), "train")
    augment.refuse_unfit(config.augment, data.info)
    if config.privacy is not None:
        _refuse(config.privacy, _privacy_rules(config.privacy), "privacy")


def refuse_long_warmup(config: OptimConfig, steps: int) -> None:
    """Raise ConfigError if the learning rate would still be rising at the last of ``steps`` steps."""
    if config.warmup and config.warmup >= steps:
        raise ConfigError(
            expected(f"fewer warmup steps than the {steps} of the run", got=config.warmup, where="warmup")
        )


def refuse_idle_evaluation(config: EvaluateConfig, info: DatasetInfo, validation: int) -> None:
    """Raise UsageError for the first setting without an effect on an evaluation.

    Args:
        config: settings of the evaluation.
        info: description of the dataset.
        validation: number of validation cases on which thresholds can be fitted.
    """
    maps = [name for name in config.predictions if name != "csv"]
    if maps and info.task is not TaskKind.SEGMENTATION:
        got = f"{', '.join(maps)} for {info.task}"
        raise UsageError(
            expected(
                "predictions as csv", got=got, where="predictions", fix="only segmentation has label maps"
            )
        )
    fitted = info.task is not TaskKind.SEGMENTATION and validation > 0
    rules = [
        ("threshold", fitted, "a classification task and validation cases to fit thresholds on"),
        ("surface_tolerance", info.task is TaskKind.SEGMENTATION, "a segmentation task"),
        (
            "repeats",
            config.baseline is not None and info.task is not TaskKind.SEGMENTATION,
            "a baseline and a classification task",
        ),
        ("dicom", "dicom-seg" in config.predictions, "predictions that contain dicom-seg"),
    ]
    _refuse(config, iter(rules), "evaluate")


def refuse_idle_sweep(config: TrainConfig) -> None:
    """Raise ConfigError for the first setting that a sweep would replace."""
    if config.runtime.seed != RuntimeConfig.seed:
        raise ConfigError(_nothing("seed", "a single run; a sweep takes --seeds", "sweep"))
    if config.privacy is not None and config.privacy.noise_multiplier is not None:
        raise ConfigError(
            _nothing(
                "noise_multiplier", "a single run; a sweep calibrates the noise to each epsilon", "sweep"
            )
        )


def without_privacy(config: TrainConfig) -> TrainConfig:
    """Return the same settings for a run without privacy.

    Settings that only have a meaning with privacy get their defaults.
    """
    only = ("cases_per_patient", "bias_correction", "bias_floor", "functional")
    method = SamplingConfig.method if config.privacy is not None else config.sampling.method
    defaults = {name: settings.default_of(TrainConfig, name) for name in only}
    return config.replace(privacy=None, sampling=method, **defaults)


def total_steps(config: SamplingConfig, data: Manifest, plan: Plan | None) -> int:
    """Return the number of optimiser steps of a run."""
    if plan is not None:
        return plan.steps
    return config.steps or config.epochs * max(1, -(-len(data.split("train")) // config.batch_size))


def resolved(config: TrainConfig, data: Manifest, plan: Plan | None) -> TrainConfig:
    """Return the settings with all values chosen by the program, such as loss, sampling and steps.

    The result is a recipe that gives the same run.
    """
    best = plan is None and len(data.split("valid")) > 0
    chosen: dict[str, Any] = {
        "loss": image_task(data.info, config.task).loss_name,
        "select": config.validation.select,
        "memory_format": runtime.memory_format(
            config.runtime.memory_format,
            runtime.device(config.runtime.device),
            dims=data.info.spatial_dims,
            private=plan is not None,
        ),
    }
    if config.validation.select == "auto":
        chosen["select"] = "best" if best else "last"
    if plan is not None:
        chosen["sampling"] = "poisson"
    if config.privacy is None or not _steps_follow(config.privacy):
        chosen |= {"steps": total_steps(config.sampling, data, plan), "epochs": SamplingConfig.epochs}
    return config.replace(**chosen)


def to_toml(config: TrainConfig) -> str:
    """Return resolved settings as TOML, without the epochs if steps are given."""
    table = settings.to_table(config)
    if config.sampling.steps or (config.privacy is not None and _steps_follow(config.privacy)):
        del table["sampling"]["epochs"]
    return tomli_w.dumps(table)


def _training_rules(config: TrainConfig, data: Manifest) -> Iterator[Rule]:
    private, segmentation = config.privacy is not None, data.info.task is TaskKind.SEGMENTATION
    loss = image_task(data.info, config.task).loss_name
    moments = config.optim.optimizer in _ADAPTIVE_MOMENTS
    best = config.validation.select == "best" or (config.validation.select == "auto" and not private)
    counted = config.privacy is None or not _steps_follow(config.privacy)
    per_patient = config.privacy is not None and config.privacy.unit is PrivacyUnit.PATIENT
    yield (
        "steps",
        counted,
        "a budget that leaves the steps open: epsilon and noise_multiplier together decide them",
    )
    yield (
        "epochs",
        counted,
        "a budget that leaves the steps open: epsilon and noise_multiplier together decide them",
    )
    yield (
        "sampling",
        not private or config.sampling.method == "poisson",
        "no privacy, under which sampling is always poisson",
    )
    yield "patch_size", segmentation, "a segmentation dataset"
    yield (
        "foreground",
        segmentation and bool(config.model.patch_size) and not private,
        "segmentation patches without privacy",
    )
    yield "momentum", config.optim.optimizer == "momentum", "optimizer momentum"
    yield "bias_correction", private and moments, f"privacy and one of {', '.join(_ADAPTIVE_MOMENTS)}"
    yield "bias_floor", private and moments and config.optim.bias_correction != "off", "a bias correction"
    yield from _schedule_rules(config.optim)
    yield "focal_gamma", loss == "focal", "loss focal"
    yield "label_smoothing", loss != "dice", "a loss with cross entropy"
    yield from _augmentation_rules(config)
    yield (
        "monitor",
        best or bool(config.validation.early_stopping),
        "early stopping, or weights selected by validation",
    )
    yield "select", config.validation.select != "best" or len(data.split("valid")) > 0, "validation cases"
    yield "pretrained_source", bool(config.model.pretrained), "pretrained weights"
    yield "keep_head", bool(config.model.pretrained), "pretrained weights"
    yield "standardize", not segmentation, "a classification dataset: the features of whole images"
    yield "unfreeze_every", config.model.freeze != "none", "something frozen"
    yield "lora_alpha", config.model.lora_rank > 0, "lora_rank"
    yield "cases_per_patient", per_patient, "privacy per patient"
    yield "functional", private, "privacy"
    flat = data.info.spatial_dims == 2 or config.runtime.memory_format == "contiguous"
    yield "memory_format", flat, "2-D images"
    listed = bool(data.checksums) or config.runtime.cache == "off"
    yield "cache", listed, "a dataset with checksums.sha256, which names the images that are cached"


def _schedule_rules(config: OptimConfig) -> Iterator[Rule]:
    name = config.schedule
    yield "milestones", name in ("step", "manual"), "schedule step or manual"
    yield "rates", name == "manual", "schedule manual"
    yield "gamma", name in ("step", "plateau"), "schedule step or plateau"
    yield "plateau_patience", name == "plateau", "schedule plateau"


def _augmentation_rules(config: TrainConfig) -> Iterator[Rule]:
    names = set(config.augment.transforms)
    yield "flip_probability", bool(names & {"flip", "vflip", "zflip"}), "augment with a flip"
    yield "shift_voxels", "shift" in names, "augment with shift"
    yield "rotate_degrees", "rotate" in names, "augment with rotate"
    yield "crop_scale", "crop" in names, "augment with crop"
    yield "intensity_strength", "intensity" in names, "augment with intensity"
    yield (
        "views",
        bool(names or config.model.patch_size),
        "augment or patch_size, without which all views are equal",
    )


def _privacy_rules(config: PrivacyConfig) -> Iterator[Rule]:
    adaptive = config.clipping == "adaptive"
    for name in ("clip_quantile", "clip_rate", "count_noise_multiplier"):
        yield name, adaptive, "clipping adaptive"


def _steps_follow(config: PrivacyConfig) -> bool:
    """Return whether the budget decides the number of steps."""
    return config.epsilon is not None and config.noise_multiplier is not None


def _refuse(config: settings.Settings, rules: Iterator[Rule], where: str) -> None:
    for name, useful, needs in rules:
        default = settings.default_of(type(config), name)
        if not useful and settings.value_of(config, name) != default:
            words = in_words(settings.to_plain(default)) or "empty"
            recipe = "" if where == "evaluate" else f", or set what a recipe gives back to {words}"
            raise ConfigError(_nothing(name, needs, where, recipe))


def _nothing(name: str, needs: str, where: str, recipe: str = "") -> str:
    return f"{name} has no effect here ({where}): it needs {needs}; leave it out{recipe}"
