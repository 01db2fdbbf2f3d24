"""Settings of ``meninx audit``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
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

IdentityAttack = Literal["pixels", "hog", "siamese"]

_LEAST_SIDE = 8
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
        deterministic: Write no time, so that the files are the same when the bounds are computed again.
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
    deterministic: bool = False
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
        deterministic: Take coins, noise and sampling from the seed and write no time, so that the audit can
            be repeated bit for bit.
        seed: Seed of a deterministic audit.
        device: Where to train the audited twin.
        overwrite: Audit again although the run was audited before.
        dry_run: Show what would be trained and how long it takes; train and write nothing.
    """

    canaries: Count = 1000
    significance: OpenShare = 0.05
    deterministic: bool = False
    seed: CountOrZero = 0
    device: Device = "auto"
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class MembershipConfig(Settings):
    """How much a model tells about who took part in its training.

    Attributes:
        references: Number of reference models, each trained like the run on half of the patients; even.
        control_steps: Steps of the positive control: a model trained on few patients until it knows them.
        significance: Largest probability of a verdict against a model that tells nothing, or keeps its bound.
        seed: Seed of the halves, resamples and permutations.
        deterministic: Take the noise of the reference models from the seed as well and write no time, so that
            the audit can be repeated bit for bit.
        device: Where to train the reference models.
        overwrite: Audit again although the run was audited before; reference models are kept.
        dry_run: Show members, reference models and how long it takes; train and write nothing.
    """

    references: Count = 4
    control_steps: Count = 300
    significance: OpenShare = 0.05
    seed: CountOrZero = 0
    deterministic: bool = False
    device: Device = "auto"
    overwrite: bool = False
    dry_run: bool = False

    def check_rules(self) -> None:
        """Refuse an odd number of models, whose halves would not be balanced."""
        if self.references % 2:
            fix = "give one model more"
            raise ConfigError(
                expected("an even number of references", got=self.references, where="references", fix=fix)
            )


@dataclass(frozen=True, kw_only=True)
class IdentityConfig(Settings):
    """Whether images can be linked to other images of the same patient.

    Attributes:
        attacks: How images are compared: whitened pixels, whitened edge directions, or a network trained on
            pairs.
        fit_share: Share of the patients that the attacks are fitted on; the others are evaluated.
        components: Directions that are kept of pixels and edge directions.
        side: Pixels along each axis that images are brought to; 64 in 2-D and 32 in 3-D by default.
        siamese_steps: Optimiser steps of the network that is trained on pairs.
        most_images: Larger datasets are represented by patients drawn at random with about so many images.
        significance: Largest probability of the verdict that images are linked where they tell nothing.
        seed: Seed of the division of the patients, the controls and the permutations.
        deterministic: Write no time, so that the audit can be repeated bit for bit.
        device: Where to train the network on pairs.
        overwrite: Audit again although a record is there.
        dry_run: Show who would be compared; compute and write nothing.
    """

    attacks: tuple[IdentityAttack, ...] = ("pixels", "hog")
    fit_share: OpenShare = 0.5
    components: Count = 128
    side: Count | None = None
    siamese_steps: Count = 600
    most_images: Count = 4000
    significance: OpenShare = 0.05
    seed: CountOrZero = 0
    deterministic: bool = False
    device: Device = "auto"
    overwrite: bool = False
    dry_run: bool = False

    def check_rules(self) -> None:
        """Refuse no attack, one that is named twice, and images too small to compare."""
        if not self.attacks or len(set(self.attacks)) != len(self.attacks):
            raise ConfigError(expected("different attacks", got=self.attacks or "none", where="attacks"))
        if self.side is not None and self.side < _LEAST_SIDE:
            raise ConfigError(expected(f"at least {_LEAST_SIDE}", got=self.side, where="side"))


@dataclass(frozen=True, kw_only=True)
class AttributesConfig(Settings):
    """What a model tells about sex, age or site of a patient.

    Attributes:
        attributes: Attributes of the dataset to attack; by default all, and the site where there are several.
        age_edges: Ages, in ascending order, at which groups of age begin.
        folds: Parts of the patients; each is judged by an attack fitted on the others.
        permutations: Permutations of each attribute, which show what chance gives.
        most_patients: Most members, and most others; more are represented by a random draw.
        significance: Largest probability of a verdict against a model that tells nothing, or keeps its bound.
        seed: Seed of draws, folds, coins and permutations, and of the noise that is added to single gradients
            to show what it hides.
        deterministic: Write no time, so that the audit can be repeated bit for bit.
        device: Where to run the model.
        overwrite: Audit again although the run was audited before.
        dry_run: Show who would be attacked; compute and write nothing.
    """

    attributes: tuple[str, ...] = ()
    age_edges: tuple[Positive, ...] = (60.0,)
    folds: Count = 5
    permutations: Count = 499
    most_patients: Count = 600
    significance: OpenShare = 0.05
    seed: CountOrZero = 0
    deterministic: bool = False
    device: Device = "auto"
    overwrite: bool = False
    dry_run: bool = False

    def check_rules(self) -> None:
        """Refuse edges that do not rise, a single fold, and an attribute that is named twice."""
        if not self.age_edges or any(a >= b for a, b in pairwise(self.age_edges)):
            raise ConfigError(expected("ages in ascending order", got=self.age_edges, where="age_edges"))
        if self.folds < 2:
            raise ConfigError(expected("folds >= 2", got=self.folds, where="folds"))
        if len(set(self.attributes)) != len(self.attributes):
            raise ConfigError(expected("different attributes", got=self.attributes, where="attributes"))
