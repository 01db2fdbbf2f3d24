"""From settings and a dataset to a trainer: network, task, sampler, loader, step, evaluator and hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from meninx.core import check, plain, plugins
from meninx.core.artifacts import Ancestry, FeatureStatistics, StartRecord
from meninx.core.errors import ConfigError, DataError, PrivacyRefusal, expected, in_words, problem
from meninx.core.manifest import DatasetInfo, Manifest, TaskKind
from meninx.core.progress import SILENT, Progress
from meninx.core.run import Run
from meninx.learn import (
    features,
    finetune,
    guarantee,
    inference,
    kernels,
    ledger_file,
    optim,
    pretrained,
    runtime,
)
from meninx.learn.augment import augmenter
from meninx.learn.batches import Assembler
from meninx.learn.checkpoint import CheckpointHook
from meninx.learn.config import LearnConfig, RuntimeConfig, SamplingConfig, TaskConfig, learn_part
from meninx.learn.data import CaseStore, split_store
from meninx.learn.distributed import World
from meninx.learn.dp_step import Keys, PrivateStep, prove_network
from meninx.learn.hooks import Hook, MetricsHook, ProgressHook, TensorBoardHook
from meninx.learn.loader import BatchLoader, worker_count
from meninx.learn.optim import Schedule
from meninx.learn.sampler import PrivateSampler, Sampler, public_sampler, unit_members, unit_names
from meninx.learn.state import MODEL, Player, TrainState, WeightAverage
from meninx.learn.step import Loader, Step, SupervisedStep
from meninx.learn.task import ImageTask, Task, image_task, with_network
from meninx.learn.trainer import Evaluator, Trainer
from meninx.learn.unit_sources import Source
from meninx.models import lora, registry
from meninx.privacy.clipping.precision import refuse_unbounded
from meninx.privacy.composition import joint_phases
from meninx.privacy.plan import Plan

OWN_WEIGHTS = "the weights that the caller's own network had"


@dataclass
class Training:
    """A run that is ready for its first step, and the facts that its record states.

    Attributes:
        config: the settings.
        run: the run folder.
        info: meaning of the data.
        task: loss and metrics.
        device: where tensors live.
        train: training cases.
        valid: validation cases; may be empty.
        loader: makes the batches of the training cases; closing it ends its threads.
        trainer: runs the steps.
        total_steps: planned steps.
        plan: the privacy plan, or None.
        start: record of the pretrained weights, or None.
        caveats: what the guarantee does not cover, in words.
        ancestry: known facts about the training behind pretrained weights.
        declared_units: number of privacy units that the user declared; None when the true one counts as
            public.
    """

    config: LearnConfig
    run: Run
    info: DatasetInfo
    task: Task
    device: torch.device
    train: CaseStore
    valid: CaseStore
    loader: BatchLoader
    trainer: Trainer
    total_steps: int
    plan: Plan | None
    start: StartRecord | None
    caveats: list[str] = field(default_factory=list)
    ancestry: Ancestry = field(default_factory=Ancestry)
    declared_units: int | None = None

    @property
    def state(self) -> TrainState:
        """The mutable state of the training."""
        return self.trainer.state

    @property
    def fingerprint(self) -> str:
        """Name of the privacy plan; empty without privacy."""
        return self.plan.fingerprint() if self.plan else ""

    @property
    def epoch(self) -> int:
        """Completed epochs."""
        return self.state.step // self.trainer.sampler.steps_per_epoch

    @property
    def selects_best(self) -> bool:
        """Whether the result of the run is the weights of the best evaluation."""
        wanted = self.config.validation.select == "best" or (
            self.config.validation.select == "auto" and self.plan is None
        )
        return wanted and len(self.valid) > 0


def from_config(
    config: LearnConfig,
    data: Manifest,
    run: Run,
    plan: Plan | None = None,
    *,
    device: torch.device | None = None,
    network: nn.Module | None = None,
    task: Task | None = None,
    hooks: Sequence[Hook] = (),
    sources: Sequence[Source] = (),
    progress: Progress = SILENT,
    resumed: bool = False,
    data_digest: str = "",
    ancestry: Ancestry | None = None,
    declared_units: int | None = None,
    world: World | None = None,
) -> Training:
    """Return a run ready for its first step.

    It writes metrics, checkpoints, keys and ledger into the run folder. :func:`.fitting.fit` also resumes,
    stops on Ctrl-C and writes ``privacy.json``.

    Args:
        config: settings; a subclass is reduced to its learning part.
        data: all cases; the training split is trained on, the validation split serves evaluation.
        run: the run folder.
        plan: the privacy plan of every step; None trains without privacy.
        device: where to compute; by default the config's.
        network: a network to train instead of the config's, starting from its current weights.
        task: loss and metrics instead of the dataset's.
        hooks: further listeners; called before those of the run folder.
        sources: further units of a private run, e.g. canaries.
        progress: shows steps, loss and epsilon.
        resumed: the run was started before.
        data_digest: names the dataset in the ledger of a private run; by default the plain digest.
        ancestry: known facts about the training behind pretrained weights; none by default.
        declared_units: number of privacy units declared; None when the true one counts as public.
        world: the processes that train together; by default this one alone.

    Raises:
        ConfigError, DataError, PrivacyRefusal: settings, data and plan do not fit together.
    """
    config, world = learn_part(config), world or World()
    config = config if network is not None else with_network(config, data.info)
    device, ancestry = device or runtime.device(config.runtime.device), ancestry or Ancestry()
    train, valid = _stores(config, data, plan)
    architecture = "" if network is None and task is None else f"{network}, {_name_of(task)}"
    task = task or _task(config, data.info, weights=_class_weights(config.task, train, plan))
    network, start = initial_network(
        config,
        data.info,
        network=network,
        statistics=_statistics(config, data, network, plan, ancestry, world),
    )
    network.to(device)
    if _memory_format(config.runtime, data.info, plan, device) is torch.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loader = _loader(config, train, plan, device)
    sampler: Sampler
    step: Step
    if plan is None:
        sampler = public_sampler(config.sampling, len(train), config.runtime.seed)
        step = _supervised_step(config, task, loader, sources, world)
    else:

        def bind(stream: str) -> str:
            return ledger_file.binding_of(
                config, data, network, plan, stream=stream, data_digest=data_digest, architecture=architecture
            )

        sampler, step = _private_parts(
            config, train, run, plan, task, loader, network, bind=bind, sources=sources, resumed=resumed,
            ancestry=ancestry, world=world, device=device,
        )  # fmt: skip
    trainer = Trainer(
        _state(config, network, plan, sampler.steps_per_epoch), sampler, step, world=world,
        eval_every=config.validation.eval_every, evaluator=_evaluator(config, valid, task, device),
        hooks=[*hooks, *(_hooks(config, data.info, run, plan, step, progress) if world.main else ())],
    )  # fmt: skip
    total_steps = plan.steps if plan else _public_steps(config.sampling, sampler)
    loader.follow(sampler, until=total_steps, world=world)
    training = Training(
        config, run, data.info, task, device, train, valid, loader, trainer, total_steps=total_steps,
        plan=plan, start=pretrained.known(start, ancestry) if start else None, ancestry=ancestry,
        declared_units=declared_units,
    )  # fmt: skip
    training.caveats.extend(
        guarantee.caveats(
            config, plan, data.info, ancestry if start else None, units=_units(train, plan),
            declared=declared_units is not None, validated=len(valid) > 0, selects_best=training.selects_best,
        )
    )  # fmt: skip
    return training


def _units(train: CaseStore, plan: Plan | None) -> int:
    """Return the number of privacy units of the training split; 0 without a plan."""
    return len(unit_members(train.manifest, plan.unit)) if plan is not None else 0


def _memory_format(
    config: RuntimeConfig, info: DatasetInfo, plan: Plan | None, device: torch.device
) -> torch.memory_format:
    """Return the memory layout of images and weights."""
    setting = config.memory_format
    chosen = runtime.memory_format(setting, device, dims=info.spatial_dims, private=plan is not None)
    return torch.channels_last if chosen == "channels_last" else torch.contiguous_format


def _task(config: LearnConfig, info: DatasetInfo, *, weights: tuple[float, ...]) -> Task:
    """Return the dataset's own task, or the task of an installed package that the settings name."""
    if config.task.kind == "auto":
        plugins.refuse_own(plugins.TASKS, "auto")
        return image_task(info, config.task, weights=weights)
    offered = plugins.names(plugins.TASKS)
    check.one_of(("auto", *offered), task_kind=config.task.kind)
    task: Task = plugins.load(plugins.TASKS, config.task.kind)(info, config.task)
    return task


