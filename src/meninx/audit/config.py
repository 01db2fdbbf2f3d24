"""Settings of ``meninx audit``."""

from __future__ import annotations

from dataclasses import dataclass

from meninx.core.setting_types import (
    Count,
    Device,
    NonNegative,
    OpenShare,
    Positive,
    PositiveShare,
)
from meninx.core.settings import Settings


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
