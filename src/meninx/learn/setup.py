"""Putting a run together from its config: data, model, objective, optimiser, draw and step."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from meninx.core.artifacts import Ancestry, StartRecord
from meninx.core.budget import VALIDATION_CASES
from meninx.core.errors import ConfigError, DataError, PrivacyRefusal, expected
from meninx.core.manifest import DatasetInfo, Manifest, Task
from meninx.core.run import Run
from meninx.learn import freeze, ledger_file, optim, pretrained, surroundings
from meninx.learn.augment import augmenter
from meninx.learn.batches import Assembler
from meninx.learn.config import LearnConfig
from meninx.learn.data import CaseStore, split_store
from meninx.learn.draw import Draw, public_draw
from meninx.learn.ema import Average
from meninx.learn.optim import Schedule
from meninx.learn.private_step import private_parts
from meninx.learn.steps import PlainStep, Step
from meninx.learn.task import Objective, objective
from meninx.learn.trainee import Trainee
from meninx.models import lora, registry
from meninx.privacy.clipping import clipped_gradient_sum, dropout, prove
from meninx.privacy.plan import Plan

_ROUNDING = (
    1e-3  # of float32 gradients in batches of other sizes; a mask of another image changes them wholly
)


@dataclass
class Training:
    """All that a run needs; what changes is in ``trainee``.

    Attributes:
        config: the settings.
        run: the run folder.
        info: meaning of the data.
        objective: loss and outputs.
        device: where tensors live.
        train: training cases.
        valid: validation cases; may be empty.
        draw: cases of a step.
        step: what a step does.
        total_steps: planned steps.
        trainee: what training changes.
        plan: the privacy plan, or None.
        start: what pretrained weights gave, or None.
        outside: what the guarantee does not cover, in words.
        ancestry: what is known of the training behind pretrained weights.
        declared_units: number of privacy units that the user declared; None when the true one counts as
            public.
    """

    config: LearnConfig
    run: Run
    info: DatasetInfo
    objective: Objective
    device: torch.device
    train: CaseStore
    valid: CaseStore
    draw: Draw
    step: Step
    total_steps: int
    trainee: Trainee
    plan: Plan | None
    start: StartRecord | None
    outside: list[str] = field(default_factory=list)
    ancestry: Ancestry = field(default_factory=Ancestry)
    declared_units: int | None = None

    @property
    def fingerprint(self) -> str:
        """Name of the privacy plan; empty without privacy."""
        return self.plan.fingerprint() if self.plan else ""

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.trainee.step // self.draw.steps_per_epoch

    @property
    def eval_every(self) -> int:
        """Steps between evaluations."""
        return self.config.eval_every or self.draw.steps_per_epoch

    @property
    def selects_best(self) -> bool:
        """Whether the weights kept are those of the best evaluation."""
        wanted = self.config.select == "best" or (self.config.select == "auto" and self.plan is None)
        return wanted and len(self.valid) > 0


def build(
    config: LearnConfig,
    data: Manifest,
    run: Run,
    device: torch.device,
    plan: Plan | None,
    *,
    resumed: bool,
    data_digest: str = "",
) -> Training:
    """Return a run ready for its first step.

    ``data_digest`` names the dataset in the ledger of a private one.

    Raises:
        ConfigError, DataError, PrivacyRefusal: settings, data and plan do not fit together.
    """
    _refuse_private_intensity(data.info, plan)
    train, valid = split_store(data, "train", config), split_store(data, "valid", config)
    if not len(train):
        raise DataError(expected("cases in the training split", got="none", where="manifest.csv"))
    if data.info.task is Task.SEGMENTATION and not any(case.mask for case in train.manifest.cases):
        fix = "prepare the dataset with masks"
        raise DataError(expected("training cases with masks", got="none", where="manifest.csv", fix=fix))
    if not len(valid) and (config.early_stopping or config.schedule == "plateau"):
        raise ConfigError(
            expected("validation cases for early stopping or plateau", got="none", where="manifest.csv")
        )
    goal = objective(data.info, config, weights=_balance(config, train, plan))
    network, start = model(config, data.info, goal)
    network.to(device)
    share = config.foreground if plan is None else 0.0
    assembler = Assembler(train, augmenter(config, data.info), config.views, share, config.seed, device)
    draw: Draw
    step: Step
    if plan is None:
        draw = public_draw(config, len(train))
        step = PlainStep(assembler, goal, config.physical_batch, precision=config.precision)
    else:
        freeze.apply(network, freeze.never_trained(network, config))
        _prove(network, goal, assembler, min(2, len(train)), config)
        draw, step = private_parts(
            config, run, plan, assembler, goal, resumed=resumed,
            bind=lambda stream: ledger_file.binding_of(config, data, network, plan, stream=stream, data_digest=data_digest),
        )  # fmt: skip
    total = plan.steps if plan else config.steps or config.epochs * draw.steps_per_epoch
    schedule = Schedule(config, total, draw.steps_per_epoch)
    average = Average(network, config.ema) if config.ema else None
    trainee = Trainee(
        network, optim.optimizer(config, optim.groups(config, network), plan), schedule, average
    )
    training = Training(
        config, run, data.info, goal, device, train, valid, draw, step, total, trainee, plan, start
    )
    training.outside.extend(_outside(training))
    return training


def _prove(
    network: nn.Module, goal: Objective, assembler: Assembler, cases: int, config: LearnConfig
) -> None:
    """Refuse a network whose gradients of single images are not what the engine takes them for.

    The images are noise.
    """
    batch = assembler(tuple((case,) for case in range(cases)), 0)
    images, targets, keys = torch.randn_like(batch.images[:2]), batch.targets[:2], batch.row_keys[:2]

    def summed(rows: slice) -> Tensor:
        """Return the sum of some images' gradients in training mode, in which the proof does not run a network."""
        units = torch.arange(len(keys[rows]))
        total = clipped_gradient_sum(
            network, goal.loss, images[rows], targets[rows], unit_index=units, n_units=len(units), max_grad_norm=1e9,
            functional=config.functional, row_keys=keys[rows],
        )  # fmt: skip
        return torch.cat([value.flatten() for value in total.gradients.values()])

    whole = summed(slice(None))
    most = min(max(config.physical_batch, config.views), len(assembler.store) * config.views)
    prove(network, goal.loss, images, targets, functional=config.functional, physical=most)
    alone = [summed(slice(row, row + 1)) for row in range(len(images))]
    if not float((whole - sum(alone)).norm()) <= _ROUNDING * sum(float(part.norm()) for part in alone):
        if any(dropout.active(module) for module in network.modules()):
            rule, where = "dropout masks of each image's own", "dropout layers"
            fix = (
                "keep the images of a batch along the first axis of what a dropout layer sees, or set "
                "its rate to 0"
            )
        else:
            rule, where = "gradients of each image's own in training mode", "the network"
            fix = "draw random numbers in nn.Dropout layers alone"
        raise PrivacyRefusal(
            expected(rule, got="others that depend on the other images", where=where, fix=fix)
        )


