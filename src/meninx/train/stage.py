"""The training stage: a prepared dataset in, a run folder with a released model out."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from meninx.core import files, provenance, settings
from meninx.core import run as runs
from meninx.core.errors import ConfigError, DataError, expected
from meninx.core.manifest import INFO_NAME, MANIFEST_NAME, Manifest
from meninx.core.progress import SILENT, Progress
from meninx.core.result import Result
from meninx.core.run import Run
from meninx.learn import distributed, freeze, loop, setup
from meninx.learn.predict import load_model
from meninx.learn.result import FitResult
from meninx.learn.task import objective
from meninx.privacy.clipping import trained_layers
from meninx.privacy.plan import Plan
from meninx.train import bundle
from meninx.train.config import TrainConfig
from meninx.train.planning import make_plan

DATA_NAME = "data.json"
NO_PRIVACY = "none: trained without differential privacy"


@dataclass(frozen=True, kw_only=True)
class TrainResult(Result):
    """What a training run came to.

    Attributes:
        model: name of the network.
        parameters: number of its parameters.
        train_cases: cases of the training split.
        train_patients: patients of the training split.
        steps: optimiser steps done (planned, of a dry run).
        validation: name and value of the validation metric at the end; private, never released.
        privacy: the guarantee as a sentence.
        dry_run: nothing was written.
    """

    model: str
    parameters: int
    train_cases: int
    train_patients: int
    steps: int
    validation: str = ""
    privacy: str = NO_PRIVACY
    dry_run: bool = False


def run(
    config: TrainConfig,
    source: Path,
    out: Path,
    *,
    progress: Progress = SILENT,
    resume: Path | None = None,
    dry_run: bool = False,
    recipe: str | None = None,
) -> TrainResult:
    """Train one model and put it into ``release/`` of a run folder.

    Started by torchrun, the processes share the work of one run and all return its result; the folders need to be
    visible to process 0 alone, the dataset to all.

    Args:
        config: the settings; replaced by those of the run when resuming.
        source: prepared dataset.
        out: folder of runs.
        progress: shows steps, loss and epsilon.
        resume: a run folder to go on with, or None for a new one.
        dry_run: calibrate and count, write nothing.
        recipe: name of the recipe, used to name the run.

    Raises:
        ConfigError, DataError, PrivacyRefusal, RunLocked, Interrupted: see ``meninx.learn.loop.fit``.
    """
    with distributed.joined() as world:
        data = Manifest.read(source)
        world.agree("dataset", lambda: _digest(source))
        if resume is not None:
            root, table = world.shared(lambda: _reopened(resume, source))
            config = settings.build(TrainConfig, table, "config.toml")
            return _train(config, data, Run(Path(root)), _agreed_plan(config, data), progress, resumed=True)
        config = named(config, recipe)
        world.agree("settings", lambda: settings.to_toml(config))
        plan = _agreed_plan(config, data)
        network = _network(config, data, plan)  # both refuse before a folder is made
        if dry_run:
            return _preview(config, data, out, network, plan)
        folder = Run(Path(world.shared(lambda: _created(config, source, out))))
        return _train(config, data, folder, plan, progress, resumed=False)


def named(config: TrainConfig, recipe: str | None) -> TrainConfig:
    """Return the config with the recipe's name, unless it has one of its own."""
    return replace(config, name=Path(recipe).stem) if recipe and config.name == TrainConfig.name else config


def dataset_of(run: Run) -> Path:
    """Return the dataset folder that a run was trained on.

    Raises:
        ConfigError: the run does not say.
    """
    table = run.read_json(f"private/{DATA_NAME}")
    if table is None:
        fix = "give the dataset folder with --data"
        raise ConfigError(expected("a run that knows its dataset", got=f"no private/{DATA_NAME}", where=run.name, fix=fix))
    return Path(table["dataset"])


def stored_config(run: Run) -> TrainConfig:
    """Return the settings that a run was started with.

    Raises:
        ConfigError: its config.toml was changed into something else.
    """
    table, source = settings.read_recipe(str(run.config_path))
    return settings.build(TrainConfig, table, source)


def _created(config: TrainConfig, source: Path, out: Path) -> str:
    """Make the run folder and return its path."""
    name = f"{config.name}_s{config.seed}"
    folder = runs.create(out, name, config_toml=settings.to_toml(config), deterministic=config.deterministic)
    known = {"dataset": str(source.resolve()), "digest": _digest(source)}
    files.write_json(folder.private / DATA_NAME, known, mode=0o600)
    folder.point_latest()
    return str(folder.root)


