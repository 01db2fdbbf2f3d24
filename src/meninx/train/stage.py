"""The training stage: makes a run folder with a released model from a prepared dataset."""

from __future__ import annotations

import copy
import math
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from meninx.core import artifacts, plain, settings
from meninx.core import run as runs
from meninx.core.artifacts import Ancestry, PrivacyRecord, RunRecord, StartRecord
from meninx.core.budget import PrivacySpent
from meninx.core.manifest import EMPTY_SPLITS, Manifest
from meninx.core.progress import SILENT, Progress
from meninx.core.result import Result
from meninx.core.run import Run
from meninx.learn import assemble, distributed, finetune, ledger_file, record, runtime
from meninx.learn.distributed import World
from meninx.learn.fitting import fit
from meninx.learn.inference import load_model
from meninx.learn.record import FitResult
from meninx.learn.task import with_network
from meninx.models import registry
from meninx.privacy import accounting
from meninx.privacy.composition import joint_phases
from meninx.privacy.plan import Plan
from meninx.train import creation, effect, identity, release
from meninx.train.config import TrainConfig
from meninx.train.identity import dataset_folder as dataset_folder  # the public name of the stage
from meninx.train.lineage import Start
from meninx.train.resume import (
    bound_inputs,
    opened,
    own_inputs,
    recorded_start,
    refuse_changed_release,
    refuse_changed_run,
)

NO_PRIVACY = "none: trained without differential privacy"


