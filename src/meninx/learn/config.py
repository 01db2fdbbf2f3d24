"""Settings of learning, in tables: a part of the trainer receives the table that it needs.

>>> config = LearnConfig.of(model="resnet9", lr=1e-3, augment=("flip", "shift"))
>>> config.optim.lr, config.augment.transforms
(0.001, ('flip', 'shift'))
>>> config.replace(lr=0.1).optim == OptimConfig(lr=0.1)
True
"""

# No postponed annotations here: subclasses in other modules are read by their types.

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from meninx.core import machine, settings
from meninx.core.errors import ConfigError, expected, problem
from meninx.core.setting_types import (
    Count,
    CountOrZero,
    Device,
    NonNegative,
    OpenShare,
    Positive,
    PositiveShare,
    Share,
    ShareBelowOne,
)
from meninx.core.settings import Settings, flat

OptimizerName = Literal["sgd", "momentum", "adam", "adamw", "nadam"]
ScheduleName = Literal["constant", "cosine", "plateau", "step", "manual"]
LossName = Literal["auto", "ce", "bce", "focal", "dice", "dice+ce", "dice+bce"]
TransformName = Literal["flip", "vflip", "zflip", "shift", "rotate", "crop", "intensity"]
Selection = Literal["auto", "last", "best"]
Method = Literal["shuffle", "poisson"]
Correction = Literal["auto", "on", "off"]
Precision = Literal["fp32", "bf16", "fp16"]
MemoryFormat = Literal["auto", "contiguous", "channels_last"]
Balance = Literal["none", "balanced"]
AUTO_MODEL = "auto"


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """The network, the size of its images, and the weights that it starts from.

    Attributes:
        name: name of the network (`resnet9`, `unet`, `monai:SegResNet`, ...); `auto` takes `unet` for
            segmentation and `resnet9` for other tasks.
        options: further arguments of the network: `options = { base = 16 }` in a recipe,
            `--model-options.base 16` as a flag.
        image_size: spatial size to which smaller images are padded; empty when all images share one size.
        patch_size: spatial size of random training patches (segmentation); prediction then uses a sliding
            window of this size.
        pretrained: file of weights to start from (`.pt`, `.pth`, `.safetensors`), in the names of the
            network, torchvision, timm or MONAI, or `package:NAME` for the file of an installed package; empty
            starts from random weights. Nothing is downloaded.
        pretrained_source: what the pretrained weights were trained on; recorded in privacy.json.
        standardize: prepared public dataset whose training images standardise the features of the pretrained
            network (mean 0, deviation 1 of what the head receives). They are written into its last norm
            layer. Empty leaves the features as they are. Images of another size are resized.
        keep_head: also load the last layer of the pretrained weights.
        freeze: `none`, `features` (trains the head only: a linear probe), `bitfit` (trains biases, norm
            layers and the head) or the prefix of the parameters to freeze.
        unfreeze_every: epochs after which one more frozen block is trained, from the last to the first; 0 for
            never.
        lora_rank: rank of low-rank adapters beside the frozen linear and convolution layers, trained with the
            head (and, with `freeze = "bitfit"`, biases and norm layers), merged before release; needs
            pretrained weights; 0 for none.
        lora_alpha: the output of the adapters is scaled by lora_alpha / lora_rank.
        functional: paths of modules that have no rule for private gradients and are run image by image; slow
            and exact.
    """

    name: str = field(default=AUTO_MODEL, metadata=flat("model"))
    options: dict[str, Any] = field(default_factory=dict, metadata=flat("model_options"))
    image_size: tuple[Count, ...] = ()
    patch_size: tuple[Count, ...] = ()
    pretrained: str = ""
    pretrained_source: str = ""
    standardize: str = ""
    keep_head: bool = False
    freeze: str = "none"
    unfreeze_every: CountOrZero = 0
    lora_rank: CountOrZero = 0
    lora_alpha: Positive = 8.0
    functional: tuple[str, ...] = ()

    def check_rules(self) -> None:
        """Refuse options that give true or false as text, and adapters without anything to adapt."""
        for name, value in self.options.items():
            _refuse_text_for_truth(name, value)
        if self.standardize and not self.pretrained:
            fix = "give pretrained (a state dict of this network), or leave standardize out"
            raise ConfigError(
                problem("there are no pretrained features to standardise", where="standardize", fix=fix)
            )
        if not self.lora_rank:
            return
        if not self.pretrained:
            fix = "give pretrained (a state dict of this network), or lora_rank = 0"
            raise ConfigError(
                problem("low-rank adapters need pretrained weights", where="lora_rank", fix=fix)
            )
        if self.freeze not in ("none", "features", "bitfit") or self.unfreeze_every:
            fix = "keep freeze at none, or use bitfit to train biases and norms as well"
            what = "low-rank adapters need freeze none, features or bitfit, and no unfreeze_every"
            raise ConfigError(problem(what, where="lora_rank", fix=fix))