def model(config: LearnConfig, info: DatasetInfo, goal: Objective) -> tuple[nn.Module, StartRecord | None]:
    """Return a fresh network for a dataset: weights from the config's seed or the pretrained file, adapters if asked for."""
    surroundings.seed_torch(config.seed, "init")
    network = registry.build(
        config.model.name,
        spatial_dims=info.spatial_dims,
        in_channels=info.channels,
        out_channels=goal.out_channels,
        **config.model_options,
    )
    if not config.pretrained:
        return network, None
    path = Path(config.pretrained)
    start = pretrained.initialise(network, path, source=config.pretrained_source, keep_head=config.keep_head)
    if config.lora_rank:
        lora.insert(
            network, rank=config.lora_rank, alpha=config.lora_alpha, keep=registry.head_prefix(network)
        )
    freeze.frozen_names(network, config, 0)
    return network, start


def _refuse_private_intensity(info: DatasetInfo, plan: Plan | None) -> None:
    """Refuse statistics of the training images under privacy: one patient changes what all the others' images look like."""
    if plan is not None and info.intensity.source == "train":
        fix = "prepare the dataset with --intensity format, window or image"
        got = "one computed from the private training images"
        raise PrivacyRefusal(
            expected("a public intensity normalisation", got=got, where="dataset.toml: intensity", fix=fix)
        )


def _balance(config: LearnConfig, train: CaseStore, plan: Plan | None) -> tuple[float, ...]:
    """Return class weights computed from the training labels, when asked for; never under privacy."""
    if config.class_weights != "balanced":
        return ()
    if plan is not None:
        fix = "give public numbers, e.g. class_weights = [1.0, 3.0], or none"
        raise PrivacyRefusal(
            expected(
                "public class weights",
                got="balanced, computed from private labels",
                where="class_weights",
                fix=fix,
            )
        )
    task = train.info.task
    if task is Task.SEGMENTATION:
        fix = "give numbers, background first"
        raise ConfigError(
            expected("public class weights for segmentation", got="balanced", where="class_weights", fix=fix)
        )
    truth = train.targets.numpy()
    known = np.isfinite(truth).sum(0)
    positive = np.nansum(truth, 0)
    if task is Task.MULTILABEL:
        weights = (known - positive) / np.maximum(positive, 1)
    else:
        weights = len(train) / (len(train.info.labels) * np.maximum(positive, 1))
    return tuple(float(value) for value in np.maximum(weights, 1e-3))


def _outside(training: Training) -> list[str]:
    """Return what of a private run the guarantee does not cover."""
    config = training.config
    found: list[str] = []
    if training.plan is None:
        return found
    if not training.info.patients_known:
        found.append("the source names no patients: what is called a patient is a single image or lesion")
    if training.selects_best:
        found.append(f"the weights were selected by {config.monitor} on {VALIDATION_CASES}")
    if config.early_stopping:
        found.append(f"training may have stopped early because of {VALIDATION_CASES}")
    if config.schedule == "plateau":
        found.append(f"the learning rate followed {VALIDATION_CASES}")
    if config.deterministic:
        found.append(
            "noise and sampling came from the seed (--deterministic): no privacy against anyone who knows it"
        )
    return found
