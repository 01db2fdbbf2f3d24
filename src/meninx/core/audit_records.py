"""What audits record: the numbers of an audit by canary scores, alone and of a training run.

Written and read by :mod:`meninx.core.artifacts`.
"""

from __future__ import annotations

from dataclasses import dataclass

from meninx.core.origin import Origin
from meninx.core.summaries import FORMAT


@dataclass(frozen=True, kw_only=True)
class ScoreCheck:
    """One comparison of what was measured with what the claim allows.

    Attributes:
        name: ``mu``, ``guesses`` or ``TPR - FPR``.
        basis: ``certified`` or ``asymptotic``.
        measured: the measured number: the estimate of mu, the share of correct guesses, the lower limit of
            TPR - FPR.
        allowed: the largest value that the claim allows; None where it is no single number.
        refuted: the claim is rejected at the check's share of the significance.
    """

    name: str
    basis: str
    measured: float
    allowed: float | None
    refuted: bool


@dataclass(frozen=True, kw_only=True)
class ScoreAudit:
    """What the scores of canaries show about a run.

    Every bound holds on its own with ``confidence``. The verdict as a whole accuses a run whose claim is true
    with probability at most 1 - ``confidence``.

    Attributes:
        included: canaries that took part.
        excluded: canaries that did not.
        confidence: e.g. 0.95.
        delta: at which epsilons are stated.
        one_run_epsilon: certified lower bound, Steinke et al. (2023).
        fdp_mu: certified lower bound on the mu of a Gaussian guarantee, Mahloujifar et al. (2024), over a
            fixed grid of guess counts.
        fdp_epsilon: its epsilon.
        fdp_split_epsilon: the same with the guess count chosen on one half and tested on the other.
        rates_epsilon: certified lower bound from true and false positive rates by Clopper and Pearson, for
            canaries whose scores are independent of each other.
        advantage: certified lower limit of TPR - FPR, for independent scores.
        auroc: area under the ROC curve.
        mu: model-based estimate: distance of two unit normals with this area.
        mu_low: lower end of its two-sided interval.
        mu_high: upper end.
        gdp_epsilon: model-based lower bound: epsilon of the one-sided lower limit of mu.
        claim_epsilon: the claim.
        claim_mu: largest mu that the claim allows; None where it allows any.
        claim_advantage: largest TPR - FPR that the claim allows.
        checks: the comparisons that the verdict rests on.
        verdict: ``refuted``, ``suspicious`` (only a model speaks against the claim) or ``consistent``.
    """

    included: int
    excluded: int
    confidence: float
    delta: float
    one_run_epsilon: float
    fdp_mu: float
    fdp_epsilon: float
    fdp_split_epsilon: float
    rates_epsilon: float
    advantage: float
    auroc: float
    mu: float
    mu_low: float
    mu_high: float
    gdp_epsilon: float
    claim_epsilon: float
    claim_mu: float | None
    claim_advantage: float
    checks: tuple[ScoreCheck, ...]
    verdict: str

    @property
    def refuted_by(self) -> tuple[str, ...]:
        """Names of the checks that reject the claim."""
        return tuple(check.name for check in self.checks if check.refuted)


@dataclass(frozen=True, kw_only=True)
class OneRunRecord:
    """The audit of a run's implementation by one more training with canaries: ``audit/one_run.json``.

    The audited twin has the settings, the data and the plan of the run. Nothing here depends on a patient's
    data: scores are made of canaries and noise.

    Attributes:
        audit: of the twin, against the run's own plan.
        control: of the same audit with half of the noise, which has to be refuted.
        steps: optimiser steps of the twin.
        seconds: of the twin's training.
        overhead: share of these seconds that canaries took.
        origin: the audited run.
        version: format of the record.
    """

    audit: ScoreAudit
    control: ScoreAudit
    steps: int
    seconds: float
    overhead: float
    origin: Origin
    version: int = FORMAT