def _loader(config: LearnConfig, train: CaseStore, plan: Plan | None, device: torch.device) -> BatchLoader:
    """Return the loader of the training cases."""
    # Under privacy patches are drawn uniformly: a share that follows the labels would have to be accounted.
    foreground = config.sampling.foreground if plan is None else 0.0
    transforms = augmenter(config.augment, train.info)
    return BatchLoader(
        Assembler(
            train,
            transforms,
            config.sampling.views,
            foreground,
            config.runtime.seed,
            device,
            memory_format=_memory_format(config.runtime, train.info, plan, device),
        ),
        workers=worker_count(config.runtime.workers, device),
    )


def _public_steps(config: SamplingConfig, sampler: Sampler) -> int:
    """Return the steps of a run without privacy."""
    return config.steps or config.epochs * sampler.steps_per_epoch


def _supervised_step(
    config: LearnConfig, task: Task, loader: Loader, sources: Sequence[Source], world: World
) -> SupervisedStep:
    """Return the step of a run without privacy, which has no slots for units beside the cases."""
    if sources:
        fix = "give a plan, or train on a dataset that holds them"
        raise ConfigError(problem("further units need a private run", where="sources", fix=fix))
    return SupervisedStep(
        task, loader, config.sampling.physical_batch, config.runtime.seed, world, config.runtime.precision
    )


