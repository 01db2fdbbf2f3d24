"""What a training run is told: everything that learning needs, the privacy to keep, what to export."""

from __future__ import annotations

from dataclasses import dataclass

from meninx.core import check
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import ConfigError, expected
from meninx.learn.config import LearnConfig


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """What differential privacy to train with. Give epsilon or noise_multiplier; steps and batch size come from the run.

    Attributes:
        epsilon: Most that may be spent over the whole run; the noise is calibrated to it.
        noise_multiplier: Noise standard deviation over max_grad_norm, instead of epsilon.
        delta: Probability outside the guarantee; keep it well below 1 / number of patients.
        unit: What is protected: all cases of a patient together, or each case.
        max_grad_norm: Clipping threshold: the most that one unit may move the gradient sum (L2 norm).
        clipping: flat scales a gradient down to max_grad_norm only when it is longer; auto-s normalises every gradient.
        units_declared: Number of units to account with when the true number is not public; must not exceed it.
    """

    epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float = 1e-5
    unit: PrivacyUnit = PrivacyUnit.PATIENT
    max_grad_norm: float = 1.0
    clipping: str = "flat"
    units_declared: int | None = None

    def __post_init__(self) -> None:
        check.positive(epsilon=self.epsilon, noise_multiplier=self.noise_multiplier, max_grad_norm=self.max_grad_norm)
        check.open_unit(delta=self.delta)
        check.one_of(("flat", "auto-s"), clipping=self.clipping)
        if (self.epsilon is None) == (self.noise_multiplier is None):
            got = "both" if self.epsilon is not None else "neither"
            raise ConfigError(expected("one of epsilon and noise_multiplier", got=got, where="privacy"))


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LearnConfig):
    """One training run.

    Attributes:
        name: Name of the run folder; the recipe's name by default.
        privacy: Differential privacy of the run; none when absent.
        export: What to put into release/: bundle (MONAI bundle with the state dict), onnx (the network as ONNX, too).
        pretrained_source: Where the pretrained weights come from, in words, for the model card.
    """

    name: str = "run"
    privacy: PrivacyConfig | None = None
    export: tuple[str, ...] = ("bundle",)
    pretrained_source: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for item in self.export:
            check.one_of(("bundle", "onnx"), export=item)
