"""What a training run is told: everything that learning needs, the privacy to keep, what to export."""

# No postponed annotations here: the command line reads these types of subclasses defined in other modules.

from dataclasses import dataclass
from pathlib import Path

from meninx.core import check
from meninx.core.budget import CLIPPINGS, Clipping, PrivacyUnit
from meninx.core.errors import ConfigError, expected
from meninx.core.manifest import SPLITS
from meninx.learn.config import LearnConfig


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """What differential privacy to train with.

    Give epsilon (the noise is calibrated to the run's steps), or noise_multiplier (epsilon follows), or both:
    then the run takes as many steps as the budget allows, whatever its epochs.

    Attributes:
        epsilon: Most that may be spent over the whole run; the noise is calibrated to it.
        noise_multiplier: Noise standard deviation over max_grad_norm, instead of epsilon.
        delta: Probability outside the guarantee; keep it well below 1 / number of patients.
        unit: What is protected: all cases of a patient together, or each case.
        max_grad_norm: Clipping threshold: the most that one unit may move the gradient sum (L2 norm).
        clipping: flat scales a gradient down to max_grad_norm only when it is longer; auto-s normalises every
            gradient; per-layer is flat for each layer with its share of max_grad_norm; adaptive is flat at a
            threshold that follows the gradients.
        clip_quantile: Adaptive: share of units whose gradient should be shorter than the threshold, in (0,
            1).
        clip_rate: Adaptive: how fast the threshold follows, > 0.
        count_noise_multiplier: Adaptive: noise of the count of short gradients, paid for by a little more
            noise on the gradient; 0 chooses it.
        noise_bands: Steps over which the noise is correlated, so that later steps take part of it back; units
            then take turns (cyclic sampling). 1 is independent noise.
        units_declared: Number of units as publicly declared, at least the true one; by default that one,
            which then is public.
    """

    epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float = 1e-5
    unit: PrivacyUnit = PrivacyUnit.PATIENT
    max_grad_norm: float = 1.0
    clipping: Clipping = "flat"
    clip_quantile: float = 0.5
    clip_rate: float = 0.2
    count_noise_multiplier: float = 0.0
    noise_bands: int = 1
    units_declared: int | None = None

    def __post_init__(self) -> None:
        check.positive(
            epsilon=self.epsilon, noise_multiplier=self.noise_multiplier, max_grad_norm=self.max_grad_norm
        )
        check.open_unit(delta=self.delta)
        check.one_of(CLIPPINGS, clipping=self.clipping)
        check.open_unit(clip_quantile=self.clip_quantile)
        check.positive(clip_rate=self.clip_rate, noise_bands=self.noise_bands)
        check.non_negative(count_noise_multiplier=self.count_noise_multiplier)
        if self.epsilon is None and self.noise_multiplier is None:
            raise ConfigError(expected("epsilon or noise_multiplier", got="neither", where="privacy"))


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LearnConfig):
    """One training run.

    Attributes:
        name: Name of the run folder; the recipe's name by default.
        privacy: Differential privacy of the run; none when absent.
        export: What to put into release/: bundle (MONAI bundle with the state dict), onnx (the network as
            ONNX, too).
    """

    name: str = "run"
    privacy: PrivacyConfig | None = None
    export: tuple[str, ...] = ("bundle",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for item in self.export:
            check.one_of(("bundle", "onnx"), export=item)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How a run is measured.

    Attributes:
        split: Split to measure on.
        threshold: How thresholds are fitted on the validation split: youden, or sensitivity>=0.9 and the
            like.
        draws: Resamples of patients for the intervals.
        baseline: Another run on the same data; differences to it are measured on the same resamples.
        predictions: What to keep in private/predictions: csv, nifti (label maps), dicom-seg (label maps;
            needs dicom).
        dicom: Folder of the de-identified DICOM that the dataset was prepared from, for dicom-seg.
        seed: Seed of the resamples.
        device: auto, cpu, cuda.
    """

    split: str = "test"
    threshold: str = "youden"
    draws: int = 1000
    baseline: Path | None = None
    predictions: tuple[str, ...] = ("csv",)
    dicom: Path | None = None
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        check.one_of(SPLITS, split=self.split)
        check.positive(draws=self.draws)
        for item in self.predictions:
            check.one_of(("csv", "nifti", "dicom-seg"), predictions=item)


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The grid of a sweep.

    Attributes:
        epsilons: Epsilons to train at; the non-private run is added unless --no-non-private.
        seeds: Seeds; each gives one run per epsilon.
        non_private: Also train without privacy, same network, splits and protocol.
    """

    epsilons: tuple[float, ...] = (1.0, 3.0, 8.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    non_private: bool = True

    def __post_init__(self) -> None:
        for item in self.epsilons:
            check.positive(epsilons=item)