def _stores(config: LearnConfig, data: Manifest, plan: Plan | None) -> tuple[CaseStore, CaseStore]:
    """Return the training and the validation cases; refuse data that do not fit the settings."""
    _refuse_private_intensity(data.info, plan)
    train, valid = split_store(data, "train", config.model), split_store(data, "valid", config.model)
    if not len(train):
        raise DataError(problem("the training split has no cases", where="manifest.csv"))
    if data.info.task is TaskKind.SEGMENTATION and not any(case.mask for case in train.manifest.cases):
        fix = "prepare the dataset with masks"
        raise DataError(problem("no training case has a mask", where="manifest.csv", fix=fix))
    if not len(valid) and (config.validation.early_stopping or config.optim.schedule == "plateau"):
        raise ConfigError(
            problem("early stopping and the plateau schedule need validation cases", where="manifest.csv")
        )
    return train, valid


def _private_parts(
    config: LearnConfig,
    train: CaseStore,
    run: Run,
    plan: Plan,
    task: Task,
    loader: Loader,
    network: nn.Module,
    *,
    device: torch.device,
    bind: Callable[[str], str],
    resumed: bool,
    world: World,
    sources: Sequence[Source] = (),
    ancestry: Ancestry | None = None,
) -> tuple[PrivateSampler, PrivateStep]:
    """Return the sampler and the step of a private run, with the secret keys that process 0 sends to all.

    The network is proved before the keys are created, so that a refusal leaves no keys behind. (A folder with
    keys but without a ledger is refused, because steps may have been taken in it.)

    Args:
        config: the settings.
        train: the training cases.
        run: the run folder.
        plan: the privacy plan.
        task: the loss.
        loader: makes tensors of cases.
        network: put into training mode; parameters that no step trains are frozen.
        device: where the network is.
        bind: from the name of the run's keys to the binding of its ledger lines
            (:func:`.ledger_file.binding_of`).
        resumed: the run was started before.
        world: the processes of the run.
        sources: further units.
        ancestry: known facts about the training behind pretrained weights.

    Raises:
        ConfigError: config and plan disagree on the views.
        PrivacyRefusal: the training split has more units than the plan declares, or the precision is fp16.
    """
    refuse_unbounded(config.runtime.precision)
    if plan.views != config.sampling.views:
        raise ConfigError(
            expected(f"views = {plan.views} as in the plan", got=config.sampling.views, where="views")
        )
    units = unit_members(train.manifest, plan.unit)
    if len(units) > plan.n_units_declared:
        fix = "declare the true number of units, or more"
        got = f"{len(units)} in the training split"
        raise PrivacyRefusal(
            expected(f"at most {plan.n_units_declared} units", got=got, where="plan", fix=fix)
        )
    finetune.apply(network, finetune.never_trained(network, config.model))
    prove_network(
        network, task, loader, physical_batch=config.sampling.physical_batch,
        functional=config.model.functional, cases=len(train),
    )  # fmt: skip
    seed = config.runtime.seed if config.runtime.deterministic else None
    keys = Keys.of(run, resumed=resumed, deterministic_seed=seed, world=world)
    sampler = PrivateSampler(
        plan.sampler(keys.sampling, len(units)), units, unit_names(train.manifest, plan.unit),
        plan.sample_rate, config.sampling.cases_per_patient, config.runtime.seed,
    )  # fmt: skip
    earlier = finetune.ledgers(ancestry) if ancestry else ()
    step = PrivateStep(
        plan, run, task, loader, keys, binding=bind(keys.stream),
        physical_batch=config.sampling.physical_batch,
        kernels=kernels.opened(device, deterministic=config.runtime.deterministic),
        precision=config.runtime.precision, functional=config.model.functional, sources=sources,
        earlier=joint_phases(earlier) if earlier else (), proved=True, world=world,
    )  # fmt: skip
    return sampler, step


