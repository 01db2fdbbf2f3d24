"""Settings of `meninx train`, `evaluate` and `sweep`: tables of learning, privacy and release."""

# No postponed annotations here: subclasses in other modules are read by their types.

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from meninx.core.budget import Clipping, PrivacyUnit
from meninx.core.errors import ConfigError, problem
from meninx.core.setting_types import Count, CountOrZero, Device, NonNegative, OpenShare, Positive
from meninx.core.settings import Settings
from meninx.learn.config import LearnConfig


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig(Settings):
    """What differential privacy to train with.

    Give epsilon (the noise is calibrated to the run's steps), or noise_multiplier (epsilon follows), or both:
    then the run takes as many steps as the budget allows, whatever its epochs.

    Attributes:
        epsilon: Largest epsilon of the whole run; the noise is calibrated to it.
        noise_multiplier: Noise standard deviation divided by max_grad_norm, instead of epsilon.
        delta: Probability outside the guarantee; keep it well below 1 / number of patients.
        unit: What is protected: all cases of a patient together, or each case.
        max_grad_norm: Clipping threshold: the largest contribution of one unit to the gradient sum (L2 norm).
        clipping: flat scales a gradient down to max_grad_norm only if it is longer; auto-s normalises every
            gradient; per-layer clips each layer to its share of max_grad_norm; adaptive is flat with a
            threshold that follows the gradients.
        clip_quantile: Adaptive: share of units whose gradient should be shorter than the threshold, in (0,
            1).
        clip_rate: Adaptive: rate at which the threshold changes, > 0.
        count_noise_multiplier: Adaptive: noise of the count of short gradients, compensated by slightly more
            noise on the gradient; 0 chooses it.
        noise_bands: Number of steps over which the noise is correlated, so that later steps cancel part of
            it; units then take turns (cyclic sampling). 1 is independent noise.
        units_declared: Publicly declared number of units, at least the true one; by default the true number,
            which then counts as public.
    """

    epsilon: Positive | None = None
    noise_multiplier: Positive | None = None
    delta: OpenShare = 1e-5
    unit: PrivacyUnit = PrivacyUnit.PATIENT
    max_grad_norm: Positive = 1.0
    clipping: Clipping = "flat"
    clip_quantile: OpenShare = 0.5
    clip_rate: Positive = 0.2
    count_noise_multiplier: NonNegative = 0.0
    noise_bands: Count = 1
    units_declared: Count | None = None

    def check_rules(self) -> None:
        """Refuse privacy without a budget."""
        if self.epsilon is None and self.noise_multiplier is None:
            fix = "give epsilon, or noise_multiplier; the other settings of privacy do not make a run private"
            raise ConfigError(problem("there is no privacy budget", where="privacy", fix=fix))


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LearnConfig):
    """One training run.

    Attributes:
        name: Name of the run folder; the recipe's name by default.
        privacy: Differential privacy of the run; none if absent.
        export: Content of release/: bundle (MONAI bundle with the state dict), onnx (also the network as
            ONNX).
    """

    name: str = "run"
    privacy: PrivacyConfig | None = None
    export: tuple[Literal["bundle", "onnx"], ...] = ("bundle",)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Settings):
    """How a run is measured.

    Attributes:
        split: Split to measure on; all takes every case of another dataset.
        rename_labels: Labels of another dataset that have another name there, each as theirs=ours; several
            may stand for one, each with an entry.
        allow_other_intensity: Measure another dataset although its images are far darker or brighter than
            those of the training, or use a small part of the range of values; the numbers go to the notes.
        other_patients: State that patients of another dataset whose identifiers in the source are those of
            training patients are other people, as when both sites number their patients.
        threshold: How thresholds are chosen on the validation split: youden, or a condition such as
            sensitivity>=0.9.
        surface_tolerance: Segmentation: distance within which two surfaces agree, in mm (in voxels where the
            dataset records no spacing), for the surface Dice.
        draws: Number of resamples of patients for the intervals.
        baseline: Another run on the same data; the difference is measured on the same resamples.
        repeats: Further pairs with other seeds, each as run=baseline; every difference is then the mean over
            all pairs in each resample of patients. Privacy alone may differ within a pair, the seed alone
            between pairs.
        predictions: What to write to private/predictions: csv, nifti (label maps), dicom-seg (label maps;
            needs dicom).
        dicom: Folder of the de-identified DICOM from which the dataset was prepared, for dicom-seg.
        seed: Seed of the resamples.
        device: where the network runs; auto takes CUDA, then MPS, then the CPU.
    """

    split: Literal["train", "valid", "test", "all"] = "test"
    rename_labels: tuple[str, ...] = ()
    allow_other_intensity: bool = False
    other_patients: bool = False
    threshold: str = "youden"
    surface_tolerance: NonNegative = 2.0
    draws: Count = 1000
    baseline: Path | None = None
    repeats: tuple[str, ...] = ()
    predictions: tuple[Literal["csv", "nifti", "dicom-seg"], ...] = ("csv",)
    dicom: Path | None = None
    seed: CountOrZero = 0
    device: Device = "auto"


@dataclass(frozen=True, kw_only=True)
class GridConfig(Settings):
    """The grid of a sweep.

    Attributes:
        epsilons: Epsilons of the private runs; a non-private run is added unless --no-non-private is given.
        seeds: Seeds; one run per seed and epsilon.
        non_private: Also train without privacy, with the same network, splits and protocol.
    """

    epsilons: tuple[Positive, ...] = (1.0, 3.0, 8.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    non_private: bool = True


@dataclass(frozen=True, kw_only=True)
class SharedPrivacyConfig(PrivacyConfig):
    """What the private runs of a sweep share; the grid gives each its epsilon."""

    def check_rules(self) -> None:
        """Accept privacy without a budget."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig(TrainConfig):
    """A sweep: the settings that its runs share, and the grid.

    Attributes:
        privacy: Differential privacy of the private runs.
    """

    privacy: SharedPrivacyConfig | None = None
    grid: GridConfig = field(default_factory=GridConfig)

    @property
    def training(self) -> TrainConfig:
        """The settings that all runs of the sweep share; the grid replaces epsilon."""
        shared = {item.name: getattr(self, item.name) for item in fields(TrainConfig)}
        if self.privacy is not None:
            terms = {item.name: getattr(self.privacy, item.name) for item in fields(PrivacyConfig)}
            if terms["epsilon"] is None and terms["noise_multiplier"] is None:
                terms["epsilon"] = max(self.grid.epsilons, default=1.0)
            shared["privacy"] = PrivacyConfig(**terms)
        return TrainConfig(**shared)