@dataclass(frozen=True, kw_only=True)
class TaskConfig(Settings):
    """What is minimised.

    Attributes:
        kind: `auto` is the task of the dataset; any other name is a task of an installed package.
        loss: loss function; `auto` chooses ce, bce or dice+ce by the task.
        focal_gamma: exponent of the focal loss.
        class_weights: `none`, public numbers (one per label; for softmax segmentation background first), or
            `balanced` (computed from the training labels; refused under DP).
        label_smoothing: share of each target given to the other classes.
    """

    kind: str = field(default="auto", metadata=flat("task_kind"))
    loss: LossName = "auto"
    focal_gamma: NonNegative = 2.0
    class_weights: Balance | tuple[Positive, ...] = "none"
    label_smoothing: ShareBelowOne = 0.0


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Settings):
    """How the weights move.

    Attributes:
        optimizer: the optimiser; `momentum` is SGD with Nesterov momentum.
        lr: learning rate.
        head_lr: factor of the learning rate for the last layer.
        bias_correction: subtract the variance of the privacy noise from the second moment of adam, adamw and
            nadam, which otherwise behave like SGD: `auto` (in private runs), `on` (refused if there is
            nothing to correct) or `off`.
        bias_floor: lower bound of the corrected second moment, as a multiple of the variance that the noise
            leaves in the step's numerator (for adam 0.053 of the noise's own); larger values are more
            cautious.
        weight_decay: L2 penalty (decoupled for adamw).
        momentum: momentum of the optimiser `momentum`.
        schedule: learning rate over time.
        milestones: epochs at which `step` multiplies by gamma and `manual` changes to the next rate.
        rates: learning rates of `manual`, one more than milestones.
        gamma: factor of `step` and `plateau`.
        plateau_patience: evaluations without improvement before `plateau` lowers the rate.
        warmup: steps over which the rate rises linearly from 0.
        ema: decay of the averaged evaluation weights; 0 switches them off.
    """

    optimizer: OptimizerName = "adam"
    lr: Positive = 1e-3
    head_lr: Positive = 1.0
    bias_correction: Correction = "auto"
    bias_floor: Positive = 1.0
    weight_decay: NonNegative = 0.0
    momentum: ShareBelowOne = 0.9
    schedule: ScheduleName = "constant"
    milestones: tuple[int, ...] = ()
    rates: tuple[Positive, ...] = ()
    gamma: OpenShare = 0.1
    plateau_patience: CountOrZero = 5
    warmup: CountOrZero = 0
    ema: ShareBelowOne = 0.0

    def check_rules(self) -> None:
        """Refuse milestones and rates that do not make a schedule."""
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ConfigError(expected("rising epochs", got=self.milestones, where="milestones"))
        if self.schedule in ("step", "manual") and not self.milestones:
            what = f"the {self.schedule} schedule needs milestones"
            raise ConfigError(problem(what, where="milestones"))
        if self.schedule == "manual" and len(self.rates) != len(self.milestones) + 1:
            got = f"{len(self.rates)} rates"
            raise ConfigError(expected("one rate more than milestones", got=got, where="rates"))


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Settings):
    """Random changes of the training images.

    Attributes:
        transforms: any of `flip` (left-right), `vflip`, `zflip` (3-D), `shift`, `rotate`, `crop` (zoom),
            `intensity`.
        flip_probability: probability of each flip.
        shift_voxels: largest translation along each axis.
        rotate_degrees: largest rotation in the image plane.
        crop_scale: smallest share of each axis that `crop` keeps.
        intensity_strength: largest change of gain and offset, in units of the normalised intensity.
    """

    transforms: tuple[TransformName, ...] = field(default=(), metadata=flat("augment"))
    flip_probability: Share = 0.5
    shift_voxels: CountOrZero = 4
    rotate_degrees: NonNegative = 10.0
    crop_scale: PositiveShare = 0.8
    intensity_strength: NonNegative = 0.1


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Settings):
    """Which cases take part in a step, and how many steps there are.

    Attributes:
        method: `shuffle` or `poisson` for training without DP; with DP always Poisson.
        batch_size: cases per step; in a private run the expected number of privacy units (patients) per step.
        physical_batch: images in memory at once; affects speed, not the meaning of the result.
        epochs: passes over the training split; in a private run expected passes over the units.
        steps: optimiser steps; 0 derives them from the epochs.
        cases_per_patient: largest number of cases of a patient in one step, if patients are the unit; 0 uses
            all.
        views: augmented copies of each case in a step, averaged (under DP before clipping).
        foreground: share of training patches centred on a labelled voxel; patches are uniform under DP.
    """

    method: Method = field(default="shuffle", metadata=flat("sampling"))
    batch_size: Count = 32
    physical_batch: Count = 32
    epochs: Count = 10
    steps: CountOrZero = 0
    cases_per_patient: CountOrZero = 0
    views: Count = 1
    foreground: Share = 0.5