def _state(config: LearnConfig, network: nn.Module, plan: Plan | None, steps_per_epoch: int) -> TrainState:
    """Return the state before the first step."""
    player = Player(
        network,
        optim.optimizer(config.optim, optim.groups(config.optim, network), plan),
        schedule=Schedule(config.optim, steps_per_epoch),
        average=WeightAverage(network, config.optim.ema) if config.optim.ema else None,
        freezing=finetune.Freezing(config.model, steps_per_epoch),
    )
    return TrainState({MODEL: player})


def _evaluator(config: LearnConfig, valid: CaseStore, task: Task, device: torch.device) -> Evaluator | None:
    """Return the evaluator of the averaged weights on the validation split; None without validation cases."""
    if not len(valid):
        return None

    def measure(state: TrainState) -> dict[str, float]:
        with state.player.averaged() as model:
            return inference.measure(model, valid, task, config, device)

    monitor = "loss" if config.validation.monitor == "loss" else task.metric
    return Evaluator(measure, monitor, config.validation.early_stopping)


def _hooks(
    config: LearnConfig, info: DatasetInfo, run: Run, plan: Plan | None, step: Step, progress: Progress
) -> list[Hook]:
    """Return the listeners of a run folder; the display comes last, because a user may interrupt it."""
    hooks: list[Hook] = [MetricsHook(run)]
    if config.runtime.tensorboard:
        hooks.append(TensorBoardHook(run))
    fingerprint = plan.fingerprint() if plan else ""

    def anchor() -> tuple[int, str]:
        return step.anchor if isinstance(step, PrivateStep) else (0, "")

    hooks.append(CheckpointHook(run, config, info, plan=fingerprint, anchor=anchor))
    return [*hooks, ProgressHook(progress, f"training {config.model.name}")]


def _name_of(task: Task | None) -> str:
    """Return a name of a task that is stable over processes: its fields if a dataclass, else its class."""
    if task is None or is_dataclass(task):
        return repr(task)
    return f"{type(task).__module__}.{type(task).__qualname__}"


@torch.no_grad()
def probe(training: Training) -> None:
    """Refuse a network that cannot be trained on the first training case.

    The model and torch's generators are left as they were.

    Raises:
        ConfigError: the network does not accept such images, or its outputs have the wrong shape for the
            task.
        DataError: the case cannot be read.
    """
    model, task = training.state.model, training.task
    sample = training.train.patch(0, np.random.default_rng(0), foreground=0.0)
    was_training = model.training
    model.eval()
    try:
        output = model(sample.image[None].to(training.device))
    except (RuntimeError, ValueError, IndexError) as error:
        got = f"images of shape {in_words(tuple(sample.image.shape))}"
        fix = "give image_size, patch_size or another model"
        raise ConfigError(
            expected("images that the network takes", got=got, where="model", fix=fix)
        ) from error
    finally:
        model.train(was_training)
    if not isinstance(task, ImageTask):
        return
    space = tuple(sample.target.shape) if task.kind is TaskKind.SEGMENTATION else ()
    if tuple(output.shape) != (1, task.out_channels, *space):
        got = f"outputs of shape {in_words(tuple(output.shape[1:]))}"
        fix = (
            "use a segmentation network, e.g. unet" if space else "use a classification network, e.g. resnet9"
        )
        raise ConfigError(expected(f"a network for {task.kind}", got=got, where="model", fix=fix))


def initial_network(
    config: LearnConfig,
    info: DatasetInfo,
    *,
    network: nn.Module | None = None,
    statistics: FeatureStatistics | None = None,
) -> tuple[nn.Module, StartRecord | None]:
    """Return the network that a run begins with, with any adapters, and its start: None for random weights.

    Args:
        config: the settings.
        info: channels, dimensions and labels of the dataset.
        network: a network to use instead of the config's, with its own weights.
        statistics: of a public dataset, by which the pretrained features are standardised.
    """
    network, start = _pretrained(config, info, network)
    if not config.model.pretrained or start is None:
        return network, start
    if statistics is not None:
        features.standardize(network, statistics, keep_head=config.model.keep_head)
        start = replace(
            start,
            standardized=statistics.dataset,
            standardized_sha256=statistics.digest,
            standardized_images=statistics.images,
        )
    if config.model.lora_rank:
        lora.insert(
            network,
            rank=config.model.lora_rank,
            alpha=config.model.lora_alpha,
            keep=registry.head_prefix(network),
        )
    finetune.frozen_names(network, config.model, 0)
    return network, start