@dataclass(frozen=True, kw_only=True)
class TrainResult(Result):
    """Result of a training run.

    Attributes:
        model: name of the network.
        parameters: number of its parameters.
        train_cases: cases of the training split.
        train_patients: patients of the training split, or its images where the source names no patients.
        patients_known: the source names its patients.
        obfuscated: how the images were changed to hide an attribute; empty if they were not.
        steps: optimiser steps done (planned, of a dry run).
        metric: name of the validation metric; empty without one.
        validation: its value at the end; None without one. Private, never released.
        privacy: privacy cost, read from the ledger (planned, for a dry run); with starting weights of
            private runs on the same patients, their cost included. None without privacy.
        own_epsilon: epsilon of the run's own steps; None without privacy.
        start: record of what the network started from.
        dry_run: nothing was written.
        closed: the run was already finished, so nothing was changed.
        empty_splits: splits without cases, of valid and test.
    """

    model: str
    parameters: int
    train_cases: int
    train_patients: int
    steps: int
    metric: str = ""
    validation: float | None = None
    privacy: PrivacySpent | None = None
    own_epsilon: float | None = None
    start: StartRecord | None = None
    patients_known: bool = True
    obfuscated: str = ""
    dry_run: bool = False
    closed: bool = False
    empty_splits: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return the result in a few lines of text."""
        lines = [
            f"out: {self.out}",
            f"model: {self.model}, {self.parameters} parameters",
            f"training split: {self._counted()}",
            f"steps: {self.steps}",
            "privacy: "
            + (self.privacy.summary(patients_known=self.patients_known) if self.privacy else NO_PRIVACY),
        ]
        if self.metric and self.validation is not None:
            lines.insert(4, f"validation: {self.metric} {self.validation:.4f}")
        if self.start is not None and self.start.composed and self.own_epsilon is not None:
            lines.append(
                f"of it own steps: epsilon = {self.own_epsilon:.3g}; the rest was spent on the "
                "starting weights"
            )
        if self.obfuscated:
            lines.append(f"trained on {self.obfuscated}")
        if self.start is not None and self.start.file:
            lines.append(f"start: {self.start.file}, {self._start_words(self.start)}")
            lines.append(f"taken over: {self.start.taken_over()}")
        lines += [f"note: {text}" for text in self.alerts()]
        if self.dry_run:
            lines.append("dry run: nothing was written")
        if self.closed:
            lines.append("this run was finished before: nothing was changed")
        return "\n".join(lines)

    def alerts(self) -> tuple[str, ...]:
        """Return warnings about splits without cases."""
        return tuple(EMPTY_SPLITS[name] for name in self.empty_splits)

    def _counted(self) -> str:
        if not self.patients_known:
            return f"{self.train_cases} images, whose patients are not known"
        return f"{self.train_cases} cases, {self.train_patients} patients"

    @staticmethod
    def _start_words(start: StartRecord) -> str:
        if start.origin != "run":
            return "of unknown origin: what it holds of the patients is not counted"
        patients = (
            "trained on some of the same patients" if start.shared_patients else "trained on other patients"
        )
        return f"from run {start.run[:8]}, {patients}"


def run(
    config: TrainConfig,
    source: Path,
    out: Path,
    *,
    progress: Progress = SILENT,
    resume: Path | None = None,
    dry_run: bool = False,
    recipe: str | None = None,
    network: nn.Module | None = None,
) -> TrainResult:
    """Train one model and put it into ``release/`` of a run folder.

    Processes started by torchrun share the work of one run and all return its result; the folders need
    to be visible only to process 0, the dataset to all. A finished run is closed: resuming it changes
    nothing.

    Args:
        config: the settings; replaced by those of the run when resuming.
        source: prepared dataset.
        out: folder of runs.
        progress: shows steps, loss and epsilon.
        resume: a run folder to continue, or None for a new one.
        dry_run: only check, calibrate and count; write nothing.
        recipe: name of the recipe, used to name the run.
        network: network to train instead of the config's, from its current weights; it is trained in place.
            A resumed run needs it again.

    Raises:
        UsageError, PrivacyRefusal: the run to resume is finished and something of it was changed, or an older
            version made it.
        ConfigError, DataError, PrivacyRefusal, RunLocked, Interrupted: see ``meninx.learn.fitting.fit``.
    """
    with distributed.joined() as world:
        data = Manifest.read(source)
        world.agree("dataset", lambda: identity.data_record(source).digest)
        if resume is not None:
            root, table, found = world.shared(lambda: _reopened(resume, source, network))
            if found:
                return plain.from_plain(found, TrainResult, where="the finished run")
            config = settings.build(TrainConfig, table, "config.toml")
            plan = creation.agreed_plan(config, data, world)
            return _train(config, data, Run(Path(root)), plan, progress, world, resumed=True, network=network)
        config = named(config, recipe)
        if network is not None:
            config = config.replace(model=registry.own_name(network))
        config = with_network(config, data.info)
        world.agree("settings", lambda: settings.to_toml(config))
        plan, start = creation.checked(config, data, out, world, network)
        begun = creation.first_network(config, data, plan, network)  # all checks come before a folder is made
        if dry_run:
            return _preview(config, data, out, begun, plan, start, world, given=network is not None)
        config = effect.resolved(config, data, plan)
        for name in data.empty_splits:  # before a long training; the result repeats it
            progress.note(f"warning: {EMPTY_SPLITS[name]}")
        with creation.leaving_no_trace(out, world):
            folder = Run(Path(world.shared(lambda: creation.created(config, data, out, start))))
            with creation.discarded_on_failure(folder, world):
                return _train(config, data, folder, plan, progress, world, resumed=False, network=network)


def named(config: TrainConfig, recipe: str | None) -> TrainConfig:
    """Return the config with the recipe's name, unless it has its own."""
    return config.replace(name=Path(recipe).stem) if recipe and config.name == TrainConfig.name else config


def stored_config(run: Run) -> TrainConfig:
    """Return the settings that a run was started with.

    Raises:
        ConfigError: its config.toml is not valid any more.
    """
    return settings.resolve_recipe(TrainConfig, str(run.config_path))