@dataclass(frozen=True, kw_only=True)
class ValidationConfig(Settings):
    """When the model is measured on validation cases, and what follows from it.

    Attributes:
        eval_every: steps between evaluations and checkpoints; 0 means once per epoch.
        monitor: quantity of the validation split for early stopping and `best`: `metric` (AUROC or Dice) or
            `loss`.
        select: weights to keep: `best` on validation, `last`, or `auto` (best without DP, last with DP).
        early_stopping: evaluations without improvement before training stops; 0 never stops early.
    """

    eval_every: CountOrZero = 0
    monitor: Literal["metric", "loss"] = "metric"
    select: Selection = "auto"
    early_stopping: CountOrZero = 0


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig(Settings):
    """The machine, the seed and what is written beside the model.

    Attributes:
        seed: seed of initialisation, order and augmentation; never of randomness that protects privacy.
        device: where the network runs; `auto` takes CUDA, then MPS, then the CPU.
        precision: `fp32`, or products in 16 bits (weights stay float32): faster on hardware that supports
            them; repeatable on the same machine only. `bf16` is bfloat16; under DP its rounding is charged to
            max_grad_norm. `fp16` is float16 with a scaled loss, for GPUs without bfloat16; steps that
            overflow are skipped and counted. It is refused under DP. Evaluation is in float32.
        memory_format: memory layout of 2-D images and weights, which affects speed and rounding: `auto` is
            channels_last for supervised training on a GPU, and contiguous otherwise.
        deterministic: repeatable bit for bit, including the privacy noise; stamps the run NOT FOR RELEASE.
        threads: number of torch threads; 0 keeps torch's default.
        workers: threads that prepare the next batches during a step; affects speed, not the result. `auto` is
            none on the CPU, and beside a GPU the number of processors minus one, at most 8.
        cache: decoded images on disk, in `private/` of the dataset, for runs that read them more than once:
            `auto` (up to half of the free disk space), `off` (none; an existing cache is removed) or a limit,
            e.g. `20 GB`.
        attack_risk: compute bounds on what any attack can gain at the end of a private run; takes some
            seconds.
        tensorboard: write TensorBoard events into private/tensorboard.
    """

    seed: CountOrZero = 0
    device: Device = "auto"
    precision: Precision = "fp32"
    memory_format: MemoryFormat = "auto"
    deterministic: bool = False
    threads: CountOrZero = 0
    workers: Literal["auto"] | CountOrZero = "auto"
    cache: str = "auto"
    attack_risk: bool = True
    tensorboard: bool = False

    def check_rules(self) -> None:
        """Refuse a cache setting that is not a size."""
        if self.cache not in ("auto", "off") and not machine.byte_size(self.cache):
            raise ConfigError(
                expected("auto, off or a size such as 20 GB", got=repr(self.cache), where="cache")
            )


@dataclass(frozen=True, kw_only=True)
class LearnConfig(Settings):
    """How to train one model."""

    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def learn_part(config: LearnConfig) -> LearnConfig:
    """Return only the learning settings of a config that may be a subclass with more tables."""
    return LearnConfig(**{item.name: getattr(config, item.name) for item in fields(LearnConfig)})


def from_toml_table(table: Mapping[str, Any], where: str) -> LearnConfig:
    """Return the config in a table, in the current or the flat layout; keys of other stages are ignored."""
    known = {*settings.tables(LearnConfig), *settings.index(LearnConfig)}
    return settings.build(LearnConfig, {key: value for key, value in table.items() if key in known}, where)


def _refuse_text_for_truth(name: str, value: Any) -> None:
    """Refuse a network option that gives true or false as text, because any text counts as true."""
    if isinstance(value, str) and value.lower() in ("true", "false"):
        fix = (
            "write it without quotes; in the config.toml of an earlier version the text 'False' acted as true"
        )
        raise ConfigError(expected("true or false", got="text", where=f"model_options.{name}", fix=fix))