def feature_statistics(
    config: LearnConfig, info: DatasetInfo, *, network: nn.Module | None = None
) -> FeatureStatistics:
    """Return the statistics that ``config.model.standardize`` requires, computed repeatably on one thread.

    Args:
        config: the settings.
        info: of the dataset to train on; its image size is that of the statistics.
        network: a network to use instead of the config's; it is not changed.

    Raises:
        ConfigError, DataError: see :func:`.features.public_statistics`.
    """
    public = Manifest.read(Path(config.model.standardize))
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        begun, _ = _pretrained(config, info, copy.deepcopy(network))
        torch.set_num_threads(1)
        try:
            return features.public_statistics(begun, public, size=config.model.image_size or info.size)
        finally:
            torch.set_num_threads(threads)


def _statistics(
    config: LearnConfig,
    data: Manifest,
    network: nn.Module | None,
    plan: Plan | None,
    ancestry: Ancestry,
    world: World,
) -> FeatureStatistics | None:
    """Return the recorded statistics in every process, or compute them if the run has no record."""
    if not config.model.standardize:
        return None

    def table() -> dict[str, Any]:
        if plan is not None:
            features.refuse_shared_people(Path(config.model.standardize), data, ancestry.features)
        found = ancestry.features or feature_statistics(config, data.info, network=network)
        return asdict(found)

    return plain.from_plain(world.shared(table), FeatureStatistics, where="the statistics of the features")


def _pretrained(
    config: LearnConfig, info: DatasetInfo, network: nn.Module | None
) -> tuple[nn.Module, StartRecord | None]:
    """Return the network with random or pretrained weights, before adapters or statistics are added."""
    runtime.seed_torch(config.runtime.seed, "init")
    own = network is not None
    if network is None:
        network = registry.build(
            config.model.name,
            spatial_dims=info.spatial_dims,
            in_channels=info.channels,
            out_channels=image_task(info, config.task).out_channels,
            **config.model.options,
        )
    if not config.model.pretrained:
        return network, StartRecord(source=OWN_WEIGHTS, origin="unknown") if own else None
    return network, pretrained.initialise(
        network, pretrained.path_of(config.model.pretrained), source=config.model.pretrained_source,
        package=pretrained.package_of(config.model.pretrained), keep_head=config.model.keep_head,
    )  # fmt: skip


def _refuse_private_intensity(info: DatasetInfo, plan: Plan | None) -> None:
    """Refuse statistics of the training images under privacy, because one patient would change all images."""
    if plan is not None and info.intensity.source == "train":
        fix = "prepare the dataset with --intensity format, window or image"
        got = "one computed from the private training images"
        raise PrivacyRefusal(
            expected("a public intensity normalisation", got=got, where="dataset.toml: intensity", fix=fix)
        )


def _class_weights(config: TaskConfig, train: CaseStore, plan: Plan | None) -> tuple[float, ...]:
    """Return class weights computed from the training labels if the config requires it.

    Under privacy they are refused: they depend on all labels, so one patient would change every gradient.
    """
    if config.class_weights != "balanced":
        return ()
    if plan is not None:
        fix = "give public numbers, one for each class, or none"
        raise PrivacyRefusal(
            problem(
                "class weights computed from private labels (balanced) are outside the guarantee",
                where="class_weights",
                fix=fix,
            )
        )
    kind = train.info.task
    if kind is TaskKind.SEGMENTATION:
        fix = "give numbers, background first"
        what = "balanced class weights are not available for segmentation"
        raise ConfigError(problem(what, where="class_weights", fix=fix))
    truth = train.targets.numpy()
    known = np.isfinite(truth).sum(0)
    positive = np.nansum(truth, 0)
    if kind is TaskKind.MULTILABEL:
        weights = (known - positive) / np.maximum(positive, 1)
    else:
        weights = len(train) / (len(train.info.labels) * np.maximum(positive, 1))
    return tuple(float(value) for value in np.maximum(weights, 1e-3))
