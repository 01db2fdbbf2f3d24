"""Privacy unit, neighboring relation and the privacy spent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, get_args

Clipping = Literal["flat", "auto-s", "per-layer", "adaptive"]
CLIPPINGS: tuple[Clipping, ...] = get_args(Clipping)

# Phrases in ``outside_guarantee`` by which the report recognises caveats that weaken a verdict.
VALIDATION_CASES = "private validation cases"
TRAINING_STATISTICS = "intensity normalisation was computed from the training images"
UNPROTECTED_START = "trained without differential privacy on other patients"


class PrivacyUnit(StrEnum):
    """The unit that the guarantee protects: all data of a patient, or one case."""

    PATIENT = "patient"
    CASE = "case"


class NeighboringRelation(StrEnum):
    """How two neighboring datasets differ."""

    ADD_OR_REMOVE_ONE = "add-or-remove-one"
    REPLACE_ONE = "replace-one"


@dataclass(frozen=True, kw_only=True)
class PrivacySpent:
    """The privacy spent, with everything needed to interpret the number.

    Attributes:
        epsilon: spent epsilon at ``delta`` (``inf`` without noise).
        delta: the delta of the statement.
        unit: what is protected.
        relation: neighboring relation of the statement.
        noise_multiplier: noise standard deviation over ``max_grad_norm``.
        max_grad_norm: clipping threshold, the L2 sensitivity of one unit.
        sample_rate: probability that a unit takes part in a step.
        steps: optimiser steps accounted so far.
        sampler: name of the sampler, e.g. ``"poisson"``.
        accountant: name of the accountant, e.g. ``"pld"``.
        clipping: how gradients were scaled to ``max_grad_norm``; empty if it was not recorded.
    """

    epsilon: float
    delta: float
    unit: PrivacyUnit
    relation: NeighboringRelation
    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    steps: int
    sampler: str = "poisson"
    accountant: str = "pld"
    clipping: str = "flat"

    def summary(self, *, patients_known: bool = True) -> str:
        """Return the guarantee as one sentence.

        Args:
            patients_known: whether the source names its patients; otherwise each image counts as a patient.
        """
        unit = "image" if self.unit is PrivacyUnit.PATIENT and not patients_known else str(self.unit)
        return (
            f"epsilon = {self.epsilon:.3g} at delta = {self.delta:.1g} per {unit} ({self.relation}), "
            f"{self.steps} steps, sample rate {self.sample_rate:.4g}, noise multiplier "
            f"{self.noise_multiplier:.4g}, "
            f"max grad norm {self.max_grad_norm:g} ({self.clipping or 'unrecorded'} clipping), "
            f"{self.sampler} sampling, "
            f"{self.accountant} accountant"
        )
