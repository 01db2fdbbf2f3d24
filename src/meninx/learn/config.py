"""What training is asked to do, as one frozen, torch-free object that the train stage extends."""

# No postponed annotations here: the command line reads these types of subclasses defined in other modules.

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from meninx.core import check, settings
from meninx.core.errors import ConfigError, expected

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "nadam")
SCHEDULES = ("constant", "cosine", "plateau", "step", "manual")
LOSSES = ("auto", "ce", "bce", "focal", "dice", "dice+ce", "dice+bce")
AUGMENTATIONS = ("flip", "vflip", "zflip", "shift", "rotate", "crop", "intensity")
SELECTIONS = ("auto", "last", "best")
SAMPLINGS = ("shuffle", "poisson")
CORRECTIONS = ("auto", "on", "off")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class LearnConfig:
    """How to train one model.

    Attributes:
        model: name of the network (`resnet9`, `unet`, `monai:SegResNet`, ...).
        model_options: further arguments of the network: `{ base = 16 }` in a recipe, `--model-options.base
            16` as a flag.
        image_size: spatial size to which smaller images are padded; empty when all images share one size.
        patch_size: spatial size of random training patches (segmentation); prediction then slides a window of
            it.
        foreground: share of training patches centred on a labelled voxel; patches are uniform under DP.
        epochs: passes over the training split; under DP the plan's steps count instead.
        steps: optimiser steps; 0 derives them from the epochs.
        batch_size: cases a step (without DP); under DP the plan's expected batch size counts.
        physical_batch: images in memory at once; changes speed, never the result's meaning.
        sampling: `shuffle` or `poisson` for training without DP; with DP always Poisson.
        optimizer: `sgd`, `momentum` (Nesterov), `adam`, `adamw` or `nadam`.
        lr: learning rate, > 0.
        head_lr: learning rate of the last layer over that of the others, > 0.
        bias_correction: take the variance of the privacy noise out of the second moment of adam, adamw and
            nadam, without which they behave like SGD: `auto` (whenever the run is private), `on` (refused
            where there is nothing to correct) or `off`.
        bias_floor: the corrected second moment is at least so many times the variance that the noise leaves
            in the step's numerator (for adam 0.053 of the noise's own), > 0; larger is more cautious.
        weight_decay: L2 penalty (decoupled for adamw), >= 0.
        momentum: of `momentum`, in [0, 1).
        schedule: learning rate over time: `constant`, `cosine`, `plateau`, `step` or `manual`.
        milestones: epochs at which `step` multiplies by gamma and `manual` goes to the next rate.
        rates: learning rates of `manual`, one more than milestones.
        gamma: factor of `step` and `plateau`, in (0, 1).
        plateau_patience: evaluations without progress before `plateau` lowers the rate.
        warmup: steps over which the rate rises linearly from 0.
        loss: `auto` (ce, bce or dice+ce by task), `ce`, `bce`, `focal`, `dice`, `dice+ce` or `dice+bce`.
        focal_gamma: exponent of the focal loss, >= 0.
        class_weights: `none`, public numbers (one a label; for softmax segmentation background first), or
            `balanced` (computed from the training labels; refused under DP).
        label_smoothing: share of each target given to the other classes, in [0, 1).
        augment: any of `flip` (left-right), `vflip`, `zflip` (3-D), `shift`, `rotate`, `crop` (zoom),
            `intensity`.
        flip_probability: probability of each flip.
        shift_voxels: largest translation along each axis.
        rotate_degrees: largest rotation in the image plane.
        crop_scale: smallest share of each axis that `crop` keeps, in (0, 1].
        intensity_strength: largest change of gain and offset, in units of the normalised intensity.
        views: augmented copies of each case in a step, averaged (under DP before clipping).
        ema: decay of the averaged evaluation weights, in (0, 1); 0 switches them off.
        early_stopping: evaluations without progress before training stops; 0 never stops early.
        monitor: what early stopping and `best` follow on validation: `metric` (AUROC or Dice) or `loss`.
        select: weights to keep: `best` on validation, `last`, or `auto` (best without DP, last with DP).
        pretrained: file with a state dict to start from; empty starts from random weights.
        pretrained_source: what the pretrained weights were trained on; recorded in privacy.json.
        keep_head: take the last layer of the pretrained weights over, too.
        freeze: `none`, `features` (trains the head alone: a linear probe), `bitfit` (trains biases, norm
            layers and the head) or the prefix of the parameters to freeze.
        unfreeze_every: epochs after which one more frozen block, from the last to the first, is trained; 0
            never.
        lora_rank: rank of low-rank adapters beside the frozen linear and convolution layers, trained with the
            head (and, with `freeze = "bitfit"`, biases and norm layers), merged before release; needs
            pretrained weights; 0 for none.
        lora_alpha: the adapters' output counts lora_alpha / lora_rank, > 0.
        cases_per_patient: most cases of a patient used in one step when patients are the unit; 0 uses all.
        seed: drives initialisation, order and augmentation; never what protects privacy.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        precision: `fp32`, or `bf16` for products in bfloat16 (weights stay float32): faster where the
            hardware has it; repeatable on the same machine only. Under DP the rounding is charged to
            max_grad_norm.
        deterministic: bit-for-bit repeatable, privacy noise included: stamps the run NOT FOR RELEASE.
        threads: torch threads; 0 keeps torch's choice.
        functional: modules (their paths) that have no rule for private gradients, to be run image by image;
            slow and exact.
        attack_risk: at the end of a private run also compute bounds on what any attack can gain; takes some
            seconds.
        tensorboard: write TensorBoard events into private/tensorboard.
        eval_every: steps between evaluations and checkpoints; 0 means once an epoch.
    """

    model: str = "resnet9"
    model_options: dict[str, Any] = field(default_factory=dict)
    image_size: tuple[int, ...] = ()
    patch_size: tuple[int, ...] = ()
    foreground: float = 0.5
    epochs: int = 10
    steps: int = 0
    batch_size: int = 32
    physical_batch: int = 32
    sampling: str = "shuffle"
    optimizer: str = "adam"
    lr: float = 1e-3
    head_lr: float = 1.0
    bias_correction: str = "auto"
    bias_floor: float = 1.0
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: str = "constant"
    milestones: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    gamma: float = 0.1
    plateau_patience: int = 5
    warmup: int = 0
    loss: str = "auto"
    focal_gamma: float = 2.0
    class_weights: str | tuple[float, ...] = "none"
    label_smoothing: float = 0.0
    augment: tuple[str, ...] = ()
    flip_probability: float = 0.5
    shift_voxels: int = 4
    rotate_degrees: float = 10.0
    crop_scale: float = 0.8
    intensity_strength: float = 0.1
    views: int = 1
    ema: float = 0.0
    early_stopping: int = 0
    monitor: str = "metric"
    select: str = "auto"
    pretrained: str = ""
    pretrained_source: str = ""
    keep_head: bool = False
    freeze: str = "none"
    unfreeze_every: int = 0
    lora_rank: int = 0
    lora_alpha: float = 8.0
    cases_per_patient: int = 0
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"
    deterministic: bool = False
    threads: int = 0
    functional: tuple[str, ...] = ()
    attack_risk: bool = True
    tensorboard: bool = False
    eval_every: int = 0

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "milestones", "rates", "augment", "functional"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "class_weights", _weights(self.class_weights))
        object.__setattr__(
            self, "model_options", {name: _option(name, value) for name, value in self.model_options.items()}
        )
        self._check_numbers()
        check.one_of(OPTIMIZERS, optimizer=self.optimizer)
        check.one_of(SCHEDULES, schedule=self.schedule)
        check.one_of(LOSSES, loss=self.loss)
        check.one_of(SELECTIONS, select=self.select)
        check.one_of(SAMPLINGS, sampling=self.sampling)
        check.one_of(("metric", "loss"), monitor=self.monitor)
        check.one_of(CORRECTIONS, bias_correction=self.bias_correction)
        check.one_of(PRECISIONS, precision=self.precision)
        for name in self.augment:
            check.one_of(AUGMENTATIONS, augment=name)
        self._check_schedule()
        if self.lora_rank:
            self._check_lora()

    def _check_numbers(self) -> None:
        check.positive(
            batch_size=self.batch_size, physical_batch=self.physical_batch, lr=self.lr, views=self.views, epochs=self.epochs,
            head_lr=self.head_lr, bias_floor=self.bias_floor, lora_alpha=self.lora_alpha,
        )  # fmt: skip
        check.non_negative(
            steps=self.steps,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            focal_gamma=self.focal_gamma,
            shift_voxels=self.shift_voxels,
            rotate_degrees=self.rotate_degrees,
            intensity_strength=self.intensity_strength,
            early_stopping=self.early_stopping,
            unfreeze_every=self.unfreeze_every,
            lora_rank=self.lora_rank,
            cases_per_patient=self.cases_per_patient,
            threads=self.threads,
            eval_every=self.eval_every,
            plateau_patience=self.plateau_patience,
            seed=self.seed,
        )
        check.probability(foreground=self.foreground, flip_probability=self.flip_probability)
        check.open_unit(gamma=self.gamma, **({"ema": self.ema} if self.ema else {}))
        check.positive(crop_scale=self.crop_scale)
        check.probability(crop_scale=self.crop_scale)
        for name, value in (("momentum", self.momentum), ("label_smoothing", self.label_smoothing)):
            if not 0 <= value < 1:
                raise ConfigError(expected(f"0 <= {name} < 1", got=value, where=name))
        for name in ("image_size", "patch_size"):
            check.positive(**{f"{name}[{axis}]": value for axis, value in enumerate(getattr(self, name))})

    def _check_schedule(self) -> None:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ConfigError(expected("rising epochs", got=self.milestones, where="milestones"))
        if self.schedule in ("step", "manual") and not self.milestones:
            raise ConfigError(
                expected(f"milestones for the {self.schedule} schedule", got="none", where="milestones")
            )
        if self.schedule == "manual" and len(self.rates) != len(self.milestones) + 1:
            raise ConfigError(
                expected("one rate more than milestones", got=f"{len(self.rates)} rates", where="rates")
            )
        check.positive(**{f"rates[{index}]": value for index, value in enumerate(self.rates)})

    def _check_lora(self) -> None:
        if not self.pretrained:
            fix = (
                "give pretrained (a state dict of this network), or lora_rank = 0: frozen random "
                "weights learn little"
            )
            raise ConfigError(expected("pretrained weights to adapt", got="none", where="lora_rank", fix=fix))
        if self.freeze not in ("none", "features", "bitfit") or self.unfreeze_every:
            fix = (
                "adapters freeze the layers they adapt; leave freeze at none, or bitfit to train "
                "biases and norms, too"
            )
            raise ConfigError(
                expected(
                    "freeze none, features or bitfit, and no unfreeze_every",
                    got="another",
                    where="lora_rank",
                    fix=fix,
                )
            )


