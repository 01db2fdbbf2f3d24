"""Settings of ``meninx audit``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from meninx.core import settings
from meninx.core.budget import PrivacyUnit
from meninx.core.errors import ConfigError, expected, problem
from meninx.core.setting_types import (
    Count,
    CountOrZero,
    Device,
    NonNegative,
    OpenShare,
    Positive,
    PositiveShare,
)
from meninx.core.settings import Settings
from meninx.learn.config import SamplingConfig

MOST_EXPONENT = 18
"""Of ten, of an epsilon for which noise is calibrated."""
MECHANISM = (
    "units",
    "epsilon",
    "noise_multiplier",
    "sample_rate",
    "steps",
    "batch_size",
    "epochs",
    "delta",
    "unit",
    "noise_bands",
)
"""Settings of a mechanism; a run states its own."""


@dataclass(frozen=True, kw_only=True)
class BoundsConfig(Settings):
    """What is bounded: a mechanism, an axis of epsilon, and what adversaries know before they see the model.

    Attributes:
        units: Number of patients (or cases, if they are the unit) in the training; as public as declared.
        epsilon: Epsilon of the operating point; the noise is calibrated to it.
        noise_multiplier: Noise standard deviation divided by max_grad_norm at the operating point, instead of
            epsilon.
        sample_rate: Probability that a unit takes part in a step; by default batch_size / units.
        steps: Number of optimiser steps; by default from epochs.
        batch_size: Expected number of units per step.
        epochs: Expected passes over the units.
        delta: Delta of every epsilon.
        unit: What is protected.
        noise_bands: Number of steps over which the noise is correlated.
        eps_min: Lowest epsilon of the axis.
        eps_max: Highest epsilon of the axis.
        n_eps: Number of epsilons, evenly spaced on a logarithmic scale.
        candidates: Adversaries that know that a patient's data is one of so many.
        class_share: Share of the most frequent value of an attribute, for the adversary that guesses it.
        metric_hits: Reference images that are close enough to the best single guess by an image metric.
        metric_images: Number of these reference images, none of them from the training.
        precision: Largest relative distance of lower and upper bound.
        overwrite: Replace earlier bounds.
        dry_run: Show mechanism and adversaries; compute and write nothing.
    """

    units: Count | None = None
    epsilon: Positive | None = None
    noise_multiplier: Positive | None = None
    sample_rate: PositiveShare | None = None
    steps: CountOrZero = 0
    batch_size: Count | None = None
    epochs: Positive | None = None
    delta: OpenShare = 1e-5
    unit: PrivacyUnit = PrivacyUnit.PATIENT
    noise_bands: Count = 1
    eps_min: Positive = 1.0
    eps_max: Positive = 1e12
    n_eps: Count = 30
    candidates: tuple[Count, ...] = (2, 10, 1000)
    class_share: PositiveShare | None = None
    metric_hits: CountOrZero | None = None
    metric_images: Count | None = None
    precision: OpenShare = 1e-3
    overwrite: bool = False
    dry_run: bool = False

    def check_rules(self) -> None:
        """Refuse an axis that runs backwards, and half of a pair of settings."""
        if self.eps_min > self.eps_max:
            raise ConfigError(
                expected(f"eps_max >= eps_min = {self.eps_min:g}", got=self.eps_max, where="eps_max")
            )
        if (self.metric_hits is None) != (self.metric_images is None):
            fix = "give both, or none"
            raise ConfigError(
                problem("metric_hits and metric_images belong together", where="metric_hits", fix=fix)
            )
        if self.epsilon is not None and self.noise_multiplier is not None:
            fix = "give one of them: the other follows"
            raise ConfigError(
                problem("epsilon and noise_multiplier exclude each other", where="epsilon", fix=fix)
            )

    @classmethod
    def of_recipe(cls, table: Mapping[str, Any], source: str) -> Mapping[str, Any]:
        """Return these settings of a TOML file, or those that a recipe of ``meninx train`` gives."""
        if not any(isinstance(value, Mapping) for value in table.values()):
            return table
        sampling = settings.build(SamplingConfig, table.get("sampling", {}), source)
        found: dict[str, Any] = {"batch_size": sampling.batch_size}
        found |= {"steps": sampling.steps} if sampling.steps else {"epochs": sampling.epochs}
        privacy = table.get("privacy", {})
        names = ("epsilon", "noise_multiplier", "delta", "unit", "noise_bands")
        found |= {name: privacy[name] for name in names if name in privacy}
        return found | ({"units": privacy["units_declared"]} if "units_declared" in privacy else {})


@dataclass(frozen=True, kw_only=True)
class ScoresConfig(Settings):
    """What is claimed of the run whose canaries were scored.

    Attributes:
        claimed_eps: Claimed epsilon.
        claimed_delta: Delta of the claim.
        noise_multiplier: Noise standard deviation over sensitivity; with sample_rate and steps it states the
            mechanism, which is tested instead of epsilon alone.
        sample_rate: Probability that a unit takes part in a step.
        steps: Number of steps.
        significance: Largest probability of accusing a run whose claim is true.
    """

    claimed_eps: NonNegative | None = None
    claimed_delta: OpenShare = 1e-5
    noise_multiplier: Positive | None = None
    sample_rate: PositiveShare | None = None
    steps: Count | None = None
    significance: OpenShare = 0.05


@dataclass(frozen=True, kw_only=True)
class OneRunConfig(Settings):
    """How the implementation of a private run is audited.

    Attributes:
        canaries: Number of made-up patients, of whom about half take part; at least 100.
        significance: Largest probability of accusing a correct run.
        device: Where to train the audited twin.
        overwrite: Audit again although the run was audited before.
    """

    canaries: Count = 1000
    significance: OpenShare = 0.05
    device: Device = "auto"
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class MembershipConfig(Settings):
    """How much a model tells about who took part in its training.

    Attributes:
        references: Number of reference models, each trained like the run on half of the patients; even.
        control_steps: Steps of the positive control: a model trained on few patients until it knows them.
        significance: Largest probability of a verdict against a model that tells nothing, or keeps its bound.
        seed: Seed of the halves, resamples and permutations.
        device: Where to train the reference models.
        overwrite: Audit again although the run was audited before; reference models are kept.
    """

    references: Count = 4
    control_steps: Count = 300
    significance: OpenShare = 0.05
    seed: CountOrZero = 0
    device: Device = "auto"
    overwrite: bool = False

    def check_rules(self) -> None:
        """Refuse an odd number of models, whose halves would not be balanced."""
        if self.references % 2:
            fix = "give one model more"
            raise ConfigError(
                expected("an even number of references", got=self.references, where="references", fix=fix)
            )


Pictures = Literal["synthetic", "none", "patients-may-leave"]
QUICK, ALL = "quick", "all"


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig(Settings):
    """Which attacks reconstruct images from the steps of a training, at which noise, and what is shown of it.

    Attributes:
        attacks: Names of attacks, `quick` for the strongest few, or `all`.
        eps_first: Exponent of ten of the lowest epsilon of the axis.
        eps_last: Exponent of ten of the highest epsilon of the axis.
        eps_step: Distance of two exponents.
        noise_multipliers: Further levels: noise standard deviation divided by max_grad_norm.
        one_step: The epsilons of the axis are those of one step instead of the whole training.
        batches: Number of steps that are attacked at each level.
        batch_size: Number of images in an attacked step; 0 for as many as the run expects, at most 16.
        bins: Number of rows of a malicious first layer; 0 for eight per image.
        components: Number of principal components of the attacker's public images.
        participations: Number of steps with the same images whose gradients the attacker averages.
        sites: Numbers of sites in a federated round whose sum is attacked; none for a single client.
        colluders: Number of these sites that help the attacker.
        candidates: Numbers of images among which an attacker picks a patient's.
        trials: Largest number of simulated identifications per point.
        metrics: Similarities of images; the first one decides what is matched and what counts as success.
        threshold: Similarity from which on an image counts as reconstructed; by default set on the null.
        best_images: Number of images in a picture, from the best to the worst.
        pictures: What is drawn outside `private/`: reconstructions of synthetic patients, none, or those of
            the run's own patients.
        delta: Delta of the epsilons for a run without privacy.
        significance: Largest probability of an unjust verdict.
        seed: Seed of draws and noise.
        device: Where to compute the attacked steps.
        deterministic: Write no time, so that the files are the same when the audit is repeated.
        overwrite: Attack again although the run was attacked before.
        dry_run: Show attacks, levels and cost; compute and write nothing.
    """

    attacks: tuple[str, ...] = (QUICK,)
    eps_first: CountOrZero = 0
    eps_last: CountOrZero = 9
    eps_step: Count = 3
    noise_multipliers: tuple[NonNegative, ...] = ()
    one_step: bool = False
    batches: Count = 3
    batch_size: CountOrZero = 0
    bins: CountOrZero = 0
    components: Count = 64
    participations: Count = 1
    sites: tuple[Count, ...] = ()
    colluders: CountOrZero = 0
    candidates: tuple[Count, ...] = (2, 10, 100, 1000)
    trials: Count = 1000
    metrics: tuple[Literal["ncc", "ssim", "psnr", "mse"], ...] = ("ncc", "ssim", "psnr", "mse")
    threshold: float | None = None
    best_images: Count = 5
    pictures: Pictures = "synthetic"
    delta: OpenShare = 1e-5
    significance: OpenShare = 0.05
    seed: CountOrZero = 0
    device: Device = "auto"
    deterministic: bool = False
    overwrite: bool = False
    dry_run: bool = False

    def check_rules(self) -> None:
        """Refuse an axis that runs backwards or beyond what can be computed, and metrics named twice."""
        if self.eps_first > self.eps_last:
            rule = f"eps_last >= eps_first = {self.eps_first}"
            raise ConfigError(expected(rule, got=self.eps_last, where="eps_last"))
        if self.eps_last > MOST_EXPONENT:
            raise ConfigError(expected(f"eps_last <= {MOST_EXPONENT}", got=self.eps_last, where="eps_last"))
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ConfigError(expected("metrics, each named once", got=self.metrics, where="metrics"))
        for sites in self.sites:
            if sites < 2 or self.colluders > sites - 1:
                rule = f"at least 2 sites, {self.colluders + 1} with {self.colluders} colluders"
                raise ConfigError(expected(rule, got=sites, where="sites"))

    @property
    def exponents(self) -> tuple[int, ...]:
        """Exponents of ten of the axis of epsilon."""
        return tuple(range(self.eps_first, self.eps_last + 1, self.eps_step))