def _preview(
    config: TrainConfig,
    data: Manifest,
    out: Path,
    network: nn.Module,
    plan: Plan | None,
    start: Start,
    world: World,
    *,
    given: bool,
) -> TrainResult:
    """Return the result of a dry run: plan, counts and parameters.

    Everything that the run itself would refuse before its first step is refused.
    """
    with tempfile.TemporaryDirectory() as place, runtime.prepared(config.runtime, world) as device:
        trial = runs.create(Path(place), "trial", config_toml="", deterministic=config.runtime.deterministic)
        training = assemble.from_config(
            config,
            data,
            trial,
            plan,
            device=device,
            ancestry=start.ancestry,
            network=network if given else None,
        )
        assemble.probe(training)
    split = data.split("train")
    privacy = plan.spent() if plan else None
    own = privacy.epsilon if privacy else None
    earlier = finetune.ledgers(start.ancestry) if start.ancestry else ()
    if plan is not None and privacy is not None and earlier:
        cost = accounting.epsilon([plan.phase(), *joint_phases(earlier)], plan.delta)
        privacy = replace(privacy, epsilon=cost.value, accountant=cost.accountant)
    return TrainResult(
        out=out, model=config.model.name, parameters=sum(value.numel() for value in network.parameters()),
        dry_run=True, train_cases=len(split), train_patients=len(split.patients),
        patients_known=data.info.patients_known, obfuscated=data.info.obfuscated,
        steps=effect.total_steps(config.sampling, data, plan),
        privacy=privacy, own_epsilon=own, start=training.start,
        empty_splits=data.empty_splits,
    )  # fmt: skip


# continuing a run


def _reopened(
    path: Path, source: Path, network: nn.Module | None
) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    """Return the path of a run folder to continue, its settings, and its result if it is finished."""
    folder, released = opened(path)
    table = settings.to_table(stored_config(folder))
    if not released:
        own_inputs(folder, source)
        return str(folder.root), table, None
    with folder.lock():
        refuse_changed_release(folder, source)
        return str(folder.root), table, plain.to_plain(closed(folder, Manifest.read(source), network))


def closed(folder: Run, data: Manifest, network: nn.Module | None) -> TrainResult:
    """Return the result of a finished run, read from its folder."""
    model, learned, _ = load_model(folder, network=copy.deepcopy(network))
    known, split = artifacts.require(folder.root, RunRecord, fix="start a new run"), data.split("train")
    written = artifacts.require(folder.root, PrivacyRecord, fix="start a new run")
    ledger = ledger_file.read(folder)
    earlier = finetune.ledgers(artifacts.read(folder.root, Ancestry) or Ancestry())
    private = known.private and math.isfinite(ledger.epsilon(written.delta))
    return TrainResult(
        out=folder.root, model=learned.model.name, closed=True,
        parameters=sum(value.numel() for value in model.parameters()),
        train_cases=len(split), train_patients=len(split.patients),
        patients_known=data.info.patients_known, obfuscated=data.info.obfuscated, steps=known.step,
        privacy=record.total(ledger, earlier, written.delta) if private else None,
        own_epsilon=ledger.epsilon(written.delta) if private else None, start=written.start,
    )  # fmt: skip


# the run


def _train(
    config: TrainConfig,
    data: Manifest,
    run: Run,
    plan: Plan | None,
    progress: Progress,
    world: World,
    *,
    resumed: bool,
    network: nn.Module | None,
) -> TrainResult:
    declared = config.privacy.units_declared if config.privacy else None
    with run.lock() if world.main else nullcontext():
        ancestry = recorded_start(config, run) if world.main else None
        if resumed:
            world.shared(lambda: refuse_changed_run(run, plan))
        fitted = fit(
            config, data, run, world=world, plan=plan, progress=progress, resume=resumed,
            data_digest=world.shared(lambda: bound_inputs(data, run)), ancestry=ancestry,
            declared_units=declared, network=network,
        )  # fmt: skip
        parameters = world.shared(lambda: release.publish(config, run, network=network))
    return result_of(config, data, run.root, parameters, fitted)


def result_of(
    config: TrainConfig, data: Manifest, out: Path, parameters: int, fitted: FitResult
) -> TrainResult:
    """Return the result of a run that was just trained and published."""
    training = data.split("train")
    return TrainResult(
        out=out, model=config.model.name, parameters=parameters, train_cases=len(training),
        train_patients=len(training.patients), patients_known=data.info.patients_known,
        obfuscated=data.info.obfuscated,
        steps=fitted.steps, metric=fitted.metric_name,
        validation=fitted.metric if fitted.metric_name else None,
        privacy=fitted.privacy, own_epsilon=fitted.own_epsilon, start=fitted.start,
        empty_splits=data.empty_splits,
    )  # fmt: skip
