"""The plan of ``meninx audit RUN``: parts, threat models, budgets, seeds and limits."""

from __future__ import annotations

from dataclasses import dataclass, field

from meninx.audit.config import IdentityAttack, MembershipConfig
from meninx.core.audit_parts import PartName
from meninx.core.errors import ConfigError, expected
from meninx.core.setting_types import Count, CountOrZero, Device, OpenShare, Positive, Share
from meninx.core.settings import Settings, flat


@dataclass(frozen=True, kw_only=True)
class PlannedBounds(Settings):
    """Which adversaries are bounded, and the axis of the risk profile.

    Attributes:
        candidates: Adversaries that know that a patient's data is one of so many.
        eps_min: Lowest epsilon of the risk profile.
        eps_max: Highest epsilon of the risk profile.
        n_eps: Number of epsilons, evenly spaced on a logarithmic scale.
        precision: Largest relative distance of lower and upper bound.
        minutes: Budget; the part is left out when it is used up.
    """

    candidates: tuple[Count, ...] = (2, 10, 1000)
    eps_min: Positive = 0.1
    eps_max: Positive = 1e6
    n_eps: Count = 24
    precision: OpenShare = 1e-3
    minutes: Positive = field(default=10.0, metadata=flat("bounds_minutes"))


@dataclass(frozen=True, kw_only=True)
class PlannedOneRun(Settings):
    """How the implementation is audited.

    Attributes:
        canaries: Number of made-up patients, of whom about half take part; at least 100.
        significance: Largest probability of accusing a correct run.
        minutes: Budget; what is trained when it is used up is kept for the next call.
    """

    canaries: Count = 1000
    significance: OpenShare = field(default=0.05, metadata=flat("one_run_significance"))
    minutes: Positive = field(default=120.0, metadata=flat("one_run_minutes"))


@dataclass(frozen=True, kw_only=True)
class PlannedMembership(Settings):
    """How membership is attacked.

    Attributes:
        references: Number of reference models, each trained like the run on half of the patients; even.
        control_steps: Steps of the positive control.
        significance: Largest probability of a verdict against a model that tells nothing, or keeps its bound.
        minutes: Budget; what is trained when it is used up is kept for the next call.
    """

    references: Count = 4
    control_steps: Count = 300
    significance: OpenShare = field(default=0.05, metadata=flat("membership_significance"))
    minutes: Positive = field(default=240.0, metadata=flat("membership_minutes"))


@dataclass(frozen=True, kw_only=True)
class PlannedReconstruction(Settings):
    """How images are reconstructed from the steps of a training.

    Attributes:
        attacks: Names of attacks, `quick` for the strongest few, or `all`.
        trials: Largest number of simulated identifications per point.
        eps_last: Exponent of ten of the highest epsilon at which attacks are run beside the run's own noise.
        significance: Largest probability of an unjust verdict.
        minutes: Budget; what is computed when it is used up is kept for the next call.
    """

    attacks: tuple[str, ...] = field(default=("quick",), metadata=flat("reconstruction_attacks"))
    trials: Count = 1000
    eps_last: CountOrZero = field(default=9, metadata=flat("reconstruction_eps_last"))
    significance: OpenShare = field(default=0.05, metadata=flat("reconstruction_significance"))
    minutes: Positive = field(default=240.0, metadata=flat("reconstruction_minutes"))


@dataclass(frozen=True, kw_only=True)
class PlannedAttributes(Settings):
    """How attributes of patients are inferred.

    Attributes:
        attributes: Attributes of the dataset to attack; by default all, and the site where there are several.
        significance: Largest probability of a verdict against a model that tells nothing, or keeps its bound.
        minutes: Budget; the part is left out when it is used up.
    """

    attributes: tuple[str, ...] = ()
    significance: OpenShare = field(default=0.05, metadata=flat("attribute_significance"))
    minutes: Positive = field(default=120.0, metadata=flat("attribute_minutes"))


@dataclass(frozen=True, kw_only=True)
class PlannedIdentity(Settings):
    """How images are linked to other images of the same patient.

    Attributes:
        attacks: How images are compared: whitened pixels, whitened edge directions, or a network trained on
            pairs.
        most_images: Larger datasets are represented by patients drawn at random with about so many images.
        significance: Largest probability of the verdict that images are linked where they tell nothing.
        minutes: Budget; the part is left out when it is used up.
    """

    attacks: tuple[IdentityAttack, ...] = field(default=("pixels", "hog"), metadata=flat("identity_attacks"))
    most_images: Count = 4000
    significance: OpenShare = field(default=0.05, metadata=flat("identity_significance"))
    minutes: Positive = field(default=60.0, metadata=flat("identity_minutes"))


@dataclass(frozen=True, kw_only=True)
class PlannedLimits(Settings):
    """What the verdict is held against.

    Attributes:
        bound_green: Largest proven TPR at 1 % FPR (membership) for green.
        bound_amber: Largest one for amber; above it the line is red.
        fail_conditions: Conditions that end the audit with exit code 5, as `key > number`.
    """

    bound_green: Share = 0.1
    bound_amber: Share = 0.5
    fail_conditions: tuple[str, ...] = ()

    def check_rules(self) -> None:
        """Refuse limits in the wrong order."""
        if self.bound_green > self.bound_amber:
            raise ConfigError(
                expected("bound_green <= bound_amber", got=self.bound_green, where="bound_green")
            )


@dataclass(frozen=True, kw_only=True)
class AuditPlan(Settings):
    """What an audit does, fixed before its results are seen.

    Attributes:
        parts: Parts of the audit, in this order.
        seed: Seed of halves, resamples and permutations; never of privacy noise, unless deterministic.
        deterministic: Take all randomness of the audit from the seed and write no time, so that the audit can
            be repeated bit for bit.
        bounds: What theory bounds.
        one_run: How the implementation is audited.
        membership: How membership is attacked.
        reconstruction: How images are reconstructed from steps, where the plan names that part.
        attribute: How attributes are inferred, where the plan names that part.
        identity: How images are linked to other images of a patient, where the plan names that part.
        limits: What the verdict is held against.
    """

    parts: tuple[PartName, ...] = ("bounds", "one-run", "membership")
    seed: CountOrZero = 0
    deterministic: bool = False
    bounds: PlannedBounds = field(default_factory=PlannedBounds)
    one_run: PlannedOneRun = field(default_factory=PlannedOneRun)
    membership: PlannedMembership = field(default_factory=PlannedMembership)
    reconstruction: PlannedReconstruction = field(default_factory=PlannedReconstruction)
    attribute: PlannedAttributes = field(default_factory=PlannedAttributes)
    identity: PlannedIdentity = field(default_factory=PlannedIdentity)
    limits: PlannedLimits = field(default_factory=PlannedLimits)

    def check_rules(self) -> None:
        """Refuse a plan without parts or with one twice, and what the parts would refuse."""
        if not self.parts or len(set(self.parts)) != len(self.parts):
            raise ConfigError(expected("each part at most once", got=self.parts, where="parts"))
        MembershipConfig(references=self.membership.references)


@dataclass(frozen=True, kw_only=True)
class AuditConfig(AuditPlan):
    """An audit: its plan, and how it is carried out.

    Attributes:
        device: Where to train the models of the audit.
        overwrite: Replace results of another plan, and results that were made without one.
        dry_run: Show the plan, its hash and how long it takes; write nothing.
    """

    device: Device = "auto"
    overwrite: bool = False
    dry_run: bool = False