def learn_part(config: LearnConfig) -> LearnConfig:
    """Return the learning settings alone of a config that may be a subclass with more fields."""
    return LearnConfig(**{item.name: getattr(config, item.name) for item in fields(LearnConfig)})


def from_toml_table(table: Mapping[str, Any], where: str) -> LearnConfig:
    """Return the config in a table; keys of other stages are left out."""
    known = {item.name for item in fields(LearnConfig)}
    return settings.build(LearnConfig, {key: value for key, value in table.items() if key in known}, where)


def _option(name: str, value: Any) -> Any:
    """Return an option of a network.

    Text that says true or false would be true either way, so it is refused.
    """
    if isinstance(value, str) and value.lower() in ("true", "false"):
        fix = (
            "write it without quotes; in config.toml of a run of an earlier version the text 'False' "
            "acted as true"
        )
        raise ConfigError(expected("true or false", got="text", where=f"model_options.{name}", fix=fix))
    return value


def _weights(value: str | tuple[float, ...] | list[float]) -> str | tuple[float, ...]:
    if isinstance(value, str) and value in ("none", "balanced"):
        return value
    try:
        numbers = tuple(float(item) for item in (value.split(",") if isinstance(value, str) else value))
    except ValueError as error:
        raise ConfigError(
            expected("none, balanced or numbers", got=repr(value), where="class_weights")
        ) from error
    check.positive(**{f"class_weights[{index}]": number for index, number in enumerate(numbers)})
    return numbers