def _reopened(path: Path, source: Path) -> tuple[str, dict[str, Any]]:
    """Return the path of a run folder to go on with and its settings."""
    folder = runs.open_run(path)
    _refuse_other_data(folder, source)
    return str(folder.root), settings.to_table(stored_config(folder))


def _agreed_plan(config: TrainConfig, data: Manifest) -> Plan | None:
    """Return the privacy plan, the same in all processes."""
    plan = make_plan(config, data)
    distributed.current().agree("privacy plan", lambda: plan.fingerprint() if plan else "none")
    return plan


def _digest(source: Path) -> str:
    """Return one digest of what a dataset says of its cases."""
    return provenance.data_digest([source / MANIFEST_NAME, source / INFO_NAME], source)


def _refuse_other_data(run: Run, source: Path) -> None:
    known = (run.read_json(f"private/{DATA_NAME}") or {}).get("digest")
    if known not in (None, _digest(source)):
        fix = "give the dataset the run was started with, or start a new run"
        raise DataError(expected("the cases the run was started with", got="others", where=MANIFEST_NAME, fix=fix))


def _network(config: TrainConfig, data: Manifest, plan: Plan | None) -> nn.Module:
    """Return the network that a run begins with; refuse one that cannot be built or trained with the plan."""
    with torch.random.fork_rng():
        network, _ = setup.model(config, data.info, objective(data.info, config))
    if plan is not None:
        freeze.apply(network, freeze.never_trained(network, config))
        trained_layers(network, config.functional)
    return network


def _train(config: TrainConfig, data: Manifest, run: Run, plan: Plan | None, progress: Progress, *, resumed: bool) -> TrainResult:
    world = distributed.current()
    with run.lock() if world.main else nullcontext():
        digest = _digest(data.root)
        fitted = loop.fit(config, data, run, plan=plan, progress=progress, resume=resumed, data_digest=digest)
        network = world.shared(lambda: _release(config, data, run, fitted))
    return _result(config, data, run.root, network, fitted, plan)


def _release(config: TrainConfig, data: Manifest, run: Run, fitted: FitResult) -> int:
    """Write the bundle and return the number of parameters."""
    model, learned, info = load_model(run)
    size = learned.patch_size or learned.image_size or info.size
    arguments: dict[str, Any] = {
        "name": learned.model,
        "spatial_dims": info.spatial_dims,
        "in_channels": info.channels,
        "out_channels": objective(info, learned).out_channels,
        **learned.model_options,
    }
    card = _short_card(data, run, fitted)
    onnx = "onnx" in config.export
    if "bundle" in config.export or onnx:
        bundle.write_bundle(
            run.release / "bundle", model, info, network=arguments, size=tuple(size), card=card,
            patches=bool(learned.patch_size), onnx=onnx,
        )  # fmt: skip
    return sum(value.numel() for value in model.parameters())


def _short_card(data: Manifest, run: Run, fitted: FitResult) -> str:
    info, privacy = data.info, run.read_json("privacy.json") or {}
    return (
        f"# {info.name}: {info.task}\n\nLabels: {', '.join(info.labels)}.\n\n"
        f"Trained by meninx for {fitted.steps} steps.\n\nPrivacy: {privacy.get('sentence', 'not stated.')}\n\n"
        "`meninx report --card` writes the full model card. Research only; not a medical device.\n"
    )


def _result(config: TrainConfig, data: Manifest, out: Path, parameters: int, fitted: FitResult, plan: Plan | None) -> TrainResult:
    training = data.split("train")
    metric = f"{fitted.metric_name} {fitted.metric:.4f}" if fitted.metric_name else ""
    privacy = plan.spent(fitted.steps).summary() if plan else NO_PRIVACY
    return TrainResult(
        out=out, model=config.model, parameters=parameters, train_cases=len(training), train_patients=len(training.patients),
        steps=fitted.steps, validation=metric, privacy=privacy,
    )  # fmt: skip


def _preview(config: TrainConfig, data: Manifest, out: Path, network: nn.Module, plan: Plan | None) -> TrainResult:
    """Return what a run would be: plan, counts and parameters."""
    training = data.split("train")
    per_epoch = max(1, -(-len(training) // config.batch_size))
    privacy = plan.spent().summary() if plan else NO_PRIVACY
    return TrainResult(
        out=out, model=config.model, parameters=sum(value.numel() for value in network.parameters()), dry_run=True,
        train_cases=len(training), train_patients=len(training.patients),
        steps=plan.steps if plan else config.steps or config.epochs * per_epoch, privacy=privacy,
    )  # fmt: skip
