"""Differential privacy for training: plan, sampling, clipping, noise, accounting and ledger.

A plan says what will be run and what it costs. The functions below run it; the ledger records what was run::

    >>> from meninx.privacy import calibrate
    >>> plan = calibrate(n_units=1_000, expected_batch_size=50, delta=1e-5, epsilon=8.0, steps=200)
    >>> plan.epsilon() <= 8.0
    True

The package reads and writes no file, terminal or log. Its names are imported when they are first used, so
that ``import meninx.privacy`` needs neither torch nor dp-accounting.

==================  =============================================================================
module              contents
==================  =============================================================================
plan                Plan: sampling, clipping, noise and accounted event; adaptive clipping thresholds
noise_calibration   calibrate: find epsilon, the noise multiplier or the number of steps
sampling            PoissonSampler; CyclicSampler for correlated noise
clipping            clipped_gradient_sum, prove: exact per-unit gradients in one backward pass
noise               GaussianNoise; BandedNoise: noise correlated over steps
accounting          epsilon of a composition, by privacy loss distributions
ledger              Ledger: the hash-chained record of steps that were run
composition         compose: one epsilon for several runs on the same units
claim               Claim: a guarantee to test, by its epsilon or by its mechanism
score_audit         audit_scores: bounds and a verdict on a claim from the scores of canaries
residual_audit      size of the noise and length of a clipped unit, measured at canaries
guess_audit         what correct guesses about canaries refute; needs no scores
risk                risk_curve, attack_risk: the largest success of any attack, with certified bounds
loss_distribution   the trade-off curve of composed steps, from the privacy loss on a grid
learn.own_loop      training: all of it as one context for a loop of one's own
keystream           secret pseudorandom bytes by address
==================  =============================================================================
"""

from typing import TYPE_CHECKING

from meninx.core.lazy import lazy_exports

if TYPE_CHECKING:
    from meninx.core.audit_records import ScoreAudit, ScoreCheck
    from meninx.core.budget import NeighboringRelation, PrivacySpent, PrivacyUnit
    from meninx.learn.own_loop import PrivateTraining, training
    from meninx.privacy.accounting import Epsilon, Phase, epsilon
    from meninx.privacy.claim import Claim
    from meninx.privacy.clipping.clipped_sum import ClippedSum
    from meninx.privacy.clipping.engine import clipped_gradient_sum
    from meninx.privacy.clipping.layer_rules import refuse_unsafe_modules, replace_batch_norm
    from meninx.privacy.clipping.planner import Planner
    from meninx.privacy.clipping.proof import prove
    from meninx.privacy.clipping.unit_rows import slice_units
    from meninx.privacy.composition import compose
    from meninx.privacy.ledger import Ledger, LedgerEntry
    from meninx.privacy.loss_distribution import ThreatModel
    from meninx.privacy.noise import BandedNoise, GaussianNoise
    from meninx.privacy.noise_calibration import calibrate
    from meninx.privacy.plan import ClippingThreshold, Plan
    from meninx.privacy.risk import AttackRisk, Bracket, RiskCurve, attack_risk, risk_curve
    from meninx.privacy.sampling import CyclicSampler, PoissonSampler
    from meninx.privacy.score_audit import audit_scores

__all__ = [
    "AttackRisk",
    "BandedNoise",
    "Bracket",
    "Claim",
    "ClippedSum",
    "ClippingThreshold",
    "CyclicSampler",
    "Epsilon",
    "GaussianNoise",
    "Ledger",
    "LedgerEntry",
    "NeighboringRelation",
    "Phase",
    "Plan",
    "Planner",
    "PoissonSampler",
    "PrivacySpent",
    "PrivacyUnit",
    "PrivateTraining",
    "RiskCurve",
    "ScoreAudit",
    "ScoreCheck",
    "ThreatModel",
    "attack_risk",
    "audit_scores",
    "calibrate",
    "clipped_gradient_sum",
    "compose",
    "epsilon",
    "prove",
    "refuse_unsafe_modules",
    "replace_batch_norm",
    "risk_curve",
    "slice_units",
    "training",
]

_MODULES = {
    "meninx.learn.own_loop": (
        "PrivateTraining",
        "training",
    ),  # it keeps a folder, which this package does not
    "meninx.core.audit_records": ("ScoreAudit", "ScoreCheck"),
    "meninx.core.budget": ("NeighboringRelation", "PrivacySpent", "PrivacyUnit"),
    "meninx.privacy.accounting": ("Epsilon", "Phase", "epsilon"),
    "meninx.privacy.claim": ("Claim",),
    "meninx.privacy.clipping.clipped_sum": ("ClippedSum",),
    "meninx.privacy.clipping.engine": ("clipped_gradient_sum",),
    "meninx.privacy.clipping.layer_rules": ("refuse_unsafe_modules", "replace_batch_norm"),
    "meninx.privacy.clipping.planner": ("Planner",),
    "meninx.privacy.clipping.proof": ("prove",),
    "meninx.privacy.clipping.unit_rows": ("slice_units",),
    "meninx.privacy.composition": ("compose",),
    "meninx.privacy.ledger": ("Ledger", "LedgerEntry"),
    "meninx.privacy.noise": ("BandedNoise", "GaussianNoise"),
    "meninx.privacy.noise_calibration": ("calibrate",),
    "meninx.privacy.loss_distribution": ("ThreatModel",),
    "meninx.privacy.plan": ("ClippingThreshold", "Plan"),
    "meninx.privacy.risk": ("AttackRisk", "Bracket", "RiskCurve", "attack_risk", "risk_curve"),
    "meninx.privacy.sampling": ("CyclicSampler", "PoissonSampler"),
    "meninx.privacy.score_audit": ("audit_scores",),
}
if not TYPE_CHECKING:  # a type checker would take every name for one that exists
    __getattr__, __dir__ = lazy_exports(
        __name__, {name: module for module, names in _MODULES.items() for name in names}
    )
